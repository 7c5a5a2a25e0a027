//! `dfs fsck`: the full check of the metadata, and that every chunk it names is on all members of its slot.
//!
//! metad checks its own tables. Then, slot by slot, its ordered list of chunks is merged with the ordered
//! lists of the members. The filesystem is in use meanwhile, so what looks missing is looked at once more
//! a second later, and counts only if it is missing both times.

mod members;
mod report;
mod slot;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use dfs_proto::v1::{CheckRequest, CheckResponse, ClusterMap, MapSlot, WhoUsesRequest};
use tonic::Request;

use crate::cmd::status;
use crate::connect::{Meta, Nodes};
use members::Members;
use report::{Missing, Report};
use slot::Walk;

/// Before what looks missing is looked at again.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// So many suspicions are kept before they are looked at again, to bound memory.
const SUSPICIONS: usize = 1 << 20;
/// Chunks whose files are looked for.
const USES: usize = 1000;
/// No check of the metadata takes longer.
const CHECK_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// Runs it; at most `list` of each kind of finding are listed.
///
/// # Errors
/// When the check could not be made.
pub async fn run(addr: &str, list: usize, json: bool) -> anyhow::Result<u8> {
    let mut meta = Meta::new(addr)?;
    let mut report = Report::new(list);
    let progress = Progress(!json && std::io::stderr().is_terminal());
    progress.show("checking the metadata");
    check_metadata(&mut meta, &mut report).await?;
    let map = status::fetch(&mut meta).await?.map.context("metad sent no cluster map")?;
    check_chunks(&mut meta, &map, &mut report, &progress).await?;
    progress.show("looking for the files of lost chunks");
    name_files(&mut meta, &mut report).await?;
    progress.clear();
    super::print(json, &report.finish(), || report.text())?;
    Ok(report.exit_code())
}

async fn check_metadata(meta: &mut Meta, report: &mut Report) -> anyhow::Result<()> {
    let mut ask = Request::new(CheckRequest {});
    ask.set_timeout(CHECK_DEADLINE);
    let answers = meta.client().check(ask).await;
    let mut answers = answers.map_err(|s| meta.explain(&s))?.into_inner();
    let mut is_done = false;
    while let Some(answer) = answers.message().await.map_err(|s| meta.explain(&s))? {
        let CheckResponse { findings, done, inodes, extents, chunks, missed, more } = answer;
        report.add_findings(findings, more);
        if done {
            is_done = true;
            report.inodes = inodes;
            report.extents = extents;
            report.chunks_in_metadata = chunks;
            report.missed_rows = missed;
        }
    }
    is_done.then_some(()).context("metad ended its check before it was done")
}

/// Which files the lost chunks that are listed belong to.
async fn name_files(meta: &mut Meta, report: &mut Report) -> anyhow::Result<()> {
    let chunks = report.lost_chunks(USES);
    if chunks.is_empty() {
        return Ok(());
    }
    let mut ask = Request::new(WhoUsesRequest { chunks });
    ask.set_timeout(CHECK_DEADLINE);
    let answer = meta.client().who_uses(ask).await;
    report.uses = answer.map_err(|s| meta.explain(&s))?.into_inner().uses;
    Ok(())
}

async fn check_chunks(
    meta: &mut Meta,
    map: &ClusterMap,
    report: &mut Report,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut nodes = Nodes::default();
    let mut suspects: HashMap<u32, Vec<Missing>> = HashMap::new();
    let mut kept = 0;
    for (n, slot) in map.slots.iter().enumerate() {
        progress.show(&format!("comparing slot {} of {}", n + 1, map.slots.len()));
        let walk = look(meta, &mut nodes, map, slot, report.unreachable()).await?;
        report.chunks += walk.chunks;
        report.copies += walk.copies;
        if !walk.missing.is_empty() {
            kept += walk.missing.len();
            suspects.insert(slot.id, walk.missing);
        }
        if kept >= SUSPICIONS {
            confirm(meta, &mut nodes, &mut suspects, report, progress).await?;
            kept = 0;
        }
    }
    confirm(meta, &mut nodes, &mut suspects, report, progress).await
}

/// Looks again at what seemed missing, and reports what still is.
async fn confirm(
    meta: &mut Meta,
    nodes: &mut Nodes,
    suspects: &mut HashMap<u32, Vec<Missing>>,
    report: &mut Report,
    progress: &Progress,
) -> anyhow::Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    progress.show("looking again at what seems to be missing");
    tokio::time::sleep(SECOND_LOOK).await;
    // A member that has left since the first look gives up what it has.
    let map = status::fetch(meta).await?.map.context("metad sent no cluster map")?;
    for slot in &map.slots {
        let Some(before) = suspects.remove(&slot.id) else { continue };
        let again = look(meta, nodes, &map, slot, report.unreachable()).await?;
        slot::in_both(before, again.missing).into_iter().for_each(|m| report.add_missing(m));
    }
    Ok(())
}

async fn look(
    meta: &mut Meta,
    nodes: &mut Nodes,
    map: &ClusterMap,
    slot: &MapSlot,
    unreachable: &mut report::Unreachable,
) -> anyhow::Result<Walk> {
    let members = Members::open(nodes, map, slot, unreachable)?;
    slot::walk(meta, slot.id, members, unreachable).await
}

/// A line on stderr that replaces itself; only for people.
struct Progress(bool);

impl Progress {
    fn show(&self, what: &str) {
        if self.0 {
            eprint!("\r\x1b[K{what} ...");
        }
    }

    fn clear(&self) {
        if self.0 {
            eprint!("\r\x1b[K");
        }
    }
}
