//! Attributes as far as two filesystems have to agree on them.

use std::time::{SystemTime, UNIX_EPOCH};

use super::outcome::{Outcome, Value};
use super::perform::Mapping;

/// Stands for times that are not compared.
pub(super) const KERNEL_TIMES: &str = "the kernel's";

/// Stands for what an unlinked file that is held by `O_PATH` has of its last writes: its size, and when it was written.
/// Whether it has lost its privileges is left out.
pub(super) const GONE: &str = "of a file that is gone";

/// The attributes of one inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    stat: libc::statx,
    began: i64,
    /// How it was mapped at some time.
    mapping: Option<Mapping>,
    /// Seen through a descriptor that the filesystem does not know of.
    is_path: bool,
}

/// The second from which on a time counts as "now" for a run that starts at this moment.
pub(super) fn is_recent_range() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX) - 60
}

/// A time in words: one that was set by a call is compared to the nanosecond, others are just "now".
pub(super) fn time_text(seconds: i64, nanoseconds: u32, began: i64) -> String {
    // Longer than any run; what is set by calls lies outside.
    let recent = began..began + 365 * 86_400;
    if recent.contains(&seconds) { "now".into() } else { format!("{seconds}.{nanoseconds:09}") }
}

fn nanos(t: libc::statx_timestamp) -> i128 {
    i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec)
}

impl Seen {
    pub(super) fn new(stat: libc::statx, began: i64, mapping: Option<Mapping>, is_path: bool) -> Self {
        Self { stat, began, mapping, is_path }
    }

    fn kind(&self) -> u32 {
        u32::from(self.stat.stx_mode) & libc::S_IFMT
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// The later of the two times that calls move.
    pub(super) fn latest(&self) -> i128 {
        nanos(self.stat.stx_ctime).max(nanos(self.stat.stx_mtime))
    }

    /// Adds what has to agree as the attributes of watched object `n`.
    pub(super) fn describe(&self, n: usize, outcome: &mut Outcome) {
        let stat = &self.stat;
        let mut add = |name: &str, value| outcome.add(format!("{n}.{name}"), value);
        let is_gone = self.is_path && stat.stx_nlink == 0;
        // A write that is lost takes no privileges away.
        let mode = if is_gone { stat.stx_mode & !0o6000 } else { stat.stx_mode };
        add("mode", Value::Text(format!("{mode:o}")));
        add("owner", Value::Text(format!("{}:{}", stat.stx_uid, stat.stx_gid)));
        add("nlink", Value::Int(stat.stx_nlink.into()));
        if self.kind() != libc::S_IFDIR {
            let size = Value::Int(stat.stx_size.cast_signed());
            add("size", if is_gone { Value::Text(GONE.into()) } else { size });
        }
        if matches!(self.kind(), libc::S_IFCHR | libc::S_IFBLK) {
            add("rdev", Value::Text(format!("{}:{}", stat.stx_rdev_major, stat.stx_rdev_minor)));
        }
        let text = |t: libc::statx_timestamp| Value::Text(time_text(t.tv_sec, t.tv_nsec, self.began));
        let atime = if self.mapping.is_some() { Value::Text(KERNEL_TIMES.into()) } else { text(stat.stx_atime) };
        add("atime", atime);
        let mtime = if is_gone {
            Value::Text(GONE.into())
        } else if self.has_kernel_times() {
            Value::Text(KERNEL_TIMES.into())
        } else {
            text(stat.stx_mtime)
        };
        add("mtime", mtime);
        add("ctime", text(stat.stx_ctime));
    }

    /// Whether the kernel may have pages that a program stored into and the filesystem has not got.
    pub(super) fn was_mapped_to_write(&self) -> bool {
        self.mapping == Some(Mapping::Written)
    }

    /// Whether a write changes the times in ways that are the kernel's, not the filesystem's.
    fn has_kernel_times(&self) -> bool {
        self.was_mapped_to_write() || self.kind() == libc::S_IFIFO
    }

    /// Which times are others than before, if it is the same inode.
    pub(super) fn moved_since(&self, before: &Self) -> String {
        if self.stat.stx_ino != before.stat.stx_ino {
            return "another inode".into();
        }
        if self.has_kernel_times() {
            return KERNEL_TIMES.into();
        }
        let changed = |a, b| nanos(a) != nanos(b);
        let mtime = changed(self.stat.stx_mtime, before.stat.stx_mtime);
        let ctime = changed(self.stat.stx_ctime, before.stat.stx_ctime);
        match (mtime, ctime) {
            (false, false) => "nothing",
            (true, false) => "mtime",
            (false, true) => "ctime",
            (true, true) => "mtime and ctime",
        }
        .into()
    }
}
