//! The interface for other people's programs: health, reflection, questions without a mount, and what is refused.

use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::task::{Context as Waker, Poll};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::Cluster;
use dfs_integration::daemon::Daemon;
use dfs_integration::tool::sh;
use dfs_proto::client::{chunk_channel, chunks_client, meta_channel, meta_client};
use dfs_proto::{PROTOCOL, v1};
use http_body::Frame;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Bytes, http};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), work).await.context("no answer within a minute")?
    })
}

async fn chunkd_address(meta: &str) -> Result<String> {
    let status = meta_client(meta_channel(meta)?).status(v1::StatusRequest {}).await?.into_inner();
    Ok(status.map.context("a map")?.nodes.first().context("a node")?.addr.clone())
}

#[test]
fn health_and_reflection_answer_on_both_daemons() -> Result<()> {
    let cluster = Cluster::start()?;
    run(async {
        let chunkd = chunkd_address(&cluster.meta).await?;
        for (address, service) in [(&cluster.meta, "dfs.v1.Meta"), (&chunkd, "dfs.v1.Chunks")] {
            let channel = meta_channel(address)?;
            for name in ["", service] {
                let request = HealthCheckRequest { service: name.into() };
                let status = HealthClient::new(channel.clone()).check(request).await?.into_inner().status();
                ensure!(status == ServingStatus::Serving, "{service} as {name:?}: {status:?}");
            }
            let ask = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut answers = ServerReflectionClient::new(channel)
                .server_reflection_info(tokio_stream::once(ask))
                .await?
                .into_inner();
            let Some(MessageResponse::ListServicesResponse(list)) =
                answers.message().await?.and_then(|m| m.message_response)
            else {
                anyhow::bail!("no list of services");
            };
            ensure!(list.service.iter().any(|s| s.name == service), "{service} is not listed");
        }
        Ok(())
    })
}

#[test]
fn questions_need_no_session_and_nonsense_is_refused() -> Result<()> {
    let cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    std::fs::write(mount.path.join("a"), "hello")?;
    run(async {
        let mut meta = meta_client(meta_channel(&cluster.meta)?);
        let lookup = |name: &[u8]| v1::Query {
            query: Some(v1::query::Query::Lookup(v1::Dentry { parent: 1, name: name.to_vec() })),
        };
        let answer = meta.ask(lookup(b"a")).await?.into_inner().result;
        let Some(v1::ask_response::Result::Answer(v1::Answer { answer: Some(v1::answer::Answer::Node(node)) })) =
            answer
        else {
            anyhow::bail!("unexpected answer {answer:?}");
        };
        ensure!(node.attr.context("attributes")?.kind() == v1::Kind::File);
        let absent = meta.ask(lookup(b"b")).await?.into_inner().result;
        ensure!(
            matches!(absent, Some(v1::ask_response::Result::Refusal(r)) if r.code() == v1::RefusalCode::RefusalNotFound)
        );
        for bad in [lookup(b""), lookup(b"a/b"), lookup(&[b'x'; 256]), v1::Query { query: None }] {
            let status = meta.ask(bad).await.expect_err("nonsense");
            ensure!(status.code() == Code::InvalidArgument, "{status:?}");
        }
        // Far over the limit of a message: refused while it is still being sent (so the status may be the
        // transport's), and the daemon lives.
        meta.ask(lookup(&vec![b'x'; 20 << 20])).await.expect_err("20 MiB are over the limit");
        meta.status(v1::StatusRequest {}).await?;

        let hello = |protocol, session| v1::SessionRequest {
            hello: Some(v1::Hello { protocol, session, client: "test".into(), cluster: Vec::new() }),
            ..Default::default()
        };
        for (first, code) in [
            (hello(PROTOCOL + 1, 0), Code::FailedPrecondition),
            (hello(PROTOCOL, 999_999), Code::NotFound),
            (v1::SessionRequest::default(), Code::InvalidArgument),
        ] {
            let status = meta.session(tokio_stream::once(first)).await.expect_err("refused");
            ensure!(status.code() == code, "{status:?}, not {code:?}");
        }
        Ok(())
    })?;
    mount.unmount()
}

#[test]
fn content_that_does_not_match_its_name_is_refused_by_a_store() -> Result<()> {
    let cluster = Cluster::start()?;
    run(async {
        let status = meta_client(meta_channel(&cluster.meta)?).status(v1::StatusRequest {}).await?.into_inner();
        let map = status.map.context("a map")?;
        let node = map.nodes.first().context("a node")?;
        let store = map.stores.iter().find(|s| s.node == node.id).context("a store")?;
        let mut chunks = chunks_client(chunk_channel(&node.addr)?);
        let put = |cluster: &[u8], data: &'static [u8], id: [u8; 32]| v1::PutBatchRequest {
            cluster: cluster.to_vec(),
            store: store.id.clone(),
            slot: map.slots[0].id,
            chunks: vec![v1::NewChunk { id: id.to_vec(), data: data.into() }],
        };
        let good = *blake3::hash(b"content").as_bytes();
        let answer = chunks.put_batch(put(&map.cluster, b"another content", good)).await?.into_inner();
        ensure!(
            matches!(&answer.results[0].result, Some(v1::put_result::Result::Error(e)) if e.code == Code::InvalidArgument as i32)
        );
        let status = chunks.put_batch(put(&[7; 16], b"content", good)).await.expect_err("another cluster");
        ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
        let answer = chunks.put_batch(put(&map.cluster, b"content", good)).await?.into_inner();
        ensure!(matches!(&answer.results[0].result, Some(v1::put_result::Result::Ack(_))));
        let mut request = Request::new(v1::ReadRequest { store: vec![1; 3], ..Default::default() });
        request.set_timeout(Duration::from_secs(10));
        ensure!(chunks.read(request).await.is_err());
        Ok(())
    })
}

/// Sessions that ask for all that they may and never read an answer.
const DEAF: usize = 10;

#[test]
fn who_asks_and_does_not_read_takes_little_memory_and_keeps_nobody_waiting() -> Result<()> {
    let cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    sh(&mount.path, "mkdir d; cd d; touch $(seq -f 'a-name-of-some-length-%g' 1000)")?;
    let dir = std::fs::metadata(mount.path.join("d"))?.ino();
    let metad = cluster.metad.as_ref().context("metad runs")?;
    let before = metad.resident()?;
    let (calls, peak) = run(async {
        let list = v1::ReadDir { ino: dir, after: Vec::new(), limit: 1000, plus: true };
        let call = |id| v1::Call {
            id,
            body: Some(v1::call::Body::Query(v1::Query { query: Some(v1::query::Query::ReadDir(list.clone())) })),
        };
        let mut held = Vec::new();
        for _ in 0..DEAF {
            let (requests, stream) = tokio::sync::mpsc::channel(4);
            let hello = v1::Hello { protocol: PROTOCOL, session: 0, client: "deaf".into(), cluster: Vec::new() };
            requests.send(v1::SessionRequest { hello: Some(hello), ..Default::default() }).await?;
            requests.send(v1::SessionRequest { calls: (1..=1000).map(call).collect(), ..Default::default() }).await?;
            let answers = meta_client(meta_channel(&cluster.meta)?).session(ReceiverStream::new(stream)).await?;
            held.push((requests, answers));
        }
        let (mut peak, mut calls) = (0, 0);
        for n in 0..40 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            peak = peak.max(metad.resident()?);
            // Others go on.
            let file = mount.path.join(format!("file{n}"));
            tokio::task::spawn_blocking(move || std::fs::write(&file, "x")).await??;
            calls += 1;
        }
        drop(held);
        Ok((calls, peak))
    })?;
    let more = peak.saturating_sub(before) >> 20;
    eprintln!("metad took {more} MiB more");
    ensure!(calls == 40 && more < 400, "metad took {more} MiB more for what nobody reads");
    mount.unmount()
}

/// Streams of one connection on which the half of a message is sent, and its bytes.
const HALVES: usize = 200;
const HALF: usize = 4 << 20;

/// A body that brings the first half of a message, and then nothing.
struct Half {
    sent: usize,
}

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Waker<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        const PIECE: &[u8] = &[0; 64 << 10];
        let data = match self.sent {
            0 => [&[0][..], &u32::try_from(2 * HALF).expect("32 bits").to_be_bytes()].concat().into(),
            sent if sent < HALF => Bytes::from_static(PIECE),
            _ => return Poll::Pending,
        };
        self.sent += data.len();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

/// Sends halves of messages to `path`, and gives what `daemon` takes more at most.
async fn send_halves(channel: impl Fn() -> Result<Channel>, path: &'static str, daemon: &Daemon) -> Result<u64> {
    let before = daemon.resident()?;
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let channel = channel()?;
        for _ in 0..HALVES {
            let request = http::Request::post(path)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::new(Half { sent: 0 }))?;
            let mut channel = channel.clone();
            sending.spawn(async move {
                std::future::poll_fn(|cx| GrpcService::poll_ready(&mut channel, cx)).await?;
                // Its stream lives as long as the answer.
                let answer = GrpcService::call(&mut channel, request).await?;
                tokio::time::sleep(Duration::from_secs(10)).await;
                drop(answer);
                anyhow::Ok(())
            });
        }
    }
    let mut peak = 0;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        peak = peak.max(daemon.resident()?);
    }
    ensure!(!sending.is_empty(), "nobody is there any more");
    Ok(peak.saturating_sub(before) >> 20)
}

#[test]
fn halves_of_messages_take_no_memory_without_bound() -> Result<()> {
    let cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    let metad = cluster.metad.as_ref().context("metad runs")?;
    let (meta, all) = (cluster.meta.as_str(), (2 * HALVES * HALF) >> 20);
    let more = run(send_halves(|| Ok(meta_channel(meta)?), "/dfs.v1.Meta/Session", metad))?;
    eprintln!("metad took {more} MiB more for {all} MiB");
    ensure!(more < 450, "metad took {more} MiB more for {all} MiB");
    let addr = run(chunkd_address(meta))?;
    let of_addr = |chunkd: &&Daemon| chunkd.output().contains(&addr);
    let chunkd = cluster.chunkds.iter().flatten().find(of_addr).context("which chunkd is it")?;
    let more = run(send_halves(|| Ok(chunk_channel(&addr)?), "/dfs.v1.Chunks/Put", chunkd))?;
    eprintln!("chunkd took {more} MiB more for {all} MiB");
    ensure!(more < 450, "chunkd took {more} MiB more for {all} MiB");
    sh(&mount.path, "echo short > short; head -c 20M /dev/urandom > long; sync -f long; sync .")?;
    mount.unmount()
}
