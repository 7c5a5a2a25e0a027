//! Names: how long, of which bytes, linked, renamed, raced for.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Barrier;

use anyhow::Result;
use dfs_integration::sys;
use dfs_integration::tool::sh;
use libc::{EEXIST, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENOTEMPTY, EPERM};

use crate::{Scene, fails};

/// docs/semantics.md: "name | 255 bytes".
#[test]
fn names_of_any_bytes_up_to_255() -> Result<()> {
    let mut scene = Scene::new()?;
    let long = "é".repeat(127) + "x";
    let names: Vec<&[u8]> = vec![
        long.as_bytes(),
        b"\xff\xfe not UTF-8 \x80",
        b"new\nline",
        b"-rf",
        b" ",
        b"...",
        b"back\\slash",
        b"\x01",
        b"case",
        b"Case",
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
    ];
    for (n, name) in names.iter().enumerate() {
        fs::write(scene.path(OsStr::from_bytes(name)), [u8::try_from(n)?])?;
    }
    for round in 0..2 {
        for (n, name) in names.iter().enumerate() {
            assert_eq!(fs::read(scene.path(OsStr::from_bytes(name)))?, [u8::try_from(n)?], "{name:?}, round {round}");
        }
        let mut found: Vec<Vec<u8>> = Vec::new();
        for entry in fs::read_dir(&scene.mount.path)? {
            found.push(entry?.file_name().as_bytes().to_vec());
        }
        let mut expected = names.clone();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
        scene.remount()?;
    }
    let too_long = scene.path("n".repeat(256));
    let file = scene.path("case");
    fails(File::create(&too_long), ENAMETOOLONG);
    fails(fs::create_dir(&too_long), ENAMETOOLONG);
    fails(symlink("x", &too_long), ENAMETOOLONG);
    fails(fs::rename(&file, &too_long), ENAMETOOLONG);
    fails(fs::hard_link(&file, &too_long), ENAMETOOLONG);
    fails(fs::metadata(&too_long), ENAMETOOLONG);
    scene.finish()
}

/// docs/semantics.md: "symlink target | 4,095 bytes".
#[test]
fn symlinks_keep_targets_of_up_to_4095_bytes() -> Result<()> {
    let mut scene = Scene::new()?;
    let target = "t".repeat(4095);
    symlink(&target, scene.path("long"))?;
    fails(symlink("t".repeat(4096), scene.path("longer")), ENAMETOOLONG);
    symlink(OsStr::from_bytes(b"\xff/nowhere"), scene.path("bytes"))?;
    symlink("b", scene.path("a"))?;
    symlink("a", scene.path("b"))?;
    fails(File::open(scene.path("a")), ELOOP);
    fails(File::open(scene.path("bytes")), ENOENT);
    for _ in 0..2 {
        assert_eq!(fs::read_link(scene.path("long"))?.as_os_str().len(), 4095);
        assert_eq!(fs::symlink_metadata(scene.path("long"))?.len(), 4095);
        assert_eq!(fs::read_link(scene.path("bytes"))?.as_os_str().as_bytes(), b"\xff/nowhere");
        scene.remount()?;
    }
    scene.finish()
}

#[test]
fn rename_in_all_its_forms() -> Result<()> {
    let scene = Scene::new()?;
    let at = |name: &str| scene.path(name);
    for dir in ["dir", "dir/sub", "dir/sub/deep", "full", "empty", "other"] {
        fs::create_dir(at(dir))?;
    }
    for file in ["one", "two", "full/file"] {
        fs::write(at(file), file)?;
    }
    fs::hard_link(at("one"), at("uno"))?;
    // Onto itself, and onto another name of itself: nothing happens.
    fs::rename(at("one"), at("one"))?;
    fs::rename(at("one"), at("uno"))?;
    assert!(at("one").exists() && at("uno").exists());
    fails(fs::rename(at("dir"), at("dir/sub/deep/dir")), EINVAL);
    fails(fs::rename(at("dir"), at("dir/x")), EINVAL);
    fails(fs::rename(at("dir"), at("full")), ENOTEMPTY);
    fails(fs::rename(at("one"), at("empty")), EISDIR);
    fails(fs::rename(at("empty"), at("one")), ENOTDIR);
    fails(fs::rename(at("none"), at("one")), ENOENT);
    fails(fs::rename(at("one"), at("none/one")), ENOENT);
    fails(fs::rename(at("one"), at("two/one")), ENOTDIR);

    fails(sys::rename(&at("one"), &at("two"), libc::RENAME_NOREPLACE), EEXIST);
    fails(sys::rename(&at("one"), &at("uno"), libc::RENAME_NOREPLACE), EEXIST);
    sys::rename(&at("two"), &at("three"), libc::RENAME_NOREPLACE)?;
    assert_eq!(fs::read_to_string(at("three"))?, "two");

    fails(sys::rename(&at("one"), &at("none"), libc::RENAME_EXCHANGE), ENOENT);
    fails(sys::rename(&at("dir"), &at("dir/sub"), libc::RENAME_EXCHANGE), EINVAL);
    fails(sys::rename(&at("dir/sub"), &at("dir"), libc::RENAME_EXCHANGE), EINVAL);
    fails(sys::rename(&at("one"), &at("three"), libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE), EINVAL);
    sys::rename(&at("one"), &at("three"), libc::RENAME_EXCHANGE)?;
    assert_eq!(fs::read_to_string(at("one"))? + &fs::read_to_string(at("three"))?, "twoone");
    // A file and a directory, in different directories: the links of both parents move along.
    let before = (fs::metadata(&scene.mount.path)?.nlink(), fs::metadata(at("full"))?.nlink());
    sys::rename(&at("dir"), &at("full/file"), libc::RENAME_EXCHANGE)?;
    assert!(at("full/file/sub/deep").is_dir() && at("dir").is_file());
    assert_eq!(fs::metadata(&scene.mount.path)?.nlink(), before.0 - 1);
    assert_eq!(fs::metadata(at("full"))?.nlink(), before.1 + 1);
    assert!(at("full/file/..").join("file").is_dir(), "the way up has changed, too");

    // A directory over an empty one, elsewhere.
    let before = (fs::metadata(at("full"))?.nlink(), fs::metadata(at("other"))?.nlink());
    fs::create_dir(at("other/place"))?;
    fs::rename(at("full/file"), at("other/place"))?;
    assert_eq!(fs::metadata(at("full"))?.nlink(), before.0 - 1);
    assert_eq!(fs::metadata(at("other"))?.nlink(), before.1 + 1);
    assert_eq!(fs::metadata(at("other/place/.."))?.ino(), fs::metadata(at("other"))?.ino());
    scene.finish()
}

#[test]
fn hard_links_share_everything_and_are_counted() -> Result<()> {
    let mut scene = Scene::new()?;
    let at = |name: &str| scene.path(name);
    fs::create_dir(at("dir"))?;
    fs::write(at("file"), "first")?;
    for n in 0..100 {
        fs::hard_link(at("file"), at(&format!("dir/link{n}")))?;
    }
    fs::write(at("dir/link7"), "second")?;
    assert_eq!(fs::read_to_string(at("file"))?, "second");
    assert_eq!(fs::metadata(at("file"))?.nlink(), 101);
    fs::remove_file(at("file"))?;
    assert_eq!(fs::metadata(at("dir/link0"))?.nlink(), 100);
    // A rename over one of the links takes that link.
    fs::write(at("new"), "new")?;
    fs::rename(at("new"), at("dir/link1"))?;
    assert_eq!(fs::metadata(at("dir/link0"))?.nlink(), 99);
    fails(fs::hard_link(at("dir"), at("no")), EPERM);
    fails(fs::hard_link(at("dir/link0"), at("dir/link1")), EEXIST);
    symlink("dir/link0", at("soft"))?;
    fs::hard_link(at("soft"), at("hard-soft"))?;
    assert_eq!(fs::symlink_metadata(at("hard-soft"))?.nlink(), 2);
    let ino = fs::metadata(at("dir/link0"))?.ino();
    scene.remount()?;
    let found = fs::metadata(scene.path("dir/link99"))?;
    assert_eq!((found.nlink(), found.ino()), (99, ino));
    // The last name gone, the open file stays.
    let file = OpenOptions::new().read(true).write(true).open(scene.path("dir/link0"))?;
    fs::remove_dir_all(scene.path("dir"))?;
    assert_eq!(file.metadata()?.nlink(), 0);
    assert_eq!(std::io::read_to_string(&file)?, "second");
    drop(file);
    scene.finish()
}

#[test]
fn deep_paths_and_a_working_directory_that_is_gone() -> Result<()> {
    let scene = Scene::new()?;
    // 200 x 61 bytes are three times what a path may have.
    sh(
        &scene.mount.path,
        r#"
        python3 - <<'END'
import os
name, depth = "d" * 60, 200
for n in range(depth):
    os.mkdir(name)
    os.chdir(name)
open("bottom", "w").write("deep")
for n in range(depth):
    os.chdir("..")
    assert os.stat(name).st_nlink == (2 if n == 0 else 3), n
for n in range(depth):
    os.chdir(name)
assert open("bottom").read() == "deep"
END
        rm -rf ddd*
        test -z "$(ls -A)"

        mkdir gone && cd gone && rmdir ../gone
        not touch file 2>/dev/null
        not mkdir dir 2>/dev/null
        test -z "$(ls -A)"
        test "$(stat -c %h .)" = 0
        cd ..
    "#,
    )?;
    scene.finish()
}

/// docs/semantics.md: "Every namespace operation is atomic".
#[test]
fn of_many_who_want_a_name_exactly_one_gets_it() -> Result<()> {
    const THREADS: usize = 8;
    let scene = Scene::new()?;
    for n in 0..THREADS {
        fs::write(scene.path(format!("source{n}")), n.to_string())?;
    }
    for round in 0..40 {
        let name = scene.path(format!("wanted{round}"));
        let barrier = Barrier::new(THREADS);
        let attempt = |n: usize| {
            let source = scene.path(format!("source{n}"));
            barrier.wait();
            match round % 5 {
                0 => File::create_new(&name).map(drop),
                1 => fs::create_dir(&name),
                2 => symlink("x", &name),
                3 => fs::hard_link(&source, &name),
                _ => sys::rename(&source, &name, libc::RENAME_NOREPLACE),
            }
        };
        let attempt = &attempt;
        let results: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..THREADS).map(|n| s.spawn(move || attempt(n))).collect();
            threads.into_iter().map(|t| t.join().expect("no panic")).collect()
        });
        let won: Vec<usize> = (0..THREADS).filter(|n| results[*n].is_ok()).collect();
        assert_eq!(won.len(), 1, "round {round}: {results:?}");
        results.into_iter().filter(std::io::Result::is_err).for_each(|r| fails(r, EEXIST));
        if round % 5 == 4 {
            assert_eq!(fs::read_to_string(&name)?, won[0].to_string());
            fs::rename(&name, scene.path(format!("source{}", won[0])))?;
        }
    }
    scene.finish()
}
