//! A store as the rules for stores say, with one chunk: what it holds, and the words of it that are on the way.
//!
//! A put is durable before it is answered. Orders not newer than what was carried out are ignored; a deletion becomes
//! durable before its number does. A copy that the store finds damaged counts as absent first, then the number of
//! losses is raised and synced, then metad is told. A power cut forgets what was not synced; the start counter rises
//! at each start.

use dfs_core::id::{LogIndex, LossNo, OrderNo, StartCounter, StoreId};
use dfs_core::op::Ack;

/// Numbers that go with each word that the chunk is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Word {
    pub(super) start: u64,
    pub(super) orders: OrderNo,
    pub(super) losses: u64,
}

impl Word {
    pub(super) fn ack(self, store: StoreId) -> Ack {
        Ack { store, start: StartCounter(self.start), orders: self.orders, losses: LossNo(self.losses) }
    }
}

/// A loss on its way to metad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Loss {
    None,
    /// The copy is out of the index.
    Found,
    /// The number is raised and synced.
    Numbered(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) up: bool,
    /// metad knows of its last start.
    pub(super) registered: bool,
    pub(super) start: u64,
    /// The index has the chunk.
    pub(super) has: bool,
    /// A deletion was done and is not synced: a power cut may bring the copy back.
    pub(super) unsynced: bool,
    /// The bytes are wrong, and the store does not know.
    pub(super) rotten: bool,
    /// A reader has told metad so.
    pub(super) told: bool,
    /// Orders carried out, and those of them that are synced.
    pub(super) done: OrderNo,
    pub(super) synced: OrderNo,
    /// Losses, synced.
    pub(super) losses: u64,
    pub(super) loss: Loss,
    /// The copy is lost and metad was not told; a power cut before it is leaves that to reconcile.
    pub(super) untold: bool,
    /// The answer that the client holds.
    pub(super) ack: Option<Word>,
    /// A pull or a look that is done, with what is to be reported and as of which entry the list was.
    pub(super) pulled: Option<(Word, LogIndex)>,
}

impl Store {
    /// With a good copy.
    pub(super) fn new() -> Self {
        Self {
            up: true,
            registered: true,
            start: 1,
            has: true,
            unsynced: false,
            rotten: false,
            told: false,
            done: OrderNo::default(),
            synced: OrderNo::default(),
            losses: 0,
            loss: Loss::None,
            untold: false,
            ack: None,
            pulled: None,
        }
    }

    /// What it says when it has the chunk.
    pub(super) fn word(&self) -> Word {
        Word { start: self.start, orders: self.synced, losses: self.losses }
    }

    /// Bytes come; what the index has already is believed.
    pub(super) fn put(&mut self) -> Word {
        if !self.has {
            (self.has, self.rotten, self.told) = (true, false, false);
        }
        (self.unsynced, self.untold) = (false, false);
        self.word()
    }

    pub(super) fn delete(&mut self, order: OrderNo) {
        self.unsynced |= self.has;
        self.has = false;
        self.done = order;
    }

    pub(super) fn sync(&mut self) {
        self.unsynced = false;
        self.synced = self.done;
    }

    /// Its copy turns out damaged.
    pub(super) fn lose(&mut self) {
        (self.has, self.rotten, self.told, self.untold) = (false, false, false, true);
        self.loss = Loss::Found;
    }

    pub(super) fn number(&mut self) {
        self.losses += 1;
        self.loss = Loss::Numbered(self.losses);
    }

    /// The power goes. `back`: a deletion that was not synced is undone.
    pub(super) fn cut(&mut self, back: bool) {
        self.up = false;
        self.has |= back;
        self.unsynced = false;
        self.done = self.synced;
        self.pulled = None;
        self.loss = Loss::None;
    }

    pub(super) fn restart(&mut self) {
        (self.up, self.registered, self.start) = (true, false, self.start + 1);
    }
}
