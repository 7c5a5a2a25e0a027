//! Calls about names, attributes and extended attributes.

use super::outcome::{Outcome, Value};
use super::perform::{Performer, c};
use super::step::{Op, Place, Target, Time, parent};
use super::syscall::{self, Answer, Holder};

impl Performer {
    pub(super) fn names(&mut self, op: &Op) -> Outcome {
        let answer = match op {
            Op::Access { at, mode, effective } => {
                let flags = if *effective { libc::AT_EACCESS } else { 0 };
                syscall::access(self.base(at), &c(&at.path), *mode, flags)
            }
            Op::Chmod { on, mode } => match on {
                Target::Slot(slot) => syscall::fchmod(self.fd(*slot), *mode),
                Target::At(at) => syscall::chmod(self.base(at), &c(&at.path), *mode, 0),
                Target::Link(at) => syscall::chmod(self.base(at), &c(&at.path), *mode, libc::AT_SYMLINK_NOFOLLOW),
            },
            Op::Chown { on, uid, gid } => match on {
                Target::Slot(slot) => syscall::fchown(self.fd(*slot), *uid, *gid),
                Target::At(at) => syscall::chown(self.base(at), &c(&at.path), *uid, *gid, 0),
                Target::Link(at) => syscall::chown(self.base(at), &c(&at.path), *uid, *gid, libc::AT_SYMLINK_NOFOLLOW),
            },
            Op::Utimens { on, atime, mtime } => {
                let times = [*atime, *mtime];
                match on {
                    Target::Slot(slot) => syscall::utimens(self.fd(*slot), None, times, 0),
                    Target::At(at) => syscall::utimens(self.base(at), Some(&c(&at.path)), times, 0),
                    Target::Link(at) => {
                        syscall::utimens(self.base(at), Some(&c(&at.path)), times, libc::AT_SYMLINK_NOFOLLOW)
                    }
                }
            }
            Op::Link { from, to, follow } => {
                let flags = if *follow { libc::AT_SYMLINK_FOLLOW } else { 0 };
                syscall::link((self.base(from), &c(&from.path)), (self.base(to), &c(&to.path)), flags)
            }
            Op::Rename { from, to, flags } => self.rename(from, to, *flags),
            Op::Symlink { target, at } => syscall::symlink(&c(target), self.base(at), &c(&at.path)),
            Op::Readlink { at } => return bytes(syscall::readlink(self.base(at), &c(&at.path))),
            Op::Unlink { at } => syscall::unlink(self.base(at), &c(&at.path), 0),
            Op::Rmdir { at } => syscall::unlink(self.base(at), &c(&at.path), libc::AT_REMOVEDIR),
            Op::Mkdir { at, mode } => syscall::mkdir(self.base(at), &c(&at.path), *mode),
            Op::Mknod { at, mode, device } => syscall::mknod(self.base(at), &c(&at.path), *mode, *device),
            Op::Truncate { path, len } => syscall::truncate(&c(path), *len),
            Op::Chdir { to: Target::Slot(slot) } => syscall::fchdir(self.fd(*slot)),
            Op::Chdir { to: Target::At(at) | Target::Link(at) } => syscall::chdir(&c(&at.path)),
            Op::Getcwd => return bytes(syscall::getcwd()),
            Op::Umask { mode } => syscall::umask(*mode),
            other => unreachable!("{} is not about names", other.name()),
        };
        Outcome::of(answer)
    }

    fn rename(&self, from: &Place, to: &Place, flags: u32) -> Answer {
        let answer = syscall::rename((self.base(from), &c(&from.path)), (self.base(to), &c(&to.path)), flags);
        if answer.is_err() && flags & libc::RENAME_WHITEOUT != 0 {
            // ext4 makes the whiteout before it looks whether the rename can be, and takes it away again: the
            // directory's times are those of now or not. Now they are, on both sides.
            let dir = parent(from);
            let _ = syscall::utimens(self.base(&dir), Some(&c(&dir.path)), [Time::Omit, Time::Now], 0);
        }
        answer
    }

    pub(super) fn xattr(&mut self, op: &Op) -> Outcome {
        let (Op::GetXattr { on, .. } | Op::SetXattr { on, .. } | Op::ListXattr { on, .. } | Op::RemoveXattr { on, .. }) =
            op
        else {
            unreachable!("{} is not about extended attributes", op.name())
        };
        let path = match on {
            Target::Slot(_) => c(""),
            Target::At(at) | Target::Link(at) => c(&at.path),
        };
        let holder = match on {
            Target::Slot(slot) => Holder::File(self.fd(*slot)),
            Target::At(_) => Holder::Path(&path),
            Target::Link(_) => Holder::Link(&path),
        };
        match op {
            Op::GetXattr { name, room, .. } => {
                let mut buffer = vec![0; *room as usize];
                let answer = syscall::get_xattr(holder, &c(name), &mut buffer);
                buffer.truncate(usize::try_from(answer.unwrap_or(0)).unwrap_or(0));
                Outcome::of(answer).with("value", Value::Bytes(buffer))
            }
            Op::SetXattr { name, value, flags, .. } => Outcome::of(syscall::set_xattr(holder, &c(name), value, *flags)),
            Op::ListXattr { room, .. } => {
                let mut buffer = vec![0; *room as usize];
                let answer = syscall::list_xattr(holder, &mut buffer);
                buffer.truncate(usize::try_from(answer.unwrap_or(0)).unwrap_or(0));
                let parts = buffer.split(|b| *b == 0).filter(|n| !n.is_empty());
                let mut names: Vec<String> = parts.map(|n| String::from_utf8_lossy(n).into_owned()).collect();
                names.sort();
                Outcome::of(answer).with("names", Value::List(names))
            }
            Op::RemoveXattr { name, .. } => Outcome::of(syscall::remove_xattr(holder, &c(name))),
            other => unreachable!("{} was let in above", other.name()),
        }
    }
}

fn bytes(answer: Result<Vec<u8>, i32>) -> Outcome {
    match answer {
        Ok(bytes) => Outcome::of(Ok(0)).with("text", Value::Text(String::from_utf8_lossy(&bytes).into_owned())),
        Err(errno) => Outcome::of(Err(errno)),
    }
}
