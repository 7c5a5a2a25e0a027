//! The real disk: `std::fs`, and three system calls that it lacks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::aligned::{AlignedBuf, check_direct};
use crate::{Access, DIRECT_ALIGN, Disk, DiskFile, Entry, Io, Space};

/// Bytes written at a time where a filesystem cannot reserve space by itself.
const ZERO_BYTES: usize = 1 << 20;

/// How often, and how long apart, a directory is opened again when too many files are open.
const OPEN_TRIES: u32 = 100;
const OPEN_AGAIN: Duration = Duration::from_millis(50);

/// The filesystem of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile {
    file: File,
    /// What the caller asked for: its buffers are checked even if the filesystem offered no `O_DIRECT`.
    io: Io,
}

impl RealFile {
    fn wrap(file: File, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        if io == Io::Direct {
            set_direct(&file)?;
        }
        Ok(Arc::new(Self { file, io }))
    }
}

/// Whether only this process or this machine has come to a limit, and the disk is as it was.
fn is_out_of_files(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

impl Disk for RealDisk {
    fn create(&self, path: &Path, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        RealFile::wrap(OpenOptions::new().read(true).write(true).create_new(true).open(path)?, io)
    }

    fn open(&self, path: &Path, access: Access, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        RealFile::wrap(OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path)?, io)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).ok_or(e)?;
                self.create_dir(parent)?;
                self.create_dir(path)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(e) => Err(e),
            Ok(()) => match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
                _ => self.sync_dir(Path::new(".")),
            },
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match File::open(path) {
                Ok(dir) => return dir.sync_all(),
                // Nothing is lost by that, while callers take a sync that failed for a loss: others close files soon.
                Err(e) if is_out_of_files(&e) && tries < OPEN_TRIES => {
                    tries += 1;
                    std::thread::sleep(OPEN_AGAIN);
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (dir, len) = match entry.metadata() {
                Ok(meta) if meta.is_dir() => (true, 0),
                Ok(meta) => (false, meta.len()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                // One inode that cannot be read is no reason to do without all the others.
                Err(_) => (false, u64::MAX),
            };
            entries.push(Entry { name, dir, len });
        }
        Ok(entries)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        statvfs(path)
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.io == Io::Direct {
            check_direct(buf, offset)?;
        }
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            // A direct read that ends inside a unit has met the end of the file.
            if self.io == Io::Direct && !done.is_multiple_of(DIRECT_ALIGN) {
                break;
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.io == Io::Direct {
            check_direct(buf, offset)?;
        }
        let mut done = 0;
        while done < buf.len() {
            match self.file.write_at(&buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // A direct write goes on at the last unit that it finished.
                Ok(n) if self.io == Io::Direct && done + n < buf.len() => {
                    let whole = (done + n) / DIRECT_ALIGN * DIRECT_ALIGN;
                    if whole == done {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    done = whole;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.file, len) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => self.allocate_by_writing(len),
            other => other,
        }
    }
}

impl RealFile {
    /// For filesystems without `fallocate`: writes zeros behind the present
    /// end. Holes before it, and up to one unit at each end, are not reserved.
    fn allocate_by_writing(&self, len: u64) -> io::Result<()> {
        let unit = DIRECT_ALIGN as u64;
        let mut at = self.len()?;
        if at >= len {
            return Ok(());
        }
        at = at.next_multiple_of(unit);
        let zeros = AlignedBuf::zeroed(ZERO_BYTES);
        while at + unit <= len {
            let n = ((len - at) / unit * unit).min(ZERO_BYTES as u64);
            self.write_at(&zeros[..usize::try_from(n).unwrap_or(ZERO_BYTES)], at)?;
            at += n;
        }
        self.set_len(len)
    }
}

/// Turns `O_DIRECT` on; a filesystem that has none (`EINVAL`) stays buffered.
/// Done after the open, because an open that fails for it may have made the file.
#[allow(unsafe_code)]
fn set_direct(file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: `fd` is open for as long as `file` lives; F_GETFL and F_SETFL touch no memory of ours.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 { flags } else { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_DIRECT) }
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            e => Err(e),
        },
    }
}

#[allow(unsafe_code)]
fn fallocate(file: &File, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    if len == 0 {
        return Ok(());
    }
    loop {
        // SAFETY: the descriptor is open for as long as `file` lives; no memory is passed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

#[allow(unsafe_code)]
fn statvfs(path: &Path) -> io::Result<Space> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut out = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero byte; `out` is as large as statvfs(3) writes.
    if unsafe { libc::statvfs(path.as_ptr(), out.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled `out`.
    let s = unsafe { out.assume_init() };
    Ok(Space { total: s.f_frsize.saturating_mul(s.f_blocks), free: s.f_frsize.saturating_mul(s.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_live_and_die() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("a/b/c");
        let disk = RealDisk;
        disk.create_dir(&dir).unwrap();
        disk.create_dir(&dir).unwrap();
        let path = dir.join("f");
        let file = disk.create(&path, Io::Buffered).unwrap();
        assert_eq!(disk.create(&path, Io::Buffered).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.write_at(b"hello", 3).unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 8);
        let mut buf = [9; 16];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8);
        assert_eq!(&buf[..8], b"\0\0\0hello");
        assert!(file.read_exact_at(&mut buf, 0).is_err());
        file.allocate(100_000).unwrap();
        assert_eq!(file.len().unwrap(), 100_000);
        file.allocate(10).unwrap();
        assert_eq!(file.len().unwrap(), 100_000);
        file.set_len(4).unwrap();
        disk.rename(&path, &dir.join("g")).unwrap();
        disk.sync_dir(&dir).unwrap();
        assert_eq!(disk.read_dir(&dir).unwrap(), vec![Entry { name: "g".into(), dir: false, len: 4 }]);
        let reader = disk.open(&dir.join("g"), Access::Read, Io::Buffered).unwrap();
        assert!(reader.write_at(b"x", 0).is_err());
        disk.remove(&dir.join("g")).unwrap();
        assert_eq!(disk.remove(&dir.join("g")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let space = disk.space(&dir).unwrap();
        assert!(space.total >= space.free && space.total > 0);
        assert!(disk.create_dir(&tmp.path().join("a")).is_ok());
        std::fs::write(tmp.path().join("plain"), b"").unwrap();
        assert!(disk.create_dir(&tmp.path().join("plain")).is_err());
        assert!(disk.create_dir(&tmp.path().join("plain/x")).is_err());
    }

    #[test]
    fn direct_io_reads_what_it_wrote_and_wants_alignment() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("f");
        let file = RealDisk.create(&path, Io::Direct).unwrap();
        let mut buf = AlignedBuf::zeroed(3 * DIRECT_ALIGN);
        for (i, b) in buf.iter_mut().enumerate() {
            *b = (i % 251) as u8;
        }
        file.write_at(&buf, DIRECT_ALIGN as u64).unwrap();
        file.sync().unwrap();
        assert_eq!(file.write_at(&buf[..100], 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let mut back = AlignedBuf::zeroed(8 * DIRECT_ALIGN);
        assert_eq!(file.read_at(&mut back, 0).unwrap(), 4 * DIRECT_ALIGN);
        assert_eq!(&back[DIRECT_ALIGN..4 * DIRECT_ALIGN], &buf[..]);
        // An odd end is read up to where it is.
        file.set_len(DIRECT_ALIGN as u64 + 100).unwrap();
        assert_eq!(file.read_at(&mut back, 0).unwrap(), DIRECT_ALIGN + 100);
    }

    #[test]
    fn zero_writing_stands_in_for_fallocate() {
        let tmp = tempfile::tempdir().unwrap();
        for (io, name) in [(Io::Buffered, "b"), (Io::Direct, "d")] {
            let path = tmp.path().join(name);
            std::fs::write(&path, b"abc").unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let file = RealFile { file, io };
            file.allocate_by_writing(3_000_001).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!((bytes.len(), &bytes[..3]), (3_000_001, &b"abc"[..]));
            assert!(bytes[3..].iter().all(|b| *b == 0));
        }
    }
}
