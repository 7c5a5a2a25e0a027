//! Steps as calls that a person can read, and type in again.

use std::fmt;

use super::actor::IDENTITIES;
use super::step::{Op, Owner, Place, Step, Target, Time, Watch};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uid = IDENTITIES.get(usize::from(self.actor)).map_or(0, |i| i.uid);
        write!(f, "actor {} (uid {uid:4}): {}", self.actor, self.op)?;
        match self.watch {
            Watch::Nothing => Ok(()),
            Watch::After => f.write_str("  // and stat"),
            Watch::Times => f.write_str("  // stat before and after"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Long names are runs of one letter.
        let shown = |path: &str| match path.len() {
            0..=120 => format!("{path:?}"),
            len => format!("{:?}...({len} bytes)", path.chars().take(40).collect::<String>()),
        };
        match self.base {
            Some(base) => write!(f, "fd{base}:{}", shown(&self.path)),
            None => f.write_str(&shown(&self.path)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => write!(f, "fd{slot}"),
            Self::At(at) => write!(f, "{at}"),
            Self::Link(at) => write!(f, "{at} NOFOLLOW"),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("UTIME_NOW"),
            Self::Omit => f.write_str("UTIME_OMIT"),
            Self::At(seconds, nanoseconds) => write!(f, "{seconds}.{nanoseconds:09}"),
        }
    }
}

fn flags(of: i32, names: &[(i32, &str)]) -> String {
    let mut left = of;
    let mut parts = Vec::new();
    for (bits, name) in names {
        if *bits != 0 && left & bits == *bits {
            left &= !bits;
            parts.push((*name).to_owned());
        }
    }
    if left != 0 || parts.is_empty() {
        parts.push(format!("{left:#o}"));
    }
    parts.join("|")
}

fn open_flags(of: i32) -> String {
    let mode = match of & libc::O_ACCMODE {
        libc::O_RDONLY => "O_RDONLY",
        libc::O_WRONLY => "O_WRONLY",
        libc::O_RDWR => "O_RDWR",
        _ => "3",
    };
    let rest = of & !libc::O_ACCMODE;
    if rest == 0 {
        return mode.into();
    }
    let names = [
        (libc::O_CREAT, "O_CREAT"),
        (libc::O_EXCL, "O_EXCL"),
        (libc::O_TRUNC, "O_TRUNC"),
        (libc::O_APPEND, "O_APPEND"),
        (libc::O_SYNC, "O_SYNC"),
        (libc::O_DSYNC, "O_DSYNC"),
        (libc::O_DIRECTORY, "O_DIRECTORY"),
        (libc::O_NOFOLLOW, "O_NOFOLLOW"),
        (libc::O_PATH, "O_PATH"),
        (libc::O_DIRECT, "O_DIRECT"),
        (libc::O_NONBLOCK, "O_NONBLOCK"),
        (libc::O_NOATIME, "O_NOATIME"),
    ];
    format!("{mode}|{}", flags(rest, &names))
}

fn rwf(of: i32) -> String {
    let names = [
        (libc::RWF_APPEND, "RWF_APPEND"),
        (libc::RWF_SYNC, "RWF_SYNC"),
        (libc::RWF_DSYNC, "RWF_DSYNC"),
        (libc::RWF_HIPRI, "RWF_HIPRI"),
    ];
    if of == 0 { String::new() } else { format!(", {}", flags(of, &names)) }
}

fn whence(of: i32) -> &'static str {
    match of {
        libc::SEEK_SET => "SEEK_SET",
        libc::SEEK_CUR => "SEEK_CUR",
        libc::SEEK_END => "SEEK_END",
        libc::SEEK_DATA => "SEEK_DATA",
        libc::SEEK_HOLE => "SEEK_HOLE",
        _ => "?",
    }
}

fn lock_kind(of: i32) -> &'static str {
    match of {
        libc::F_RDLCK => "F_RDLCK",
        libc::F_WRLCK => "F_WRLCK",
        libc::F_UNLCK => "F_UNLCK",
        _ => "?",
    }
}

fn at_text(at: Option<i64>) -> String {
    at.map_or_else(String::new, |at| format!(" at {at}"))
}

fn owner_text(owner: Owner) -> &'static str {
    if owner == Owner::Process { "" } else { "OFD_" }
}

fn device(of: u64) -> String {
    format!("{}:{}", of >> 8, of & 0xff)
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Open { slot, at, flags, mode } => {
                write!(f, "fd{slot} = openat({at}, {}, {mode:04o})", open_flags(*flags))
            }
            Self::Dup { slot, to } => write!(f, "fd{to} = dup(fd{slot})"),
            Self::Read { slot, at, sizes, flags } => {
                write!(f, "read(fd{slot}, {sizes:?}{}{})", at_text(*at), rwf(*flags))
            }
            Self::Write { slot, at, sizes, flags, seed } => {
                write!(f, "write(fd{slot}, pattern({seed}) {sizes:?}{}{})", at_text(*at), rwf(*flags))
            }
            Self::Seek { slot, offset, whence: w } | Self::SeekHole { slot, offset, whence: w } => {
                write!(f, "lseek(fd{slot}, {offset}, {})", whence(*w))
            }
            Self::Ftruncate { slot, len } => write!(f, "ftruncate(fd{slot}, {len})"),
            Self::Truncate { path, len } => write!(f, "truncate({path:?}, {len})"),
            Self::Fallocate { slot, mode, at, len } => {
                let names = [
                    (libc::FALLOC_FL_KEEP_SIZE, "KEEP_SIZE"),
                    (libc::FALLOC_FL_PUNCH_HOLE, "PUNCH_HOLE"),
                    (libc::FALLOC_FL_ZERO_RANGE, "ZERO_RANGE"),
                ];
                write!(f, "fallocate(fd{slot}, {}, {at}, {len})", flags(*mode, &names))
            }
            Self::Copy { from, from_at, to, to_at, len } => {
                write!(f, "copy_file_range(fd{from}{}, fd{to}{}, {len})", at_text(*from_at), at_text(*to_at))
            }
            Self::Sendfile { from, to, len } => write!(f, "sendfile(fd{to}, fd{from}, {len})"),
            Self::Sync { slot, data_only } => {
                write!(f, "{}(fd{slot})", if *data_only { "fdatasync" } else { "fsync" })
            }
            Self::Forget { slot } => write!(f, "posix_fadvise(fd{slot}, POSIX_FADV_DONTNEED)"),
            Self::Access { at, mode, effective } => {
                write!(f, "faccessat({at}, {mode}{})", if *effective { ", AT_EACCESS" } else { "" })
            }
            Self::Chmod { on, mode } => write!(f, "chmod({on}, {mode:04o})"),
            Self::Chown { on, uid, gid } => write!(f, "chown({on}, {}, {})", uid.cast_signed(), gid.cast_signed()),
            Self::Utimens { on, atime, mtime } => write!(f, "utimensat({on}, {atime}, {mtime})"),
            Self::Link { from, to, follow } => {
                write!(f, "linkat({from}, {to}{})", if *follow { ", AT_SYMLINK_FOLLOW" } else { "" })
            }
            Self::Symlink { target, at } => write!(f, "symlinkat({}, {at})", Place::new(target.clone())),
            Self::Rename { from, to, flags: of } => {
                let names = [
                    (libc::RENAME_NOREPLACE.cast_signed(), "RENAME_NOREPLACE"),
                    (libc::RENAME_EXCHANGE.cast_signed(), "RENAME_EXCHANGE"),
                    (libc::RENAME_WHITEOUT.cast_signed(), "RENAME_WHITEOUT"),
                ];
                write!(f, "renameat2({from}, {to}, {})", flags(of.cast_signed(), &names))
            }
            Self::Mkdir { at, mode } => write!(f, "mkdirat({at}, {mode:04o})"),
            Self::Mknod { at, mode, device: of } => write!(f, "mknodat({at}, {mode:o}, {})", device(*of)),
            Self::Readlink { at } | Self::Unlink { at } | Self::Rmdir { at } => write!(f, "{name}({at})"),
            Self::List { slot, room }
            | Self::ListSeek { slot, room }
            | Self::ListBegin { slot, room }
            | Self::ListEnd { slot, room } => write!(f, "{name}(fd{slot}, {room} bytes at a time)"),
            Self::GetXattr { on, name: of, room } => write!(f, "getxattr({on}, {of:?}, {room} bytes)"),
            Self::SetXattr { on, name: of, value, flags } => {
                let value: String = value.iter().map(|b| format!("{b:02x}")).collect();
                write!(f, "setxattr({on}, {of:?}, 0x{value}, {flags})")
            }
            Self::ListXattr { on, room } => write!(f, "listxattr({on}, {room} bytes)"),
            Self::RemoveXattr { on, name: of } => write!(f, "removexattr({on}, {of:?})"),
            Self::Lock { slot, owner, kind, start, len } => {
                write!(f, "fcntl(fd{slot}, F_{}SETLK, {} {start}+{len})", owner_text(*owner), lock_kind(*kind))
            }
            Self::TestLock { slot, owner, kind, start, len } => {
                write!(f, "fcntl(fd{slot}, F_{}GETLK, {} {start}+{len})", owner_text(*owner), lock_kind(*kind))
            }
            Self::Flock { slot, how } => {
                let names = [(libc::LOCK_SH, "LOCK_SH"), (libc::LOCK_EX, "LOCK_EX"), (libc::LOCK_UN, "LOCK_UN")];
                write!(f, "flock(fd{slot}, {}|LOCK_NB)", flags(*how, &names))
            }
            Self::Map { map, slot, at, len, shared, write: writable } => {
                let kind = if *shared { "MAP_SHARED" } else { "MAP_PRIVATE" };
                let protection = if *writable { "PROT_READ|PROT_WRITE" } else { "PROT_READ" };
                write!(f, "map{map} = mmap({len}, {protection}, {kind}, fd{slot}, {at})")
            }
            Self::MapRead { map, at, len } => write!(f, "load(map{map}+{at}, {len})"),
            Self::MapWrite { map, at, len, seed } => write!(f, "store(map{map}+{at}, pattern({seed}) {len})"),
            Self::MapSync { map } => write!(f, "msync(map{map}, MS_SYNC)"),
            Self::Unmap { map } => write!(f, "munmap(map{map})"),
            Self::Stat { on } => write!(f, "statx({on})"),
            Self::Chdir { to } => write!(f, "chdir({to})"),
            Self::Getcwd => f.write_str("getcwd()"),
            Self::Umask { mode } => write!(f, "umask({mode:03o})"),
            Self::Close { slot } => write!(f, "close(fd{slot})"),
        }
    }
}
