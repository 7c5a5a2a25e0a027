//! One try to bring a streamed chunk to the members of one slot.
//!
//! The first member gets the bytes and passes them on; each member's answer
//! comes by itself. Where that path fails or stalls, this client sends to the
//! members itself. A try succeeds with all members, or with enough of them
//! when the others failed or made no progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dfs_core::chunk::ChunkRef;
use dfs_core::cluster::ClusterMap;
use dfs_core::id::{SlotId, StoreId};
use dfs_core::limits;
use dfs_core::op::{Ack, Put};
use dfs_proto::convert::WireId;
use dfs_proto::v1;
use dfs_proto::v1::put_response::Message;
use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::{Code, Status};

use super::content::Content;
use super::{ATTEMPT, ChunkClient, SYNC, own_ack};
use crate::error::{FsError, FsResult};

/// How often it is looked for stalls.
const LOOK: Duration = Duration::from_millis(50);

/// What comes from one request to `via`.
struct Event {
    via: StoreId,
    request: u32,
    said: Option<Result<v1::PutResponse, Status>>,
}

#[derive(Debug)]
struct Member {
    store: StoreId,
    ack: Option<Ack>,
    /// The first member passes bytes on to it.
    relayed: bool,
    /// This client's own requests to it that are open.
    open: Vec<u32>,
    /// Bytes given to the transport of the last own request; `None`: there was none.
    sent: Option<Arc<AtomicU64>>,
    /// It was sent everything by itself, with nothing to pass on.
    alone: bool,
    progress: u64,
    heard: Instant,
}

impl Member {
    fn is_trying(&self) -> bool {
        self.ack.is_none() && (self.relayed || !self.open.is_empty())
    }
}

/// The state of a try.
struct Attempt<'a> {
    client: &'a ChunkClient,
    content: &'a Arc<Content>,
    map: Arc<ClusterMap>,
    slot: SlotId,
    needed: usize,
    /// The member that passes on: its request is number 0.
    first: Option<StoreId>,
    requests: u32,
    members: Vec<Member>,
    events: SelectAll<BoxStream<'static, Event>>,
}

impl ChunkClient {
    /// Sends `content` to the members of `slot` that are not in `have`.
    pub(super) async fn attempt(&self, content: &Arc<Content>, slot: SlotId, have: Vec<Ack>) -> FsResult<Put> {
        let map = self.map();
        let needed = map.slots.get(&slot).map_or(usize::MAX, |slot| map.copies_needed(slot));
        let now = Instant::now();
        let member = |store: StoreId, ack: Option<Ack>| Member {
            store,
            ack,
            relayed: false,
            open: Vec::new(),
            sent: None,
            alone: false,
            progress: 0,
            heard: now,
        };
        let mut members: Vec<Member> = have.iter().map(|ack| member(ack.store, Some(*ack))).collect();
        for store in self.inner.chooser.targets(&map, slot, now) {
            if !have.iter().any(|ack| ack.store == store) {
                members.push(member(store, None));
            }
        }
        if members.len() < needed {
            return Err(FsError::Io(format!("too few members of slot {slot} can be reached")));
        }
        let events = SelectAll::new();
        let mut attempt =
            Attempt { client: self, content, map, slot, needed, first: None, requests: 0, members, events };
        attempt.begin();
        let result = attempt.run().await;
        attempt.blame();
        result
    }
}

impl Attempt<'_> {
    /// The first open member gets the bytes and the addresses of the others.
    fn begin(&mut self) {
        let open: Vec<usize> = (0..self.members.len()).filter(|i| self.members[*i].ack.is_none()).collect();
        let Some((first, others)) = open.split_first() else { return };
        let mut forward = Vec::new();
        for i in others {
            let member = &mut self.members[*i];
            if let Some(node) = self.map.node_of(member.store) {
                member.relayed = true;
                forward.push(v1::ForwardTo { store: member.store.to_bytes().to_vec(), addr: node.addr.clone() });
            }
        }
        self.first = Some(self.members[*first].store);
        self.send(*first, forward, true);
    }

    /// Sends everything to one member.
    fn send(&mut self, index: usize, forward: Vec<v1::ForwardTo>, first: bool) {
        let via = self.members[index].store;
        let (mut wire, busy) = match self.client.inner.pool.bulk(&self.map, via) {
            Ok(wire) => wire,
            Err(e) => {
                tracing::warn!(store = %via, %e, "no connection for an upload");
                if first {
                    self.lost_relay();
                }
                return;
            }
        };
        let open = v1::PutOpen {
            cluster: self.map.cluster.to_bytes().to_vec(),
            store: via.to_bytes().to_vec(),
            slot: self.slot.0,
            forward,
        };
        let (parts, sent) = self.content.request(open, first);
        metrics::counter!("dfs_client_put_requests_total").increment(1);
        let request = self.requests;
        self.requests += 1;
        let member = &mut self.members[index];
        member.open.push(request);
        member.alone = !first;
        member.sent = Some(sent);
        member.progress = 0;
        member.heard = Instant::now();
        let answers = stream::once(async move {
            match wire.put(parts).await {
                Ok(answers) => answers.into_inner().boxed(),
                Err(status) => stream::once(async { Err(status) }).boxed(),
            }
        });
        let said = answers.flatten().map(move |said| {
            // The request counts as load until its answers end.
            let _counted = &busy;
            Event { via, request, said: Some(said) }
        });
        let end = stream::once(async move { Event { via, request, said: None } });
        self.events.push(said.chain(end).boxed());
    }

    async fn run(&mut self) -> FsResult<Put> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_ack = Instant::now();
        loop {
            tokio::select! {
                Some(event) = self.events.next(), if !self.events.is_empty() => {
                    let before = self.acked();
                    self.take(event);
                    if self.acked() > before {
                        last_ack = Instant::now();
                    }
                }
                _ = look.tick() => self.look(),
            }
            let acked = self.acked();
            let trying = self.members.iter().filter(|m| m.is_trying()).count();
            if let Some((id, named)) = self.content.name() {
                let now = Instant::now();
                let idle = |m: &Member| now - m.heard.max(last_ack).max(named) > limits::STALL;
                let waits = self.members.iter().any(|m| m.is_trying() && !idle(m));
                if acked >= self.needed && !waits {
                    let len = u32::try_from(self.content.bytes()).map_err(|e| FsError::Io(e.to_string()))?;
                    let acks = self.members.iter().filter_map(|m| m.ack).collect();
                    return Ok(Put { chunk: ChunkRef { id, len, slot: self.slot }, acks });
                }
            }
            if acked + trying < self.needed {
                return Err(FsError::Io(format!("too few members took a chunk in slot {}", self.slot)));
            }
            if acked < self.needed && self.is_dead() {
                return Err(FsError::Io(format!("no progress with a chunk in slot {}", self.slot)));
            }
        }
    }

    fn acked(&self) -> usize {
        self.members.iter().filter(|m| m.ack.is_some()).count()
    }

    /// Whether nobody who still owes something has said anything for long.
    fn is_dead(&self) -> bool {
        let mut trying = self.members.iter().filter(|m| m.is_trying()).peekable();
        trying.peek().is_some() && trying.all(|m| m.heard.elapsed() > ATTEMPT)
    }

    fn take(&mut self, event: Event) {
        match event.said {
            Some(Ok(said)) => self.hear(event.via, event.request, said),
            Some(Err(status)) => {
                tracing::warn!(slot = %self.slot, store = %event.via, %status, "an upload failed");
                if status.code() == Code::ResourceExhausted {
                    self.client.failed(self.slot, event.via, status.code(), status.message());
                }
                self.closed(event.via, event.request);
            }
            None => self.closed(event.via, event.request),
        }
    }

    fn hear(&mut self, via: StoreId, request: u32, said: v1::PutResponse) {
        let Ok(store) = StoreId::from_wire(&said.store) else { return };
        let named = self.content.name().is_some();
        let Some(index) = self.members.iter().position(|m| m.store == store) else { return };
        let member = &mut self.members[index];
        let own = (store == via).then_some(request);
        let open = own.map_or(member.relayed, |request| member.open.contains(&request));
        if !open || member.ack.is_some() {
            return;
        }
        match said.message {
            Some(Message::Progress(bytes)) if bytes > member.progress => {
                member.progress = bytes;
                member.heard = Instant::now();
            }
            Some(Message::Progress(_)) | None => {}
            Some(Message::Ack(ack)) => match own_ack(store, ack) {
                Ok(ack) if named => member.ack = Some(ack),
                Ok(_) => self.lost_path(index, own, Code::Internal, "it has a chunk that has no name yet"),
                Err(why) => self.lost_path(index, own, Code::Internal, &why),
            },
            Some(Message::Error(error)) => {
                self.lost_path(index, own, Code::from_i32(error.code), &error.message);
            }
        }
    }

    /// A way to a member is no more: its own request, or what the first member passes on.
    fn lost_path(&mut self, index: usize, own: Option<u32>, code: Code, why: &str) {
        let store = self.members[index].store;
        if own.is_some() || code == Code::ResourceExhausted {
            self.client.failed(self.slot, store, code, why);
        }
        if let Some(request) = own {
            self.members[index].open.retain(|open| *open != request);
        } else {
            tracing::warn!(slot = %self.slot, %store, ?code, why, "an upload was not passed on");
            self.members[index].relayed = false;
            if code != Code::ResourceExhausted {
                self.send_rest(index);
            }
        }
    }

    /// A request to `via` has ended; what it has not passed on, it will not.
    fn closed(&mut self, via: StoreId, request: u32) {
        if let Some(member) = self.members.iter_mut().find(|m| m.store == via) {
            member.open.retain(|open| *open != request);
        }
        if request == 0 {
            self.lost_relay();
        }
    }

    fn lost_relay(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].relayed {
                self.members[index].relayed = false;
                self.send_rest(index);
            }
        }
    }

    /// Sends to a member by itself, once.
    fn send_rest(&mut self, index: usize) {
        let member = &self.members[index];
        if member.ack.is_none() && !member.alone {
            self.send(index, Vec::new(), false);
        }
    }

    /// Looks for members that owe progress and make none, and sends to them by itself.
    fn look(&mut self) {
        let (bytes, named) = (self.content.bytes(), self.content.name());
        let now = Instant::now();
        let mut stalled = Vec::new();
        let relay_acked = self.members.iter().any(|m| self.first == Some(m.store) && m.ack.is_some());
        for (index, member) in self.members.iter_mut().enumerate().filter(|(_, m)| m.is_trying()) {
            if named.is_none() && member.progress >= bytes {
                member.heard = now;
                continue;
            }
            let Some(sent) = &member.sent else {
                // Only passed on: it is judged when the member that passes on is done.
                let since = member.heard.max(named.map_or(now, |(_, at)| at));
                if relay_acked && now - since > SYNC {
                    stalled.push(index);
                }
                continue;
            };
            let all_sent = named.is_some() && sent.load(Ordering::Acquire) >= bytes;
            let since = match named {
                Some((_, at)) if all_sent => member.heard.max(at),
                _ => member.heard,
            };
            if now - since > if all_sent { SYNC } else { limits::STALL } {
                stalled.push(index);
            }
        }
        for index in stalled {
            if self.members[index].sent.is_none() {
                self.send_rest(index);
            } else {
                // The one that passes on does not move, nor do those behind it; maybe because of one of them.
                for other in 0..self.members.len() {
                    if self.members[other].relayed {
                        self.send_rest(other);
                    }
                }
                self.send_rest(index);
            }
        }
    }

    /// Members that have not answered in the end are left alone for a while.
    fn blame(&self) {
        let now = Instant::now();
        for member in self.members.iter().filter(|m| m.ack.is_none()) {
            let silent = now - member.heard > limits::STALL;
            if (silent || !member.is_trying()) && !self.client.inner.chooser.is_resting(member.store, now) {
                self.client.failed(self.slot, member.store, Code::Unavailable, "it did not take a chunk");
            }
        }
    }
}
