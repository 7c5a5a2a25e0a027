//! Sessions that were silent for too long are ended: after minutes, or as soon as they are stale and have what
//! others want.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use dfs_core::error::Refusal;
use dfs_core::id::{Ino, SessionId};

use super::{StepError, command};
use crate::machine::command::Command;
use crate::machine::locks::{Owner, owners};
use crate::service::Shared;

pub(super) async fn end_silent(shared: &Shared, after: Duration) -> Result<(), StepError> {
    let silent = shared.sessions.silent(Instant::now(), after);
    let due = silent.into_iter().map(|session| (session, false));
    let due = due.chain(in_the_way(shared)?.into_iter().map(|session| (session, true)));
    for (session, is_wanted) in due.collect::<Vec<_>>() {
        if !shared.sessions.begin_end(session, after, is_wanted, Instant::now()) {
            continue;
        }
        tracing::warn!(session = session.0, "ending a session that was silent for too long");
        match command(shared, Command::EndSession { session }).await {
            // Its client may have closed it at the same time.
            Ok(_) | Err(StepError::Refused(Refusal::NoSession)) => {
                shared.sessions.remove(session);
                shared.leases.end(session);
                shared.waits.freed_many();
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Stale sessions with locks that keep somebody from having the lock that he wants.
fn in_the_way(shared: &Shared) -> Result<HashSet<SessionId>, StepError> {
    let contended = shared.waits.take_contended();
    let stale = shared.sessions.stale(Instant::now());
    let mut found = HashSet::new();
    if stale.is_empty() {
        return Ok(found);
    }
    let snap = shared.engine.snapshot();
    // Many may want locks of one file.
    let mut files: HashMap<Ino, Vec<Owner>> = HashMap::new();
    for wanted in contended {
        let held = match files.entry(wanted.ino) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let mut held = owners(&*snap, wanted.ino)?;
                held.retain(|owner| stale.contains(&owner.session));
                unknown.insert(held)
            }
        };
        let in_the_way = held.iter().filter(|owner| {
            !owner.is(wanted.session, wanted.owner) && owner.blocking(wanted.range, wanted.kind).is_some()
        });
        found.extend(in_the_way.map(|owner| owner.session));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {

    use dfs_core::attr::FileKind;
    use dfs_core::id::{LaneId, LockOwner, Seq};
    use dfs_core::limits::SESSION_STALE;
    use dfs_core::lock::{LockChange, LockKind};
    use dfs_core::name::Name;
    use dfs_core::op::{Commit, Create, Group, Op};
    use dfs_core::range::ByteRange;
    use dfs_core::time::Timestamp;

    use super::*;
    use crate::live::waits::Wanted;
    use crate::machine::command::Reply;
    use crate::service::testing::shared;

    #[tokio::test]
    async fn a_stale_session_ends_when_others_want_what_it_locked_and_not_before() {
        let tmp = tempfile::tempdir().unwrap();
        let (shared, now) = (shared(tmp.path()), Instant::now());
        let engine = &shared.engine;
        let opened = engine.submit(Command::OpenSession { client: "silent".into() }).await;
        let Ok(Ok(Reply::Session(session))) = opened else { panic!("{opened:?}") };
        let granted = engine.submit(Command::GrantInos { session, count: 1 }).await;
        let Ok(Ok(Reply::Inos { start: ino, .. })) = granted else { panic!("{granted:?}") };
        let name = Name::new(b"f").unwrap();
        let (parent, kind, target) = (Ino::ROOT, FileKind::File, Vec::new());
        let create = Create { ino, parent, name, kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target, umask: 0 };
        let range = ByteRange { start: 0, end: 1 };
        let lock = LockChange { ino, owner: LockOwner(1), pid: 1, range, kind: Some(LockKind::Write) };
        let ops = vec![Op::Create(create), Op::Lock(lock)];
        let groups = vec![Group { time: Timestamp::default(), needs: Vec::new(), ops }];
        let commit = Commit { session, lane: LaneId(0), seq: Seq(1), puts: Vec::new(), groups };
        let done = engine.submit(Command::Commit(commit)).await;
        assert!(matches!(&done, Ok(Ok(Reply::Commit(reply))) if reply.groups[0].is_ok()), "{done:?}");

        let long = Duration::from_secs(600);
        let known = |shared: &Shared| !shared.sessions.view(Instant::now()).is_empty();
        shared.sessions.add(session, "silent".into(), now.checked_sub(SESSION_STALE).unwrap());
        end_silent(&shared, long).await.unwrap();
        assert!(known(&shared), "nobody wants anything of it");
        let want = |ino: u64, start, kind| {
            let (session, range) = (SessionId(session.0 + 1), ByteRange { start, end: start + 1 });
            shared.waits.refused(Wanted { session, owner: LockOwner(1), ino: Ino(ino), range, kind });
        };
        want(ino.0 + 1, 0, LockKind::Read);
        end_silent(&shared, long).await.unwrap();
        assert!(known(&shared), "it has no lock of that file");
        want(ino.0, 1, LockKind::Write);
        end_silent(&shared, long).await.unwrap();
        assert!(known(&shared), "what is wanted it has not");
        shared.sessions.add(session, "back".into(), Instant::now());
        want(ino.0, 0, LockKind::Read);
        end_silent(&shared, long).await.unwrap();
        assert!(known(&shared), "it is not stale");
        shared.sessions.add(session, "silent".into(), now.checked_sub(SESSION_STALE).unwrap());
        want(ino.0, 0, LockKind::Read);
        end_silent(&shared, long).await.unwrap();
        assert!(!known(&shared));
        assert!(owners(&*shared.engine.snapshot(), ino).unwrap().is_empty());
    }
}
