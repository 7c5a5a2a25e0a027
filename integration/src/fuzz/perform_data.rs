//! Calls about the content of open files: reads, writes, positions, holes, locks, mappings.

use super::outcome::{Outcome, Value};
use super::perform::{Mapped, Mapping, Performer, mapped};
use super::step::{Op, Owner, Target};
use super::syscall::{self, Answer};

/// What disks that `O_DIRECT` reaches may ask for.
const DIRECT: u32 = 4096;
/// What goes through the pipe in one go.
const PIPE: usize = 4096;

/// The bytes that a seed stands for: none is zero, so that holes show.
#[must_use]
pub(super) fn pattern(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&(state | 0x0101_0101_0101_0101).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A buffer whose part in use begins at a multiple of what `O_DIRECT` asks for.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(len: usize) -> Self {
        let room = vec![0_u8; len + DIRECT as usize];
        let skip = room.as_ptr().align_offset(DIRECT as usize);
        Self(room, skip)
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + len]
    }
}

fn split<'a>(mut buffer: &'a mut [u8], sizes: &[u32]) -> Vec<&'a mut [u8]> {
    let mut parts = Vec::new();
    for size in sizes {
        let (part, rest) = buffer.split_at_mut(*size as usize);
        parts.push(part);
        buffer = rest;
    }
    parts
}

impl Performer {
    pub(super) fn data(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Read { slot, at, sizes, flags } => {
                let (at, sizes) = self.fit(*slot, *at, sizes);
                let len: usize = sizes.iter().map(|s| *s as usize).sum();
                let mut buffer = Aligned::new(len);
                let answer = syscall::read(self.fd(*slot), at, &mut split(buffer.bytes(len), &sizes), *flags);
                let got = usize::try_from(answer.unwrap_or(0)).unwrap_or(0);
                Outcome::of(answer).with("bytes", Value::Bytes(buffer.bytes(len)[..got].to_vec()))
            }
            Op::Write { slot, at, sizes, flags, seed } => {
                let (at, sizes) = self.fit(*slot, *at, sizes);
                let len: usize = sizes.iter().map(|s| *s as usize).sum();
                let mut buffer = Aligned::new(len);
                buffer.bytes(len).copy_from_slice(&pattern(*seed, len));
                // The end of a file is seldom at a whole block.
                let flags = if self.is_direct(*slot) { flags & !libc::RWF_APPEND } else { *flags };
                Outcome::of(syscall::write(self.fd(*slot), at, &mut split(buffer.bytes(len), &sizes), flags))
            }
            Op::Seek { slot, offset, whence } => self.seek(*slot, *offset, *whence),
            Op::SeekHole { slot, offset, whence } => self.seek_hole(*slot, *offset, *whence),
            // With O_DIRECT some filesystems refuse what is not whole blocks, and here nothing can be rounded.
            Op::Copy { from, to, .. } | Op::Sendfile { from, to, .. }
                if self.is_direct(*from) || self.is_direct(*to) =>
            {
                Outcome::of(Err(libc::EINVAL))
            }
            Op::Ftruncate { slot, len } => Outcome::of(syscall::ftruncate(self.fd(*slot), *len)),
            Op::Fallocate { slot, mode, at, len } => Outcome::of(syscall::fallocate(self.fd(*slot), *mode, *at, *len)),
            Op::Copy { from, from_at, to, to_at, len } => self.copy((*from, *from_at), (*to, *to_at), *len),
            Op::Sendfile { from, to, len } => {
                let len = usize::try_from(*len).unwrap_or(usize::MAX);
                Outcome::of(syscall::sendfile(self.fd(*to), self.fd(*from), len))
            }
            Op::Sync { slot, data_only } => Outcome::of(syscall::sync(self.fd(*slot), *data_only)),
            Op::Forget { slot } => Outcome::of(syscall::forget(self.fd(*slot))),
            Op::Lock { .. } | Op::TestLock { .. } | Op::Flock { .. } => self.lock(op),
            _ => self.memory(op),
        }
    }

    /// Rounds what goes to a file that was opened with `O_DIRECT`, the same way on each side.
    fn fit(&self, slot: u8, at: Option<i64>, sizes: &[u32]) -> (Option<i64>, Vec<u32>) {
        if !self.is_direct(slot) {
            return (at, sizes.to_vec());
        }
        let sizes = sizes.iter().map(|s| s.next_multiple_of(DIRECT)).collect();
        (Some(at.unwrap_or(0) / i64::from(DIRECT) * i64::from(DIRECT)), sizes)
    }

    /// In a directory, positions are the filesystem's own: there is only the beginning.
    fn seek(&mut self, slot: u8, offset: i64, whence: i32) -> Outcome {
        self.scans.remove(&slot);
        let offset = if self.is_directory(slot) { (0, libc::SEEK_SET) } else { (offset, whence) };
        Outcome::of(syscall::lseek(self.fd(slot), offset.0, offset.1))
    }

    fn is_directory(&self, slot: u8) -> bool {
        self.look(&Target::Slot(slot)).is_ok_and(|seen| seen.is_directory())
    }

    /// Where data and holes are is the filesystem's to say, within bounds; a hole it names has to read as zeros.
    fn seek_hole(&self, slot: u8, offset: i64, whence: i32) -> Outcome {
        let fd = self.fd(slot);
        if self.is_directory(slot) {
            return Outcome::of(Err(libc::EISDIR));
        }
        // How much is read below depends on where holes are; atime shall move on both sides.
        self.is_zero(fd, offset, offset + 1);
        let size = match self.look(&Target::Slot(slot)) {
            // What a mapping wrote counts once the kernel has brought it, and FUSE is not told to look for it.
            Ok(seen) if seen.was_mapped_to_write() => {
                syscall::write_back(fd).and_then(|_| syscall::lseek(fd, 0, libc::SEEK_END))
            }
            Ok(_) => syscall::lseek(fd, 0, libc::SEEK_END),
            Err(errno) => Err(errno),
        };
        let found = syscall::lseek(fd, offset, whence);
        let _ = syscall::lseek(fd, offset, libc::SEEK_SET);
        let (Ok(size), Ok(found)) = (size, found) else {
            // No data up to the end may be said by an error, or by the end.
            let no_data = whence == libc::SEEK_DATA && found == Err(libc::ENXIO) && size.is_ok_and(|s| offset < s);
            let holes = no_data.then(|| self.is_zero(fd, offset, size.unwrap_or(0)));
            return match holes {
                Some(zero) => Outcome::of(Ok(0)).with("within", Value::Int(1)).with("zero", Value::Int(zero.into())),
                None => Outcome::of(found.map(|_| 0)),
            };
        };
        let within = (offset..=size).contains(&found);
        let zero = match whence {
            libc::SEEK_DATA => self.is_zero(fd, offset, found),
            _ => syscall::lseek(fd, found, libc::SEEK_DATA).map_or(found <= size, |next| self.is_zero(fd, found, next)),
        };
        let _ = syscall::lseek(fd, offset, libc::SEEK_SET);
        Outcome::of(Ok(0)).with("within", Value::Int(within.into())).with("zero", Value::Int(zero.into()))
    }

    /// Whether a range reads as zeros, as far as 1 MiB from its beginning goes.
    fn is_zero(&self, fd: i32, from: i64, to: i64) -> bool {
        let len = usize::try_from((to - from).clamp(0, 1 << 20)).unwrap_or(0);
        let mut buffer = vec![0_u8; len];
        match syscall::read(fd, Some(from), &mut [&mut buffer], 0) {
            Ok(_) => buffer.iter().all(|b| *b == 0),
            // Not opened for reading.
            Err(_) => true,
        }
    }

    fn copy(&self, (from, mut from_at): (u8, Option<i64>), (to, mut to_at): (u8, Option<i64>), len: u64) -> Outcome {
        let mut copied = 0_u64;
        while copied < len {
            let left = usize::try_from(len - copied).unwrap_or(usize::MAX);
            match syscall::copy(self.fd(from), from_at.as_mut(), self.fd(to), to_at.as_mut(), left) {
                Ok(0) => break,
                Ok(n) => copied += n.cast_unsigned(),
                Err(errno) if copied == 0 => return Outcome::of(Err(errno)),
                Err(errno) => return Outcome::of(Ok(copied.cast_signed())).with("then", Value::Errno(errno)),
            }
        }
        Outcome::of(Ok(copied.cast_signed()))
    }

    fn lock(&self, op: &Op) -> Outcome {
        let lock = |kind: i32, start, len| libc::flock {
            l_type: i16::try_from(kind).unwrap_or(-1),
            l_whence: i16::try_from(libc::SEEK_SET).unwrap_or(0),
            l_start: start,
            l_len: len,
            l_pid: 0,
        };
        match op {
            Op::Lock { slot, owner, kind, start, len } => {
                let command = if *owner == Owner::Process { libc::F_SETLK } else { libc::F_OFD_SETLK };
                Outcome::of(syscall::lock(self.fd(*slot), command, &mut lock(*kind, *start, *len)))
            }
            Op::TestLock { slot, owner, kind, start, len } => {
                let command = if *owner == Owner::Process { libc::F_GETLK } else { libc::F_OFD_GETLK };
                let mut found = lock(*kind, *start, *len);
                let outcome = Outcome::of(syscall::lock(self.fd(*slot), command, &mut found));
                if !outcome.ok() || i32::from(found.l_type) == libc::F_UNLCK {
                    return outcome.with("lock", Value::Text("none".into()));
                }
                // Of several locks in the way any may be named; its kind only follows if it was a read lock that was
                // asked about.
                let text = if *kind == libc::F_RDLCK { format!("of kind {}", found.l_type) } else { "some".into() };
                outcome.with("lock", Value::Text(text))
            }
            Op::Flock { slot, how } => Outcome::of(syscall::flock(self.fd(*slot), *how | libc::LOCK_NB)),
            other => unreachable!("{} is no lock", other.name()),
        }
    }

    fn memory(&mut self, op: &Op) -> Outcome {
        let of = |performer: &Self, map: u8| performer.maps[usize::from(map)];
        match op {
            Op::Map { map, slot, at, len, shared, write } => {
                if let Some(old) = self.maps[usize::from(*map)].take() {
                    let _ = old.end();
                }
                let flags = if *shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                let protection = libc::PROT_READ | if *write { libc::PROT_WRITE } else { 0 };
                let len = *len as usize;
                let answer = syscall::map(self.fd(*slot), *at, len, protection, flags);
                if let Ok(address) = answer {
                    let address = usize::try_from(address).expect("an address of user space");
                    let fd = syscall::dup(self.fd(*slot)).map_or(-1, |fd| i32::try_from(fd).unwrap_or(-1));
                    self.maps[usize::from(*map)] = Some(Mapped { address, len, fd, offset: at.cast_unsigned() });
                    if let Ok(stat) = syscall::statx(self.fd(*slot), c"", libc::AT_EMPTY_PATH) {
                        let mapping = if *shared && *write { Mapping::Written } else { Mapping::Read };
                        let mut all = mapped(&self.shared);
                        let known = all.entry(stat.stx_ino).or_insert(mapping);
                        *known = mapping.max(*known);
                    }
                }
                Outcome::of(answer.map(|_| 0))
            }
            Op::MapRead { map, at, len } => {
                let Some((address, len)) = within(of(self, *map), *at, *len) else {
                    return Outcome::of(Err(libc::EFAULT));
                };
                let mut bytes = Vec::new();
                let mut result = Ok(0);
                while bytes.len() < len && result.is_ok() {
                    let part = PIPE.min(len - bytes.len());
                    let loaded = syscall::load(self.pipe[1], address + bytes.len(), part);
                    let mut buffer = [0_u8; PIPE];
                    let got = usize::try_from(loaded.unwrap_or(0)).unwrap_or(0);
                    if got > 0 {
                        let _ = syscall::read(self.pipe[0], None, &mut [&mut buffer[..got]], 0);
                        bytes.extend_from_slice(&buffer[..got]);
                    }
                    result = if loaded == Ok(0) { Err(libc::EFAULT) } else { loaded };
                }
                Outcome::of(result.map(|_| 0)).with("bytes", Value::Bytes(bytes))
            }
            Op::MapWrite { map, at, len, seed } => {
                let Some((address, len)) = within(of(self, *map), *at, *len) else {
                    return Outcome::of(Err(libc::EFAULT));
                };
                let len = match of(self, *map).map_or(Room::Left(0), |mapped| mapped.room(*at)) {
                    // What is stored behind the end, in the last page of a file, belongs to nobody.
                    Room::Left(0) => return Outcome::of(Err(libc::EFAULT)),
                    Room::Left(left) => len.min(left),
                    Room::NoPage => len,
                };
                let mut result = Ok(0);
                let mut done = 0;
                for part in pattern(*seed, len).chunks_mut(PIPE) {
                    let _ = syscall::write(self.pipe[1], None, &mut [part], 0);
                    result = syscall::store(self.pipe[0], address + done, part.len());
                    let stored = usize::try_from(result.unwrap_or(0)).unwrap_or(0);
                    done += stored;
                    if stored < part.len() {
                        let mut left = vec![0_u8; part.len() - stored];
                        let _ = syscall::read(self.pipe[0], None, &mut [&mut left], 0);
                        break;
                    }
                }
                Outcome::of(result.map(|_| 0)).with("stored", Value::Int(done as i64))
            }
            Op::MapSync { map } => Outcome::of(match of(self, *map) {
                Some(at) => syscall::map_sync(at.address, at.len),
                None => Err(libc::EFAULT),
            }),
            Op::Unmap { map } => match self.maps[usize::from(*map)].take() {
                Some(at) => Outcome::of(at.end()),
                None => Outcome::of(Err(libc::EFAULT)),
            },
            other => unreachable!("{} is not about content", other.name()),
        }
    }
}

/// What of a file is behind a place in its mapping.
enum Room {
    /// So many bytes; none in the rest of the last page.
    Left(usize),
    /// Not even a page: a store is an error.
    NoPage,
}

impl Mapped {
    fn room(&self, at: u32) -> Room {
        let size = syscall::statx(self.fd, c"", libc::AT_EMPTY_PATH).map_or(0, |stat| stat.stx_size);
        let at = self.offset + u64::from(at);
        let page = PIPE as u64;
        if at >= size.next_multiple_of(page) {
            return Room::NoPage;
        }
        Room::Left(usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX))
    }

    pub(super) fn end(self) -> Answer {
        let answer = syscall::unmap(self.address, self.len);
        let closed = syscall::close(self.fd);
        answer.and(closed)
    }
}

/// An address and length within a mapping.
fn within(mapped: Option<Mapped>, at: u32, len: u32) -> Option<(usize, usize)> {
    let mapped = mapped?;
    let at = at as usize;
    (at < mapped.len).then(|| (mapped.address + at, (len as usize).min(mapped.len - at)))
}
