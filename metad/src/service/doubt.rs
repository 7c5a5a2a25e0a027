//! A question for locks whose holder may be dead: it waits for word of the holder.

use std::time::Duration;

use dfs_core::error::Refusal;
use dfs_core::query::{Answer, Query};

use super::session::answer;
use super::{Shared, now};
use crate::engine::Fault;
use crate::live::waits::Wanted;

/// How long a question for locks waits for word of a client that may be dead; less than a call may take.
const DOUBT_LASTS: Duration = Duration::from_secs(20);
/// Between looks at whether there is some.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Answers a question for locks when it is known whether the client of the one in the way lives. With a client that is dead
/// went what it had not saved: who is told of its lock and believes that somebody is there would build on what is gone.
pub(super) async fn get_lock_of_the_living(shared: &Shared, query: &Query) -> Result<Result<Answer, Refusal>, Fault> {
    let until = now() + DOUBT_LASTS;
    loop {
        let outcome = answer(shared, query);
        match &outcome {
            Ok(Ok(Answer::Lock(Some(held)))) if shared.sessions.is_doubtful(held.session, now()) && now() < until => {}
            _ => return outcome,
        }
        // So that it is ended when it is stale.
        if let Query::GetLock { ino, session, owner, range, kind } = *query {
            shared.waits.refused(Wanted { session, owner, ino, range, kind });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
