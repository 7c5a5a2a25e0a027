//! A flipped bit in a stored chunk is never returned.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::Cluster;
use dfs_integration::tool::bytes;

/// All regular files below `dir` that hold content (not identity, locks or temporaries).
fn content_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Flips one bit in the middle of every occurrence of `needle` (a piece of known content) below `dir`.
fn flip_content(dir: &Path, needle: &[u8]) -> Result<usize> {
    let mut flips = 0;
    for path in content_files(dir)? {
        let data = fs::read(&path)?;
        let mut from = 0;
        while let Some(at) = data[from..].windows(needle.len()).position(|w| w == needle).map(|p| p + from) {
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            let middle = at + needle.len() / 2;
            file.write_all_at(&[data[middle] ^ 1], middle as u64)?;
            flips += 1;
            from = at + needle.len();
        }
    }
    Ok(flips)
}

/// docs/semantics.md: "A damaged replica is read around".
#[test]
fn a_flipped_bit_is_read_around_or_an_error() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    // A small chunk (in a log), and a big one (a file of its own), with known pieces to look for.
    let small = bytes(1, 5000);
    let big = bytes(2, 3 << 20);
    fs::write(mount.path.join("small"), &small)?;
    fs::write(mount.path.join("big"), &big)?;
    mount.unmount()?;
    for chunkd in cluster.chunkds.iter_mut().flatten() {
        chunkd.terminate(Duration::from_secs(10))?;
    }
    cluster.chunkds.iter_mut().for_each(|c| *c = None);

    for damaged in 0..3 {
        let dir = cluster.chunkd_dir(damaged);
        ensure!(flip_content(&dir, &small[1000..1064])? == 1, "the small chunk is in each store once");
        ensure!(flip_content(&dir, &big[2_000_000..2_000_064])? == 1, "the big chunk is in each store once");
        // Only the damaged stores first: with one or two of three damaged the third serves.
        cluster.start_missing()?;
        let mount = cluster.mount("mnt")?;
        let read_small = fs::read(mount.path.join("small"));
        let read_big = fs::read(mount.path.join("big"));
        if damaged < 2 {
            ensure!(read_small.context("small")? == small, "wrong bytes of the small file");
            ensure!(read_big.context("big")? == big, "wrong bytes of the big file");
        } else {
            ensure!(read_small.map_or(true, |data| data == small), "wrong bytes of the small file");
            ensure!(read_big.map_or(true, |data| data == big), "wrong bytes of the big file");
        }
        drop(mount);
        for chunkd in cluster.chunkds.iter_mut().flatten() {
            chunkd.terminate(Duration::from_secs(10))?;
        }
        cluster.chunkds.iter_mut().for_each(|c| *c = None);
    }
    Ok(())
}

/// docs/semantics.md: "with no good replica the read is `EIO`, never wrong bytes".
#[test]
fn with_every_replica_damaged_it_is_an_error_and_never_wrong_bytes() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let mut mount = cluster.mount("mnt")?;
    let big = bytes(3, 2 << 20);
    let small = bytes(4, 3000);
    fs::write(mount.path.join("big"), &big)?;
    fs::write(mount.path.join("small"), &small)?;
    mount.unmount()?;
    for chunkd in cluster.chunkds.iter_mut().flatten() {
        chunkd.terminate(Duration::from_secs(10))?;
    }
    cluster.chunkds.iter_mut().for_each(|c| *c = None);
    for n in 0..3 {
        flip_content(&cluster.chunkd_dir(n), &big[1_000_000..1_000_064])?;
        flip_content(&cluster.chunkd_dir(n), &small[500..564])?;
    }
    cluster.start_missing()?;
    let mount = cluster.mount("mnt")?;
    let file = fs::File::open(mount.path.join("big"))?;
    let mut block = vec![0; 4096];
    let error = file.read_at(&mut block, 1_000_000).expect_err("no replica has good bytes");
    ensure!(error.raw_os_error() == Some(libc::EIO), "{error}");
    let error = fs::read(mount.path.join("small")).expect_err("no replica has good bytes");
    ensure!(error.raw_os_error() == Some(libc::EIO), "{error}");
    Ok(())
}
