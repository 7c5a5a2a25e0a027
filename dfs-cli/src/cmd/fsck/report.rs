//! What a check found, and what that means.

use std::collections::BTreeMap;
use std::fmt::Write;

use dfs_proto::v1::{ChunkRef, ChunkUse};
use serde::Serialize;

use crate::show::{count, hex, short};

/// A chunk that members of its slot lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) slot: u32,
    pub(crate) id: Vec<u8>,
    pub(crate) len: u32,
    /// The members that lack it.
    pub(crate) lacking: Vec<Vec<u8>>,
    /// Members that have it.
    pub(crate) copies: usize,
}

/// Stores that did not answer, and why.
#[derive(Debug, Default)]
pub(crate) struct Unreachable(BTreeMap<String, String>);

impl Unreachable {
    pub(crate) fn add(&mut self, store: &[u8], why: &str) {
        self.0.entry(hex(store)).or_insert_with(|| why.to_owned());
    }

    pub(crate) fn has(&self, store: &[u8]) -> bool {
        self.0.contains_key(&hex(store))
    }
}

/// All that was found.
#[derive(Debug)]
pub(crate) struct Report {
    list: usize,
    pub(crate) inodes: u64,
    pub(crate) extents: u64,
    pub(crate) chunks_in_metadata: u64,
    pub(crate) missed_rows: u64,
    /// Chunks in use.
    pub(crate) chunks: u64,
    pub(crate) copies: u64,
    findings: Vec<String>,
    findings_total: u64,
    lost: Vec<Missing>,
    lost_total: u64,
    degraded: Vec<Missing>,
    degraded_total: u64,
    missing_copies: u64,
    unreachable: Unreachable,
    /// Ranges of files that are in lost chunks.
    pub(crate) uses: Vec<ChunkUse>,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// All is as it should be.
    Clean,
    /// Copies are missing, but each chunk has one.
    Degraded,
    /// Metadata is inconsistent, or a chunk has no copy.
    Damaged,
}

#[derive(Debug, Serialize)]
pub(crate) struct Output {
    verdict: Verdict,
    exit: u8,
    inodes: u64,
    extents: u64,
    chunks: u64,
    copies: u64,
    missing_copies: u64,
    missed_rows: u64,
    findings_total: u64,
    findings: Vec<String>,
    lost_total: u64,
    lost: Vec<ChunkOutput>,
    /// What of which files is lost.
    lost_ranges: Vec<RangeOutput>,
    degraded_total: u64,
    degraded: Vec<ChunkOutput>,
    unreachable_stores: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct RangeOutput {
    /// From the root of the filesystem; empty: it has no name any more.
    path: String,
    ino: u64,
    start: u64,
    end: u64,
    chunk: String,
}

fn range(u: &ChunkUse) -> RangeOutput {
    let range = u.range.unwrap_or_default();
    let path = String::from_utf8_lossy(&u.path).into_owned();
    RangeOutput { path, ino: u.ino, start: range.start, end: range.end, chunk: hex(&u.id) }
}

#[derive(Debug, Serialize)]
struct ChunkOutput {
    chunk: String,
    slot: u32,
    len: u32,
    copies: usize,
    lacking: Vec<String>,
}

impl Report {
    /// Lists at most `list` of each kind.
    pub(crate) fn new(list: usize) -> Self {
        Self {
            list,
            inodes: 0,
            extents: 0,
            chunks_in_metadata: 0,
            missed_rows: 0,
            chunks: 0,
            copies: 0,
            findings: Vec::new(),
            findings_total: 0,
            lost: Vec::new(),
            lost_total: 0,
            degraded: Vec::new(),
            degraded_total: 0,
            missing_copies: 0,
            unreachable: Unreachable::default(),
            uses: Vec::new(),
        }
    }

    /// The lost chunks that are listed, at most `limit`.
    pub(crate) fn lost_chunks(&self, limit: usize) -> Vec<ChunkRef> {
        let chunk = |m: &Missing| ChunkRef { id: m.id.clone(), len: m.len, slot: m.slot };
        self.lost.iter().take(limit).map(chunk).collect()
    }

    pub(crate) fn unreachable(&mut self) -> &mut Unreachable {
        &mut self.unreachable
    }

    /// Takes findings of metad, and how many more it did not list.
    pub(crate) fn add_findings(&mut self, findings: Vec<String>, more: u64) {
        self.findings_total += findings.len() as u64 + more;
        let room = self.list.saturating_sub(self.findings.len());
        self.findings.extend(findings.into_iter().take(room));
    }

    pub(crate) fn add_missing(&mut self, missing: Missing) {
        self.missing_copies += missing.lacking.len() as u64;
        let (list, total) = match missing.copies {
            0 => (&mut self.lost, &mut self.lost_total),
            _ => (&mut self.degraded, &mut self.degraded_total),
        };
        *total += 1;
        if list.len() < self.list {
            list.push(missing);
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match (self.findings_total + self.lost_total, self.degraded_total) {
            (0, 0) => Verdict::Clean,
            (0, _) => Verdict::Degraded,
            _ => Verdict::Damaged,
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self.verdict() {
            Verdict::Clean => 0,
            Verdict::Degraded => 2,
            Verdict::Damaged => 1,
        }
    }

    pub(crate) fn finish(&self) -> Output {
        let chunks = |list: &[Missing]| {
            let chunk = |m: &Missing| ChunkOutput {
                chunk: hex(&m.id),
                slot: m.slot,
                len: m.len,
                copies: m.copies,
                lacking: m.lacking.iter().map(|s| hex(s)).collect(),
            };
            list.iter().map(chunk).collect()
        };
        Output {
            verdict: self.verdict(),
            exit: self.exit_code(),
            inodes: self.inodes,
            extents: self.extents,
            chunks: self.chunks,
            copies: self.copies,
            missing_copies: self.missing_copies,
            missed_rows: self.missed_rows,
            findings_total: self.findings_total,
            findings: self.findings.clone(),
            lost_total: self.lost_total,
            lost: chunks(&self.lost),
            lost_ranges: self.uses.iter().map(range).collect(),
            degraded_total: self.degraded_total,
            degraded: chunks(&self.degraded),
            unreachable_stores: self.unreachable.0.clone(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "metadata: {}, {}, {}; {}",
            count(self.inodes, "inode", "inodes"),
            count(self.extents, "extent", "extents"),
            count(self.chunks_in_metadata, "chunk", "chunks"),
            count(self.findings_total, "finding", "findings"),
        );
        for finding in &self.findings {
            let _ = writeln!(out, "  {finding}");
        }
        more(&mut out, self.findings_total, self.findings.len());
        let _ = writeln!(
            out,
            "chunks:   {} in use, {}, {}",
            self.chunks,
            count(self.copies, "copy", "copies"),
            count(self.missing_copies, "copy missing", "copies missing"),
        );
        for (store, why) in &self.unreachable.0 {
            let _ = writeln!(out, "  store {store} does not answer: {why}");
        }
        list(&mut out, "LOST", &self.lost, self.lost_total);
        for RangeOutput { path, ino, start, end, .. } in self.uses.iter().map(range) {
            let path = if path.is_empty() { format!("inode {ino}, which has no name,") } else { path };
            let _ = writeln!(out, "  {path} has lost its bytes {start} to {}", end.saturating_sub(1));
        }
        list(&mut out, "too few copies", &self.degraded, self.degraded_total);
        let _ = writeln!(
            out,
            "{}",
            match self.verdict() {
                Verdict::Clean => "clean",
                Verdict::Degraded => "degraded: copies are missing, but each chunk has at least one",
                Verdict::Damaged if self.lost_total > 0 => "DAMAGED: chunks have no copy on any member of their slot",
                Verdict::Damaged => "DAMAGED: the metadata is inconsistent",
            }
        );
        out
    }
}

fn list(out: &mut String, what: &str, some: &[Missing], total: u64) {
    for m in some {
        let stores: Vec<String> = m.lacking.iter().map(|s| short(s)).collect();
        let stores = stores.join(", ");
        let _ = writeln!(out, "  {what}: chunk {} in slot {}, not on {stores}", hex(&m.id), m.slot);
    }
    more(out, total, some.len());
}

fn more(out: &mut String, total: u64, listed: usize) {
    let rest = total.saturating_sub(listed as u64);
    if rest > 0 {
        let _ = writeln!(out, "  ... and {rest} more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(copies: usize) -> Missing {
        Missing { slot: 3, id: vec![5; 32], len: 9, lacking: vec![vec![1; 16]], copies }
    }

    #[test]
    fn the_worst_finding_decides() {
        let mut r = Report::new(10);
        assert_eq!((r.verdict(), r.exit_code()), (Verdict::Clean, 0));
        r.add_missing(missing(2));
        assert_eq!((r.verdict(), r.exit_code()), (Verdict::Degraded, 2));
        r.add_missing(missing(0));
        assert_eq!((r.verdict(), r.exit_code()), (Verdict::Damaged, 1));
        let mut r = Report::new(10);
        r.add_findings(vec![], 1);
        assert_eq!((r.verdict(), r.exit_code()), (Verdict::Damaged, 1));
        assert!(r.text().contains("inconsistent"));
    }

    #[test]
    fn lists_are_bounded_and_totals_are_not() {
        let mut r = Report::new(2);
        (0..5).for_each(|_| r.add_missing(missing(1)));
        r.add_findings(vec!["a".into(), "b".into()], 0);
        r.add_findings(vec!["c".into()], 7);
        r.unreachable().add(&[1; 16], "refused");
        let json = serde_json::to_value(r.finish()).unwrap();
        assert_eq!(json["degraded"].as_array().unwrap().len(), 2);
        assert_eq!((&json["degraded_total"], &json["missing_copies"]), (&5.into(), &5.into()));
        assert_eq!((json["findings"].as_array().unwrap().len(), &json["findings_total"]), (2, &10.into()));
        assert_eq!((&json["verdict"], &json["exit"]), (&"damaged".into(), &1.into()));
        assert_eq!(json["unreachable_stores"]["01".repeat(16)], "refused");
        let text = r.text();
        assert!(text.contains("and 3 more") && text.contains("and 8 more") && text.contains("DAMAGED"), "{text}");
    }
}
