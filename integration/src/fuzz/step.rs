//! What the fuzzer can ask for: one call by one actor, with everything that it needs, as plain data. A list of
//! steps can be run again in any fresh directory, whole or in parts.

/// Descriptors that an actor can hold at once.
pub const SLOTS: u8 = 8;
/// Mappings that an actor can hold at once.
pub const MAPS: u8 = 2;

/// A path, seen from the working directory or from an open directory. Absolute paths begin at the
/// actor's root, which is the directory of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The open directory that a relative path begins at; the working directory if there is none.
    pub base: Option<u8>,
    /// The path.
    pub path: String,
}

impl Place {
    /// A path from the working directory.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self { base: None, path: path.into() }
    }
}

/// What a call is about: an open file, or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An open file.
    Slot(u8),
    /// What a path leads to.
    At(Place),
    /// The same, but a symlink at its end is meant itself.
    Link(Place),
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// `UTIME_NOW`
    Now,
    /// `UTIME_OMIT`
    Omit,
    /// Seconds and nanoseconds.
    At(i64, i64),
}

/// Whose lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The process's (`F_SETLK`).
    Process,
    /// The open file's (`F_OFD_SETLK`).
    File,
}

/// One call. Times, sizes and content are all in it; nothing is chosen while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the arguments of the call that each variant is named after")]
pub enum Op {
    Open {
        slot: u8,
        at: Place,
        flags: i32,
        mode: u32,
    },
    Close {
        slot: u8,
    },
    Dup {
        slot: u8,
        to: u8,
    },
    /// `read`, `pread` or `preadv2`, by what is given.
    Read {
        slot: u8,
        at: Option<i64>,
        sizes: Vec<u32>,
        flags: i32,
    },
    /// `write`, `pwrite` or `pwritev2`, by what is given; the bytes follow from the seed.
    Write {
        slot: u8,
        at: Option<i64>,
        sizes: Vec<u32>,
        flags: i32,
        seed: u32,
    },
    Seek {
        slot: u8,
        offset: i64,
        whence: i32,
    },
    /// `SEEK_DATA` or `SEEK_HOLE`; the position is put back to `offset` afterwards.
    SeekHole {
        slot: u8,
        offset: i64,
        whence: i32,
    },
    Ftruncate {
        slot: u8,
        len: i64,
    },
    Truncate {
        path: String,
        len: i64,
    },
    Fallocate {
        slot: u8,
        mode: i32,
        at: i64,
        len: i64,
    },
    /// `copy_file_range`, repeated until all is copied or it stops.
    Copy {
        from: u8,
        from_at: Option<i64>,
        to: u8,
        to_at: Option<i64>,
        len: u64,
    },
    Sendfile {
        from: u8,
        to: u8,
        len: u64,
    },
    Sync {
        slot: u8,
        data_only: bool,
    },
    /// `posix_fadvise(POSIX_FADV_DONTNEED)`: the next read asks the filesystem again.
    Forget {
        slot: u8,
    },
    Stat {
        on: Target,
    },
    Access {
        at: Place,
        mode: i32,
        effective: bool,
    },
    Chmod {
        on: Target,
        mode: u32,
    },
    Chown {
        on: Target,
        uid: u32,
        gid: u32,
    },
    Utimens {
        on: Target,
        atime: Time,
        mtime: Time,
    },
    Link {
        from: Place,
        to: Place,
        follow: bool,
    },
    Symlink {
        target: String,
        at: Place,
    },
    Readlink {
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
        flags: u32,
    },
    Unlink {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Mkdir {
        at: Place,
        mode: u32,
    },
    Mknod {
        at: Place,
        mode: u32,
        device: u64,
    },
    /// All entries of an open directory, from its beginning, with a buffer of `room` bytes.
    List {
        slot: u8,
        room: u32,
    },
    /// Reads some entries, remembers the position, reads the rest, seeks back, reads the rest again.
    ListSeek {
        slot: u8,
        room: u32,
    },
    /// Reads the first entries and stops there.
    ListBegin {
        slot: u8,
        room: u32,
    },
    /// Reads the rest; entries that were there all the time have to come exactly once.
    ListEnd {
        slot: u8,
        room: u32,
    },
    GetXattr {
        on: Target,
        name: String,
        room: u32,
    },
    SetXattr {
        on: Target,
        name: String,
        value: Vec<u8>,
        flags: i32,
    },
    ListXattr {
        on: Target,
        room: u32,
    },
    RemoveXattr {
        on: Target,
        name: String,
    },
    /// `F_SETLK`, never waiting.
    Lock {
        slot: u8,
        owner: Owner,
        kind: i32,
        start: i64,
        len: i64,
    },
    /// `F_GETLK`
    TestLock {
        slot: u8,
        owner: Owner,
        kind: i32,
        start: i64,
        len: i64,
    },
    Flock {
        slot: u8,
        how: i32,
    },
    Map {
        map: u8,
        slot: u8,
        at: i64,
        len: u32,
        shared: bool,
        write: bool,
    },
    MapRead {
        map: u8,
        at: u32,
        len: u32,
    },
    MapWrite {
        map: u8,
        at: u32,
        len: u32,
        seed: u32,
    },
    MapSync {
        map: u8,
    },
    Unmap {
        map: u8,
    },
    Chdir {
        to: Target,
    },
    Getcwd,
    Umask {
        mode: u32,
    },
}

/// What is looked at around a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Nothing: looking may hide what the filesystem does by itself.
    Nothing,
    /// The attributes of what the call is about, after it.
    After,
    /// The same, and which times the call moved; waits before it until the clock has moved on.
    Times,
}

/// One call by one actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who: an index into the actors of a side.
    pub actor: u8,
    /// What is looked at.
    pub watch: Watch,
    /// The call.
    pub op: Op,
}

impl Op {
    /// What the call is about, for watching it.
    #[must_use]
    pub fn objects(&self) -> Vec<Target> {
        let near = |place: &Place| vec![Target::Link(place.clone()), Target::Link(parent(place))];
        match self {
            Self::Open { at, .. }
            | Self::Readlink { at }
            | Self::Symlink { at, .. }
            | Self::Unlink { at }
            | Self::Rmdir { at }
            | Self::Mkdir { at, .. }
            | Self::Mknod { at, .. } => near(at),
            Self::Link { from, to, .. } | Self::Rename { from, to, .. } => [near(from), near(to)].concat(),
            Self::Access { at, .. } => vec![Target::At(at.clone())],
            Self::Truncate { path, .. } => vec![Target::At(Place::new(path.clone()))],
            Self::Stat { on }
            | Self::Chmod { on, .. }
            | Self::Chown { on, .. }
            | Self::Utimens { on, .. }
            | Self::GetXattr { on, .. }
            | Self::SetXattr { on, .. }
            | Self::ListXattr { on, .. }
            | Self::RemoveXattr { on, .. } => vec![on.clone()],
            Self::Read { slot, .. }
            | Self::Write { slot, .. }
            | Self::Seek { slot, .. }
            | Self::SeekHole { slot, .. }
            | Self::Ftruncate { slot, .. }
            | Self::Fallocate { slot, .. }
            | Self::Sync { slot, .. }
            | Self::Forget { slot }
            | Self::List { slot, .. }
            | Self::ListSeek { slot, .. }
            | Self::Map { slot, .. } => vec![Target::Slot(*slot)],
            Self::Copy { from, to, .. } | Self::Sendfile { from, to, .. } => {
                vec![Target::Slot(*from), Target::Slot(*to)]
            }
            _ => Vec::new(),
        }
    }

    /// The name of the call.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "openat",
            Self::Close { .. } => "close",
            Self::Dup { .. } => "dup",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Seek { .. } => "lseek",
            Self::SeekHole { .. } => "lseek hole",
            Self::Ftruncate { .. } => "ftruncate",
            Self::Truncate { .. } => "truncate",
            Self::Fallocate { .. } => "fallocate",
            Self::Copy { .. } => "copy_file_range",
            Self::Sendfile { .. } => "sendfile",
            Self::Sync { .. } => "fsync",
            Self::Forget { .. } => "posix_fadvise",
            Self::Stat { .. } => "statx",
            Self::Access { .. } => "faccessat",
            Self::Chmod { .. } => "chmod",
            Self::Chown { .. } => "chown",
            Self::Utimens { .. } => "utimensat",
            Self::Link { .. } => "linkat",
            Self::Symlink { .. } => "symlinkat",
            Self::Readlink { .. } => "readlinkat",
            Self::Rename { .. } => "renameat2",
            Self::Unlink { .. } => "unlink",
            Self::Rmdir { .. } => "rmdir",
            Self::Mkdir { .. } => "mkdirat",
            Self::Mknod { .. } => "mknodat",
            Self::List { .. } => "readdir",
            Self::ListSeek { .. } => "readdir seekdir",
            Self::ListBegin { .. } => "readdir begin",
            Self::ListEnd { .. } => "readdir end",
            Self::GetXattr { .. } => "getxattr",
            Self::SetXattr { .. } => "setxattr",
            Self::ListXattr { .. } => "listxattr",
            Self::RemoveXattr { .. } => "removexattr",
            Self::Lock { .. } => "fcntl setlk",
            Self::TestLock { .. } => "fcntl getlk",
            Self::Flock { .. } => "flock",
            Self::Map { .. } => "mmap",
            Self::MapRead { .. } => "load",
            Self::MapWrite { .. } => "store",
            Self::MapSync { .. } => "msync",
            Self::Unmap { .. } => "munmap",
            Self::Chdir { .. } => "chdir",
            Self::Getcwd => "getcwd",
            Self::Umask { .. } => "umask",
        }
    }
}

/// The directory that a name is in, as far as its text says.
pub(super) fn parent(place: &Place) -> Place {
    let path = place.path.trim_end_matches('/');
    let path = match path.rfind('/') {
        Some(0) => "/",
        Some(at) => &path[..at],
        None if place.path.starts_with('/') => "/",
        None => ".",
    };
    Place { base: place.base, path: path.into() }
}
