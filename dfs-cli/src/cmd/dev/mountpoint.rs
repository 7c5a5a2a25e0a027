//! The cluster's mount as the kernel has it: whether it is there, alive, in use; and unmounting it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::mounts;

/// So many users of a mount are named.
const HOLDERS: usize = 10;

/// What is at the mountpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No mount.
    Nothing,
    /// The mount of a metad at this address.
    Ours,
    /// Such a mount whose process has ended.
    Dead,
}

/// Looks what is at `point`.
pub(crate) fn look(point: &Path, meta: &str) -> anyhow::Result<Found> {
    let Some(mount) = mounts::at(&real(point))? else { return Ok(Found::Nothing) };
    if mount.meta() != Some(meta) {
        bail!("{} has something else mounted: {} from {}", point.display(), mount.kind, mount.source);
    }
    // Attributes the kernel may still have; opening the directory asks the process behind it.
    match fs::read_dir(point) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Ok(Found::Dead),
        _ => Ok(Found::Ours),
    }
}

/// The path as the kernel lists it: without symlinks above it. It is not looked at itself, as it may be dead.
fn real(point: &Path) -> PathBuf {
    match (point.parent().map(fs::canonicalize), point.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => point.to_path_buf(),
    }
}

/// Whether it is unmounted now; `false`: somebody uses it. With `lazily`, its users keep what they have open.
pub(crate) fn unmount(point: &Path, lazily: bool) -> anyhow::Result<bool> {
    let point = real(point);
    match umount2(&point, lazily) {
        Ok(()) => Ok(true),
        Err(e) => match e.raw_os_error() {
            Some(libc::EBUSY) => Ok(false),
            Some(libc::EINVAL | libc::ENOENT) => Ok(true),
            Some(libc::EPERM) => fusermount(&point, lazily),
            _ => Err(e).with_context(|| format!("cannot unmount {}", point.display())),
        },
    }
}

#[allow(unsafe_code)]
fn umount2(point: &Path, lazily: bool) -> io::Result<()> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazily { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path is a string with a NUL at its end that outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fusermount(point: &Path, lazily: bool) -> anyhow::Result<bool> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(point).stdin(Stdio::null());
    let output = command.output().context("cannot run fusermount3; is the package fuse3 installed?")?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(true),
        false if said.contains("busy") => Ok(false),
        false => bail!("cannot unmount {}: {}", point.display(), said.trim()),
    }
}

/// The processes that use files under `point`: `name (pid)`.
pub(crate) fn holders(point: &Path) -> Vec<String> {
    let point = real(point);
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    pids.filter(|pid| uses(*pid, &point)).map(|pid| format!("{} ({pid})", name(&pid))).take(HOLDERS).collect()
}

/// Whether a link of the process (directory, root, program, open files) leads below `point`.
fn uses(pid: u32, point: &Path) -> bool {
    let leads_there = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(point));
    let base = PathBuf::from(format!("/proc/{pid}"));
    ["cwd", "root", "exe"].iter().any(|l| leads_there(base.join(l)))
        || fs::read_dir(base.join("fd")).is_ok_and(|fds| fds.flatten().any(|fd| leads_there(fd.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_directory_is_no_mount_and_a_foreign_mount_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(dir.path(), "h:1").unwrap(), Found::Nothing);
        assert_eq!(look(&dir.path().join("missing"), "h:1").unwrap(), Found::Nothing);
        assert!(look(Path::new("/proc"), "h:1").unwrap_err().to_string().contains("proc"));
    }

    #[test]
    fn users_of_a_directory_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id();
        assert!(!uses(me, dir.path()));
        let _open = fs::File::create(dir.path().join("f")).unwrap();
        assert!(uses(me, dir.path()));
        assert!(holders(dir.path()).iter().any(|h| h.contains(&me.to_string())));
    }
}
