//! The tables. What their keys and values hold is the schema's business.

macro_rules! tables {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A table: one ordered map of keys to values.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Table {
            $($(#[$doc])* $variant,)*
        }

        impl Table {
            /// All tables, in their order.
            pub const ALL: &[Table] = &[$(Table::$variant,)*];

            /// Its name on disk, which never changes.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Table::$variant => $name,)*
                }
            }
        }
    };
}

tables! {
    /// Files, directories and whatever else has a number.
    Inode = "inode",
    /// Names in directories.
    Dentry = "dentry",
    /// Which range of a file is in which chunk.
    Extent = "extent",
    /// Chunks that are referenced, by slot.
    Chunk = "chunk",
    /// Full cuts by their content, for finding equal ones.
    ById = "by_id",
    /// Chunks that a member of a slot has still to get.
    Missed = "missed",
    /// Chunks that were condemned.
    Tombstone = "tombstone",
    /// Cuts that want cleaning, by when.
    Clean = "clean",
    /// Extended attributes.
    Xattr = "xattr",
    /// Unlinked files that are still open.
    Orphan = "orphan",
    /// What is to be freed, by when.
    Reap = "reap",
    /// Sessions.
    Session = "session",
    /// The last reply of each lane.
    Lane = "lane",
    /// Locks.
    Lock = "lock",
    /// Counters.
    Counter = "counter",
    /// Facts about the filesystem as a whole, and the applied index.
    Meta = "meta",
    /// Chunk daemons.
    Node = "node",
    /// Stores of chunk daemons.
    Store = "store",
    /// Slots and their members.
    Slot = "slot",
    /// Zones.
    Zone = "zone",
}

impl Table {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in [`Table::ALL`].
    #[must_use]
    pub const fn ordinal(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_are_unique() {
        let names: std::collections::BTreeSet<_> = Table::ALL.iter().map(|t| t.name()).collect();
        assert_eq!(names.len(), Table::COUNT);
        assert!(Table::ALL.iter().enumerate().all(|(i, t)| t.ordinal() == i));
        assert!(!names.contains("default"), "the store keeps that name for itself");
    }
}
