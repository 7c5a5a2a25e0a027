//! A big chunk, fetched range by range. Each range is verified against the name before it is
//! written, so one source may go on where another ended.

use std::sync::Arc;
use std::time::Duration;

use dfs_core::chunk::{ChunkRef, verify};
use dfs_proto::v1;
use tonic::Status;

use super::sources::{self, Source};
use crate::metrics;
use crate::node::{Lost, Node, Served};
use crate::service::put_status;
use crate::store::{PutDone, Upload};

/// Bytes asked for at a time; a multiple of the hash tree's groups.
const RANGE: u32 = 2 << 20;
/// How long a range may take to come.
const CALL: Duration = Duration::from_secs(30);

/// Fetches a chunk and puts it in place; the numbers that held then.
pub(super) async fn fetch(node: &Arc<Node>, served: &Arc<Served>, chunk: ChunkRef) -> Result<PutDone, Status> {
    let store = Arc::clone(&served.store);
    let upload = served.background.run(move || store.begin(chunk.slot)).await?.map_err(|e| put_status(&e))?;
    let mut copy = Copy { node, served, chunk, upload: Some(upload), offset: 0 };
    for source in sources::of(node, served.id, chunk.slot) {
        match copy.from(&source).await {
            Ok(()) => return copy.finish().await,
            Err(Trouble::Source(e)) => {
                tracing::debug!(source = %source.address, chunk = %chunk.id, code = ?e.code(), reason = e.message(), "a source fails");
            }
            Err(Trouble::Here(e)) => return Err(e),
        }
    }
    Err(Status::unavailable("no store that can be reached has it"))
}

enum Trouble {
    /// Another may do better.
    Source(Status),
    /// No other source helps.
    Here(Status),
}

struct Copy<'a> {
    node: &'a Arc<Node>,
    served: &'a Arc<Served>,
    chunk: ChunkRef,
    /// Absent only while a thread has it.
    upload: Option<Upload>,
    offset: u32,
}

impl Copy<'_> {
    /// Goes on from where it is to the end.
    async fn from(&mut self, source: &Source) -> Result<(), Trouble> {
        let mut client = self.node.peers.chunks(&source.address).map_err(Trouble::Source)?;
        while self.offset < self.chunk.len {
            let len = RANGE.min(self.chunk.len - self.offset);
            self.served.pace.take(u64::from(len), self.node.need(self.chunk.slot)).await;
            let request = v1::ReadRequest {
                store: source.store.to_bytes().to_vec(),
                chunk: Some(self.chunk.into()),
                offset: self.offset,
                len,
                background: true,
            };
            let response = tokio::time::timeout(CALL, client.read(request))
                .await
                .map_err(|_| Trouble::Source(Status::deadline_exceeded("no answer in time")))?
                .map_err(Trouble::Source)?
                .into_inner();
            self.write(source, len, response.slice).await?;
        }
        Ok(())
    }

    async fn write(&mut self, source: &Source, len: u32, slice: bytes::Bytes) -> Result<(), Trouble> {
        let Some(mut upload) = self.upload.take() else {
            return Err(Trouble::Here(Status::internal("an upload was cut off")));
        };
        let (chunk, offset) = (self.chunk, u64::from(self.offset));
        let work = move || {
            let range = offset..offset + u64::from(len);
            let written = match verify(chunk.id, u64::from(chunk.len), range, &slice) {
                Ok(bytes) => Ok(upload.write(bytes)),
                Err(damage) => Err(damage),
            };
            (upload, written)
        };
        let (upload, written) = self.served.background.run(work).await.map_err(Trouble::Here)?;
        self.upload = Some(upload);
        match written {
            Ok(Ok(())) => {
                self.offset += len;
                Ok(())
            }
            Ok(Err(e)) => Err(Trouble::Here(put_status(&e))),
            Err(damage) => {
                tracing::warn!(source = %source.address, chunk = %chunk.id, "a source has a damaged copy");
                self.node.report_lost(Lost { store: source.store, chunk, loss: None });
                Err(Trouble::Source(Status::data_loss(damage.to_string())))
            }
        }
    }

    async fn finish(mut self) -> Result<PutDone, Status> {
        let upload = self.upload.take().ok_or_else(|| Status::internal("an upload was cut off"))?;
        let chunk = self.chunk;
        let done = self.served.background.run(move || upload.finish(chunk.id, u64::from(chunk.len))).await?;
        let done = done.map_err(|e| put_status(&e))?;
        metrics::resynced(u64::from(chunk.len));
        Ok(done)
    }
}
