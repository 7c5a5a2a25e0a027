//! Reading and writing of records, and what can go wrong with that.

use std::ops::ControlFlow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kv::{KvError, Pair, Snapshot, Table, prefix_end};

/// We cannot know what is true: the store failed, or holds what was never written.
/// The writer stops on it; it is never an answer to a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The store failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A key or value is not what any version wrote.
    #[error("table {table}, key {key}: {what}")]
    Corrupt {
        /// Name of the table.
        table: &'static str,
        /// The key in hex.
        key: String,
        /// What is wrong.
        what: String,
    },
}

/// A [`Fault`] about one row.
#[must_use]
pub fn corrupt(table: Table, key: &[u8], what: impl Into<String>) -> Fault {
    let key = key.iter().map(|b| format!("{b:02x}")).collect();
    Fault::Corrupt { table: table.name(), key, what: what.into() }
}

/// A value of a table.
pub trait Record: Sized + Serialize {
    /// Where it lives.
    const TABLE: Table;
    /// The version that is written.
    const VERSION: u8;

    /// Reads what follows the version byte; `None` if it is none of ours.
    fn decode(version: u8, body: &[u8]) -> Option<Self>;

    /// About how long the value is, in bytes.
    fn about(&self) -> usize {
        96
    }

    /// The bytes of the value.
    fn to_value(&self) -> Vec<u8> {
        let value = Vec::with_capacity(self.about());
        let value = postcard::to_extend(&Self::VERSION, value).and_then(|v| postcard::to_extend(self, v));
        value.expect("plain data in memory always serializes")
    }

    /// The record in a value.
    ///
    /// # Errors
    /// When the value is of no known version or damaged.
    fn from_value(key: &[u8], value: &[u8]) -> Result<Self, Fault> {
        let (version, body) = value.split_first().ok_or_else(|| corrupt(Self::TABLE, key, "the value is empty"))?;
        Self::decode(*version, body)
            .ok_or_else(|| corrupt(Self::TABLE, key, format!("the value (version {version}) cannot be read")))
    }
}

/// The whole of `body` as one postcard value.
pub fn whole<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

/// A record that has had one version so far.
macro_rules! record {
    ($name:ty, $table:ident) => {
        impl $crate::schema::Record for $name {
            const TABLE: $crate::kv::Table = $crate::kv::Table::$table;
            const VERSION: u8 = 1;

            fn decode(version: u8, body: &[u8]) -> Option<Self> {
                (version == 1).then(|| $crate::schema::record::whole(body))?
            }
        }
    };
}
pub(crate) use record;

/// The record at a key.
///
/// # Errors
/// When the store fails or the value is damaged.
pub fn get<R: Record>(snap: &dyn Snapshot, key: &[u8]) -> Result<Option<R>, Fault> {
    match snap.get(R::TABLE, key)? {
        Some(value) => Ok(Some(R::from_value(key, &value)?)),
        None => Ok(None),
    }
}

/// At most `limit` rows from `from` on whose keys begin with `prefix`, in order.
///
/// # Errors
/// When the store fails.
pub fn page(snap: &dyn Snapshot, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Pair>, Fault> {
    let mut rows = Vec::new();
    let from = if from < prefix { prefix } else { from };
    snap.scan_until(table, from, prefix_end(prefix).as_deref(), limit, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

/// At most `limit` keys that begin with `prefix`, in order: for rows with values that nobody needs.
///
/// # Errors
/// When the store fails.
pub fn page_of_keys(snap: &dyn Snapshot, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let mut rows = Vec::new();
    snap.scan_until(table, prefix, prefix_end(prefix).as_deref(), limit, &mut |key, _| {
        rows.push(key.to_vec());
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

/// The smallest key after this one.
#[must_use]
pub fn next_key(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}
