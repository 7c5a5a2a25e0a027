//! Records of the logs, and reading a log from end to end whatever is wrong with it.
//!
//! A record is a header of 64 bytes and the chunk's bytes, padded to 64:
//! ```text
//!  0 magic 4 | 4 kind 1, zero 3 | 8 log 4 | 12 offset 4 | 16 slot 4 | 20 len 4 | 24 id 32 | 56 zero 4 | 60 crc 4
//! ```
//! The crc covers the header and the log's nonce, which only the store knows: bytes of a chunk that
//! look like a record are none, not even when a scan looks for the next header after damage.
//! The chunk's bytes are covered by their name.

use std::io;
use std::sync::Arc;

use dfs_core::chunk::ChunkId;
use dfs_core::id::SlotId;
use dfs_disk::DiskFile;

use super::api::SMALL;
use super::index::{LogSeq, Position};
use super::layout::crc;

/// Length of a header, and what records are aligned to.
pub(super) const HEADER: usize = 64;
const MAGIC: [u8; 4] = *b"dfsR";
const PUT: u8 = 1;
const TOMBSTONE: u8 = 2;
/// Read at a time by a scan; holds at least two records.
const WINDOW: usize = 1 << 20;

/// Identity of a log: its number, and the nonce of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogId {
    pub(super) seq: LogSeq,
    pub(super) nonce: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) slot: SlotId,
    pub(super) id: ChunkId,
    /// `None`: a tombstone.
    pub(super) len: Option<u32>,
}

/// Length of the record of a chunk of `len` bytes.
pub(super) fn record_len(len: u32) -> u32 {
    HEADER as u32 + len.next_multiple_of(HEADER as u32)
}

impl Head {
    pub(super) fn record_len(&self) -> u32 {
        record_len(self.len.unwrap_or(0))
    }

    fn encode(&self, log: LogId, offset: u32) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[..4].copy_from_slice(&MAGIC);
        b[4] = if self.len.is_some() { PUT } else { TOMBSTONE };
        b[8..12].copy_from_slice(&log.seq.0.to_be_bytes());
        b[12..16].copy_from_slice(&offset.to_be_bytes());
        b[16..20].copy_from_slice(&self.slot.0.to_be_bytes());
        b[20..24].copy_from_slice(&self.len.unwrap_or(0).to_be_bytes());
        b[24..56].copy_from_slice(&self.id.0);
        let sum = sum(&b, log.nonce);
        b[60..].copy_from_slice(&sum.to_be_bytes());
        b
    }

    /// The header in `b`, if it is one of this log at this offset.
    pub(super) fn decode(b: &[u8], log: LogId, offset: u32) -> Option<Self> {
        let b: &[u8; HEADER] = b.get(..HEADER)?.try_into().ok()?;
        if b[..4] != MAGIC || b[60..] != sum(b, log.nonce).to_be_bytes() {
            return None;
        }
        let word = |at: usize| b[at..at + 4].try_into().ok().map(u32::from_be_bytes);
        if word(8)? != log.seq.0 || word(12)? != offset {
            return None;
        }
        let len = match (b[4], word(20)?) {
            (PUT, len) if len > 0 && u64::from(len) < SMALL => Some(len),
            (TOMBSTONE, 0) => None,
            _ => return None,
        };
        Some(Self { slot: SlotId(word(16)?), id: ChunkId::from_slice(&b[24..56])?, len })
    }
}

fn sum(header: &[u8; HEADER], nonce: u64) -> u32 {
    let mut salted = [0; 8 + HEADER - 4];
    salted[..8].copy_from_slice(&nonce.to_be_bytes());
    salted[8..].copy_from_slice(&header[..HEADER - 4]);
    crc(&salted)
}

/// Records to append, laid out one after the other; headers are filled in when their place is known.
#[derive(Debug, Default)]
pub(super) struct Records {
    buf: Vec<u8>,
    /// Each with its start in `buf`.
    heads: Vec<(usize, Head)>,
}

impl Records {
    pub(super) fn put(&mut self, slot: SlotId, id: ChunkId, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        assert!(len > 0 && u64::from(len) < SMALL, "callers check the length");
        let start = self.push(Head { slot, id, len: Some(len) });
        self.buf.extend_from_slice(data);
        self.buf.resize(start + record_len(len) as usize, 0);
    }

    pub(super) fn tombstone(&mut self, slot: SlotId, id: ChunkId) {
        self.push(Head { slot, id, len: None });
    }

    fn push(&mut self, head: Head) -> usize {
        let start = self.buf.len();
        self.heads.push((start, head));
        self.buf.resize(start + HEADER, 0);
        start
    }

    /// Keeps those records that are told to be kept, in order.
    pub(super) fn keep(&mut self, keep: &[bool]) {
        if keep.iter().all(|k| *k) {
            return;
        }
        let before = std::mem::take(self);
        for ((start, head), keep) in before.heads.into_iter().zip(keep) {
            if *keep {
                let end = start + head.record_len() as usize;
                self.heads.push((self.buf.len(), head));
                self.buf.extend_from_slice(&before.buf[start..end]);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.buf.len()
    }

    pub(super) fn head(&self, i: usize) -> Head {
        self.heads[i].1
    }

    /// How many records from the `first` on fit into `room` bytes.
    pub(super) fn fitting(&self, first: usize, room: u32) -> usize {
        let mut left = room;
        let fits = |(_, head): &&(usize, Head)| {
            let rest = left.checked_sub(head.record_len());
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        self.heads[first..].iter().take_while(fits).count()
    }

    /// The bytes of `count` records from the `first` on, with the headers that they have at `at`.
    pub(super) fn encode(&mut self, first: usize, count: usize, log: LogId, at: u32) -> &[u8] {
        let start = self.heads[first].0;
        let end = self.heads.get(first + count).map_or(self.buf.len(), |(start, _)| *start);
        for (place, head) in &self.heads[first..first + count] {
            let offset = at + (place - start) as u32;
            self.buf[*place..place + HEADER].copy_from_slice(&head.encode(log, offset));
        }
        &self.buf[start..end]
    }
}

/// What a scan meets.
#[derive(Debug)]
pub(super) enum Found {
    /// A chunk whose bytes match its name.
    Put { at: Position, head: Head, len: u32 },
    /// A chunk whose header is good and whose bytes are not.
    Bad { at: Position, head: Head },
    /// A deletion.
    Tombstone { at: Position, head: Head },
    /// Bytes that are no record; `blank` if they are all zero, `unreadable` if the disk refused some.
    Gap { from: u32, to: u32, blank: bool, unreadable: bool },
}

/// Walks over a log. It never fails: what cannot be read is a gap.
pub(super) struct Scan {
    file: Arc<dyn DiskFile>,
    log: LogId,
    end: u32,
    at: u32,
    buf: Vec<u8>,
    /// Offset of `buf` in the file.
    base: u32,
    unreadable: bool,
    ever_unreadable: bool,
    /// Found behind a gap that had to be told first.
    next: Option<Found>,
    /// Bytes of the last put that was found.
    data: (usize, usize),
}

impl Scan {
    pub(super) fn new(file: Arc<dyn DiskFile>, log: LogId, from: u32, end: u32) -> Self {
        let at = from.next_multiple_of(HEADER as u32);
        Self {
            file,
            log,
            end,
            at,
            buf: Vec::new(),
            base: at,
            unreadable: false,
            ever_unreadable: false,
            next: None,
            data: (0, 0),
        }
    }

    /// Whether the disk refused any bytes so far: what was not found may come back.
    pub(super) fn met_unreadable(&self) -> bool {
        self.ever_unreadable
    }

    /// The next thing; `None` at the end.
    pub(super) fn step(&mut self) -> Option<Found> {
        if let Some(found) = self.next.take() {
            return Some(found);
        }
        let from = self.at;
        let mut blank = true;
        self.unreadable = false;
        while self.at < self.end {
            if let Some(found) = self.record() {
                if from == self.gap_end(&found) {
                    return Some(found);
                }
                let to = self.gap_end(&found);
                self.next = Some(found);
                return Some(Found::Gap { from, to, blank, unreadable: self.unreadable });
            }
            let step = (self.end - self.at).min(HEADER as u32);
            blank &= self.fill(step as usize).iter().all(|b| *b == 0);
            self.at += step;
        }
        (from < self.end).then_some(Found::Gap { from, to: self.end, blank, unreadable: self.unreadable })
    }

    fn gap_end(&self, found: &Found) -> u32 {
        match found {
            Found::Put { at, .. } | Found::Bad { at, .. } | Found::Tombstone { at, .. } => at.offset,
            Found::Gap { from, .. } => *from,
        }
    }

    /// The bytes of the [`Found::Put`] that was found last.
    pub(super) fn data(&self) -> &[u8] {
        self.buf.get(self.data.0..self.data.1).unwrap_or(&[])
    }

    /// The record at the present place, which is left behind.
    fn record(&mut self) -> Option<Found> {
        let (log, offset) = (self.log, self.at);
        let head = Head::decode(self.fill(HEADER), log, offset)?;
        let at = Position { seq: log.seq, offset };
        let Some(len) = head.len else {
            self.at += HEADER as u32;
            return Some(Found::Tombstone { at, head });
        };
        let total = record_len(len);
        let record = self.fill(total as usize);
        let good = record.get(HEADER..HEADER + len as usize).is_some_and(|data| ChunkId::of(data) == head.id);
        let start = (offset - self.base) as usize + HEADER;
        self.data = (start, start + len as usize);
        self.at = self.at.saturating_add(total).min(self.end);
        Some(if good { Found::Put { at, head, len } } else { Found::Bad { at, head } })
    }

    /// Up to `want` bytes from the present place on; fewer at the end.
    fn fill(&mut self, want: usize) -> &[u8] {
        let want = want.min((self.end - self.at) as usize);
        let have = (self.base as usize + self.buf.len()).saturating_sub(self.at as usize);
        if have < want {
            let size = WINDOW.min((self.end - self.at) as usize);
            self.base = self.at;
            self.buf.resize(size, 0);
            self.load();
        }
        let start = (self.at - self.base) as usize;
        &self.buf[start..start + want]
    }

    /// Reads the window; where the disk refuses, in small pieces, those it refuses again as zeros.
    fn load(&mut self) {
        match self.file.read_at(&mut self.buf, u64::from(self.base)) {
            Ok(n) => self.buf[n..].fill(0),
            Err(_) => {
                for (i, piece) in self.buf.chunks_mut(4096).enumerate() {
                    let at = u64::from(self.base) + i as u64 * 4096;
                    let n = self.file.read_at(piece, at).unwrap_or_else(|_: io::Error| {
                        self.unreadable = true;
                        self.ever_unreadable = true;
                        0
                    });
                    piece[n..].fill(0);
                }
            }
        }
    }
}
