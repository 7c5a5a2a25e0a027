//! Doing a step: from plain data to system calls and back. Both sides run exactly this.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

use super::listing::Scan;
use super::outcome::{Outcome, Value};
use super::step::{MAPS, Op, Place, SLOTS, Step, Target, Watch};
use super::syscall::{self, Answer};
use super::watch::{Seen, is_recent_range};

/// What the actors of one side share.
#[derive(Debug)]
pub struct Shared {
    /// When the run began, in seconds: times from then on are not compared by value.
    pub began: i64,
    /// Inodes that were mapped: when their times move is the kernel's affair.
    pub(super) mapped: Mutex<BTreeMap<u64, Mapping>>,
}

/// How an inode was mapped at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mapping {
    /// To be read, or private.
    Read,
    /// Shared and writable.
    Written,
}

impl Shared {
    /// For a side that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { began: is_recent_range(), mapped: Mutex::default() }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// A descriptor of the actor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) fd: i32,
    /// Opened with `O_DIRECT`: offsets and lengths are rounded to what a disk takes.
    pub(super) direct: bool,
    /// Opened with `O_PATH`: the filesystem does not know of it.
    pub(super) path: bool,
}

/// A mapping of the actor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped {
    pub(super) address: usize,
    pub(super) len: usize,
    /// A descriptor of the file, to ask for its size.
    pub(super) fd: i32,
    /// Where in the file it begins.
    pub(super) offset: u64,
}

/// The state of one actor.
#[derive(Debug)]
pub(super) struct Performer {
    pub(super) slots: [Option<Slot>; SLOTS as usize],
    pub(super) maps: [Option<Mapped>; MAPS as usize],
    pub(super) scans: BTreeMap<u8, Scan>,
    pub(super) pipe: [i32; 2],
    pub(super) shared: Arc<Shared>,
}

impl Performer {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, i32> {
        let pipe = syscall::pipe()?;
        Ok(Self { slots: Default::default(), maps: Default::default(), scans: BTreeMap::new(), pipe, shared })
    }

    /// Gives everything back that would keep the filesystem busy.
    pub(super) fn leave(&mut self) {
        for mapped in self.maps.iter_mut().filter_map(Option::take) {
            let _ = mapped.end();
        }
        let _ = syscall::close_all(0);
    }

    /// Does one step.
    pub(super) fn step(&mut self, step: &Step) -> Outcome {
        let objects = if step.watch == Watch::Nothing { Vec::new() } else { step.op.objects() };
        let before: Vec<Option<Seen>> = match step.watch {
            Watch::Times => objects.iter().map(|on| self.look(on).ok()).collect(),
            _ => Vec::new(),
        };
        if let Some(latest) = before.iter().flatten().map(Seen::latest).max() {
            // Not forever: a file may carry a time of the future.
            let until = latest.min(syscall::coarse_clock() + 20_000_000);
            while syscall::coarse_clock() <= until {
                std::thread::yield_now();
            }
        }
        let mut outcome = self.call(&step.op);
        for (n, on) in objects.iter().enumerate() {
            match self.look(on) {
                Ok(seen) => {
                    seen.describe(n, &mut outcome);
                    if let Some(Some(before)) = before.get(n) {
                        outcome.add(format!("{n}.moved"), Value::Text(seen.moved_since(before)));
                    }
                }
                Err(errno) => outcome.add(format!("{n}.look"), Value::Errno(errno)),
            }
        }
        outcome
    }

    fn slot(&self, slot: u8) -> Option<Slot> {
        self.slots.get(usize::from(slot)).copied().flatten()
    }

    /// The descriptor in a slot; one that nobody has if there is none.
    pub(super) fn fd(&self, slot: u8) -> i32 {
        self.slot(slot).map_or(-1, |s| s.fd)
    }

    pub(super) fn is_direct(&self, slot: u8) -> bool {
        self.slot(slot).is_some_and(|s| s.direct)
    }

    pub(super) fn base(&self, place: &Place) -> i32 {
        place.base.map_or(libc::AT_FDCWD, |slot| self.fd(slot))
    }

    /// Puts a new descriptor into a slot; what was there is closed.
    pub(super) fn put(&mut self, slot: u8, answer: Answer, flags: i32) -> Outcome {
        let outcome = Outcome::of(answer.map(|_| 0));
        let Ok(fd) = answer else { return outcome };
        let fd = i32::try_from(fd).expect("descriptors are small numbers");
        self.scans.remove(&slot);
        let new = Slot { fd, direct: flags & libc::O_DIRECT != 0, path: flags & libc::O_PATH != 0 };
        match self.slots[usize::from(slot)].replace(new) {
            Some(old) => outcome.with("closed", number(syscall::close(old.fd))),
            None => outcome,
        }
    }

    fn call(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Open { slot, at, flags, mode } => {
                let answer = syscall::openat(self.base(at), &c(&at.path), *flags, *mode);
                self.put(*slot, answer, *flags)
            }
            Op::Close { slot } => {
                self.scans.remove(slot);
                let fd = self.slots[usize::from(*slot)].take().map_or(-1, |s| s.fd);
                Outcome::of(syscall::close(fd))
            }
            Op::Dup { slot, to } => {
                let answer = syscall::dup(self.fd(*slot));
                let old = self.slot(*slot);
                let direct = if old.is_some_and(|s| s.direct) { libc::O_DIRECT } else { 0 };
                let path = if old.is_some_and(|s| s.path) { libc::O_PATH } else { 0 };
                self.put(*to, answer, direct | path)
            }
            Op::List { slot, room } => self.list(*slot, *room),
            Op::ListSeek { slot, room } => self.list_seek(*slot, *room),
            Op::ListBegin { slot, room } => self.list_begin(*slot, *room),
            Op::ListEnd { slot, room } => self.list_end(*slot, *room),
            Op::Stat { on } => self.stat(on),
            Op::Access { .. }
            | Op::Chmod { .. }
            | Op::Chown { .. }
            | Op::Utimens { .. }
            | Op::Link { .. }
            | Op::Symlink { .. }
            | Op::Readlink { .. }
            | Op::Rename { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Mkdir { .. }
            | Op::Mknod { .. }
            | Op::Truncate { .. }
            | Op::Chdir { .. }
            | Op::Getcwd
            | Op::Umask { .. } => self.names(op),
            Op::GetXattr { .. } | Op::SetXattr { .. } | Op::ListXattr { .. } | Op::RemoveXattr { .. } => self.xattr(op),
            _ => self.data(op),
        }
    }
}

/// A path or name for the kernel. The generator makes none with a NUL.
pub(super) fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// A result as a further field.
pub(super) fn number(answer: Answer) -> Value {
    answer.map_or_else(Value::Errno, Value::Int)
}

/// The mapped inodes, also if another actor panicked.
pub(super) fn mapped(shared: &Shared) -> std::sync::MutexGuard<'_, BTreeMap<u64, Mapping>> {
    shared.mapped.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Performer {
    pub(super) fn look(&self, on: &Target) -> Result<Seen, i32> {
        let (base, path, flags) = match on {
            Target::Slot(slot) => (self.fd(*slot), c(""), libc::AT_EMPTY_PATH),
            Target::At(place) => (self.base(place), c(&place.path), 0),
            Target::Link(place) => (self.base(place), c(&place.path), libc::AT_SYMLINK_NOFOLLOW),
        };
        let stat = syscall::statx(base, &path, flags)?;
        let mapping = mapped(&self.shared).get(&stat.stx_ino).copied();
        let is_path = matches!(on, Target::Slot(slot) if self.slot(*slot).is_some_and(|s| s.path));
        Ok(Seen::new(stat, self.shared.began, mapping, is_path))
    }

    fn stat(&self, on: &Target) -> Outcome {
        match self.look(on) {
            Ok(seen) => {
                let mut outcome = Outcome::of(Ok(0));
                seen.describe(0, &mut outcome);
                outcome
            }
            Err(errno) => Outcome::of(Err(errno)),
        }
    }
}
