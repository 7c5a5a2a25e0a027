//! Everything below a directory, in a form that two of them can be compared by.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use super::outcome::{Field, Value};
use super::watch::{KERNEL_TIMES, time_text};
use crate::sys;

/// Files up to this size are compared whole, larger ones in the windows that calls go to.
const WHOLE: u64 = 8 << 20;
/// Where calls go in large files; see `choose::BASES`.
pub(super) const BASES: [u64; 4] = [0, 64 << 20, 3 << 30, 1 << 40];
/// A window begins before a base and ends after it.
const BEFORE: u64 = 64 << 10;
const AFTER: u64 = 3 << 20;
const BLOCK: usize = 4096;

/// Names and what is there.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// By path.
    pub entries: BTreeMap<String, Vec<Field>>,
}

impl Tree {
    /// Reads all below `root`, and `root` itself. Times from `began` on count as "now". Times of shared mapped inodes
    /// are left out, as are those of directories' and symlinks' accesses.
    ///
    /// # Errors
    /// Something cannot be read, which root may always do.
    pub fn read(root: &Path, began: i64, is_mapped: &dyn Fn(u64) -> bool) -> Result<Self> {
        let mut tree = Self::default();
        let mut links: BTreeMap<u64, String> = BTreeMap::new();
        let mut todo = vec![String::new()];
        while let Some(path) = todo.pop() {
            let full = if path.is_empty() { root.to_path_buf() } else { root.join(&path) };
            let seen = full.symlink_metadata().with_context(|| format!("stat of {}", full.display()))?;
            if seen.is_dir() {
                for entry in full.read_dir().with_context(|| format!("readdir of {}", full.display()))? {
                    let name = entry?.file_name();
                    let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
                    todo.push(if path.is_empty() { name } else { format!("{path}/{name}") });
                }
                // Sorted, so that the first name of an inode is the same on both sides.
                todo.sort_by(|a, b| b.cmp(a));
            }
            let mut fields = attributes(&seen, began, is_mapped(seen.ino()));
            let mut add = |name: &str, value| fields.push(Field { name: name.into(), value });
            if !seen.is_dir() {
                let first = links.entry(seen.ino()).or_insert_with(|| path.clone());
                add("inode", Value::Text(format!("that of {first}")));
            }
            if seen.is_symlink() {
                add("target", Value::Text(std::fs::read_link(&full)?.display().to_string()));
            }
            add("xattr", Value::List(xattrs(&full).with_context(|| format!("xattrs of {}", full.display()))?));
            if seen.is_file() {
                let content = content(&full, seen.len()).with_context(|| format!("reading {}", full.display()))?;
                add("content", Value::List(content));
            }
            tree.entries.insert(if path.is_empty() { "/".into() } else { path }, fields);
        }
        Ok(tree)
    }
}

fn attributes(seen: &Metadata, began: i64, is_mapped: bool) -> Vec<Field> {
    let mut fields = vec![
        ("mode", Value::Text(format!("{:o}", seen.mode()))),
        ("owner", Value::Text(format!("{}:{}", seen.uid(), seen.gid()))),
        ("nlink", Value::Int(seen.nlink().cast_signed())),
        ("rdev", Value::Int(seen.rdev().cast_signed())),
    ];
    if !seen.is_dir() {
        fields.push(("size", Value::Int(seen.len().cast_signed())));
    }
    let nanoseconds = u32::try_from(seen.mtime_nsec()).unwrap_or(0);
    let has_kernel_times = is_mapped || seen.mode() & libc::S_IFMT == libc::S_IFIFO;
    let mtime = if has_kernel_times { KERNEL_TIMES.into() } else { time_text(seen.mtime(), nanoseconds, began) };
    fields.push(("mtime", Value::Text(mtime)));
    fields.into_iter().map(|(name, value)| Field { name: name.into(), value }).collect()
}

fn xattrs(path: &Path) -> io::Result<Vec<String>> {
    let (_, names) = sys::list_xattr(path, 65_536)?;
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        // The kernel lets some be set that it then refuses to show: an empty `security.capability`.
        let value = match sys::get_xattr(path, &name, 65_536) {
            Ok((_, value)) => value.iter().map(|b| format!("{b:02x}")).collect(),
            Err(error) => error.to_string(),
        };
        all.push(format!("{name}=0x{value}"));
    }
    all.sort();
    Ok(all)
}

/// The blocks that are not all zero, each with its hash.
fn content(path: &Path, size: u64) -> io::Result<Vec<String>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(path)?;
    let mut blocks = Vec::new();
    if size <= WHOLE {
        window(&file, 0, size, &mut blocks)?;
    } else {
        for base in BASES {
            window(&file, base.saturating_sub(BEFORE), size.min(base + AFTER), &mut blocks)?;
        }
        let block = BLOCK as u64;
        let last = (size.saturating_sub(BEFORE)) / block * block;
        if !BASES.iter().any(|b| (b.saturating_sub(BEFORE)..b + AFTER).contains(&last)) {
            window(&file, last, size, &mut blocks)?;
        }
    }
    Ok(blocks)
}

fn window(file: &File, from: u64, to: u64, blocks: &mut Vec<String>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * BLOCK];
    let mut at = from;
    while at < to {
        let want = buffer.len().min(usize::try_from(to - at).unwrap_or(usize::MAX));
        let got = file.read_at(&mut buffer[..want], at)?;
        if got == 0 {
            blocks.push(format!("ends at {at}"));
            break;
        }
        for (n, block) in buffer[..got].chunks(BLOCK).enumerate() {
            if block.iter().any(|b| *b != 0) {
                let hash = blake3::hash(block).to_hex();
                blocks.push(format!("{}+{}:{}", at + (n * BLOCK) as u64, block.len(), hash.split_at(8).0));
            }
        }
        at += got as u64;
    }
    Ok(())
}
