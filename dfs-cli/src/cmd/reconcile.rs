//! `dfs reconcile`: has every store compared with what metad knows, now.

use anyhow::Context as _;
use dfs_proto::v1::{NodeState, ReconcileRequest, ReconcileResponse};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::status;
use crate::connect::{Meta, Nodes, reason};
use crate::show::{count, hex, table};

/// A line of progress so often.
const SAY: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Serialize)]
struct Store {
    store: String,
    addr: String,
    slots: u32,
    /// Chunks that were missing, and are fetched now.
    lacking: u64,
    /// Chunks that nobody knows.
    unknown: u64,
    /// Of these, and of slots that the store has left, those removed.
    removed: u64,
    /// Why it was not compared.
    error: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When metad does not answer.
pub async fn run(addr: &str, json: bool) -> anyhow::Result<u8> {
    let mut meta = Meta::new(addr)?;
    let map = status::fetch(&mut meta).await?.map.context("metad sent no map")?;
    let mut stores = Vec::new();
    for store in &map.stores {
        let Some(node) = map.nodes.iter().find(|n| n.id == store.node) else { continue };
        if node.state == NodeState::Retired as i32 {
            continue;
        }
        let mut report = Store { store: hex(&store.id), addr: node.addr.clone(), ..Store::default() };
        if node.state == NodeState::Up as i32 {
            if let Err(e) = one(&mut report, &store.id).await {
                report.error = Some(format!("{e:#}"));
            }
        } else {
            report.error = Some("its node is not up".into());
        }
        stores.push(report);
    }
    let failed = stores.iter().any(|s| s.error.is_some());
    super::print(json, &stores, || text(&stores))?;
    Ok(if failed { 2 } else { 0 })
}

async fn one(report: &mut Store, id: &[u8]) -> anyhow::Result<()> {
    let mut client = Nodes::default().at(&report.addr)?;
    // It may take long, and says how far it is: the stream ends with the node.
    let asked = client.reconcile(ReconcileRequest { store: id.to_vec() }).await;
    let mut answers = asked.map_err(|s| anyhow::anyhow!("{}", reason(&s)))?.into_inner();
    let mut said = Instant::now();
    while let Some(progress) = answers.message().await.map_err(|s| anyhow::anyhow!("{}", reason(&s)))? {
        let ReconcileResponse { slots, of, lacking, unknown, removed, done } = progress;
        (report.slots, report.lacking, report.unknown, report.removed) = (slots, lacking, unknown, removed);
        if done {
            return Ok(());
        }
        if said.elapsed() >= SAY {
            said = Instant::now();
            // Who does not read it does not want it.
            let _ = writeln!(std::io::stderr(), "{}: {slots} of {}", report.addr, count(of.into(), "slot", "slots"));
        }
    }
    anyhow::bail!("the node ended before it was done")
}

fn text(stores: &[Store]) -> String {
    let rows = stores.iter().map(|s| {
        let id = s.store.get(..12).unwrap_or(&s.store).to_owned();
        let [slots, lacking, unknown, removed] =
            [s.slots.into(), s.lacking, s.unknown, s.removed].map(|n: u64| n.to_string());
        [id, s.addr.clone(), slots, lacking, unknown, removed, s.error.clone().unwrap_or_default()]
    });
    let head = ["STORE", "NODE", "SLOTS", "LACKING", "UNKNOWN", "REMOVED", "ERROR"];
    let mut out = table(head, &rows.collect::<Vec<_>>());
    let lacking: u64 = stores.iter().map(|s| s.lacking).sum();
    if lacking > 0 {
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "{} missing; being fetched from other stores", count(lacking, "chunk was", "chunks were"));
    }
    out
}
