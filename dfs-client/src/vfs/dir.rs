//! Listing directories.
//!
//! A handle reads [pages](super::listing) in order of their names and keeps one. A cookie is the running number of an
//! entry (`.` is 1, `..` is 2); where each page begins is kept, so that going back costs one page. Entries made or taken
//! away meanwhile never disturb the others' names, only (for those who go back) their numbers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::DIR_ENTRIES;
use dfs_core::name::Name;
use dfs_core::query::{Answer, DirEntry, Query};

use super::handle::Numbered;
use super::inode::Neighbours;
use super::listing::{Ahead, Listing, Page, length};
use super::types::{DirItem, Entry};
use super::{Vfs, attr::wrong_answer};
use crate::cache::chunk::is_small;
use crate::error::{FsError, FsResult};

/// `.` and `..`.
const DOTS: u64 = 2;

/// Open directories.
pub(crate) type DirHandles = Numbered<DirHandle>;

/// One open directory.
#[derive(Debug)]
pub(crate) struct DirHandle {
    ino: Ino,
    /// Seals given up before this were reported to this handle or are none of its business.
    lost_seen: AtomicU64,
    listing: tokio::sync::Mutex<Listing>,
}

impl Vfs {
    /// Opens a directory.
    ///
    /// # Errors
    /// `NotDirectory`, `NotFound`; faults; too many open directories.
    pub async fn opendir(&self, ino: Ino) -> FsResult<u64> {
        if self.getattr(ino).await?.attr.kind != FileKind::Directory {
            return Err(Refusal::NotDirectory.into());
        }
        let lost_seen = AtomicU64::new(self.lost_seals.load(Ordering::Relaxed));
        self.dirs.add(DirHandle { ino, lost_seen, listing: tokio::sync::Mutex::default() })
    }

    /// The next entries after `cookie`, at most `max` of them; none means the end. 0 starts afresh. With `plus`
    /// they bring their attributes.
    ///
    /// # Errors
    /// `NotFound` for a directory that is gone; faults.
    pub async fn readdir(&self, fh: u64, cookie: u64, plus: bool, max: usize) -> FsResult<Vec<DirItem>> {
        let dir = self.dirs.get(fh)?;
        let mut listing = tokio::time::timeout(self.config.deadline, dir.listing.lock())
            .await
            .map_err(|_| FsError::io("another reader of the directory takes too long"))?;
        if cookie == 0 {
            *listing = Listing::default();
        }
        let (mut items, mut unsettled) = (Vec::new(), Vec::new());
        let parent = self.inodes.get(dir.ino).state().parent.unwrap_or(dir.ino);
        for (number, name, ino) in [(1, &b"."[..], dir.ino), (2, b"..", parent)] {
            if cookie < number && items.len() < max {
                let (name, kind) = (name.to_vec(), FileKind::Directory);
                items.push(DirItem { name, ino, kind, cookie_after: number, entry: None });
            }
        }
        if items.len() >= max {
            return Ok(items);
        }
        let mut index = cookie.max(DOTS) - DOTS;
        loop {
            self.turn_to(dir.ino, &mut listing, index, plus).await?;
            self.list_ahead(dir.ino, &mut listing, index, plus);
            let Some(page) = &listing.page else { return Ok(items) };
            let skip = usize::try_from(index - page.before).unwrap_or(usize::MAX);
            let now = Instant::now();
            items.reserve(page.entries.len().saturating_sub(skip).min(max - items.len()));
            for (at, entry) in page.entries.iter().enumerate().skip(skip) {
                if items.len() >= max {
                    break;
                }
                let asked = page.ticket.asked();
                let known = if plus { self.known_entry(entry, asked, now, &mut unsettled) } else { None };
                let known = known.map(|entry| self.kept(dir.ino, entry));
                if plus && known.is_none() {
                    // Gone since the page was read.
                    continue;
                }
                items.push(DirItem {
                    name: entry.name.as_bytes().to_vec(),
                    ino: entry.ino,
                    kind: entry.kind,
                    cookie_after: page.before + at as u64 + 1 + DOTS,
                    entry: known,
                });
            }
            // Nothing means the end, so it must not come of entries that are gone.
            if !items.is_empty() || page.end {
                self.settle_all(&unsettled).await;
                return Ok(items);
            }
            index = page.after();
        }
    }

    /// Attributes of a listed entry as they are known now; what is to be settled first goes to `unsettled`.
    fn known_entry(&self, entry: &DirEntry, asked: Instant, now: Instant, unsettled: &mut Vec<Ino>) -> Option<Entry> {
        let node = entry.node.as_ref()?;
        let ttl = self.config.ttl.saturating_sub(now.saturating_duration_since(asked));
        let listed = Entry { attr: node.attr, ttl };
        let Some(inode) = self.inodes.find(entry.ino) else { return Some(listed) };
        let state = inode.state();
        if !state.known.is_settled() {
            unsettled.push(entry.ino);
        }
        let known = state.entry(now, self.config.ttl).or_else(|| {
            // However old, with own changes that the page has not: the kernel would cut off what was written since.
            let attr = state.shown().filter(|attr| attr.change >= node.attr.change)?;
            Some(Entry { attr, ttl: Duration::ZERO })
        });
        Some(known.unwrap_or(listed))
    }

    /// Makes the page that holds entry `index` the current one; an empty or earlier one at the end.
    async fn turn_to(&self, ino: Ino, listing: &mut Listing, index: u64, plus: bool) -> FsResult<()> {
        if let Some(page) = &mut listing.page {
            // To ask again after the end would show its last entries twice when others came before them.
            if page.end && index >= page.after() {
                return Ok(());
            }
            if page.has(index) {
                // The kernel takes a name with attributes for one that is there now: after an own change it may not be.
                if plus && !(page.plus && self.dentries.is_current(page.ticket, ino)) {
                    let start = listing.starts.iter().find(|(before, _)| *before == page.before);
                    self.add_nodes(ino, page, start.and_then(|(_, after)| after.clone())).await?;
                }
                return Ok(());
            }
        }
        if listing.starts.is_empty() {
            listing.starts.push((0, None));
        }
        let at = listing.starts.partition_point(|(before, _)| *before <= index).saturating_sub(1);
        let mut start = listing.starts[at].clone();
        loop {
            let (before, after) = start;
            let page = match listing.take_ahead(before, plus).await {
                Some(page) if self.dentries.is_current(page.ticket, ino) => page,
                _ => self.page(ino, before, after, plus, length(before)).await?,
            };
            let next = before + page.entries.len() as u64;
            let last = page.entries.last().map(|e| e.name.clone());
            let end = page.end || last.is_none();
            if !end && listing.starts.last().is_some_and(|(known, _)| *known < next) {
                listing.starts.push((next, last.clone()));
            }
            let found = page.has(index) || end;
            // A page that does not reach as far as `index` has nothing for the caller.
            listing.page = (page.has(index)).then_some(page);
            if found {
                return Ok(());
            }
            start = (next, last);
        }
    }

    /// Asks for the page after the current one, which is the first or one whose reader has come back for more: metad
    /// looks it up meanwhile. Not for one who changes the directory while reading it, since what was read before a
    /// change is not used.
    fn list_ahead(&self, ino: Ino, listing: &mut Listing, index: u64, plus: bool) {
        let goes_on = |page: &&Page| index > page.before || page.before == 0;
        let Some(page) = listing.page.as_ref().filter(goes_on).filter(|_| listing.ahead.is_none()) else {
            return;
        };
        if !self.dentries.is_current(page.ticket, ino) {
            return;
        }
        let (before, after) = (page.after(), page.more_after());
        if let (Some(after), Some(vfs)) = (after, self.shared()) {
            let page = async move { vfs.page(ino, before, Some(after), plus, length(before)).await };
            let page = self.runtime.spawn(page);
            listing.ahead = Some(Ahead { before, plus, page });
        }
    }

    /// Brings the attributes of a page that was asked for without. Its entries keep their numbers, whatever has come
    /// or gone between them since; one that is gone gets none.
    async fn add_nodes(&self, ino: Ino, page: &mut Page, after: Option<Name>) -> FsResult<()> {
        let last = page.entries.last().map(|e| e.name.clone());
        let mut after = after;
        let mut found = HashMap::new();
        let mut ticket = None;
        loop {
            let more = self.page(ino, 0, after, true, DIR_ENTRIES).await?;
            ticket.get_or_insert(more.ticket);
            after = more.entries.last().map(|e| e.name.clone());
            found.extend(more.entries.into_iter().map(|e| (e.name.clone(), e)));
            if more.end || after.is_none() || after >= last {
                break;
            }
        }
        for entry in &mut page.entries {
            match found.remove(&entry.name) {
                Some(same) => *entry = same,
                None => entry.node = None,
            }
        }
        page.plus = true;
        page.ticket = ticket.unwrap_or(page.ticket);
        Ok(())
    }

    /// One page from metad; what it says of inodes and names goes into the caches.
    pub(super) async fn page(
        &self,
        ino: Ino,
        before: u64,
        after: Option<Name>,
        plus: bool,
        limit: u32,
    ) -> FsResult<Page> {
        let ticket = self.dentries.ticket(ino);
        let query = Query::ReadDir { ino, after, limit, plus };
        let Answer::Dir { attr, entries, end } = self.meta.query(query).await? else { return Err(wrong_answer()) };
        self.learn(&self.inodes.get(ino), attr, ticket.asked());
        let mut small = Vec::new();
        let mut owners = Vec::new();
        for entry in &entries {
            let Some(node) = &entry.node else { continue };
            let inode = self.learn_listed(ino, node, ticket.asked());
            self.dentries.learn(ticket, ino, &entry.name, entry.ino);
            if let Some([extent]) = node.extents.as_deref()
                && is_small(&extent.chunk)
            {
                owners.push(inode);
                small.push(extent.chunk);
            }
        }
        let chunks: Arc<[_]> = small.into();
        for (own, owner) in owners.into_iter().enumerate() {
            owner.state().neighbours = Some(Neighbours { chunks: chunks.clone(), own });
        }
        Ok(Page { before, entries, ticket, plus, end })
    }

    /// An entry of a listing goes to the kernel with its attributes.
    pub fn listed(&self, dir: Ino, item: &DirItem) {
        if item.kind == FileKind::Directory
            && item.entry.is_some()
            && let Ok(name) = Name::new(&item.name)
        {
            self.told.tell(dir, &name, item.ino, item.kind);
        }
    }

    /// The handle is not used any more.
    pub fn releasedir(&self, fh: u64) {
        self.dirs.remove(fh);
    }

    /// Makes the whole mount durable.
    ///
    /// # Errors
    /// What could not be saved, now or since the handle was opened or last asked.
    pub async fn fsyncdir(&self, fh: u64) -> FsResult<()> {
        let dir = self.dirs.get(fh)?;
        let saved = self.sync_all().await;
        let lost = self.lost_seals.load(Ordering::Relaxed);
        let seen = dir.lost_seen.swap(lost, Ordering::Relaxed);
        saved?;
        if lost == seen { Ok(()) } else { Err(FsError::io("some data could not be saved")) }
    }

    /// Nobody heard the error that [`Vfs::fsyncdir`] returned: its caller was gone. The next one reports it again.
    pub fn fsyncdir_unheard(&self, fh: u64) {
        if let Ok(dir) = self.dirs.get(fh)
            && let Some(before) = self.lost_seals.load(Ordering::Relaxed).checked_sub(1)
        {
            dir.lost_seen.store(before, Ordering::Relaxed);
        }
    }

    /// The kernel forgets `nlookup` of the references it was given. What is cached of an inode that nobody needs
    /// goes at once: the kernel has no pages of it any more.
    pub fn forget(&self, ino: Ino, nlookup: u64) {
        if nlookup > 0 {
            self.inodes.forget(ino);
        }
    }
}
