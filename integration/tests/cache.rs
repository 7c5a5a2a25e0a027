//! The cache on disk of a mount: kept over restarts, never wrong, never larger than it may be.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::{Cluster, free_port};
use dfs_integration::mount::Mount;
use dfs_integration::tool::{bytes, metric};

const BIG: usize = 20 << 20;
const SCATTERED: usize = 4 << 20;
const SMALL: u64 = 100;
const BLOCK: usize = 4096;

/// A mount with a cache of 64 MiB, and where its metrics are.
fn mount(cluster: &Cluster, cache: &Path) -> Result<(Mount, u16)> {
    let port = free_port();
    let options = format!("cache={},cache_size=64M,metrics=127.0.0.1:{port}", cache.display());
    Ok((cluster.mount_with("mnt", &["-o", &options])?, port))
}

fn small(n: u64) -> Vec<u8> {
    bytes(100 + n, 200 + 900 * n as usize)
}

fn write_files(dir: &Path) -> Result<()> {
    fs::write(dir.join("big"), bytes(1, BIG))?;
    fs::write(dir.join("scattered"), bytes(2, SCATTERED))?;
    fs::create_dir(dir.join("small"))?;
    (0..SMALL).try_for_each(|n| fs::write(dir.join("small").join(n.to_string()), small(n)))?;
    Ok(())
}

/// Reads all of it, one file in blocks here and there, and compares.
#[allow(unsafe_code)]
fn read_files(dir: &Path) -> Result<()> {
    ensure!(fs::read(dir.join("big")).context("big")? == bytes(1, BIG), "wrong bytes");
    for n in 0..SMALL {
        let name = dir.join("small").join(n.to_string());
        ensure!(fs::read(&name).with_context(|| name.display().to_string())? == small(n), "wrong bytes: {n}");
    }
    let (file, want) = (fs::File::open(dir.join("scattered"))?, bytes(2, SCATTERED));
    // SAFETY: a descriptor that is open, and numbers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    let blocks = SCATTERED / BLOCK;
    for n in 0..blocks {
        // Each block once, with wide steps.
        let at = n * 389 % blocks * BLOCK;
        let mut block = vec![0; BLOCK];
        file.read_exact_at(&mut block, at as u64).with_context(|| format!("at {at}"))?;
        ensure!(block == want[at..at + BLOCK], "wrong bytes at {at}");
    }
    Ok(())
}

/// What a directory takes of its disk.
fn size(dir: &Path) -> Result<u64> {
    let mut sum = fs::metadata(dir)?.blocks() * 512;
    for entry in fs::read_dir(dir)? {
        let meta = entry?.metadata()?;
        sum += meta.len().max(meta.blocks() * 512);
    }
    Ok(sum)
}

fn stop_chunkds(cluster: &mut Cluster) -> Result<()> {
    for chunkd in cluster.chunkds.iter_mut().flatten() {
        chunkd.terminate(Duration::from_secs(10))?;
    }
    cluster.chunkds.iter_mut().for_each(|c| *c = None);
    Ok(())
}

#[test]
fn what_was_read_is_there_after_restarts_without_any_store() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let cache = cluster.dir().join("cache");
    let mut plain = cluster.mount("mnt")?;
    write_files(&plain.path)?;
    plain.unmount()?;

    let (mut first, port) = mount(&cluster, &cache)?;
    read_files(&first.path)?;
    ensure!(metric(port, "dfs_client_disk_cache_misses_total")? > 0.0, "at first nothing is there");
    first.unmount()?;
    // A kill changes nothing.
    mount(&cluster, &cache)?.0.kill9()?;
    stop_chunkds(&mut cluster)?;

    for _ in 0..2 {
        let (mut again, port) = mount(&cluster, &cache)?;
        read_files(&again.path)?;
        let asked = metric(port, "dfs_client_read_requests_total")?;
        ensure!(asked == 0.0, "{asked} reads were sent to stores that are not there");
        let hits = metric(port, "dfs_client_disk_cache_hits_total")?;
        ensure!(hits >= (BIG >> 20) as f64 + SMALL as f64, "{hits} hits");
        again.unmount()?;
    }
    ensure!(size(&cache)? <= 64 << 20, "{} bytes", size(&cache)?);
    Ok(())
}

/// docs/semantics.md: "which is checked each time that it is read back".
/// docs/semantics.md: "A sum that does not match is a miss".
#[test]
fn a_rotten_cache_gives_no_wrong_byte_and_heals() -> Result<()> {
    let cluster = Cluster::start()?;
    let cache = cluster.dir().join("cache");
    let mut plain = cluster.mount("mnt")?;
    write_files(&plain.path)?;
    plain.unmount()?;
    let (mut first, _) = mount(&cluster, &cache)?;
    read_files(&first.path)?;
    first.unmount()?;

    let file = fs::File::options().read(true).write(true).open(cache.join("pieces"))?;
    // One bit of every fifth page: of each large piece some, of the small ones and of the tables a part.
    for at in (0..file.metadata()?.len()).step_by(5 * 4096) {
        let at = at + at / 4096 % 4096;
        let mut byte = [0];
        if file.read_at(&mut byte, at)? == 1 {
            file.write_at(&[byte[0] ^ 4], at)?;
        }
    }
    let (mut again, port) = mount(&cluster, &cache)?;
    read_files(&again.path)?;
    let damaged = metric(port, "dfs_client_disk_cache_damaged_total")?;
    ensure!(damaged > 0.0, "the damage was not seen");
    ensure!(metric(port, "dfs_client_read_requests_total")? > 0.0, "the bytes came from nowhere");
    again.unmount()?;
    let (healed, port) = mount(&cluster, &cache)?;
    read_files(&healed.path)?;
    // A record that nobody looked at may still have its flipped bit.
    let left = metric(port, "dfs_client_disk_cache_damaged_total")?;
    ensure!(left < damaged / 4.0, "{left} of {damaged} damaged pieces are still there");
    Ok(())
}

#[test]
fn it_stays_within_its_bound() -> Result<()> {
    let cluster = Cluster::start()?;
    let cache = cluster.dir().join("cache");
    let (mut mnt, _) = mount(&cluster, &cache)?;
    for n in 0..4 {
        fs::write(mnt.path.join(n.to_string()), bytes(n, 40 << 20))?;
    }
    mnt.unmount()?;
    let (mnt, port) = mount(&cluster, &cache)?;
    for n in 0..4 {
        ensure!(fs::read(mnt.path.join(n.to_string()))? == bytes(n, 40 << 20), "wrong bytes");
        ensure!(size(&cache)? <= 64 << 20, "{} bytes", size(&cache)?);
    }
    ensure!(metric(port, "dfs_client_disk_cache_evictions_total")? > 0.0, "nothing had to go");
    Ok(())
}

#[test]
fn directories_that_cannot_be_a_cache_are_refused_in_words() -> Result<()> {
    let cluster = Cluster::start()?;
    let cache = cluster.dir().join("cache");
    let (_held, _) = mount(&cluster, &cache)?;
    let refused = |name: &str, cache: PathBuf| -> Result<String> {
        let tried = cluster.mount_with(name, &["--cache", &cache.display().to_string(), "--cache-size", "64M"]);
        Ok(tried.err().context("it was mounted")?.to_string())
    };
    let why = refused("second", cache)?;
    ensure!(why.contains("in use by another mount"), "{why}");
    let why = refused("second", cluster.dir().join("second/cache"))?;
    ensure!(why.contains("lies under the mountpoint"), "{why}");
    ensure!(!cluster.dir().join("second/cache").exists(), "nothing was made there");
    let why = refused("second", cluster.dir().to_owned())?;
    ensure!(why.contains("lies in the cache"), "{why}");
    let why = refused("second", cluster.metad_dir())?;
    ensure!(why.contains("is not a cache") && why.contains("choose one"), "{why}");
    Ok(())
}
