//! Room for commands: a bound on the bytes of those that wait for the writer or are with it.
//!
//! Their number is bounded too, but one may have 8 MiB. Who brings a command takes room for it first and gives it back
//! when the command is done; where there is none it waits, which pushes back on its connection. A stream has its own
//! share of the whole, so that one that sends much does not keep all others waiting. A share is taken before the
//! whole, and what holds room of the whole waits for nobody but the writer: it cannot lock up. A command that has to wait
//! for something else leaves the whole meanwhile and keeps its stream's share.

use std::sync::Arc;

use dfs_core::limits::META_MESSAGE_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// KiB of the commands of one stream: two of the largest.
const SHARE_KIB: usize = 2 * META_MESSAGE_BYTES / 1024;
/// KiB of all commands.
const ALL_KIB: usize = 64 << 10;

/// The whole.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

/// What one stream may have of it at a time.
#[derive(Debug)]
pub struct Share {
    own: Arc<Semaphore>,
    all: Room,
}

/// Room for one command; given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    _own: Option<OwnedSemaphorePermit>,
    whole: Option<OwnedSemaphorePermit>,
    all: Room,
    bytes: usize,
}

impl Taken {
    /// Gives room of the whole to others, until [`Taken::enter`].
    pub fn leave(&mut self) {
        self.whole = None;
    }

    /// Waits for room of the whole again.
    pub async fn enter(&mut self) {
        if self.whole.is_none() {
            self.whole = Some(permit(&self.all.0, self.bytes).await);
        }
    }
}

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ALL_KIB)))
    }

    /// A share for one stream.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { own: Arc::new(Semaphore::new(SHARE_KIB)), all: self.clone() }
    }

    /// Waits for room for a command of so many bytes.
    pub async fn take(&self, bytes: usize) -> Taken {
        Taken { _own: None, whole: Some(permit(&self.0, bytes).await), all: self.clone(), bytes }
    }
}

impl Share {
    /// Waits for room for a command of so many bytes. Does not wait where there is room.
    pub async fn take(&self, bytes: usize) -> Taken {
        let own = permit(&self.own, bytes).await;
        Taken { _own: Some(own), ..self.all.take(bytes).await }
    }
}

/// What is larger than a share, which no message is, counts as a whole share: it must not wait for ever.
async fn permit(of: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let kib = bytes.div_ceil(1024).clamp(1, SHARE_KIB);
    let kib = u32::try_from(kib).expect("a share has some thousand KiB");
    Arc::clone(of).acquire_many_owned(kib).await.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::{FutureExt, poll};

    use super::*;

    #[tokio::test]
    async fn a_stream_waits_for_its_share_and_others_do_not() {
        let room = Room::new();
        let (greedy, modest) = (room.share(), room.share());
        let held = [greedy.take(META_MESSAGE_BYTES).await, greedy.take(META_MESSAGE_BYTES).await];
        let mut waits = Box::pin(greedy.take(1));
        assert!(poll!(&mut waits).is_pending());
        assert!(modest.take(META_MESSAGE_BYTES).now_or_never().is_some());
        drop(held);
        assert!(poll!(&mut waits).is_ready());
    }

    #[tokio::test]
    async fn all_together_are_bounded_and_what_is_given_up_is_given_back() {
        let room = Room::new();
        let shares: Vec<Share> = (0..=ALL_KIB / SHARE_KIB).map(|_| room.share()).collect();
        let (last, others) = shares.split_last().unwrap();
        let mut held = Vec::new();
        for share in others {
            held.push(share.take(usize::MAX).await);
        }
        let mut given_up = Box::pin(last.take(META_MESSAGE_BYTES));
        assert!(poll!(&mut given_up).is_pending());
        drop(given_up);
        held.pop();
        assert!(last.take(2 * META_MESSAGE_BYTES).now_or_never().is_some());
        assert_eq!(room.0.available_permits(), SHARE_KIB);
    }

    #[tokio::test]
    async fn what_leaves_the_whole_keeps_its_share_and_comes_back_when_there_is_room() {
        let room = Room::new();
        let share = room.share();
        let mut taken = share.take(usize::MAX).await;
        taken.leave();
        assert_eq!(room.0.available_permits(), ALL_KIB);
        assert!(share.take(1).now_or_never().is_none(), "its share is used up");
        let others: Vec<Share> = (0..ALL_KIB / SHARE_KIB).map(|_| room.share()).collect();
        let mut held: Vec<_> = others.iter().map(|other| other.take(usize::MAX).now_or_never().unwrap()).collect();
        assert!(taken.enter().now_or_never().is_none());
        held.pop();
        assert!(taken.enter().now_or_never().is_some() && taken.enter().now_or_never().is_some());
        assert_eq!(room.0.available_permits(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_streams_with_much_never_exceed_it_and_all_come_to_an_end() {
        let room = Room::new();
        let used = Arc::new(AtomicUsize::new(0));
        let streams = (0..40_usize).map(|n| {
            let (share, used) = (Arc::new(room.share()), used.clone());
            let calls = (0..64_usize).map(move |i| {
                let (share, used) = (share.clone(), used.clone());
                async move {
                    let bytes = if (n + i) % 3 == 0 { META_MESSAGE_BYTES } else { 1 + 999 * i };
                    let taken = share.take(bytes).await;
                    let kib = bytes.div_ceil(1024);
                    assert!(used.fetch_add(kib, Ordering::SeqCst) + kib <= ALL_KIB);
                    tokio::task::yield_now().await;
                    used.fetch_sub(kib, Ordering::SeqCst);
                    drop(taken);
                }
            });
            tokio::spawn(futures::future::join_all(calls))
        });
        let all = futures::future::try_join_all(streams);
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("it locked up").unwrap();
        assert_eq!(room.0.available_permits(), ALL_KIB);
    }
}
