//! Opening a log: which files there are, where it ends, and making that end certain.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use dfs_core::id::LogIndex;
use dfs_disk::{Access, AlignedBuf, Disk, DiskFile, Io};

use super::files::{self, FileNumber, Kind, Spares};
use super::frame::{self, Salt};
use super::header::Header;
use super::{Current, Log, LogError, LogFile, LogOptions, UNIT};

const FILE_BYTES_MIN: u64 = 16 << 10;
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Neither files nor entries are numbered beyond this, not in all the time there is.
pub(super) const INDEX_MAX: u64 = u64::MAX / 2;

pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, options: LogOptions) -> Result<Log, LogError> {
    check_file_bytes(options.file_bytes).ok_or(LogError::FileBytes(options.file_bytes))?;
    disk.create_dir(dir).map_err(|e| LogError::io(dir, "create", e))?;
    let (numbers, mut spares) = list(&*disk, dir, &options)?;
    let mut files = VecDeque::new();
    for number in numbers {
        let header = read_header(&*disk, dir, number, &options)?;
        if files.back().is_some_and(|f: &LogFile| f.number.next() != number) {
            return Err(LogError::corrupt(&number.path(dir), 0, "the file before it is missing"));
        }
        if files.back().is_some_and(|f: &LogFile| f.first > header.first) {
            return Err(LogError::corrupt(&number.path(dir), 0, "it begins below the file before it"));
        }
        files.push_back(LogFile { number, first: header.first });
    }
    let Some(newest) = files.back().copied() else {
        spares.discard(&*disk, dir)?;
        let first = LogFile { number: FileNumber::FIRST, first: LogIndex(1) };
        let current = files::begin(&*disk, dir, &mut spares, first, &options)?;
        return Ok(log(disk, dir, options, VecDeque::from([first]), current, spares, LogIndex(0)));
    };
    let path = newest.number.path(dir);
    let file = disk.open(&path, Access::ReadWrite, Io::Direct).map_err(|e| LogError::io(&path, "open", e))?;
    let bytes = load(&*file, &path)?;
    let end = find_end(&bytes, newest, &path, &options)?;
    settle(&*file, &bytes, &end).map_err(|e| LogError::io(&path, "repair", e))?;
    let current = Current { file, bytes: bytes.len() as u64, tail: end.tail as u64 };
    Ok(log(disk, dir, options, files, current, spares, end.last))
}

fn check_file_bytes(bytes: u64) -> Option<()> {
    ((FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(UNIT as u64)).then_some(())
}

fn log(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    files: VecDeque<LogFile>,
    current: Current,
    spares: Spares,
    last: LogIndex,
) -> Log {
    let dir = dir.to_owned();
    Log { disk, dir, options, files, current, spares, last, synced: last, buf: AlignedBuf::new(), poisoned: None }
}

/// The numbers of the log's files in order, and the spares that can be used.
fn list(disk: &dyn Disk, dir: &Path, options: &LogOptions) -> Result<(Vec<FileNumber>, Spares), LogError> {
    let mut numbers = Vec::new();
    let mut spares = Spares::default();
    for entry in disk.read_dir(dir).map_err(|e| LogError::io(dir, "list", e))? {
        match files::classify(&entry.name) {
            Kind::Log(number) => numbers.push(number),
            Kind::Spare(slot) if entry.len == options.file_bytes => spares.add(slot),
            Kind::Spare(_) | Kind::Unfinished => {
                let path = dir.join(&entry.name);
                disk.remove(&path).map_err(|e| LogError::io(&path, "remove", e))?;
            }
            Kind::Other => {}
        }
    }
    numbers.sort_unstable();
    Ok((numbers, spares))
}

fn read_header(disk: &dyn Disk, dir: &Path, number: FileNumber, options: &LogOptions) -> Result<Header, LogError> {
    let path = number.path(dir);
    let file = disk.open(&path, Access::Read, Io::Direct).map_err(|e| LogError::io(&path, "open", e))?;
    let mut buf = AlignedBuf::zeroed(UNIT);
    let n = file.read_at(&mut buf, 0).map_err(|e| LogError::io(&path, "read", e))?;
    let header = Header::decode(&buf[..n], &path, options.cluster)?;
    if header.number != number {
        return Err(LogError::corrupt(&path, 32, format!("it says that its number is {:016x}", header.number.0)));
    }
    // Nothing ever counts so far that the next one would not be a number any more.
    let is_last = header.first.0 > INDEX_MAX || header.number.0 > INDEX_MAX;
    if header.first.0 == 0 || is_last || check_file_bytes(header.file_bytes).is_none() {
        return Err(LogError::corrupt(&path, 40, "its header makes no sense"));
    }
    let len = file.len().map_err(|e| LogError::io(&path, "read", e))?;
    if len != header.file_bytes {
        return Err(LogError::corrupt(&path, 48, format!("it has {len} bytes instead of {}", header.file_bytes)));
    }
    Ok(header)
}

/// Reads a whole file, the length of which was checked.
pub(super) fn load(file: &dyn DiskFile, path: &Path) -> Result<AlignedBuf, LogError> {
    let len = file.len().map_err(|e| LogError::io(path, "read", e))?;
    if check_file_bytes(len).is_none() {
        return Err(LogError::corrupt(path, 0, format!("it has {len} bytes")));
    }
    let mut bytes = AlignedBuf::zeroed(usize::try_from(len).unwrap_or(0));
    file.read_exact_at(&mut bytes, 0).map_err(|e| LogError::io(path, "read", e))?;
    Ok(bytes)
}

/// Where the log ends.
#[derive(Debug)]
struct End {
    last: LogIndex,
    /// Behind the last sound frame.
    tail: usize,
    /// From here to the tail nothing proves that the frames were synced.
    unproven: usize,
}

fn find_end(bytes: &[u8], file: LogFile, path: &Path, options: &LogOptions) -> Result<End, LogError> {
    let salt = Salt { cluster: options.cluster, number: file.number };
    // The file before was synced before this one began.
    let mut proven = LogIndex(file.first.0 - 1);
    let mut frames = Vec::new();
    let mut last = proven;
    let mut tail = UNIT;
    while let Some(frame) = bytes.get(tail..).and_then(|b| frame::decode(b, salt)) {
        if frame.first.0 != last.0 + 1 {
            let what = format!("entry {} follows entry {last}", frame.first);
            return Err(LogError::corrupt(path, tail, what));
        }
        frames.push((tail, frame.last()));
        proven = proven.max(frame.synced_through);
        last = frame.last();
        tail += frame.bytes();
    }
    // What comes behind is a torn write, unless it knows that the entry missing here was synced.
    for at in (tail + UNIT..bytes.len()).step_by(UNIT) {
        if let Some(frame) = frame::decode(&bytes[at..], salt)
            && frame.synced_through > last
        {
            let what = format!(
                "the entry after {last} is not readable, but it was synced before entry {} was written",
                frame.first
            );
            return Err(LogError::corrupt(path, tail, what));
        }
    }
    let unproven = frames.iter().find(|(_, last)| *last > proven).map_or(tail, |(at, _)| *at);
    Ok(End { last, tail, unproven })
}

/// Makes the end that was found the end: what is behind it becomes zeros, so
/// that it cannot come back, and what may not have been synced is written
/// again (an earlier sync may have failed and left it readable for a while).
fn settle(file: &dyn DiskFile, bytes: &[u8], end: &End) -> std::io::Result<()> {
    let piece = 256 * UNIT;
    for (i, old) in bytes[end.tail..].chunks(piece).enumerate() {
        if old.iter().any(|b| *b != 0) {
            file.write_at(&AlignedBuf::zeroed(old.len()), (end.tail + i * piece) as u64)?;
        }
    }
    if end.unproven < end.tail {
        file.write_at(&bytes[end.unproven..end.tail], end.unproven as u64)?;
    }
    file.sync()
}
