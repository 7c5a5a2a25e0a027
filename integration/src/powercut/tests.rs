//! The disk itself: what it shows through the kernel, and what its images hold.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::{Lie, PowerDisk, PowerMount, Survive, Tree};
use crate::sys::Mapping;
use crate::tool::bytes;

/// Runs `work` on a new disk, and gives the disk back.
fn on_a_disk(work: impl FnOnce(&Path)) -> PowerDisk {
    let dir = tempfile::tempdir().unwrap();
    let disk = PowerDisk::default();
    let mount = PowerMount::new(&disk, &dir.path().join("disk")).unwrap();
    work(&mount.path);
    mount.unmount().unwrap();
    disk
}

/// All images at the end that differ in what `path` holds.
fn contents(disk: &PowerDisk, lie: Lie, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    let trace = disk.trace();
    let mut replay = trace.replay(lie);
    replay.advance_to(trace.ops());
    let survive = [Survive::Nothing, Survive::Everything].into_iter().chain((0..60).map(Survive::Random));
    survive.map(|s| replay.image(s).read(path)).collect()
}

fn sync_dir(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

#[test]
fn it_is_a_filesystem() {
    let disk = on_a_disk(|root| {
        let path = root.join("file");
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(&bytes(1, 3_000_000)).unwrap();
        file.write_all_at(b"middle", 5_000).unwrap();
        file.set_len(2_000_000).unwrap();
        file.seek(SeekFrom::Start(1_999_990)).unwrap();
        let mut tail = Vec::new();
        file.read_to_end(&mut tail).unwrap();
        assert_eq!(tail, bytes(1, 3_000_000)[1_999_990..2_000_000]);
        fs::create_dir(root.join("dir")).unwrap();
        fs::rename(&path, root.join("dir/file")).unwrap();
        assert_eq!(fs::read(root.join("dir/file")).unwrap()[5_000..5_006], *b"middle");
        assert!(fs::remove_dir(root.join("dir")).is_err() && File::open(&path).is_err());
        for n in 0..500 {
            fs::write(root.join(format!("dir/many-{n}")), n.to_string()).unwrap();
        }
        assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 501);
        for n in 0..500 {
            fs::remove_file(root.join(format!("dir/many-{n}"))).unwrap();
        }
        // An unlinked file lives on for who has it open.
        fs::remove_file(root.join("dir/file")).unwrap();
        let mut found = [0; 6];
        file.read_exact_at(&mut found, 5_000).unwrap();
        assert_eq!(found, *b"middle");
        fs::remove_dir(root.join("dir")).unwrap();
        // Locks exclude.
        let lock = File::create(root.join("LOCK")).unwrap();
        lock.try_lock().unwrap();
        assert!(File::open(root.join("LOCK")).unwrap().try_lock().is_err());
        assert!(crate::sys::space(root).unwrap().blocks[2] > 1 << 20);
    });
    assert!(disk.ops() > 1000);
}

#[test]
fn direct_mapped_preallocated_and_appended() {
    let disk = on_a_disk(|root| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT);
        let file = options.open(root.join("direct")).unwrap();
        let mut block = dfs_disk::AlignedBuf::zeroed(8192);
        block.copy_from_slice(&bytes(2, 8192));
        file.write_all_at(&block, 4096).unwrap();
        let mut back = dfs_disk::AlignedBuf::zeroed(8192);
        file.read_exact_at(&mut back, 4096).unwrap();
        assert_eq!(&back[..], &block[..]);
        allocate(&file, 0, 100_000);
        assert_eq!(file.metadata().unwrap().len(), 100_000);
        allocate(&file, libc::FALLOC_FL_KEEP_SIZE, 200_000);
        assert_eq!(file.metadata().unwrap().len(), 100_000);

        let mut log = OpenOptions::new().append(true).create(true).open(root.join("log")).unwrap();
        (0..3).for_each(|n| log.write_all(&[n; 100]).unwrap());
        assert_eq!(fs::read(root.join("log")).unwrap()[250], 2);

        let file = OpenOptions::new().read(true).write(true).create_new(true).open(root.join("map")).unwrap();
        file.set_len(8192).unwrap();
        let mut map = Mapping::new(&file, 8192).unwrap();
        map.put(5000, b"mapped");
        map.sync().unwrap();
        sync_dir(root);
    });
    let found = contents(&disk, Lie::None, "map");
    assert!(found.len() == 1 && found.first().unwrap().as_ref().unwrap()[5000..5006] == *b"mapped", "msync is a sync");
    assert!(contents(&disk, Lie::None, "direct").len() > 3, "O_DIRECT is none");
}

#[allow(unsafe_code)]
fn allocate(file: &File, mode: i32, len: i64) {
    // SAFETY: the descriptor is open; no memory is passed.
    assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, len) }, 0);
}

#[test]
fn only_what_was_synced_survives_for_sure() {
    let data = bytes(3, 20_000);
    let disk = on_a_disk(|root| {
        // Synced with its name; then written to again.
        let both = File::create(root.join("both")).unwrap();
        both.write_all_at(&data, 0).unwrap();
        both.sync_data().unwrap();
        sync_dir(root);
        both.write_all_at(&[7; 6000], 3000).unwrap();
        // The name is not synced, the bytes are.
        let nameless = File::create(root.join("nameless")).unwrap();
        nameless.write_all_at(&data, 0).unwrap();
        nameless.sync_all().unwrap();
    });
    let found = contents(&disk, Lie::None, "nameless");
    assert_eq!(found, BTreeSet::from([None, Some(data.clone())]));
    let found = contents(&disk, Lie::None, "both");
    assert!(found.len() > 10 && found.contains(&Some(data.clone())));
    for image in found {
        let image = image.expect("its name is synced");
        assert_eq!((image.len(), &image[..2560], &image[9216..]), (data.len(), &data[..2560], &data[9216..]));
        assert!(image[3000..9000].iter().zip(&data[3000..9000]).all(|(i, d)| *i == 7 || i == d));
    }
    // A disk that lies keeps less.
    assert!(contents(&disk, Lie::Files, "both").iter().flatten().any(|image| image.len() < data.len()));
    assert!(contents(&disk, Lie::Dirs, "both").contains(&None));
    assert_eq!(contents(&disk, Lie::FilesLike("another"), "nameless").len(), 2);
}

#[test]
fn a_new_file_of_rocksdb_is_synced_with_its_name() {
    let disk = on_a_disk(|root| {
        fs::create_dir(root.join("kv")).unwrap();
        sync_dir(root);
        let file = File::create(root.join("kv/MANIFEST")).unwrap();
        file.write_all_at(b"content", 0).unwrap();
        file.sync_all().unwrap();
        fs::write(root.join("kv/unsynced"), "content").unwrap();
    });
    assert_eq!(contents(&disk, Lie::None, "kv/MANIFEST"), BTreeSet::from([Some(b"content".to_vec())]));
    assert!(contents(&disk, Lie::None, "kv/unsynced").contains(&None));
}

#[test]
fn a_rename_happens_wholly_or_not_at_all() {
    let disk = on_a_disk(|root| {
        for name in ["old", "new"] {
            let file = File::create(root.join(name)).unwrap();
            file.write_all_at(name.as_bytes(), 0).unwrap();
            file.sync_all().unwrap();
        }
        sync_dir(root);
        fs::rename(root.join("old"), root.join("new")).unwrap();
    });
    let trace = disk.trace();
    let mut replay = trace.replay(Lie::None);
    replay.advance_to(trace.ops());
    let seen: BTreeSet<_> =
        (0..40).map(|n| replay.image(Survive::Random(n))).map(|i| (i.read("old"), i.read("new"))).collect();
    let text = |s: &str| Some(s.as_bytes().to_vec());
    assert_eq!(seen, BTreeSet::from([(None, text("old")), (text("old"), text("new"))]));
}

#[test]
fn a_synced_rename_takes_the_old_name_along() {
    let disk = on_a_disk(|root| {
        fs::create_dir(root.join("tmp")).unwrap();
        sync_dir(root);
        fs::write(root.join("tmp/first"), "content").unwrap();
        File::open(root.join("tmp/first")).unwrap().sync_all().unwrap();
        fs::rename(root.join("tmp/first"), root.join("tmp/second")).unwrap();
        fs::rename(root.join("tmp/second"), root.join("third")).unwrap();
        // Only the directory that the last of these went to.
        sync_dir(root);
    });
    for name in ["tmp/first", "tmp/second"] {
        assert_eq!(contents(&disk, Lie::None, name), BTreeSet::from([None]), "{name}");
    }
    assert_eq!(contents(&disk, Lie::None, "third"), BTreeSet::from([Some(b"content".to_vec())]));
}

#[test]
fn after_the_cut_nothing_works_and_the_image_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = PowerDisk::default();
    let mount = PowerMount::new(&disk, &dir.path().join("disk")).unwrap();
    let file = File::create(mount.path.join("file")).unwrap();
    file.write_all_at(b"first", 0).unwrap();
    file.sync_all().unwrap();
    sync_dir(&mount.path);
    let ops = disk.ops();
    disk.cut();
    assert!(file.write_all_at(b"second", 0).is_err() && file.sync_all().is_err());
    assert!(File::create(mount.path.join("another")).is_err());
    drop(file);
    mount.unmount().unwrap();
    assert_eq!(disk.ops(), ops);
    let trace = disk.trace();
    let mut replay = trace.replay(Lie::None);
    replay.advance_to(ops);
    let image: Tree = replay.image(Survive::Nothing);
    assert_eq!(image.files(), 1);
    let next = PowerDisk::holding(image);
    let mount = PowerMount::new(&next, &dir.path().join("disk")).unwrap();
    assert_eq!(fs::read(mount.path.join("file")).unwrap(), b"first");
    fs::write(mount.path.join("another"), "more").unwrap();
    mount.unmount().unwrap();
    assert_eq!(contents(&next, Lie::None, "file").len(), 1);
}
