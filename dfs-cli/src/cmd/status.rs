//! `dfs status`: the state of everything, as metad sees it.

use std::collections::HashMap;
use std::fmt::Write;

use dfs_proto::v1::{ClusterMap, NodeState, StatusRequest, StatusResponse, StoreLoad};
use serde::Serialize;

use crate::connect::{Meta, request};
use crate::show::{count, hex, node_state, silence, size, table};

/// What is shown.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of metad.
    pub version: String,
    /// Id of the filesystem.
    pub cluster: String,
    /// Version of the map.
    pub epoch: u64,
    /// Copies of each chunk.
    pub replicas: u32,
    /// Copies that a write needs.
    pub min_replicas: u32,
    /// Chunk daemons.
    pub nodes: Vec<Node>,
    /// Their data directories.
    pub stores: Vec<Store>,
    /// Slots by their state.
    pub slots: Slots,
    /// Copies that stores have still to fetch.
    pub missed_chunks: u64,
    /// What is being done about that.
    pub healing: Healing,
    /// Space and inodes.
    pub space: Space,
    /// Chunks that metad knows.
    pub chunks: u64,
    /// Unlinked and still open.
    pub orphans: u64,
    /// Deletions that not every store has confirmed.
    pub tombstones: u64,
    /// Entries in metad's log so far.
    pub applied: u64,
    /// Mounts and programs.
    pub sessions: Vec<Session>,
}

/// A chunk daemon.
#[derive(Debug, Serialize)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Where it answers.
    pub addr: String,
    /// Its failure zone.
    pub zone: String,
    /// Its state.
    pub state: &'static str,
    /// Whether it is being emptied.
    pub draining: bool,
    /// Milliseconds since it was heard; null: not since metad started.
    pub silence_ms: Option<u64>,
}

/// A data directory.
#[derive(Debug, Serialize)]
pub struct Store {
    /// Its id.
    pub id: String,
    /// Its node.
    pub node: String,
    /// Address of its node.
    pub addr: String,
    /// Bytes of its disk, as registered.
    pub capacity: u64,
    /// Bytes that it still takes.
    pub free: u64,
    /// Bytes of its disk now.
    pub total: u64,
    /// Chunks that it lacks.
    pub missed: u64,
    /// Slots of which it is a member.
    pub slots: u64,
    /// What is wrong with it, in words; empty: nothing.
    pub trouble: String,
}

/// What is being done about missing copies.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Healing {
    /// Chunks that are still to be copied, about.
    pub chunks: u64,
    /// About so many bytes of them.
    pub bytes: u64,
    /// Chunks copied a second.
    pub chunks_per_second: u64,
    /// Bytes copied a second.
    pub bytes_per_second: u64,
    /// Seconds that the rest takes at this pace; null: nothing moves.
    pub seconds_left: Option<u64>,
}

impl Healing {
    /// How fast it goes and how long it takes, for a person; empty if nothing moves.
    #[must_use]
    pub fn pace(&self) -> String {
        let Some(seconds) = self.seconds_left else { return String::new() };
        format!(", {}/s, about {seconds} s left", size(self.bytes_per_second))
    }
}

/// Slots by their state.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slots {
    /// All.
    pub total: u64,
    /// Enough members, each up, with its initial copy done, on a store that misses nothing.
    pub in_sync: u64,
    /// The others.
    pub degraded: u64,
    /// Of these, those with fewer members up than a write needs.
    pub unwritable: u64,
}

/// Space and inodes.
#[derive(Debug, Serialize)]
pub struct Space {
    /// Bytes of all disks, divided by the copies.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}

/// A mount or program.
#[derive(Debug, Serialize)]
pub struct Session {
    /// Its number.
    pub id: u64,
    /// What it says it is.
    pub client: String,
    /// Milliseconds since it was heard.
    pub silence_ms: u64,
}

/// Runs it.
///
/// # Errors
/// When metad does not answer.
pub async fn run(addr: &str, json: bool) -> anyhow::Result<u8> {
    let report = report(&fetch(&mut Meta::new(addr)?).await?);
    super::print(json, &report, || text(&report))?;
    Ok(0)
}

/// Asks metad.
///
/// # Errors
/// When it does not answer.
pub async fn fetch(meta: &mut Meta) -> anyhow::Result<StatusResponse> {
    match meta.client().status(request(StatusRequest {})).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(meta.explain(&status)),
    }
}

/// What the answer says.
#[must_use]
pub fn report(status: &StatusResponse) -> Report {
    let empty = ClusterMap::default();
    let map = status.map.as_ref().unwrap_or(&empty);
    let loads: HashMap<&[u8], &StoreLoad> = status.loads.iter().map(|l| (&l.store[..], l)).collect();
    let addr_of: HashMap<&[u8], &str> = map.nodes.iter().map(|n| (&n.id[..], n.addr.as_str())).collect();
    let mut slots_of: HashMap<&[u8], u64> = HashMap::new();
    for member in map.slots.iter().flat_map(|s| &s.members) {
        *slots_of.entry(&member.store[..]).or_default() += 1;
    }
    let silences = status.node_silence_ms.iter().copied().chain(std::iter::repeat(u64::MAX));
    let nodes = map.nodes.iter().zip(silences).map(|(n, ms)| Node {
        id: hex(&n.id),
        addr: n.addr.clone(),
        zone: n.zone.clone(),
        state: node_state(n.state),
        draining: n.draining,
        silence_ms: (ms != u64::MAX).then_some(ms),
    });
    let stores = map.stores.iter().map(|s| {
        let load = loads.get(&s.id[..]).copied().cloned().unwrap_or_default();
        Store {
            id: hex(&s.id),
            node: hex(&s.node),
            addr: (*addr_of.get(&s.node[..]).unwrap_or(&"")).to_owned(),
            capacity: s.capacity,
            free: load.free,
            total: load.total,
            missed: load.missed,
            slots: slots_of.get(&s.id[..]).copied().unwrap_or(0),
            trouble: status.troubles.iter().find(|t| t.store == s.id).map(|t| t.what.clone()).unwrap_or_default(),
        }
    });
    let space = status.space.unwrap_or_default();
    let sessions =
        status.sessions.iter().map(|s| Session { id: s.id, client: s.client.clone(), silence_ms: s.silence_ms });
    Report {
        version: status.version.clone(),
        cluster: hex(&map.cluster),
        epoch: map.epoch,
        replicas: map.replicas,
        min_replicas: map.min_replicas,
        nodes: nodes.collect(),
        stores: stores.collect(),
        slots: slots(map, status),
        healing: healing(status.healing.as_ref()),
        missed_chunks: status.loads.iter().map(|l| l.missed).sum(),
        space: Space { total_bytes: space.total_bytes, free_bytes: space.free_bytes, inodes: space.inodes },
        chunks: status.chunks,
        orphans: status.orphans,
        tombstones: status.tombstones,
        applied: status.applied,
        sessions: sessions.collect(),
    }
}

fn healing(wire: Option<&dfs_proto::v1::Healing>) -> Healing {
    let Some(h) = wire else { return Healing::default() };
    let by = |rest: u64, rate: u64| rest.checked_div(rate);
    Healing {
        chunks: h.chunks,
        bytes: h.bytes,
        chunks_per_second: h.chunks_per_second,
        bytes_per_second: h.bytes_per_second,
        // Many small chunks take their time by number, big ones by size.
        seconds_left: by(h.chunks, h.chunks_per_second).max(by(h.bytes, h.bytes_per_second)),
    }
}

fn slots(map: &ClusterMap, status: &StatusResponse) -> Slots {
    let up_nodes: HashMap<&[u8], bool> =
        map.nodes.iter().map(|n| (&n.id[..], n.state == NodeState::Up as i32)).collect();
    let up_stores: HashMap<&[u8], bool> =
        map.stores.iter().map(|s| (&s.id[..], up_nodes.get(&s.node[..]).copied().unwrap_or(false))).collect();
    let mut out = Slots::default();
    for slot in &map.slots {
        let up = |store: &[u8]| up_stores.get(store).copied().unwrap_or(false);
        let lacks = status.healing.as_ref().is_some_and(|h| h.lacking.contains(&slot.id));
        let good = slot.members.iter().filter(|m| m.full && up(&m.store) && !lacks).count() as u64;
        let reachable = slot.members.iter().filter(|m| up(&m.store)).count() as u64;
        out.total += 1;
        if good == slot.members.len() as u64 && good >= u64::from(map.replicas) {
            out.in_sync += 1;
        } else {
            out.degraded += 1;
        }
        if reachable < u64::from(map.min_replicas).min(slot.members.len() as u64).max(1) {
            out.unwritable += 1;
        }
    }
    out
}

fn text(r: &Report) -> String {
    let mut out = String::new();
    let s = &r.slots;
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "cluster {}, metad {}, map {}, {} copies of each chunk (a write needs {})",
        r.cluster, r.version, r.epoch, r.replicas, r.min_replicas
    );
    let _ = writeln!(
        out,
        "space   {} free of {}, {}, {}",
        size(r.space.free_bytes),
        size(r.space.total_bytes),
        count(r.space.inodes, "inode", "inodes"),
        count(r.chunks, "chunk", "chunks")
    );
    let _ = writeln!(
        out,
        "slots   {} of {} in sync, {} degraded, {} unwritable; {} missed",
        s.in_sync,
        s.total,
        s.degraded,
        s.unwritable,
        count(r.missed_chunks, "chunk copy", "chunk copies")
    );
    if r.healing.chunks > 0 {
        let (h, left) = (&r.healing, count(r.healing.chunks, "chunk", "chunks"));
        let _ = writeln!(out, "healing {left} to copy, about {}{}", size(h.bytes), h.pace());
    }
    let rows = r.nodes.iter().map(|n| {
        let heard = silence(n.silence_ms.unwrap_or(u64::MAX));
        let state =
            if n.draining && n.state != "retired" { format!("{}, draining", n.state) } else { n.state.to_owned() };
        [short_hex(&n.id), n.addr.clone(), n.zone.clone(), state, heard]
    });
    let _ = write!(out, "\nnodes\n{}", table(["NODE", "ADDRESS", "ZONE", "STATE", "HEARD"], &rows.collect::<Vec<_>>()));
    let rows = r.stores.iter().map(|s| {
        let (free, total) = (size(s.free), size(s.total));
        [short_hex(&s.id), s.addr.clone(), free, total, s.slots.to_string(), s.missed.to_string(), s.trouble.clone()]
    });
    let head = ["STORE", "NODE", "FREE", "DISK", "SLOTS", "MISSED", "TROUBLE"];
    let _ = write!(out, "\nstores\n{}", table(head, &rows.collect::<Vec<_>>()));
    // What a client says of its process is for other clients.
    let name = |s: &Session| s.client.split(" [").next().unwrap_or_default().to_owned();
    let rows = r.sessions.iter().map(|s| [s.id.to_string(), name(s), silence(s.silence_ms)]);
    let _ = write!(out, "\nsessions\n{}", table(["SESSION", "CLIENT", "HEARD"], &rows.collect::<Vec<_>>()));
    out
}

fn short_hex(id: &str) -> String {
    id.get(..12).unwrap_or(id).to_owned()
}

/// Addresses of the nodes that are up, for those who wait for them.
#[must_use]
pub fn nodes_up(status: &StatusResponse) -> Vec<String> {
    let map = status.map.iter().flat_map(|m| &m.nodes);
    map.filter(|n| n.state == NodeState::Up as i32).map(|n| n.addr.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::v1::{MapMember, MapNode, MapSlot, MapStore, SessionStatus};

    fn status(states: [NodeState; 3], missed: [u64; 3], full: bool) -> StatusResponse {
        let id = |n: usize| vec![n as u8 + 1; 16];
        let member = |n: usize| MapMember { store: id(n + 10), full: full || n > 0 };
        let node = |n: usize| MapNode {
            id: id(n),
            addr: format!("127.0.0.1:{n}"),
            zone: String::new(),
            state: states[n] as i32,
            draining: false,
        };
        let store = |n: usize| MapStore { id: id(n + 10), node: id(n), capacity: 100, start: 1 };
        let load = |n: usize| StoreLoad { store: id(n + 10), free: 50, total: 100, missed: missed[n] };
        StatusResponse {
            map: Some(ClusterMap {
                cluster: vec![7; 16],
                epoch: 4,
                replicas: 3,
                min_replicas: 2,
                nodes: (0..3).map(node).collect(),
                stores: (0..3).map(store).collect(),
                slots: vec![MapSlot { id: 1, members: (0..3).map(member).collect() }],
            }),
            loads: (0..3).map(load).collect(),
            healing: Some(dfs_proto::v1::Healing {
                lacking: if missed == [0; 3] { Vec::new() } else { vec![1] },
                chunks: missed.iter().sum(),
                bytes: 100 * missed.iter().sum::<u64>(),
                chunks_per_second: 2,
                bytes_per_second: 10,
            }),
            sessions: vec![SessionStatus { id: 9, client: "host pid 1".into(), silence_ms: 10 }],
            node_silence_ms: vec![5, u64::MAX],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn a_slot_is_in_sync_only_when_every_member_is() {
        use NodeState::{Down, Suspect, Up};
        let slots = |s: StatusResponse| report(&s).slots;
        assert_eq!(slots(status([Up; 3], [0; 3], true)), Slots { total: 1, in_sync: 1, degraded: 0, unwritable: 0 });
        assert_eq!(slots(status([Up; 3], [0, 1, 0], true)).degraded, 1);
        assert_eq!(slots(status([Up; 3], [0; 3], false)).degraded, 1);
        assert_eq!(
            slots(status([Up, Up, Suspect], [0; 3], true)),
            Slots { total: 1, in_sync: 0, degraded: 1, unwritable: 0 }
        );
        assert_eq!(slots(status([Up, Down, Down], [0; 3], true)).unwritable, 1);
    }

    #[test]
    fn people_and_scripts_see_the_same() {
        let report = report(&status([NodeState::Up, NodeState::Down, NodeState::Up], [0, 2, 0], true));
        assert_eq!(
            (report.nodes[0].silence_ms, report.nodes[1].silence_ms, report.nodes[2].silence_ms),
            (Some(5), None, None)
        );
        assert_eq!((report.missed_chunks, report.stores[1].slots), (2, 1));
        let text = text(&report);
        let words = ["0 of 1 in sync", "127.0.0.1:1", "down", "never heard", "host pid 1", "2 chunk copies"];
        for word in words.into_iter().chain(["2 chunks to copy, about 200 B, 10 B/s, about 20 s left"]) {
            assert!(text.contains(word), "{word}: {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["slots"]["degraded"], 1);
        assert_eq!(json["nodes"][1]["state"], "down");
        assert_eq!(json["cluster"], "07".repeat(16));
    }
}
