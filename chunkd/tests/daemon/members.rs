//! Joining, heartbeats, orders, and who is refused.

use chunkd::server::{Daemon, DaemonError};
use chunkd::{DisksError, Outcast};
use dfs_core::id::{ClusterId, LogIndex, OrderNo, StartId};
use tonic::Code;

use crate::fixture::{Chunkd, bytes, chunk, config, until};
use crate::meta::Meta;

fn number(incarnation: u32, index: u64) -> OrderNo {
    OrderNo { incarnation, index: LogIndex(index) }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_delete_and_are_told_as_done() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let (small, big, kept) = (bytes(1, 5000), bytes(2, 500_000), bytes(3, 5000));
    c.put_batch(&[&small, &kept]).await.unwrap();
    c.put(c.open(), &big).await.unwrap();
    let orders = vec![(number(0, 40), chunk(&small)), (number(0, 41), chunk(&big))];
    {
        let mut known = meta.known();
        known.orders.insert(c.store, orders);
        known.complete = number(0, 50);
    }
    let store = c.store;
    until("the orders", || meta.known().carried[&store] == number(0, 50)).await;
    let found = c.find(&[chunk(&small), chunk(&big), chunk(&kept)]).await;
    assert!(found[0].is_none() && found[1].is_none(), "{found:?}");
    assert_eq!(found[2].unwrap().orders, number(0, 50));
    // Put again after the order: the answer says that it is newer.
    assert_eq!(c.put_batch(&[&small]).await.unwrap()[0].as_ref().unwrap().orders, number(0, 50));
    c.daemon.stop().await.unwrap();

    // What it obeyed is shown at the next registration.
    let c = Chunkd::start(&meta, dir.path()).await;
    {
        let known = meta.known();
        let request = known.nodes.values().next().unwrap();
        assert_eq!(request.start_id, known.start.to_bytes());
        assert!(request.index > 100);
        assert_eq!(OrderNo::from(request.stores[0].orders.unwrap()), number(0, 50));
    }
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metad_that_lost_history_is_not_obeyed_until_trusted() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    meta.known().untrusted = true;
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let data = bytes(1, 5000);
    c.put_batch(&[&data]).await.unwrap()[0].as_ref().unwrap();
    {
        let mut known = meta.known();
        known.orders.insert(c.store, vec![(number(0, 40), chunk(&data))]);
        known.complete = number(0, 50);
    }
    let beats = meta.known().beats;
    until("some heartbeats", || meta.known().beats >= beats + 3).await;
    assert!(c.find(&[chunk(&data)]).await[0].is_some());
    {
        let mut known = meta.known();
        known.orders.insert(c.store, vec![(number(1, 60), chunk(&data))]);
        known.complete = number(1, 60);
    }
    let store = c.store;
    until("trust", || meta.known().carried[&store] == number(1, 60)).await;
    assert!(c.find(&[chunk(&data)]).await[0].is_none());
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_metad_is_registered_with_again() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let c = Chunkd::start(&meta, dir.path()).await;
    meta.known().nodes.clear();
    until("a second registration", || meta.known().registrations == 2).await;
    meta.known().start = StartId(5);
    until("a third registration", || meta.known().registrations == 3).await;
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metad_away_at_the_start_does_not_keep_chunks_from_being_served() {
    let dir = tempfile::tempdir().unwrap();
    let (meta, data) = (Meta::start(1).await, bytes(1, 5000));
    let mut c = Chunkd::start(&meta, dir.path()).await;
    c.put_batch(&[&data]).await.unwrap()[0].as_ref().unwrap();
    c.daemon.stop().await.unwrap();
    let address = meta.address;
    drop(meta);

    let daemon = Daemon::start(config(&address.to_string(), &[dir.path()])).await.unwrap();
    let mut client = dfs_proto::client::chunks_client(dfs_proto::client::chunk_channel(daemon.address()).unwrap());
    let store = daemon.node().stores().next().unwrap().id.to_bytes().to_vec();
    let read = dfs_proto::v1::ReadBatchRequest { store, chunks: vec![chunk(&data).into()], background: false };
    assert_eq!(client.read_batch(read).await.unwrap().into_inner().results.len(), 1);
    assert_eq!(daemon.node().map().epoch.0, 0);
    let _meta = Meta::start_at(address, 1).await;
    until("registration", || daemon.node().map().epoch.0 > 0).await;
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_takes_no_chunks_before_it_has_registered() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon = Daemon::start(config(&nobody.to_string(), &[dir.path()])).await.unwrap();
    let mut client = dfs_proto::client::chunks_client(dfs_proto::client::chunk_channel(daemon.address()).unwrap());
    let request = dfs_proto::v1::PutBatchRequest {
        cluster: 1_u128.to_be_bytes().to_vec(),
        store: daemon.node().stores().next().unwrap().id.to_bytes().to_vec(),
        slot: 1,
        chunks: Vec::new(),
    };
    assert_eq!(client.put_batch(request).await.unwrap_err().code(), Code::Unavailable);
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_refused_by_either_side() {
    let (one, two) = (Meta::start(1).await, Meta::start(2).await);
    let dir = tempfile::tempdir().unwrap();
    Chunkd::start(&one, dir.path()).await.daemon.stop().await.unwrap();

    let foreign = config(&two.address.to_string(), &[dir.path()]);
    let mut daemon = Daemon::start(foreign.clone()).await.unwrap();
    let ended = daemon.ended().await;
    assert!(matches!(ended, DaemonError::Outcast(Outcast::Refused { .. })), "{ended}");
    assert!(ended.to_string().contains("--meta"), "{ended}");
    daemon.stop().await.unwrap();

    two.known().careless = true;
    let mut daemon = Daemon::start(foreign).await.unwrap();
    let ended = daemon.ended().await;
    let own = ClusterId(1);
    assert!(matches!(ended, DaemonError::Outcast(Outcast::OtherCluster { own: o, .. }) if o == own), "{ended}");
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_must_be_free_ours_and_of_one_node() {
    let meta = Meta::start(1).await;
    let address = meta.address.to_string();
    let (d1, d2, d3, junk) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let a = Chunkd::start(&meta, d1.path()).await;
    let error = Daemon::start(config(&address, &[d1.path()])).await.unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    let node = a.daemon.node().id;
    let taken = chunkd::config::Config { listen: a.daemon.address().to_owned(), ..config(&address, &[d3.path()]) };
    let error = Daemon::start(taken).await.unwrap_err();
    assert!(matches!(error, DaemonError::Listen { .. }), "{error}");
    assert!(std::fs::read_dir(d3.path()).unwrap().next().is_none(), "nothing was formatted");
    a.daemon.stop().await.unwrap();
    Chunkd::start(&meta, d2.path()).await.daemon.stop().await.unwrap();

    let error = Daemon::start(config(&address, &[d1.path(), d2.path()])).await.unwrap_err();
    assert!(matches!(error, DaemonError::Disks(DisksError::OtherNode { .. })), "{error}");
    std::fs::write(junk.path().join("letter.txt"), "dear").unwrap();
    let error = Daemon::start(config(&address, &[junk.path()])).await.unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");

    // A new directory joins the node of the others.
    let both = Chunkd::start_with(&meta, config(&address, &[d1.path(), d3.path()])).await.unwrap();
    assert_eq!((both.daemon.node().id, both.daemon.node().stores().count()), (node, 2));
    both.daemon.stop().await.unwrap();
}
