//! The first things a user does.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use dfs_integration::cluster::{Cluster, free_port};
use dfs_integration::daemon::binary;
use dfs_integration::mount::is_mounted;
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

/// docs/semantics.md: "On one mount everything behaves as on a local filesystem".
#[test]
fn the_shell_finds_an_ordinary_filesystem() -> Result<()> {
    let cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    sh(
        &mount.path,
        r#"
        echo hello > a; cat a | grep -q hello
        echo more >> a; test "$(wc -l < a)" = 2
        mkdir d; mv a d/; ls -l d | grep -q a
        not mkdir d 2>/dev/null
        not rmdir d 2>/dev/null
        ln -s d/a s; test "$(readlink s)" = d/a
        cp d/a b; cmp d/a b
        truncate -s 100000 b; test "$(stat -c %s b)" = 100000
        head -c 11 b | grep -q hello
        dd if=/dev/urandom of=sparse bs=4096 seek=1000 count=1 status=none
        test "$(stat -c %s sparse)" = 4100096; test "$(stat -c %b sparse)" -lt 100
        chmod 600 b; test "$(stat -c %a b)" = 600
        touch -d 2001-02-03T04:05:06 b; test "$(stat -c %Y b)" = "$(date -d 2001-02-03T04:05:06 +%s)"
        mkfifo pipe; test -p pipe
        setfattr -n user.colour -v blue b; getfattr -n user.colour --only-values b | grep -q blue
        exec 5<>d/a; rm d/a; echo late >&5; test "$(head -1 /proc/self/fd/5)" = late
        exec 5>&-
        for i in $(seq 1 1500); do echo $i > d/f$i; done
        test "$(ls d | wc -l)" = 1500
        rm -rf d; not test -e d
        df . | tail -1 | grep -q dfs
    "#,
    )?;
    mount.unmount()?;
    cluster.expect_whole()?;
    Ok(())
}

/// What `dfs dev up` has started, whatever happens.
struct Dev(PathBuf);

impl Dev {
    fn run(dir: &Path, verb: &str, more: &[&str]) -> Result<(bool, String)> {
        let out = Command::new(binary("dfs")).args(["dev", verb, "--dir"]).arg(dir).args(more).output()?;
        let text = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        Ok((out.status.success(), text))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Where nothing runs any more, it says so.
        if let Err(e) = Self::run(&self.0, "down", &[]) {
            eprintln!("{e:#}");
        }
    }
}

#[test]
fn a_second_cluster_on_a_taken_port_is_refused_and_does_not_join_the_first() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (one, two, link) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("link"));
    symlink(&one, &link)?;
    let port = free_port().to_string();
    let mount = dir.path().join("mnt").display().to_string();
    let (first, second) = (Dev(one.clone()), Dev(two.clone()));
    let (up, text) = Dev::run(&one, "up", &["--port", &port, "--mount", &mount])?;
    ensure!(up, "{text}");
    let (up, text) = Dev::run(&two, "up", &["--port", &port, "--mount", &format!("{mount}2")])?;
    ensure!(!up && text.contains("metad"), "{text}");
    ensure!(!two.join("chunkd-1").exists(), "a chunk daemon was started");
    let status =
        Command::new(binary("dfs")).args(["--meta", &format!("127.0.0.1:{port}"), "status", "--json"]).output()?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    ensure!(status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3), "{status}");
    // The directory is the same by whatever name.
    fs::write(Path::new(&mount).join("file"), "content")?;
    let (down, text) = Dev::run(&link, "down", &[])?;
    ensure!(down && text.contains("stopped   dfs-fuse, chunkd-1, chunkd-2, chunkd-3, metad"), "{text}");
    let (up, text) = Dev::run(&link, "up", &[])?;
    ensure!(up, "{text}");
    ensure!(fs::read_to_string(Path::new(&mount).join("file"))? == "content");
    // Nothing is forgotten that still runs.
    fs::rename(one.join("run/metad.pid"), one.join("run/aside"))?;
    let (down, text) = Dev::run(&one, "down", &[])?;
    ensure!(!down && text.contains("is in use by a process"), "{text}");
    fs::rename(one.join("run/aside"), one.join("run/metad.pid"))?;
    drop((second, first));
    ensure!(!is_mounted(Path::new(&mount)), "it is still mounted");
    Ok(())
}
