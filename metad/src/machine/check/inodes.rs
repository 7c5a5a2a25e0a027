//! Inodes against their names, extents and extended attributes.

use std::collections::{BTreeMap, BTreeSet};

use dfs_core::attr::FileKind;
use dfs_core::id::Ino;

use crate::kv::Table;
use crate::machine::check::{Check, PAGE};
use crate::schema::extent;
use crate::schema::inode::{DentryRow, InodeRow, OrphanRow, XattrRow};
use crate::schema::keys::{self, Counter};
use crate::schema::{Fault, Record, corrupt, get, next_key, page};

/// What the names say of an inode.
#[derive(Default)]
struct Named {
    names: u32,
    subdirs: u32,
    entries: u64,
    last: Option<(Ino, FileKind)>,
    kinds_differ: bool,
    extents: u64,
    stored: u64,
    end: u64,
    xattr_bytes: u64,
}

impl Check<'_> {
    /// Inodes against names, extents and xattrs, a window of inodes at a time.
    pub(super) fn inodes(&mut self) -> Result<(), Fault> {
        let mut from = Vec::new();
        let mut first = true;
        let mut rooted = BTreeSet::from([Ino::ROOT]);
        loop {
            let mut found: BTreeMap<Ino, (InodeRow, Named)> = BTreeMap::new();
            let mut last = None;
            while found.len() < self.window {
                let rows = page(self.snap, Table::Inode, &[], &from, PAGE.min(self.window))?;
                for (key, value) in &rows {
                    let read = keys::parse_inode(key).ok_or_else(|| corrupt(Table::Inode, key, "not a key"));
                    let outcome = read.and_then(|ino| {
                        found.insert(ino, (InodeRow::from_value(key, value)?, Named::default()));
                        Ok(())
                    });
                    self.row(outcome)?;
                    from = next_key(key);
                }
                last = rows.last().map(|(key, _)| key.clone());
                if last.is_none() {
                    break;
                }
            }
            self.names(&mut found, first)?;
            self.contents(&mut found)?;
            for (ino, (row, named)) in &found {
                self.inode(*ino, row, named)?;
                if row.kind == FileKind::Directory && row.nlink > 0 {
                    self.rooted(*ino, &mut rooted)?;
                }
            }
            first = false;
            if last.is_none() {
                return Ok(());
            }
        }
    }

    /// What all names say of the inodes of the window.
    fn names(&mut self, found: &mut BTreeMap<Ino, (InodeRow, Named)>, first: bool) -> Result<(), Fault> {
        self.rows(Table::Dentry, |check, key, value| {
            let (parent, _) = keys::parse_dentry(key).ok_or_else(|| corrupt(Table::Dentry, key, "not a key"))?;
            let row = DentryRow::from_value(key, value)?;
            if first {
                check.report.dentries += 1;
                if get::<InodeRow>(check.snap, &keys::inode(row.ino))?.is_none() {
                    check.wrong(Table::Dentry, key, "it names an inode that does not exist");
                }
                let dir = get::<InodeRow>(check.snap, &keys::inode(parent))?;
                if dir.is_none_or(|d| d.kind != FileKind::Directory || d.nlink == 0) {
                    check.wrong(Table::Dentry, key, "it is in something that is no directory");
                }
            }
            if let Some((inode, named)) = found.get_mut(&row.ino) {
                named.names += 1;
                named.kinds_differ |= inode.kind != row.kind;
                named.last = Some((parent, row.kind));
            }
            if let Some((_, named)) = found.get_mut(&parent) {
                named.entries += 1;
                named.subdirs += u32::from(row.kind == FileKind::Directory);
            }
            Ok(())
        })
    }

    /// What the extents and xattrs of the inodes of the window come to; both are ordered by inode as well.
    fn contents(&mut self, found: &mut BTreeMap<Ino, (InodeRow, Named)>) -> Result<(), Fault> {
        self.rows(Table::Extent, |check, key, value| {
            let (ino, e) = extent::parse(key, value)?;
            let Some((_, named)) = found.get_mut(&ino) else { return Ok(()) };
            if e.range.start < named.end {
                check.wrong(Table::Extent, key, "it overlaps the one before");
            }
            named.extents += 1;
            named.stored += e.range.len();
            named.end = e.range.end;
            Ok(())
        })?;
        self.rows(Table::Xattr, |_, key, value| {
            let (ino, name) = keys::parse_xattr(key).ok_or_else(|| corrupt(Table::Xattr, key, "not a key"))?;
            XattrRow::from_value(key, value)?;
            if let Some((_, named)) = found.get_mut(&ino) {
                named.xattr_bytes += name.len() as u64 + 1;
            }
            Ok(())
        })
    }

    fn inode(&mut self, ino: Ino, row: &InodeRow, named: &Named) -> Result<(), Fault> {
        let key = keys::inode(ino);
        self.report.inodes += 1;
        self.report.extents += named.extents;
        self.report.stored += named.stored;
        self.count(Counter::Inodes, 1);
        let mut must = |holds: bool, what: String| {
            if !holds {
                self.wrong(Table::Inode, &key, what);
            }
        };
        let is_dir = row.kind == FileKind::Directory;
        must(!named.kinds_differ, "a name says another kind".into());
        if is_dir {
            let expected = if row.nlink == 0 { 0 } else { 2 + named.subdirs };
            must(row.nlink == expected, format!("nlink is {} instead of {expected}", row.nlink));
            must(row.size == named.entries, format!("it says {} entries and has {}", row.size, named.entries));
            let names = u32::from(row.nlink > 0 && ino != Ino::ROOT);
            must(named.names == names, format!("the directory has {} names instead of {names}", named.names));
            let parent = if ino == Ino::ROOT { Some(Ino::ROOT) } else { named.last.map(|(p, _)| p) };
            must(row.nlink == 0 || Some(row.parent) == parent, "its parent is not where its name is".into());
        } else {
            must(row.nlink == named.names, format!("nlink is {} and it has {} names", row.nlink, named.names));
            must(row.parent == Ino(0), "it is no directory but has a parent".into());
        }
        let has = (named.extents, named.stored);
        must(
            (row.extents, row.stored) == has,
            format!("it counts {:?} extents and bytes, has {has:?}", (row.extents, row.stored)),
        );
        must(row.kind == FileKind::File || named.extents == 0, "it is no file but has extents".into());
        must(row.kind != FileKind::File || named.end <= row.size, format!("bytes up to {} of {}", named.end, row.size));
        must(u64::from(row.xattr_bytes) == named.xattr_bytes, "it counts other extended attributes than it has".into());
        let symlink = row.kind == FileKind::Symlink;
        must(symlink || row.target.is_empty(), "it is no symlink but has a target".into());
        must(!symlink || row.size == row.target.len() as u64, "the size is not that of the target".into());
        let orphan = get::<OrphanRow>(self.snap, &key)?.is_some();
        if orphan != (row.nlink == 0) {
            self.wrong(Table::Inode, &key, format!("nlink is {} and it has an orphan row: {orphan}", row.nlink));
        }
        Ok(())
    }

    /// Whether the parents of a directory lead to the root.
    fn rooted(&mut self, ino: Ino, rooted: &mut BTreeSet<Ino>) -> Result<(), Fault> {
        let mut way = BTreeSet::new();
        let mut at = ino;
        while !rooted.contains(&at) {
            let row = get::<InodeRow>(self.snap, &keys::inode(at))?;
            let parent = row.filter(|r| r.kind == FileKind::Directory && r.nlink > 0).map(|r| r.parent);
            if !way.insert(at) || parent.is_none() {
                self.wrong(Table::Inode, &keys::inode(ino), "its parents do not lead to the root");
                return Ok(());
            }
            at = parent.unwrap_or(at);
        }
        if rooted.len() >= self.window {
            *rooted = BTreeSet::from([Ino::ROOT]);
        }
        rooted.append(&mut way);
        Ok(())
    }
}
