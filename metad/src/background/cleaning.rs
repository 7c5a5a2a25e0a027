//! Cuts of files that want cleaning are handed to clients: they have the means to read and write chunks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use dfs_core::id::{Ino, SessionId};

use super::StepError;
use crate::machine::read;
use crate::service::Shared;

/// Between two looks. A client that has done what it was given gets more at the next one.
const LOOK: Duration = Duration::from_millis(200);
/// Due cuts looked at: what is not handed out is in the way of later ones only for a moment.
const DUE: usize = 1024;
/// Cuts that one client has at a time.
const EACH: usize = 4;
/// A cut that is still due so long after it was handed out is handed out again.
const PATIENCE: Duration = Duration::from_secs(60);
/// A client that was not heard for so long gets none.
const HEARD: Duration = Duration::from_secs(3);

/// Who has what.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    looked: Option<Instant>,
    given: HashMap<(Ino, u64), (SessionId, Instant)>,
}

impl Cleaning {
    pub(super) async fn look(&mut self, shared: &Shared) -> Result<(), StepError> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let (snapshot, now) = (shared.engine.snapshot(), shared.engine.now().as_millis());
        let due = tokio::task::spawn_blocking(move || read::clean_due(&*snapshot, now, DUE)).await??;
        let due: Vec<(Ino, u64)> = due.into_iter().map(|(_, ino, cut)| (ino, cut)).collect();
        let still: HashSet<(Ino, u64)> = due.iter().copied().collect();
        self.given.retain(|cut, (_, at)| at.elapsed() < PATIENCE && still.contains(cut));
        if due.is_empty() {
            return Ok(());
        }
        let mut has: HashMap<SessionId, usize> = HashMap::new();
        self.given.values().for_each(|(to, _)| *has.entry(*to).or_default() += 1);
        let heard = shared.sessions.view(Instant::now()).into_iter().filter(|s| s.silence < HEARD);
        let mut free: BTreeSet<(usize, SessionId)> =
            heard.map(|s| (has.get(&s.id).copied().unwrap_or(0), s.id)).filter(|(has, _)| *has < EACH).collect();
        for cut in due {
            if self.given.contains_key(&cut) {
                continue;
            }
            let Some((has, session)) = free.pop_first() else { break };
            shared.sessions.have_cleaned(session, cut);
            self.given.insert(cut, (session, Instant::now()));
            if has + 1 < EACH {
                free.insert((has + 1, session));
            }
        }
        Ok(())
    }
}
