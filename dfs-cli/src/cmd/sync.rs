//! `dfs sync`: fsync of a mount's directory makes all that was written to the mount durable.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::mounts;

#[derive(Serialize)]
struct Synced {
    mount: PathBuf,
    seconds: f64,
}

/// Runs it.
///
/// # Errors
/// When it is no mount, or not everything could be saved.
pub fn run(mount: &Path, json: bool) -> anyhow::Result<u8> {
    let shown = mount.display();
    let directory = File::open(mount).with_context(|| format!("cannot open {shown}"))?;
    let info = directory.metadata().with_context(|| format!("cannot use {shown}"))?;
    if !info.is_dir() {
        bail!("{shown} is not a directory");
    }
    let Some(found) = mounts::ours_with_device(info.dev())? else {
        bail!("{shown} is not on a mount of this filesystem");
    };
    let start = Instant::now();
    directory.sync_all().with_context(|| format!("not everything written to {shown} could be saved"))?;
    let synced = Synced { mount: found.point, seconds: start.elapsed().as_secs_f64() };
    super::print(json, &synced, || {
        format!("everything written to {} is durable ({:.2} s)\n", synced.mount.display(), synced.seconds)
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mount_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(run(dir.path(), false).unwrap_err().to_string().contains("not on a mount"));
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert!(run(&file, false).unwrap_err().to_string().contains("not a directory"));
        assert!(run(&dir.path().join("missing"), false).is_err());
    }
}
