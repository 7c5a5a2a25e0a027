//! copy_file_range and `dfs clone`: bytes, holes, times, limits, and that no data moves.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::sys::{self, copy_range, data_ranges};
use dfs_integration::tool::{bytes, seed, sh};
use libc::{EBADF, EFBIG, EINVAL, EISDIR};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{Scene, as_nobody, fails};

fn open(scene: &Scene, name: &str) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(scene.path(name))?)
}

/// Bytes of the stores' files.
fn on_disk(scene: &Scene) -> Result<u64> {
    let used = sh(scene.cluster.dir(), "du -s --block-size=1 chunkd-1 | cut -f1")?;
    Ok(used.trim().parse()?)
}

/// docs/semantics.md: "`copy_file_range` within one mount moves no data".
/// docs/semantics.md: "clones that share bytes each count them".
/// docs/semantics.md: "`cp` and `cp --reflink=auto` use it".
#[test]
fn a_copy_of_a_big_file_moves_no_data() -> Result<()> {
    const LEN: usize = 200 << 20;
    let mut scene = Scene::new()?;
    let content = bytes(5, LEN);
    fs::write(scene.path("big"), &content)?;
    File::open(scene.path("big"))?.sync_all()?;
    let before = on_disk(&scene)?;
    let started = Instant::now();
    sh(&scene.mount.path, "cp big copy && cp --reflink=auto --sparse=auto big again")?;
    // Moved, it would take some seconds.
    ensure!(started.elapsed() < Duration::from_millis(1500), "two copies took {:?}", started.elapsed());
    File::open(scene.path("copy"))?.sync_all()?;
    ensure!(on_disk(&scene)? < before + (1 << 20), "the stores have grown");
    assert_eq!(fs::metadata(scene.path("copy"))?.blocks(), (LEN / 512) as u64);
    assert!(fs::read(scene.path("copy"))? == content);
    // Each of the two goes on alone.
    open(&scene, "big")?.write_all_at(b"changed", 1000)?;
    fs::remove_file(scene.path("again"))?;
    scene.remount()?;
    assert!(fs::read(scene.path("copy"))? == content);
    fs::remove_file(scene.path("big"))?;
    assert!(fs::read(scene.path("copy"))? == content);
    scene.finish()
}

/// Writes, copies of any alignment within and between files, cuts and syncs, against arrays of bytes.
/// docs/semantics.md: "whatever the alignment, also within one file".
/// docs/semantics.md: "Unsaved bytes of both files are saved first".
#[test]
fn copies_of_any_alignment_between_saved_and_unsaved_bytes() -> Result<()> {
    const MOST: usize = 400_000;
    let mut scene = Scene::new()?;
    let mut rng = StdRng::seed_from_u64(seed());
    let files = [open(&scene, "f0")?, open(&scene, "f1")?, open(&scene, "f2")?];
    let mut models = [const { Vec::<u8>::new() }; 3];
    for step in 0..600 {
        let (n, at) = (rng.random_range(0..3), rng.random_range(0..MOST));
        let most = if rng.random() { 3000 } else { 150_000 };
        let len = rng.random_range(1..=most);
        match rng.random_range(0..20) {
            0..7 => {
                let data = bytes(step, len);
                files[n].write_all_at(&data, at as u64)?;
                let size = models[n].len().max(at + len);
                models[n].resize(size, 0);
                models[n][at..at + len].copy_from_slice(&data);
            }
            7..15 => {
                let (m, to) = (rng.random_range(0..3), rng.random_range(0..MOST));
                let copied = copy_range((&files[n], at as u64), (&files[m], to as u64), len);
                let bytes = models[n].get(at..models[n].len().min(at + len)).unwrap_or_default().to_vec();
                if n == m && at.abs_diff(to) < len && (at < models[n].len() || copied.is_err()) {
                    // The kernel shortens at the end of the file before it looks whether ranges overlap.
                    if at.abs_diff(to) < bytes.len() {
                        fails(copied, EINVAL);
                        continue;
                    }
                }
                ensure!(copied? == bytes.len() as u64, "step {step}");
                if !bytes.is_empty() {
                    let size = models[m].len().max(to + bytes.len());
                    models[m].resize(size, 0);
                    models[m][to..to + bytes.len()].copy_from_slice(&bytes);
                }
            }
            15 => {
                files[n].set_len(at as u64)?;
                models[n].resize(at, 0);
            }
            16 => files[n].sync_data()?,
            _ => {
                let mut found = vec![0; len];
                let count = files[n].read_at(&mut found, at as u64)?;
                let expected = models[n].get(at..models[n].len().min(at + len)).unwrap_or_default();
                ensure!(found[..count] == *expected, "step {step}: f{n} at {at}");
            }
        }
        ensure!(files[n].metadata()?.len() == models[n].len() as u64, "step {step}: length of f{n}");
    }
    drop(files);
    for round in 0..2 {
        for (n, model) in models.iter().enumerate() {
            ensure!(fs::read(scene.path(format!("f{n}")))? == *model, "f{n} in round {round}");
        }
        scene.remount()?;
    }
    scene.finish()
}

/// docs/semantics.md: "the extents are copied, holes as holes".
/// docs/semantics.md: "Who is not root loses setuid and setgid of a file by these calls".
#[test]
fn holes_times_rights_and_refusals() -> Result<()> {
    let scene = Scene::new()?;
    let source = open(&scene, "source")?;
    source.write_all_at(&bytes(1, 10_000), 50_000)?;
    source.set_len(100_000)?;
    let target = open(&scene, "target")?;
    let before = target.metadata()?;
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(copy_range((&source, 0), (&target, 1), 1 << 20)?, 100_000);
    let after = target.metadata()?;
    assert_eq!(after.len(), 100_001);
    ensure!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()), "mtime");
    ensure!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()), "ctime");
    assert_eq!(data_ranges(&target)?, [(50_001, 60_001)]);
    assert_eq!(after.blocks(), 20);
    // At and beyond the end of the source nothing is copied, and nothing changes.
    assert_eq!(copy_range((&source, 100_000), (&target, 0), 10)?, 0);
    assert_eq!(target.metadata()?.mtime_nsec(), after.mtime_nsec());
    fails(copy_range((&source, 0), (&source, 5000), 5001), EINVAL);
    assert_eq!(copy_range((&source, 50_000), (&source, 60_000), 10_000)?, 10_000);
    fails(copy_range((&source, 50_000), (&target, (16 << 40) - 10), 11), EFBIG);
    let append = OpenOptions::new().append(true).open(scene.path("target"))?;
    fails(copy_range((&source, 0), (&append, 0), 10), EBADF);
    fails(copy_range((&source, 0), (&File::open(scene.path("target"))?, 0), 10), EBADF);
    let directory = File::open(&scene.mount.path)?;
    fails(copy_range((&directory, 0), (&target, 0), 10), EISDIR);
    // Who has no rights takes setuid and setgid away, as with a write.
    fs::set_permissions(scene.path("target"), Permissions::from_mode(0o6777))?;
    fs::set_permissions(scene.path("source"), Permissions::from_mode(0o644))?;
    let script = "import os; s = os.open('source', os.O_RDONLY); t = os.open('target', os.O_WRONLY)\n\
        assert os.copy_file_range(s, t, 10) == 10";
    as_nobody(&scene.mount.path, &format!("python3 -c \"{script}\""))?;
    assert_eq!(fs::metadata(scene.path("target"))?.mode() & 0o7777, 0o777);
    drop((source, target, append, directory));
    scene.finish()
}

#[test]
fn very_many_extents_are_copied_in_steps() -> Result<()> {
    const PIECES: u64 = 9000;
    let mut scene = Scene::new()?;
    let source = open(&scene, "source")?;
    for n in 0..PIECES {
        source.write_all_at(&[n as u8; 10], n * 100)?;
    }
    let target = open(&scene, "target")?;
    let len = source.metadata()?.len();
    assert_eq!(copy_range((&source, 0), (&target, 7), 1 << 30)?, len);
    drop((source, target));
    scene.remount()?;
    let (source, target) = (fs::read(scene.path("source"))?, fs::read(scene.path("target"))?);
    assert!(target[..7] == [0; 7] && target[7..] == source);
    let target = open(&scene, "target")?;
    assert_eq!(data_ranges(&target)?.len() as u64, PIECES);
    drop(target);
    scene.finish()
}

/// docs/semantics.md: "`dfs clone SRC DST` does so for a file or a tree".
/// docs/semantics.md: "modes, owners, times, extended attributes".
/// docs/semantics.md: "hard links inside the tree, symlinks and special files are kept".
#[test]
fn a_clone_of_a_tree_is_like_its_original() -> Result<()> {
    let mut scene = Scene::new()?;
    sh(
        &scene.mount.path,
        "mkdir -p a/d/e; for n in $(seq 60); do head -c $((n * 1777)) /dev/urandom > a/d/f$n; done; \
         truncate -s 1T a/sparse; echo end >> a/sparse; ln a/d/f3 a/d/e/again; mkfifo a/pipe; mknod a/zero c 1 5; \
         chown 1000:1001 a/d/f4; chmod 6751 a/d/f4; chmod 1777 a/d/e; \
         touch -d '2001-01-01 01:01:01.123456789' a/d/f6 a/d a",
    )?;
    symlink("nowhere", scene.path("a/link"))?;
    sys::set_xattr(&scene.path("a/d"), "user.note", b"on a directory", 0)?;
    let (a, b) = (scene.path("a"), scene.path("b"));
    let clone = |from: &std::path::Path, to: &std::path::Path| {
        scene.cluster.dfs(&["clone", &from.display().to_string(), &to.display().to_string(), "--json"])
    };
    let out = clone(&a, &b)?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout)?;
    ensure!(text.contains("\"files\": 61") && text.contains("\"directories\": 3"), "{text}");
    // Names, kinds, rights, owners, sizes, times, numbers of links and of blocks.
    let list = "find . -printf '%p %y %m %U %G %s %T@ %n %b %l\\n' | sort";
    sh(&scene.mount.path, &format!("diff <(cd a && {list}) <(cd b && {list})"))?;
    sh(&scene.mount.path, "diff -r --no-dereference a/d b/d && [ b/d/f3 -ef b/d/e/again ]")?;
    assert_eq!(sys::get_xattr(&b.join("d"), "user.note", 100)?.1, b"on a directory");
    assert_eq!(data_ranges(&File::open(b.join("sparse"))?)?.len(), 1);
    // One file; a name that is taken; a place elsewhere; a place inside.
    ensure!(clone(&a.join("d/f7"), &scene.path("f7"))?.status.success());
    assert!(fs::read(scene.path("f7"))? == fs::read(a.join("d/f7"))?);
    for (from, to, why) in [
        (&a, &b, "exists already"),
        (&a, &scene.cluster.dir().join("elsewhere"), "is not: a clone shares bytes within one mount"),
        (&a, &a.join("d/inside"), "lies inside"),
        (&scene.cluster.dir().join("metad"), &scene.path("x"), "not on a mount"),
    ] {
        let out = clone(from, to)?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.code() == Some(1) && text.contains(why), "{text}");
    }
    let left: Vec<_> = fs::read_dir(&scene.mount.path)?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    ensure!(left.len() == 3, "{left:?}");
    scene.remount()?;
    sh(&scene.mount.path, "diff -r --no-dereference a/d b/d")?;
    scene.finish()
}

#[test]
fn a_copy_into_a_synchronous_file_is_durable_when_it_returns() -> Result<()> {
    const LENS: [usize; 3] = [3_000, 300_000, 3 << 20];
    let mut scene = Scene::new()?;
    for whole_mount in [false, true] {
        if whole_mount {
            scene.mount.unmount()?;
            scene.mount = scene.cluster.mount_with("mnt", &["-o", "sync"])?;
        }
        let mut held = Vec::new();
        for (n, len) in LENS.into_iter().enumerate() {
            // Not saved yet, where it may be.
            fs::write(scene.path(format!("from{n}")), bytes(n as u64, len))?;
            let flags = [libc::O_SYNC, libc::O_DSYNC][n % 2];
            let from = File::open(scene.path(format!("from{n}")))?;
            let flags = if whole_mount { 0 } else { flags };
            let to = scene.path(format!("to{n}"));
            let to = OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags).open(to)?;
            let mut done = 0;
            while done < len {
                done += usize::try_from(copy_range((&from, done as u64), (&to, done as u64), len - done)?)?;
            }
            held.push(to);
        }
        scene.crash()?;
        drop(held);
        for (n, len) in LENS.into_iter().enumerate() {
            let copy = scene.path(format!("to{n}"));
            ensure!(fs::read(&copy)? == bytes(n as u64, len), "{n}, sync mount: {whole_mount}");
            fs::remove_file(copy)?;
        }
    }
    scene.finish()
}

/// docs/semantics.md: "`DST` appears at once and whole".
#[test]
fn a_clone_is_whole_after_a_crash_once_the_command_has_returned() -> Result<()> {
    let mut scene = Scene::new()?;
    // Small files are copied as if they were written, and one is such that its owner may not write to it.
    sh(
        &scene.mount.path,
        "mkdir -m 777 place; mkdir place/a; for n in $(seq 50); do echo $n > place/a/$n; done; \
         setfattr -n user.note -v kept place/a/7; chmod 444 place/a/7; chown -R 65534:65534 place/a; sync place",
    )?;
    // Where nobody may execute it.
    fs::copy(dfs_integration::daemon::binary("dfs"), scene.path("place/dfs"))?;
    super::as_nobody(&scene.path("place"), "./dfs clone a b")?;
    scene.crash()?;
    sh(
        &scene.mount.path,
        "diff -r place/a place/b; getfattr -n user.note place/b/7; test $(stat -c %a place/b/7) = 444",
    )?;
    scene.finish()
}
