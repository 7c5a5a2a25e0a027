//! Mounting and unmounting: what the mountpoint must be, what the kernel is told, and how it ends.
//!
//! fuser's own unmount is not used: it would unmount whatever lies at the path by then. Ours first looks
//! whether what lies there is still this mount.

use std::ffi::CString;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use fuser::{BackgroundSession, MountOption, Notifier, Session, SessionACL};

use crate::args::Config;
use crate::fs::Dfs;
use crate::options::MountFlags;
use crate::process::is_root;

/// How far the kernel may read ahead, if it lets us say so.
const READ_AHEAD_KIB: u64 = 2048;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MountLine {
    /// `major:minor`
    device: String,
    point: PathBuf,
    /// Type and source.
    what: String,
}

/// A mount that serves requests.
#[derive(Debug)]
pub struct Mounted {
    /// Never dropped: that would unmount by path.
    session: ManuallyDrop<BackgroundSession>,
    point: PathBuf,
    device: String,
}

/// What became of an unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody sees it any more.
    Gone,
    /// Files in it are in use.
    Busy,
}

/// Makes sure that something can be mounted there; returns the path without symlinks.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn check_mountpoint(path: &Path) -> anyhow::Result<PathBuf> {
    let shown = path.display();
    let info = match std::fs::metadata(path) {
        Ok(info) => info,
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            bail!(
                "{shown} is a mount whose process has ended; unmount it with `umount {shown}` or `fusermount3 -u {shown}`"
            )
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!("the mountpoint {shown} does not exist; make it with `mkdir -p {shown}`")
        }
        Err(e) => bail!("cannot use the mountpoint {shown}: {e}"),
    };
    if !info.is_dir() {
        bail!("the mountpoint {shown} is not a directory");
    }
    let path = path.canonicalize().with_context(|| format!("cannot use the mountpoint {shown}"))?;
    if let Some(line) = find_mount(&path)? {
        bail!("{shown} is a mountpoint already ({}); unmount it first, or choose another directory", line.what);
    }
    Ok(path)
}

/// Mounts and starts to serve.
///
/// # Errors
/// Why the kernel did not mount, and what to do.
pub fn mount(fs: Dfs, config: &Config, point: &Path) -> anyhow::Result<Mounted> {
    let session = Session::new(fs, point, &session_config(config)).map_err(|e| explain(&e, point))?;
    let session = ManuallyDrop::new(session.spawn().context("cannot start the threads of the mount")?);
    let line = find_mount(point)?.with_context(|| format!("{} is not mounted after all", point.display()))?;
    raise_read_ahead(&line.device);
    Ok(Mounted { session, point: point.to_path_buf(), device: line.device })
}

fn session_config(config: &Config) -> fuser::Config {
    let MountFlags { read_only, dev, suid, exec, sync, dirsync, allow_other, noatime } = config.flags;
    let mut options = vec![
        MountOption::FSName(format!("dfs:{}", config.meta)),
        // As an option for the kernel, so that the type is fuse.dfs-fuse even without fusermount3.
        MountOption::CUSTOM("subtype=dfs-fuse".into()),
        MountOption::DefaultPermissions,
    ];
    let chosen = [
        (read_only, MountOption::RO),
        (dev, MountOption::Dev),
        (suid, MountOption::Suid),
        (!exec, MountOption::NoExec),
        (sync, MountOption::Sync),
        (dirsync, MountOption::DirSync),
        (noatime, MountOption::NoAtime),
    ];
    options.extend(chosen.into_iter().filter(|(wanted, _)| *wanted).map(|(_, option)| option));
    let mut session = fuser::Config::default();
    session.mount_options = options;
    session.acl = if allow_other || is_root() || may_allow_other() { SessionACL::All } else { SessionACL::Owner };
    session.n_threads = Some(config.threads);
    session.clone_fd = true;
    session
}

/// Whether users other than root may let others in.
fn may_allow_other() -> bool {
    std::fs::read_to_string("/etc/fuse.conf").is_ok_and(|text| text.lines().any(|l| l.trim() == "user_allow_other"))
}

fn explain(error: &io::Error, point: &Path) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound if !Path::new("/dev/fuse").exists() => {
            "; /dev/fuse is missing: load it with `modprobe fuse`, or give the container --device /dev/fuse"
        }
        io::ErrorKind::NotFound => "; is the package fuse3 installed?",
        io::ErrorKind::PermissionDenied if !is_root() => {
            "; who is not root needs read and write permission on /dev/fuse, and user_allow_other in /etc/fuse.conf to let \
             others in"
        }
        io::ErrorKind::PermissionDenied => "; in a container, FUSE needs --cap-add SYS_ADMIN --device /dev/fuse",
        _ => "",
    };
    anyhow::anyhow!("cannot mount at {}: {error}{hint}", point.display())
}

impl Mounted {
    /// For telling the kernel what to forget.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.session.notifier()
    }

    /// Unmounts, unless files are in use; with `lazily`, also then: who has them open keeps them
    /// until this process ends.
    ///
    /// # Errors
    /// Why it could not be unmounted.
    pub fn unmount(&self, lazily: bool) -> anyhow::Result<Unmounted> {
        match find_mount(&self.point)? {
            Some(line) if line.device == self.device => {}
            _ => return Ok(Unmounted::Gone),
        }
        match umount2(&self.point, lazily) {
            Ok(()) => Ok(Unmounted::Gone),
            Err(e) => match e.raw_os_error() {
                Some(libc::EBUSY) => Ok(Unmounted::Busy),
                Some(libc::EPERM) => fusermount(&self.point, lazily),
                // Somebody else was faster.
                Some(libc::EINVAL | libc::ENOENT) => Ok(Unmounted::Gone),
                _ => Err(e).with_context(|| format!("cannot unmount {}", self.point.display())),
            },
        }
    }
}

#[allow(unsafe_code)]
fn umount2(point: &Path, lazily: bool) -> io::Result<()> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazily { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path is a string with a NUL at its end that outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fusermount(point: &Path, lazily: bool) -> anyhow::Result<Unmounted> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(point).stdin(Stdio::null());
    let output = command.output().context("cannot run fusermount3; is the package fuse3 installed?")?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(Unmounted::Gone),
        false if said.contains("busy") => Ok(Unmounted::Busy),
        false => bail!("cannot unmount {}: {}", point.display(), said.trim()),
    }
}

/// What is mounted at exactly this path; the last one if several lie on each other.
fn find_mount(point: &Path) -> anyhow::Result<Option<MountLine>> {
    let text = std::fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse_mounts(&text).filter(|line| line.point == point).last())
}

fn parse_mounts(text: &[u8]) -> impl Iterator<Item = MountLine> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let mut words = line.split(|b| *b == b' ');
        let device = String::from_utf8(words.nth(2)?.to_vec()).ok()?;
        let point = PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(words.nth(1)?)));
        let mut after = words.skip_while(|w| *w != b"-").skip(1);
        let (kind, source) = (after.next()?, after.next()?);
        let what = format!("{} from {}", String::from_utf8_lossy(kind), String::from_utf8_lossy(&unescape(source)));
        Some(MountLine { device, point, what })
    })
}

/// Turns the kernel's `\040` back into a space, and so on.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Lets the kernel read further ahead than its default of 128 KiB. Best effort: needs root.
fn raise_read_ahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let now = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<u64>().ok());
    if now.is_some_and(|kib| kib < READ_AHEAD_KIB)
        && let Err(e) = std::fs::write(&path, READ_AHEAD_KIB.to_string())
    {
        tracing::debug!("{path} stays as it is: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_understood() {
        let text = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            90 22 0:44 / /mnt/a\\040b rw,nosuid shared:5 master:1 - fuse.dfs-fuse dfs:127.0.0.1:7400 rw,user_id=0\n\
            garbage\n";
        let lines: Vec<MountLine> = parse_mounts(text).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].device, "0:44");
        assert_eq!(lines[1].point, Path::new("/mnt/a b"));
        assert_eq!(lines[1].what, "fuse.dfs-fuse from dfs:127.0.0.1:7400");
        assert_eq!(unescape(b"a\\134b\\0"), b"a\\b\\0");
    }

    #[test]
    fn a_mountpoint_must_be_an_unused_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_mountpoint(dir.path()).is_ok());
        let missing = check_mountpoint(&dir.path().join("missing")).unwrap_err().to_string();
        assert!(missing.contains("does not exist") && missing.contains("mkdir"), "{missing}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(check_mountpoint(&file).unwrap_err().to_string().contains("not a directory"));
        let busy = check_mountpoint(Path::new("/proc")).unwrap_err().to_string();
        assert!(busy.contains("already") && busy.contains("proc"), "{busy}");
    }
}
