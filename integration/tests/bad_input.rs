//! Wrong flags, wrong directories, taken ports, full disks, servers that are gone: a clear error or a bounded wait.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::{Cluster, Options, free_port};
use dfs_integration::daemon::binary;
use dfs_integration::mount::is_mounted;
use dfs_integration::tool::{bytes, sh};

/// Runs a program that is expected to end soon.
fn run(program: &str, args: &[&str]) -> Result<Output> {
    let mut words = vec!["20".to_owned(), binary(program).display().to_string()];
    words.extend(args.iter().map(ToString::to_string));
    Command::new("timeout").args(words).output().context("timeout")
}

/// It ended with this code and its message has all these words.
fn refused(out: &Output, code: i32, words: &[&str]) -> Result<()> {
    let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.code() == Some(code), "exit {:?}, not {code}: {text}", out.status.code());
    for word in words {
        ensure!(text.contains(word), "no {word:?} in: {text}");
    }
    Ok(())
}

#[test]
fn wrong_flags_are_refused_with_exit_code_2() -> Result<()> {
    for program in ["metad", "chunkd", "dfs-fuse", "dfs"] {
        refused(&run(program, &["--no-such-flag"])?, 2, &["--no-such-flag"])?;
        let help = run(program, &["--help"])?;
        ensure!(help.status.success() && help.stdout.len() > 300, "{program} --help says too little");
    }
    refused(&run("metad", &["--data", "/nonexistent/x", "--replicas", "99"])?, 2, &["replicas", "99"])?;
    refused(&run("metad", &[])?, 2, &["--data"])?;
    refused(
        &run("dfs-fuse", &["127.0.0.1:1", "/mnt", "-o", "no_such_option", "--foreground"])?,
        2,
        &["no_such_option"],
    )?;
    Ok(())
}

#[test]
fn directories_that_are_foreign_in_use_or_of_another_version() -> Result<()> {
    let cluster = Cluster::start()?;
    let metad_dir = cluster.metad_dir().display().to_string();
    let chunkd_dir = cluster.chunkd_dir(0).display().to_string();
    let listen = format!("127.0.0.1:{}", free_port());
    refused(&run("metad", &["--data", &metad_dir, "--listen", &listen])?, 1, &["in use"])?;
    refused(&run("chunkd", &["--data", &chunkd_dir, "--meta", &cluster.meta])?, 1, &["in use"])?;
    let foreign = cluster.dir().join("photos");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("a.jpg"), "x")?;
    let foreign = foreign.display().to_string();
    refused(&run("metad", &["--data", &foreign, "--listen", &listen])?, 1, &[&foreign])?;
    refused(&run("chunkd", &["--data", &foreign, "--meta", &cluster.meta])?, 1, &[&foreign])?;
    refused(&run("metad", &["--data", &chunkd_dir, "--listen", &listen])?, 1, &[&chunkd_dir])?;
    refused(&run("chunkd", &["--data", "/dev/null/x", "--meta", &cluster.meta])?, 1, &["/dev/null/x"])?;
    refused(&run("metad", &["--data", "/dev/null/x", "--listen", &listen])?, 1, &["/dev/null/x"])?;
    Ok(())
}

#[test]
fn a_taken_port_and_bad_mountpoints() -> Result<()> {
    let taken = TcpListener::bind(("127.0.0.1", 0))?;
    let port = taken.local_addr()?.to_string();
    let cluster = Cluster::start()?;
    let data = cluster.dir().join("other").display().to_string();
    refused(&run("metad", &["--data", &data, "--listen", &port])?, 1, &[&port])?;
    refused(&run("chunkd", &["--data", &data, "--meta", &cluster.meta, "--listen", &port])?, 1, &[&port])?;
    refused(&run("dfs-fuse", &[&cluster.meta, "/nonexistent/mnt"])?, 1, &["/nonexistent/mnt"])?;
    let file = cluster.dir().join("file");
    fs::write(&file, "")?;
    refused(&run("dfs-fuse", &[&cluster.meta, &file.display().to_string()])?, 1, &["directory"])?;
    let mut mount = cluster.mount("mnt")?;
    refused(
        &run("dfs-fuse", &[&cluster.meta, &mount.path.display().to_string()])?,
        1,
        &["mountpoint already", "unmount it first"],
    )?;
    mount.unmount()
}

#[test]
fn without_metad_a_mount_fails_and_a_chunkd_waits() -> Result<()> {
    let nobody = format!("127.0.0.1:{}", free_port());
    let dir = tempfile::tempdir()?;
    let mnt = dir.path().join("mnt");
    fs::create_dir(&mnt)?;
    refused(&run("dfs-fuse", &[&nobody, &mnt.display().to_string()])?, 1, &[&nobody])?;
    ensure!(!is_mounted(&mnt), "nothing may be mounted");
    refused(&run("dfs", &["--meta", &nobody, "status"])?, 1, &[&nobody])?;
    // chunkds that come before metad are taken when it is there.
    let mut cluster = Cluster::start()?;
    let mut metad = cluster.metad.take().context("runs")?;
    metad.terminate(Duration::from_secs(20))?;
    cluster.chunkds[0].as_mut().context("runs")?.terminate(Duration::from_secs(10))?;
    cluster.start_chunkd(0)?;
    std::thread::sleep(Duration::from_secs(1));
    cluster.start_missing()
}

#[test]
fn who_has_seen_enough_of_a_report_gets_no_error() -> Result<()> {
    let cluster = Cluster::start()?;
    for arguments in [&["status"][..], &["status", "--json"]] {
        let mut command = Command::new(binary("dfs"));
        command.args(["--meta", &cluster.meta]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // As `head` does.
        drop(child.stdout.take());
        let done = child.wait_with_output()?;
        ensure!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let meta = &cluster.meta[..];
    for (daemon, arguments) in
        [("metad", &["--data", "/d"][..]), ("chunkd", &["--data", "/d", "--meta", meta]), ("dfs-fuse", &[meta, "/mnt"])]
    {
        let mut command = Command::new(binary(daemon));
        command.args(arguments).arg("--print-config").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        drop(child.stdout.take());
        let done = child.wait_with_output()?;
        ensure!(done.status.code() != Some(101) && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

#[test]
fn a_chunkd_of_another_cluster_is_refused() -> Result<()> {
    let mut one = Cluster::start()?;
    let two = Cluster::start()?;
    one.chunkds[0].as_mut().context("runs")?.terminate(Duration::from_secs(10))?;
    let dir = one.chunkd_dir(0).display().to_string();
    refused(&run("chunkd", &["--data", &dir, "--meta", &two.meta])?, 1, &["another filesystem"])
}

/// docs/semantics.md: "Requests wait up to 30 s for metad to come back, then fail with `EIO`".
/// docs/semantics.md: "The mount can always be unmounted, and works again when the servers are back".
#[test]
fn a_mount_whose_servers_are_gone_says_eio_can_be_unmounted_and_comes_back() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    fs::write(mount.path.join("kept"), "kept")?;
    sh(&mount.path, "sync kept")?;
    cluster.kill9_all()?;
    std::thread::sleep(Duration::from_secs(2));
    let began = Instant::now();
    let error = fs::create_dir(mount.path.join("x")).expect_err("nobody can answer");
    ensure!(error.raw_os_error() == Some(libc::EIO), "{error}");
    ensure!(began.elapsed() < Duration::from_secs(60), "EIO after {:?}", began.elapsed());
    cluster.start_missing()?;
    let until = Instant::now() + Duration::from_secs(20);
    while fs::read_to_string(mount.path.join("kept")).ok().as_deref() != Some("kept") {
        ensure!(Instant::now() < until, "the mount does not come back");
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.kill9_all()?;
    let out = Command::new("timeout").args(["60", "umount"]).arg(&mount.path).output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    mount.daemon.wait(Duration::from_secs(60))?;
    Ok(())
}

/// A filesystem of its own in a file; unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn new(dir: &'a Path, mib: u32) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let image = dir.with_extension("img");
        let (dir_text, image) = (dir.display(), image.display());
        sh(
            Path::new("/"),
            &format!("truncate -s {mib}M {image} && mkfs.ext4 -q -m 0 {image} && mount -o loop {image} {dir_text}"),
        )?;
        Ok(Self(dir))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0).output());
    }
}

/// docs/semantics.md: "When no store has room it fails with `ENOSPC`".
#[test]
fn full_stores_give_enospc_and_nothing_is_lost() -> Result<()> {
    let mut cluster = Cluster::start_with(Options { nodes: 0, ..Options::default() }.with_no_wait())?;
    let dirs: Vec<_> = (0..3).map(|n| cluster.chunkd_dir(n)).collect();
    let _disks: Vec<SmallDisk<'_>> = dirs.iter().map(|d| SmallDisk::new(d, 400)).collect::<Result<_>>()?;
    cluster.add_chunkds(3)?;
    let mut mount = cluster.mount("mnt")?;
    let mut kept = Vec::new();
    let mut full = false;
    for n in 0..60_u64 {
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(mount.path.join(format!("f{n}")))?;
            file.write_all(&bytes(n, 10 << 20))?;
            file.sync_all()
        };
        match write() {
            Ok(()) => kept.push(n),
            Err(e) => {
                ensure!(e.raw_os_error() == Some(libc::ENOSPC), "{e}");
                full = true;
                break;
            }
        }
    }
    ensure!(full && kept.len() > 10, "{} files were kept, full: {full}", kept.len());
    for n in &kept {
        ensure!(fs::read(mount.path.join(format!("f{n}")))? == bytes(*n, 10 << 20), "f{n} is damaged");
    }
    // Deleting works when all is full, and gives the space back.
    for n in 0..60 {
        drop(fs::remove_file(mount.path.join(format!("f{n}"))));
    }
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        let again = fs::File::create(mount.path.join("again")).and_then(|mut f| {
            f.write_all(&bytes(99, 20 << 20))?;
            f.sync_all()
        });
        match again {
            Ok(()) => break,
            Err(e) => ensure!(Instant::now() < until, "space does not come back: {e}"),
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    mount.unmount()?;
    for chunkd in cluster.chunkds.iter_mut().flatten() {
        chunkd.terminate(Duration::from_secs(10))?;
    }
    Ok(())
}

#[test]
fn one_full_store_is_not_noticed() -> Result<()> {
    let mut cluster = Cluster::start_with(Options { nodes: 0, ..Options::default() }.with_no_wait())?;
    let small = cluster.chunkd_dir(0);
    let _disk = SmallDisk::new(&small, 300)?;
    cluster.add_chunkds(3)?;
    let mut mount = cluster.mount("mnt")?;
    for n in 0..45_u64 {
        let mut file = fs::File::create(mount.path.join(format!("f{n}")))?;
        file.write_all(&bytes(n, 10 << 20))?;
        file.sync_all()?;
    }
    mount.unmount()?;
    let mut mount = cluster.mount("mnt")?;
    for n in 0..45_u64 {
        ensure!(fs::read(mount.path.join(format!("f{n}")))? == bytes(n, 10 << 20), "f{n} is damaged");
    }
    let (code, text) = cluster.fsck()?;
    ensure!(code == 2, "one store lacks copies, so the check says 2, not {code}: {text}");
    mount.unmount()?;
    cluster.chunkds[0].as_mut().context("runs")?.terminate(Duration::from_secs(10))?;
    Ok(())
}

/// Waits until no file in `dir` has come or gone for a second. After a start metad writes its tables anew in the
/// background; one that finds no space at all for that stops, and recovers from its log when it is started again.
fn wait_for_quiet(dir: &Path) -> Result<()> {
    let names = || -> Result<BTreeSet<OsString>> { Ok(fs::read_dir(dir)?.flatten().map(|e| e.file_name()).collect()) };
    let (until, mut last, mut since) = (Instant::now() + Duration::from_secs(60), names()?, Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        ensure!(Instant::now() < until, "{} does not come to rest", dir.display());
        std::thread::sleep(Duration::from_millis(50));
        let now = names()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// docs/semantics.md: "A namespace operation that returned".
#[test]
fn a_full_disk_of_metad_refuses_and_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start_with(Options { nodes: 0, ..Options::default() }.with_no_wait())?;
    cluster.metad.take().context("runs")?.terminate(Duration::from_secs(20))?;
    let home = cluster.metad_dir();
    fs::remove_dir_all(&home)?;
    let _disk = SmallDisk::new(&home, 200)?;
    cluster.add_chunkds(3)?;
    let mut mount = cluster.mount("mnt")?;
    fs::write(mount.path.join("before"), "before")?;
    sh(&mount.path, "sync before")?;
    wait_for_quiet(&home.join("kv"))?;
    // Somebody else fills the disk of the metadata.
    let ballast = home.join("ballast");
    drop(sh(Path::new("/"), &format!("dd if=/dev/zero of={} bs=1M 2>/dev/null", ballast.display())));
    let until = Instant::now() + Duration::from_secs(30);
    let mut made = Vec::new();
    let error = loop {
        ensure!(Instant::now() < until, "the full disk is never noticed");
        let name = format!("d{}", made.len());
        match fs::create_dir(mount.path.join(&name)) {
            Ok(()) => made.push(name),
            Err(e) => break e,
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    ensure!(error.raw_os_error() == Some(libc::ENOSPC), "{error}");
    // Removing works, and all that was acknowledged is there, also after a crash.
    if let Some(first) = made.first() {
        fs::remove_dir(mount.path.join(first))?;
    }
    fs::remove_file(&ballast)?;
    cluster.metad.take().context("runs")?.kill9()?;
    cluster.start_metad()?;
    for name in made.iter().skip(1) {
        ensure!(mount.path.join(name).is_dir(), "{name} was acknowledged and is gone");
    }
    ensure!(fs::read_to_string(mount.path.join("before"))? == "before", "content lost");
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(e) = fs::create_dir(mount.path.join("after")) {
        ensure!(Instant::now() < until, "space is back, but: {e}");
        std::thread::sleep(Duration::from_millis(200));
    }
    mount.unmount()?;
    cluster.metad.take().context("runs")?.terminate(Duration::from_secs(20))?;
    Ok(())
}

/// Removing takes no space but makes work: so much of it that metad has to write its tables anew while its disk is full.
#[test]
fn a_metad_that_cannot_write_its_tables_goes_on_until_it_can() -> Result<()> {
    let mut cluster = Cluster::start_with(Options { nodes: 0, ..Options::default() }.with_no_wait())?;
    cluster.metad.take().context("runs")?.terminate(Duration::from_secs(20))?;
    let home = cluster.metad_dir();
    fs::remove_dir_all(&home)?;
    let _disk = SmallDisk::new(&home, 200)?;
    cluster.add_chunkds(3)?;
    let mut mount = cluster.mount("mnt")?;
    let make = "for i in 1 2 3 4; do (mkdir d$i; cd d$i; for n in {1..2000}; do : > $n; done) 2>/dev/null & done; wait";
    sh(&mount.path, &format!("{make}; echo kept > kept; sync kept"))?;
    wait_for_quiet(&home.join("kv"))?;
    let ballast = home.join("ballast");
    drop(sh(Path::new("/"), &format!("dd if=/dev/zero of={} bs=1M 2>/dev/null", ballast.display())));
    // What does not go for want of space has to go later. A mount waits for a metad that has ended.
    let remove = "for i in 1 2 3 4; do timeout 60 rm -rf d$i 2>/dev/null & done; wait; timeout 20 ls";
    let left = sh(&mount.path, remove)?;
    ensure!(left.contains("kept") && fs::read_to_string(mount.path.join("kept"))? == "kept\n", "not read: {left}");
    let output = || fs::read_to_string(cluster.log("metad"));
    ensure!(output()?.contains("the state is not flushed until there is space"), "it was never short of space");

    fs::remove_file(&ballast)?;
    let until = Instant::now() + Duration::from_secs(20);
    while !mount.path.join("after").exists() || !output()?.contains("there is space to flush the state again") {
        ensure!(Instant::now() < until, "space is back, but nothing is flushed");
        drop(fs::create_dir(mount.path.join("after")));
        std::thread::sleep(Duration::from_millis(200));
    }
    let left = sh(&mount.path, remove)?;
    ensure!(!left.contains("d1") && left.contains("after"), "space is back, but there is: {left}");
    ensure!(cluster.metad.as_mut().context("runs")?.ended()?.is_none(), "it has ended");
    cluster.metad.take().context("runs")?.kill9()?;
    cluster.start_metad()?;
    ensure!(fs::read_to_string(mount.path.join("kept"))? == "kept\n", "content lost");
    let (code, text) = cluster.fsck()?;
    ensure!(code == 0, "the check says {code}: {text}");
    mount.unmount()?;
    cluster.metad.take().context("runs")?.terminate(Duration::from_secs(20))?;
    Ok(())
}

#[test]
fn the_mount_helper_form_works() -> Result<()> {
    let cluster = Cluster::start()?;
    let mnt = cluster.dir().join("helper");
    fs::create_dir(&mnt)?;
    let log = cluster.log("helper").display().to_string();
    let options = format!("rw,nosuid,_netdev,x-systemd.automount,log_file={log}");
    let out = run("dfs-fuse", &[&cluster.meta, &mnt.display().to_string(), "-o", &options])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    ensure!(is_mounted(&mnt), "it returned before the mount was there");
    let used = fs::write(mnt.join("a"), "a").and_then(|()| fs::read_to_string(mnt.join("a")));
    let umount = Command::new("fusermount3").arg("-u").arg(&mnt).output()?;
    ensure!(umount.status.success(), "{}", String::from_utf8_lossy(&umount.stderr));
    ensure!(used? == "a", "it does not read back");
    // The process ends by itself once all is saved; then another mount sees it.
    let mut again = cluster.mount("again")?;
    let until = Instant::now() + Duration::from_secs(20);
    while fs::read_to_string(again.path.join("a")).ok().as_deref() != Some("a") {
        ensure!(Instant::now() < until, "what was written before the unmount is not there");
        std::thread::sleep(Duration::from_millis(100));
    }
    again.unmount()
}
