//! Uploads that pass through one daemon to others.

use std::time::{Duration, Instant};

use dfs_core::id::StoreId;
use dfs_proto::v1;
use tonic::Code;

use crate::fixture::{Chunkd, bytes, chunk, messages};
use crate::meta::Meta;

#[tokio::test(flavor = "multi_thread")]
async fn both_stores_answer_and_both_have_it() {
    let meta = Meta::start(1).await;
    let (d1, d2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut a = Chunkd::start(&meta, d1.path()).await;
    let mut b = Chunkd::start(&meta, d2.path()).await;
    let data = bytes(3, 9_000_001);
    let mut answers = a.put(a.forward_to(&b), &data).await.unwrap();
    answers.sort_by_key(|x| x.0 != a.store);
    let stores: Vec<StoreId> = answers.iter().map(|x| x.1.as_ref().unwrap().store).collect();
    assert_eq!(stores, [a.store, b.store]);
    for c in [&mut a, &mut b] {
        assert_eq!(c.read(chunk(&data), 4_000_000, 4 << 20).await.unwrap(), data[4_000_000..4_000_000 + (4 << 20)]);
    }
    // Under a wrong name neither takes it.
    let other = bytes(4, 9_000_001);
    let answers = a.send(messages(a.forward_to(&b), &other, chunk(&data))).await.unwrap();
    assert!(answers.len() == 2 && answers.iter().all(|x| x.1 == Err(Code::InvalidArgument)), "{answers:?}");
    assert_eq!((a.temps(), b.temps()), (0, 0));
    a.daemon.stop().await.unwrap();
    b.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_first_store_still_forwards() {
    let meta = Meta::start(1).await;
    let (d1, d2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config = crate::fixture::config(&meta.address.to_string(), &[d1.path()]);
    config.reserve = Some(1 << 60);
    let mut a = Chunkd::start_with(&meta, config).await.unwrap();
    let b = Chunkd::start(&meta, d2.path()).await;
    let data = bytes(3, 5_000_000);
    let mut answers = a.put(a.forward_to(&b), &data).await.unwrap();
    answers.sort_by_key(|x| x.0 != a.store);
    assert_eq!(answers[0], (a.store, Err(Code::ResourceExhausted)));
    assert!(answers[1].0 == b.store && answers[1].1.is_ok(), "{answers:?}");
    a.daemon.stop().await.unwrap();
    b.daemon.stop().await.unwrap();
}

fn target(address: String) -> v1::ForwardTo {
    v1::ForwardTo { store: StoreId(77).to_bytes().to_vec(), addr: address }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_and_a_stalled_target_do_not_hold_up_the_store() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    // Nobody listens on one; the other accepts (the kernel does) and never reads.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [dead.to_string(), silent.local_addr().unwrap().to_string()] {
        let data = bytes(address.len() as u64, 20 << 20);
        let open = v1::PutOpen { forward: vec![target(address.clone())], ..c.open() };
        let began = Instant::now();
        let mut answers = c.put(open, &data).await.unwrap();
        answers.sort_by_key(|x| x.0 != c.store);
        assert!(answers[0].1.is_ok(), "{address}: {answers:?}");
        assert_eq!(answers[1..], [(StoreId(77), Err(Code::Unavailable))], "{address}");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_no_file_anywhere() {
    let meta = Meta::start(1).await;
    let (d1, d2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut a = Chunkd::start(&meta, d1.path()).await;
    let b = Chunkd::start(&meta, d2.path()).await;
    let data = bytes(1, 2 << 20);
    let (tx, rx) = tokio::sync::mpsc::channel(8);
    let mut parts = messages(a.forward_to(&b), &data, chunk(&data));
    parts.pop();
    for message in parts {
        tx.send(v1::PutRequest { message: Some(message) }).await.unwrap();
    }
    let answers = a.client.put(tokio_stream::wrappers::ReceiverStream::new(rx)).await.unwrap();
    crate::fixture::until("the files", || a.temps() == 1 && b.temps() == 1).await;
    drop((answers, tx));
    crate::fixture::until("their removal", || a.temps() == 0 && b.temps() == 0).await;
    a.daemon.stop().await.unwrap();
    b.daemon.stop().await.unwrap();
}
