//! Daemons, bytes and calls for the tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chunkd::config::Config;
use chunkd::server::{Daemon, DaemonError};
use dfs_core::chunk::{ChunkId, ChunkRef, group_range, verify};
use dfs_core::id::{SlotId, StoreId};
use dfs_core::op::Ack;
use dfs_proto::client::{chunk_channel, chunks_client};
use dfs_proto::v1::chunks_client::ChunksClient;
use dfs_proto::v1::{self, put_request, put_response, put_result, read_result};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::meta::{Meta, SLOT};

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub(crate) fn chunk(data: &[u8]) -> ChunkRef {
    ChunkRef { id: ChunkId::of(data), len: u32::try_from(data.len()).unwrap(), slot: SlotId(SLOT) }
}

pub(crate) fn config(meta: &str, data: &[&Path]) -> Config {
    Config {
        data: data.iter().map(|d| d.to_path_buf()).collect(),
        meta: meta.to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        advertise: None,
        zone: "z".to_owned(),
        scrub_mib_s: 0,
        abandoned_after_s: 3600,
        reserve: Some(0),
        metrics: None,
        log_level: "info".to_owned(),
        log_format: dfs_daemon::log::LogFormat::Text,
    }
}

/// Waits for something that others bring about.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A daemon with one store and a client of it.
pub(crate) struct Chunkd {
    pub(crate) daemon: Daemon,
    pub(crate) client: ChunksClient<Channel>,
    pub(crate) store: StoreId,
    pub(crate) cluster: Vec<u8>,
    pub(crate) dir: PathBuf,
}

impl Chunkd {
    /// Starts it on `dir` and waits until it has registered.
    pub(crate) async fn start(meta: &Meta, dir: &Path) -> Self {
        Self::start_with(meta, config(&meta.address.to_string(), &[dir])).await.unwrap()
    }

    pub(crate) async fn start_with(meta: &Meta, config: Config) -> Result<Self, DaemonError> {
        let dir = config.data[0].clone();
        let daemon = Daemon::start(config).await?;
        let node = Arc::clone(daemon.node());
        until("registration", || node.map().epoch.0 > 0).await;
        let store = node.stores().next().unwrap().id;
        let client = chunks_client(chunk_channel(daemon.address()).unwrap());
        let cluster = meta.known().cluster.to_bytes().to_vec();
        Ok(Self { daemon, client, store, cluster, dir })
    }

    pub(crate) fn id(&self) -> Vec<u8> {
        self.store.to_bytes().to_vec()
    }

    pub(crate) fn open(&self) -> v1::PutOpen {
        v1::PutOpen { cluster: self.cluster.clone(), store: self.id(), slot: SLOT, forward: Vec::new() }
    }

    pub(crate) fn forward_to(&self, other: &Chunkd) -> v1::PutOpen {
        let to = v1::ForwardTo { store: other.id(), addr: other.daemon.address().to_owned() };
        v1::PutOpen { forward: vec![to], ..self.open() }
    }

    /// Files of unfinished uploads.
    pub(crate) fn temps(&self) -> usize {
        std::fs::read_dir(self.dir.join("tmp")).unwrap().count()
    }

    /// Uploads so many messages; what was answered, progress left out.
    pub(crate) async fn send(
        &mut self,
        messages: Vec<put_request::Message>,
    ) -> Result<Vec<(StoreId, Result<Ack, Code>)>, Status> {
        let requests = messages.into_iter().map(|m| v1::PutRequest { message: Some(m) });
        let mut answers = self.client.put(tokio_stream::iter(requests)).await?.into_inner();
        let mut out = Vec::new();
        while let Some(answer) = answers.message().await? {
            let store = StoreId::from_slice(&answer.store).unwrap();
            match answer.message.unwrap() {
                put_response::Message::Ack(ack) => out.push((store, Ok(ack.try_into().unwrap()))),
                put_response::Message::Error(e) => out.push((store, Err(Code::from_i32(e.code)))),
                put_response::Message::Progress(_) => {}
            }
        }
        Ok(out)
    }

    pub(crate) async fn put(
        &mut self,
        open: v1::PutOpen,
        data: &[u8],
    ) -> Result<Vec<(StoreId, Result<Ack, Code>)>, Status> {
        self.send(messages(open, data, chunk(data))).await
    }

    pub(crate) async fn put_batch(&mut self, data: &[&[u8]]) -> Result<Vec<Result<Ack, Code>>, Status> {
        let chunks = data.iter().map(|d| v1::NewChunk { id: ChunkId::of(d).0.to_vec(), data: d.to_vec().into() });
        self.put_chunks(chunks.collect()).await
    }

    pub(crate) async fn put_chunks(&mut self, chunks: Vec<v1::NewChunk>) -> Result<Vec<Result<Ack, Code>>, Status> {
        let request = v1::PutBatchRequest { cluster: self.cluster.clone(), store: self.id(), slot: SLOT, chunks };
        let response = self.client.put_batch(request).await?.into_inner();
        let one = |r: v1::PutResult| match r.result.unwrap() {
            put_result::Result::Ack(ack) => Ok(ack.try_into().unwrap()),
            put_result::Result::Error(e) => Err(Code::from_i32(e.code)),
        };
        Ok(response.results.into_iter().map(one).collect())
    }

    /// A range, verified as a client does.
    pub(crate) async fn read(&mut self, of: ChunkRef, offset: u32, len: u32) -> Result<Vec<u8>, Status> {
        let request = v1::ReadRequest { store: self.id(), chunk: Some(of.into()), offset, len, background: false };
        let slice = self.client.read(request).await?.into_inner().slice;
        let range = u64::from(offset)..u64::from(offset) + u64::from(len);
        let wide = group_range(range.clone(), u64::from(of.len));
        let data = verify(of.id, u64::from(of.len), range.clone(), &slice).expect("the slice proves its range");
        Ok(data[(range.start - wide.start) as usize..(range.end - wide.start) as usize].to_vec())
    }

    pub(crate) async fn read_batch(&mut self, of: &[ChunkRef]) -> Result<Vec<Result<Vec<u8>, Code>>, Status> {
        let chunks = of.iter().map(|c| (*c).into()).collect();
        let response = self
            .client
            .read_batch(v1::ReadBatchRequest { store: self.id(), chunks, background: false })
            .await?
            .into_inner();
        let one = |r: v1::ReadResult| match r.result.unwrap() {
            read_result::Result::Data(data) => Ok(data.to_vec()),
            read_result::Result::Error(e) => Err(Code::from_i32(e.code)),
        };
        Ok(response.results.into_iter().map(one).collect())
    }

    pub(crate) async fn find(&mut self, of: &[ChunkRef]) -> Vec<Option<Ack>> {
        let chunks = of.iter().map(|c| (*c).into()).collect();
        let found = self.client.find(v1::FindRequest { store: self.id(), chunks }).await.unwrap().into_inner().found;
        found.into_iter().map(|f| f.ack.map(|a| a.try_into().unwrap())).collect()
    }

    pub(crate) async fn list(&mut self, after: Option<ChunkId>, limit: u32) -> (Vec<(ChunkId, u32)>, bool) {
        let after = after.map_or_else(Vec::new, |id| id.0.to_vec());
        let request = v1::ListRequest { store: self.id(), slot: SLOT, after, limit };
        let response = self.client.list(request).await.unwrap().into_inner();
        let chunks = response.chunks.into_iter().map(|c| (ChunkId::from_slice(&c.id).unwrap(), c.len));
        (chunks.collect(), response.end)
    }
}

/// The messages of an upload of `data` under the name of `of`.
pub(crate) fn messages(open: v1::PutOpen, data: &[u8], of: ChunkRef) -> Vec<put_request::Message> {
    let mut out = vec![put_request::Message::Open(open)];
    out.extend(data.chunks(1 << 20).map(|p| put_request::Message::Part(p.to_vec().into())));
    out.push(put_request::Message::Name(v1::PutName { id: of.id.0.to_vec(), len: of.len }));
    out
}

/// Finds where `data` lies in a file below `dir`, and flips a bit of it there.
pub(crate) fn damage(dir: &Path, data: &[u8]) {
    let needle = &data[..64.min(data.len())];
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let mut content = std::fs::read(&path).unwrap();
            if let Some(at) = content.windows(needle.len()).position(|w| w == needle) {
                content[at + 10] ^= 4;
                use std::os::unix::fs::FileExt;
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                file.write_all_at(&content[at + 10..=at + 10], (at + 10) as u64).unwrap();
                file.sync_all().unwrap();
                return;
            }
        }
    }
    panic!("the bytes are nowhere below the directory");
}
