use std::io;

use dfs_disk::crash::{CrashDisk, Survive};
use dfs_disk::real::RealDisk;
use dfs_disk::{Access, Io};
use proptest::prelude::*;

use super::*;

mod crash;

const CLUSTER: ClusterId = ClusterId(7);
const SMALL: u64 = 16 << 10;

fn options() -> LogOptions {
    LogOptions { file_bytes: SMALL, cluster: CLUSTER }
}

fn dir() -> &'static Path {
    Path::new("/log")
}

fn open(disk: &CrashDisk) -> Result<Log, LogError> {
    Log::open(Arc::new(disk.clone()), dir(), options())
}

/// The payload tells which entry it is, and in which attempt it was written.
fn entry(index: u64, bytes: usize, attempt: u8) -> Entry {
    let mut payload = vec![attempt; bytes + 1];
    for (i, byte) in payload.iter_mut().enumerate().skip(1) {
        *byte = (index as usize * 31 + i) as u8;
    }
    Entry { term: index / 5, index: LogIndex(index), payload }
}

fn group(first: u64, sizes: &[usize], attempt: u8) -> Vec<Entry> {
    sizes.iter().zip(first..).map(|(bytes, index)| entry(index, *bytes, attempt)).collect()
}

fn read_all(log: &Log) -> Vec<Entry> {
    log.entries_from(log.first_index()).unwrap().map(Result::unwrap).collect()
}

fn file_names(disk: &CrashDisk) -> Vec<String> {
    let mut names: Vec<_> = disk.read_dir(dir()).unwrap().into_iter().map(|e| e.name).collect();
    names.sort();
    names
}

/// Overwrites bytes of a log file behind the log's back.
fn damage(disk: &CrashDisk, number: u64, offset: u64, bytes: &[u8]) {
    let file = disk.open(&FileNumber(number).path(dir()), Access::ReadWrite, Io::Buffered).unwrap();
    file.write_at(bytes, offset).unwrap();
    file.sync().unwrap();
}

#[test]
fn entries_come_back_in_order_over_many_files() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    assert_eq!((log.first_index(), log.last_index()), (LogIndex(1), LogIndex(0)));
    assert_eq!(read_all(&log), vec![]);
    let mut written = Vec::new();
    for round in 0..40_u64 {
        let next = written.len() as u64 + 1;
        let group = group(next, &vec![(round * 97 % 2500) as usize; (round % 4) as usize], 0);
        log.append(&group).unwrap();
        written.extend(group);
        if round % 3 == 0 {
            log.sync().unwrap();
            assert_eq!(log.synced_index(), log.last_index());
        }
    }
    assert_eq!(log.last_index(), LogIndex(written.len() as u64));
    assert_eq!(read_all(&log), written);
    let from: Vec<_> = log.entries_from(LogIndex(29)).unwrap().map(Result::unwrap).collect();
    assert_eq!(from, written[28..]);
    assert_eq!(log.entries_from(LogIndex(1000)).unwrap().count(), 0);
    log.sync().unwrap();
    drop(log);
    let log = open(&disk.image(Survive::Nothing)).unwrap();
    assert_eq!(read_all(&log), written);
    assert!(file_names(&disk).len() > 4);
}

#[test]
fn refusals_leave_the_log_as_it_was() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    assert!(matches!(log.append(&group(2, &[1], 0)), Err(LogError::Gap { expected: LogIndex(1), .. })));
    assert!(matches!(
        log.append(&[entry(1, 1, 0), entry(3, 1, 0)]),
        Err(LogError::Gap { expected: LogIndex(2), found: LogIndex(3) })
    ));
    let max = log.payload_bytes_max();
    assert!(matches!(log.append(&group(1, &[max], 0)), Err(LogError::TooLarge { .. })));
    assert!(matches!(log.append(&group(1, &[max / 2, max / 2], 0)), Err(LogError::TooLarge { .. })));
    log.append(&group(1, &[max - 1], 0)).unwrap();
    log.append(&group(2, &[max - 1], 0)).unwrap();
    log.append(&[]).unwrap();
    assert_eq!(read_all(&log), [entry(1, max - 1, 0), entry(2, max - 1, 0)]);
    for file_bytes in [0, 4096, SMALL + 1, 128 << 20] {
        let result = Log::open(Arc::new(disk.clone()), dir(), LogOptions { file_bytes, cluster: CLUSTER });
        assert!(matches!(result, Err(LogError::FileBytes(_))), "{file_bytes}");
    }
}

#[test]
fn released_files_are_used_again() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    for i in 1..200 {
        log.append(&group(i, &[3000], 0)).unwrap();
        log.sync().unwrap();
        log.release_before(LogIndex(i.saturating_sub(4))).unwrap();
        assert!(log.first_index() <= LogIndex(i.saturating_sub(4).max(1)));
        assert!(file_names(&disk).len() <= 5, "{:?}", file_names(&disk));
    }
    assert!(matches!(log.entries_from(LogIndex(1)), Err(LogError::Released { .. })));
    log.release_before(LogIndex(10_000)).unwrap();
    assert_eq!(log.last_index(), LogIndex(199));
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(log.last_index(), LogIndex(199));
    assert!(log.first_index() <= LogIndex(200));
    let names = file_names(&disk);
    assert!(names.iter().any(|n| n.starts_with("spare-")), "{names:?}");
}

#[test]
fn a_log_that_begins_anew_finds_nothing_of_an_earlier_one() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    for i in 1..5 {
        log.append(&group(i, &[5000], 0)).unwrap();
    }
    log.release_before(LogIndex(4)).unwrap();
    drop(log);
    for name in file_names(&disk).iter().filter(|n| n.ends_with(".log")) {
        disk.remove(&dir().join(name)).unwrap();
    }
    assert!(!file_names(&disk).is_empty());
    assert_eq!(open(&disk).unwrap().last_index(), LogIndex(0));
    assert_eq!(open(&disk).unwrap().last_index(), LogIndex(0));
}

#[test]
fn a_log_of_another_filesystem_or_version_is_refused() {
    let disk = CrashDisk::new();
    open(&disk).unwrap().append(&group(1, &[10], 0)).unwrap();
    let other = LogOptions { cluster: ClusterId(8), ..options() };
    let result = Log::open(Arc::new(disk.clone()), dir(), other);
    assert!(matches!(result, Err(LogError::Foreign { found: CLUSTER, .. })), "{result:?}");
    damage(&disk, 1, 8, &[9]);
    let result = open(&disk);
    assert!(matches!(result, Err(LogError::Version { found: 9, known: 1, .. })), "{result:?}");
    damage(&disk, 1, 0, b"garbage!");
    assert!(matches!(open(&disk), Err(LogError::Corrupt { offset: 0, .. })));
}

#[test]
fn damaged_headers_and_missing_files_are_found() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    for i in 1..12 {
        log.append(&group(i, &[5000], 0)).unwrap();
    }
    log.sync().unwrap();
    let fresh = || disk.image(Survive::Nothing);
    assert!(open(&fresh()).is_ok());
    let image = fresh();
    damage(&image, 2, 33, &[1]);
    assert!(matches!(open(&image), Err(LogError::Corrupt { offset: 12, .. })));
    let image = fresh();
    image.remove(&FileNumber(3).path(dir())).unwrap();
    assert!(matches!(open(&image), Err(LogError::Corrupt { .. })));
    let image = fresh();
    image.rename(&FileNumber(1).path(dir()), &FileNumber(0).path(dir())).unwrap();
    assert!(matches!(open(&image), Err(LogError::Corrupt { .. })));
    let image = fresh();
    let file = image.open(&FileNumber(2).path(dir()), Access::ReadWrite, Io::Buffered).unwrap();
    file.set_len(8192).unwrap();
    assert!(matches!(open(&image), Err(LogError::Corrupt { .. })));
}

#[test]
fn damage_to_synced_entries_is_told_with_its_place() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    for i in 1..=3 {
        log.append(&group(i, &[100], 0)).unwrap();
        log.sync().unwrap();
    }
    // Entry 3 was written when 2 was known to be synced, so a hole at 2 is damage.
    let image = disk.image(Survive::Nothing);
    damage(&image, 1, 2 * 4096 + 50, &[0xFF; 4]);
    match open(&image) {
        Err(LogError::Corrupt { path, offset: 8192, .. }) => assert_eq!(path, FileNumber(1).path(dir())),
        other => panic!("{other:?}"),
    }
    // In an earlier file it shows when that is read.
    for i in 4..=6 {
        log.append(&group(i, &[100], 0)).unwrap();
        log.sync().unwrap();
    }
    let image = disk.image(Survive::Nothing);
    damage(&image, 1, 4096 + 50, &[0xFF; 4]);
    let log = open(&image).unwrap();
    let read: Vec<_> = log.entries_from(LogIndex(1)).unwrap().collect();
    assert!(matches!(&read[..], [Err(LogError::Corrupt { offset: 4096, .. })]), "{read:?}");
    assert_eq!(log.entries_from(LogIndex(4)).unwrap().filter(Result::is_ok).count(), 3);
}

#[test]
fn a_torn_group_is_cut_though_a_later_one_of_the_same_sync_arrived() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    log.append(&group(1, &[100], 0)).unwrap();
    log.sync().unwrap();
    log.append(&group(2, &[100], 0)).unwrap();
    log.append(&group(3, &[100], 0)).unwrap();
    let image = disk.image(Survive::Everything);
    damage(&image, 1, 2 * 4096, &[0; 64]);
    let mut log = open(&image).unwrap();
    assert_eq!(log.last_index(), LogIndex(1));
    // What is written in its place does not bring entry 3 back.
    log.append(&group(2, &[100], 1)).unwrap();
    log.sync().unwrap();
    let log = open(&image.image(Survive::Nothing)).unwrap();
    assert_eq!(read_all(&log), [entry(1, 100, 0), entry(2, 100, 1)]);
}

#[test]
fn a_full_disk_refuses_and_the_log_goes_on_when_there_is_space() {
    let disk = CrashDisk::new();
    disk.set_capacity(Some(2 * SMALL));
    let mut log = open(&disk).unwrap();
    let mut i = 1;
    let refused = loop {
        match log.append(&group(i, &[5000], 0)) {
            Ok(()) => log.sync().unwrap(),
            Err(e) => break e,
        }
        i += 1;
    };
    assert!(matches!(refused, LogError::StorageFull { .. }), "{refused:?}");
    assert!(matches!(log.append(&group(i, &[5000], 0)), Err(LogError::StorageFull { .. })));
    // A smaller one than what was refused may still fit, and reading goes on.
    assert_eq!(read_all(&log).len() as u64, i - 1);
    let image = disk.image(Survive::Nothing);
    assert_eq!(open(&image).unwrap().last_index(), LogIndex(i - 1));
    // Released files are space.
    log.release_before(LogIndex(i - 1)).unwrap();
    log.append(&group(i, &[5000], 1)).unwrap();
    log.sync().unwrap();
    disk.set_capacity(None);
    for i in i + 1..i + 10 {
        log.append(&group(i, &[5000], 0)).unwrap();
    }
    log.sync().unwrap();
    let log = open(&disk.image(Survive::Nothing)).unwrap();
    assert_eq!(log.last_index(), LogIndex(i + 9));
}

#[test]
fn a_full_disk_at_the_very_start_is_told() {
    let disk = CrashDisk::new();
    disk.set_capacity(Some(SMALL - 1));
    assert!(matches!(open(&disk), Err(LogError::StorageFull { .. })));
    disk.set_capacity(Some(SMALL));
    open(&disk).unwrap();
}

#[test]
fn a_write_that_failed_for_want_of_space_is_not_taken_for_one_that_did_not_happen() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    let told = log.poison(LogError::StorageFull { path: dir().to_owned() });
    assert!(matches!(told, LogError::Io { .. }), "{told:?}");
    assert!(matches!(log.append(&group(1, &[10], 0)), Err(LogError::Poisoned(_))));
}

#[test]
fn after_a_failed_sync_nothing_is_taken() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    log.append(&group(1, &[100], 0)).unwrap();
    log.sync().unwrap();
    log.append(&group(2, &[100], 0)).unwrap();
    disk.fail_sync();
    assert!(matches!(log.sync(), Err(LogError::Io { .. })));
    assert!(matches!(log.sync(), Err(LogError::Poisoned(_))));
    assert!(matches!(log.append(&group(3, &[100], 0)), Err(LogError::Poisoned(_))));
    assert!(matches!(log.release_before(LogIndex(1)), Err(LogError::Poisoned(_))));
    assert_eq!(log.synced_index(), LogIndex(1));
    drop(log);
    // The process starts again on the same machine: entry 2 can still be read.
    // Whoever sees it in the log must find it there after a power cut too.
    let log = open(&disk).unwrap();
    let seen = read_all(&log);
    assert_eq!(read_all(&open(&disk.image(Survive::Nothing)).unwrap()), seen);
}

#[test]
fn after_a_failed_write_nothing_is_taken() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    disk.fail_write();
    assert!(matches!(log.append(&group(1, &[100], 0)), Err(LogError::Io { .. })));
    assert!(matches!(log.append(&group(1, &[100], 0)), Err(LogError::Poisoned(_))));
    open(&disk).unwrap().append(&group(1, &[100], 0)).unwrap();
}

#[test]
fn files_of_another_size_are_read_and_not_made_again() {
    let disk = CrashDisk::new();
    let mut log = open(&disk).unwrap();
    for i in 1..9 {
        log.append(&group(i, &[5000], 0)).unwrap();
        log.sync().unwrap();
    }
    log.release_before(LogIndex(5)).unwrap();
    drop(log);
    let larger = LogOptions { file_bytes: 4 * SMALL, ..options() };
    let mut log = Log::open(Arc::new(disk.clone()), dir(), larger).unwrap();
    for i in 9..30 {
        log.append(&group(i, &[9000], 0)).unwrap();
    }
    log.append(&group(30, &[50_000], 0)).unwrap();
    log.sync().unwrap();
    assert_eq!(read_all(&log).last().unwrap().payload.len(), 50_001);
    let log = open(&disk.image(Survive::Nothing)).unwrap();
    assert_eq!(log.last_index(), LogIndex(30));
}

#[test]
fn the_real_disk_too() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("log");
    let options = LogOptions { file_bytes: 64 << 10, cluster: CLUSTER };
    let mut log = Log::open(Arc::new(RealDisk), &dir, options).unwrap();
    for i in 1..100 {
        log.append(&group(i, &[i as usize * 100], 0)).unwrap();
        log.sync().unwrap();
    }
    log.release_before(LogIndex(60)).unwrap();
    drop(log);
    let log = Log::open(Arc::new(RealDisk), &dir, options).unwrap();
    let entries: Vec<_> = log.entries_from(LogIndex(60)).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries, (60..100).map(|i| entry(i, i as usize * 100, 0)).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(offset in 0..SMALL, bytes in prop::collection::vec(any::<u8>(), 1..200), file in 1..3_u64) {
        let disk = CrashDisk::new();
        let mut log = open(&disk).unwrap();
        for i in 1..5 {
            let next = log.last_index().0 + 1;
            log.append(&group(next, &[3000, 10][..1 + i % 2], 0)).unwrap();
            log.sync().unwrap();
        }
        drop(log);
        damage(&disk, file, offset, &bytes);
        if let Ok(log) = open(&disk) {
            for entry in log.entries_from(log.first_index()).unwrap() {
                if entry.is_err() { break; }
            }
        }
    }
}

#[test]
fn io_errors_keep_their_kind() {
    let full = LogError::io(dir(), "write", io::ErrorKind::StorageFull.into());
    assert!(matches!(full, LogError::StorageFull { .. }));
    assert!(LogError::io(dir(), "write", io::ErrorKind::Other.into()).to_string().starts_with("cannot write /log"));
}
