//! Directory trees to try things on: real ones that this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Python's standard library: some thousands of small files, links and directories.
///
/// # Errors
/// There is no python3.
pub fn python_library() -> Result<PathBuf> {
    let out = Command::new("python3").args(["-c", "import os; print(os.path.dirname(os.__file__))"]).output()?;
    let path = String::from_utf8(out.stdout)?.trim().to_owned();
    anyhow::ensure!(!path.is_empty(), "python3 has no library");
    Ok(path.into())
}

/// A tree of small text files, as a source package has.
///
/// # Errors
/// It cannot be written.
pub fn small_files(dir: &Path, directories: usize, files_each: usize) -> Result<usize> {
    for d in 0..directories {
        let sub = dir.join(format!("d{d:03}"));
        std::fs::create_dir_all(&sub)?;
        for f in 0..files_each {
            let len = 200 + (d * 7919 + f * 104_729) % 12_000;
            let content = crate::tool::bytes((d * files_each + f) as u64, len);
            std::fs::write(sub.join(format!("f{f:03}.txt")), content).context("writing a small file")?;
        }
    }
    Ok(directories * files_each)
}
