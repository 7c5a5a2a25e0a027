//! Attributes: link counts, times, extended attributes, space.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::sys;
use dfs_integration::tool::{bytes, sh};
use libc::{E2BIG, EEXIST, ENODATA, ENOSPC, ENOTEMPTY, EPERM, ERANGE, XATTR_CREATE, XATTR_REPLACE};

use crate::{Scene, fails};

#[test]
fn a_directory_counts_its_subdirectories() -> Result<()> {
    let scene = Scene::new()?;
    let at = |name: &str| scene.path(name);
    let links = |name: &str| fs::metadata(at(name)).map(|m| m.nlink());
    fs::create_dir(at("d"))?;
    fs::create_dir(at("e"))?;
    assert_eq!(links("d")?, 2);
    for n in 0..5 {
        fs::create_dir(at(&format!("d/s{n}")))?;
        fs::write(at(&format!("d/f{n}")), "")?;
    }
    assert_eq!(links("d")?, 7);
    fs::rename(at("d/s0"), at("e/s0"))?;
    assert_eq!((links("d")?, links("e")?), (6, 3));
    fs::rename(at("d/s1"), at("d/s2"))?;
    assert_eq!(links("d")?, 5);
    fs::remove_dir(at("d/s3"))?;
    assert_eq!(links("d")?, 4);
    fails(fs::remove_dir(at("d")), ENOTEMPTY);
    let root = links("")?;
    fs::rename(at("e/s0"), at("s0"))?;
    assert_eq!((links("")?, links("e")?), (root + 1, 2));
    scene.finish()
}

#[test]
fn special_files_are_what_they_were_made() -> Result<()> {
    let mut scene = Scene::new()?;
    let device = libc::makedev(300, 70_000);
    sys::mknod(&scene.path("pipe"), libc::S_IFIFO | 0o640, 0)?;
    sys::mknod(&scene.path("socket"), libc::S_IFSOCK | 0o600, 0)?;
    sys::mknod(&scene.path("char"), libc::S_IFCHR | 0o600, device)?;
    sys::mknod(&scene.path("block"), libc::S_IFBLK | 0o600, device)?;
    for _ in 0..2 {
        let of = |name: &str| fs::symlink_metadata(scene.path(name));
        assert!(of("pipe")?.file_type().is_fifo() && of("pipe")?.mode() & 0o7777 == 0o640);
        assert!(of("socket")?.file_type().is_socket());
        assert!(of("char")?.file_type().is_char_device() && of("char")?.rdev() == device);
        assert!(of("block")?.file_type().is_block_device() && of("block")?.rdev() == device);
        scene.remount()?;
    }
    scene.finish()
}

/// docs/semantics.md: "Nanosecond timestamps".
#[test]
fn times_of_any_century_keep_their_nanoseconds() -> Result<()> {
    let mut scene = Scene::new()?;
    let times = [
        (0, 0),
        (-1, 999_999_999),
        (-2_208_988_800, 1),
        (1_000_000_000, 123_456_789),
        (2_147_483_648, 1),
        (4_294_967_296, 999_999_999),
        (32_503_680_000, 5),
    ];
    for (n, time) in times.into_iter().enumerate() {
        fs::write(scene.path(format!("f{n}")), "unsaved")?;
        sys::set_times(&scene.path(format!("f{n}")), (time.0 + 7, time.1), time)?;
    }
    symlink("nowhere", scene.path("link"))?;
    sys::set_times(&scene.path("link"), (5, 6), (7, 8))?;
    for round in 0..2 {
        for (n, time) in times.into_iter().enumerate() {
            let of = fs::metadata(scene.path(format!("f{n}")))?;
            assert_eq!((of.mtime(), of.mtime_nsec()), time, "mtime, round {round}");
            assert_eq!((of.atime(), of.atime_nsec()), (time.0 + 7, time.1), "atime, round {round}");
        }
        let of = fs::symlink_metadata(scene.path("link"))?;
        assert_eq!((of.atime(), of.atime_nsec(), of.mtime(), of.mtime_nsec()), (5, 6, 7, 8));
        scene.remount()?;
    }
    // One alone, and now.
    let path = scene.path("f3");
    sys::set_times(&path, (11, 12), (0, libc::UTIME_OMIT))?;
    let of = fs::metadata(&path)?;
    assert_eq!((of.atime(), of.atime_nsec(), of.mtime(), of.mtime_nsec()), (11, 12, times[3].0, times[3].1));
    sys::set_times(&path, (0, libc::UTIME_OMIT), (0, libc::UTIME_NOW))?;
    let of = fs::metadata(&path)?;
    assert!((of.ctime() - of.mtime()).abs() <= 1 && of.atime() == 11);
    scene.finish()
}

/// Make, rsync and git trust that these do not move by themselves.
#[test]
fn times_do_not_move_when_data_is_saved_later() -> Result<()> {
    let mut scene = Scene::new()?;
    let stamp = |m: &fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    fs::write(scene.path("plain"), bytes(1, 100_000))?;
    fs::write(scene.path("dated"), bytes(2, 100_000))?;
    sys::set_times(&scene.path("dated"), (1000, 1), (2000, 2))?;
    let mut held = File::create(scene.path("held"))?;
    held.write_all(&bytes(3, 5_000_000))?;
    sys::set_times(&scene.path("held"), (1000, 1), (2000, 2))?;
    let names = ["plain", "dated", "held"];
    let look = |scene: &Scene| -> Result<Vec<_>> {
        names.iter().map(|name| Ok(stamp(&fs::metadata(scene.path(name))?))).collect()
    };
    let before = look(&scene)?;
    assert_eq!(before[1].1, 2000);
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(look(&scene)?, before, "after saving in the background");
    held.sync_all()?;
    drop(held);
    assert_eq!(look(&scene)?, before, "after fsync and close");
    scene.remount()?;
    assert_eq!(look(&scene)?, before, "after a remount");
    // A write does move them, at once.
    OpenOptions::new().append(true).open(scene.path("dated"))?.write_all(b"x")?;
    let after = stamp(&fs::metadata(scene.path("dated"))?);
    assert!(after.1 > 2000 && after.0 == 100_001 && (after.3, after.4) > (before[1].3, before[1].4));
    scene.finish()
}

/// docs/semantics.md: "`relatime`; atime is saved lazily".
#[test]
fn reading_moves_an_access_time_that_is_older_than_the_content() -> Result<()> {
    let mut scene = Scene::new()?;
    let path = scene.path("file");
    fs::write(&path, "content")?;
    sys::set_times(&path, (1000, 0), (2000, 0))?;
    scene.remount()?;
    fs::read(&path)?;
    let until = Instant::now() + Duration::from_secs(3);
    while fs::metadata(&path)?.atime() <= 2000 {
        ensure!(Instant::now() < until, "atime stays at {}", fs::metadata(&path)?.atime());
        std::thread::sleep(Duration::from_millis(100));
    }
    let read_at = fs::metadata(&path)?.atime();
    scene.remount()?;
    assert_eq!(fs::metadata(&path)?.atime(), read_at, "saved at the end at the latest");
    assert_eq!(fs::metadata(&path)?.mtime(), 2000);
    scene.finish()
}

/// docs/semantics.md: "not moved by reads at all with `-o noatime`".
#[test]
fn with_noatime_reading_moves_no_access_time() -> Result<()> {
    let mut scene = Scene::new()?;
    let path = scene.path("file");
    fs::write(&path, "content")?;
    sys::set_times(&path, (1000, 0), (2000, 0))?;
    scene.mount.unmount()?;
    scene.mount = scene.cluster.mount_with("mnt", &["-o", "noatime"])?;
    fs::read(&path)?;
    std::thread::sleep(Duration::from_millis(1500));
    scene.remount()?;
    assert_eq!(fs::metadata(&path)?.atime(), 1000);
    // One opened so asks for the same.
    let quiet = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(&path)?;
    std::io::read_to_string(quiet)?;
    std::thread::sleep(Duration::from_millis(1500));
    scene.remount()?;
    assert_eq!(fs::metadata(&path)?.atime(), 1000);
    scene.finish()
}

/// docs/semantics.md: "name 255 bytes, value 64 KiB".
#[test]
fn extended_attributes() -> Result<()> {
    let mut scene = Scene::new()?;
    let file = scene.path("file");
    fs::write(&file, "x")?;
    fs::create_dir(scene.path("dir"))?;
    symlink("x", scene.path("link"))?;
    let before = fs::metadata(&file)?;
    let big = bytes(1, 65_536);
    sys::set_xattr(&file, "user.a", b"1", XATTR_CREATE)?;
    fails(sys::set_xattr(&file, "user.a", b"2", XATTR_CREATE), EEXIST);
    fails(sys::set_xattr(&file, "user.none", b"2", XATTR_REPLACE), ENODATA);
    sys::set_xattr(&file, "user.a", b"other\0bytes\xff", XATTR_REPLACE)?;
    sys::set_xattr(&file, "user.empty", b"", 0)?;
    sys::set_xattr(&file, "user.big", &big, 0)?;
    fails(sys::set_xattr(&file, "user.bigger", &bytes(1, 65_537), 0), E2BIG);
    let long = format!("user.{}", "n".repeat(250));
    sys::set_xattr(&file, &long, b"long", 0)?;
    fails(sys::set_xattr(&file, &format!("{long}n"), b"", 0), ERANGE);
    sys::set_xattr(&scene.path("dir"), "user.d", b"d", 0)?;
    sys::set_xattr(&file, "trusted.t", b"t", 0)?;
    sys::set_xattr(&scene.path("link"), "trusted.l", b"l", 0)?;
    fails(sys::set_xattr(&scene.path("link"), "user.l", b"l", 0), EPERM);
    let after = fs::metadata(&file)?;
    assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
    assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));

    for _ in 0..2 {
        let (file, link, dir) = (scene.path("file"), scene.path("link"), scene.path("dir"));
        assert_eq!(sys::get_xattr(&file, "user.a", 100)?.1, b"other\0bytes\xff");
        assert_eq!(sys::get_xattr(&file, "user.a", 0)?.0, 12);
        fails(sys::get_xattr(&file, "user.a", 11), ERANGE);
        assert_eq!(sys::get_xattr(&file, "user.empty", 10)?, (0, vec![]));
        assert!(sys::get_xattr(&file, "user.big", 65_536)?.1 == big);
        fails(sys::get_xattr(&file, "user.none", 10), ENODATA);
        assert_eq!(sys::get_xattr(&file, &long, 10)?.1, b"long");
        assert_eq!(sys::get_xattr(&link, "trusted.l", 10)?.1, b"l");
        assert_eq!(sys::get_xattr(&dir, "user.d", 10)?.1, b"d");
        let (len, list) = sys::list_xattr(&file, 1000)?;
        let mut names: Vec<&[u8]> = list.split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        names.sort_unstable();
        assert_eq!(names, [b"trusted.t".as_slice(), b"user.a", b"user.big", b"user.empty", long.as_bytes()]);
        assert_eq!(sys::list_xattr(&file, 0)?.0, len);
        fails(sys::list_xattr(&file, len - 1), ERANGE);
        scene.remount()?;
    }
    sys::remove_xattr(&file, "user.a")?;
    fails(sys::remove_xattr(&file, "user.a"), ENODATA);
    fails(sys::get_xattr(&file, "user.a", 100), ENODATA);
    scene.finish()
}

#[test]
fn names_of_extended_attributes_have_room_for_64_kib() -> Result<()> {
    let scene = Scene::new()?;
    let file = scene.path("file");
    fs::write(&file, "x")?;
    let mut kept = 0;
    let refused = loop {
        match sys::set_xattr(&file, &format!("user.{kept:0>245}"), b"v", 0) {
            Ok(()) => kept += 1,
            Err(e) => break e,
        }
        assert!(kept < 300, "no limit");
    };
    assert!(matches!(refused.raw_os_error(), Some(ENOSPC | E2BIG)), "{refused}");
    assert!(kept >= 255, "only {kept}");
    let (_, list) = sys::list_xattr(&file, 65_536)?;
    assert_eq!(list.split(|b| *b == 0).filter(|n| !n.is_empty()).count(), kept);
    // What is there can still be replaced, and taken away for others.
    sys::set_xattr(&file, &format!("user.{:0>245}", 0), b"w", XATTR_REPLACE)?;
    sys::remove_xattr(&file, &format!("user.{:0>245}", 1))?;
    sys::set_xattr(&file, "user.other", b"v", XATTR_CREATE)?;
    fs::remove_file(&file)?;
    scene.finish()
}

#[test]
fn statfs_is_believable() -> Result<()> {
    let scene = Scene::new()?;
    let before = sys::space(&scene.mount.path)?;
    let [blocks, free, available] = before.blocks;
    assert!(before.block.is_power_of_two() && (512..=1 << 20).contains(&before.block), "{before:?}");
    assert!(blocks > 0 && free <= blocks && available <= free && available > 0, "{before:?}");
    assert!(before.inodes[0] > before.inodes[1] && before.inodes[1] > 1_000_000, "{before:?}");
    assert_eq!(before.name, 255);
    // Three nodes share one disk here, so copies cannot exceed it.
    let disk = sys::space(scene.cluster.dir())?;
    assert!(blocks * before.block <= disk.blocks[0] * disk.block * 3, "{before:?} on {disk:?}");
    for n in 0..50 {
        fs::write(scene.path(format!("f{n}")), "x")?;
    }
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = sys::space(&scene.mount.path)?;
        let used = |s: &sys::Space| s.inodes[0] - s.inodes[1];
        if used(&now) == used(&before) + 50 {
            break;
        }
        ensure!(Instant::now() < until, "{before:?}, and with 50 files more {now:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut text = String::new();
    File::open(scene.path("f7"))?.read_to_string(&mut text)?;
    assert_eq!(text, "x");
    scene.finish()
}

/// docs/semantics.md: "The time of birth (`dfs stat`) stays".
#[test]
fn the_time_of_birth_stays() -> Result<()> {
    let mut scene = Scene::new()?;
    let born = |scene: &Scene, name: &str| -> Result<String> {
        let out = scene.cluster.dfs(&["stat", "--json", &scene.path(name).display().to_string()])?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let stat: serde_json::Value = serde_json::from_slice(&out.stdout)?;
        Ok(stat["btime"].to_string())
    };
    fs::write(scene.path("file"), "content")?;
    let at = born(&scene, "file")?;
    ensure!(at.len() > 10 && at != "null", "{at}");
    sh(
        &scene.mount.path,
        "echo more >> file; sync file; chmod 600 file; chown 1:1 file; touch -d 2001-01-01 file; truncate -s 3 file; \
         setfattr -n user.x -v 1 file; ln file again; rm again; mv file moved",
    )?;
    assert_eq!(born(&scene, "moved")?, at);
    scene.crash()?;
    assert_eq!(born(&scene, "moved")?, at);
    // A copy is a file of its own.
    sh(&scene.mount.path, "cp -a moved copy")?;
    assert_ne!(born(&scene, "copy")?, at);
    scene.finish()
}
