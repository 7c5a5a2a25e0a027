//! A streamed upload as its writer sees it: parts, then the name.

use std::sync::Arc;

use bytes::Bytes;
use dfs_core::chunk::{ChunkId, GROUP};
use dfs_core::error::Refusal;
use dfs_core::id::SlotId;
use dfs_core::limits;
use dfs_core::op::Put;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::content::Content;
use super::{ChunkClient, PAUSE_FIRST};
use crate::error::{FsError, FsResult};

/// Bytes that may wait for the transport before the writer has to.
const IN_FLIGHT: u64 = 16 << 20;

impl ChunkClient {
    /// Begins a streamed upload of one chunk to a slot of the client's choice. Must be called inside a tokio runtime.
    #[must_use]
    pub fn upload(&self) -> Upload {
        let content = Arc::new(Content::default());
        let task = tokio::spawn(self.clone().deliver(Arc::clone(&content), None));
        Upload {
            content,
            task: Task(task),
            hasher: blake3::Hasher::new(),
            client: self.clone(),
            uneven: false,
            failed: None,
        }
    }

    /// Sends a content to slot after slot until one has taken it. Until the content has its name only its writer
    /// knows how long to wait; from then on it is the deadline.
    pub(super) async fn deliver(self, content: Arc<Content>, first: Option<SlotId>) -> FsResult<Put> {
        let mut wanted = first;
        let mut pause = PAUSE_FIRST;
        loop {
            let why = match self.slot_or_choose(wanted.take()) {
                Ok(slot) => match self.attempt(&content, slot, Vec::new()).await {
                    Ok(put) => return Ok(put),
                    Err(e) => e,
                },
                Err(FsError::NoSpace) => return Err(FsError::NoSpace),
                Err(e) => e,
            };
            let begun = content.name().map_or_else(Instant::now, |(_, at)| at);
            Self::pause(&mut pause, begun + self.inner.deadline, why).await?;
        }
    }
}

/// Ends its task when dropped.
#[derive(Debug)]
struct Task(JoinHandle<FsResult<Put>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One streamed upload; dropping it aborts.
#[derive(Debug)]
pub struct Upload {
    client: ChunkClient,
    content: Arc<Content>,
    task: Task,
    hasher: blake3::Hasher,
    uneven: bool,
    failed: Option<FsError>,
}

impl Upload {
    /// The next bytes: 1 byte to [`limits::PART_BYTES`]; all but the last a multiple of 16 KiB; no more than
    /// [`limits::CHUNK_BYTES`] in all. Hashes them, and waits while too much is in flight.
    ///
    /// # Errors
    /// `Refused(OverLimit)` for a part that breaks these rules; `NoSpace`; `Io` when nothing goes out until the
    /// deadline. After an error the upload is of no use.
    pub async fn part(&mut self, bytes: Bytes) -> FsResult<()> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let fits = !bytes.is_empty()
            && bytes.len() <= limits::PART_BYTES
            && !self.uneven
            && self.len() + bytes.len() as u64 <= limits::CHUNK_BYTES;
        if !fits {
            return Err(FsError::Refused(Refusal::OverLimit));
        }
        self.uneven = !(bytes.len() as u64).is_multiple_of(GROUP);
        self.hasher.update(&bytes);
        self.content.push(bytes);
        let until = Instant::now() + self.client.inner.deadline;
        while self.content.waiting() > IN_FLIGHT {
            let content = Arc::clone(&self.content);
            let done = tokio::select! {
                () = content.took() => continue,
                done = &mut self.task.0 => done,
                () = tokio::time::sleep_until(until) => return self.fail(FsError::io("no store took a part of an upload")),
            };
            let why = match done {
                Ok(Err(e)) => e,
                Ok(Ok(_)) => FsError::io("an upload ended before its name"),
                Err(e) => FsError::Io(format!("an upload's task failed: {e}")),
            };
            return self.fail(why);
        }
        Ok(())
    }

    fn fail(&mut self, why: FsError) -> FsResult<()> {
        self.failed = Some(why.clone());
        Err(why)
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.content.bytes()
    }

    /// Whether no part was given yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names the chunk and waits for its members' answers.
    ///
    /// # Errors
    /// `Refused(OverLimit)` for an empty upload; `NoSpace`; `Io` when there were too few copies until the deadline.
    pub async fn finish(mut self) -> FsResult<Put> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        if self.is_empty() {
            return Err(FsError::Refused(Refusal::OverLimit));
        }
        self.content.set_name(ChunkId(*self.hasher.finalize().as_bytes()));
        let until = Instant::now() + self.client.inner.deadline;
        match timeout_at(until, &mut self.task.0).await {
            Ok(Ok(put)) => put,
            Ok(Err(e)) => Err(FsError::Io(format!("an upload's task failed: {e}"))),
            Err(_) => Err(FsError::io("too few stores took a chunk until the deadline")),
        }
    }
}
