//! The program itself: exit codes, signals, what it says.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use bytes::Bytes;
use dfs_proto::client::{chunk_channel, chunks_client};
use dfs_proto::v1::{self, put_request::Message};

use crate::fixture::{bytes, chunk, until};
use crate::meta::Meta;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chunkd"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(args: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = program(args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

#[test]
fn wrong_usage_is_2_and_a_state_that_stops_it_is_1() {
    assert_eq!(output(&["--help"]).0, 0);
    assert_eq!(output(&["--nonsense"]).0, 2);
    let (code, text) = output(&["--meta", "h:1"]);
    assert!(code == 2 && text.contains("--data"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), "x").unwrap();
    let (code, text) = output(&["--data", dir.path().to_str().unwrap(), "--meta", "127.0.0.1:1"]);
    assert!(code == 1 && text.contains("not empty"), "{text}");
    let last = text.lines().last().unwrap();
    assert_eq!(last.matches("not empty").count(), 1, "said once: {last}");
    let (code, text) = output(&["--data", "/x", "--meta", "h:1", "--print-config"]);
    assert!(code == 0 && text.contains("meta = \"h:1\""), "{text}");
}

/// Kills what a failing test leaves behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The program on `dir`, ready; its log goes on in the reader.
fn start(meta: &Meta, dir: &Path, more: &[&str]) -> (Running, BufReader<ChildStderr>, String) {
    let meta = meta.address.to_string();
    let args = ["--data", dir.to_str().unwrap(), "--meta", &meta, "--log-format", "json", "--reserve", "0"];
    let mut child = Running(program(&[&args[..], more].concat()).spawn().unwrap());
    let mut log = BufReader::new(child.0.stderr.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "ended before it was ready");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "ready" {
            let address = line["advertise"].as_str().unwrap().to_owned();
            return (child, log, address);
        }
    }
}

fn end(mut child: Running, mut log: BufReader<ChildStderr>) {
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.contains("\"message\":\"ended\""), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_it_listens_tells_its_metrics_and_ends_cleanly_on_sigterm() {
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (child, log, address) = start(&meta, dir.path(), &["--metrics", &metrics]);
    assert_ne!(address.parse::<std::net::SocketAddr>().unwrap().port(), 0);
    until("a heartbeat", || meta.known().beats > 0).await;
    let (store, cluster) = known(&meta);
    let mut client = chunks_client(chunk_channel(&address).unwrap());
    let data = bytes(1, 1000);
    let new = v1::NewChunk { id: chunk(&data).id.0.to_vec(), data: data.into() };
    let request = v1::PutBatchRequest { cluster, store: store.clone(), slot: 1, chunks: vec![new] };
    assert_eq!(client.put_batch(request).await.unwrap().into_inner().results.len(), 1);
    let missing = v1::ReadBatchRequest { store, chunks: vec![chunk(b"absent").into()], background: false };
    client.read_batch(missing).await.unwrap();

    let mut http = std::net::TcpStream::connect(metrics).unwrap();
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    http.read_to_string(&mut page).unwrap();
    for line in [
        "dfs_chunkd_put_batch_requests_total 1",
        "dfs_chunkd_put_requests_total 0",
        "dfs_chunkd_put_bytes_total 1000",
        "dfs_chunkd_request_errors_total{code=\"NotFound\"} 1",
        "dfs_chunkd_store_total_bytes{store=",
        "dfs_chunkd_log_syncs_total{store=",
    ] {
        assert!(page.lines().any(|l| l.starts_with(line)), "{line} is not in\n{page}");
    }
    end(child, log);
}

fn known(meta: &Meta) -> (Vec<u8>, Vec<u8>) {
    let known = meta.known();
    (known.nodes.values().next().unwrap().stores[0].store.clone(), known.cluster.to_bytes().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_while_many_write_and_read() {
    const WRITERS: u64 = 40;
    let (meta, dir) = (Meta::start(1).await, tempfile::tempdir().unwrap());
    let (child, log, address) = start(&meta, dir.path(), &[]);
    until("registration", || meta.known().registrations == 1).await;
    let (store, cluster) = known(&meta);
    let data: Vec<Bytes> = (0..4).map(|seed| bytes(seed, 16 << 20).into()).collect();
    let mut work = tokio::task::JoinSet::new();
    for n in 0..WRITERS {
        let (store, cluster, data) = (store.clone(), cluster.clone(), data[n as usize % 4].clone());
        let mut client = chunks_client(chunk_channel(&address).unwrap());
        work.spawn(async move {
            let of = chunk(&data);
            // Each in a slot of its own, so that each is stored.
            let slot = 100 + n as u32;
            let open = v1::PutOpen { cluster, store: store.clone(), slot, forward: Vec::new() };
            let mut messages = vec![Message::Open(open)];
            messages.extend((0..16).map(|i| Message::Part(data.slice(i << 20..(i + 1) << 20))));
            messages.push(Message::Name(v1::PutName { id: of.id.0.to_vec(), len: of.len }));
            let requests = messages.into_iter().map(|m| v1::PutRequest { message: Some(m) });
            let mut answers = client.put(tokio_stream::iter(requests)).await.unwrap().into_inner();
            let acked = loop {
                match answers.message().await.unwrap().unwrap().message.unwrap() {
                    v1::put_response::Message::Progress(_) => {}
                    v1::put_response::Message::Ack(_) => break true,
                    v1::put_response::Message::Error(_) => break false,
                }
            };
            assert!(acked);
            (client, slot, of)
        });
    }
    let written = work.join_all().await;
    let after_writes = peak_kib(&child);
    let mut work = tokio::task::JoinSet::new();
    for (mut client, slot, of) in written {
        let store = store.clone();
        work.spawn(async move {
            for offset in (0..of.len).step_by(4 << 20) {
                let chunk = Some(v1::ChunkRef { slot, ..of.into() });
                let read = v1::ReadRequest { store: store.clone(), chunk, offset, len: 4 << 20, background: false };
                assert!(client.read(read).await.unwrap().into_inner().slice.len() > 4 << 20);
            }
        });
    }
    work.join_all().await;
    let after_reads = peak_kib(&child);
    println!("{after_writes} KiB at the peak of writes, {after_reads} KiB in all");
    assert!(after_reads < 200 << 10, "{after_writes} KiB at the peak of writes, {after_reads} KiB in all");
    end(child, log);
}

fn peak_kib(child: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
