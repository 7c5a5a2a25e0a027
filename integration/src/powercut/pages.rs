//! The bytes of one file: pages that are shared until one side changes them, so that an image costs little.
//! Pages of zeros are left out.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;
const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// Contents and length of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
}

/// The parts of `start..end` by page: number of the page, and the range in it.
fn parts(start: u64, end: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let pages = if start < end { start / PAGE..end.div_ceil(PAGE) } else { 0..0 };
    pages.map(move |page| {
        let base = page * PAGE;
        (page, (start.max(base) - base) as usize..(end.min(base + PAGE) - base) as usize)
    })
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes in pages that are not zero.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Up to `size` bytes from `offset`; fewer only at the end.
    pub(super) fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(size as u64));
        let mut out = Vec::with_capacity(size);
        for (page, range) in parts(offset, end) {
            out.extend_from_slice(&self.pages.get(&page).map_or(&ZEROS[..], |p| &p[..])[range]);
        }
        out
    }

    /// Puts bytes in, and lengthens the file if they end behind its end.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        for (page, range) in parts(offset, end) {
            let from = (page * PAGE + range.start as u64 - offset) as usize;
            let part = &data[from..from + range.len()];
            if range.len() as u64 == PAGE && part == ZEROS {
                self.pages.remove(&page);
            } else {
                let page = self.pages.entry(page).or_insert_with(|| Arc::new(ZEROS));
                Arc::make_mut(page)[range].copy_from_slice(part);
            }
        }
        self.len = self.len.max(end);
    }

    /// Puts zeros in; the length stays.
    pub(super) fn zero(&mut self, start: u64, end: u64) {
        for (page, range) in parts(start, end.min(self.len)) {
            if range.len() as u64 == PAGE {
                self.pages.remove(&page);
            } else if let Some(page) = self.pages.get_mut(&page) {
                Arc::make_mut(page)[range].fill(0);
            }
        }
    }

    /// Cuts or lengthens; new bytes are zero.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len);
            drop(self.pages.split_off(&len.div_ceil(PAGE)));
        }
        self.len = len;
    }
}
