//! The one door for mutations: lanes, puts, groups.

use dfs_core::error::Refusal;
use dfs_core::id::{Seq, SessionId};
use dfs_core::limits::{GROUPS, LANES, OPS, PUTS};
use dfs_core::op::{Commit, CommitReply, Group, OpReply};

use crate::kv::Table;
use crate::machine::command::Reply;
use crate::machine::ops;
use crate::machine::puts::{self, Brought};
use crate::machine::txn::{Res, Stop, Txn};
use crate::schema::session::{LaneRow, SessionRow};
use crate::schema::{Record, keys};

/// Does a commit, or repeats its reply if it was done. A commit refused as a
/// whole does not use up its number.
pub(super) fn commit(txn: &mut Txn<'_, '_>, commit: &Commit) -> Res<Reply> {
    let session = txn.get::<SessionRow>(&keys::session(commit.session))?.ok_or(Refusal::NoSession)?;
    if commit.lane.0 >= LANES {
        return Err(Refusal::OverLimit.into());
    }
    let lane = keys::lane(commit.session, commit.lane);
    let last = txn.snap().get(Table::Lane, &lane)?;
    let done = last.as_ref().map_or(Ok(Seq(0)), |value| LaneRow::seq_of(&lane, value))?;
    match last {
        Some(last) if done == commit.seq => return Ok(Reply::Commit(LaneRow::from_value(&lane, &last)?.reply)),
        _ if done.0.checked_add(1) != Some(commit.seq.0) => return Err(Refusal::LaneOrder.into()),
        _ => {}
    }
    let ops: usize = commit.groups.iter().map(|g| g.ops.len()).sum();
    if commit.puts.len() > PUTS || commit.groups.len() > GROUPS || ops > OPS {
        return Err(Refusal::OverLimit.into());
    }

    let (verdicts, brought) = puts::enter(txn, &commit.puts)?;
    // What the puts themselves changed stays, whatever becomes of the groups.
    txn.accept_group();
    let mut groups: Vec<Result<Vec<OpReply>, Refusal>> = Vec::with_capacity(commit.groups.len());
    for group in &commit.groups {
        let outcome = one(txn, group, &groups, (commit.session, &session), &brought)?;
        groups.push(outcome);
    }
    let reply = CommitReply { puts: verdicts, groups };
    let row = LaneRow { seq: commit.seq, reply };
    txn.put(lane, &row);
    Ok(Reply::Commit(row.reply))
}

fn one(
    txn: &mut Txn<'_, '_>,
    group: &Group,
    before: &[Result<Vec<OpReply>, Refusal>],
    (session_id, session): (SessionId, &SessionRow),
    brought: &Brought,
) -> Res<Result<Vec<OpReply>, Refusal>> {
    for need in &group.needs {
        match before.get(usize::from(*need)) {
            Some(Ok(_)) => {}
            Some(Err(_)) => return Ok(Err(Refusal::Needed(*need))),
            None => return Ok(Err(Refusal::Invalid)),
        }
    }
    let savepoint = txn.begin_group();
    let call = ops::Call { time: group.time, session_id, session, brought };
    let replies: Res<Vec<OpReply>> = group.ops.iter().map(|op| ops::run(txn, &call, op)).collect();
    match replies {
        Ok(replies) => {
            txn.accept_group();
            Ok(Ok(replies))
        }
        Err(Stop::Refused(refusal)) => {
            txn.refuse_group(savepoint);
            Ok(Err(refusal))
        }
        Err(fault) => Err(fault),
    }
}
