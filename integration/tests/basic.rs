//! The first things a user does.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use anyhow::Result;
use dfs_integration::cluster::Cluster;
use dfs_integration::tool::{bytes, sh};

#[test]
fn files_survive_a_remount_and_a_restart_of_everything() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    let root = mount.path.clone();
    let sizes = [0, 1, 4095, 4096, 16_384, 16_385, 100_000, 300_000, 3 << 20, 70 << 20];
    for (n, size) in sizes.into_iter().enumerate() {
        fs::write(root.join(format!("f{n}")), bytes(n as u64, size))?;
    }
    fs::create_dir_all(root.join("a/b/c"))?;
    fs::write(root.join("a/b/c/deep"), "deep")?;
    symlink("a/b/c/deep", root.join("link"))?;
    fs::hard_link(root.join("f1"), root.join("a/hard"))?;
    fs::rename(root.join("f2"), root.join("a/renamed"))?;
    fs::set_permissions(root.join("f3"), fs::Permissions::from_mode(0o640))?;
    mount.unmount()?;

    cluster.kill9_all()?;
    cluster.start_missing()?;
    let mut mount = cluster.mount("mnt")?;
    for (n, size) in sizes.into_iter().enumerate().filter(|(n, _)| *n != 2) {
        assert!(fs::read(root.join(format!("f{n}")))? == bytes(n as u64, size), "f{n} of {size} bytes");
    }
    assert_eq!(fs::read(root.join("a/renamed"))?, bytes(2, sizes[2]));
    assert_eq!(fs::read_to_string(root.join("link"))?, "deep");
    assert_eq!(fs::metadata(root.join("a/hard"))?.nlink(), 2);
    assert_eq!(fs::metadata(root.join("f3"))?.mode() & 0o7777, 0o640);
    assert!(!root.join("f2").exists());
    mount.unmount()?;
    cluster.expect_whole()?;
    Ok(())
}

#[test]
fn the_shell_finds_an_ordinary_filesystem() -> Result<()> {
    let cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    sh(
        &mount.path,
        r#"
        echo hello > a && cat a | grep -q hello
        echo more >> a && test "$(wc -l < a)" = 2
        mkdir d && mv a d/ && ls -l d | grep -q a
        ! mkdir d 2>/dev/null
        ! rmdir d 2>/dev/null
        ln -s d/a s && test "$(readlink s)" = d/a
        cp d/a b && cmp d/a b
        truncate -s 100000 b && test "$(stat -c %s b)" = 100000
        head -c 11 b | grep -q hello
        dd if=/dev/urandom of=sparse bs=4096 seek=1000 count=1 status=none
        test "$(stat -c %s sparse)" = 4100096 && test "$(stat -c %b sparse)" -lt 100
        chmod 600 b && test "$(stat -c %a b)" = 600
        touch -d 2001-02-03T04:05:06 b && test "$(stat -c %Y b)" = "$(date -d 2001-02-03T04:05:06 +%s)"
        mkfifo pipe && test -p pipe
        setfattr -n user.colour -v blue b && getfattr -n user.colour --only-values b | grep -q blue
        exec 5<>d/a && rm d/a && echo late >&5 && test "$(head -1 /proc/self/fd/5)" = late
        exec 5>&-
        for i in $(seq 1 1500); do echo $i > d/f$i; done
        test "$(ls d | wc -l)" = 1500
        rm -rf d && ! test -e d
        df . | tail -1 | grep -q dfs
    "#,
    )?;
    mount.unmount()?;
    cluster.expect_whole()?;
    Ok(())
}
