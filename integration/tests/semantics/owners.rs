//! Owners, modes and who may do what. Needs root, as mounting does.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use anyhow::Result;
use dfs_integration::tool::sh;

use crate::{Scene, as_nobody};

/// A scene that users without rights can reach.
fn open_scene() -> Result<Scene> {
    let scene = Scene::new()?;
    fs::set_permissions(scene.cluster.dir(), Permissions::from_mode(0o755))?;
    fs::set_permissions(&scene.mount.path, Permissions::from_mode(0o755))?;
    Ok(scene)
}

#[test]
fn permissions_are_enforced() -> Result<()> {
    let scene = open_scene()?;
    sh(
        &scene.mount.path,
        r"
        echo secret > private; chmod 600 private
        echo news > public; chmod 644 public
        echo team > team; chown 0:4321 team; chmod 660 team
        echo mine > mine; chown 65534:65534 mine; chmod 600 mine
        mkdir closed; echo x > closed/x; chmod 711 closed
        mkdir locked; echo x > locked/x; chmod 700 locked
        mkdir home; chown 65534:65534 home
        printf '#!/bin/sh\necho ran\n' > run; chmod 754 run
    ",
    )?;
    as_nobody(
        &scene.mount.path,
        r#"
        not cat private
        grep -q news public
        not bash -c 'echo x >> public'
        not bash -c 'echo x >> team'
        grep -q mine mine; echo more >> mine
        not ls closed
        cat closed/x
        not cat locked/x
        not touch new
        not mkdir new
        not rm -f public
        not mv public other
        not ln -s x new
        not chmod 777 public
        not chown 65534 public
        not chown 0 mine
        not truncate -s 0 public
        not touch -d 2001-01-01 public
        not ./run
        not setfattr -n user.x -v 1 public
        chmod 640 mine
        cd home; mkdir d; echo y > d/y; mv d/y z; ln z zz; rm -r d z
        umask 027; echo new > masked; mkdir masked-dir
        test "$(stat -c %a:%u:%g masked)" = 640:65534:65534
        test "$(stat -c %a:%u:%g masked-dir)" = 750:65534:65534
    "#,
    )?;
    // A group that comes with the process counts.
    sh(&scene.mount.path, "setpriv --reuid=65534 --regid=65534 --groups=4321 bash -c 'echo x >> team; cat team'")?;
    assert_eq!(fs::read_to_string(scene.path("public"))?, "news\n");
    scene.finish()
}

#[test]
fn a_sticky_directory_protects_what_others_own() -> Result<()> {
    let scene = open_scene()?;
    sh(&scene.mount.path, "mkdir tmp; chmod 1777 tmp; echo r > tmp/root; mkdir tmp/rootdir; chmod 777 tmp/rootdir")?;
    as_nobody(
        &scene.mount.path,
        r"
        echo n > tmp/nobody
        not rm -f tmp/root
        not mv tmp/root tmp/other
        not mv tmp/nobody tmp/root
        not rmdir tmp/rootdir
        echo y > tmp/rootdir/y
        mv tmp/nobody tmp/rootdir/
        rm tmp/rootdir/nobody
    ",
    )?;
    assert_eq!(fs::read_to_string(scene.path("tmp/root"))?, "r\n");
    assert_eq!(fs::metadata(scene.path("tmp"))?.mode() & 0o7777, 0o1777);
    scene.finish()
}

#[test]
fn a_setgid_directory_gives_its_group() -> Result<()> {
    let scene = open_scene()?;
    sh(
        &scene.mount.path,
        r#"
        mkdir shared; chown 0:4321 shared; chmod 2777 shared
        cd shared
        touch file; mkdir dir; mkfifo pipe; ln -s x link; mkdir -m 700 tight
        for f in file dir pipe link tight; do test "$(stat -c %g $f)" = 4321; done
        test "$(stat -c %a dir)" = 2755
        test "$(stat -c %a tight)" = 2700
        mkdir dir/sub && test "$(stat -c %a:%g dir/sub)" = 2755:4321
        mkdir ../plain && mv ../plain . && test "$(stat -c %a:%g plain)" = 755:0
    "#,
    )?;
    as_nobody(
        &scene.path("shared"),
        r#"
        echo x > by-nobody; test "$(stat -c %u:%g by-nobody)" = 65534:4321
        mkdir dir-by-nobody; test "$(stat -c %a:%g dir-by-nobody)" = 2755:4321
        # Who is not in a file's group cannot make it setgid.
        chmod 2755 by-nobody; test "$(stat -c %a by-nobody)" = 755
    "#,
    )?;
    scene.finish()
}

/// docs/semantics.md: "Who is not root loses setuid and setgid of a file by these calls as by a write".
#[test]
fn setuid_and_setgid_go_when_somebody_else_changes_the_file() -> Result<()> {
    let mut scene = open_scene()?;
    let names = ["write", "truncate", "open", "chown", "byroot", "nogroup"];
    for name in names {
        fs::write(scene.path(name), "program")?;
        chown(scene.path(name), Some(65534), Some(65534))?;
        let mode = if name == "nogroup" { 0o6745 } else { 0o6755 };
        fs::set_permissions(scene.path(name), Permissions::from_mode(mode))?;
        assert_eq!(fs::metadata(scene.path(name))?.mode() & 0o7777, mode, "{name}");
    }
    as_nobody(
        &scene.mount.path,
        r"
        test -u write && test -g write
        printf x >> write; not test -u write; not test -g write
        truncate -s 3 truncate; not test -u truncate; not test -g truncate
        : > open; not test -u open; not test -g open
    ",
    )?;
    // Root may keep them when it writes; a new owner does not inherit them.
    sh(&scene.mount.path, "printf x >> byroot; chown 1234 chown nogroup")?;
    for _ in 0..2 {
        let mode = |name: &str| fs::metadata(scene.path(name)).map(|m| m.mode() & 0o7777);
        for name in ["write", "truncate", "open", "chown"] {
            assert_eq!(mode(name)?, 0o755, "{name}");
        }
        assert_eq!(mode("byroot")?, 0o6755);
        // Without group execution it stays for who is in the group, or is root.
        assert_eq!(mode("nogroup")?, 0o2745);
        scene.remount()?;
    }
    scene.finish()
}

/// docs/semantics.md: "Setgid without group execution stays for who is in the file's group".
#[test]
fn setgid_without_group_execution_goes_when_a_stranger_changes_the_file() -> Result<()> {
    let scene = open_scene()?;
    let script = r#"
        for way in write durable truncate open fallocate copy chown; do
            for group in 65534 1234; do
                printf program > $way.$group; chown 65534:$group $way.$group; chmod 2746 $way.$group
            done
        done
        setpriv --reuid 65534 --regid 65534 --clear-groups bash -e <<'END'
            for group in 65534 1234; do
                printf x >> write.$group
                dd if=/dev/zero of=durable.$group bs=9 count=1 conv=notrunc oflag=dsync status=none
                truncate -s 3 truncate.$group
                : > open.$group
                fallocate -p -o 1 -l 2 fallocate.$group
                python3 -c "import os; f = os.open('copy.$group', os.O_RDWR); os.copy_file_range(f, f, 3, 0, 9)"
                chown 65534:65534 chown.$group
            done
END
        stat -c '%n %a' *.65534 *.1234
    "#;
    let local = scene.cluster.dir().join("local");
    fs::create_dir(&local)?;
    fs::set_permissions(&local, Permissions::from_mode(0o755))?;
    let (expected, got) = (sh(&local, script)?, sh(&scene.mount.path, script)?);
    assert_eq!(got, expected);
    for way in ["write", "durable", "truncate", "open", "fallocate", "copy", "chown"] {
        let mode = |group: u32| got.lines().find_map(|l| l.strip_prefix(&format!("{way}.{group} ")));
        assert_eq!((mode(65534), mode(1234)), (Some("2746"), Some("746")), "{way}");
    }
    scene.finish()
}

#[test]
fn capabilities_go_with_a_write_wherever_it_goes_and_an_empty_value_stays() -> Result<()> {
    let scene = open_scene()?;
    let script = r#"
        names() { python3 -c 'import os, sys; print(*[(f, os.listxattr(f)) for f in sys.argv[1:]], sep="\n")' *; }
        for way in write append; do
            printf program > $way; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 $way
            printf program > $way.empty; setfattr -n security.capability -v '' $way.empty
        done
        names
        for file in write write.empty; do dd if=/dev/zero of=$file bs=9 count=1 conv=notrunc status=none; done
        for file in append append.empty; do printf x >> $file; done
        names
    "#;
    let local = scene.cluster.dir().join("local");
    fs::create_dir(&local)?;
    let (expected, got) = (sh(&local, script)?, sh(&scene.mount.path, script)?);
    assert_eq!(got, expected);
    assert_eq!(got.matches("capability").count(), 4 + 2, "{got}");
    scene.finish()
}
