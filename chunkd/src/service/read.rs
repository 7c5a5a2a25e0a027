//! Reads. What a store finds damaged is set aside and reported, and the reader is told DATA_LOSS.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::{ChunkRef, GROUP, group_range};
use dfs_core::limits::{BATCH_BYTES, BATCH_CHUNKS, READ_BYTES};
use dfs_proto::v1::{self, read_result};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::{read_status, room, store};
use crate::node::{Node, Served};
use crate::pool::Pool;
use crate::store::{ReadError, Verify};
use crate::{metrics, wire};

/// An answer with the room that it takes until it is sent.
pub(super) type Roomy<T> = (T, Option<OwnedSemaphorePermit>);

/// An answer is in memory twice: as it is read, and as it is encoded.
const COPIES: u64 = 2;
/// Answers up to this long take no room while they are sent: all that one connection can have open is then no more
/// than a connection may hold anyway, and to watch over each would double what a short read costs.
const SHORT: usize = 20 << 10;
/// No proof of a range is longer.
const PROOF: u64 = 4096;

pub(super) async fn read(node: &Arc<Node>, request: v1::ReadRequest) -> Result<Roomy<v1::ReadResponse>, Status> {
    let served = store(node, &request.store)?;
    let background = request.background;
    let (chunk, range) = decode(request)?;
    let wide = group_range(range.clone(), u64::from(chunk.len));
    let bytes = wide.end - wide.start;
    if background {
        served.pace.lend(bytes, node.need(chunk.slot)).await?;
    }
    let room = room(&served.read_kib, COPIES * (bytes + PROOF)).await?;
    let target = Arc::clone(&served);
    let result = pool(&served, background)
        .run(move || {
            check_len(&target, &chunk)?;
            if u64::from(chunk.len) <= GROUP {
                target.store.read_whole(chunk.slot, chunk.id)
            } else {
                // The reader verifies anyway: doing it here too would double the price of every read.
                target.store.read_range(chunk.slot, chunk.id, range, Verify::ByReader)
            }
        })
        .await?;
    match result {
        Ok(slice) => {
            metrics::read_request(1, slice.len());
            let room = (slice.len() > SHORT).then_some(room);
            Ok((v1::ReadResponse { slice }, room))
        }
        Err(e) => Err(failed(node, &served, chunk, &e)),
    }
}

/// The threads for a read: those of others that copy are not those for which somebody waits.
fn pool(served: &Served, background: bool) -> &Pool {
    if background { &served.background } else { &served.reads }
}

/// The chunk, and a range that lies in it as far as the request tells.
pub(crate) fn decode(request: v1::ReadRequest) -> Result<(ChunkRef, Range<u64>), Status> {
    let chunk = wire::chunk_ref(request.chunk)?;
    let range = u64::from(request.offset)..u64::from(request.offset) + u64::from(request.len);
    if range.is_empty() || range.end - range.start > READ_BYTES || range.end > u64::from(chunk.len) {
        return Err(Status::invalid_argument("a range has 1 byte to 4 MiB and lies within its chunk"));
    }
    Ok((chunk, range))
}

pub(super) async fn read_batch(
    node: &Arc<Node>,
    request: v1::ReadBatchRequest,
) -> Result<Roomy<v1::ReadBatchResponse>, Status> {
    let served = store(node, &request.store)?;
    let background = request.background;
    let chunks = wire::chunk_refs(request.chunks, BATCH_CHUNKS)?;
    let bytes: u64 = chunks.iter().map(|c| u64::from(c.len)).sum();
    if bytes > BATCH_BYTES {
        return Err(Status::invalid_argument(format!("more than {BATCH_BYTES} bytes in one batch")));
    }
    if let Some(first) = chunks.first().filter(|_| background) {
        served.pace.lend(bytes, node.need(first.slot)).await?;
    }
    let room = room(&served.read_kib, COPIES * bytes).await?;
    let target = Arc::clone(&served);
    let read = pool(&served, background)
        .run(move || {
            let one = |chunk: ChunkRef| {
                check_len(&target, &chunk).and_then(|()| target.store.read_whole(chunk.slot, chunk.id))
            };
            chunks.into_iter().map(|chunk| (chunk, one(chunk))).collect::<Vec<_>>()
        })
        .await?;
    metrics::read_request(read.len(), read.iter().filter_map(|r| r.1.as_ref().ok()).map(Bytes::len).sum());
    let results = read.into_iter().map(|(chunk, result)| match result {
        Ok(data) => read_result::Result::Data(data),
        Err(e) => {
            let status = failed(node, &served, chunk, &e);
            metrics::error(status.code());
            read_result::Result::Error((&status).into())
        }
    });
    let results = results.map(|r| v1::ReadResult { result: Some(r) }).collect();
    Ok((v1::ReadBatchResponse { results }, Some(room)))
}

/// A reference with another length than the chunk's names something that cannot exist.
fn check_len(served: &Served, chunk: &ChunkRef) -> Result<(), ReadError> {
    match served.store.stat(chunk.slot, chunk.id) {
        Some(len) if len == chunk.len => Ok(()),
        _ => Err(ReadError::NotFound),
    }
}

/// The status of a failed read. Damage is dealt with in the background.
fn failed(node: &Arc<Node>, served: &Arc<Served>, chunk: ChunkRef, error: &ReadError) -> Status {
    match error {
        ReadError::Corrupt => {
            let (node, served) = (Arc::clone(node), Arc::clone(served));
            tokio::spawn(async move {
                if let Err(e) = node.examine(&served, chunk).await {
                    tracing::error!(chunk = %chunk.id, reason = e.message(), "a damaged chunk could not be set aside");
                }
            });
        }
        ReadError::Io(e) => {
            tracing::error!(store = %served.id, chunk = %chunk.id, error = %e, "a chunk could not be read");
        }
        ReadError::NotFound | ReadError::Range => {}
    }
    read_status(error)
}
