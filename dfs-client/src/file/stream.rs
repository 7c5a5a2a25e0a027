//! Streams: parts of a long run go to the stores while it is still being written.

use bytes::Bytes;
use dfs_core::op::Put;
use tokio::sync::{mpsc, oneshot};

use super::buffer::{SealNo, Step, Taken};
use super::upload::Progress;
use crate::chunks::ChunkClient;
use crate::error::FsResult;
use crate::vfs::{Feed, Inode, State, Vfs};

/// Parts that wait for a stream's upload: those of one chunk, and a short one at each end.
const FEED_PARTS: usize = 66;
impl Vfs {
    /// Goes on with a file's stream after a write: parts go to its upload. The seals that are complete by that.
    pub(crate) fn stream(&self, state: &mut State) -> Vec<SealNo> {
        let mut ended = Vec::new();
        while let Some(step) = Inode::change_buffer(state, &self.budget, |buffer| buffer.step()) {
            match step {
                Step::Part(no, part) => {
                    let feed = state.feeds.entry(no).or_insert_with(|| self.new_feed());
                    // An upload that failed takes no more; the seal will be sent anew.
                    let _ = feed.parts.as_ref().map(|parts| parts.try_send(part));
                }
                Step::Sealed(taken) => ended.push(Self::end_feed(state, taken)),
            }
        }
        ended
    }

    fn new_feed(&self) -> Feed {
        let (parts, receiver) = mpsc::channel(FEED_PARTS);
        let (sender, result) = oneshot::channel();
        self.runtime.spawn(upload_stream(self.chunks.clone(), self.progress.clone(), receiver, sender));
        Feed { parts: Some(parts), result }
    }

    /// Gives the upload of a sealed stream its last parts.
    fn end_feed(state: &mut State, taken: Taken) -> SealNo {
        if let Some(feed) = state.feeds.get_mut(&taken.no)
            && let Some(parts) = feed.parts.take()
        {
            for part in taken.last_parts {
                let _ = parts.try_send(part);
            }
        }
        taken.no
    }

    /// Everything unsealed of the file becomes a seal: its number and size.
    pub(crate) fn take_seal(&self, state: &mut State) -> Option<(SealNo, u64)> {
        let taken = Inode::change_buffer(state, &self.budget, |buffer| buffer.seal_all())?;
        let bytes = taken.bytes;
        Some((Self::end_feed(state, taken), bytes))
    }
}

/// Uploads the parts of a stream as they come; when there are no more, names the chunk.
async fn upload_stream(
    chunks: ChunkClient,
    progress: Progress,
    mut parts: mpsc::Receiver<Bytes>,
    result: oneshot::Sender<FsResult<Put>>,
) {
    let mut upload = chunks.upload();
    while let Some(part) = parts.recv().await {
        if let Err(e) = upload.part(part).await {
            // Nobody listens when the file was truncated or removed.
            let _ = result.send(Err(e));
            return;
        }
        progress.took_part(upload.len());
    }
    if !result.is_closed() {
        let _ = result.send(upload.finish().await);
    }
}
