//! Changes by one mount, seen through the caches of the other.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::sys::{self, Mapping, errno};
use dfs_integration::tool::bytes;
use libc::{ENODATA, ENOENT};

use crate::{STALE, Scene, soon};

/// Writes and commits.
fn put(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn listing(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory can be read");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// docs/semantics.md: "no mount says of a name that it is missing when it is not".
/// docs/semantics.md: "What a client committed is seen by every other within that second".
#[test]
fn content_and_size() -> Result<()> {
    let scene = Scene::new()?;
    let (a, b) = (scene.on_a("file"), scene.on_b("file"));
    assert_eq!(errno(&fs::metadata(&b)), ENOENT);
    put(&a, b"first")?;
    // No name is remembered as missing.
    assert_eq!(fs::read(&b)?, b"first");
    for (n, len) in [5, 5, 5000, 300_000, 300_000, 10, 3 << 20, 0, 70_000].into_iter().enumerate() {
        let content = bytes(n as u64, len);
        put(&a, &content)?;
        soon("content", || fs::read(&b).map(|c| c == content), |same| matches!(same, Ok(true)))?;
        assert_eq!(fs::metadata(&b)?.len(), len as u64);
    }
    // In the other direction, in the middle, and cut.
    let file = OpenOptions::new().write(true).open(&b)?;
    file.write_all_at(b"middle", 30_000)?;
    file.sync_data()?;
    soon("middle", || fs::read(&a).map(|c| c[30_000..30_006] == *b"middle"), |same| matches!(same, Ok(true)))?;
    file.set_len(30_003)?;
    soon("cut", || fs::read(&a).map(|c| c.len()), |len| matches!(len, Ok(30_003)))?;
    file.set_len(40_000)?;
    soon(
        "grown",
        || fs::read(&a).map(|c| c.len() == 40_000 && c[30_003..].iter().all(|b| *b == 0)),
        |same| matches!(same, Ok(true)),
    )?;
    drop(file);
    scene.finish()
}

#[test]
fn names() -> Result<()> {
    let scene = Scene::new()?;
    let (a, b) = (|n: &str| scene.on_a(n), |n: &str| scene.on_b(n));
    fs::create_dir(a("dir"))?;
    fs::create_dir(a("other"))?;
    put(&a("dir/one"), b"1")?;
    put(&a("dir/two"), b"22")?;
    symlink("old", a("link"))?;
    let warm = || {
        drop(listing(&b("dir")));
        drop(listing(&b("other")));
        for name in ["dir/one", "dir/two", "dir/new", "dir/hard", "link"] {
            drop(fs::symlink_metadata(b(name)));
        }
    };
    warm();
    assert_eq!(listing(&b("dir")), ["one", "two"]);
    fs::rename(a("dir/one"), a("dir/new"))?;
    soon("old name", || errno(&fs::metadata(b("dir/one"))), |e| *e == ENOENT)?;
    soon("new name", || errno(&fs::metadata(b("dir/new"))), |e| *e == 0)?;
    soon("listing", || listing(&b("dir")), |l| *l == ["new", "two"])?;
    warm();
    fs::hard_link(a("dir/new"), a("dir/hard"))?;
    soon("links", || fs::metadata(b("dir/new")).map(|m| m.nlink()).ok(), |n| *n == Some(2))?;
    assert_eq!(fs::metadata(b("dir/hard"))?.ino(), fs::metadata(b("dir/new"))?.ino());
    warm();
    // One file over the other: another inode has the name.
    fs::rename(a("dir/two"), a("dir/new"))?;
    soon("replaced", || fs::read(b("dir/new")).ok(), |c| c.as_deref() == Some(b"22"))?;
    soon("links", || fs::metadata(b("dir/hard")).map(|m| m.nlink()).ok(), |n| *n == Some(1))?;
    warm();
    sys::rename(&a("dir/new"), &a("dir/hard"), libc::RENAME_EXCHANGE)?;
    soon("exchanged", || fs::read(b("dir/new")).ok(), |c| c.as_deref() == Some(b"1"))?;
    warm();
    fs::remove_file(a("dir/hard"))?;
    soon("removed", || errno(&File::open(b("dir/hard"))), |e| *e == ENOENT)?;
    soon("listing", || listing(&b("dir")), |l| *l == ["new"])?;
    warm();
    fs::rename(a("dir"), a("other/dir"))?;
    soon("directory", || errno(&fs::metadata(b("dir/new"))), |e| *e == ENOENT)?;
    assert_eq!(listing(&b("other/dir")), ["new"]);
    fs::remove_file(a("link"))?;
    symlink("new", a("link"))?;
    soon("symlink", || fs::read_link(b("link")).ok(), |t| t.as_deref() == Some(Path::new("new")))?;
    fs::remove_dir_all(a("other"))?;
    soon("tree", || listing(&scene.b.path), |l| *l == ["link"])?;
    // A name that the other has just removed can be used again at once.
    put(&b("again"), b"b")?;
    fs::remove_file(a("again"))?;
    fs::create_dir(a("again"))?;
    soon("kind", || fs::metadata(b("again")).map(|m| m.is_dir()).ok(), |d| *d == Some(true))?;
    scene.finish()
}

/// docs/semantics.md: "What a client committed is seen by every other within that second".
/// docs/semantics.md: "Changes of attributes and ACLs are seen by other mounts within a second".
#[test]
fn attributes() -> Result<()> {
    let scene = Scene::new()?;
    let (a, b) = (scene.on_a("file"), scene.on_b("file"));
    put(&a, b"content")?;
    let meta = || fs::metadata(&b).expect("it is there");
    meta();
    fs::set_permissions(&a, Permissions::from_mode(0o604))?;
    soon("mode", || meta().mode() & 0o7777, |m| *m == 0o604)?;
    chown(&a, Some(12), Some(34))?;
    soon("owner", || (meta().uid(), meta().gid()), |o| *o == (12, 34))?;
    sys::set_times(&a, (1000, 1), (2000, 2))?;
    soon("times", || (meta().atime(), meta().mtime(), meta().mtime_nsec()), |t| *t == (1000, 2000, 2))?;
    assert_eq!(errno(&sys::get_xattr(&b, "user.x", 10)), ENODATA);
    sys::set_xattr(&a, "user.x", b"1", 0)?;
    soon("xattr", || sys::get_xattr(&b, "user.x", 10).map(|v| v.1).ok(), |v| v.as_deref() == Some(b"1"))?;
    sys::remove_xattr(&a, "user.x")?;
    soon("no xattr", || errno(&sys::get_xattr(&b, "user.x", 10)), |e| *e == ENODATA)?;
    let fields = |m: fs::Metadata| (m.mode(), m.size(), m.ino(), m.blocks(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    soon("everything", || (fields(meta()), fields(fs::metadata(&a).expect("it is there"))), |(x, y)| x == y)?;
    scene.finish()
}

#[test]
fn no_stale_pages_after_the_other_has_rewritten_the_file() -> Result<()> {
    const LEN: usize = 300_000;
    let scene = Scene::new()?;
    put(&scene.on_a("file"), &bytes(0, LEN))?;
    let writer = OpenOptions::new().write(true).open(scene.on_a("file"))?;
    let reader = OpenOptions::new().read(true).write(true).open(scene.on_b("file"))?;
    let map = Mapping::new(&reader, LEN)?;
    for n in 1..6 {
        let mut old = vec![0; LEN];
        reader.read_exact_at(&mut old, 0)?;
        assert!(old == bytes(n - 1, LEN) && map.get(0, LEN) == old, "before rewrite {n}");
        let content = bytes(n, LEN);
        writer.write_all_at(&content, 0)?;
        writer.sync_data()?;
        std::thread::sleep(Duration::from_millis(1200));
        let mut new = vec![0; LEN];
        reader.read_exact_at(&mut new, 0)?;
        assert!(new == content, "the open file after rewrite {n}");
        assert!(fs::read(scene.on_b("file"))? == content, "the file opened again after rewrite {n}");
        soon("the mapping", || map.get(0, LEN) == content, |same| *same)?;
    }
    drop((writer, reader, map));
    scene.finish()
}

/// One mount rewrites 16 pages with a version, over and over; no page read elsewhere may be older than allowed.
/// docs/semantics.md: "file content may be up to 1 second old on other mounts".
#[test]
fn no_page_is_ever_older_than_a_second() -> Result<()> {
    const PAGE: usize = 4096;
    const PAGES: usize = 16;
    let scene = Scene::new()?;
    put(&scene.on_a("file"), &[0; PAGE * PAGES])?;
    let committed = Mutex::new(vec![(Instant::now(), 0_u64)]);
    let ended = AtomicBool::new(false);
    let write = || -> Result<()> {
        let file = OpenOptions::new().write(true).open(scene.on_a("file"))?;
        let until = Instant::now() + Duration::from_secs(8);
        for version in 1_u64.. {
            file.write_all_at(&version.to_le_bytes().repeat(PAGE * PAGES / 8), 0)?;
            file.sync_data()?;
            committed.lock().expect("no panic").push((Instant::now(), version));
            if Instant::now() > until {
                break;
            }
            std::thread::sleep(Duration::from_millis(version % 90));
        }
        Ok(())
    };
    let read = || -> Result<u64> {
        let file = File::open(scene.on_b("file"))?;
        let mut reads = 0;
        while !ended.load(Ordering::SeqCst) {
            let began = Instant::now();
            let mut found = vec![0; PAGE * PAGES];
            file.read_exact_at(&mut found, 0)?;
            let list = committed.lock().expect("no panic").clone();
            let known = list.iter().rev().find(|(at, _)| *at + STALE < began).map_or(0, |(_, version)| *version);
            for (n, page) in found.chunks(PAGE).enumerate() {
                let version = u64::from_le_bytes(page[..8].try_into()?);
                ensure!(page.chunks(8).all(|w| w == &page[..8]), "page {n} has bytes of several versions");
                ensure!(version >= known, "page {n} has version {version}, {known} was committed long before");
            }
            reads += 1;
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(reads)
    };
    std::thread::scope(|s| -> Result<()> {
        let reader = s.spawn(read);
        let written = write();
        ended.store(true, Ordering::SeqCst);
        let reads = reader.join().expect("no panic")?;
        ensure!(reads > 100, "only {reads} reads");
        written
    })?;
    scene.finish()
}

/// "Write a temporary, rename it over", watched from elsewhere: whole, old or new, never missing.
/// docs/semantics.md: "Every namespace operation is atomic".
#[test]
fn a_file_that_is_always_replaced_is_always_there() -> Result<()> {
    const LEN: usize = 50_000;
    let scene = Scene::new()?;
    let content = |n: u64| n.to_le_bytes().repeat(LEN / 8);
    put(&scene.on_a("file"), &content(0))?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|s| -> Result<()> {
        let watch = |path: std::path::PathBuf| {
            let ended = &ended;
            s.spawn(move || -> Result<u64> {
                let mut newest = 0;
                while !ended.load(Ordering::SeqCst) {
                    let found = fs::read(&path)?;
                    ensure!(found.len() == LEN, "{} bytes", found.len());
                    let version = u64::from_le_bytes(found[..8].try_into()?);
                    ensure!(found == content(version), "mixed");
                    ensure!(version >= newest, "went back from {newest} to {version}");
                    newest = version;
                }
                Ok(newest)
            })
        };
        let watchers = [watch(scene.on_b("file")), watch(scene.on_a("file")), watch(scene.on_b("file"))];
        let until = Instant::now() + Duration::from_secs(8);
        let replace = || -> Result<()> {
            for n in 1.. {
                fs::write(scene.on_a("temporary"), content(n))?;
                fs::rename(scene.on_a("temporary"), scene.on_a("file"))?;
                std::thread::sleep(Duration::from_millis(n % 40));
                if Instant::now() > until {
                    break;
                }
            }
            Ok(())
        };
        let replaced = replace();
        ended.store(true, Ordering::SeqCst);
        for watcher in watchers {
            ensure!(watcher.join().expect("no panic")? > 1, "no news");
        }
        replaced
    })?;
    scene.finish()
}
