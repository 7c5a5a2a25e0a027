//! A store gets what it lacks from another, verified.

use dfs_core::id::LossNo;

use crate::fixture::{Chunkd, bytes, chunk, damage, until};
use crate::meta::Meta;

#[tokio::test(flavor = "multi_thread")]
async fn missed_chunks_are_fetched_and_reported() {
    let meta = Meta::start(1).await;
    let (d1, d2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut a = Chunkd::start(&meta, d1.path()).await;
    let mut b = Chunkd::start(&meta, d2.path()).await;
    let small: Vec<Vec<u8>> = (0..7).map(|i| bytes(i, 1000 * (i as usize + 1))).collect();
    a.put_batch(&small.iter().map(Vec::as_slice).collect::<Vec<_>>()).await.unwrap();
    let big: Vec<Vec<u8>> = [256 << 10, 5_000_001, 4 << 20].map(|n| bytes(n as u64, n)).to_vec();
    for data in &big {
        a.put(a.open(), data).await.unwrap()[0].1.as_ref().unwrap();
    }
    // One that is there already only needs saying.
    b.put_batch(&[&small[0]]).await.unwrap()[0].as_ref().unwrap();
    let all: Vec<&Vec<u8>> = small.iter().chain(&big).collect();
    let refs: Vec<_> = all.iter().map(|d| chunk(d)).collect();
    meta.known().missed.insert(b.store, refs.iter().copied().collect());
    until("resync", || meta.known().missed[&b.store].is_empty()).await;
    assert!(meta.known().got.len() >= refs.len() && meta.known().got.iter().all(|g| g.0 == b.store));
    assert!(b.find(&refs).await.iter().all(Option::is_some));
    for (data, of) in all.iter().zip(&refs) {
        assert_eq!(b.read(*of, 0, of.len.min(4 << 20)).await.unwrap(), data[..data.len().min(4 << 20)]);
    }
    assert_eq!(b.temps(), 0);
    a.daemon.stop().await.unwrap();
    b.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_replaced_and_a_damaged_source_is_not_believed() {
    let meta = Meta::start(1).await;
    let (d1, d2, d3) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut a = Chunkd::start(&meta, d1.path()).await;
    let mut b = Chunkd::start(&meta, d2.path()).await;
    let mut c = Chunkd::start(&meta, d3.path()).await;
    let (big, lone) = (bytes(1, 3_000_000), bytes(2, 3_000_000));
    for one in [&mut a, &mut b, &mut c] {
        one.put(one.open(), &big).await.unwrap()[0].1.as_ref().unwrap();
    }
    a.put(a.open(), &lone).await.unwrap()[0].1.as_ref().unwrap();
    damage(d1.path(), &lone);
    damage(d1.path(), &big);
    damage(d2.path(), &big);
    // b is told that its copy is bad; of its two sources one is bad as well.
    meta.known().missed.insert(b.store, [chunk(&big), chunk(&lone)].into());
    until("resync", || meta.known().missed[&b.store].len() == 1).await;
    assert_eq!(b.read(chunk(&big), 0, 3_000_000).await.unwrap(), big);
    // What has no good copy stays on the list, and its holder is told.
    let a_store = a.store;
    until("the report", || meta.known().lost.contains(&(a_store, chunk(&lone)))).await;
    // The holder says so by itself, with the number of its loss; of others one has only a reader's word.
    let told: Vec<_> = {
        let known = meta.known();
        known.lost.iter().copied().zip(known.losses.iter().copied()).collect()
    };
    for ((store, of), loss) in told {
        let own = loss.is_some_and(|l| l > LossNo(0));
        assert!(own || (store != b.store && loss.is_none()), "{store} {of:?} {loss:?}");
    }
    assert_eq!(b.find(&[chunk(&lone)]).await, [None]);
    assert_eq!(meta.known().missed[&b.store].iter().copied().collect::<Vec<_>>(), [chunk(&lone)]);
    for one in [a, b, c] {
        one.daemon.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_takes_over_the_number_of_losses_that_metad_has_heard() {
    let meta = Meta::start(1).await;
    meta.known().heard_losses = 9;
    let dir = tempfile::tempdir().unwrap();
    let mut a = Chunkd::start(&meta, dir.path()).await;
    until("the number", || a.daemon.node().stores().all(|s| s.store.losses() == LossNo(9))).await;
    let small = bytes(1, 1000);
    let ack = a.put_batch(&[&small]).await.unwrap()[0].unwrap();
    assert_eq!(ack.losses, LossNo(9));
    a.daemon.stop().await.unwrap();
}
