//! Tells who waits for a lock that it is free.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::service::Shared;

/// How long one who was told that a lock is free has to take it, before the next is told.
const TURN: Duration = Duration::from_millis(250);

/// Runs until metad shuts down.
pub(super) async fn tell(shared: Arc<Shared>) {
    let mut shutdown = shared.shutdown.clone();
    let mut turn = interval(TURN);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let later = tokio::select! {
            _ = shutdown.wait_for(|s| *s) => return,
            () = shared.waits.changed() => false,
            _ = turn.tick() => true,
        };
        let due = shared.waits.take_due(later);
        if due.is_empty() {
            continue;
        }
        let snap = shared.engine.snapshot();
        for ino in due {
            if let Err(error) = shared.waits.look(ino, &*snap) {
                tracing::error!(%ino, %error, "the locks of a file cannot be read");
            }
        }
    }
}
