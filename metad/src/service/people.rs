//! What people have done to the cluster, and what they are told about it.

use std::time::Instant;

use dfs_core::cluster::{ClusterMap, NodeState};
use dfs_core::error::Refusal;
use dfs_core::id::NodeId;
use dfs_proto::v1::{self, NodeChange};
use tonic::Status;

use crate::kv::Snapshot;
use crate::machine::command::{Command, Reply};
use crate::machine::{Fault, read};
use crate::service::{Service, Shared, fault};

impl Service {
    /// What a node is for.
    pub(super) async fn change(&self, node: NodeId, change: NodeChange) -> Result<(), Status> {
        let map = self.0.map();
        let known = map.nodes.get(&node).ok_or_else(|| Status::not_found("there is no such node"))?;
        let commands = match change {
            NodeChange::Unspecified => return Err(Status::invalid_argument("what is to be done with the node?")),
            NodeChange::Drain if known.state == NodeState::Retired => {
                return Err(Status::failed_precondition("the node is retired already"));
            }
            NodeChange::Drain => vec![Command::SetDraining { node, draining: true }],
            NodeChange::Resume => {
                let mut commands = vec![Command::SetDraining { node, draining: false }];
                if known.state == NodeState::Retired {
                    // It is up when it is heard.
                    commands.push(Command::SetNodeState { node, state: NodeState::Joining });
                }
                commands
            }
            NodeChange::Retire => {
                let places = places(&map, node);
                if places > 0 && known.state != NodeState::Down {
                    return Err(Status::failed_precondition(format!(
                        "the node is not down and has {places} places in slots: drain it"
                    )));
                }
                vec![Command::SetNodeState { node, state: NodeState::Retired }]
            }
        };
        for command in commands {
            match self.0.engine.submit(command).await.map_err(fault)? {
                Ok(_) => {}
                Err(Refusal::NoSpace) => return Err(Status::unavailable("the disk of the metadata is full")),
                Err(refused) => return Err(Status::failed_precondition(refused.to_string())),
            }
        }
        tracing::info!(%node, ?change, "somebody changed what a node is for");
        Ok(())
    }

    /// Deletion orders begin anew, above all that any node remembers.
    pub(super) async fn trust_again(&self) -> Result<u32, Status> {
        let above = self.0.nodes.highest_incarnation();
        match self.0.engine.submit(Command::Trust { above }).await.map_err(fault)? {
            Ok(Reply::Incarnation(incarnation)) => {
                tracing::warn!(incarnation, "somebody made nodes trust this metad again");
                Ok(incarnation)
            }
            Ok(other) => Err(fault(format!("unexpected reply {other:?}"))),
            Err(refused) => Err(Status::failed_precondition(refused.to_string())),
        }
    }
}

fn places(map: &ClusterMap, node: NodeId) -> usize {
    let of_node = |m: &&dfs_core::cluster::Member| map.stores.get(&m.store).is_some_and(|s| s.node == node);
    map.slots.values().flat_map(|s| &s.members).filter(of_node).count()
}

/// What is being done about missing copies.
pub(super) fn healing(shared: &Shared, snapshot: &dyn Snapshot, map: &ClusterMap) -> Result<v1::Healing, Fault> {
    let counters = read::counters(snapshot)?;
    let mut lacking = Vec::new();
    let (mut chunks, mut unlisted) = (0_u64, 0_u64);
    let mut behind = std::collections::BTreeSet::new();
    for store in map.stores.keys() {
        let missed = read::missed_count(snapshot, *store)?;
        chunks = chunks.saturating_add(missed);
        if missed > 0 {
            behind.insert(*store);
        }
    }
    for (id, slot) in &map.slots {
        let mut lacks = slot.members.len() < usize::from(map.replicas);
        for member in &slot.members {
            unlisted += u64::from(!member.full);
            lacks |= !member.full || (behind.contains(&member.store) && read::lacks_of(snapshot, member.store, *id)?);
        }
        if lacks {
            lacking.push(id.0);
        }
    }
    // A slot that is not listed yet has about as many chunks as any other.
    chunks = chunks.saturating_add(unlisted.saturating_mul(counters.chunks) / (map.slots.len() as u64).max(1));
    let bytes = u128::from(chunks) * u128::from(counters.chunk_bytes) / u128::from(counters.chunks.max(1));
    let rate = shared.healing.rate(Instant::now());
    Ok(v1::Healing {
        lacking,
        chunks,
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        chunks_per_second: rate.chunks,
        bytes_per_second: rate.bytes,
    })
}
