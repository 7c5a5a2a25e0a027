//! Watches the disk of the metadata, so that new data is refused before a write fails.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_disk::Disk;
use dfs_disk::real::RealDisk;

use crate::engine::Engine;

const EVERY: Duration = Duration::from_secs(1);

pub(super) struct Space {
    dir: PathBuf,
    reserve: u64,
    last: Option<Instant>,
}

impl Space {
    pub(super) fn new(dir: &Path, reserve: u64) -> Self {
        Self { dir: dir.into(), reserve, last: None }
    }

    /// Looks once a second.
    pub(super) fn look(&mut self, engine: &Engine) {
        if self.last.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        match RealDisk.space(&self.dir) {
            // A small disk keeps a tenth of itself, not more.
            Ok(space) => engine.set_low_space(space.free < self.reserve.min(space.total / 10)),
            Err(error) => tracing::warn!(%error, "the free space of the data directory cannot be read"),
        }
    }
}
