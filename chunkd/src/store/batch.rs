//! Small chunks, many at a time.
//!
//! Under the chunks' locks: look, append, read the order number. The sync comes after the locks are
//! let go, so that callers share it; who finds a chunk that is not synced yet waits for that too.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dfs_core::chunk::ChunkId;
use dfs_core::id::SlotId;

use super::api::{PutDone, PutError, SMALL, StoreError};
use super::index::{Place, Position};
use super::log::Purpose;
use super::record::{Records, record_len};
use super::stats::StoreStats;
use super::{Store, lock, upload};

/// Chunks locked at a time when only looking.
const LOOK: usize = 256;

pub(super) fn put(store: &Store, slot: SlotId, chunks: &[(ChunkId, Bytes)]) -> Vec<Result<PutDone, PutError>> {
    StoreStats::add(&store.stats.batches, 1);
    // Hashing is the slow part and needs no lock. What is here already is not hashed.
    let mut hashed: Vec<bool> = vec![false; chunks.len()];
    let mut answers: Vec<Option<Result<PutDone, PutError>>> = Vec::with_capacity(chunks.len());
    for (i, (id, data)) in chunks.iter().enumerate() {
        let refused = refuse_length(data).or_else(|| match store.index.get(slot, *id) {
            Some(_) => None,
            None => {
                hashed[i] = true;
                refuse_name(store, *id, data)
            }
        });
        answers.push(refused.map(Err));
    }
    let open: Vec<usize> = (0..chunks.len()).filter(|i| answers[*i].is_none()).collect();

    let held = store.locks.lock(open.iter().map(|i| chunks[*i].0));
    let mut found = Found::default();
    let mut records = Records::default();
    let (mut brought, mut absent) = (BTreeSet::new(), Vec::new());
    for i in open {
        let (id, data) = &chunks[i];
        if let Some(place) = store.index.get(slot, *id) {
            found.chunk(store, slot, *id, place);
        } else if let Some(refused) = if hashed[i] { None } else { refuse_name(store, *id, data) } {
            answers[i] = Some(Err(refused));
        } else if brought.insert(*id) {
            records.put(slot, *id, data);
            absent.push(i);
        }
    }
    let mut failure = None;
    if !records.is_empty() {
        let appended = store.logs.append(&store.state, &store.stats, &mut records, Purpose::Put, |head, at| {
            let place = Place::log(head.len.unwrap_or(0), at);
            store.logs.place(&store.index, head.slot, head.id, place);
        });
        found.end = found.end.max(appended.end);
        for i in &absent[appended.done..] {
            brought.remove(&chunks[*i].0);
        }
        absent.truncate(appended.done);
        failure = appended.error;
    }
    let state = store.state.get();
    drop(held);

    let durable = found.make_durable(store, slot);
    let new: BTreeSet<usize> = absent.into_iter().collect();
    for i in 0..chunks.len() {
        let (id, data) = &chunks[i];
        if answers[i].is_some() {
            continue;
        }
        answers[i] = Some(match &durable {
            Err(e) => Err(again(e).into()),
            Ok(()) if new.contains(&i) => {
                StoreStats::add(&store.stats.puts, 1);
                StoreStats::add(&store.stats.put_bytes, data.len() as u64);
                Ok(PutDone { existed: false, orders: state.orders, losses: state.losses })
            }
            Ok(()) if brought.contains(id) || found.ids.contains(id) => {
                StoreStats::add(&store.stats.existed, 1);
                Ok(PutDone { existed: true, orders: state.orders, losses: state.losses })
            }
            Ok(()) => Err(match &failure {
                Some(PutError::Store(e)) => again(e).into(),
                _ => PutError::Full,
            }),
        });
    }
    answers.into_iter().map(|a| a.unwrap_or(Err(PutError::Full))).collect()
}

pub(super) fn have(store: &Store, slot: SlotId, ids: &[ChunkId]) -> Result<Vec<Option<PutDone>>, StoreError> {
    let mut answers = Vec::with_capacity(ids.len());
    let mut found = Found::default();
    for ids in ids.chunks(LOOK) {
        let _held = store.locks.lock(ids.iter().copied());
        let state = store.state.get();
        for id in ids {
            answers.push(store.index.get(slot, *id).map(|place| {
                found.chunk(store, slot, *id, place);
                PutDone { existed: true, orders: state.orders, losses: state.losses }
            }));
        }
    }
    found.make_durable(store, slot)?;
    Ok(answers)
}

fn refuse_length(data: &Bytes) -> Option<PutError> {
    let len = data.len() as u64;
    (len == 0 || len >= SMALL).then_some(PutError::Length(len))
}

fn refuse_name(store: &Store, id: ChunkId, data: &Bytes) -> Option<PutError> {
    let got = ChunkId::of(data);
    if got == id {
        return None;
    }
    store.stats.mismatches.fetch_add(1, Ordering::Relaxed);
    Some(PutError::Mismatch { got, len: data.len() as u64 })
}

/// The same error for another chunk of the batch.
fn again(e: &StoreError) -> StoreError {
    StoreError::Failed(e.to_string())
}

/// Chunks that were found, and what has to be durable before that may be said.
#[derive(Debug, Default)]
pub(super) struct Found {
    ids: BTreeSet<ChunkId>,
    end: Position,
    files: Vec<(ChunkId, u64)>,
}

impl Found {
    pub(super) fn chunk(&mut self, store: &Store, slot: SlotId, id: ChunkId, place: Place) {
        self.ids.insert(id);
        if let Some(at) = place.record() {
            self.end = self.end.max(Position { seq: at.seq, offset: at.offset + record_len(place.len) });
        } else if let Some(number) = lock(&store.unsynced_files).get(&(slot, id)) {
            self.files.push((id, *number));
        }
    }

    /// Call it without the chunks' locks.
    pub(super) fn make_durable(&self, store: &Store, slot: SlotId) -> Result<(), StoreError> {
        store.state.check()?;
        store.logs.wait_durable(&store.state, &store.stats, self.end)?;
        if self.files.is_empty() { Ok(()) } else { upload::sync_slot(store, slot, &self.files) }
    }
}
