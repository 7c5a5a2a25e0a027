//! The pages of a listing: the first is short, so that it comes soon, the later ones have up to a thousand entries.

use dfs_core::limits::DIR_ENTRIES;
use dfs_core::name::Name;
use dfs_core::query::DirEntry;
use tokio::task::JoinHandle;

use crate::cache::dentry::Ticket;
use crate::error::FsResult;

/// Entries of the first page: with the dots, what the kernel takes of a READDIRPLUS into glibc's buffer of 32 KiB.
const FIRST_PAGE: u32 = 190;
/// Of the longest: five times what it takes, and no more than metad gives.
const LONG_PAGE: u32 = 960;
const _: () = assert!(LONG_PAGE <= DIR_ENTRIES);

/// How far one who lists a directory has come.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Pages begin here: the number of entries before, and the name before. The first is (0, None).
    pub(super) starts: Vec<(u64, Option<Name>)>,
    /// The current one.
    pub(super) page: Option<Page>,
    /// The one after it, if it was asked for.
    pub(super) ahead: Option<Ahead>,
}

/// Entries that follow each other.
#[derive(Debug)]
pub(super) struct Page {
    /// Entries before it.
    pub(super) before: u64,
    /// In order.
    pub(super) entries: Vec<DirEntry>,
    /// What it may be believed for.
    pub(super) ticket: Ticket,
    /// Whether the entries have their attributes.
    pub(super) plus: bool,
    /// Whether it is the last.
    pub(super) end: bool,
}

/// A page that is on its way.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Entries before it.
    pub(super) before: u64,
    /// Whether with attributes.
    pub(super) plus: bool,
    pub(super) page: JoinHandle<FsResult<Page>>,
}

impl Listing {
    /// The page that was asked for ahead, if it is this one and came. One with attributes serves who wants none: for its
    /// first names the kernel asks for them, whatever the program is, and often for no others'.
    pub(super) async fn take_ahead(&mut self, before: u64, plus: bool) -> Option<Page> {
        let ahead = self.ahead.take().filter(|ahead| ahead.before == before && (ahead.plus || !plus))?;
        ahead.page.await.ok()?.ok()
    }
}

/// Entries of a page with so many before it. Twice as many: while its reader takes those, metad finds about twice as many.
pub(super) fn length(before: u64) -> u32 {
    u32::try_from(before.saturating_mul(2)).unwrap_or(LONG_PAGE).clamp(FIRST_PAGE, LONG_PAGE)
}

impl Page {
    /// Whether it has this entry.
    pub(super) fn has(&self, index: u64) -> bool {
        index >= self.before && index < self.after()
    }

    /// Its last name, if there are more after it.
    pub(super) fn more_after(&self) -> Option<Name> {
        self.entries.last().filter(|_| !self.end).map(|e| e.name.clone())
    }

    /// The number of the first entry after it.
    pub(super) fn after(&self) -> u64 {
        self.before + self.entries.len() as u64
    }
}
