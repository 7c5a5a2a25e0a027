//! Reading the log from some entry on, one file at a time.

use dfs_core::id::LogIndex;
use dfs_disk::{Access, AlignedBuf, Io};

use super::frame::{self, Salt};
use super::recovery::load;
use super::{Entry, Log, LogError, LogFile, UNIT};

/// Iterator over entries, made by [`Log::entries_from`]. It ends after the first error.
#[derive(Debug)]
pub struct Entries<'a> {
    log: &'a Log,
    /// The entry that comes next.
    next: LogIndex,
    /// Which file is read, as a place in the log's list.
    place: usize,
    /// Its bytes; empty while it is not loaded.
    bytes: AlignedBuf,
    at: usize,
    /// The entries of the present frame from `next` on, the first one last.
    frame: Vec<Entry>,
    failed: bool,
}

impl<'a> Entries<'a> {
    pub(super) fn new(log: &'a Log, index: LogIndex) -> Result<Self, LogError> {
        if index < log.first_index() {
            return Err(LogError::Released { index, first: log.first_index() });
        }
        let place = log.files.iter().rposition(|f| f.first <= index).unwrap_or(0);
        let (bytes, frame) = (AlignedBuf::new(), Vec::new());
        Ok(Self { log, next: index, place, bytes, at: UNIT, frame, failed: false })
    }

    fn advance(&mut self) -> Result<Option<Entry>, LogError> {
        loop {
            if let Some(entry) = self.frame.pop() {
                self.next.0 += 1;
                return Ok(Some(entry));
            }
            if self.next > self.log.last {
                return Ok(None);
            }
            let file = self.log.files[self.place];
            let following = self.log.files.get(self.place + 1).map(|f| f.first);
            if following.is_some_and(|first| first <= self.next) {
                self.place += 1;
                self.bytes = AlignedBuf::new();
            } else {
                self.read_frame(file)?;
            }
        }
    }

    /// Reads the next frame of a file; there has to be one.
    fn read_frame(&mut self, file: LogFile) -> Result<(), LogError> {
        let path = file.number.path(&self.log.dir);
        if self.bytes.is_empty() {
            let opened = self.log.disk.open(&path, Access::Read, Io::Direct);
            let opened = opened.map_err(|e| LogError::io(&path, "open", e))?;
            self.bytes = load(&*opened, &path)?;
            self.at = UNIT;
        }
        let salt = Salt { cluster: self.log.options.cluster, number: file.number };
        let Some(frame) = self.bytes.get(self.at..).and_then(|b| frame::decode(b, salt)) else {
            let what = format!("no sound entry here, the log goes on to entry {}", self.log.last);
            return Err(LogError::corrupt(&path, self.at, what));
        };
        if frame.first > self.next {
            let what = format!("entry {} is here instead of {}", frame.first, self.next);
            return Err(LogError::corrupt(&path, self.at, what));
        }
        self.at += frame.bytes();
        let wanted = frame.entries().filter(|(_, index, _)| *index >= self.next);
        self.frame = wanted.map(|(term, index, payload)| Entry { term, index, payload: payload.to_vec() }).collect();
        self.frame.reverse();
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = self.advance();
        self.failed = result.is_err();
        result.transpose()
    }
}
