use std::collections::BTreeSet;

use super::*;
use crate::aligned::AlignedBuf;

const SEEDS: u64 = 300;

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/d").join(name)
}

fn disk() -> CrashDisk {
    let disk = CrashDisk::new();
    disk.create_dir(Path::new("/d")).unwrap();
    disk
}

fn contents(disk: &CrashDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(&path(name), Access::Read, Io::Buffered).ok()?;
    let mut buf = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut buf, 0).unwrap();
    Some(buf)
}

/// All that can be seen of `name` over many power cuts.
fn outcomes(disk: &CrashDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..SEEDS).map(|s| contents(&disk.image(Survive::Random(s)), name)).collect()
}

#[test]
fn only_what_was_synced_is_certain() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    file.write_at(b"first", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(contents(&disk.image(Survive::Nothing), "f"), None, "the name was not synced");
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(b"later", 0).unwrap();
    assert_eq!(contents(&disk, "f").unwrap(), b"later");
    assert_eq!(contents(&disk.image(Survive::Nothing), "f").unwrap(), b"first");
    assert_eq!(contents(&disk.image(Survive::Everything), "f").unwrap(), b"later");
    let seen = outcomes(&disk, "f");
    assert_eq!(seen, BTreeSet::from([Some(b"first".to_vec()), Some(b"later".to_vec())]));
}

#[test]
fn a_synced_name_may_have_no_contents() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    file.write_at(b"x", 0).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(contents(&disk.image(Survive::Nothing), "f").unwrap(), b"");
}

#[test]
fn writes_tear_at_sectors_and_overtake_each_other() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    file.write_at(&[0; 1024], 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(&[1; 1024], 0).unwrap();
    file.write_at(&[2; 512], 512).unwrap();
    let mut seen = BTreeSet::new();
    for bytes in outcomes(&disk, "f").into_iter().flatten() {
        assert!(bytes[..512].iter().all(|b| *b == bytes[0]), "a sector is whole");
        assert!(bytes[512..].iter().all(|b| *b == bytes[512]), "a sector is whole");
        seen.insert((bytes[0], bytes[512]));
    }
    assert_eq!(seen, BTreeSet::from([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]));
}

#[test]
fn a_rename_is_whole() {
    let disk = disk();
    for (name, bytes) in [("old", b"old"), ("new", b"new")] {
        let file = disk.create(&path(name), Io::Buffered).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.sync().unwrap();
    }
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.rename(&path("new"), &path("old")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let image = disk.image(Survive::Random(seed));
        seen.insert((contents(&image, "old").unwrap(), contents(&image, "new")));
    }
    let before = (b"old".to_vec(), Some(b"new".to_vec()));
    assert_eq!(seen, BTreeSet::from([before, (b"new".to_vec(), None)]));
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(contents(&disk.image(Survive::Nothing), "old").unwrap(), b"new");
}

#[test]
fn a_removed_file_may_come_back() {
    let disk = disk();
    disk.create(&path("f"), Io::Buffered).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.remove(&path("f")).unwrap();
    assert_eq!(contents(&disk, "f"), None);
    assert_eq!(outcomes(&disk, "f").len(), 2);
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&disk, "f"), BTreeSet::from([None]));
}

#[test]
fn the_power_goes_at_the_fault_point() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(disk.ops(), 2);
    disk.crash_after(1);
    file.write_at(b"a", 0).unwrap();
    assert!(file.sync().is_err());
    assert!(disk.is_off());
    assert!(file.len().is_err() && disk.read_dir(Path::new("/d")).is_err() && file.write_at(b"b", 0).is_err());
    assert!(disk.open(&path("f"), Access::Read, Io::Buffered).is_err());
    assert_eq!(outcomes(&disk, "f"), absent_zero_or_written(), "the sync never ended");
    let image = disk.image(Survive::Everything);
    assert!(!image.is_off());
    image.create(&path("g"), Io::Buffered).unwrap();
}

#[test]
fn a_write_that_met_the_fault_point_may_have_happened() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.crash_after(0);
    assert!(file.write_at(b"a", 0).is_err());
    assert_eq!(outcomes(&disk, "f"), absent_zero_or_written());
}

/// What may be seen of one unsynced byte: nothing, the length alone, all.
fn absent_zero_or_written() -> BTreeSet<Option<Vec<u8>>> {
    BTreeSet::from([Some(vec![]), Some(vec![0]), Some(b"a".to_vec())])
}

#[test]
fn lengths_are_synced_with_the_bytes() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.allocate(1000).unwrap();
    assert_eq!(file.len().unwrap(), 1000);
    assert_eq!(contents(&disk.image(Survive::Nothing), "f").unwrap().len(), 0);
    file.sync().unwrap();
    file.set_len(10).unwrap();
    let lengths: BTreeSet<_> = outcomes(&disk, "f").into_iter().map(|b| b.unwrap().len()).collect();
    assert_eq!(lengths, BTreeSet::from([10, 1000]));
    file.set_len(20).unwrap();
    assert_eq!(contents(&disk, "f").unwrap(), [0; 20]);
}

#[test]
fn a_full_disk_says_so_and_frees_what_is_removed() {
    let disk = disk();
    disk.set_capacity(Some(10_000));
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    file.allocate(8000).unwrap();
    assert_eq!(disk.space(Path::new("/d")).unwrap(), Space { total: 10_000, free: 2000 });
    file.write_at(&[1; 4000], 0).unwrap();
    let other = disk.create(&path("g"), Io::Buffered).unwrap();
    assert_eq!(other.write_at(&[1; 2001], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(other.allocate(2001).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.remove(&path("f")).unwrap();
    other.write_at(&[1; 9000], 0).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(disk.image(Survive::Everything).space(Path::new("/d")).unwrap().free, 1000);
}

#[test]
fn a_failed_sync_has_lost_the_bytes() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(b"a", 0).unwrap();
    disk.fail_sync();
    assert!(file.sync().is_err());
    assert_eq!(contents(&disk, "f").unwrap(), b"a", "still seen");
    file.sync().unwrap();
    assert_eq!(contents(&disk.image(Survive::Everything), "f").unwrap(), b"", "and yet lost");
    disk.fail_write();
    assert!(file.write_at(b"b", 0).is_err());
    file.write_at(b"b", 0).unwrap();
}

#[test]
fn direct_files_want_alignment_and_readers_do_not_write() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Direct).unwrap();
    assert_eq!(file.write_at(b"abc", 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    file.write_at(&AlignedBuf::zeroed(4096), 4096).unwrap();
    let reader = disk.open(&path("f"), Access::Read, Io::Buffered).unwrap();
    assert_eq!(reader.write_at(b"a", 0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(disk.create(&path("f"), Io::Direct).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.create(Path::new("/e/f"), Io::Direct).unwrap_err().kind(), io::ErrorKind::NotFound);
    let entry = Entry { name: "f".into(), dir: false, len: 8192 };
    assert_eq!(disk.read_dir(Path::new("/d")).unwrap(), vec![entry]);
    assert_eq!(disk.read_dir(Path::new("/")).unwrap()[0].name, "d");
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let disk = disk();
    let file = disk.create(&path("f"), Io::Buffered).unwrap();
    for i in 0..50_u8 {
        file.write_at(&[i; 700], u64::from(i) * 333).unwrap();
    }
    for seed in 0..20 {
        let of = |s| contents(&disk.image(Survive::Random(s)), "f");
        assert_eq!(of(seed), of(seed), "seed {seed}");
    }
}
