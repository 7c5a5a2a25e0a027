//! Sessions that were silent for too long are ended.

use std::time::{Duration, Instant};

use super::{StepError, command};
use crate::machine::command::Command;
use crate::service::Shared;

pub(super) async fn end_silent(shared: &Shared, after: Duration) -> Result<(), StepError> {
    for session in shared.sessions.silent(Instant::now(), after) {
        tracing::warn!(session = session.0, silent = ?after, "ending a silent session");
        command(shared, Command::EndSession { session }).await?;
        shared.sessions.remove(session);
    }
    Ok(())
}
