//! What there is to know of nodes.

use std::fmt::Write as _;

use anyhow::Context as _;
use dfs_proto::v1::{ClusterMap, MapNode, StatusResponse};
use serde::Serialize;

use super::find;
use crate::cmd::status::{self, Report, Store};
use crate::connect::Meta;
use crate::show::{count, silence, size, table};

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    node: status::Node,
    /// Places in slots.
    slots: u64,
    /// Of these, such in which it lacks nothing.
    in_sync: u64,
    /// Chunks that it has still to fetch.
    missed: u64,
    stores: Vec<Store>,
}

pub(super) async fn list(meta: &mut Meta, json: bool) -> anyhow::Result<u8> {
    let status = status::fetch(meta).await?;
    let all = shown(&status);
    crate::cmd::print(json, &all, || {
        let rows = all.iter().map(|s| {
            let heard = silence(s.node.silence_ms.unwrap_or(u64::MAX));
            let free = s.stores.iter().map(|s| s.free).sum();
            let id = s.node.id.get(..12).unwrap_or(&s.node.id).to_owned();
            let (addr, zone, state) = (s.node.addr.clone(), s.node.zone.clone(), state(&s.node).to_owned());
            [id, addr, zone, state, heard, s.slots.to_string(), s.missed.to_string(), size(free)]
        });
        table(["NODE", "ADDRESS", "ZONE", "STATE", "HEARD", "SLOTS", "MISSED", "FREE"], &rows.collect::<Vec<_>>())
    })?;
    Ok(0)
}

pub(super) async fn one(meta: &mut Meta, given: &str, json: bool) -> anyhow::Result<u8> {
    let status = status::fetch(meta).await?;
    let map = status.map.as_ref().context("metad sent no map")?;
    let id = crate::show::hex(&find(map, given)?.id);
    let report = status::report(&status);
    let shown = shown(&status).into_iter().find(|s| s.node.id == id).context("metad sent no such node")?;
    crate::cmd::print(json, &shown, || text(&shown, &report))?;
    Ok(0)
}

fn state(node: &status::Node) -> &str {
    if node.draining && node.state != "retired" { "draining" } else { node.state }
}

fn shown(status: &StatusResponse) -> Vec<Shown> {
    let report = status::report(status);
    let empty = ClusterMap::default();
    let map = status.map.as_ref().unwrap_or(&empty);
    let lacking = status.healing.as_ref().map(|h| h.lacking.clone()).unwrap_or_default();
    let mut stores = report.stores;
    let of = |node: (status::Node, &MapNode)| {
        let (own, rest): (Vec<Store>, Vec<Store>) =
            std::mem::take(&mut stores).into_iter().partition(|s| s.node == node.0.id);
        stores = rest;
        let ids: Vec<&[u8]> = map.stores.iter().filter(|s| s.node == node.1.id).map(|s| &s.id[..]).collect();
        let places = || map.slots.iter().filter(|s| s.members.iter().any(|m| ids.contains(&&m.store[..])));
        Shown {
            slots: places().count() as u64,
            in_sync: places().filter(|s| !lacking.contains(&s.id)).count() as u64,
            missed: own.iter().map(|s| s.missed).sum(),
            stores: own,
            node: node.0,
        }
    };
    report.nodes.into_iter().zip(&map.nodes).map(of).collect()
}

fn text(s: &Shown, report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "node    {}", s.node.id);
    let _ = writeln!(out, "address {}", s.node.addr);
    let zone = if s.node.zone.is_empty() { "(of its own)" } else { &s.node.zone };
    let _ = writeln!(out, "zone    {zone}");
    let heard = silence(s.node.silence_ms.unwrap_or(u64::MAX));
    let _ = writeln!(out, "state   {}, heard {heard}", state(&s.node));
    let _ = writeln!(out, "slots   {} of {} in sync", s.in_sync, s.slots);
    if s.missed > 0 {
        let _ = writeln!(out, "lacks   {}{}", count(s.missed, "chunk", "chunks"), report.healing.pace());
    }
    let rows = s.stores.iter().map(|s| {
        let (free, total) = (size(s.free), size(s.total));
        [s.id.clone(), free, total, s.slots.to_string(), s.missed.to_string(), s.trouble.clone()]
    });
    let head = ["STORE", "FREE", "DISK", "SLOTS", "MISSED", "TROUBLE"];
    let _ = write!(out, "\nstores\n{}", table(head, &rows.collect::<Vec<_>>()));
    out
}
