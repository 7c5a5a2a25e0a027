//! Fuzz target: names, headers, frames, and whole logs as a disk may give them back.

use std::path::Path;
use std::sync::Arc;

use dfs_core::id::{ClusterId, LogIndex};
use dfs_disk::crash::CrashDisk;
use dfs_disk::{AlignedBuf, Disk, Io};
use dfs_fuzz_kit::{Input, Target};

use super::files::{self, FileNumber, Kind};
use super::frame::{self, Salt};
use super::header::Header;
use super::{Entry, Log, LogOptions, UNIT};

/// The first byte says what the rest is.
pub const LOG: Target = Target { name: "metad_log", target: log, seeds, base: 1 << 20, per_byte: 64 };

const CLUSTER: ClusterId = ClusterId(7);
/// The smallest file: room for three units of frames.
const FILE: usize = 16 << 10;

fn log(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 5 {
        0 => name(input.rest()),
        1 => header(input.rest()),
        2 => sound_frame(input),
        3 => drop(frame::decode(input.rest(), salt(1))),
        _ => whole_log(input),
    }
}

fn salt(number: u64) -> Salt {
    Salt { cluster: CLUSTER, number: FileNumber(number) }
}

/// A name that is taken is the one that the file is then opened by.
fn name(bytes: &[u8]) {
    let name = String::from_utf8_lossy(bytes);
    let path = match files::classify(&name) {
        Kind::Log(number) => number.path(Path::new("")),
        Kind::Spare(slot) => slot.path(Path::new("")),
        Kind::Unfinished | Kind::Other => return,
    };
    assert_eq!(path.to_str(), Some(&*name));
}

fn header(bytes: &[u8]) {
    if let Ok(header) = Header::decode(bytes, Path::new("log"), CLUSTER) {
        assert_eq!(header.encode()[..56], bytes[..56]);
    }
}

/// The head of a frame: everything but the checksum from the input, the checksum right.
fn head(input: &mut Input<'_>, first: u64, body: &[u8]) -> Vec<u8> {
    let (bytes, count) = (input.u32().wrapping_add(body.len() as u32), input.u32());
    let (synced, zero) = (input.u64(), input.byte());
    let mut out = vec![0; 4];
    out.extend(bytes.to_le_bytes());
    out.extend(first.to_le_bytes());
    out.extend(synced.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend([zero, 0, 0, 0]);
    out.extend(body);
    out
}

fn seal(frame: &mut [u8], salt: Salt) {
    let crc = frame::crc32c(&[&salt.cluster.to_bytes(), &salt.number.0.to_le_bytes(), &frame[4..]]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

/// A frame whose checksum is right, whatever it says.
fn sound_frame(mut input: Input<'_>) {
    let first = input.u64();
    let body = input.piece();
    let mut bytes = head(&mut input, first, body);
    seal(&mut bytes, salt(1));
    let Some(frame) = frame::decode(&bytes, salt(1)) else { return };
    let entry = |(term, index, payload): (u64, LogIndex, &[u8])| Entry { term, index, payload: payload.to_vec() };
    let entries: Vec<Entry> = frame.entries().map(entry).collect();
    assert_eq!(entries.last().map(|e| e.index), Some(frame.last()));
    let mut again = AlignedBuf::new();
    frame::encode(&mut again, salt(1), &entries, frame.synced_through);
    assert_eq!(again[..bytes.len()], bytes);
    assert_eq!(frame.bytes(), again.len());
}

/// Files with headers and frames, most of them sound; then the log is opened, read and written to.
fn whole_log(mut input: Input<'_>) {
    let disk = CrashDisk::new();
    let dir = Path::new("/log");
    disk.create_dir(dir).expect("a disk in memory");
    let start = input.u64();
    let mut index = input.u64();
    for at in 0..input.byte() % 4 {
        let number = start.wrapping_add(at.into());
        let bytes = log_file(&mut input, number, &mut index);
        let path = FileNumber(number).path(dir);
        let Ok(file) = disk.create(&path, Io::Direct) else { return };
        file.write_at(&bytes, 0).expect("a disk in memory");
    }
    let open = || {
        let options = LogOptions { file_bytes: FILE as u64, cluster: CLUSTER };
        Log::open(Arc::new(disk.clone()), dir, options)
    };
    let Ok(mut log) = open() else { return };
    use_it(&mut log);
    let last = log.last_index();
    drop(log);
    let again = open().expect("what a log has written it can open");
    assert_eq!(again.last_index(), last);
}

fn use_it(log: &mut Log) {
    let found = log.entries_from(log.first_index()).map(|entries| entries.filter_map(Result::ok).count());
    assert!(found.is_ok_and(|found| found as u64 <= log.last_index().0));
    let Some(next) = log.last_index().0.checked_add(1) else { return };
    for index in next..next.saturating_add(2) {
        let entry = Entry { term: 1, index: LogIndex(index), payload: vec![1; 9000] };
        if log.append(&[entry]).and_then(|()| log.sync()).is_err() {
            return;
        }
        let last = log.entries_from(log.last_index()).map(|entries| entries.filter_map(Result::ok).last());
        assert!(last.is_ok_and(|e| e.is_some_and(|e| e.index.0 == index)), "what was synced is not found");
    }
    drop(log.prepare());
    drop(log.release_before(log.last_index()));
}

/// A file with a header that is its own unless the input says otherwise, and three units that hold what it says.
fn log_file(input: &mut Input<'_>, number: u64, index: &mut u64) -> AlignedBuf {
    let odd = input.byte();
    let pick = |bit: u8, usual: u64, other: u64| if odd & bit == 0 { usual } else { other };
    let file_bytes = pick(1, FILE as u64, input.u64());
    let number = pick(2, number, input.u64());
    let first = pick(4, *index, input.u64());
    let header = Header { cluster: CLUSTER, number: FileNumber(number), first: LogIndex(first), file_bytes };
    let mut file = header.encode();
    while file.len() < FILE {
        let kind = input.byte();
        let mut unit = match kind % 4 {
            0 => input.piece().to_vec(),
            1 => head(input, *index, b""),
            _ => {
                let payload = input.piece();
                let mut body = 1_u64.to_le_bytes().to_vec();
                body.extend((payload.len() as u32).to_le_bytes());
                body.extend(payload);
                let mut frame = head(input, *index, &body);
                frame[24..28].copy_from_slice(&1_u32.to_le_bytes());
                *index = index.wrapping_add(1);
                frame
            }
        };
        if !kind.is_multiple_of(4) && kind < 240 {
            seal(&mut unit, salt(number));
        }
        unit.truncate(FILE - file.len());
        file.extend_from_slice(&unit);
        file.pad();
        if unit.is_empty() {
            file.resize((file.len() + UNIT).min(FILE), 0);
        }
    }
    file
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8, bytes: &[u8]| [&[kind][..], bytes].concat();
    let header =
        Header { cluster: CLUSTER, number: FileNumber(3), first: LogIndex(9), file_bytes: FILE as u64 }.encode();
    let entry = |index, n| Entry { term: 1, index: LogIndex(index), payload: vec![5; n] };
    let mut frame = AlignedBuf::new();
    frame::encode(&mut frame, salt(1), &[entry(4, 20), entry(5, 3)], LogIndex(3));
    // A sound frame of one entry: its index, its body, and what a head takes.
    let mut sound = 9_u64.to_be_bytes().to_vec();
    let body = [&1_u64.to_le_bytes()[..], &3_u32.to_le_bytes(), &[1, 2, 3]].concat();
    Input::put_piece(&mut sound, &body);
    sound.extend([&0_u32.to_be_bytes()[..], &1_u32.to_be_bytes(), &8_u64.to_be_bytes(), &[0]].concat());
    vec![
        of(0, b"0000000000000001.log"),
        of(0, b"spare-1"),
        of(0, b"spare.tmp"),
        of(1, &header),
        of(2, &sound),
        of(3, &frame[..100]),
        of(4, &logs(1, 1, 1)),
        of(4, &logs(5, 300, 3)),
        of(4, &logs(u64::MAX, u64::MAX - 3, 1)),
        of(4, &logs(u64::MAX / 2, 9, 1)),
        of(4, &logs(9, u64::MAX / 2 - 4, 1)),
        of(4, &[0; 17]),
    ]
}

/// Files one after the other, each with one frame in each unit.
fn logs(number: u64, first: u64, files: u8) -> Vec<u8> {
    let mut out = [number.to_be_bytes(), first.to_be_bytes()].concat();
    out.push(files);
    let mut index = first;
    for _ in 0..files {
        // All usual; the three numbers are not looked at.
        out.extend([0; 25]);
        for _ in 0..3 {
            out.push(2);
            Input::put_piece(&mut out, b"payload");
            // Bytes and count as they should be; synced up to the one before.
            out.extend([0; 8]);
            out.extend(index.wrapping_sub(1).to_be_bytes());
            out.push(0);
            index = index.wrapping_add(1);
        }
    }
    out
}
