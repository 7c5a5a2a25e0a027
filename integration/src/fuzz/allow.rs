//! The differences that are no bugs: all of them, each with its reason. What is not in this table is a failure.

use super::outcome::Value;
use super::step::Op;
use super::watch::{GONE, KERNEL_TIMES};

/// One value that the sides do not agree on.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The call; none when trees are compared.
    pub op: Option<&'a Op>,
    /// What it is, without the number of the object.
    pub field: &'a str,
    /// What the local filesystem says.
    pub local: &'a Value,
    /// What the mount says.
    pub mount: &'a Value,
}

/// A kind of difference that may be.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// What differs.
    pub what: &'static str,
    /// Why that is right.
    pub why: &'static str,
    /// Whether a case is of this kind.
    pub is: fn(&Case<'_>) -> bool,
}

/// The table. Left out altogether, so that they need no row: stores into a mapping behind the end of the file (what
/// happens to them when it grows is open), `O_DIRECT` of parts of blocks, the position in a directory that is not the
/// beginning, and inode numbers, blocks and sizes of directories.
pub const ALLOWED: &[Allowed] = &[
    Allowed {
        what: "atime is older on the mount",
        why: "reads that the kernel's page cache answers are not seen by a FUSE filesystem; atime is promised to be lazy",
        is: |case| case.field == "atime" && *case.local == now(),
    },
    Allowed {
        what: "opening a device node is EACCES",
        why: "FUSE mounts are nodev unless `-o dev` is given",
        is: |case| {
            // Locally it goes on to ask who may leave atime alone, and whether there is a driver.
            let may_be_local = |flags: i32| match case.local {
                Value::Errno(libc::ENXIO | libc::ENODEV) => true,
                Value::Errno(libc::EPERM) => flags & libc::O_NOATIME != 0,
                _ => false,
            };
            matches!(case.op, Some(Op::Open { flags, .. }) if may_be_local(*flags))
                && case.field == "result"
                && *case.mount == Value::Errno(libc::EACCES)
        },
    },
    Allowed {
        what: "times of a file that was mapped shared and writable, and of a fifo; atime of one that was mapped at all",
        why: "FUSE gets mapped pages when the kernel writes them back, and nothing of pipes; POSIX lets atime move at \
              any time between mmap and munmap, and FUSE cannot tell whether the kernel reads a page for a mapping; \
              which files were mapped is remembered by inode number, which one side may have used again",
        is: |case| is_kernel_times(case.local) || is_kernel_times(case.mount),
    },
    Allowed {
        what: "size, mtime, setuid and setgid of an unlinked file that only an `O_PATH` descriptor holds",
        why: "FUSE does not hear of such descriptors: the file is closed, and its unsaved data go; nothing can read them",
        is: |case| matches!(case.field, "size" | "mtime") && matches!(case.local, Value::Text(text) if text == GONE),
    },
    Allowed {
        what: "setting an extended attribute to what it is moves ctime",
        why: "ext4 looks whether anything changes; other filesystems move it as well",
        is: |case| {
            matches!(case.op, Some(Op::SetXattr { .. }))
                && case.field == "moved"
                && matches!(case.local, Value::Text(text) if text == "nothing")
                && matches!(case.mount, Value::Text(text) if text == "ctime")
        },
    },
    Allowed {
        what: "another error for reading a directory as a file",
        why: "ext4's positions in directories are hashes, at which a read would end beyond the largest offset",
        is: |case| {
            matches!(case.op, Some(Op::Read { .. } | Op::Write { .. } | Op::Copy { .. } | Op::Sendfile { .. }))
                && case.field == "result"
                && matches!(case.local, Value::Errno(libc::EINVAL | libc::EOVERFLOW))
                && match case.op {
                    // Before it looks at where to write.
                    Some(Op::Sendfile { .. }) => {
                        matches!(case.mount, Value::Errno(libc::EISDIR | libc::EINVAL | libc::EBADF))
                    }
                    _ => matches!(case.mount, Value::Errno(libc::EISDIR | libc::EINVAL)),
                }
        },
    },
];

/// Times of mapped files, and of pipes.
fn is_kernel_times(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text == KERNEL_TIMES)
}

fn now() -> Value {
    Value::Text("now".into())
}

/// Whether a difference is in the table.
#[must_use]
pub fn is_allowed(case: &Case<'_>) -> bool {
    ALLOWED.iter().any(|allowed| (allowed.is)(case))
}
