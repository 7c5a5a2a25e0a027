//! Bits that flip on the disk of a running node, and copies that vanish.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::cluster::{Cluster, Options};
use dfs_integration::tool::{bytes, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::load::{Load, drop_pages};
use crate::watch::{quick, until_whole};

/// Files below these directories of a store, with their lengths.
fn files(store: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut left = vec![store.join("chunks"), store.join("logs")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() { left.push(entry.path()) } else { found.push((entry.path(), meta.len())) }
        }
    }
    found.sort();
    Ok(found)
}

fn flip(path: &Path, at: u64, bit: u8) -> Result<()> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
    Ok(())
}

/// docs/semantics.md: "A damaged replica is read around, reported and replaced".
#[test]
fn a_thousand_flipped_bits_are_found_and_healed() -> Result<()> {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let chunkd = ["--scrub-mib-s", "1000"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start_with(Options { chunkd, ..quick(3) })?;
    let mount = cluster.mount("mnt")?;
    let (bigs, smalls) = (30, 300);
    for n in 0..bigs {
        fs::write(mount.path.join(format!("big{n}")), bytes(n, 1 << 20))?;
    }
    for n in 0..smalls {
        fs::write(mount.path.join(format!("small{n}")), bytes(n, 3000))?;
    }
    ensure!(cluster.dfs(&["sync", mount.path.to_str().unwrap_or_default()])?.status.success());
    let load = Load::start(&mount.path, 1, seed)?;
    let store = cluster.chunkd_dir(1);
    for _ in 0..1000 {
        let files = files(&store)?;
        let (path, len) = &files[rng.random_range(0..files.len())];
        // Some are deleted meanwhile, and of a log only what is written has a meaning.
        let end = if path.extension().is_some() { (*len).min(2 << 20) } else { *len };
        drop(flip(path, rng.random_range(0..end.max(1)), rng.random_range(0..8)));
    }
    let began = Instant::now();
    let passes = cluster.metric(2, "dfs_chunkd_scrub_passes_total")?;
    while cluster.metric(2, "dfs_chunkd_scrub_passes_total")? < passes + 2.0 {
        ensure!(began.elapsed() < Duration::from_secs(180), "the scrub does not get through");
        std::thread::sleep(Duration::from_millis(200));
    }
    load.finish()?;
    let found = cluster.metric(2, "dfs_chunkd_corrupt_chunks_total")?;
    ensure!(found > 20.0, "only {found} damaged chunks were found");
    until_whole(&cluster, Duration::from_secs(60))?;
    cluster.wait_fsck(0, Duration::from_secs(30))?;
    drop(mount);

    // Only the node whose disk had rotted is left: what it has now is right.
    for other in [0, 2] {
        cluster.chunkds[other].take().expect("it runs").kill9()?;
    }
    let mount = cluster.mount("again")?;
    for n in 0..bigs {
        ensure!(fs::read(mount.path.join(format!("big{n}")))? == bytes(n, 1 << 20), "big{n}");
    }
    for n in 0..smalls {
        ensure!(fs::read(mount.path.join(format!("small{n}")))? == bytes(n, 3000), "small{n}");
    }
    Ok(())
}

/// Every copy of one chunk is damaged: that range is an error, the rest reads, and fsck names the file.
/// docs/semantics.md: "with no good replica the read is `EIO`, never wrong bytes".
#[test]
fn what_no_store_has_is_an_error_for_that_range_and_named() -> Result<()> {
    let cluster = Cluster::start_with(quick(3))?;
    let mount = cluster.mount("mnt")?;
    let path = mount.path.join("file");
    // Two chunks of 64 MiB would do as well; synced pieces are chunks of their own and quicker to write.
    let parts: Vec<Vec<u8>> = (0..3).map(|n| bytes(n, 1 << 20)).collect();
    let file = fs::File::create(&path)?;
    for (n, part) in parts.iter().enumerate() {
        file.write_all_at(part, (n as u64) << 20)?;
        file.sync_all()?;
    }
    let piece = &parts[1][500_000..500_064];
    for n in 0..3 {
        let mut flipped = 0;
        for (path, _) in files(&cluster.chunkd_dir(n))? {
            let data = fs::read(&path)?;
            if let Some(at) = data.windows(piece.len()).position(|w| w == piece) {
                flip(&path, at as u64, 3)?;
                flipped += 1;
            }
        }
        ensure!(flipped == 1, "chunkd {n} has the piece {flipped} times");
    }
    drop(file);
    drop_pages(&path)?;
    let file = fs::File::open(&path)?;
    let mut block = vec![0; 4096];
    let began = Instant::now();
    let error = file.read_at(&mut block, (1 << 20) + 500_000).expect_err("no store has good bytes");
    ensure!(error.raw_os_error() == Some(libc::EIO), "{error}");
    ensure!(began.elapsed() < Duration::from_secs(60));
    for n in [0, 2] {
        let mut part = vec![0; 1 << 20];
        file.read_exact_at(&mut part, n << 20)?;
        ensure!(part == parts[n as usize], "part {n}");
    }
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let (code, text) = cluster.fsck()?;
        if code == 1 && text.contains("/file has lost its bytes 1048576 to 2097151") {
            return Ok(());
        }
        ensure!(Instant::now() < until, "fsck gives {code}:\n{text}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Files that vanish from a store are missed by nobody until somebody compares.
#[test]
fn copies_that_vanished_are_found_by_comparing() -> Result<()> {
    let mut cluster = Cluster::start_with(quick(3))?;
    let mount = cluster.mount("mnt")?;
    for n in 0..10 {
        fs::write(mount.path.join(format!("big{n}")), bytes(n, 1 << 20))?;
    }
    ensure!(cluster.dfs(&["sync", mount.path.to_str().unwrap_or_default()])?.status.success());
    cluster.chunkds[1].take().expect("it runs").terminate(Duration::from_secs(10))?;
    let big: Vec<_> = files(&cluster.chunkd_dir(1))?.into_iter().filter(|f| f.0.extension().is_none()).collect();
    ensure!(big.len() == 10);
    for (path, _) in big.iter().take(4) {
        fs::remove_file(path)?;
    }
    cluster.start_missing()?;
    let began = Instant::now();
    loop {
        // While it starts there are no metrics yet.
        let copied = cluster.metric(2, "dfs_chunkd_resync_chunks_total");
        if copied.as_ref().is_ok_and(|n| *n >= 4.0) {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "they do not come back: {copied:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    until_whole(&cluster, Duration::from_secs(20))?;
    ensure!(files(&cluster.chunkd_dir(1))?.iter().filter(|f| f.0.extension().is_none()).count() == 10);
    let out = cluster.dfs(&["reconcile", "--json"])?;
    let stores: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let none = |what: &str| stores.as_array().is_some_and(|s| s.len() == 3 && s.iter().all(|s| s[what] == 0));
    ensure!(none("lacking") && none("unknown") && out.status.success(), "{stores:#}");
    Ok(())
}
