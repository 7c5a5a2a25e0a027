//! `dfs node drain`: asks for it, and shows how far it is.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use dfs_proto::v1::{ClusterMap, MapNode, NodeChange, NodeState};
use serde::Serialize;

use super::{ask, find, say};
use crate::cmd::status;
use crate::connect::Meta;
use crate::show::{count, hex};

/// Between looks.
const LOOK: Duration = Duration::from_millis(500);
/// A line at least so often while it goes on.
const SAY: Duration = Duration::from_secs(2);
/// metad may be away for so long.
const AWAY: Duration = Duration::from_secs(60);
/// Without any change for so long it is said why that may be.
const STUCK: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Drained {
    node: String,
    retired: bool,
    slots_left: usize,
}

pub(super) async fn run(meta: &mut Meta, given: &str, no_wait: bool, json: bool) -> anyhow::Result<u8> {
    let status = status::fetch(meta).await?;
    let map = status.map.context("metad sent no map")?;
    let node = find(&map, given)?;
    let (id, name) = (node.id.clone(), hex(&node.id));
    ask(meta, id.clone(), NodeChange::Drain).await?;
    let mut left = places(&map, node);
    let mut retired = false;
    if !no_wait {
        say(&format!(
            "draining node {name}: {} to move; it goes on if this command ends, `dfs node resume {}` cancels it",
            count(left as u64, "slot", "slots"),
            name.get(..12).unwrap_or(&name)
        ));
        (retired, left) = follow(meta, &id).await?;
    }
    let drained = Drained { node: name, retired, slots_left: left };
    super::super::print(json, &drained, || match drained.retired {
        true => format!("node {} is retired: it holds nothing that is needed and may be taken away\n", drained.node),
        false => format!("node {} is draining, {} left\n", drained.node, count(left as u64, "slot", "slots")),
    })?;
    // Somebody has cancelled it.
    Ok(u8::from(!no_wait && !retired))
}

/// Until it is retired, or not draining any more; the slots that are left.
async fn follow(meta: &mut Meta, id: &[u8]) -> anyhow::Result<(bool, usize)> {
    let began = Instant::now();
    let mut first = None;
    let mut failed: Option<Instant> = None;
    let (mut last, mut changed, mut said) = (usize::MAX, Instant::now(), Instant::now());
    loop {
        let status = match status::fetch(meta).await {
            Ok(status) => status,
            // It may be restarting: draining goes on when it is back.
            Err(e) if failed.get_or_insert_with(Instant::now).elapsed() > AWAY => return Err(e),
            Err(_) => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
        };
        failed = None;
        let map = status.map.context("metad sent no map")?;
        let node = map.nodes.iter().find(|n| n.id == id).context("the node is gone from the map")?;
        let left = places(&map, node);
        if node.state == NodeState::Retired as i32 || !node.draining {
            return Ok((node.state == NodeState::Retired as i32, left));
        }
        let first = *first.get_or_insert(left);
        if left != last {
            (last, changed) = (left, Instant::now());
        }
        if said.elapsed() >= SAY {
            said = Instant::now();
            let waits = if changed.elapsed() > STUCK {
                "; nothing moved for a while: are there enough other nodes that are up and have room (`dfs status`)?"
                    .into()
            } else {
                estimate(first, left, began.elapsed())
            };
            say(&format!("{} left{waits}", count(left as u64, "slot", "slots")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How long the rest takes if it goes on as it went.
fn estimate(first: usize, left: usize, took: Duration) -> String {
    match first.saturating_sub(left) {
        0 => String::new(),
        done => format!(", about {} s", took.as_secs().saturating_mul(left as u64) / done as u64),
    }
}

fn places(map: &ClusterMap, node: &MapNode) -> usize {
    let own = |store: &[u8]| map.stores.iter().any(|s| s.id == store && s.node == node.id);
    map.slots.iter().filter(|s| s.members.iter().any(|m| own(&m.store))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        assert_eq!(estimate(10, 10, Duration::from_secs(5)), "");
        assert_eq!(estimate(10, 5, Duration::from_secs(5)), ", about 5 s");
        assert_eq!(estimate(40, 30, Duration::from_secs(10)), ", about 30 s");
    }
}
