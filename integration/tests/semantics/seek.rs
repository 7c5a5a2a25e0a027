//! `SEEK_DATA`, `SEEK_HOLE` and `st_blocks`, over what is saved and what is not.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Result, ensure};
use dfs_integration::sys::{data_ranges, fallocate, seek};
use dfs_integration::tool::{seed, sh};
use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, SEEK_DATA, SEEK_HOLE};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::Scene;

fn open(scene: &Scene, name: &str) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(scene.path(name))?)
}

/// docs/semantics.md: "`SEEK_DATA` and `SEEK_HOLE` find data and holes byte by byte".
#[test]
fn ends_and_empty_files() -> Result<()> {
    let scene = Scene::new()?;
    let file = open(&scene, "file")?;
    assert_eq!((seek(&file, 0, SEEK_DATA)?, seek(&file, 0, SEEK_HOLE)?), (None, None));
    file.set_len(1000)?;
    assert_eq!((seek(&file, 0, SEEK_DATA)?, seek(&file, 0, SEEK_HOLE)?), (None, Some(0)));
    assert_eq!(seek(&file, 999, SEEK_HOLE)?, Some(999));
    file.write_all_at(b"x", 999)?;
    for saved in [false, true] {
        assert_eq!((seek(&file, 0, SEEK_DATA)?, seek(&file, 999, SEEK_HOLE)?), (Some(999), Some(1000)), "{saved}");
        assert_eq!((seek(&file, 1000, SEEK_DATA)?, seek(&file, 1000, SEEK_HOLE)?), (None, None));
        assert_eq!(seek(&file, 1 << 62, SEEK_HOLE)?, None);
        file.sync_all()?;
    }
    drop(file);
    scene.finish()
}

/// Byte by byte against an array, at every moment of saving.
/// docs/semantics.md: "find data and holes byte by byte, unsaved bytes included".
/// docs/semantics.md: "`st_blocks` counts what is stored, or will be once it is saved".
#[test]
fn data_holes_and_blocks_are_those_of_an_array() -> Result<()> {
    const MOST: u64 = 200_000;
    let mut scene = Scene::new()?;
    let mut rng = StdRng::seed_from_u64(seed());
    let mut file = open(&scene, "file")?;
    let mut model: Vec<bool> = Vec::new();
    for step in 0..500 {
        let (at, len) = (rng.random_range(0..MOST), rng.random_range(1..20_000));
        match rng.random_range(0..20) {
            0..10 => {
                file.write_all_at(&vec![1; len], at)?;
                let end = usize::try_from(at)? + len;
                let size = model.len().max(end);
                model.resize(size, false);
                model[usize::try_from(at)?..end].fill(true);
            }
            10..14 => {
                fallocate(&file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len as u64)?;
                let (from, end) = (usize::try_from(at)?.min(model.len()), usize::try_from(at)? + len);
                let end = end.min(model.len());
                model[from..end].fill(false);
            }
            14 => {
                file.set_len(at)?;
                model.resize(usize::try_from(at)?, false);
            }
            15 => {
                drop(file);
                scene.remount()?;
                file = open(&scene, "file")?;
            }
            16 => file.sync_data()?,
            _ => {}
        }
        let runs: Vec<(u64, u64)> = model
            .chunk_by(|a, b| a == b)
            .scan(0, |from, run| {
                let start = *from;
                *from += run.len() as u64;
                Some((start, *from, run[0]))
            })
            .filter(|(_, _, data)| *data)
            .map(|(start, end, _)| (start, end))
            .collect();
        ensure!(data_ranges(&file)? == runs, "step {step}");
        let stored = model.iter().filter(|data| **data).count() as u64;
        ensure!(file.metadata()?.blocks() == stored.div_ceil(512), "step {step}: blocks");
    }
    drop(file);
    scene.finish()
}

/// docs/semantics.md: "or will be once it is saved, each byte once".
#[test]
fn bytes_written_over_count_once() -> Result<()> {
    let scene = Scene::new()?;
    let file = open(&scene, "file")?;
    for n in 0..20_u64 {
        file.write_all_at(&[n as u8; 10_000], n * 1000)?;
        assert_eq!(file.metadata()?.blocks(), (9000 + (n + 1) * 1000).div_ceil(512), "after write {n}");
        if n % 5 == 0 {
            file.sync_data()?;
        }
    }
    drop(file);
    sh(&scene.mount.path, "truncate -s 1G sparse; cp --sparse=always sparse other; [ $(stat -c %b other) = 0 ]")?;
    sh(&scene.mount.path, "tar -cSf t.tar sparse && [ $(stat -c %s t.tar) -lt 100000 ]")?;
    scene.finish()
}
