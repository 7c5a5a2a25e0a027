//! Going through all extents for cuts that want cleaning and were not noted; see [`crate::machine::sweep`].

use std::time::{Duration, Instant};

use dfs_core::id::Ino;

use super::{StepError, command};
use crate::machine::CHANGES;
use crate::machine::command::Command;
use crate::machine::sweep::{Cut, sweep};
use crate::service::Shared;

/// Extents looked at in one step: some thousands a second, which costs about a hundredth of a processor.
const ROWS: usize = 1000;
/// From the end of one round to the beginning of the next.
const REST: Duration = Duration::from_secs(3600);
const BEGIN: Cut = (Ino(0), 0);

/// How far it has come.
#[derive(Debug)]
pub(super) struct Sweep {
    from: Cut,
    rests_until: Option<Instant>,
}

impl Default for Sweep {
    /// The first round begins at once.
    fn default() -> Self {
        Self { from: BEGIN, rests_until: None }
    }
}

impl Sweep {
    pub(super) async fn look(&mut self, shared: &Shared) -> Result<(), StepError> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let (snapshot, from) = (shared.engine.snapshot(), self.from);
        let swept = tokio::task::spawn_blocking(move || sweep(&*snapshot, from, ROWS)).await??;
        for some in swept.wanting.chunks(CHANGES) {
            tracing::debug!(cuts = some.len(), "cuts want cleaning that were not noted");
            command(shared, Command::WantCleaning { cuts: some.to_vec() }).await?;
        }
        self.rests_until = swept.next.is_none().then(|| Instant::now() + REST);
        self.from = swept.next.unwrap_or(BEGIN);
        Ok(())
    }
}
