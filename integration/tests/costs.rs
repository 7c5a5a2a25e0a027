//! What things may cost: requests counted, memory bounded.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::cluster::{Cluster, Options};
use dfs_integration::tool::{bytes, sh};

/// What is done to a file, and how long it is then.
type Change<'a> = (&'a str, &'a dyn Fn(&File) -> std::io::Result<()>, usize);

#[test]
fn fsync_of_a_small_file_is_one_request_to_each_node_and_one_commit() -> Result<()> {
    let cluster = Cluster::start_with(Options { metrics: true, ..Options::default() })?;
    let mut mount = cluster.mount("mnt")?;
    for n in 0..5 {
        let mut file = File::create(mount.path.join(format!("f{n}")))?;
        std::thread::sleep(Duration::from_millis(100));
        let before: Vec<f64> = per_node(&cluster)?;
        let commits = cluster.metric(0, "dfs_metad_commits_total")?;
        file.write_all(&bytes(n, 4096))?;
        file.sync_all()?;
        let spent: Vec<f64> = per_node(&cluster)?.iter().zip(&before).map(|(a, b)| a - b).collect();
        ensure!(spent == [1.0, 1.0, 1.0], "uploads per node: {spent:?}");
        let commits = cluster.metric(0, "dfs_metad_commits_total")? - commits;
        ensure!((commits - 1.0).abs() < 0.1, "{commits} commits for one fsync");
    }
    mount.unmount()
}

/// docs/semantics.md: "`rename`, `link` and `truncate` of a file with unsaved data commit after that data".
/// docs/semantics.md: "Such an operation and that data are one commit".
#[test]
fn a_change_of_a_file_with_unsaved_data_is_one_commit() -> Result<()> {
    let cluster = Cluster::start_with(Options { metrics: true, ..Options::default() })?;
    let mut mount = cluster.mount("mnt")?;
    let path = |name: &str| mount.path.join(name);
    for n in 0..3 {
        let changes: [Change; 3] = [
            ("rename", &|_| fs::rename(path("temp"), path("target")), 4096),
            ("link", &|_| fs::hard_link(path("target"), path("other")), 5096),
            ("truncate", &|file| file.set_len(5500), 5500),
        ];
        let mut file = File::create(path("temp"))?;
        for (what, change, len) in changes {
            std::thread::sleep(Duration::from_millis(100));
            let puts = per_node(&cluster)?;
            let commits = cluster.metric(0, "dfs_metad_commits_total")?;
            let data = bytes(n, if what == "rename" { 4096 } else { 1000 });
            file.write_all(&data)?;
            change(&file)?;
            let spent: Vec<f64> = per_node(&cluster)?.iter().zip(&puts).map(|(a, b)| a - b).collect();
            ensure!(spent == [1.0, 1.0, 1.0], "{what}: uploads per node: {spent:?}");
            let commits = cluster.metric(0, "dfs_metad_commits_total")? - commits;
            ensure!((commits - 1.0).abs() < 0.1, "{what}: {commits} commits");
            // The data is not only in this mount's buffer.
            let found = fs::read(path("target"))?;
            ensure!(found.len() == len, "{what}: {} bytes", found.len());
            ensure!(found[..4096] == bytes(n, 4096), "{what}: other bytes than were written");
        }
        fs::remove_file(path("other"))?;
    }
    mount.unmount()
}

/// docs/semantics.md: "copied whole into an empty one is saved later, as if it had been written".
#[test]
fn copies_of_small_files_are_one_commit_for_many_besides_their_creation_and_upload_nothing() -> Result<()> {
    let cluster = Cluster::start_with(Options { metrics: true, ..Options::default() })?;
    let mut mount = cluster.mount("mnt")?;
    let point = mount.path.clone();
    let path = |name: &str| point.join(name);
    fs::write(path("source"), bytes(1, 5000))?;
    File::open(path("source"))?.sync_all()?;
    let uploads = per_node(&cluster)?;
    let before = cluster.metric(0, "dfs_metad_commits_total")?;
    for n in 0..20 {
        // Asks for more than there is, and again at the end.
        let mut target = File::create(path(&format!("copy{n}")))?;
        let copied = std::io::copy(&mut File::open(path("source"))?, &mut target)?;
        ensure!(copied == 5000, "{copied} bytes copied");
    }
    sh(&mount.path, "sync .")?;
    let commits = cluster.metric(0, "dfs_metad_commits_total")? - before;
    // The time of the reading is told once, in a commit of its own, at some moment.
    ensure!(commits < 26.0, "{commits} commits");
    ensure!(per_node(&cluster)? == uploads, "bytes were uploaded that are there");
    mount.unmount()?;
    let mut mount = cluster.mount("mnt")?;
    for n in 0..20 {
        ensure!(fs::read(mount.path.join(format!("copy{n}")))? == bytes(1, 5000), "other bytes");
    }
    mount.unmount()
}

fn per_node(cluster: &Cluster) -> Result<Vec<f64>> {
    let one = |n| -> Result<f64> {
        Ok(cluster.metric(n, "dfs_chunkd_put_requests_total")?
            + cluster.metric(n, "dfs_chunkd_put_batch_requests_total")?)
    };
    (1..=3).map(one).collect()
}

#[test]
fn memory_stays_bounded_while_four_write_and_four_read() -> Result<()> {
    const MIB: u64 = 1 << 20;
    const FILE: u64 = 256 * MIB;
    let cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    let root = mount.path.clone();
    for n in 0..4_u64 {
        let mut file = File::create(root.join(format!("r{n}")))?;
        for b in 0..FILE / MIB {
            file.write_all(&bytes(n << 32 | b, MIB as usize))?;
        }
        file.sync_all()?;
    }
    let stop = AtomicBool::new(false);
    let peak = std::thread::scope(|scope| -> Result<(u64, u64)> {
        let mut work = Vec::new();
        for n in 0..4_u64 {
            let (root, stop) = (&root, &stop);
            work.push(scope.spawn(move || -> Result<()> {
                let mut file = File::open(root.join(format!("r{n}")))?;
                let mut block = vec![0; MIB as usize];
                while !stop.load(Ordering::Relaxed) {
                    file.seek(SeekFrom::Start(0))?;
                    for b in 0..FILE / MIB {
                        file.read_exact(&mut block)?;
                        ensure!(b % 64 != 0 || block == bytes(n << 32 | b, MIB as usize), "r{n}, MiB {b}: wrong bytes");
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                }
                Ok(())
            }));
            work.push(scope.spawn(move || -> Result<()> {
                let block = bytes(n, MIB as usize);
                let mut round = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let mut file =
                        OpenOptions::new().write(true).create(true).truncate(true).open(root.join(format!("w{n}")))?;
                    for _ in 0..FILE / MIB {
                        round += 1;
                        file.write_all(&round.to_le_bytes())?;
                        file.write_all(&block[8..])?;
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                }
                Ok(())
            }));
        }
        let until = Instant::now() + Duration::from_secs(25);
        let (mut client, mut chunkd) = (0, 0);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(200));
            client = client.max(mount.daemon.resident()?);
            for daemon in cluster.chunkds.iter().flatten() {
                chunkd = chunkd.max(daemon.resident()?);
            }
        }
        stop.store(true, Ordering::Relaxed);
        for thread in work {
            thread.join().expect("no panic")?;
        }
        Ok((client, chunkd))
    })?;
    eprintln!("peak resident memory: dfs-fuse {} MiB, chunkd {} MiB", peak.0 / MIB, peak.1 / MIB);
    ensure!(peak.0 < 400 * MIB, "dfs-fuse used {} MiB", peak.0 / MIB);
    ensure!(peak.1 < 200 * MIB, "a chunkd used {} MiB", peak.1 / MIB);
    for n in 0..4 {
        fs::remove_file(root.join(format!("w{n}")))?;
    }
    mount.unmount()
}
