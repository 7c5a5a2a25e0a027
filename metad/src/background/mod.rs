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

use std::sync::Arc;
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
    tokio::spawn(async move {
        let mut freeing = freeing::Freeing::new(began);
        let mut mover = moves::Mover::default();
        let mut cleaning = cleaning::Cleaning::default();
        let mut sweep = sweep::Sweep::default();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let before = Instant::now();
            tick.tick().await;
            let late = before.elapsed().saturating_sub(TICK);
            if late >= STOOD_STILL {
                tracing::warn!(?late, "metad stood still; nodes and sessions get that time back");
                shared.nodes.forgive(late, Instant::now());
                shared.sessions.forgive(late, Instant::now());
            }
            space.look(&shared.engine);
            let steps = [
                ("node states", cluster::node_states(&shared).await),
                ("slots", cluster::slots(&shared).await),
                ("members of slots", mover.look(&shared).await),
                ("missed chunks", cluster::count_missed(&shared).await),
                ("cleaning", cleaning.look(&shared).await),
                ("sweep", sweep.look(&shared).await),
                ("sessions", sessions::end_silent(&shared, session_end).await),
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
