//! The passing of time turned into commands: silent nodes and sessions,
//! orphans, due work, tombstones. One task; each step is bounded, and what it
//! leaves is found again at the next tick, so an error is logged and no more.

pub(crate) use freeing::CONDEMN;

mod cleaning;
mod cluster;
mod freeing;
mod locks;
mod moves;
mod sessions;
mod space;
mod sweep;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::engine::Fault;
use crate::machine::command::{Command, Reply};
use crate::service::Shared;

/// Between two looks.
const TICK: Duration = Duration::from_millis(250);
/// A look that comes later than this finds that the whole process stood still (stopped, a paused machine).
const STOOD_STILL: Duration = Duration::from_secs(2);

/// Finds out when the whole process stood still. What it did not hear meanwhile is nobody's silence.
///
/// A task that does nothing else looks at every tick, so that a step that takes long is not taken for a standstill; and who
/// judges by silence looks first, since after a standstill anybody may be the first to go on.
#[derive(Debug)]
struct Watch(Mutex<Instant>);

impl Watch {
    /// How long the process stood still since the last look, if it did.
    fn stood(&self, now: Instant) -> Option<Duration> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let late = now.saturating_duration_since(*last).saturating_sub(TICK);
        *last = now.max(*last);
        (late >= STOOD_STILL).then_some(late)
    }

    fn look(&self, shared: &Shared) {
        let now = Instant::now();
        if let Some(late) = self.stood(now) {
            tracing::warn!(?late, "metad stood still; nodes and sessions get that time back");
            shared.nodes.forgive(late, now);
            shared.sessions.forgive(late, now);
        }
    }
}

/// A step failed; the next tick tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Machine(#[from] crate::machine::Fault),
    #[error("refused: {0}")]
    Refused(#[from] dfs_core::error::Refusal),
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Starts the task; it ends with the engine, or when aborted.
pub fn spawn(shared: Arc<Shared>, config: &Config) -> JoinHandle<()> {
    let began = Instant::now();
    let session_end = config.session_end();
    let mut space = space::Space::new(&config.data, config.reserve_mib << 20);
    tokio::spawn(locks::tell(shared.clone()));
    let watch = Arc::new(Watch(Mutex::new(began)));
    let (watching, watched) = (watch.clone(), Arc::downgrade(&shared));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(TICK).await;
            let Some(shared) = watched.upgrade() else { return };
            watching.look(&shared);
        }
    });
    tokio::spawn(async move {
        let mut freeing = freeing::Freeing::new(began);
        let mut mover = moves::Mover::default();
        let mut cleaning = cleaning::Cleaning::default();
        let mut sweep = sweep::Sweep::default();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            space.look(&shared.engine);
            let steps = [
                ("node states", {
                    watch.look(&shared);
                    cluster::node_states(&shared).await
                }),
                ("slots", cluster::slots(&shared).await),
                ("members of slots", mover.look(&shared).await),
                ("missed chunks", cluster::count_missed(&shared).await),
                ("cleaning", cleaning.look(&shared).await),
                ("sweep", sweep.look(&shared).await),
                ("sessions", {
                    watch.look(&shared);
                    sessions::end_silent(&shared, session_end).await
                }),
                ("orphans", freeing.orphans(&shared).await),
                ("due work", freeing.due(&shared).await),
                ("tombstones", freeing.tombstones(&shared).await),
            ];
            for (step, result) in steps {
                if let Err(error) = result {
                    tracing::warn!(%error, step, "a background step failed and is tried again");
                }
            }
        }
    })
}

async fn command(shared: &Shared, command: Command) -> Result<Reply, StepError> {
    Ok(shared.engine.submit(command).await??)
}
