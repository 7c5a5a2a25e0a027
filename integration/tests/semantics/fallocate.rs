//! fallocate(2): sizes, holes, zeros, rights, and what is not supported.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_integration::sys::{data_ranges, fallocate};
use dfs_integration::tool::{bytes, seed};
use libc::{
    EBADF, EFBIG, EINVAL, ENOSPC, EOPNOTSUPP, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE, FALLOC_FL_UNSHARE_RANGE, FALLOC_FL_ZERO_RANGE,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{Scene, as_nobody, fails};

const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

fn open(scene: &Scene, name: &str) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(scene.path(name))?)
}

/// docs/semantics.md: "`fallocate`: mode 0 makes a file longer".
/// docs/semantics.md: "`PUNCH_HOLE` and `ZERO_RANGE` make holes".
/// docs/semantics.md: "Nothing is reserved".
/// docs/semantics.md: "More than the cluster has free is refused with `ENOSPC`".
/// docs/semantics.md: "`COLLAPSE_RANGE`, `INSERT_RANGE` and `UNSHARE_RANGE` are `EOPNOTSUPP`".
/// docs/semantics.md: "Who is not root loses setuid and setgid of a file by these calls".
#[test]
fn lengths_holes_and_what_is_refused() -> Result<()> {
    let mut scene = Scene::new()?;
    let file = open(&scene, "file")?;
    fallocate(&file, 0, 1000, 9000)?;
    assert_eq!((file.metadata()?.len(), file.metadata()?.blocks()), (10_000, 0));
    fallocate(&file, FALLOC_FL_KEEP_SIZE, 0, 50_000)?;
    fallocate(&file, 0, 0, 5)?;
    assert_eq!(file.metadata()?.len(), 10_000);
    file.write_all_at(&[7; 100_000], 0)?;
    for (mode, offset, len, size) in [
        (PUNCH, 5, 10_000, 100_000),
        (PUNCH, 99_000, 50_000, 100_000),
        (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 90_000, 100_000, 100_000),
        (FALLOC_FL_ZERO_RANGE, 30_000, 1000, 100_000),
        (FALLOC_FL_ZERO_RANGE, 95_000, 25_000, 120_000),
    ] {
        let before = file.metadata()?;
        std::thread::sleep(Duration::from_millis(5));
        fallocate(&file, mode, offset, len)?;
        let after = file.metadata()?;
        assert_eq!(after.len(), size);
        let times = |m: &fs::Metadata| [(m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())];
        ensure!(times(&after).iter().zip(times(&before)).all(|(a, b)| *a > b), "times after {mode:#x} at {offset}");
    }
    assert_eq!(data_ranges(&file)?, [(0, 5), (10_005, 30_000), (31_000, 90_000)]);
    assert_eq!(file.metadata()?.blocks(), (5_u64 + 19_995 + 59_000).div_ceil(512));
    for mode in [
        FALLOC_FL_COLLAPSE_RANGE,
        FALLOC_FL_INSERT_RANGE,
        FALLOC_FL_UNSHARE_RANGE,
        FALLOC_FL_PUNCH_HOLE,
        PUNCH | FALLOC_FL_ZERO_RANGE,
    ] {
        fails(fallocate(&file, mode, 0, 4096), EOPNOTSUPP);
    }
    fails(fallocate(&file, 0, 0, 0), EINVAL);
    fails(fallocate(&file, 0, (16 << 40) - 5, 6), EFBIG);
    fails(fallocate(&file, 0, 0, 15 << 40), ENOSPC);
    fails(fallocate(&File::open(scene.path("file"))?, 0, 0, 1), EBADF);
    // Who has no rights takes setuid and setgid away, as with a write.
    fs::set_permissions(scene.path("file"), Permissions::from_mode(0o6777))?;
    as_nobody(&scene.mount.path, "fallocate -p -o 0 -l 1 file")?;
    assert_eq!(file.metadata()?.mode() & 0o7777, 0o777);
    drop(file);
    scene.remount()?;
    let found = fs::read(scene.path("file"))?;
    let is_data = |at: usize| (10_005..30_000).contains(&at) || (31_000..90_000).contains(&at) || (1..5).contains(&at);
    assert!(found.len() == 120_000 && found.iter().enumerate().all(|(at, b)| *b == if is_data(at) { 7 } else { 0 }));
    scene.finish()
}

#[test]
fn a_hole_over_very_many_extents() -> Result<()> {
    const PIECES: u64 = 9000;
    let mut scene = Scene::new()?;
    let file = open(&scene, "file")?;
    for n in 0..PIECES {
        file.write_all_at(b"data", n * 100)?;
    }
    file.sync_all()?;
    fallocate(&file, PUNCH, 2, PIECES * 100)?;
    assert_eq!(data_ranges(&file)?, [(0, 2)]);
    assert_eq!((file.metadata()?.len(), file.metadata()?.blocks()), ((PIECES - 1) * 100 + 4, 1));
    drop(file);
    scene.remount()?;
    assert!(fs::read(scene.path("file"))?[2..].iter().all(|b| *b == 0));
    scene.finish()
}

/// The same calls on the mount and on the local disk, with all that is unsaved in all states.
/// docs/semantics.md: "On one mount everything behaves as on a local filesystem".
#[test]
fn the_same_as_a_local_filesystem() -> Result<()> {
    let mut scene = Scene::new()?;
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let local = tempfile_beside(&scene)?;
    let file = open(&scene, "file")?;
    for step in 0..400_u64 {
        let (at, len) = (rng.random_range(0..300_000_u64), rng.random_range(1..60_000_u64));
        match rng.random_range(0..10) {
            0..4 => {
                let data = bytes(seed ^ step, usize::try_from(len)?);
                file.write_all_at(&data, at)?;
                local.write_all_at(&data, at)?;
            }
            4..8 => {
                let zero = FALLOC_FL_ZERO_RANGE;
                let mode = [0, FALLOC_FL_KEEP_SIZE, PUNCH, PUNCH, zero, zero | FALLOC_FL_KEEP_SIZE];
                let mode = mode[rng.random_range(0..mode.len())];
                fallocate(&file, mode, at, len)?;
                // What the disk below cannot do is done by hand.
                if fallocate(&local, mode, at, len).is_err() {
                    let size = local.metadata()?.len();
                    let end = if mode & FALLOC_FL_KEEP_SIZE == 0 { at + len } else { size.min(at + len) };
                    if mode & (PUNCH | zero) & !FALLOC_FL_KEEP_SIZE != 0 && at < end {
                        local.write_all_at(&vec![0; usize::try_from(end - at)?], at)?;
                    }
                    if mode & FALLOC_FL_KEEP_SIZE == 0 && local.metadata()?.len() < end {
                        local.set_len(end)?;
                    }
                }
            }
            8 => {
                file.set_len(at)?;
                local.set_len(at)?;
            }
            _ => file.sync_data()?,
        }
        let size = local.metadata()?.len();
        ensure!(file.metadata()?.len() == size, "step {step}: {} bytes, {size} expected", file.metadata()?.len());
        if step % 10 == 0 {
            let whole = |file: &File| -> Result<Vec<u8>> {
                let mut all = vec![1; usize::try_from(size)?];
                file.read_exact_at(&mut all, 0)?;
                Ok(all)
            };
            ensure!(whole(&file)? == whole(&local)?, "step {step}");
        }
    }
    drop(file);
    scene.remount()?;
    let mut expected = vec![1; usize::try_from(local.metadata()?.len())?];
    local.read_exact_at(&mut expected, 0)?;
    assert!(fs::read(scene.path("file"))? == expected);
    scene.finish()
}

/// A file on the local disk, which goes with the cluster's directory.
fn tempfile_beside(scene: &Scene) -> Result<File> {
    let path = scene.cluster.dir().join("local");
    Ok(OpenOptions::new().read(true).write(true).create_new(true).open(path)?)
}
