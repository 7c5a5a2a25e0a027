//! What one file has that metad does not know yet, and in which order it gets saved. Pure: time is handed in.
//!
//! From newest to oldest: *dirty* takes writes; the *stream* is a run whose parts are being uploaded while it
//! grows; *seals* are on their way and never change. Reads see the newest byte. A seal leaves only when its
//! commit was answered (or given up, which is reported). Seals of one file are committed one after the other,
//! and no write is ever split over two of them:
//! - everything dirty goes into the same seal as the stream, except
//! - at a multiple of 64 MiB the stream is sealed alone, if no write reaches across its borders into dirty
//!   (it is *entangled* when one does).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dfs_core::limits::{CHUNK_BYTES, PART_BYTES};
use dfs_core::op::SetAttr;
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;

use super::layer::{Frozen, Layer};

/// Number of a seal within its file; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealNo(pub u64);

/// What a write brings along.
#[derive(Clone, Copy, Debug)]
pub struct WriteInfo {
    /// For ageing.
    pub now: Instant,
    /// For the file's mtime and ctime.
    pub time: Timestamp,
    /// Whether setuid and setgid go.
    pub kill_priv: bool,
}

/// Bytes on their way into one commit.
#[derive(Clone, Debug)]
pub struct Seal {
    /// Its number.
    pub no: SealNo,
    /// What was uploaded while it was written: one range, one chunk.
    pub streamed: Option<(ByteRange, Frozen)>,
    /// The rest; where both have a byte, this is newer.
    pub rest: Frozen,
    /// When the last of it was written, or what [`Buffer::set_mtime`] said since.
    pub mtime: Timestamp,
    /// When the last of it was written: for the file's ctime.
    pub written: Timestamp,
    /// Whether setuid and setgid go.
    pub kill_priv: bool,
    /// What [`Buffer::put_off`] said is to be set after the bytes.
    pub later: SetAttr,
}

impl Seal {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rest.bytes() + self.streamed.as_ref().map_or(0, |(_, f)| f.bytes())
    }

    /// The same without what begins at `size` or later: the file is about to be cut there. A stream that reaches
    /// across stays whole, it was uploaded so.
    #[must_use]
    pub fn below(&self, size: u64) -> Self {
        let streamed = self.streamed.clone().filter(|(range, _)| range.start < size);
        let Self { no, mtime, written, kill_priv, later, .. } = *self;
        Self { no, streamed, rest: self.rest.below(size), mtime, written, kill_priv, later }
    }

    fn weight(&self) -> u64 {
        self.rest.weight() + self.streamed.as_ref().map_or(0, |(_, f)| f.weight())
    }

    fn end(&self) -> u64 {
        self.rest.end().unwrap_or(0).max(self.streamed.as_ref().map_or(0, |(r, _)| r.end))
    }
}

/// A run whose parts are uploaded while it grows.
#[derive(Debug)]
struct Stream {
    no: SealNo,
    range: ByteRange,
    parts: Vec<Bytes>,
    entangled: bool,
}

impl Stream {
    /// The multiple of 64 MiB where it ends at the latest.
    fn border(&self) -> u64 {
        (self.range.start / CHUNK_BYTES + 1) * CHUNK_BYTES
    }
}

/// What to do next about a file's stream.
#[derive(Debug)]
pub enum Step {
    /// Upload this part; the seal it will be in has this number.
    Part(SealNo, Bytes),
    /// The stream is complete and has become this seal, with everything else that must go along.
    Sealed(Taken),
}

/// A seal that was just made.
#[derive(Debug)]
pub struct Taken {
    /// Its number; that of the stream if one went into it.
    pub no: SealNo,
    /// The last parts of its stream, still to be uploaded.
    pub last_parts: Vec<Bytes>,
    /// Its bytes.
    pub bytes: u64,
}

/// Takes the parts of a range that a layer has.
type Found<'a> = &'a mut dyn FnMut(ByteRange, &[u8]);

/// Lays one over the other. The mtime is not among it: each write brings its own, which [`Buffer::set_mtime`] alters.
fn merge(set: &mut SetAttr, over: &SetAttr) {
    set.mode = over.mode.or(set.mode);
    set.uid = over.uid.or(set.uid);
    set.gid = over.gid.or(set.gid);
    set.atime = over.atime.or(set.atime);
}

/// See the module.
#[derive(Debug, Default)]
pub struct Buffer {
    dirty: Layer,
    /// When the oldest byte of dirty and stream was written.
    oldest: Option<Instant>,
    mtime: Timestamp,
    written: Timestamp,
    kill_priv: bool,
    later: SetAttr,
    /// Multiples of 64 MiB that a write reached across since the last seal of everything.
    crossed: BTreeSet<u64>,
    /// One past the last byte written last.
    last: u64,
    stream: Option<Stream>,
    seals: VecDeque<Arc<Seal>>,
    next: u64,
}

impl Buffer {
    /// Whether metad knows everything.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.seals.is_empty() && !self.has_unsealed()
    }

    /// Whether there are bytes that no seal has taken.
    #[must_use]
    pub fn has_unsealed(&self) -> bool {
        self.stream.is_some() || !self.dirty.is_empty()
    }

    /// Bytes that no seal has taken.
    #[must_use]
    pub fn unsealed(&self) -> u64 {
        self.dirty.bytes() + self.stream.as_ref().map_or(0, |s| s.range.len())
    }

    /// All its bytes; where written twice, twice.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.unsealed() + self.seals.iter().map(|s| s.bytes()).sum::<u64>()
    }

    /// What it costs in memory, about.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let stream = self.stream.as_ref().map_or(0, |s| s.range.len());
        self.dirty.weight() + stream + self.seals.iter().map(|s| s.weight()).sum::<u64>()
    }

    /// Whether a stream is being uploaded.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.stream.is_some()
    }

    /// When the oldest byte that no seal has taken was written.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    /// One past the last byte it has.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        let seals = self.seals.iter().map(|s| s.end()).max();
        let stream = self.stream.as_ref().map(|s| s.range.end);
        [self.dirty.end(), stream, seals].into_iter().flatten().max()
    }

    /// When the newest of its bytes was written, or what [`Buffer::set_mtime`] said since.
    #[must_use]
    pub fn mtime(&self) -> Option<Timestamp> {
        if self.has_unsealed() { Some(self.mtime) } else { self.seals.back().map(|s| s.mtime) }
    }

    /// When the newest of its bytes was written.
    #[must_use]
    pub fn written(&self) -> Option<Timestamp> {
        if self.has_unsealed() { Some(self.written) } else { self.seals.back().map(|s| s.written) }
    }

    /// Whether any of it takes setuid and setgid away.
    #[must_use]
    pub fn kills_priv(&self) -> bool {
        self.kill_priv || self.seals.iter().any(|s| s.kill_priv)
    }

    /// The number of the newest seal on its way.
    #[must_use]
    pub fn newest_seal(&self) -> Option<SealNo> {
        self.seals.back().map(|s| s.no)
    }

    /// The seal whose turn to commit it is.
    #[must_use]
    pub fn first_seal(&self) -> Option<SealNo> {
        self.seals.front().map(|s| s.no)
    }

    /// A seal on its way.
    #[must_use]
    pub fn seal(&self, no: SealNo) -> Option<Arc<Seal>> {
        self.seals.iter().find(|s| s.no == no).cloned()
    }

    /// Takes a write.
    pub fn write(&mut self, at: u64, data: &[u8], info: WriteInfo) {
        let Some(range) = ByteRange::new(at, at + data.len() as u64) else { return };
        if !self.has_unsealed() {
            self.kill_priv = false;
        }
        self.dirty.write(at, data);
        self.last = range.end;
        self.mtime = info.time;
        self.written = info.time;
        self.kill_priv |= info.kill_priv;
        self.oldest.get_or_insert(info.now);
        let mut border = (range.start / CHUNK_BYTES + 1) * CHUNK_BYTES;
        while border < range.end {
            self.crossed.insert(border);
            border += CHUNK_BYTES;
        }
        if let Some(stream) = &mut self.stream {
            stream.entangled |= stream.range.intersect(range).is_some();
        }
    }

    /// What is to be done about streaming after a write; call until `None`.
    pub fn step(&mut self) -> Option<Step> {
        if self.stream.is_none() {
            let start = self.dirty.long_run_before(self.last)?;
            let no = self.number();
            let range = ByteRange { start, end: start };
            self.stream = Some(Stream { no, range, parts: Vec::new(), entangled: false });
        }
        let stream = self.stream.as_mut()?;
        let border = stream.border();
        let from = stream.range.end;
        if from == border {
            let alone = !stream.entangled && !self.crossed.contains(&border);
            return if alone { self.seal_stream() } else { self.seal_all() }.map(Step::Sealed);
        }
        let want = (border - from).min(PART_BYTES as u64);
        if self.dirty.contiguous(from, want) < want {
            return None;
        }
        let part = self.dirty.take(ByteRange { start: from, end: from + want });
        stream.range.end += want;
        stream.parts.push(part.clone());
        Some(Step::Part(stream.no, part))
    }

    fn number(&mut self) -> SealNo {
        self.next += 1;
        SealNo(self.next)
    }

    /// The stream alone becomes a seal.
    fn seal_stream(&mut self) -> Option<Taken> {
        let stream = self.stream.take()?;
        if self.dirty.is_empty() {
            self.oldest = None;
            self.crossed.clear();
        }
        Some(self.push(Some(stream), Vec::new(), Frozen::default()))
    }

    /// Everything that no seal has taken becomes one. `None`: there is nothing.
    pub fn seal_all(&mut self) -> Option<Taken> {
        if !self.has_unsealed() {
            return None;
        }
        let mut last_parts = Vec::new();
        let mut stream = self.stream.take();
        if let Some(s) = &mut stream {
            let mut tail = self.dirty.contiguous(s.range.end, s.border() - s.range.end);
            while tail > 0 {
                let len = tail.min(PART_BYTES as u64);
                let part = self.dirty.take(ByteRange { start: s.range.end, end: s.range.end + len });
                s.range.end += len;
                s.parts.push(part.clone());
                last_parts.push(part);
                tail -= len;
            }
        }
        let rest = std::mem::take(&mut self.dirty).freeze();
        self.oldest = None;
        self.crossed.clear();
        Some(self.push(stream, last_parts, rest))
    }

    fn push(&mut self, stream: Option<Stream>, last_parts: Vec<Bytes>, rest: Frozen) -> Taken {
        let no = match &stream {
            Some(s) => s.no,
            None => self.number(),
        };
        let streamed = stream.map(|s| (s.range, Frozen::of_parts(s.range.start, &s.parts)));
        let later = std::mem::take(&mut self.later);
        let Self { mtime, written, kill_priv, .. } = *self;
        let seal = Seal { no, streamed, rest, mtime, written, kill_priv, later };
        let bytes = seal.bytes();
        self.seals.push_back(Arc::new(seal));
        Taken { no, last_parts, bytes }
    }

    /// The seal is in metad (or was given up). What it held, if it was still here.
    pub fn finish(&mut self, no: SealNo) -> Option<Arc<Seal>> {
        let at = self.seals.iter().position(|s| s.no == no)?;
        let seal = self.seals.remove(at);
        if self.is_clean() {
            self.kill_priv = false;
        }
        seal
    }

    /// From now on the file's mtime is `time`, whatever was written before.
    pub fn set_mtime(&mut self, time: Timestamp) {
        self.mtime = time;
        for seal in &mut self.seals {
            Arc::make_mut(seal).mtime = time;
        }
    }

    /// Sets attributes (no size) after everything written so far: they are committed with the newest of it, and
    /// `time` is then the file's ctime. False: all is in metad, there is nothing to go along with.
    pub fn put_off(&mut self, set: &SetAttr, time: Timestamp) -> bool {
        if self.has_unsealed() {
            merge(&mut self.later, set);
            self.written = time;
        } else if let Some(seal) = self.seals.back_mut() {
            let seal = Arc::make_mut(seal);
            merge(&mut seal.later, set);
            seal.written = time;
        } else {
            return false;
        }
        if let Some(mtime) = set.mtime {
            self.set_mtime(mtime);
        }
        true
    }

    /// What is put off, the newest of each.
    #[must_use]
    pub fn later(&self) -> SetAttr {
        let mut all = SetAttr::default();
        for set in self.seals.iter().map(|s| &s.later).chain([&self.later]) {
            merge(&mut all, set);
        }
        all
    }

    /// Forgets everything: whoever saves a seal finds it gone. Whether there was anything.
    pub fn discard(&mut self) -> bool {
        let had = !self.is_clean();
        *self = Self { next: self.next, ..Self::default() };
        had
    }

    /// The ranges that it has, merged, in order.
    #[must_use]
    pub fn ranges(&self) -> Vec<ByteRange> {
        let mut all = self.dirty.runs();
        all.extend(self.stream.as_ref().map(|s| s.range));
        for seal in &self.seals {
            all.extend(seal.rest.runs());
            all.extend(seal.streamed.as_ref().map(|(range, _)| *range));
        }
        all.sort_unstable();
        let mut merged: Vec<ByteRange> = Vec::with_capacity(all.len());
        for range in all {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }

    /// The first byte at `at` or later that it has.
    #[must_use]
    pub fn next(&self, at: u64) -> Option<u64> {
        let of = |range: &ByteRange| (range.end > at).then(|| range.start.max(at));
        let seals = self.seals.iter().flat_map(|s| [s.rest.next(at), s.streamed.as_ref().and_then(|(r, _)| of(r))]);
        let stream = self.stream.as_ref().and_then(|s| of(&s.range));
        seals.chain([self.dirty.next(at), stream]).flatten().min()
    }

    /// Where the bytes that it has from `at` on end, or a part of them; `at` if it has none.
    #[must_use]
    pub fn covered_to(&self, at: u64) -> u64 {
        let of = |range: &ByteRange| if range.contains(at) { range.end } else { at };
        let seals =
            self.seals.iter().map(|s| s.rest.covered_to(at).max(s.streamed.as_ref().map_or(at, |(r, _)| of(r))));
        let stream = self.stream.as_ref().map_or(at, |s| of(&s.range));
        seals.chain([self.dirty.covered_to(at), stream]).max().unwrap_or(at)
    }

    /// Copies what it has of `range` to `out`, which begins at `range.start`. What it has not comes back, in order.
    pub fn read(&self, range: ByteRange, out: &mut [u8]) -> Vec<ByteRange> {
        let mut gaps = vec![range];
        let mut layer = |visit: &dyn Fn(ByteRange, Found<'_>)| {
            let mut left = Vec::new();
            for gap in gaps.drain(..) {
                let mut at = gap.start;
                visit(gap, &mut |found, bytes| {
                    if let (Ok(from), Ok(to)) =
                        (usize::try_from(found.start - range.start), usize::try_from(found.end - range.start))
                    {
                        out[from..to].copy_from_slice(bytes);
                    }
                    left.extend(ByteRange::new(at, found.start));
                    at = found.end;
                });
                left.extend(ByteRange::new(at, gap.end));
            }
            gaps = left;
        };
        layer(&|gap, found| self.dirty.visit(gap, found));
        if let Some(stream) = &self.stream {
            layer(&|gap, found| {
                let mut at = stream.range.start;
                for part in &stream.parts {
                    let whole = ByteRange { start: at, end: at + part.len() as u64 };
                    if let Some(cut) = whole.intersect(gap)
                        && let (Ok(from), Ok(to)) = (usize::try_from(cut.start - at), usize::try_from(cut.end - at))
                    {
                        found(cut, &part[from..to]);
                    }
                    at = whole.end;
                }
            });
        }
        for seal in self.seals.iter().rev() {
            layer(&|gap, found| seal.rest.visit(gap, found));
            if let Some((_, streamed)) = &seal.streamed {
                layer(&|gap, found| streamed.visit(gap, found));
            }
        }
        gaps
    }
}
