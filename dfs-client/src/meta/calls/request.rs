//! What is said next on a connection: calls, and what is told along with them, in requests of bounded size.

use std::task::{Context, Poll};
use std::time::Duration;

use dfs_proto::v1;

use super::{Calls, Ending};
use crate::meta::leases;

/// Calls that go into one request at most.
const REQUEST_CALLS: usize = 256;
/// Cancelled waits in one request at most.
const CANCELS: usize = 512;
/// Leases given back in one request at most.
const RETURNED: usize = 2048;
/// Estimated bytes after which a request is not filled further.
const REQUEST_BYTES: usize = 1 << 20;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Calls {
    /// The next request of a connection.
    pub(in crate::meta) fn poll_request(
        &mut self,
        connection: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<v1::SessionRequest>> {
        if connection != self.connection {
            return Poll::Ready(None);
        }
        if let Some(hello) = self.hello.take() {
            let request = v1::SessionRequest { hello: Some(hello), epoch: self.epoch.0, ..Default::default() };
            return Poll::Ready(Some(request));
        }
        if self.ending == Ending::Sent {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut self.abandoning) {
            let close = v1::SessionRequest { close: true, epoch: self.epoch.0, ..Default::default() };
            return Poll::Ready(Some(close));
        }
        if self.welcomed {
            let rest = self.returned.split_off(self.returned.len().min(RETURNED));
            let returned = std::mem::replace(&mut self.returned, rest);
            // What is given back goes before whatever is asked later.
            let calls = if self.returned.is_empty() { self.next_calls() } else { Vec::new() };
            let close = self.ending == Ending::Wanted && self.queue.is_empty();
            let tells = !self.not_held.is_empty() || !self.cancelled.is_empty() || !returned.is_empty();
            if !calls.is_empty() || self.beat || close || tells {
                let beat = if std::mem::take(&mut self.beat) { micros(leases::now()) } else { 0 };
                if close {
                    self.ending = Ending::Sent;
                }
                let not_held = std::mem::take(&mut self.not_held);
                // Those of the calls in this very message are before it.
                let cut = self.cancelled.len().saturating_sub(CANCELS);
                let cancel = self.cancelled.split_off(cut);
                return Poll::Ready(Some(v1::SessionRequest {
                    hello: None,
                    calls,
                    not_held,
                    epoch: self.epoch.0,
                    close,
                    cancel,
                    beat,
                    returned,
                }));
            }
        }
        if !self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn next_calls(&mut self) -> Vec<v1::Call> {
        let mut calls = Vec::new();
        let mut bytes = 0;
        while calls.len() < REQUEST_CALLS {
            let Some(id) = self.queue.front() else { break };
            if let Some(pending) = self.pending.get_mut(id) {
                if !calls.is_empty() && bytes + pending.bytes > REQUEST_BYTES {
                    break;
                }
                bytes += pending.bytes;
                pending.beats = pending.may_be_stuck().then_some(0);
                calls.push(pending.call.clone());
            }
            self.queue.pop_front();
        }
        calls
    }
}
