//! The client against stores that fail, stall and lie.

use std::time::Duration;

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::error::Refusal;
use dfs_core::id::{SlotId, StoreId};
use dfs_core::limits;
use dfs_core::op::Put;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::fake::{Cluster, Mode};
use super::{ATTEMPT, SYNC};
use crate::error::{FsError, FsResult};

fn bytes(seed: u8, len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 % 251) as u8 ^ seed).collect::<Vec<u8>>().into()
}

fn small(count: u8) -> Vec<(ChunkId, Bytes)> {
    (0..count).map(|n| bytes(n, 1000 + usize::from(n))).map(|data| (ChunkId::of(&data), data)).collect()
}

fn stores(put: &Put) -> Vec<u128> {
    let mut stores: Vec<u128> = put.acks.iter().map(|a| a.store.0).collect();
    stores.sort_unstable();
    stores
}

async fn upload(cluster: &Cluster, data: &Bytes) -> FsResult<Put> {
    let mut upload = cluster.client.upload();
    let mut at = 0;
    while at < data.len() {
        let end = (at + limits::PART_BYTES).min(data.len());
        upload.part(data.slice(at..end)).await?;
        at = end;
    }
    assert_eq!(upload.len(), data.len() as u64);
    upload.finish().await
}

/// The put names the bytes, and every store that it names has them.
fn check(cluster: &Cluster, put: &Put, data: &Bytes) {
    assert_eq!((put.chunk.id, put.chunk.len as usize), (ChunkId::of(data), data.len()));
    for ack in &put.acks {
        assert_eq!(cluster.store(ack.store).state().chunks.get(&(put.chunk.slot.0, put.chunk.id)), Some(data));
    }
}

#[tokio::test]
async fn small_chunks_take_one_request_to_each_member() {
    let cluster = Cluster::three().await;
    let chunks = small(50);
    let puts = cluster.client.put_small(None, chunks.clone()).await.unwrap();
    for (put, (_, data)) in puts.iter().zip(&chunks) {
        check(&cluster, put, data);
        assert_eq!(stores(put), [1, 2, 3]);
    }
    assert_eq!(puts.len(), 50);
    assert!(cluster.stores.iter().all(|s| s.state().put_batches == 1));
}

#[tokio::test]
async fn batches_over_a_limit_are_refused() {
    let cluster = Cluster::three().await;
    let over = Err(FsError::Refused(Refusal::OverLimit));
    let one = |data: Bytes| vec![(ChunkId::of(&data), data)];
    assert_eq!(cluster.client.put_small(None, one(bytes(0, 256 << 10))).await, over);
    assert_eq!(cluster.client.put_small(None, one(Bytes::new())).await, over);
    let many: Vec<_> = (0..1025).flat_map(|_| small(1)).collect();
    assert_eq!(cluster.client.put_small(None, many).await, over);
    assert_eq!(cluster.client.put_small(None, Vec::new()).await, Ok(Vec::new()));
    assert!(cluster.stores.iter().all(|s| s.state().put_batches == 0));
}

#[tokio::test]
async fn a_member_that_stalls_is_left_behind_and_rests() {
    let cluster = Cluster::three().await;
    cluster.stores[1].set(Mode::Stall);
    let begun = Instant::now();
    let puts = cluster.client.put_small(Some(SlotId(0)), small(3)).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= limits::STALL && took < Duration::from_secs(2), "{took:?}");
    assert!(puts.iter().all(|p| stores(p) == [1, 3]));
    // It rests: the next batch waits for nobody.
    let begun = Instant::now();
    assert!(cluster.client.put_small(None, small(3)).await.unwrap().iter().all(|p| stores(p) == [1, 3]));
    assert!(begun.elapsed() < limits::STALL);
    assert_eq!(cluster.stores[1].state().put_batches, 1);
}

#[tokio::test]
async fn a_member_that_fails_does_not_hold_up_small_chunks() {
    let cluster = Cluster::three().await;
    cluster.stores[0].set(Mode::Fail(Code::Internal));
    let begun = Instant::now();
    let puts = cluster.client.put_small(None, small(3)).await.unwrap();
    assert!(puts.iter().all(|p| stores(p) == [2, 3]));
    assert!(begun.elapsed() < limits::STALL);
}

#[tokio::test]
async fn with_too_few_copies_small_chunks_go_to_another_slot() {
    let cluster = Cluster::start(5, &[&[0, 1, 2], &[2, 3, 4]]).await;
    cluster.stores[0].set(Mode::Fail(Code::Internal));
    cluster.stores[1].set(Mode::Fail(Code::Internal));
    let puts = cluster.client.put_small(Some(SlotId(0)), small(3)).await.unwrap();
    assert!(puts.iter().all(|p| p.chunk.slot == SlotId(1) && stores(p) == [3, 4, 5]));
}

#[tokio::test]
async fn with_too_few_answers_small_chunks_soon_go_to_another_slot() {
    let cluster = Cluster::start(5, &[&[0, 1, 2], &[2, 3, 4]]).await;
    cluster.stores[0].set(Mode::Stall);
    cluster.stores[1].set(Mode::Stall);
    let begun = Instant::now();
    let puts = cluster.client.put_small(Some(SlotId(0)), small(3)).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= SYNC && took < ATTEMPT, "{took:?}");
    assert!(puts.iter().all(|p| p.chunk.slot == SlotId(1) && stores(p) == [3, 4, 5]));
}

#[tokio::test]
async fn too_few_stores_are_an_error_at_the_deadline_and_a_return_is_noticed() {
    let cluster = Cluster::three().await;
    cluster.stores[0].set(Mode::Fail(Code::Unavailable));
    cluster.stores[1].set(Mode::Fail(Code::Unavailable));
    let begun = Instant::now();
    assert!(matches!(cluster.client.put_small(None, small(1)).await, Err(FsError::Io(_))));
    assert!(begun.elapsed() > Duration::from_secs(4) && begun.elapsed() < Duration::from_secs(8));
    let client = cluster.client.clone();
    let waiting = tokio::spawn(async move { client.put_small(None, small(1)).await });
    while cluster.stores[0].state().put_batches < 4 {
        tokio::task::yield_now().await;
    }
    cluster.stores[0].set(Mode::Good);
    assert_eq!(stores(&waiting.await.unwrap().unwrap()[0]), [1, 3]);
}

#[tokio::test]
async fn full_stores_are_no_space_at_once() {
    let cluster = Cluster::three().await;
    cluster.stores.iter().for_each(|s| s.set(Mode::Fail(Code::ResourceExhausted)));
    let begun = Instant::now();
    assert_eq!(cluster.client.put_small(None, small(1)).await, Err(FsError::NoSpace));
    assert_eq!(upload(&cluster, &bytes(1, 1 << 20)).await, Err(FsError::NoSpace));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn an_upload_goes_through_the_first_member_to_all() {
    let cluster = Cluster::three().await;
    let data = bytes(1, (9 << 20) + 12_345);
    let put = upload(&cluster, &data).await.unwrap();
    check(&cluster, &put, &data);
    assert_eq!(stores(&put), [1, 2, 3]);
    let puts: usize = cluster.stores.iter().map(|s| s.state().puts).sum();
    let forwards: usize = cluster.stores.iter().map(|s| s.state().forwards).sum();
    assert_eq!((puts, forwards), (1, 2));
}

/// The first member changes from try to try, so each store is the bad one in turn.
async fn upload_with_one(mode: Mode, within: Duration) {
    for bad in 0..3 {
        let cluster = Cluster::three().await;
        cluster.stores[bad].set(mode);
        let data = bytes(2, 5 << 20);
        let begun = Instant::now();
        let put = upload(&cluster, &data).await.unwrap();
        check(&cluster, &put, &data);
        assert!(put.acks.len() >= 2);
        assert!(begun.elapsed() < within, "{mode:?} of store {bad} took {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_upload_survives_a_member_that_fails_at_once() {
    upload_with_one(Mode::Fail(Code::Internal), Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_upload_survives_a_member_that_fails_in_the_middle() {
    upload_with_one(Mode::FailAfter(2 << 20), Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_upload_survives_a_member_that_stalls_at_once() {
    upload_with_one(Mode::Stall, Duration::from_secs(4)).await;
}

#[tokio::test]
async fn an_upload_survives_a_member_that_stalls_in_the_middle() {
    upload_with_one(Mode::StallAfter(2 << 20), Duration::from_secs(4)).await;
}

#[tokio::test]
async fn an_upload_survives_a_member_that_passes_nothing_on() {
    upload_with_one(Mode::NoForward, Duration::from_secs(4)).await;
}

#[tokio::test]
async fn a_long_upload_goes_on_past_a_member_that_stalls() {
    for bad in 0..3 {
        let cluster = Cluster::three().await;
        cluster.stores[bad].set(Mode::StallAfter(2 << 20));
        let part = bytes(2, limits::PART_BYTES);
        let mut upload = cluster.client.upload();
        let begun = Instant::now();
        for _ in 0..48 {
            upload.part(part.clone()).await.unwrap();
        }
        let put = upload.finish().await.unwrap();
        assert!(put.acks.len() >= 2 && put.chunk.len == 48 << 20);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_upload_moves_to_another_slot_with_all_its_bytes() {
    let cluster = Cluster::start(5, &[&[0, 1, 2], &[2, 3, 4]]).await;
    cluster.stores[0].set(Mode::FailAfter(3 << 20));
    cluster.stores[1].set(Mode::FailAfter(3 << 20));
    for n in 0..4 {
        let data = bytes(n, 6 << 20);
        let put = upload(&cluster, &data).await.unwrap();
        check(&cluster, &put, &data);
        assert_eq!(put.chunk.slot, SlotId(1));
        assert_eq!(stores(&put), [3, 4, 5]);
    }
}

#[tokio::test]
async fn uploads_keep_to_the_rules_of_parts() {
    let cluster = Cluster::three().await;
    let over = Err(FsError::Refused(Refusal::OverLimit));
    let mut upload = cluster.client.upload();
    assert!(upload.is_empty());
    assert_eq!(upload.part(Bytes::new()).await, over);
    assert_eq!(upload.part(bytes(0, limits::PART_BYTES + 1)).await, over);
    assert_eq!(upload.part(bytes(0, 16 << 10)).await, Ok(()));
    assert_eq!(upload.part(bytes(0, 5)).await, Ok(()));
    assert_eq!(upload.part(bytes(0, 16 << 10)).await, over, "after a part that is not whole there is none");
    assert_eq!(upload.finish().await.unwrap().chunk.len, (16 << 10) + 5);
    assert!(matches!(cluster.client.upload().finish().await, Err(FsError::Refused(Refusal::OverLimit))));
}

#[tokio::test]
async fn a_slow_store_holds_up_the_writer_and_a_dropped_upload_ends() {
    let cluster = Cluster::three().await;
    cluster.stores.iter().for_each(|s| s.set(Mode::StallAfter(0)));
    let mut upload = cluster.client.upload();
    let part = bytes(1, limits::PART_BYTES);
    let all = async {
        for _ in 0..64 {
            upload.part(part.clone()).await?;
        }
        Ok::<_, FsError>(())
    };
    assert!(matches!(all.await, Err(FsError::Io(_))), "64 MiB cannot have gone");
    assert!(upload.len() < 60 << 20);
    let failed = upload.part(part).await;
    assert!(matches!(failed, Err(FsError::Io(_))), "it stays failed");
    assert!(upload.finish().await.is_err());
}

async fn stored(cluster: &Cluster, data: &Bytes) -> ChunkRef {
    let put = if (data.len() as u64) < limits::SMALL_CHUNK_BYTES {
        cluster.client.put_small(None, vec![(ChunkId::of(data), data.clone())]).await.unwrap()[0].clone()
    } else {
        upload(cluster, data).await.unwrap()
    };
    assert_eq!(put.acks.len(), 3);
    put.chunk
}

#[tokio::test]
async fn reads_any_range_verified() {
    let cluster = Cluster::three().await;
    for len in [1usize, 100, 16 << 10, (16 << 10) + 1, 300_000, 9 << 20] {
        let data = bytes(3, len);
        let chunk = stored(&cluster, &data).await;
        for (offset, n) in [(0, len), (0, 1), (len - 1, 1), (len / 3, len / 2), (len / 2, 0)] {
            let got = cluster.client.read(chunk, offset as u32, n as u32).await.unwrap();
            assert!(got == data.slice(offset..offset + n), "{offset}+{n} of {len}");
        }
        let beyond = cluster.client.read(chunk, 1, len as u32).await;
        assert_eq!(beyond, Err(FsError::Refused(Refusal::Invalid)));
    }
}

#[tokio::test]
async fn a_flipped_bit_is_never_returned_and_is_reported() {
    let cluster = Cluster::three().await;
    for len in [5_000, 700_000] {
        let data = bytes(4, len);
        let chunk = stored(&cluster, &data).await;
        cluster.stores[0].set(Mode::Flip);
        cluster.stores[1].set(Mode::Flip);
        for _ in 0..8 {
            assert_eq!(cluster.client.read(chunk, 0, len as u32).await.as_ref(), Ok(&data));
            assert_eq!(cluster.client.read_small(&[chunk]).await, [Ok(data.clone())]);
        }
        let blames = |store: u128| {
            let wire = StoreId(store).to_bytes();
            move |s: &crate::meta::fake::State| {
                s.reports.iter().any(|r| r.store == wire && r.start == 3 && r.lost == [chunk.into()])
            }
        };
        cluster.meta.until(blames(1)).await;
        cluster.meta.until(blames(2)).await;
        cluster.stores[2].set(Mode::Flip);
        let begun = Instant::now();
        assert!(matches!(cluster.client.read(chunk, 0, len as u32).await, Err(FsError::Io(_))));
        assert!(matches!(cluster.client.read_small(&[chunk]).await[0], Err(FsError::Io(_))));
        assert!(begun.elapsed() < Duration::from_secs(2), "there is nothing to wait for");
        cluster.stores.iter().for_each(|s| s.set(Mode::Good));
    }
}

#[tokio::test]
async fn reads_go_on_when_members_stall_fail_or_lack_the_chunk() {
    let cluster = Cluster::three().await;
    let data = bytes(5, 400_000);
    let chunk = stored(&cluster, &data).await;
    let modes = [Mode::Stall, Mode::Fail(Code::Unavailable), Mode::Fail(Code::DataLoss)];
    for mode in modes {
        for good in 0..3 {
            cluster.stores.iter().for_each(|s| s.set(mode));
            cluster.stores[good].set(Mode::Good);
            let got = timeout(Duration::from_secs(3), cluster.client.read(chunk, 7, 70_000)).await.unwrap();
            assert!(got == Ok(data.slice(7..70_007)), "{mode:?}");
        }
    }
    cluster.stores.iter().for_each(|s| s.set(Mode::Good));
    let key = (chunk.slot.0, chunk.id);
    cluster.stores[0].state().chunks.remove(&key);
    cluster.stores[1].state().chunks.remove(&key);
    for _ in 0..6 {
        assert_eq!(cluster.client.read(chunk, 0, 10).await, Ok(data.slice(0..10)));
    }
    cluster.stores[2].state().chunks.remove(&key);
    assert!(matches!(cluster.client.read(chunk, 0, 10).await, Err(FsError::Io(_))));
}

#[tokio::test]
async fn a_read_waits_for_stores_that_come_back() {
    let cluster = Cluster::three().await;
    let data = bytes(6, 3_000);
    let chunk = stored(&cluster, &data).await;
    cluster.stores.iter().for_each(|s| s.set(Mode::Fail(Code::Unavailable)));
    let client = cluster.client.clone();
    let reading = tokio::spawn(async move { client.read(chunk, 0, 3_000).await });
    while cluster.stores[2].state().reads < 3 {
        tokio::task::yield_now().await;
    }
    cluster.stores[2].set(Mode::Good);
    assert_eq!(reading.await.unwrap(), Ok(data));
}

#[tokio::test]
async fn a_slot_that_the_map_lacks_is_an_error() {
    let cluster = Cluster::three().await;
    let chunk = ChunkRef { id: ChunkId([1; 32]), len: 10, slot: SlotId(99) };
    assert!(matches!(cluster.client.read(chunk, 0, 10).await, Err(FsError::Io(_))));
}

#[tokio::test]
async fn small_chunks_are_read_in_one_request() {
    let cluster = Cluster::three().await;
    let chunks = small(40);
    let puts = cluster.client.put_small(None, chunks.clone()).await.unwrap();
    let refs: Vec<ChunkRef> = puts.iter().map(|p| p.chunk).collect();
    let got = cluster.client.read_small(&refs).await;
    assert!(got.iter().zip(&chunks).all(|(got, (_, data))| got.as_ref() == Ok(data)));
    let asked = |s: &super::fake::FakeStore| {
        let state = s.state();
        state.read_batches + state.reads
    };
    let requests: usize = cluster.stores.iter().map(asked).sum();
    assert_eq!(requests, 1);
    // What one store lacks comes from the others.
    cluster.stores.iter().take(2).for_each(|s| s.state().chunks.retain(|(_, id), _| *id != refs[3].id));
    for _ in 0..4 {
        assert_eq!(cluster.client.read_small(&refs).await[3], Ok(chunks[3].1.clone()));
    }
}

#[tokio::test]
async fn who_does_not_say_whether_it_has_a_chunk_is_not_waited_for_long() {
    let cluster = Cluster::start(5, &[&[0, 1, 2], &[2, 3, 4]]).await;
    let data = bytes(7, 2_000);
    let id = ChunkId::of(&data);
    let put = cluster.client.put_small(Some(SlotId(0)), vec![(id, data.clone())]).await.unwrap().remove(0);
    cluster.stores[0].set(Mode::Stall);
    cluster.stores[1].set(Mode::Stall);
    let begun = Instant::now();
    let asked = cluster.client.ask_again(put).await.unwrap();
    assert_eq!(stores(&asked), [3]);
    let took = begun.elapsed();
    assert!(took >= SYNC && took < ATTEMPT, "{took:?}");
    // They rest: the bytes go elsewhere at once.
    let begun = Instant::now();
    let repaired = cluster.client.repair(asked, vec![data]).await.unwrap();
    assert!(begun.elapsed() < limits::STALL);
    assert_eq!((repaired.chunk.slot, stores(&repaired)), (SlotId(1), vec![3, 4, 5]));
}

#[tokio::test]
async fn asks_again_and_repairs() {
    let cluster = Cluster::start(5, &[&[0, 1, 2], &[2, 3, 4]]).await;
    for data in [bytes(7, 2_000), bytes(8, 3 << 20)] {
        let chunk = stored(&cluster, &data).await;
        let holders = cluster.holders(chunk.slot, chunk.id);
        let none = Put { chunk, acks: Vec::new() };
        let asked = cluster.client.ask_again(none.clone()).await.unwrap();
        assert_eq!((asked.chunk, asked.acks.len()), (chunk, 3));
        let key = (chunk.slot.0, chunk.id);
        holders[..2].iter().for_each(|i| drop(cluster.stores[*i].state().chunks.remove(&key)));
        let asked = cluster.client.ask_again(none.clone()).await.unwrap();
        assert_eq!(asked.acks.len(), 1);
        let parts: Vec<Bytes> = data.chunks(limits::PART_BYTES).map(Bytes::copy_from_slice).collect();
        let repaired = cluster.client.repair(asked, parts.clone()).await.unwrap();
        check(&cluster, &repaired, &data);
        assert_eq!((repaired.chunk, repaired.acks.len()), (chunk, 3));
        let wrong = cluster.client.repair(none, vec![bytes(99, 2_000)]).await;
        assert_eq!(wrong, Err(FsError::Refused(Refusal::Invalid)));
        // A slot that is gone: it goes elsewhere.
        let gone = Put { chunk: ChunkRef { slot: SlotId(50), ..chunk }, acks: Vec::new() };
        assert!(cluster.client.ask_again(gone.clone()).await.is_err());
        let moved = cluster.client.repair(gone, parts).await.unwrap();
        check(&cluster, &moved, &data);
        assert!(moved.chunk.slot.0 < 2);
    }
}
