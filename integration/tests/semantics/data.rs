//! Bytes: holes, sizes, mappings, many writers, and what fsync means.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_integration::sys::{Mapping, write_with};
use dfs_integration::tool::{bytes, seed};
use libc::{EBADF, EFBIG, EINVAL, EISDIR};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{Scene, fails};

fn rewritable(scene: &Scene, name: &str) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(scene.path(name))?)
}

/// docs/semantics.md: "What was never written is a hole: it reads as zeros".
#[test]
fn truncation_leaves_zeros_where_nothing_was_written() -> Result<()> {
    let mut scene = Scene::new()?;
    // Unsaved, saved, and saved in part before it is cut.
    for (name, sync_before, sync_after) in [("a", false, false), ("b", true, false), ("c", true, true)] {
        let file = rewritable(&scene, name)?;
        let mut model = bytes(1, 300_000);
        file.write_all_at(&model, 0)?;
        if sync_before {
            file.sync_all()?;
        }
        for (n, len) in [100_001, 250_000, 99, 0, 70_000, 69_999, 150_000].into_iter().enumerate() {
            file.set_len(len)?;
            model.resize(usize::try_from(len)?, 0);
            if sync_after {
                file.sync_data()?;
            }
            assert_eq!(file.metadata()?.len(), len);
            assert!(fs::read(scene.path(name))? == model, "{name} at {len}");
            if n % 2 == 0 && len > 50 {
                // A few bytes at the new end, so that the next cut has something to cut.
                file.write_all_at(b"new end", len - 5)?;
                model.resize(usize::try_from(len)? + 2, 0);
                model[usize::try_from(len)? - 5..].copy_from_slice(b"new end");
                assert!(fs::read(scene.path(name))? == model, "{name} at {len}, written");
            }
        }
        // Far behind the end.
        file.write_all_at(b"far", 1_000_000)?;
        model.resize(1_000_000, 0);
        model.extend(b"far");
        assert!(fs::read(scene.path(name))? == model, "{name} with a hole");
        drop(file);
        scene.remount()?;
        assert!(fs::read(scene.path(name))? == model, "{name} after a remount");
    }
    scene.finish()
}

/// docs/semantics.md: "it reads as zeros and takes no room".
/// docs/semantics.md: "file | 16 TiB".
#[test]
fn a_terabyte_of_holes() -> Result<()> {
    const GIB: u64 = 1 << 30;
    let mut scene = Scene::new()?;
    let file = rewritable(&scene, "sparse")?;
    file.set_len(1024 * GIB)?;
    let data = bytes(1, 100_000);
    let places = [0, 500 * GIB + 12_345, 1024 * GIB - 100_000];
    for at in places {
        file.write_all_at(&data, at)?;
    }
    file.sync_all()?;
    let written = data.len() as u64 * 3;
    let check = |scene: &Scene, len: u64, places: &[u64]| -> Result<()> {
        let file = File::open(scene.path("sparse"))?;
        let meta = file.metadata()?;
        ensure!(meta.len() == len);
        let expected = data.len() as u64 * places.len() as u64;
        let used = meta.blocks() * 512;
        ensure!((expected..expected + (64 << 10)).contains(&used), "{used} bytes are used for {expected}");
        for at in places {
            let mut around = vec![1; data.len() + 2000];
            let from = at.saturating_sub(1000);
            let count = file.read_at(&mut around, from)?;
            ensure!(count as u64 == (around.len() as u64).min(len - from), "short read of {count} at {from}");
            let start = usize::try_from(at - from)?;
            ensure!(around[..start].iter().all(|b| *b == 0), "zeros before {at}");
            ensure!(around[start..start + data.len()] == data, "data at {at}");
            ensure!(around[start + data.len()..count].iter().all(|b| *b == 0), "zeros after {at}");
        }
        let mut hole = vec![1; 1 << 20];
        file.read_exact_at(&mut hole, 300 * GIB)?;
        ensure!(hole.iter().all(|b| *b == 0));
        Ok(())
    };
    assert_eq!(written, 300_000);
    check(&scene, 1024 * GIB, &places)?;
    drop(file);
    scene.remount()?;
    check(&scene, 1024 * GIB, &places)?;
    let file = rewritable(&scene, "sparse")?;
    file.set_len(600 * GIB)?;
    file.set_len(1024 * GIB)?;
    drop(file);
    check(&scene, 1024 * GIB, &places[..2])?;
    // The largest file there may be, and beyond.
    let file = rewritable(&scene, "largest")?;
    file.set_len(16 << 40)?;
    fails(file.set_len((16 << 40) + 1), EFBIG);
    file.write_all_at(b"end", (16 << 40) - 3)?;
    fails(file.write_at(b"x", 16 << 40), EFBIG);
    drop(file);
    scene.remount()?;
    let mut end = [0; 10];
    assert_eq!(File::open(scene.path("largest"))?.read_at(&mut end, (16 << 40) - 5)?, 5);
    assert_eq!(&end[..5], b"\0\0end");
    scene.finish()
}

/// Threads that write to ranges of their own, mixed within each page, over the border of two cuts.
#[test]
fn random_writes_of_many_threads() -> Result<()> {
    const THREADS: usize = 6;
    const STRIPE: usize = 997;
    const STRIPES: usize = 700;
    const BASE: u64 = (64 << 20) - 2_000_000;
    let mut scene = Scene::new()?;
    let seed = seed();
    let path = scene.path("file");
    File::create(&path)?;
    let work = |t: usize| -> Result<Vec<Vec<u8>>> {
        let mut rng = StdRng::seed_from_u64(seed ^ t as u64);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut model = vec![vec![0_u8; STRIPE]; STRIPES];
        for _ in 0..1500 {
            let stripe = rng.random_range(0..STRIPES);
            let at = BASE + ((stripe * THREADS + t) * STRIPE) as u64;
            let from = rng.random_range(0..STRIPE);
            let to = rng.random_range(from..=STRIPE);
            match rng.random_range(0..100) {
                0 => file.sync_all()?,
                1 => file.sync_data()?,
                2..30 => {
                    let mut found = vec![0; to - from];
                    let count = file.read_at(&mut found, at + from as u64)?;
                    // The end of the file may lie before; zeros are right there, too.
                    found[count..].fill(0);
                    ensure!(found == model[stripe][from..to], "thread {t} reads something else at {at} + {from}");
                }
                _ => {
                    rng.fill(&mut model[stripe][from..to]);
                    file.write_all_at(&model[stripe][from..to], at + from as u64)?;
                }
            }
        }
        Ok(model)
    };
    let work = &work;
    let models = std::thread::scope(|s| {
        let threads: Vec<_> = (0..THREADS).map(|t| s.spawn(move || work(t))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    let mut expected = vec![0; STRIPE * STRIPES * THREADS];
    for (t, model) in models.iter().enumerate() {
        for (s, stripe) in model.iter().enumerate() {
            expected[(s * THREADS + t) * STRIPE..][..STRIPE].copy_from_slice(stripe);
        }
    }
    for round in 0..2 {
        let mut found = Vec::new();
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(BASE))?;
        file.read_to_end(&mut found)?;
        drop(file);
        assert!(found.len() <= expected.len());
        found.resize(expected.len(), 0);
        let wrong = (0..found.len()).find(|n| found[*n] != expected[*n]);
        assert_eq!(wrong, None, "round {round}");
        scene.remount()?;
    }
    scene.finish()
}

#[test]
fn mappings_and_files_show_the_same() -> Result<()> {
    const LEN: usize = 3 << 20;
    let mut scene = Scene::new()?;
    let file = rewritable(&scene, "mapped")?;
    let mut model = bytes(1, LEN);
    file.write_all_at(&model, 0)?;
    let mut map = Mapping::new(&file, LEN)?;
    assert!(map.get(0, LEN) == model);
    for n in 0..50 {
        let at = (n * 7_919_333) % (LEN - 5000);
        let new = bytes(n as u64, 1 + (n * 337) % 5000);
        model[at..at + new.len()].copy_from_slice(&new);
        if n % 2 == 0 {
            map.put(at, &new);
            if n % 4 == 0 {
                map.sync()?;
            }
        } else {
            file.write_all_at(&new, at as u64)?;
        }
        assert!(map.get(at, new.len()) == new, "the mapping after step {n}");
        let mut found = vec![0; new.len()];
        file.read_exact_at(&mut found, at as u64)?;
        assert!(found == new, "the file after step {n}");
    }
    map.sync()?;
    assert!(fs::read(scene.path("mapped"))? == model);
    // Appends, which go a way of their own, show up as well.
    let mut log = OpenOptions::new().read(true).append(true).create(true).open(scene.path("log"))?;
    log.write_all(&[b'a'; 5000])?;
    let view = Mapping::new(&log, 20_000)?;
    assert_eq!(view.get(4990, 10), [b'a'; 10]);
    log.write_all(&[b'b'; 5000])?;
    assert_eq!(view.get(4995, 10), *b"aaaaabbbbb");
    assert_eq!(fs::read(scene.path("log"))?[4995..5005], *b"aaaaabbbbb");
    // A mapping outlives its descriptor; what it leaves is saved without msync.
    drop(file);
    map.put(100, b"the last word");
    model[100..113].copy_from_slice(b"the last word");
    drop(map);
    drop(view);
    drop(log);
    scene.remount()?;
    assert!(fs::read(scene.path("mapped"))? == model);
    scene.finish()
}

#[test]
fn opening_with_o_trunc_empties_and_bad_modes_are_refused() -> Result<()> {
    let mut scene = Scene::new()?;
    let path = scene.path("file");
    for n in 0..5_u64 {
        let held = OpenOptions::new().read(true).create(true).append(true).open(&path)?;
        fs::write(&path, bytes(n, 200_000))?;
        if n % 2 == 0 {
            held.sync_all()?;
        }
        assert_eq!(held.metadata()?.len(), 200_000);
        let file = File::create(&path)?;
        assert_eq!((held.metadata()?.len(), file.metadata()?.len()), (0, 0));
        assert_eq!(held.read_at(&mut [0; 100], 0)?, 0);
        file.write_all_at(b"short", 0)?;
        drop((file, held));
        assert_eq!(fs::read(&path)?, b"short");
        scene.remount()?;
        assert_eq!(fs::read(&path)?, b"short");
        assert!(fs::metadata(&path)?.blocks() <= 8);
    }
    let read_only = File::open(&path)?;
    fails(read_only.write_at(b"x", 0), EBADF);
    fails(read_only.set_len(1), EINVAL);
    fails(File::create(&path)?.read_at(&mut [0; 1], 0), EBADF);
    fails(File::create(&scene.mount.path), EISDIR);
    fails(File::open(&scene.mount.path)?.read_at(&mut [0; 1], 0), EISDIR);
    drop(read_only);
    scene.finish()
}

/// docs/semantics.md: "`fsync`, `fdatasync` and `fsync` of a directory return".
/// docs/semantics.md: "fsync of any directory makes the whole mount durable".
#[test]
fn fsync_of_a_directory_saves_every_file() -> Result<()> {
    let mut scene = Scene::new()?;
    fs::create_dir_all(scene.path("a/b"))?;
    let sizes = [1, 5000, 300_000, 3 << 20];
    let content = |n: usize| bytes(n as u64, sizes[n % sizes.len()] + n);
    let mut held = Vec::new();
    for n in 0..40 {
        let mut file = File::create(scene.path(format!("a/b/f{n}")))?;
        file.write_all(&content(n))?;
        if n % 2 == 0 {
            held.push(file);
        }
    }
    // Any directory will do.
    File::open(scene.path("a"))?.sync_all()?;
    scene.crash()?;
    drop(held);
    for n in 0..40 {
        assert!(fs::read(scene.path(format!("a/b/f{n}")))? == content(n), "f{n}");
    }
    scene.finish()
}

/// docs/semantics.md: "A write to a file opened with `O_SYNC` or `O_DSYNC`".
/// docs/semantics.md: "or with `RWF_SYNC` or `RWF_DSYNC`, is durable when it returns".
#[test]
fn synchronous_writes_are_durable_when_they_return() -> Result<()> {
    let mut scene = Scene::new()?;
    let open =
        |name: &str, flags: i32| OpenOptions::new().write(true).create(true).custom_flags(flags).open(scene.path(name));
    let flags = [libc::O_DSYNC, libc::O_SYNC, libc::O_DSYNC | libc::O_DIRECT, libc::O_DSYNC | libc::O_APPEND];
    let mut held = Vec::new();
    for (n, flags) in flags.into_iter().enumerate() {
        let mut file = open(&format!("flags{n}"), flags)?;
        file.write_all(&bytes(n as u64, 10_000))?;
        file.write_all(&bytes(9, 5_000))?;
        held.push(file);
    }
    for (name, flags) in [("dsync", libc::RWF_DSYNC), ("sync", libc::RWF_SYNC)] {
        let file = open(name, 0)?;
        write_with(&file, &bytes(7, 100), 0, 0)?;
        write_with(&file, &bytes(8, 10_000), 100, flags)?;
        held.push(file);
    }
    scene.crash()?;
    drop(held);
    for n in 0..4 {
        let expected = [bytes(n, 10_000), bytes(9, 5_000)].concat();
        assert!(fs::read(scene.path(format!("flags{n}")))? == expected, "flags{n}");
    }
    for name in ["dsync", "sync"] {
        assert!(fs::read(scene.path(name))? == [bytes(7, 100), bytes(8, 10_000)].concat(), "{name}");
    }
    scene.finish()
}

#[test]
fn direct_reads_and_writes_agree_with_all_others() -> Result<()> {
    let mut scene = Scene::new()?;
    let buffered = rewritable(&scene, "file")?;
    let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(scene.path("file"))?;
    let mut model = bytes(1, 300_000);
    buffered.write_all_at(&model, 0)?;
    let mut rng = StdRng::seed_from_u64(seed());
    for n in 0..200 {
        let at = rng.random_range(0..model.len() - 20_000);
        let len = rng.random_range(1..20_000);
        let (one, other) = if n % 2 == 0 { (&buffered, &direct) } else { (&direct, &buffered) };
        let data = bytes(n, len);
        one.write_all_at(&data, at as u64)?;
        model[at..at + len].copy_from_slice(&data);
        let from = at.saturating_sub(5_000);
        let mut found = vec![0; len + 5_000];
        other.read_exact_at(&mut found, from as u64)?;
        assert!(found == model[from..from + len + 5_000], "write {n}");
    }
    drop((buffered, direct));
    scene.remount()?;
    assert!(fs::read(scene.path("file"))? == model);
    scene.finish()
}

/// docs/semantics.md: "what is older than about 5 seconds survives".
#[test]
fn what_is_older_than_some_seconds_survives_without_fsync() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut held = Vec::new();
    for n in 0..10 {
        let mut file = File::create(scene.path(format!("f{n}")))?;
        file.write_all(&bytes(n, 100_000 << (n % 5)))?;
        held.push(file);
    }
    std::thread::sleep(Duration::from_secs(8));
    scene.crash()?;
    drop(held);
    for n in 0..10 {
        assert!(fs::read(scene.path(format!("f{n}")))? == bytes(n, 100_000 << (n % 5)), "f{n}");
    }
    scene.finish()
}

/// docs/semantics.md: "Data written through a mapping counts as written once `msync` was called".
#[test]
fn what_was_mapped_and_synced_survives_and_private_mappings_change_nothing() -> Result<()> {
    const LEN: usize = 1 << 20;
    let mut scene = Scene::new()?;
    let file = rewritable(&scene, "file")?;
    file.write_all_at(&bytes(1, LEN), 0)?;
    file.sync_all()?;
    let mut map = Mapping::new(&file, LEN)?;
    let mut model = bytes(1, LEN);
    for at in [0, 70_001, LEN - 100] {
        map.put(at, &bytes(at as u64, 100));
        model[at..at + 100].copy_from_slice(&bytes(at as u64, 100));
    }
    map.sync()?;
    let mut private = Mapping::private(&file, LEN)?;
    private.put(500_000, &[7; 5000]);
    assert_eq!(private.get(500_000, 5000), [7; 5000]);
    private.sync()?;
    file.sync_all()?;
    assert!(fs::read(scene.path("file"))? == model);
    map.put(300_000, &[8; 100]);
    map.sync()?;
    model[300_000..300_100].fill(8);
    // msync is a promise by itself, without fsync.
    scene.crash()?;
    drop((map, private, file));
    assert!(fs::read(scene.path("file"))? == model);
    scene.finish()
}
