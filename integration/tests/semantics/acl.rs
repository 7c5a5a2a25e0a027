//! POSIX ACLs: the same scripts on the mount and on a local filesystem.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_integration::sys::{get_xattr, set_xattr};
use dfs_integration::tool::sh;

use crate::{Scene, as_nobody, fails};

/// Does the script in an empty directory, and shows all modes, owners and ACLs that it leaves.
fn left_by(dir: &Path, script: &str) -> Result<String> {
    fs::create_dir_all(dir)?;
    sh(dir, script)?;
    sh(
        dir,
        "find . | LC_ALL=C sort | xargs stat -c '%A %u %g %n'; find . ! -type l | LC_ALL=C sort | xargs getfacl --numeric",
    )
}

fn same(scene: &Scene, name: &str, script: &str) -> Result<()> {
    let local = scene.cluster.dir().join("local").join(name);
    let (expected, got) = (left_by(&local, script)?, left_by(&scene.path(name), script)?);
    ensure!(got == expected, "{script}\n{got}\nlocally\n{expected}");
    Ok(())
}

/// docs/semantics.md: "POSIX ACLs, access and default, work as on a local filesystem".
/// docs/semantics.md: "the group bits of the mode are the mask, `chmod` changes it".
/// docs/semantics.md: "what is made in a directory with a default ACL gets it, whatever the umask".
/// docs/semantics.md: "`cp -a`, `rsync -A` and `tar --acls` keep them".
/// docs/semantics.md: "A namespace operation that returned".
#[test]
fn lists_modes_and_inheritance_are_those_of_a_local_filesystem() -> Result<()> {
    let mut scene = Scene::new()?;
    let scripts = [
        // An ACL and the mode follow each other.
        "umask 022; touch f; setfacl -m u:1000:rwx,g:1001:r f; touch g; setfacl -m u:1000:rw g; chmod 751 g;
         touch h; setfacl -m u:1000:rw h; chmod 0 h; touch i; chmod 2755 i; setfacl -m m::r,u:1:x i; setfacl -b i;
         touch j; setfacl -m u:5:rwx j; setfacl -x u:5 j; setfacl -x m j; touch k; setfacl -m g::w,o::- k; stat k",
        // What a directory gives to what is made in it, whatever the umask.
        "umask 077; mkdir d; setfacl -d -m u::rwx,g::rx,o::r,u:1000:rwx,g:1001:rw d; mkdir d/sub d/sub/sub; touch d/f;
         mkfifo d/p; ln -s f d/l; (umask 0; mkdir -m 700 d/m; touch d/sub/sub/g); echo x > d/sub/h; mkdir -m 2770 d/s;
         setfacl -k d/sub; touch d/sub/i; mkdir d/sub/j; cp d/f d/copy; install -m 640 d/f d/installed",
        // A default ACL that says no more than a mode still takes the umask's place.
        "umask 077; mkdir d; setfacl -d -m u::rwx,g::rwx,o::rx d; touch d/f; mkdir d/e; touch d/e/g",
        // Setgid directories.
        "mkdir d; chgrp 1001 d; chmod 2775 d; setfacl -d -m g:1002:rwx d; mkdir d/e; touch d/e/f; ln d/e/f d/hard; mv d/e d/g",
        // Copies.
        "mkdir a; touch a/f; setfacl -m u:1000:rw a/f; setfacl -d -m u:7:x a; cp -a a b; rsync -aA a/ c/;
         tar --acls -cf t a; mkdir t.d; tar --acls -C t.d -xpf t; rm t; cp a/f plain; cp --preserve=mode a/f kept",
    ];
    for (n, script) in scripts.iter().enumerate() {
        same(&scene, &format!("script-{n}"), script)?;
    }
    let all = "find . ! -type l | LC_ALL=C sort | xargs getfacl --numeric";
    let before = sh(&scene.mount.path, all)?;
    scene.crash()?;
    ensure!(sh(&scene.mount.path, all)? == before);
    scene.cluster.wait_fsck(0, Duration::from_secs(60))?;
    scene.finish()
}

/// docs/semantics.md: "work as on a local filesystem: the kernel checks them".
/// docs/semantics.md: "Changes of attributes and ACLs are seen by other mounts within a second".
#[test]
fn access_is_decided_by_the_list() -> Result<()> {
    let scene = Scene::new()?;
    sh(
        &scene.mount.path,
        "umask 077; echo x > named; setfacl -m u:65534:r named; echo x > masked; setfacl -m u:65534:rw,m::r masked;
         echo x > group; setfacl -m g:65534:rw group; echo x > nobody; chmod 666 nobody; setfacl -m u:65534:- nobody;
         mkdir dir; setfacl -m u:65534:x dir; echo x > dir/f; chmod 644 dir/f; chmod 711 .",
    )?;
    as_nobody(
        &scene.mount.path,
        "no() { if bash -c \"$1\"; then exit 1; fi; }
         cat named masked group dir/f; no 'echo y >> named'; no 'echo y >> masked'; echo y >> group; no 'cat nobody';
         no 'ls dir'; no 'setfacl -m u:1:r group'; no 'setfacl -b named'",
    )?;
    // On another mount within a second, and here at once.
    let other = scene.cluster.mount("other")?;
    as_nobody(&other.path, "cat named")?;
    sh(&scene.mount.path, "setfacl -b named")?;
    as_nobody(&scene.mount.path, "if cat named; then exit 1; fi")?;
    std::thread::sleep(Duration::from_millis(1500));
    as_nobody(&other.path, "if cat named; then exit 1; fi")?;
    drop(other);
    scene.finish()
}

#[test]
fn who_is_not_in_the_group_loses_setgid() -> Result<()> {
    let scene = Scene::new()?;
    let script = "touch f g; chown 65534:65534 f; chown 65534:1001 g; chmod 2775 f g; chmod 777 .
        setpriv --reuid=65534 --regid=65534 --clear-groups setfacl -m u:7:r f g";
    same(&scene, "setgid", script)?;
    scene.finish()
}

#[test]
fn what_is_no_list_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let local = scene.cluster.dir().join("local");
    fs::create_dir_all(&local)?;
    let entry = |tag: u16, perm: u16| [tag.to_le_bytes(), perm.to_le_bytes(), [255; 2], [255; 2]].concat();
    let list = |entries: &[(u16, u16)]| {
        let body = entries.iter().flat_map(|(tag, perm)| entry(*tag, *perm));
        [2, 0, 0, 0].into_iter().chain(body).collect::<Vec<u8>>()
    };
    let values = [
        Vec::new(),
        vec![2],
        vec![1, 0, 0, 0],
        vec![2, 0, 0, 0],
        list(&[(1, 7), (4, 7)]),
        list(&[(4, 7), (1, 7), (0x20, 7)]),
        list(&[(1, 8), (4, 7), (0x20, 7)]),
        list(&[(1, 7), (4, 7), (0x20, 7), (0x40, 7)]),
        list(&[(1, 7), (4, 7), (0x20, 7)]),
    ];
    for dir in [&local, &scene.mount.path] {
        fs::write(dir.join("f"), b"")?;
        fs::create_dir(dir.join("d"))?;
        std::os::unix::fs::symlink("f", dir.join("l"))?;
    }
    for value in &values {
        for which in ["system.posix_acl_access", "system.posix_acl_default"] {
            for name in ["f", "d", "l"] {
                let expected = set_xattr(&local.join(name), which, value, 0);
                let got = set_xattr(&scene.path(name), which, value, 0);
                let code = |r: &std::io::Result<()>| r.as_ref().err().and_then(std::io::Error::raw_os_error);
                ensure!(code(&got) == code(&expected), "{which} of {name}, {value:?}: {got:?}, locally {expected:?}");
            }
        }
    }
    fails(set_xattr(&scene.path("l"), "system.posix_acl_access", &values[8], 0), libc::EOPNOTSUPP);
    scene.finish()
}

/// docs/semantics.md: "ACL | 511 entries".
#[test]
fn a_list_has_511_entries_and_no_more() -> Result<()> {
    let scene = Scene::new()?;
    let path = scene.path("file");
    fs::write(&path, "")?;
    // Version 2; the owner, so many users, the group, the mask and all others: tag, rights, who.
    let list = |entries: u32| {
        let entry =
            |tag: u16, id: u32| [tag.to_le_bytes(), 6_u16.to_le_bytes()].concat().into_iter().chain(id.to_le_bytes());
        let users = (0..entries - 4).map(|n| (2, 1000 + n));
        let all = [(1, u32::MAX)].into_iter().chain(users).chain([4, 16, 32].map(|tag| (tag, u32::MAX)));
        [2_u32.to_le_bytes().to_vec(), all.flat_map(|(tag, id)| entry(tag, id)).collect()].concat()
    };
    let access = "system.posix_acl_access";
    set_xattr(&path, access, &list(511), 0)?;
    let (_, kept) = get_xattr(&path, access, 1 << 16)?;
    assert!(kept == list(511));
    fails(set_xattr(&path, access, &list(512), 0), libc::E2BIG);
    assert!(get_xattr(&path, access, 1 << 16)?.1 == kept);
    scene.finish()
}
