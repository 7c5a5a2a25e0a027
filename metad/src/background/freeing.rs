//! Orphans, due work and tombstones: how space comes back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use dfs_core::id::{Ino, OrderNo};
use dfs_core::limits::{CONDEMN_AFTER, TOMBSTONE_STAY, TTL};

use super::{StepError, command};
use crate::machine::command::{Command, Reply};
use crate::machine::read::{self, Reap};
use crate::metrics;
use crate::service::Shared;

/// Orphans looked at in one tick.
const ORPHANS: usize = 4096;
/// Orphans given up in one command: with an extent or two each they are freed by it at once.
const GIVE_UP: usize = 1024;
/// Due rows taken in one tick.
const DUE: usize = 4096;
/// Chunks condemned in one command.
pub(crate) const CONDEMN: usize = 1024;
/// Steps of one tick at inodes with many extents.
const REAP_STEPS: usize = 256;
/// Tombstones removed in one command.
const TOMBSTONES: u32 = 4096;

#[derive(Debug)]
pub(super) struct Freeing {
    began: Instant,
    /// Where the next look at orphans begins.
    orphans_after: Option<Ino>,
    /// Since when all orders up to each were seen passed; the oldest first.
    passed: VecDeque<(Instant, OrderNo)>,
}

impl Freeing {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, orphans_after: None, passed: VecDeque::new() }
    }

    /// Asks sessions about the orphans that they may hold open, and gives up those that none can.
    pub(super) async fn orphans(&mut self, shared: &Shared) -> Result<(), StepError> {
        let (snapshot, after) = (shared.engine.snapshot(), self.orphans_after);
        let (orphans, next) = tokio::task::spawn_blocking(move || read::orphans(&*snapshot, after, ORPHANS)).await??;
        self.orphans_after = next;
        let now = shared.engine.now().as_millis();
        let wait = u64::try_from((2 * TTL).as_millis()).unwrap_or(u64::MAX);
        let mut free = Vec::new();
        for orphan in orphans {
            if orphan.since.saturating_add(wait) > now {
                continue;
            }
            if orphan.waiting.is_empty() {
                free.push(orphan.ino);
            }
            for session in orphan.waiting {
                shared.sessions.ask(session, orphan.ino);
            }
        }
        for inos in free.chunks(GIVE_UP) {
            command(shared, Command::ReapOrphans { inos: inos.to_vec() }).await?;
        }
        Ok(())
    }

    /// Condemns chunks without references and frees inodes, when they are due.
    pub(super) async fn due(&mut self, shared: &Shared) -> Result<(), StepError> {
        // The wait is counted anew after a start: a client may be about to name a chunk again.
        if self.began.elapsed() < CONDEMN_AFTER {
            return Ok(());
        }
        let snapshot = shared.engine.snapshot();
        let until = shared.engine.now().as_millis();
        let due = tokio::task::spawn_blocking(move || read::reap_due(&*snapshot, until, DUE)).await??;
        let mut chunks = Vec::new();
        let mut steps = 0;
        for (_, what) in due {
            match what {
                Reap::Chunk(slot, id) => chunks.push((slot, id)),
                Reap::Inode(ino) => {
                    while steps < REAP_STEPS {
                        steps += 1;
                        match command(shared, Command::ReapInode { ino }).await? {
                            Reply::Reaped { more: true } => {}
                            _ => break,
                        }
                    }
                }
            }
        }
        for part in chunks.chunks(CONDEMN) {
            if let Reply::Condemned { orders, .. } = command(shared, Command::Condemn { chunks: part.to_vec() }).await?
            {
                metrics::condemned(orders.len() as u64);
            }
        }
        Ok(())
    }

    /// Removes tombstones that every reachable store has passed for long enough.
    pub(super) async fn tombstones(&mut self, shared: &Shared) -> Result<(), StepError> {
        let map = shared.engine.map().borrow().clone();
        if let Some(passed) = shared.nodes.orders_passed(&map)
            && self.passed.back().is_none_or(|(_, last)| *last < passed)
        {
            self.passed.push_back((Instant::now(), passed));
        }
        let old = |at: Instant| at.elapsed() >= TOMBSTONE_STAY.max(Duration::from_secs(1));
        while let Some((_, up_to)) = self.passed.front().copied().filter(|(at, _)| old(*at)) {
            let snapshot = shared.engine.snapshot();
            let first = tokio::task::spawn_blocking(move || read::tombstones(&*snapshot, None, 1)).await??;
            if first.first().is_some_and(|t| t.order <= up_to) {
                command(shared, Command::DropTombstones { up_to, limit: TOMBSTONES }).await?;
                return Ok(());
            }
            self.passed.pop_front();
        }
        Ok(())
    }
}
