//! The cache file as its one writer sees it: regions that are filled one after the other, the oldest thrown away for
//! the next.
//!
//! Nothing is ever synced, and nothing has to be: a record counts when its entry is whole, and is believed when its
//! pages are. What a kill or a power cut leaves is therefore less than there was, never something else. One region is
//! kept empty, so that what was used can be carried over from the oldest one into the current one, and so that a
//! record is not written over in the moment in which its region is given up.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use dfs_disk::DiskFile;

use super::format::{
    ENTRIES, ENTRY_BYTES, Entry, REGION_BYTES, TABLE_BYTES, UNIT_BYTES, is_whole, place, record_bytes, seal,
};
use super::index::{Index, Place};
use crate::cache::chunk::PieceKey;

/// Bytes of a table that are read at once when it is loaded.
const LOAD_BYTES: usize = 16 << 10;
/// Bytes that are gathered before they are written.
const BATCH_BYTES: usize = 1 << 20;
/// Of a region's bytes and entries, what is carried over at most: there must be room for what is new.
const CARRY: u64 = 2;

#[derive(Debug, Default)]
struct Region {
    /// 0: nothing was found in it.
    filling: u64,
    /// Bytes that are taken, the table's included.
    used: u64,
    /// The pieces in the order of the table; 0 where an entry was not whole.
    names: Vec<u64>,
}

/// Records that are on their way into the open region.
#[derive(Debug, Default)]
struct Batch {
    /// Where the bytes go, in the region.
    at: u64,
    records: Vec<u8>,
    entries: Vec<u8>,
    places: Vec<(u64, Place)>,
}

/// The regions.
#[derive(Debug)]
pub(super) struct Ring {
    file: Arc<dyn DiskFile>,
    index: Arc<Index>,
    regions: Vec<Region>,
    /// No more than these.
    most: usize,
    open: Option<usize>,
    free: Vec<usize>,
    filling: u64,
    batch: Batch,
    /// Pieces thrown away.
    pub(super) evicted: u64,
}

impl Ring {
    /// Reads the tables of the file, and forgets what lies beyond `most` regions. `go_on` is asked before each one.
    ///
    /// # Errors
    /// What the system says. A table that cannot be read is an empty one.
    pub(super) fn load(
        file: Arc<dyn DiskFile>,
        index: Arc<Index>,
        most: usize,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let mut ring = Self {
            file,
            index,
            regions: Vec::new(),
            most,
            open: None,
            free: Vec::new(),
            filling: 0,
            batch: Batch::default(),
            evicted: 0,
        };
        let bound = most as u64 * REGION_BYTES;
        if ring.file.len()? > bound {
            ring.file.set_len(bound)?;
        }
        let count = usize::try_from(ring.file.len()?.div_ceil(REGION_BYTES)).unwrap_or(most);
        let mut found = Vec::with_capacity(count);
        for number in 0..count {
            if !go_on() {
                break;
            }
            found.push((ring.load_region(number), number));
        }
        // Of two records of a piece the newer one counts: the older may have been given up as damaged.
        found.sort_by_key(|(_, number)| ring.regions[*number].filling);
        for (places, number) in found {
            places.into_iter().for_each(|(name, place)| ring.index.put(name, place));
            if ring.regions[number].filling == 0 {
                ring.free.push(number);
            } else {
                ring.open = Some(number);
                ring.filling = ring.regions[number].filling;
            }
        }
        Ok(ring)
    }

    /// Reads one table; what it has of its newest filling.
    fn load_region(&mut self, number: usize) -> Vec<(u64, Place)> {
        let (mut region, mut places) = (Region::default(), Vec::new());
        let mut part = vec![0; LOAD_BYTES];
        for first in (0..ENTRIES).step_by(LOAD_BYTES / ENTRY_BYTES) {
            let offset = number as u64 * REGION_BYTES + (first * ENTRY_BYTES) as u64;
            let got = self.file.read_at(&mut part, offset).unwrap_or(0);
            let mut any = false;
            for (at, bytes) in (first..).zip(part[..got].chunks_exact(ENTRY_BYTES)) {
                let Some(entry) = Entry::decode(bytes) else { continue };
                let Some(place) = Place::new(number, entry.unit, entry.len) else { continue };
                if entry.filling < region.filling {
                    continue;
                }
                if entry.filling > region.filling {
                    region = Region { filling: entry.filling, ..Region::default() };
                    places.clear();
                }
                any = true;
                let name = Index::name(&entry.key);
                region.names.resize(at, 0);
                region.names.push(name);
                region.used = region.used.max(u64::from(entry.unit) * UNIT_BYTES + record_bytes(entry.len));
                places.push((name, place));
            }
            if !any {
                break;
            }
        }
        self.regions.push(region);
        places
    }

    /// Bytes of regions that were begun.
    pub(super) fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.used).sum()
    }

    /// Writes pieces, those excepted that are here already. The bytes written.
    ///
    /// # Errors
    /// What the system says. What had not been written by then is forgotten, all else is as it was.
    pub(super) fn write(&mut self, pieces: &[(PieceKey, Bytes)]) -> io::Result<u64> {
        let add = |sum, (key, piece): &(PieceKey, Bytes)| -> io::Result<u64> { Ok(sum + self.add(key, piece)?) };
        let done = pieces.iter().try_fold(0, add);
        let done = done.and_then(|sum| self.flush().map(|()| sum));
        if done.is_err() {
            self.batch = Batch::default();
        }
        done
    }

    fn add(&mut self, key: &PieceKey, piece: &Bytes) -> io::Result<u64> {
        let name = Index::name(key);
        let len = u32::try_from(piece.len()).unwrap_or(0);
        let waits = self.batch.places.iter().any(|(other, _)| *other == name);
        if len == 0 || record_bytes(len) > REGION_BYTES - TABLE_BYTES || waits || self.index.find(name).is_some() {
            return Ok(0);
        }
        if !self.has_room(len) {
            self.flush()?;
            self.next_region()?;
        }
        self.append(key, len, |out| seal(key, piece, out))?;
        Ok(u64::from(len))
    }

    /// First free byte of the open region, and its entries, with those in the batch.
    fn end(&self) -> Option<(usize, u64, usize)> {
        let number = self.open?;
        let region = &self.regions[number];
        let used =
            if self.batch.places.is_empty() { region.used } else { self.batch.at + self.batch.records.len() as u64 };
        Some((number, used, region.names.len() + self.batch.places.len()))
    }

    fn has_room(&self, len: u32) -> bool {
        self.end()
            .is_some_and(|(_, used, entries)| entries < ENTRIES && place(used, len) + record_bytes(len) <= REGION_BYTES)
    }

    /// Adds a record to the batch; there is room.
    fn append(&mut self, key: &PieceKey, len: u32, record: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let Some((number, used, _)) = self.end() else { return Err(io::Error::other("no region is open")) };
        let at = place(used, len);
        if at + record_bytes(len) > REGION_BYTES {
            return Err(io::Error::other("a record does not fit into its region"));
        }
        let unit = u32::try_from(at / UNIT_BYTES).map_err(io::Error::other)?;
        let place = Place::new(number, unit, len).ok_or_else(|| io::Error::other("the cache file is too long"))?;
        let batch = &mut self.batch;
        if batch.places.is_empty() {
            batch.at = at;
        }
        batch.records.resize(usize::try_from(at - batch.at).map_err(io::Error::other)?, 0);
        record(&mut batch.records);
        let entry = Entry { key: *key, len, unit, filling: self.regions[number].filling };
        batch.entries.extend_from_slice(&entry.encode());
        batch.places.push((Index::name(key), place));
        if batch.records.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes the batch: records first, so that an entry that is whole hardly ever lacks its record.
    fn flush(&mut self) -> io::Result<()> {
        let Some((number, used, _)) = self.end().filter(|_| !self.batch.places.is_empty()) else { return Ok(()) };
        let start = number as u64 * REGION_BYTES;
        let table = start + (self.regions[number].names.len() * ENTRY_BYTES) as u64;
        self.file.write_at(&self.batch.records, start + self.batch.at)?;
        self.file.write_at(&self.batch.entries, table)?;
        let region = &mut self.regions[number];
        region.used = used;
        for (name, place) in self.batch.places.drain(..) {
            region.names.push(name);
            self.index.put(name, place);
        }
        self.batch.records.clear();
        self.batch.entries.clear();
        Ok(())
    }

    /// Opens an empty region, and empties the oldest one if there would be no other.
    fn next_region(&mut self) -> io::Result<()> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.regions.len() < self.most => self.grow()?,
            None => {
                let oldest = self.oldest().ok_or_else(|| io::Error::other("the cache has no region"))?;
                self.give_up(oldest, false)?;
                oldest
            }
        };
        self.filling += 1;
        if let Some(full) = self.open {
            self.regions[full].names.shrink_to_fit();
        }
        self.regions[number] = Region { filling: self.filling, used: TABLE_BYTES, names: Vec::new() };
        self.open = Some(number);
        if self.free.is_empty()
            && self.regions.len() >= self.most
            && let Some(oldest) = self.oldest().filter(|oldest| *oldest != number)
        {
            let carried = self.give_up(oldest, true);
            self.free.push(oldest);
            carried?;
        }
        Ok(())
    }

    /// One more region, its bytes reserved.
    fn grow(&mut self) -> io::Result<usize> {
        let number = self.regions.len();
        self.file.allocate((number as u64 + 1) * REGION_BYTES)?;
        self.regions.push(Region::default());
        Ok(number)
    }

    fn oldest(&self) -> Option<usize> {
        let begun = self.regions.iter().enumerate().filter(|(_, region)| region.filling > 0);
        begun.min_by_key(|(_, region)| region.filling).map(|(number, _)| number)
    }

    /// Empties a region; what was used since it was put there is carried over if `carry`.
    fn give_up(&mut self, number: usize, carry: bool) -> io::Result<()> {
        let Region { filling, names, .. } = std::mem::take(&mut self.regions[number]);
        let mut room = if carry { (REGION_BYTES / CARRY, ENTRIES / CARRY as usize) } else { (0, 0) };
        let mut result = Ok(());
        for (at, name) in names.into_iter().enumerate() {
            let Some((place, used)) = self.index.find(name).filter(|(place, _)| place.region() == number) else {
                continue;
            };
            let bytes = record_bytes(place.len);
            if used && result.is_ok() && bytes <= room.0 && room.1 > 0 {
                match self.carry_over(number, at, filling, place) {
                    Ok(true) => {
                        room = (room.0 - bytes, room.1 - 1);
                        continue;
                    }
                    Ok(false) => {}
                    Err(e) => result = Err(e),
                }
            }
            self.evicted += u64::from(self.index.remove(name, place));
        }
        // Before the region is written over: until then the index says where the records were.
        let result = result.and_then(|()| self.flush());
        if result.is_err() {
            for (name, _) in std::mem::take(&mut self.batch).places {
                if let Some((place, _)) = self.index.find(name).filter(|(place, _)| place.region() == number) {
                    self.evicted += u64::from(self.index.remove(name, place));
                }
            }
        }
        result
    }

    /// Copies a record into the open region as it is, if it is good; whether it was.
    fn carry_over(&mut self, number: usize, at: usize, filling: u64, from: Place) -> io::Result<bool> {
        let mut entry = [0; ENTRY_BYTES];
        let mut record = vec![0; usize::try_from(record_bytes(from.len)).map_err(io::Error::other)?];
        let table = number as u64 * REGION_BYTES + (at * ENTRY_BYTES) as u64;
        // An oldest region that cannot be read is no reason not to go on.
        if self.file.read_exact_at(&mut entry, table).is_err()
            || self.file.read_exact_at(&mut record, from.offset()).is_err()
        {
            return Ok(false);
        }
        let Some(entry) = Entry::decode(&entry).filter(|e| e.filling == filling && e.len == from.len) else {
            return Ok(false);
        };
        if !self.has_room(from.len) || !is_whole(&entry.key, &record) {
            return Ok(false);
        }
        self.append(&entry.key, from.len, |out| out.extend_from_slice(&record))?;
        Ok(true)
    }
}
