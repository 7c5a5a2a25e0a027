//! Sessions that were silent for too long are ended.

use std::time::{Duration, Instant};

use dfs_core::error::Refusal;

use super::{StepError, command};
use crate::machine::command::Command;
use crate::service::Shared;

pub(super) async fn end_silent(shared: &Shared, after: Duration) -> Result<(), StepError> {
    for session in shared.sessions.silent(Instant::now(), after) {
        tracing::warn!(session = session.0, silent = ?after, "ending a silent session");
        match command(shared, Command::EndSession { session }).await {
            // Its client may have closed it at the same time.
            Ok(_) | Err(StepError::Refused(Refusal::NoSession)) => shared.sessions.remove(session),
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
