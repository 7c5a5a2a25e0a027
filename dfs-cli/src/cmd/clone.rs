//! `dfs clone`: a copy of a file or a tree on the same mount that shares all stored bytes with the original.
//!
//! Everything is made under a hidden name beside the target, made durable and renamed at the end: the target is there
//! whole or not at all, also after a crash. What fails is taken away again.

mod sys;
mod tree;

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Serialize;

use self::tree::{Counts, Tree};
use crate::mounts;
use crate::show::{count, size};

#[derive(Serialize)]
struct Cloned {
    source: PathBuf,
    target: PathBuf,
    #[serde(flatten)]
    counts: Counts,
    seconds: f64,
}

/// Runs it.
///
/// # Errors
/// The target exists, both are not on one mount, or something cannot be cloned; then there is no target.
pub fn run(source: &Path, target: &Path, json: bool) -> anyhow::Result<u8> {
    let from = source.display();
    let info = fs::symlink_metadata(source).with_context(|| format!("cannot use {from}"))?;
    let place = place(target)?;
    same_mount(source, info.dev(), &place)?;
    if info.is_dir() && place.parent.starts_with(source.canonicalize().with_context(|| format!("cannot use {from}"))?) {
        bail!("{} lies inside {from}", target.display());
    }
    let start = Instant::now();
    let hidden = place.parent.join(hidden_name());
    let tree = Tree::new(info.dev());
    let made = tree.clone(source, &hidden).and_then(|()| {
        // Small files are still in the mount's buffer: the name must not be there before them. On a mount of this
        // filesystem this saves all, of whatever directory.
        let saved = fs::File::open(&place.parent).and_then(|parent| parent.sync_all());
        saved.context("cannot make the clone durable")?;
        let moved = sys::rename_new(&hidden, &place.parent.join(&place.name));
        moved.with_context(|| format!("cannot give the clone its name {}", target.display()))
    });
    if let Err(e) = made {
        return Err(match take_away(&hidden) {
            Ok(()) => e,
            Err(left) => e.context(format!("what was made is still at {} ({left})", hidden.display())),
        });
    }
    let seconds = start.elapsed().as_secs_f64();
    let cloned = Cloned { source: source.into(), target: target.into(), counts: tree.counts(), seconds };
    super::print(json, &cloned, || text(&cloned))?;
    Ok(0)
}

/// A name that nobody else has: what is found under it when something failed was made here.
fn hidden_name() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!(".dfs-clone-{}-{:x}", std::process::id(), now.as_nanos())
}

fn text(cloned: &Cloned) -> String {
    let c = &cloned.counts;
    let mut text = format!(
        "cloned {} to {}: {}, {}, {}, {} in {:.2} s\n",
        cloned.source.display(),
        cloned.target.display(),
        count(c.files, "file", "files"),
        count(c.directories, "directory", "directories"),
        count(c.others, "other", "others"),
        size(c.bytes),
        cloned.seconds
    );
    if c.owners_not_kept > 0 {
        let entries = count(c.owners_not_kept, "entry belongs", "entries belong");
        text += &format!("{entries} to you now: only root may give files away\n");
    }
    text
}

/// Where the clone is to be.
struct Place {
    parent: PathBuf,
    name: OsString,
    device: u64,
}

fn place(target: &Path) -> anyhow::Result<Place> {
    let shown = target.display();
    match fs::symlink_metadata(target) {
        Ok(_) => bail!("{shown} exists already; a clone replaces nothing"),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("cannot use {shown}")),
    }
    let Some(name) = target.file_name() else { bail!("{shown} is no name for a clone") };
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = parent.canonicalize().with_context(|| format!("no directory {}", parent.display()))?;
    let device = fs::metadata(&parent).with_context(|| format!("cannot use {}", parent.display()))?.dev();
    Ok(Place { parent, name: name.to_owned(), device })
}

fn same_mount(source: &Path, device: u64, place: &Place) -> anyhow::Result<()> {
    let from = source.display();
    let Some(mount) = mounts::ours_with_device(device)? else {
        bail!("{from} is not on a mount of this filesystem");
    };
    if place.device != device {
        bail!(
            "{from} is on the mount at {}, {} is not: a clone shares bytes within one mount; use cp",
            mount.point.display(),
            place.parent.display()
        );
    }
    Ok(())
}

/// Removes what was made before something failed.
fn take_away(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(info) if info.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_clone_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "x").unwrap();
        let why = |source: &Path, target: &Path| format!("{:#}", run(source, target, false).unwrap_err());
        assert!(why(&file, &dir.path().join("g")).contains("not on a mount"));
        assert!(why(&file, &file).contains("exists already"));
        assert!(why(&dir.path().join("none"), &dir.path().join("g")).contains("cannot use"));
        assert!(why(&file, &dir.path().join("none/g")).contains("no directory"));
        assert!(why(&file, Path::new("/")).contains("exists already"));
        assert!(!dir.path().join("g").exists());
    }
}
