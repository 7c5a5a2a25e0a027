//! One daemon: put, find, list, read, restart.

use dfs_core::id::StartCounter;
use dfs_proto::v1::{PutRequest, put_response};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::fixture::{Chunkd, bytes, chunk, config, damage, messages, until};
use crate::meta::Meta;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_found_listed_and_read() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let sizes = [1, 5_000, 16_384, 16_385, 200_000];
    let small: Vec<Vec<u8>> = (0..).zip(sizes).map(|(seed, n)| bytes(seed, n)).collect();
    let slices: Vec<&[u8]> = small.iter().map(Vec::as_slice).collect();
    let acks = c.put_batch(&slices).await.unwrap();
    assert!(acks.iter().all(|a| a.as_ref().is_ok_and(|a| a.store == c.store && a.start == StartCounter(1))));
    let big = bytes(9, (3 << 20) + 5);
    let acks = c.put(c.open(), &big).await.unwrap();
    assert!(matches!(&acks[..], [(store, Ok(ack))] if *store == c.store && ack.store == c.store), "{acks:?}");

    let mut all: Vec<_> = small.iter().map(|d| chunk(d)).collect();
    assert_eq!(c.read_batch(&all).await.unwrap(), small.iter().cloned().map(Ok).collect::<Vec<_>>());
    all.push(chunk(&big));
    let absent = chunk(b"never put");
    let found = c.find(&[&all[..], &[absent]].concat()).await;
    assert!(found[..6].iter().all(Option::is_some) && found[6].is_none(), "{found:?}");

    let mut want: Vec<_> = all.iter().map(|c| (c.id, c.len)).collect();
    want.sort();
    assert_eq!(c.list(None, 10_000).await, (want.clone(), true));
    assert_eq!(c.list(None, 4).await, (want[..4].to_vec(), false));
    assert_eq!(c.list(Some(want[3].0), 4).await, (want[4..].to_vec(), true));

    for (data, of) in small.iter().chain([&big]).zip(&all) {
        let len = of.len;
        for (offset, n) in [(0, len.min(4 << 20)), (len - 1, 1), (len / 3, (len / 2).max(1)), (0, 1)] {
            let got = c.read(*of, offset, n).await.unwrap();
            assert_eq!(got, data[offset as usize..(offset + n) as usize], "{offset}+{n} of {len}");
        }
    }
    assert_eq!(c.read(absent, 0, 1).await.unwrap_err().code(), Code::NotFound);
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_under_another_name_is_refused_and_leaves_nothing() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let (data, other) = (bytes(1, 700_000), bytes(2, 700_000));
    let answers = c.send(messages(c.open(), &data, chunk(&other))).await.unwrap();
    assert_eq!(answers, [(c.store, Err(Code::InvalidArgument))]);
    let named = dfs_proto::v1::NewChunk { id: chunk(&other).id.0.to_vec(), data: data[..1000].to_vec().into() };
    assert_eq!(c.put_chunks(vec![named]).await.unwrap(), [Err(Code::InvalidArgument)]);
    assert_eq!(c.find(&[chunk(&data), chunk(&other)]).await, [None, None]);
    assert_eq!((c.temps(), c.list(None, 10).await.0.len()), (0, 0));
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything_and_counts() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let (small, big) = (bytes(1, 4096), bytes(2, 1_500_000));
    c.put_batch(&[&small]).await.unwrap()[0].as_ref().unwrap();
    c.put(c.open(), &big).await.unwrap()[0].1.as_ref().unwrap();
    let store = c.store;
    c.daemon.stop().await.unwrap();

    let mut c = Chunkd::start(&meta, dir.path()).await;
    assert_eq!(c.store, store);
    assert_eq!(c.read_batch(&[chunk(&small)]).await.unwrap(), [Ok(small.clone())]);
    assert_eq!(c.read(chunk(&big), 0, 1_500_000).await.unwrap(), big);
    let ack = c.find(&[chunk(&small)]).await[0].unwrap();
    assert_eq!(ack.start, StartCounter(2));
    assert_eq!(meta.known().nodes.values().next().unwrap().stores[0].start, 2);
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_says_so() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut config = config(&meta.address.to_string(), &[dir.path()]);
    config.reserve = Some(1 << 60);
    let mut c = Chunkd::start_with(&meta, config).await.unwrap();
    // Also to a client that has far more to send.
    for len in [300_000, 40 << 20] {
        let answers = c.put(c.open(), &bytes(1, len)).await.unwrap();
        assert_eq!(answers, [(c.store, Err(Code::ResourceExhausted))]);
    }
    assert_eq!(c.put_batch(&[&bytes(1, 300)]).await.unwrap(), [Err(Code::ResourceExhausted)]);
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_small_chunk_is_never_returned_and_reported() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let (bad, good) = (bytes(1, 20_000), bytes(2, 20_000));
    c.put_batch(&[&bad, &good]).await.unwrap()[0].as_ref().unwrap();
    damage(dir.path(), &bad);
    assert_eq!(c.read(chunk(&bad), 0, 20_000).await.unwrap_err().code(), Code::DataLoss);
    let store = c.store;
    until("the report", || meta.known().lost == [(store, chunk(&bad))]).await;
    // Set aside: from now on it is simply not there, and its neighbour is.
    let read = c.read_batch(&[chunk(&bad), chunk(&good)]).await.unwrap();
    assert_eq!(read, [Err(Code::NotFound), Ok(good)]);
    // It can come back.
    c.put_batch(&[&bad]).await.unwrap()[0].as_ref().unwrap();
    assert_eq!(c.read_batch(&[chunk(&bad)]).await.unwrap(), [Ok(bad)]);
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_no_file() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let data = bytes(1, 3 << 20);
    let (tx, rx) = tokio::sync::mpsc::channel(8);
    let mut parts = messages(c.open(), &data, chunk(&data));
    parts.pop();
    for message in parts {
        tx.send(dfs_proto::v1::PutRequest { message: Some(message) }).await.unwrap();
    }
    let answers = c.client.put(tokio_stream::wrappers::ReceiverStream::new(rx)).await.unwrap();
    until("the file", || c.temps() == 1).await;
    drop((answers, tx));
    until("its removal", || c.temps() == 0).await;
    assert_eq!(c.find(&[chunk(&data)]).await, [None]);
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_upload_is_finished_before_the_end() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let data = bytes(1, 2 << 20);
    let mut messages: Vec<_> =
        messages(c.open(), &data, chunk(&data)).into_iter().map(|m| PutRequest { message: Some(m) }).collect();
    let (tx, rx) = tokio::sync::mpsc::channel(8);
    let rest = messages.split_off(2);
    for message in messages {
        tx.send(message).await.unwrap();
    }
    let requests = tokio_stream::wrappers::ReceiverStream::new(rx);
    let mut answers = c.client.put(requests).await.unwrap().into_inner();
    until("the file", || c.temps() == 1).await;
    let stop = tokio::spawn(c.daemon.stop());
    for message in rest {
        tx.send(message).await.unwrap();
    }
    drop(tx);
    let mut last = None;
    while let Some(answer) = answers.message().await.unwrap() {
        last = answer.message;
    }
    assert!(matches!(last, Some(put_response::Message::Ack(_))), "{last:?}");
    stop.await.unwrap().unwrap();

    let mut c = Chunkd::start(&meta, dir.path()).await;
    assert_eq!(c.read(chunk(&data), 0, 2 << 20).await.unwrap(), data);
    c.daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_does_not_end_is_cut_off_at_the_end() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let mut c = Chunkd::start(&meta, dir.path()).await;
    let (tx, rx) = tokio::sync::mpsc::channel(8);
    for message in messages(c.open(), &bytes(1, 1 << 20), chunk(b"")).into_iter().take(2) {
        tx.send(PutRequest { message: Some(message) }).await.unwrap();
    }
    let requests = tokio_stream::wrappers::ReceiverStream::new(rx);
    let mut answers = c.client.put(requests).await.unwrap().into_inner();
    until("the file", || c.temps() == 1).await;
    let dir = c.dir.join("tmp");
    let began = std::time::Instant::now();
    c.daemon.stop().await.unwrap();
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
    let end = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let c = Chunkd::start(&meta, dir.path()).await;
    let channel = dfs_proto::client::chunk_channel(c.daemon.address()).unwrap();
    let request = HealthCheckRequest { service: "dfs.v1.Chunks".to_owned() };
    let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap().unwrap().message_response);
    assert!(answer.contains("dfs.v1.Chunks") && answer.contains("grpc.health.v1.Health"), "{answer}");
    drop(answers);
    c.daemon.stop().await.unwrap();
}
