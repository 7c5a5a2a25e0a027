//! Extended attributes: the same calls on the mount and on a local filesystem give the same results.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use dfs_integration::sys::{errno, get_xattr, list_xattr, remove_xattr, set_xattr};

use crate::{Scene, as_nobody, fails};

/// All names, in order.
fn names(path: &Path) -> io::Result<Vec<CString>> {
    let (len, _) = list_xattr(path, 0)?;
    let (_, list) = list_xattr(path, len)?;
    let mut names: Vec<CString> =
        list.split_inclusive(|b| *b == 0).filter_map(|n| CString::from_vec_with_nul(n.into()).ok()).collect();
    names.sort();
    Ok(names)
}

/// A sequence of calls and what came of each, in words.
fn story(dir: &Path) -> Result<Vec<String>> {
    let (file, sub, link, pipe) = (dir.join("f"), dir.join("d"), dir.join("l"), dir.join("p"));
    fs::write(&file, b"x")?;
    fs::create_dir(&sub)?;
    symlink("f", &link)?;
    dfs_integration::sys::mknod(&pipe, libc::S_IFIFO | 0o644, 0)?;
    let mut told = Vec::new();
    let mut tell = |what: String, result: io::Result<String>| {
        told.push(format!(
            "{what}: {}",
            result.unwrap_or_else(|e| format!("errno {}", e.raw_os_error().unwrap_or(-1)))
        ));
    };
    let some = b"value".as_slice();
    let long = "user.".to_owned() + &"n".repeat(250);
    let too_long = "user.".to_owned() + &"n".repeat(251);
    for path in [&file, &sub, &link, &pipe] {
        for name in
            ["user.a", "trusted.a", "security.dfs", "system.other", "other.a", "user.", "plain", &long, &too_long]
        {
            for (flags, value) in [
                (libc::XATTR_REPLACE, some),
                (libc::XATTR_CREATE, some),
                (libc::XATTR_CREATE, b"again"),
                (libc::XATTR_REPLACE, b""),
                (0, b"last"),
                (77, b"bad"),
            ] {
                tell(
                    format!("set {name} {flags} {path:?}"),
                    set_xattr(path, name, value, flags).map(|()| String::new()),
                );
            }
            for room in [0, 3, 4, 100] {
                tell(
                    format!("get {name} {room} {path:?}"),
                    get_xattr(path, name, room).map(|found| format!("{found:?}")),
                );
            }
        }
        tell(format!("list {path:?}"), names(path).map(|n| format!("{n:?}")));
        tell(format!("list in 3 bytes {path:?}"), list_xattr(path, 3).map(|found| format!("{found:?}")));
        tell(format!("remove {path:?}"), remove_xattr(path, "trusted.a").map(|()| String::new()));
        tell(format!("remove again {path:?}"), remove_xattr(path, "trusted.a").map(|()| String::new()));
        tell(format!("get removed {path:?}"), get_xattr(path, "trusted.a", 10).map(|found| format!("{found:?}")));
    }
    tell("65,537 bytes".into(), set_xattr(&file, "user.big", &vec![7; 65_537], 0).map(|()| String::new()));
    let strip = dir.display().to_string();
    Ok(told.into_iter().map(|line| line.replace(&strip, "")).collect())
}

/// docs/semantics.md: "`user.*` on files and directories".
/// docs/semantics.md: "`security.*`; other namespaces are `EOPNOTSUPP`".
#[test]
fn every_call_gives_what_it_gives_locally() -> Result<()> {
    let scene = Scene::new()?;
    let local = scene.cluster.dir().join("local");
    fs::create_dir(&local)?;
    let (expected, got) = (story(&local)?, story(&scene.mount.path)?);
    for (here, there) in got.iter().zip(&expected) {
        ensure!(here == there, "{here}\nlocally {there}");
    }
    scene.finish()
}

/// docs/semantics.md: "64 KiB of names an inode; more names are `ENOSPC`".
#[test]
fn limits_are_those_of_linux() -> Result<()> {
    let mut scene = Scene::new()?;
    let file = scene.path("f");
    fs::write(&file, b"x")?;
    let big = vec![7; 65_536];
    set_xattr(&file, "user.big", &big, 0)?;
    assert_eq!(get_xattr(&file, "user.big", 0)?.0, 65_536);
    assert_eq!(get_xattr(&file, "user.big", 65_536)?.1, big);
    fails(get_xattr(&file, "user.big", 65_535), libc::ERANGE);
    // The list of names has room for 64 KiB and no more.
    let name = |n: u32| format!("user.{n:0250}");
    let mut last = 0;
    while let Ok(()) = set_xattr(&file, &name(last), b"", 0) {
        last += 1;
        ensure!(last < 1000, "there is no limit");
    }
    assert_eq!(errno(&set_xattr(&file, &name(last), b"", 0)), libc::ENOSPC);
    assert_eq!(last, (65_536 - 9) / 256);
    scene.remount()?;
    assert_eq!(list_xattr(&scene.path("f"), 65_536)?.0, 9 + 256 * last as usize);
    assert_eq!(get_xattr(&scene.path("f"), "user.big", 65_536)?.1, big);
    scene.finish()
}

/// docs/semantics.md: "`trusted.*` for administrators".
#[test]
fn trusted_names_are_for_administrators() -> Result<()> {
    let scene = Scene::new()?;
    let file = scene.path("f");
    fs::write(&file, b"x")?;
    set_xattr(&file, "trusted.secret", b"1", 0)?;
    set_xattr(&file, "user.open", b"1", 0)?;
    let script = r#"
import os, errno
assert os.listxattr("f") == ["user.open"], os.listxattr("f")
for call, code in [(lambda: os.getxattr("f", "trusted.secret"), errno.ENODATA),
                   (lambda: os.setxattr("f", "trusted.secret", b"2"), errno.EPERM),
                   (lambda: os.setxattr("f", "user.open", b"2"), errno.EACCES)]:
    try: call()
    except OSError as e: assert e.errno == code, (e, code)
    else: assert False, code
"#;
    as_nobody(&scene.mount.path, &format!("python3 - <<'END'\n{script}\nEND"))?;
    scene.finish()
}
