//! The mounts of this machine, as the kernel lists them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Type of our mounts.
const TYPE: &str = "fuse.dfs-fuse";

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor`
    pub device: String,
    /// Where.
    pub point: PathBuf,
    /// Type of the filesystem.
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

impl Mount {
    /// Address of metad, if this is one of our mounts.
    #[must_use]
    pub fn meta(&self) -> Option<&str> {
        (self.kind == TYPE).then(|| self.source.strip_prefix("dfs:")).flatten()
    }
}

/// All mounts.
///
/// # Errors
/// When the kernel does not list them.
pub fn all() -> anyhow::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse(&text))
}

/// What is mounted at exactly this path; the last one if several lie on each other.
///
/// # Errors
/// When the kernel does not list mounts.
pub fn at(point: &Path) -> anyhow::Result<Option<Mount>> {
    Ok(all()?.into_iter().rfind(|m| m.point == point))
}

/// Our mount with this device number, as in `st_dev`.
///
/// # Errors
/// When the kernel does not list mounts.
pub fn ours_with_device(device: u64) -> anyhow::Result<Option<Mount>> {
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    Ok(all()?.into_iter().find(|m| m.device == device && m.meta().is_some()))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let mut words = line.split(|b| *b == b' ');
        let device = String::from_utf8(words.nth(2)?.to_vec()).ok()?;
        let point = PathBuf::from(OsStr::from_bytes(&unescape(words.nth(1)?)));
        let mut after = words.skip_while(|w| *w != b"-").skip(1);
        let kind = String::from_utf8_lossy(after.next()?).into_owned();
        let source = String::from_utf8_lossy(&unescape(after.next()?)).into_owned();
        Some(Mount { device, point, kind, source })
    };
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

/// Turns the kernel's `\040` back into a space, and so on.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_told_from_others() {
        let text = b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
            90 22 0:44 / /mnt/a\\040b rw shared:5 - fuse.dfs-fuse dfs:127.0.0.1:7400 rw\nx\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].meta(), None);
        assert_eq!((mounts[1].meta(), mounts[1].point.as_path()), (Some("127.0.0.1:7400"), Path::new("/mnt/a b")));
    }
}
