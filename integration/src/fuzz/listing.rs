//! Reading directories. Orders and positions differ between filesystems, so what is compared are sets, and
//! what one side promises by itself: a position leads back, and no entry is lost or doubled.

use std::collections::{BTreeMap, BTreeSet};

use super::outcome::{Outcome, Value};
use super::perform::Performer;
use super::syscall;

/// A name and its inode.
type Entry = (String, u64);

/// A reading that was begun.
#[derive(Debug)]
pub(super) struct Scan {
    at_begin: BTreeSet<Entry>,
    read: Vec<Entry>,
}

struct Raw {
    name: String,
    ino: u64,
    kind: u8,
    next: i64,
}

impl Performer {
    fn some(&self, fd: i32, room: u32) -> Result<Vec<Raw>, i32> {
        let mut buffer = vec![0_u8; room as usize];
        let len = syscall::entries(fd, &mut buffer)?;
        buffer.truncate(usize::try_from(len).unwrap_or(0));
        Ok(parse(&buffer))
    }

    fn rest(&self, fd: i32, room: u32) -> Result<Vec<Raw>, i32> {
        let mut all = Vec::new();
        loop {
            let some = self.some(fd, room)?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend(some);
            // A directory of a run has dozens of entries: more means that reading never ends.
            if all.len() > 100_000 {
                return Err(libc::ELOOP);
            }
        }
    }

    /// Puts the position back to the beginning: what it is elsewhere decides the errors of other calls.
    fn rewound<T>(&self, slot: u8, found: T) -> Result<T, i32> {
        syscall::lseek(self.fd(slot), 0, libc::SEEK_SET)?;
        Ok(found)
    }

    fn whole(&self, fd: i32, room: u32) -> Result<Vec<Raw>, i32> {
        syscall::lseek(fd, 0, libc::SEEK_SET)?;
        self.rest(fd, room)
    }

    pub(super) fn list(&mut self, slot: u8, room: u32) -> Outcome {
        self.scans.remove(&slot);
        match self.whole(self.fd(slot), room).and_then(|all| self.rewound(slot, all)) {
            Ok(all) => {
                let mut names: Vec<String> = all.iter().map(|e| format!("{} {}", e.name, kind(e.kind))).collect();
                names.sort();
                Outcome::of(Ok(0)).with("entries", Value::List(names))
            }
            Err(errno) => Outcome::of(Err(errno)),
        }
    }

    pub(super) fn list_seek(&mut self, slot: u8, room: u32) -> Outcome {
        self.scans.remove(&slot);
        let fd = self.fd(slot);
        let read = || {
            syscall::lseek(fd, 0, libc::SEEK_SET)?;
            let first = self.some(fd, room)?;
            // The position is that of the last entry that was read, not that of the buffer's end.
            let position = first.last().map_or(0, |e| e.next);
            let rest = names(&self.rest(fd, room)?);
            syscall::lseek(fd, position, libc::SEEK_SET)?;
            let again = names(&self.rest(fd, room)?);
            let mut all = [names(&first), rest.clone()].concat();
            all.sort();
            Ok((all, rest == again))
        };
        match read().and_then(|found| self.rewound(slot, found)) {
            Ok((all, same)) => Outcome::of(Ok(0))
                .with("entries", Value::List(all))
                .with("the same after seekdir", Value::Int(same.into())),
            Err(errno) => Outcome::of(Err(errno)),
        }
    }

    pub(super) fn list_begin(&mut self, slot: u8, room: u32) -> Outcome {
        self.scans.remove(&slot);
        let fd = self.fd(slot);
        let begin = || {
            let at_begin = entries(&self.whole(fd, 32_768)?).into_iter().collect();
            syscall::lseek(fd, 0, libc::SEEK_SET)?;
            let read = entries(&self.some(fd, room)?);
            Ok(Scan { at_begin, read })
        };
        match begin() {
            Ok(scan) => {
                self.scans.insert(slot, scan);
                Outcome::of(Ok(0))
            }
            Err(errno) => Outcome::of(Err(errno)),
        }
    }

    pub(super) fn list_end(&mut self, slot: u8, room: u32) -> Outcome {
        let Some(Scan { at_begin, mut read }) = self.scans.remove(&slot) else { return Outcome::of(Err(libc::EBADF)) };
        let fd = self.fd(slot);
        let mut end = || {
            read.extend(entries(&self.rest(fd, room)?));
            let at_end: BTreeSet<Entry> = entries(&self.whole(fd, 32_768)?).into_iter().collect();
            let mut times: BTreeMap<&Entry, usize> = BTreeMap::new();
            for entry in &read {
                *times.entry(entry).or_default() += 1;
            }
            let stayed: Vec<&Entry> = at_begin.intersection(&at_end).collect();
            let of = |wrong: fn(usize) -> bool| -> Vec<String> {
                let count = |e: &Entry| times.get(e).copied().unwrap_or(0);
                stayed.iter().filter(|e| wrong(count(e))).map(|e| e.0.clone()).collect()
            };
            Ok((of(|n| n == 0), of(|n| n > 1)))
        };
        match end().and_then(|found| self.rewound(slot, found)) {
            Ok((lost, doubled)) => {
                Outcome::of(Ok(0)).with("lost", Value::List(lost)).with("doubled", Value::List(doubled))
            }
            Err(errno) => Outcome::of(Err(errno)),
        }
    }
}

fn names(raw: &[Raw]) -> Vec<String> {
    raw.iter().map(|e| e.name.clone()).collect()
}

fn entries(raw: &[Raw]) -> Vec<Entry> {
    // What `..` leads to is not an entry of this directory.
    raw.iter().filter(|e| e.name != "..").map(|e| (e.name.clone(), e.ino)).collect()
}

fn kind(kind: u8) -> &'static str {
    match kind {
        libc::DT_REG => "file",
        libc::DT_DIR => "directory",
        libc::DT_LNK => "symlink",
        libc::DT_FIFO => "fifo",
        libc::DT_SOCK => "socket",
        libc::DT_CHR => "character device",
        libc::DT_BLK => "block device",
        _ => "unknown",
    }
}

/// `struct linux_dirent64`: ino 8, position of the next 8, length of this 2, kind 1, name with a NUL.
fn parse(mut bytes: &[u8]) -> Vec<Raw> {
    let mut all = Vec::new();
    while let Some((head, name)) = bytes.split_at_checked(19) {
        let number = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let len = usize::from(u16::from_ne_bytes([head[16], head[17]]));
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        all.push(Raw { name, ino: number(0), kind: head[18], next: number(8).cast_signed() });
        bytes = bytes.get(len.max(19)..).unwrap_or_default();
    }
    all
}
