//! A file that is overwritten here and there for ever: neither its metadata nor its space grows without bound.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::Cluster;
use dfs_integration::tool::{bytes, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::load::drop_pages;
use crate::watch::{big_bytes, quick};

const BLOCK: usize = 4096;

/// Extents and chunks of a file, as `dfs stat` tells.
fn extents(cluster: &Cluster, path: &std::path::Path) -> Result<usize> {
    let out = cluster.dfs(&["stat", "--json", path.to_str().context("a path")?])?;
    let stat: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    stat["extents"].as_array().map(Vec::len).context("no extents")
}

#[test]
fn overwriting_here_and_there_costs_no_rent() -> Result<()> {
    // Longer with DFS_LONG: an hour over 1 GiB, or so many minutes.
    let long = std::env::var_os("DFS_LONG").is_some();
    let minutes: u64 = std::env::var("DFS_OVERWRITE_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(60);
    let (size, time) = if long { (1 << 30, minutes * 60) } else { (64 << 20, 60) };
    let mut rng = StdRng::seed_from_u64(seed());
    let cluster = Cluster::start_with(quick(3))?;
    let mount = cluster.mount("mnt")?;
    let path = mount.path.join("file");
    let mut content = bytes(1, size);
    fs::write(&path, &content)?;
    let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
    file.sync_all()?;
    let began = Instant::now();
    let (mut most, mut written) = (0, 0_u64);
    let mut looked = Instant::now();
    while began.elapsed() < Duration::from_secs(time) {
        for _ in 0..64 {
            let at = rng.random_range(0..size / BLOCK) * BLOCK;
            let block = bytes(rng.random(), BLOCK);
            file.write_all_at(&block, at as u64)?;
            content[at..at + BLOCK].copy_from_slice(&block);
            written += BLOCK as u64;
        }
        // Some 2,500 writes a second: as many as a busy database does.
        std::thread::sleep(Duration::from_millis(25));
        if looked.elapsed() >= Duration::from_secs(2) {
            looked = Instant::now();
            most = most.max(big_bytes(&cluster.chunkd_dir(0))?);
        }
    }
    file.sync_all()?;
    let worst = extents(&cluster, &path)?;
    let lately = written / time * 30;
    let bound = 2 * size as u64 + lately;
    ensure!(most <= bound, "{most} bytes in a store, of a file of {size}, {lately} of them new");
    eprintln!("{written} bytes written; at most {most} bytes in one store; {worst} extents at the end");
    // It is left alone, and settles: each cut is one piece, and nothing dead is kept.
    let until = Instant::now() + Duration::from_secs(240);
    loop {
        let (extents, has) = (extents(&cluster, &path)?, big_bytes(&cluster.chunkd_dir(0))?);
        if extents <= 16 * size.div_ceil(64 << 20) && has * 10 <= size as u64 * 11 {
            break;
        }
        ensure!(Instant::now() < until, "{extents} extents, {has} bytes for a file of {size}");
        std::thread::sleep(Duration::from_secs(1));
    }
    drop_pages(&path)?;
    ensure!(fs::read(&path)? == content, "wrong bytes");
    fs::write(mount.path.join("fresh"), &content)?;
    drop(mount);
    // In turn, each time by a mount that knows nothing yet: the best of three.
    let mut best = [Duration::MAX; 2];
    for round in 0..3 {
        for (name, best) in ["file", "fresh"].into_iter().zip(&mut best) {
            let mount = cluster.mount(&format!("{name}{round}"))?;
            let began = Instant::now();
            let found = fs::read(mount.path.join(name))?;
            *best = began.elapsed().min(*best);
            ensure!(found == content, "wrong bytes in {name} of another mount");
        }
    }
    eprintln!("reading it took {:?}, a fresh file {:?}", best[0], best[1]);
    cluster.wait_fsck(0, Duration::from_secs(30))
}

/// A copy shares its chunks with the original: to put what was overwritten in it together copies nothing of those, as long
/// as there is the original.
#[test]
fn what_two_files_share_stays_shared() -> Result<()> {
    const SIZE: usize = 16 << 20;
    let mut rng = StdRng::seed_from_u64(seed());
    let mut cluster = Cluster::start_with(quick(3))?;
    let mount = cluster.mount("mnt")?;
    let (original, copy) = (mount.path.join("original"), mount.path.join("copy"));
    let before = bytes(2, SIZE);
    fs::write(&original, &before)?;
    sync(&original)?;
    fs::copy(&original, &copy)?;
    let mut after = before.clone();
    let file = fs::OpenOptions::new().read(true).write(true).open(&copy)?;
    // More than a half of the shared chunk is dead for the copy.
    for n in 0..SIZE / BLOCK {
        if rng.random_bool(0.6) {
            let block = bytes(rng.random(), BLOCK);
            file.write_all_at(&block, (n * BLOCK) as u64)?;
            after[n * BLOCK..][..BLOCK].copy_from_slice(&block);
            if rng.random_bool(0.02) {
                file.sync_data()?;
            }
        }
    }
    file.sync_all()?;
    let chunks = |cluster: &Cluster| -> Result<usize> {
        let out = cluster.dfs(&["stat", "--json", copy.to_str().context("a path")?])?;
        let stat: serde_json::Value = serde_json::from_slice(&out.stdout)?;
        let extents = stat["extents"].as_array().context("no extents")?;
        let of = |extent: &serde_json::Value| extent["chunk"].as_str().map(str::to_owned);
        Ok(extents.iter().filter_map(of).collect::<std::collections::BTreeSet<_>>().len())
    };
    ensure!(chunks(&cluster)? > 16, "it was not synced in pieces");
    let until = Instant::now() + Duration::from_secs(150);
    while chunks(&cluster)? > 3 || big_bytes(&cluster.chunkd_dir(0))? > 28 << 20 {
        ensure!(Instant::now() < until, "{} chunks, {} bytes", chunks(&cluster)?, big_bytes(&cluster.chunkd_dir(0))?);
        std::thread::sleep(Duration::from_secs(1));
    }
    for (path, content) in [(&original, &before), (&copy, &after)] {
        drop_pages(path)?;
        ensure!(fs::read(path)? == *content, "wrong bytes in {}", path.display());
    }

    // With the original gone, most of the chunk that they shared is dead. Nobody writes to the copy any more: it is
    // found by metad going through all extents, which it does when it starts and then each hour.
    fs::remove_file(&original)?;
    let until = Instant::now() + Duration::from_secs(150);
    let mut began = None;
    while big_bytes(&cluster.chunkd_dir(0))? > 18 << 20 {
        ensure!(Instant::now() < until, "{} bytes", big_bytes(&cluster.chunkd_dir(0))?);
        // Another round, should the last one have come before the original was freed.
        if began.is_none_or(|at: Instant| at.elapsed() > Duration::from_secs(40)) {
            std::thread::sleep(Duration::from_secs(3));
            cluster.metad.take().context("metad runs")?.kill9()?;
            cluster.start_metad()?;
            began = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    drop_pages(&copy)?;
    ensure!(fs::read(&copy)? == after, "wrong bytes in the copy");
    cluster.wait_fsck(0, Duration::from_secs(30))
}

fn sync(path: &std::path::Path) -> Result<()> {
    Ok(fs::File::open(path)?.sync_all()?)
}
