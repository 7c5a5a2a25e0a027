//! The state machine: what each entry of the log does to the tables, and what
//! the tables answer.
//!
//! It owns every rule about what may change. It promises that the same entries
//! in the same order give the same tables and the same replies, on any machine:
//! there is no clock, no randomness, no task, no file and no socket in here, and
//! nothing is kept in memory but the cluster map, which is a copy of its rows. A
//! refusal has changed nothing. The engine calls it, with one writer.

use dfs_core::cluster::ClusterMap;
use dfs_core::error::Refusal;

use crate::kv::{Overlay, Snapshot};
use crate::machine::command::{Command, Entry, Place, Reply};
use crate::machine::txn::{Stop, Txn};
pub use crate::schema::Fault;
use crate::schema::cluster;

pub mod check;
mod chunks;
pub mod command;
mod commit;
mod copy;
mod extents;
pub mod locks;
mod ops;
mod puts;
mod query;
pub mod read;
mod runs;
pub(crate) mod sweep;
mod touched;
mod txn;

#[cfg(test)]
mod tests;

pub use ops::member::CHANGES;
pub use ops::slot::choose;
pub use query::{names, query};
pub use touched::touched;

/// The state machine. It knows the cluster map of the state that it was last applied to.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    map: ClusterMap,
}

impl Machine {
    /// The machine for a state; after a transaction was thrown away it is to be loaded anew.
    ///
    /// # Errors
    /// When the store fails or holds a damaged row.
    pub fn load(snap: &dyn Snapshot) -> Result<Self, Fault> {
        Ok(Self { map: cluster::load(snap)? })
    }

    /// The cluster map as of the last entry applied.
    #[must_use]
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// Does what an entry says, all of it or (a refusal) nothing.
    ///
    /// # Errors
    /// A fault: the store failed or contradicts itself. Then neither `kv` nor the machine may be used further.
    pub fn apply(
        &mut self,
        kv: &mut Overlay<'_>,
        place: Place,
        entry: &Entry,
    ) -> Result<Result<Reply, Refusal>, Fault> {
        let formatted = self.map.replicas > 0;
        if !formatted && !matches!(entry.command, Command::Format { .. }) {
            return Ok(Err(Refusal::Invalid));
        }
        // Entries are done or refused each by itself.
        kv.settle();
        let start = kv.savepoint();
        let mut txn = Txn::new(kv, &self.map, place, entry.now);
        let outcome = run(&mut txn, &entry.command).and_then(|reply| {
            txn.flush()?;
            Ok(reply)
        });
        let new_map = txn.into_new_map();
        match outcome {
            Ok(reply) => {
                if let Some(map) = new_map {
                    self.map = map;
                }
                Ok(Ok(reply))
            }
            Err(Stop::Refused(refusal)) => {
                kv.rollback_to(start);
                Ok(Err(refusal))
            }
            Err(Stop::Fault(fault)) => {
                kv.rollback_to(start);
                Err(fault)
            }
        }
    }
}

fn run(txn: &mut Txn<'_, '_>, command: &Command) -> Result<Reply, Stop> {
    match command {
        Command::Format { cluster, replicas, min_replicas, uid, gid } => {
            ops::format::format(txn, *cluster, (*replicas, *min_replicas), (*uid, *gid))
        }
        Command::Start { start } => ops::format::start(txn, *start),
        Command::Trust { above } => ops::format::trust(txn, *above),
        Command::Commit(commit) => commit::commit(txn, commit),
        Command::OpenSession { client } => ops::session::open(txn, client),
        Command::GrantInos { session, count } => ops::session::grant(txn, *session, *count),
        Command::EndSession { session } => ops::session::end(txn, *session),
        Command::NotHeld { session, inos } => ops::orphan::not_held(txn, *session, inos),
        Command::ReapOrphans { inos } => ops::orphan::reap_orphans(txn, inos),
        Command::ReapInode { ino } => ops::orphan::reap_inode(txn, *ino),
        Command::Condemn { chunks } => ops::condemn::condemn(txn, chunks),
        Command::DropTombstones { up_to, limit } => ops::condemn::drop_tombstones(txn, *up_to, *limit),
        Command::RegisterNode(node) => ops::node::register(txn, node),
        Command::SetNodeState { node, state } => ops::node::set_state(txn, *node, *state),
        Command::MakeSlots { first, members } => ops::slot::make(txn, *first, members),
        Command::AddMissed { store, loss, chunks } => ops::missed::add(txn, *store, *loss, chunks),
        Command::MissedDone { store, start, as_of, chunks } => ops::missed::done(txn, *store, *start, *as_of, chunks),
        Command::AddMembers { adds } => ops::member::join(txn, adds),
        Command::DropMember { slot, store, lost } => ops::member::leave(txn, *slot, *store, *lost),
        Command::CopyMember { slot, store, limit } => ops::member::list(txn, *slot, *store, *limit),
        Command::ForgetStore { store } => ops::node::forget_store(txn, *store),
        Command::WantCleaning { cuts } => ops::cleaned::want(txn, cuts),
        Command::SetDraining { node, draining } => ops::node::set_draining(txn, *node, *draining),
    }
}
