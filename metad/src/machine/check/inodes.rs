//! Inodes against their names, extents and extended attributes.
//!
//! What lies in a directory or belongs to an inode is ordered as the inodes are
//! and read along with them. What names an inode lies anywhere: of a window of
//! inodes at a time it is counted in one pass over all names.

use std::collections::BTreeSet;

use dfs_core::attr::FileKind;
use dfs_core::id::Ino;

use crate::kv::Table;
use crate::machine::check::rows::Rows;
use crate::machine::check::{Check, ROOTED};
use crate::schema::extent;
use crate::schema::inode::{DentryRow, InodeRow, OrphanRow, XattrRow};
use crate::schema::keys::{self, Counter};
use crate::schema::{Fault, Record, corrupt, get};

/// What all names say of an inode. There is one for each inode of a window, so it is small.
struct Named {
    ino: Ino,
    /// Where its last name is.
    parent: Ino,
    names: u32,
    /// What its names say that it is.
    kind: Option<FileKind>,
    kinds_differ: bool,
}

/// What lies in an inode.
#[derive(Default)]
struct Inside {
    subdirs: u32,
    entries: u64,
    extents: u64,
    stored: u64,
    end: u64,
    xattr_bytes: u64,
}

/// The tables that are read along with the inodes.
struct Along<'a> {
    dentries: Rows<'a>,
    extents: Rows<'a>,
    xattrs: Rows<'a>,
}

impl Check<'_> {
    /// Inodes against names, extents and xattrs.
    pub(super) fn inodes(&mut self) -> Result<(), Fault> {
        let rows = |table| Rows::new(self.snap, table, Vec::new());
        let (mut inodes, mut ahead) = (rows(Table::Inode), rows(Table::Inode));
        let mut along =
            Along { dentries: rows(Table::Dentry), extents: rows(Table::Extent), xattrs: rows(Table::Xattr) };
        let mut rooted = BTreeSet::from([Ino::ROOT]);
        let mut after = None;
        loop {
            let mut window: Vec<Named> = Vec::new();
            while window.len() < self.window {
                let Some((key, _)) = ahead.next()? else { break };
                if let Some(ino) = keys::parse_inode(&key) {
                    window.push(Named { ino, parent: Ino(0), names: 0, kind: None, kinds_differ: false });
                }
            }
            let last = if ahead.peek()?.is_none() { None } else { window.last().map(|n| n.ino) };
            self.names(&mut window, after, last)?;
            let mut named = window.into_iter().peekable();
            while named.peek().is_some() {
                let Some((key, value)) = inodes.next()? else { break };
                let Some(ino) = keys::parse_inode(&key) else {
                    self.row(Err(corrupt(Table::Inode, &key, "not a key")))?;
                    continue;
                };
                let Some(named) = named.next_if(|n| n.ino == ino) else { continue };
                match InodeRow::from_value(&key, &value) {
                    Ok(row) => {
                        let inside = self.inside(&mut along, ino, Some(&row))?;
                        self.inode(ino, &row, &named, &inside)?;
                        if row.kind == FileKind::Directory && row.nlink > 0 {
                            self.rooted(ino, &mut rooted)?;
                        }
                    }
                    Err(damaged) => {
                        self.row(Err(damaged))?;
                        self.inside(&mut along, ino, None)?;
                    }
                }
            }
            if last.is_none() {
                while let Some((key, _)) = inodes.next()? {
                    self.row(Err(corrupt(Table::Inode, &key, "not a key")))?;
                }
                self.inside(&mut along, Ino(u64::MAX), None)?;
                return Ok(());
            }
            after = last;
        }
    }

    /// What all names say of the inodes of the window, which are all after `after` up to `last`.
    fn names(&mut self, window: &mut [Named], after: Option<Ino>, last: Option<Ino>) -> Result<(), Fault> {
        let mut dentries = Rows::new(self.snap, Table::Dentry, Vec::new());
        while let Some((key, value)) = dentries.next()? {
            // A damaged row is reported when it is read along with its directory.
            let Ok(row) = DentryRow::from_value(&key, &value) else { continue };
            if after.is_some_and(|after| row.ino <= after) || last.is_some_and(|last| row.ino > last) {
                continue;
            }
            match (window.binary_search_by_key(&row.ino, |n| n.ino), keys::parse_dentry(&key)) {
                (Ok(at), Some((parent, _))) => {
                    let named = &mut window[at];
                    named.names += 1;
                    named.kinds_differ |= named.kind.is_some_and(|kind| kind != row.kind);
                    named.kind = Some(row.kind);
                    named.parent = parent;
                }
                (Err(_), _) => self.wrong(Table::Dentry, &key, "it names an inode that does not exist"),
                (Ok(_), None) => {}
            }
        }
        Ok(())
    }

    /// Reads along up to this inode: what belongs to it, and what belongs to none. `row` is none if it is damaged.
    fn inside(&mut self, along: &mut Along<'_>, ino: Ino, row: Option<&InodeRow>) -> Result<Inside, Fault> {
        let mut inside = Inside::default();
        let limit = keys::inode(ino);
        let is_dir = row.is_none_or(|r| r.kind == FileKind::Directory && r.nlink > 0);
        while let Some((key, value)) = along.dentries.next_up_to(&limit)? {
            let outcome = self.entry(&mut inside, (ino, is_dir), &key, &value);
            self.row(outcome)?;
        }
        while let Some((key, value)) = along.extents.next_up_to(&limit)? {
            let outcome = extent::parse(&key, &value).map(|(owner, run)| {
                if owner != ino {
                    self.wrong(Table::Extent, &key, "its file does not exist");
                    return;
                }
                for e in run {
                    if e.range.start < inside.end {
                        self.wrong(Table::Extent, &key, "it overlaps the one before");
                    }
                    inside.extents += 1;
                    inside.stored += e.range.len();
                    inside.end = e.range.end;
                }
            });
            self.row(outcome)?;
        }
        while let Some((key, value)) = along.xattrs.next_up_to(&limit)? {
            let outcome = self.xattr(&mut inside, ino, &key, &value);
            self.row(outcome)?;
        }
        Ok(inside)
    }

    fn entry(
        &mut self,
        inside: &mut Inside,
        (dir, is_dir): (Ino, bool),
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Fault> {
        let (parent, _) = keys::parse_dentry(key).ok_or_else(|| corrupt(Table::Dentry, key, "not a key"))?;
        let row = DentryRow::from_value(key, value)?;
        self.report.dentries += 1;
        if parent != dir || !is_dir {
            self.wrong(Table::Dentry, key, "it is in something that is no directory");
        }
        if parent == dir {
            inside.entries += 1;
            inside.subdirs += u32::from(row.kind == FileKind::Directory);
        }
        Ok(())
    }

    fn xattr(&mut self, inside: &mut Inside, ino: Ino, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let (owner, name) = keys::parse_xattr(key).ok_or_else(|| corrupt(Table::Xattr, key, "not a key"))?;
        XattrRow::from_value(key, value)?;
        if owner == ino {
            inside.xattr_bytes += name.len() as u64 + 1;
        } else {
            self.wrong(Table::Xattr, key, "its inode does not exist");
        }
        Ok(())
    }

    fn inode(&mut self, ino: Ino, row: &InodeRow, named: &Named, inside: &Inside) -> Result<(), Fault> {
        let key = keys::inode(ino);
        self.report.inodes += 1;
        self.report.extents += inside.extents;
        self.report.stored += inside.stored;
        self.count(Counter::Inodes, 1);
        let mut must = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                self.wrong(Table::Inode, &key, what());
            }
        };
        let is_dir = row.kind == FileKind::Directory;
        let kinds_agree = !named.kinds_differ && named.kind.is_none_or(|kind| kind == row.kind);
        must(kinds_agree, &|| "a name says another kind".into());
        if is_dir {
            let expected = if row.nlink == 0 { 0 } else { 2 + inside.subdirs };
            must(row.nlink == expected, &|| format!("nlink is {} instead of {expected}", row.nlink));
            must(row.size == inside.entries, &|| format!("it says {} entries and has {}", row.size, inside.entries));
            let names = u32::from(row.nlink > 0 && ino != Ino::ROOT);
            must(named.names == names, &|| format!("the directory has {} names instead of {names}", named.names));
            let parent = if ino == Ino::ROOT { Ino::ROOT } else { named.parent };
            must(row.nlink == 0 || row.parent == parent, &|| "its parent is not where its name is".into());
        } else {
            must(row.nlink == named.names, &|| format!("nlink is {} and it has {} names", row.nlink, named.names));
            must(row.parent == Ino(0), &|| "it is no directory but has a parent".into());
        }
        let has = (inside.extents, inside.stored);
        let says = (row.extents, row.stored);
        must(says == has, &|| format!("it counts {says:?} extents and bytes, has {has:?}"));
        must(row.kind == FileKind::File || inside.extents == 0, &|| "it is no file but has extents".into());
        let within = row.kind != FileKind::File || inside.end <= row.size;
        must(within, &|| format!("bytes up to {} of {}", inside.end, row.size));
        let xattrs = u64::from(row.xattr_bytes) == inside.xattr_bytes;
        must(xattrs, &|| "it counts other extended attributes than it has".into());
        let symlink = row.kind == FileKind::Symlink;
        must(symlink || row.target.is_empty(), &|| "it is no symlink but has a target".into());
        must(!symlink || row.size == row.target.len() as u64, &|| "the size is not that of the target".into());
        // That every orphan row has an inode without names is looked at from its side.
        if row.nlink == 0 && get::<OrphanRow>(self.snap, &key)?.is_none() {
            self.wrong(Table::Inode, &key, "it has no names and no orphan row");
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
        if rooted.len() >= ROOTED {
            *rooted = BTreeSet::from([Ino::ROOT]);
        }
        rooted.append(&mut way);
        Ok(())
    }
}
