//! Who is connected, when each session was last heard, and what each is to be asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_core::id::{Ino, SessionId};
use dfs_core::limits::{HEARTBEAT, OPS, SESSION_GONE, SESSION_STALE};

/// Inodes that one session is asked about at a time.
const ASK_AT_ONCE: usize = OPS;

/// A session that was silent for so long may have lost its client.
const DOUBT: Duration = HEARTBEAT.saturating_mul(4);

#[derive(Debug)]
struct Live {
    client: String,
    heard: Instant,
    /// Since when no stream serves it.
    left: Option<Instant>,
    /// It is being ended: nobody can take it up any more.
    ending: bool,
    /// Number of the stream that serves it; a later one takes over.
    stream: u64,
    ask: BTreeSet<Ino>,
    clean: BTreeSet<(Ino, u64)>,
}

impl Live {
    fn is_stale(&self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        since(self.heard) >= SESSION_STALE || self.left.is_some_and(|at| since(at) >= SESSION_GONE)
    }
}

/// All sessions; one lock, held for moments.
#[derive(Debug, Default)]
pub struct Sessions {
    all: Mutex<(HashMap<SessionId, Live>, u64)>,
}

/// A session as people see it.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its number.
    pub id: SessionId,
    /// What it said of itself.
    pub client: String,
    /// Since it was last heard.
    pub silence: Duration,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, (HashMap<SessionId, Live>, u64)> {
        // A panic elsewhere leaves nothing half done in here.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session exists, heard at `now`; also at start, for those in the tables.
    pub fn add(&self, id: SessionId, client: String, now: Instant) {
        self.lock().0.insert(
            id,
            Live {
                client,
                heard: now,
                left: Some(now),
                ending: false,
                stream: 0,
                ask: BTreeSet::new(),
                clean: BTreeSet::new(),
            },
        );
    }

    /// A stream begins to serve it; earlier streams of the session are told to end. `None`: no such session.
    pub fn attach(&self, id: SessionId, now: Instant) -> Option<u64> {
        let mut all = self.lock();
        all.1 += 1;
        let number = all.1;
        let live = all.0.get_mut(&id).filter(|live| !live.ending)?;
        (live.stream, live.heard, live.left) = (number, now, None);
        Some(number)
    }

    /// It was heard on this stream. False: the session ended, or another stream serves it now.
    pub fn heard(&self, id: SessionId, stream: u64, now: Instant) -> bool {
        match self.lock().0.get_mut(&id) {
            Some(live) if live.stream == stream => {
                live.heard = now;
                true
            }
            _ => false,
        }
    }

    /// A stream has ended.
    pub fn left(&self, id: SessionId, stream: u64, now: Instant) {
        if let Some(live) = self.lock().0.get_mut(&id).filter(|live| live.stream == stream) {
            live.left = Some(now);
        }
    }

    /// Those whose client is dead, as far as anybody can tell, or cut off: silent for too long, or too long without a
    /// stream.
    pub fn stale(&self, now: Instant) -> Vec<SessionId> {
        self.lock().0.iter().filter(|(_, l)| l.is_stale(now)).map(|(id, _)| *id).collect()
    }

    /// Begins to end a session if it is still silent for at least this long, or, when others want what it has, stale.
    /// From then on nobody can take it up: a client that comes back meanwhile is told that it has ended.
    pub fn begin_end(&self, id: SessionId, at_least: Duration, is_wanted: bool, now: Instant) -> bool {
        let mut all = self.lock();
        let Some(live) = all.0.get_mut(&id) else { return false };
        let silent = now.saturating_duration_since(live.heard) >= at_least;
        live.ending |= silent || (is_wanted && live.is_stale(now));
        live.ending
    }

    /// Whether its client may be dead: no stream serves it, or some heartbeats are late.
    pub fn is_doubtful(&self, id: SessionId, now: Instant) -> bool {
        let all = self.lock();
        all.0.get(&id).is_some_and(|l| l.left.is_some() || now.saturating_duration_since(l.heard) >= DOUBT)
    }

    /// Whether this stream serves the session.
    pub fn is_served_by(&self, id: SessionId, stream: u64) -> bool {
        self.lock().0.get(&id).is_some_and(|live| live.stream == stream)
    }

    /// It has ended.
    pub fn remove(&self, id: SessionId) {
        self.lock().0.remove(&id);
    }

    /// Those silent for at least this long.
    pub fn silent(&self, now: Instant, at_least: Duration) -> Vec<SessionId> {
        let old = |l: &Live| now.saturating_duration_since(l.heard) >= at_least;
        self.lock().0.iter().filter(|(_, l)| old(l)).map(|(id, _)| *id).collect()
    }

    /// metad itself stood still for this long: that was nobody's silence.
    pub fn forgive(&self, stood: Duration, now: Instant) {
        for live in self.lock().0.values_mut() {
            live.heard = (live.heard + stood).min(now);
            live.left = live.left.map(|at| (at + stood).min(now));
        }
    }

    /// The session is to be asked whether it holds this inode open.
    pub fn ask(&self, id: SessionId, ino: Ino) {
        if let Some(live) = self.lock().0.get_mut(&id)
            && live.ask.len() < ASK_AT_ONCE
        {
            live.ask.insert(ino);
        }
    }

    /// Takes what it is to be asked.
    pub fn take_questions(&self, id: SessionId) -> Vec<Ino> {
        self.lock().0.get_mut(&id).map(|l| std::mem::take(&mut l.ask)).unwrap_or_default().into_iter().collect()
    }

    /// The session is to clean this cut of a file.
    pub fn have_cleaned(&self, id: SessionId, cut: (Ino, u64)) {
        if let Some(live) = self.lock().0.get_mut(&id)
            && live.clean.len() < ASK_AT_ONCE
        {
            live.clean.insert(cut);
        }
    }

    /// Takes what it is to clean.
    pub fn take_cuts(&self, id: SessionId) -> Vec<(Ino, u64)> {
        self.lock().0.get_mut(&id).map(|l| std::mem::take(&mut l.clean)).unwrap_or_default().into_iter().collect()
    }

    /// All, by number.
    pub fn view(&self, now: Instant) -> Vec<SessionView> {
        let mut all: Vec<_> = self
            .lock()
            .0
            .iter()
            .map(|(id, l)| SessionView {
                id: *id,
                client: l.client.clone(),
                silence: now.saturating_duration_since(l.heard),
            })
            .collect();
        all.sort_by_key(|s| s.id);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_stream_takes_over() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        assert_eq!(sessions.attach(SessionId(1), now), None);
        sessions.add(SessionId(1), "c".into(), now);
        let first = sessions.attach(SessionId(1), now).unwrap();
        assert!(sessions.heard(SessionId(1), first, now));
        let second = sessions.attach(SessionId(1), now).unwrap();
        assert!(!sessions.heard(SessionId(1), first, now));
        assert!(!sessions.is_served_by(SessionId(1), first) && sessions.is_served_by(SessionId(1), second));
        assert!(sessions.heard(SessionId(1), second, now + Duration::from_secs(3)));
        assert!(sessions.silent(now + Duration::from_secs(5), Duration::from_secs(3)).is_empty());
        assert_eq!(sessions.silent(now + Duration::from_secs(6), Duration::from_secs(3)), [SessionId(1)]);
    }

    #[test]
    fn who_has_left_is_doubted_at_once_and_stale_soon() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (id, at) = (SessionId(1), |s| now + Duration::from_secs(s));
        sessions.add(id, "of before a start".into(), now);
        assert!(sessions.is_doubtful(id, now) && !sessions.is_doubtful(SessionId(2), now));
        let first = sessions.attach(id, at(1)).unwrap();
        assert!(!sessions.is_doubtful(id, at(4)) && sessions.is_doubtful(id, at(5)));
        let second = sessions.attach(id, at(5)).unwrap();
        sessions.left(id, first, at(5));
        assert!(!sessions.is_doubtful(id, at(5)), "another stream serves it");
        sessions.left(id, second, at(6));
        assert!(sessions.is_doubtful(id, at(6)));
        assert!(sessions.stale(at(15)).is_empty());
        sessions.forgive(Duration::from_secs(2), at(16));
        assert!(sessions.stale(at(17)).is_empty());
        assert_eq!(sessions.stale(at(18)), [id]);
        let long = Duration::from_secs(600);
        sessions.attach(id, at(18));
        assert!(!sessions.begin_end(id, long, true, at(18)), "it came back in time");
        assert!(sessions.stale(at(47)).is_empty());
        assert_eq!(sessions.stale(at(48)), [id], "a stream that brings nothing");
        assert!(!sessions.begin_end(id, long, false, at(48)), "nobody wants what it has");
        assert!(sessions.begin_end(id, long, true, at(48)));
        assert_eq!(sessions.attach(id, at(48)), None, "too late");
    }

    #[test]
    fn what_metad_stood_still_is_nobodys_silence() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        sessions.add(SessionId(1), "silent before".into(), now);
        sessions.add(SessionId(2), "heard since".into(), at(100));
        sessions.forgive(Duration::from_secs(90), at(100));
        let silence: Vec<_> = sessions.view(at(100)).iter().map(|s| s.silence.as_secs()).collect();
        assert_eq!(silence, [10, 0]);
    }

    #[test]
    fn questions_are_asked_once_and_bounded() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        sessions.add(SessionId(1), "c".into(), now);
        for n in 0..ASK_AT_ONCE as u64 + 10 {
            sessions.ask(SessionId(1), Ino(n));
            sessions.ask(SessionId(1), Ino(n));
        }
        assert_eq!(sessions.take_questions(SessionId(1)).len(), ASK_AT_ONCE);
        assert!(sessions.take_questions(SessionId(1)).is_empty());
    }
}
