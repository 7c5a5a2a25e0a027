//! Directories that are large, or that change while they are read.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use dfs_integration::tool::sh;

use crate::Scene;

/// Runs `each` for the numbers below `count` on several threads.
fn in_parallel(count: usize, each: impl Fn(usize) -> std::io::Result<()> + Sync) -> Result<()> {
    const THREADS: usize = 16;
    std::thread::scope(|s| {
        let each = &each;
        let work = |t: usize| move || (t..count).step_by(THREADS).try_for_each(each);
        let threads: Vec<_> = (0..THREADS).map(|t| s.spawn(work(t))).collect();
        threads.into_iter().try_for_each(|t| Ok(t.join().expect("no panic")?))
    })
}

fn names(dir: &Path) -> Result<Vec<String>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[test]
fn twenty_thousand_entries() -> Result<()> {
    const ENTRIES: usize = 20_000;
    let mut scene = Scene::new()?;
    let dir = scene.path("dir");
    fs::create_dir(&dir)?;
    in_parallel(ENTRIES, |n| File::create(dir.join(format!("entry-{n:05}"))).map(drop))?;
    scene.remount()?;
    let mut found = names(&dir)?;
    found.sort_unstable();
    let expected: Vec<String> = (0..ENTRIES).map(|n| format!("entry-{n:05}")).collect();
    assert!(found == expected, "{} entries", found.len());
    // With attributes: no entry's inode is another's.
    let mut inodes = HashSet::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let attributes = entry.metadata()?;
        ensure!(attributes.is_file() && inodes.insert(attributes.ino()), "{entry:?}");
    }
    sh(&dir, r#"test "$(find . -name 'entry-*7' | wc -l)" = 2000; ls -l entry-12345; ls | wc -l"#)?;
    in_parallel(ENTRIES, |n| fs::remove_file(dir.join(format!("entry-{n:05}"))))?;
    fs::remove_dir(&dir)?;
    scene.finish()
}

#[test]
fn readdir_while_others_come_and_go() -> Result<()> {
    const STAY: usize = 2000;
    const CHURN: usize = 5000;
    let scene = Scene::new()?;
    let dir = scene.path("dir");
    fs::create_dir(&dir)?;
    in_parallel(STAY, |n| File::create(dir.join(format!("stay-{n}"))).map(drop))?;
    let ended = AtomicBool::new(false);
    let lists = std::thread::scope(|s| {
        let churn = s.spawn(|| {
            let result = in_parallel(CHURN, |n| {
                // Every name is new, so none may ever be listed twice.
                let path = dir.join(format!("come-{n}"));
                File::create(&path)?;
                let moved = dir.join(format!("moved-{n}"));
                if n % 3 == 0 {
                    fs::rename(&path, &moved).and_then(|()| fs::remove_file(&moved))
                } else {
                    fs::remove_file(&path)
                }
            });
            ended.store(true, Ordering::SeqCst);
            result
        });
        let mut lists = 0;
        while !ended.load(Ordering::SeqCst) || lists == 0 {
            let mut seen: HashMap<String, u32> = HashMap::new();
            for name in names(&dir)? {
                *seen.entry(name).or_default() += 1;
            }
            for n in 0..STAY {
                ensure!(seen.get(&format!("stay-{n}")) == Some(&1), "stay-{n}: {:?}", seen.get(&format!("stay-{n}")));
            }
            ensure!(seen.values().all(|times| *times == 1), "listed twice: {seen:?}");
            lists += 1;
        }
        churn.join().expect("no panic")?;
        Ok(lists)
    })?;
    assert!(lists >= 3, "only {lists} listings");
    assert_eq!(names(&dir)?.len(), STAY);
    scene.finish()
}

/// `rm -rf` and `find -delete` remove what they have just read.
#[test]
fn removing_while_reading_takes_everything() -> Result<()> {
    let scene = Scene::new()?;
    let dir = scene.path("dir");
    fs::create_dir(&dir)?;
    in_parallel(3000, |n| File::create(dir.join(format!("f{n}"))).map(drop))?;
    for entry in fs::read_dir(&dir)? {
        fs::remove_file(entry?.path())?;
    }
    assert!(names(&dir)?.is_empty(), "{:?}", names(&dir)?);
    fs::remove_dir(&dir)?;
    // rewinddir shows what came meanwhile; telldir and seekdir return to a place.
    fs::create_dir(&dir)?;
    sh(
        &dir,
        r#"
        for n in $(seq 700); do : > f$n; done
        python3 - <<'END'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("len", ctypes.c_ushort),
                ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.telldir.restype = ctypes.c_long
libc.readdir.argtypes = libc.telldir.argtypes = libc.rewinddir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = libc.opendir(b".")
def rest():
    names = []
    while entry := libc.readdir(d):
        names.append(entry.contents.name)
    return names
everything = rest()
assert len(everything) == len(set(everything)) == 702, len(everything)
assert b"." in everything and b".." in everything
open("late", "w").close()
libc.rewinddir(d)
assert sorted(rest()) == sorted(everything + [b"late"])
libc.rewinddir(d)
for n in range(333):
    libc.readdir(d)
place = libc.telldir(d)
after = rest()
assert len(after) == 703 - 333, len(after)
libc.seekdir(d, place)
assert rest() == after
END
    "#,
    )?;
    scene.finish()
}
