//! The one task of a session: opens the stream, hands answers to their callers, says once a second that the
//! client lives, and after a break connects again and resumes.
//!
//! It promises that calls survive any number of broken streams, and that a
//! session which metad no longer knows is replaced by a new one only after
//! everybody who rests on the old one has heard of it.

use std::sync::Arc;
use std::time::Duration;

use dfs_core::cluster::{ClusterMap, StoreLoad};
use dfs_core::id::{Ino, SessionId};
use dfs_core::limits;
use dfs_proto::v1;
use dfs_proto::v1::meta_client::MetaClient as Wire;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::calls::After;
use super::outbox::Outbox;
use super::{Loads, Shared, kin};
use crate::error::{FsError, FsResult};
use crate::lock::lock;

/// Longest wait for metad's first words on a stream.
const WELCOME: Duration = Duration::from_secs(5);
/// A stream on which calls wait and nothing comes for this long is given up for another.
const SILENCE: Duration = Duration::from_secs(10);
/// A stream that does not bring the answer to a call for so many heartbeats is given up, whatever else it brings.
const STUCK: u32 = 20;
/// Longest wait for metad to end a session that is of no use any more.
const ABANDON: Duration = Duration::from_secs(2);
/// A call that met a fault is sent again after this.
const AGAIN: Duration = Duration::from_millis(100);
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_LAST: Duration = Duration::from_secs(1);

/// Why a stream could not be opened.
#[derive(Debug)]
enum NotOpened {
    /// The session to resume has ended.
    SessionEnded,
    /// metad will not have this client, now or later.
    Refused(String),
    /// It may work in a moment.
    NotNow(String),
}

/// Why a stream is no longer served.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Broken(String),
    SessionLost,
    /// It is to be ended.
    SessionSpoilt,
    Closed,
}

/// Opens the first session and leaves a task to serve it.
pub(super) async fn start(shared: &Arc<Shared>, channel: Channel) -> FsResult<()> {
    let mut wire: Wire<Channel> = dfs_proto::client::meta_client(channel);
    let until = Instant::now() + shared.connect_deadline;
    let mut pause = BACKOFF_FIRST;
    let stream = loop {
        match timeout_at(until, open(shared, &mut wire, SessionId(0))).await {
            Ok(Ok((stream, session, loads))) => {
                enter(shared, session, &loads);
                break stream;
            }
            Ok(Err(NotOpened::Refused(why))) => {
                return Err(FsError::Io(format!("metad at {} refuses this client: {why}", shared.addr)));
            }
            Ok(Err(NotOpened::SessionEnded)) => {}
            Ok(Err(NotOpened::NotNow(why))) if Instant::now() + pause >= until => return Err(away(shared, &why)),
            Ok(Err(NotOpened::NotNow(_))) => {}
            Err(_) => return Err(away(shared, "no answer")),
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_LAST);
    };
    // Before anybody asks who has which lock.
    kin::bury_dead(&wire).await;
    tokio::spawn(run(Arc::clone(shared), wire, stream));
    Ok(())
}

fn away(shared: &Shared, why: &str) -> FsError {
    let (addr, waited) = (&shared.addr, shared.connect_deadline);
    FsError::Io(format!(
        "metad at {addr} cannot be reached ({why}; tried for {waited:?}): check that it runs and that the address is right"
    ))
}

async fn run(shared: Arc<Shared>, mut wire: Wire<Channel>, mut stream: Streaming<v1::SessionResponse>) {
    loop {
        let begun = Instant::now();
        let stop = serve(&shared, &mut stream).await;
        shared.leases.lost();
        if lock(&shared.calls).is_ending() {
            break;
        }
        if begun.elapsed() < BACKOFF_LAST {
            // A server that lets everybody in and throws them out again must not be asked without a pause.
            sleep(AGAIN).await;
        }
        let mut resume = shared.session();
        match &stop {
            Stop::Broken(why) => tracing::warn!(session = %resume, why, "stream to metad broke, connecting again"),
            Stop::SessionLost => resume = SessionId(0),
            Stop::SessionSpoilt => {
                abandon(&shared, &mut stream).await;
                resume = SessionId(0);
            }
            Stop::Closed => break,
        }
        // The stream before may have brought one while it was given up.
        shared.leases.lost();
        match again(&shared, &mut wire, resume).await {
            Some(next) => stream = next,
            None => break,
        }
    }
    lock(&shared.calls).close();
    shared.closed.send_replace(true);
}

/// Has metad end the session: it would otherwise keep what is held in it for as long as it takes it for silent.
async fn abandon(shared: &Shared, stream: &mut Streaming<v1::SessionResponse>) {
    lock(&shared.calls).abandon();
    let ended = timeout(ABANDON, async {
        while let Ok(Some(message)) = stream.message().await {
            // What is still answered need not stay unknown.
            take(shared, message, &mut Vec::new());
        }
    });
    if ended.await.is_err() {
        tracing::warn!(session = %shared.session(), "metad did not end the session in time");
    }
}

/// Connects until it works; `None` when the client wants to end.
async fn again(
    shared: &Arc<Shared>,
    wire: &mut Wire<Channel>,
    resume: SessionId,
) -> Option<Streaming<v1::SessionResponse>> {
    let mut resume = resume;
    let mut pause = BACKOFF_FIRST;
    loop {
        let opened = tokio::select! {
            opened = open(shared, wire, resume) => opened,
            () = shared.end.notified() => return None,
        };
        match opened {
            Ok((stream, session, loads)) => {
                enter(shared, session, &loads);
                metrics::counter!("dfs_client_reconnects_total").increment(1);
                return Some(stream);
            }
            Err(NotOpened::SessionEnded) => {
                tracing::error!(session = %resume, "metad has ended this session; what was not saved is lost");
                resume = SessionId(0);
                continue;
            }
            Err(NotOpened::Refused(why)) => {
                tracing::error!(why, "metad refuses this client");
                pause = BACKOFF_LAST;
            }
            Err(NotOpened::NotNow(why)) => tracing::debug!(why, "metad cannot be reached"),
        }
        tokio::select! {
            () = sleep(pause.mul_f64(rand::random_range(0.5..1.0))) => {}
            () = shared.end.notified() => return None,
        }
        pause = (pause * 2).min(BACKOFF_LAST);
    }
}

type Opened = (Streaming<v1::SessionResponse>, SessionId, v1::SessionResponse);

async fn open(shared: &Arc<Shared>, wire: &mut Wire<Channel>, resume: SessionId) -> Result<Opened, NotOpened> {
    let cluster = shared.map().cluster;
    let hello = v1::Hello {
        protocol: dfs_proto::PROTOCOL,
        session: resume.0,
        client: shared.client_name.clone(),
        cluster: if cluster.0 == 0 { Vec::new() } else { cluster.to_bytes().to_vec() },
    };
    let connection = lock(&shared.calls).connecting(hello);
    let outbox = Outbox { shared: Arc::clone(shared), connection };
    let first = timeout(WELCOME, async {
        let mut stream = wire.session(outbox).await?.into_inner();
        let first = stream.message().await?;
        Ok::<_, Status>((stream, first))
    });
    let (stream, first) = match first.await {
        Err(_) => return Err(NotOpened::NotNow(format!("no welcome within {WELCOME:?}"))),
        Ok(Err(status)) => return Err(not_opened(&status, resume)),
        Ok(Ok((_, None))) => return Err(NotOpened::NotNow("the stream ended before its welcome".into())),
        Ok(Ok((stream, Some(first)))) => (stream, first),
    };
    let Some(welcome) = &first.welcome else {
        return Err(NotOpened::NotNow("the first message is not a welcome".into()));
    };
    let session = SessionId(welcome.session);
    if session.0 == 0 {
        return Err(NotOpened::NotNow("a welcome without a session".into()));
    }
    if let Some(map) = welcome.map.clone() {
        match ClusterMap::try_from(map) {
            Ok(map) => shared.new_map(map, true),
            Err(e) => return Err(NotOpened::NotNow(format!("a welcome with a bad cluster map: {e}"))),
        }
    }
    Ok((stream, session, first))
}

fn not_opened(status: &Status, resume: SessionId) -> NotOpened {
    match status.code() {
        Code::NotFound if resume.0 != 0 => NotOpened::SessionEnded,
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
            NotOpened::Refused(status.message().into())
        }
        code => NotOpened::NotNow(format!("{code:?}: {}", status.message())),
    }
}

/// Begins to use an opened stream. Whoever rests on an old session hears of its end first.
fn enter(shared: &Shared, session: SessionId, first: &v1::SessionResponse) {
    let old = shared.session();
    if old != session && old.0 != 0 {
        metrics::counter!("dfs_client_sessions_lost_total").increment(1);
        tracing::error!(%old, new = %session, "the session was lost, going on with a new one");
        if let Some(tell) = shared.on_lost.get() {
            tell(old, session);
        }
    }
    shared.new_loads(&first.loads);
    let freed = lock(&shared.calls).welcomed(session);
    shared.lanes.add_permits(freed);
}

/// Serves a stream until it breaks.
async fn serve(shared: &Shared, stream: &mut Streaming<v1::SessionResponse>) -> Stop {
    let mut beat = interval_at(Instant::now() + limits::HEARTBEAT, limits::HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut later: Vec<u64> = Vec::new();
    let mut later_at = heard;
    let mut ending_beats = 0;
    loop {
        tokio::select! {
            biased;
            message = stream.message() => match message {
                Ok(Some(message)) => {
                    heard = Instant::now();
                    let had = later.len();
                    if let Some(stop) = take(shared, message, &mut later) {
                        return stop;
                    }
                    if had == 0 {
                        later_at = heard + AGAIN;
                    }
                }
                Ok(None) if lock(&shared.calls).is_ending() => return Stop::Closed,
                Ok(None) => return Stop::Broken("metad ended the stream".into()),
                Err(status) => return Stop::Broken(format!("{:?}: {}", status.code(), status.message())),
            },
            () = sleep_until(later_at), if !later.is_empty() => {
                let mut calls = lock(&shared.calls);
                later.drain(..).for_each(|id| calls.again(id));
            }
            _ = beat.tick() => {
                let mut calls = lock(&shared.calls);
                if calls.is_ending() {
                    ending_beats += 1;
                    if ending_beats > 2 {
                        return Stop::Closed;
                    }
                }
                let waited = calls.beat();
                if waited > STUCK {
                    return Stop::Broken(format!("an answer did not come for {waited} heartbeats, others did"));
                }
                if !calls.is_waiting() {
                    heard = Instant::now();
                } else if heard.elapsed() > SILENCE {
                    return Stop::Broken(format!("no answer for {SILENCE:?}"));
                }
            }
        }
    }
}

/// Takes in one message; says when the session can go on no longer.
pub(super) fn take(shared: &Shared, message: v1::SessionResponse, later: &mut Vec<u64>) -> Option<Stop> {
    let mut stop = None;
    if !message.results.is_empty() {
        let mut freed = 0;
        let mut calls = lock(&shared.calls);
        for result in message.results {
            match calls.answer(result.id, result.body) {
                After::Nothing => {}
                After::LaneFree => freed += 1,
                After::Again(id) => later.push(id),
                After::SessionLost => stop = Some(Stop::SessionLost),
                After::SessionSpoilt => {
                    stop.get_or_insert(Stop::SessionSpoilt);
                }
            }
        }
        drop(calls);
        if freed > 0 {
            shared.lanes.add_permits(freed);
        }
    }
    if let Some(map) = message.map {
        match ClusterMap::try_from(map) {
            Ok(map) => shared.new_map(map, false),
            Err(e) => tracing::error!(%e, "metad sent a cluster map that makes no sense"),
        }
    }
    shared.new_loads(&message.loads);
    if message.beat != 0 {
        shared.leases.echoed(message.beat);
    }
    if !message.recall.is_empty() {
        let dirs: Vec<Ino> = message.recall.into_iter().map(Ino).collect();
        shared.give_up(&dirs);
    }
    if !message.clean.is_empty()
        && let Some(clean) = shared.on_clean.get()
    {
        clean(message.clean.into_iter().map(|at| (Ino(at.ino), at.cut)).collect());
    }
    if !message.held.is_empty()
        && let Some(ask) = shared.on_held.get()
    {
        let inos: Vec<Ino> = message.held.into_iter().map(Ino).collect();
        let not_held = ask(&inos);
        if !not_held.is_empty() {
            lock(&shared.calls).say_not_held(not_held.into_iter().map(|ino| ino.0));
        }
    }
    stop
}

impl Shared {
    /// Takes over a map; an older one only from a welcome.
    fn new_map(&self, map: ClusterMap, welcome: bool) {
        lock(&self.calls).know_epoch(map.epoch);
        self.map.send_if_modified(|now| {
            let newer = map.epoch > now.epoch || (welcome && **now != map);
            if newer {
                *now = Arc::new(map);
            }
            newer
        });
    }

    fn new_loads(&self, loads: &[v1::StoreLoad]) {
        if loads.is_empty() {
            return;
        }
        let map = self.map();
        self.loads.send_modify(|now| {
            let mut next: Loads = now.as_ref().clone();
            next.retain(|store, _| map.stores.contains_key(store));
            for load in loads {
                match StoreLoad::try_from(load.clone()) {
                    Ok(load) => {
                        next.insert(load.store, load);
                    }
                    Err(e) => tracing::error!(%e, "metad sent a store's load that makes no sense"),
                }
            }
            *now = Arc::new(next);
        });
    }
}
