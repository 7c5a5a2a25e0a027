//! Two mounts that do what they like in one directory at the same time.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::sys::{self, errno};
use dfs_integration::tool::{bytes, seed};
use libc::{EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, ESTALE};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{STALE, Scene};

/// A path of two or three names out of few, so that they meet.
fn random_path(rng: &mut StdRng) -> PathBuf {
    let mut path = PathBuf::from(format!("d{}", rng.random_range(0..3)));
    if rng.random_bool(0.3) {
        path.push(format!("n{}", rng.random_range(0..6)));
    }
    path.push(format!("n{}", rng.random_range(0..6)));
    path
}

fn random_op(root: &Path, rng: &mut StdRng) -> (String, io::Result<()>) {
    let (one, two) = (random_path(rng), random_path(rng));
    let (from, to) = (root.join(&one), root.join(&two));
    let (what, result) = match rng.random_range(0..11) {
        0 => ("create", File::create_new(&from).map(drop)),
        1 => ("write", fs::write(&from, bytes(rng.random(), 2000))),
        2 => ("mkdir", fs::create_dir(&from)),
        3 => ("rmdir", fs::remove_dir(&from)),
        4 => ("unlink", fs::remove_file(&from)),
        5 => ("symlink", symlink("n1", &from)),
        6 => ("link", fs::hard_link(&from, &to)),
        7 => ("exchange", sys::rename(&from, &to, libc::RENAME_EXCHANGE)),
        8 => ("rename to nothing", sys::rename(&from, &to, libc::RENAME_NOREPLACE)),
        _ => ("rename", fs::rename(&from, &to)),
    };
    (format!("{what} {} {}", one.display(), two.display()), result)
}

/// Everything below `dir`: attributes, and content or target.
fn tree(dir: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        let content = if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
            String::new()
        } else if meta.is_symlink() {
            fs::read_link(&path)?.display().to_string()
        } else {
            blake3::hash(&fs::read(&path)?).to_string()
        };
        let times = (meta.mtime(), meta.mtime_nsec());
        let line = format!("{} {:o} {} {} {times:?} {content}", meta.ino(), meta.mode(), meta.nlink(), meta.len());
        out.insert(path.strip_prefix(dir)?.to_path_buf(), line);
    }
    Ok(out)
}

/// The link count of each inode is the number of its names.
fn check_links(dir: &Path) -> Result<()> {
    let mut names: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for path in tree(dir)?.keys() {
        let meta = fs::symlink_metadata(dir.join(path))?;
        if !meta.is_dir() {
            names.entry(meta.ino()).or_insert((0, meta.nlink())).0 += 1;
        } else {
            let subdirectories = fs::read_dir(dir.join(path))?.filter_map(|e| e.ok()?.file_type().ok());
            let expected = 2 + subdirectories.filter(fs::FileType::is_dir).count() as u64;
            ensure!(meta.nlink() == expected, "{}: {} links, not {expected}", path.display(), meta.nlink());
        }
    }
    names.iter().try_for_each(|(ino, (found, said))| {
        ensure!(found == said, "inode {ino} has {found} names and says {said}");
        Ok(())
    })
}

/// docs/semantics.md: "What a client committed is seen by every other within that second".
#[test]
fn random_changes_from_two_mounts_leave_one_tree() -> Result<()> {
    // ELOOP and ESTALE are the kernel's own: a directory that the other mount has moved is found at its new
    // place while the old one is locked by another call here.
    const EXPECTED: [i32; 9] = [ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL, EPERM, ELOOP, ESTALE];
    let scene = Scene::new()?;
    let seed = seed();
    for n in 0..3 {
        fs::create_dir(scene.on_a(format!("d{n}")))?;
    }
    let until = Instant::now() + Duration::from_secs(10);
    let work = |t: u64| -> Result<u64> {
        let root = if t.is_multiple_of(2) { &scene.a.path } else { &scene.b.path };
        let mut rng = StdRng::seed_from_u64(seed ^ t);
        let mut good = 0;
        while Instant::now() < until {
            let (what, result) = random_op(root, &mut rng);
            good += u64::from(result.is_ok());
            let code = errno(&result);
            ensure!(code == 0 || EXPECTED.contains(&code), "thread {t}: {what}: {result:?}");
        }
        Ok(good)
    };
    let work = &work;
    let good = std::thread::scope(|s| {
        let threads: Vec<_> = (0..6).map(|t| s.spawn(move || work(t))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).sum::<Result<u64>>()
    })?;
    ensure!(good > 200, "only {good} operations succeeded");
    // What is still unsaved is committed, then old answers run out.
    File::open(&scene.a.path)?.sync_all()?;
    File::open(&scene.b.path)?.sync_all()?;
    std::thread::sleep(STALE);
    let (on_a, on_b) = (tree(&scene.a.path)?, tree(&scene.b.path)?);
    for (path, line) in &on_a {
        assert_eq!(Some(line), on_b.get(path), "{}", path.display());
    }
    let missing: Vec<_> = on_b.iter().filter(|(path, _)| !on_a.contains_key(*path)).collect();
    assert!(missing.is_empty(), "on the second mount alone: {missing:?}");
    check_links(&scene.a.path)?;
    for n in 0..3 {
        fs::remove_dir_all(scene.on_b(format!("d{n}")))?;
    }
    scene.finish()
}

/// The kernel of the first mount still has the old directory under the name when it removes the new one.
/// docs/semantics.md: "remove the directory that this mount last saw under the name, or look again".
#[test]
fn a_directory_that_was_moved_away_is_not_taken_for_the_one_that_is_removed() -> Result<()> {
    let scene = Scene::new()?;
    for (n, replace) in [false, true].into_iter().enumerate() {
        let (name, moved) = (format!("d{n}"), format!("moved{n}"));
        fs::create_dir(scene.on_a(&name))?;
        // Somebody is in it, so that the kernel does not forget it.
        let inside = File::open(scene.on_a(&name))?;
        let before = inside.metadata()?.ino();
        fs::rename(scene.on_b(&name), scene.on_b(&moved))?;
        fs::create_dir(scene.on_b(&name))?;
        fs::write(scene.on_b(&moved).join("file"), "content")?;
        if replace {
            fs::create_dir(scene.on_a("new"))?;
            fs::rename(scene.on_a("new"), scene.on_a(&name))?;
            fs::remove_dir(scene.on_a(&name))?;
        } else {
            fs::remove_dir(scene.on_a(&name))?;
        }
        std::thread::sleep(STALE);
        for root in [&scene.a.path, &scene.b.path] {
            let moved = root.join(&moved);
            assert_eq!(fs::metadata(&moved)?.ino(), before);
            let names: Vec<_> = fs::read_dir(&moved)?.map(|e| Ok(e?.file_name())).collect::<Result<_>>()?;
            assert_eq!(names, ["file"], "{}", moved.display());
            assert!(!root.join(&name).exists());
        }
        fs::write(scene.on_a(&moved).join("more"), "content")?;
        drop(inside);
    }
    scene.finish()
}

/// docs/semantics.md: "Every namespace operation is atomic".
#[test]
fn of_two_mounts_that_want_a_name_exactly_one_gets_it() -> Result<()> {
    let scene = Scene::new()?;
    for round in 0..60 {
        let barrier = Barrier::new(2);
        let attempt = |root: &Path| {
            let (name, own) = (root.join(format!("n{round}")), root.join(format!("source{round}")));
            if round % 3 == 2 {
                drop(fs::write(&own, "x"));
            }
            barrier.wait();
            match round % 3 {
                0 => File::create_new(&name).map(drop),
                1 => fs::create_dir(&name),
                _ => sys::rename(&own, &name, libc::RENAME_NOREPLACE),
            }
        };
        let (a, b) = std::thread::scope(|s| {
            let other = s.spawn(|| attempt(&scene.b.path));
            (attempt(&scene.a.path), other.join().expect("no panic"))
        });
        let lost = if round % 3 == 2 { ENOENT } else { EEXIST };
        let codes = (errno(&a), errno(&b));
        let one = codes.0.min(codes.1) == 0 && [EEXIST, lost].contains(&codes.0.max(codes.1));
        assert!(one, "round {round}: {a:?} and {b:?}");
        drop(fs::remove_file(scene.on_a(format!("source{round}"))));
    }
    scene.finish()
}

/// docs/semantics.md: "`O_APPEND` writes of one mount of up to 1 MiB are placed whole".
#[test]
fn appended_records_of_many_threads_are_whole() -> Result<()> {
    const THREADS: u64 = 4;
    const RECORDS: u64 = 60;
    let scene = Scene::new()?;
    let content = |t: u64, n: u64| {
        // Mostly lines, sometimes up to the largest that is whole.
        let len = if n.is_multiple_of(20) {
            (1 << 20) - 8192 * usize::try_from(t).unwrap_or(0)
        } else {
            50 + (n as usize * 389) % 9000
        };
        let mut record = vec![u8::try_from(t * 61 + n % 61).unwrap_or(0); len];
        record[..8].copy_from_slice(&(len as u64).to_le_bytes());
        record[8..16].copy_from_slice(&t.to_le_bytes());
        record[16..24].copy_from_slice(&n.to_le_bytes());
        record
    };
    let append = |t: u64| -> Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(scene.on_a("log"))?;
        for n in 0..RECORDS {
            let record = content(t, n);
            // One write(2) each.
            ensure!(file.write(&record)? == record.len(), "a short write");
            if n % 25 == 7 {
                file.sync_data()?;
            }
        }
        Ok(())
    };
    let append = &append;
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..THREADS).map(|t| s.spawn(move || append(t))).collect();
        threads.into_iter().try_for_each(|t| t.join().expect("no panic"))
    })?;
    File::open(scene.on_a("log"))?.sync_all()?;
    std::thread::sleep(STALE);
    for path in [scene.on_a("log"), scene.on_b("log")] {
        let found = fs::read(&path)?;
        let mut next = [0; THREADS as usize];
        let mut at = 0;
        while at < found.len() {
            let word = |n: usize| found[at + n..at + n + 8].try_into().map(u64::from_le_bytes);
            let (len, t) = (usize::try_from(word(0)?)?, usize::try_from(word(8)?)?);
            ensure!(t < next.len() && at + len <= found.len(), "no record at {at}");
            ensure!(found[at..at + len] == content(t as u64, next[t]), "thread {t} record {} at {at}", next[t]);
            next[t] += 1;
            at += len;
        }
        assert_eq!(next, [RECORDS; THREADS as usize]);
    }
    scene.finish()
}
