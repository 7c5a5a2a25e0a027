//! What is under way on the session: calls without an answer, free lanes, and what is to be sent next.
//!
//! A plain structure under one lock, without tasks or sockets. It promises:
//! a commit keeps its (lane, number) until it is answered or the session has
//! ended, whatever becomes of its caller; a lane is free only then; a commit
//! of one session is never sent on another. While a commit whose caller has
//! gone is without an answer, what it touches is in doubt: no other commit
//! that touches the same is taken, so that nothing old can land on what is new.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use dfs_core::error::Refusal;
use dfs_core::id::{Epoch, Ino, LaneId, Seq, SessionId};
use dfs_core::limits;
use dfs_proto::v1;
use tokio::sync::{Notify, oneshot};

use crate::error::{FsError, FsResult};

mod request;

/// What a caller waits for.
pub(super) type Reply = FsResult<v1::call_result::Body>;

/// A lane and the number of the last command that it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    id: LaneId,
    answered: Seq,
}

#[derive(Debug)]
struct Pending {
    call: v1::Call,
    bytes: usize,
    lane: Option<Lane>,
    /// Inodes that a commit changes, in order.
    touches: Vec<Ino>,
    /// Heartbeats since it was sent on this connection.
    beats: Option<u32>,
    /// The caller of a commit has gone.
    given_up: bool,
    tell: oneshot::Sender<Reply>,
}

impl Pending {
    /// Whether its answer should come soon: a lock may be waited for as long as it takes.
    fn may_be_stuck(&self) -> bool {
        !matches!(self.call.body, Some(v1::call::Body::WaitLock(_)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    Wanted,
    Sent,
}

/// What the session's task has to do after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Nothing,
    /// A lane became free.
    LaneFree,
    /// Send this call again, a little later.
    Again(u64),
    /// The session has ended.
    SessionLost,
    /// The session is of no use any more; metad still has it.
    SessionSpoilt,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Calls {
    session: SessionId,
    /// Number of the connection whose outbox may send.
    connection: u64,
    hello: Option<v1::Hello>,
    welcomed: bool,
    waker: Option<Waker>,
    last_id: u64,
    pending: HashMap<u64, Pending>,
    queue: VecDeque<u64>,
    free: Vec<Lane>,
    not_held: Vec<u64>,
    /// Directories whose leases are given back.
    returned: Vec<u64>,
    /// Waits for locks that nobody waits for any more.
    cancelled: Vec<u64>,
    beat: bool,
    epoch: Epoch,
    ending: Ending,
    /// The session is to be ended before another takes its place.
    abandoning: bool,
    closed: bool,
    /// Pending commits whose callers have gone.
    given_up: usize,
    /// One of them was answered, or its session ended.
    settled: Arc<Notify>,
}

/// What became of handing in a commit.
pub(super) enum Submitted {
    /// Its number, and where its answer comes.
    Sent(u64, oneshot::Receiver<Reply>),
    /// Something that it touches is in doubt: to be tried again when [`Calls::settled`] says so.
    InDoubt(Box<v1::Commit>),
    /// All lanes are taken.
    NoLane,
}

fn fresh_lanes() -> Vec<Lane> {
    (0..limits::LANES).rev().map(|id| Lane { id: LaneId(id), answered: Seq(0) }).collect()
}

fn closed() -> FsError {
    FsError::io("the session with metad is closed")
}

impl Calls {
    pub(super) fn new() -> Self {
        Self {
            session: SessionId(0),
            connection: 0,
            hello: None,
            welcomed: false,
            waker: None,
            last_id: 0,
            pending: HashMap::new(),
            queue: VecDeque::new(),
            free: fresh_lanes(),
            not_held: Vec::new(),
            returned: Vec::new(),
            cancelled: Vec::new(),
            beat: false,
            epoch: Epoch(0),
            ending: Ending::No,
            abandoning: false,
            closed: false,
            given_up: 0,
            settled: Arc::default(),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending != Ending::No
    }

    /// Whether calls wait for an answer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Takes a call in. Its id can be given to [`Calls::withdraw`].
    pub(super) fn submit(&mut self, body: v1::call::Body, bytes: usize) -> FsResult<(u64, oneshot::Receiver<Reply>)> {
        self.add(body, bytes, None, Vec::new())
    }

    /// Takes a commit in, on a free lane; one that is worth nothing but in `session` only if that is the one of this
    /// moment. Its number is for [`Calls::give_up`].
    pub(super) fn submit_commit(
        &mut self,
        session: Option<SessionId>,
        mut commit: v1::Commit,
        bytes: usize,
        touches: &[Ino],
    ) -> FsResult<Submitted> {
        if self.closed || self.is_ending() {
            return Err(closed());
        }
        if session.is_some_and(|session| session != self.session) {
            return Err(Refusal::NoSession.into());
        }
        if self.is_in_doubt(touches) {
            return Ok(Submitted::InDoubt(Box::new(commit)));
        }
        let Some(lane) = self.free.pop() else { return Ok(Submitted::NoLane) };
        commit.lane = u32::from(lane.id.0);
        commit.seq = lane.answered.0 + 1;
        let (id, reply) = self.add(v1::call::Body::Commit(commit), bytes, Some(lane), touches.to_vec())?;
        Ok(Submitted::Sent(id, reply))
    }

    /// The caller of a commit has gone without its answer: what it touches is in doubt until that comes.
    pub(super) fn give_up(&mut self, id: u64) {
        if let Some(pending) = self.pending.get_mut(&id)
            && pending.lane.is_some()
            && !pending.given_up
        {
            pending.given_up = true;
            self.given_up += 1;
        }
    }

    /// Whether a commit that was given up may still change any of these. What a commit touches is in order.
    pub(super) fn is_in_doubt(&self, inos: &[Ino]) -> bool {
        self.given_up > 0
            && self.pending.values().any(|p| p.given_up && inos.iter().any(|ino| p.touches.binary_search(ino).is_ok()))
    }

    /// Wakes whenever something that was in doubt no longer is.
    pub(super) fn settled(&self) -> Arc<Notify> {
        Arc::clone(&self.settled)
    }

    fn take_out(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        if pending.given_up {
            self.given_up -= 1;
            self.settled.notify_waiters();
        }
        Some(pending)
    }

    fn add(
        &mut self,
        body: v1::call::Body,
        bytes: usize,
        lane: Option<Lane>,
        touches: Vec<Ino>,
    ) -> FsResult<(u64, oneshot::Receiver<Reply>)> {
        if self.closed || self.is_ending() {
            return Err(closed());
        }
        self.last_id += 1;
        let id = self.last_id;
        let (tell, reply) = oneshot::channel();
        let call = v1::Call { id, body: Some(body) };
        self.pending.insert(id, Pending { call, bytes, lane, touches, beats: None, given_up: false, tell });
        self.queue.push_back(id);
        self.wake();
        Ok((id, reply))
    }

    /// Forgets a question whose caller has gone. Commits cannot be withdrawn.
    pub(super) fn withdraw(&mut self, id: u64) {
        if self.pending.get(&id).is_some_and(|p| p.lane.is_none()) {
            self.pending.remove(&id);
        }
    }

    /// Forgets a wait for a lock whose caller has gone, and tells metad.
    pub(super) fn cancel_wait(&mut self, id: u64) {
        if self.pending.remove(&id).is_some() && self.welcomed {
            self.cancelled.push(id);
            self.wake();
        }
    }

    /// Puts a call into the queue again.
    pub(super) fn again(&mut self, id: u64) {
        if self.welcomed && self.pending.contains_key(&id) && !self.queue.contains(&id) {
            self.queue.push_back(id);
            self.wake();
        }
    }

    /// Takes in an answer.
    pub(super) fn answer(&mut self, id: u64, body: Option<v1::call_result::Body>) -> After {
        let Some(pending) = self.pending.get_mut(&id) else { return After::Nothing };
        pending.beats = None;
        let mut lane = pending.lane;
        match &body {
            None | Some(v1::call_result::Body::Fault(_)) => return After::Again(id),
            Some(v1::call_result::Body::Refusal(refusal)) => match super::refusal(refusal) {
                Some(Refusal::NoSession) => return After::SessionLost,
                Some(Refusal::LaneOrder) if lane.is_some() => {
                    tracing::error!(session = %self.session, "metad and this client count a lane differently");
                    return After::SessionSpoilt;
                }
                // A refusal of the whole command has changed nothing: its number is still to be used.
                _ => {}
            },
            Some(_) => {
                if let Some(lane) = &mut lane {
                    lane.answered = Seq(lane.answered.0 + 1);
                }
            }
        }
        if let (Some(pending), Some(body)) = (self.take_out(id), body) {
            // The caller may have given up: its lane is free all the same.
            let _ = pending.tell.send(Ok(body));
        }
        match lane {
            Some(lane) => {
                self.free.push(lane);
                After::LaneFree
            }
            None => After::Nothing,
        }
    }

    /// Begins a connection: the outbox of this number says hello, all earlier ones end.
    pub(super) fn connecting(&mut self, hello: v1::Hello) -> u64 {
        self.connection += 1;
        self.hello = Some(hello);
        self.welcomed = false;
        // Leases end with their stream.
        self.returned.clear();
        self.wake();
        self.connection
    }

    /// The session was opened or resumed: everything without an answer is sent (again). When it is
    /// another session, commits of the old one fail; returns the number of lanes that became free thereby.
    pub(super) fn welcomed(&mut self, session: SessionId) -> usize {
        let mut freed = 0;
        if session != self.session {
            let lost: Vec<u64> = self.pending.iter().filter(|(_, p)| p.lane.is_some()).map(|(id, _)| *id).collect();
            freed = lost.len();
            self.end_waits();
            for id in lost {
                if let Some(pending) = self.take_out(id) {
                    let what = "the session ended before its change was answered: it may or may not be done";
                    let _ = pending.tell.send(Err(FsError::io(what)));
                }
            }
            self.free = fresh_lanes();
            self.not_held.clear();
            self.session = session;
        }
        let mut ids: Vec<u64> = self.pending.keys().copied().collect();
        ids.sort_unstable();
        self.queue = ids.into();
        self.pending.values_mut().for_each(|p| p.beats = None);
        // The waits of the connection before ended with it.
        self.cancelled.clear();
        self.abandoning = false;
        self.welcomed = true;
        // Its echo is what leases are trusted by.
        self.beat = true;
        self.wake();
        freed
    }

    /// Whoever waits for a lock has lost those that it had.
    fn end_waits(&mut self) {
        let ids: Vec<u64> = self.pending.iter().filter(|(_, p)| !p.may_be_stuck()).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(pending) = self.take_out(id) {
                let _ = pending.tell.send(Err(FsError::io("the session ended, and all its locks with it")));
            }
        }
    }

    /// Sends a heartbeat, unless something else goes first. For how many of them the oldest call that was sent has
    /// waited for any answer.
    pub(super) fn beat(&mut self) -> u32 {
        self.beat = true;
        self.wake();
        let sent = self.pending.values_mut().filter_map(|p| p.beats.as_mut());
        sent.fold(0, |most, beats| {
            *beats += 1;
            most.max(*beats)
        })
    }

    /// Tells metad to end the session, and sends nothing else on this connection. Calls without an answer stay for
    /// the next session to judge.
    pub(super) fn abandon(&mut self) {
        self.abandoning = true;
        self.welcomed = false;
        self.wake();
    }

    /// The epoch that requests carry.
    pub(super) fn know_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// Says which inodes are not held open.
    pub(super) fn say_not_held(&mut self, inos: impl Iterator<Item = u64>) {
        self.not_held.extend(inos);
        self.not_held.truncate(limits::OPS);
        self.wake();
    }

    /// Gives leases back: their directories are not trusted any more.
    pub(super) fn say_returned(&mut self, dirs: impl Iterator<Item = u64>) {
        self.returned.extend(dirs);
        self.wake();
    }

    /// No call is taken from now on; the last request says so to metad.
    pub(super) fn end(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::Wanted;
        }
        self.wake();
    }

    /// Fails everything that waits; nothing is taken any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.connection += 1;
        self.queue.clear();
        self.wake();
        for (_, pending) in self.pending.drain() {
            let _ = pending.tell.send(Err(closed()));
        }
        self.given_up = 0;
        self.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;

    fn poll(calls: &mut Calls) -> Option<v1::SessionRequest> {
        let connection = calls.connection;
        match calls.poll_request(connection, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(request) => request,
            Poll::Pending => None,
        }
    }

    /// Of session 1, connected.
    fn welcomed() -> Calls {
        let mut calls = Calls::new();
        calls.connecting(v1::Hello::default());
        assert!(poll(&mut calls).is_some_and(|r| r.hello.is_some()));
        calls.welcomed(SessionId(1));
        calls
    }

    fn submit(calls: &mut Calls, session: Option<SessionId>) -> FsResult<u64> {
        match calls.submit_commit(session, v1::Commit::default(), 10, &[])? {
            Submitted::Sent(id, _) => Ok(id),
            _ => panic!("there is a lane, and nothing is in doubt"),
        }
    }

    #[test]
    fn a_call_is_stuck_only_while_it_is_sent_and_nothing_at_all_is_said_about_it() {
        let mut calls = welcomed();
        let id = submit(&mut calls, None).unwrap();
        assert_eq!(calls.beat(), 0, "it is not sent yet");
        assert_eq!(poll(&mut calls).unwrap().calls.len(), 1);
        assert_eq!((calls.beat(), calls.beat()), (1, 2));
        // A fault is an answer too: it is sent again a little later.
        assert_eq!(calls.answer(id, Some(v1::call_result::Body::Fault("later".into()))), After::Again(id));
        assert_eq!(calls.beat(), 0);
        calls.again(id);
        assert_eq!(poll(&mut calls).unwrap().calls.len(), 1);
        assert_eq!(calls.beat(), 1);
        // Another connection begins anew.
        calls.connecting(v1::Hello::default());
        assert!(poll(&mut calls).is_some_and(|r| r.hello.is_some()));
        calls.welcomed(SessionId(1));
        assert_eq!(calls.beat(), 0);
        assert_eq!(poll(&mut calls).unwrap().calls.len(), 1);
        assert_eq!(calls.beat(), 1);
        let done = v1::call_result::Body::Commit(v1::CommitReply::default());
        assert_eq!(calls.answer(id, Some(done)), After::LaneFree);
        assert_eq!(calls.beat(), 0);
    }

    #[test]
    fn what_belongs_to_a_session_is_not_taken_in_another() {
        let mut calls = welcomed();
        assert!(submit(&mut calls, Some(SessionId(1))).is_ok());
        calls.connecting(v1::Hello::default());
        calls.welcomed(SessionId(2));
        assert_eq!(submit(&mut calls, Some(SessionId(1))), Err(Refusal::NoSession.into()));
        assert!(submit(&mut calls, Some(SessionId(2))).is_ok() && submit(&mut calls, None).is_ok());
    }

    #[test]
    fn a_session_that_is_of_no_use_is_ended_and_nothing_else_is_said_in_it() {
        let mut calls = welcomed();
        let id = submit(&mut calls, None).unwrap();
        assert!(poll(&mut calls).is_some());
        let refused = v1::call_result::Body::Refusal(Refusal::LaneOrder.into());
        assert_eq!(calls.answer(id, Some(refused)), After::SessionSpoilt);
        submit(&mut calls, None).unwrap();
        calls.abandon();
        let last = poll(&mut calls).unwrap();
        assert!(last.close && last.calls.is_empty());
        calls.beat();
        assert!(poll(&mut calls).is_none());
        calls.connecting(v1::Hello::default());
        assert!(poll(&mut calls).is_some_and(|r| r.hello.is_some()));
        assert_eq!(calls.welcomed(SessionId(2)), 2, "both lanes are free again");
        assert!(poll(&mut calls).is_none_or(|r| !r.close && r.calls.is_empty()));
    }
}
