//! Between messages and the core's types.
//!
//! To the wire is `From` and cannot fail. From the wire is `TryFrom` with
//! [`Malformed`]: every bound of [`dfs_core::limits`] that concerns a message is
//! checked here, so that what lies behind never sees a list, a name or a number
//! that is out of bounds. What only the state can tell (does it exist, is the
//! file too long, was the number granted) is left to the state machine.

mod attr;
mod cluster;
mod ids;
mod lock;
mod op;
mod query;
mod reply;

#[cfg(test)]
mod tests;

pub use ids::WireId;

use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::{LABEL_BYTES, XATTR_NAME_BYTES};
use dfs_core::name::Name;

/// A message that no correct peer sends: something is missing, over a limit or contradictory. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {what}")]
pub struct Malformed {
    /// What is wrong, in the words of the contract.
    pub what: &'static str,
}

impl From<Malformed> for Refusal {
    /// For calls on a session stream, where one bad call must not end the others.
    fn from(_: Malformed) -> Self {
        Self::Invalid
    }
}

/// Refuses unless `ok`.
///
/// # Errors
/// `Malformed` with `what` when not.
pub fn check(ok: bool, what: &'static str) -> Result<(), Malformed> {
    if ok { Ok(()) } else { Err(Malformed { what }) }
}

/// A message that must be set, converted.
///
/// # Errors
/// When it is not set, or malformed itself.
pub fn required<W, C>(wire: Option<W>, what: &'static str) -> Result<C, Malformed>
where
    C: TryFrom<W, Error = Malformed>,
{
    wire.ok_or(Malformed { what })?.try_into()
}

/// A message that may be set, converted.
///
/// # Errors
/// When it is malformed.
pub fn optional<W, C>(wire: Option<W>) -> Result<Option<C>, Malformed>
where
    C: TryFrom<W, Error = Malformed>,
{
    wire.map(C::try_from).transpose()
}

/// A list of at most `max` messages, converted.
///
/// # Errors
/// `Malformed` with `what` when there are more, or that of the first malformed one.
pub fn list<W, C>(wire: Vec<W>, max: usize, what: &'static str) -> Result<Vec<C>, Malformed>
where
    C: TryFrom<W, Error = Malformed>,
{
    check(wire.len() <= max, what)?;
    wire.into_iter().map(C::try_from).collect()
}

/// A list to the wire.
#[must_use]
pub fn to_list<C, W: From<C>>(core: Vec<C>) -> Vec<W> {
    core.into_iter().map(W::from).collect()
}

/// How many are asked for at most: 1..=`max`.
///
/// # Errors
/// When it is 0 or over `max`.
pub fn limit(wire: u32, max: u32) -> Result<u32, Malformed> {
    check((1..=max).contains(&wire), "limit out of range")?;
    Ok(wire)
}

/// A zone, an address or a client's description of itself.
///
/// # Errors
/// When it is longer than [`LABEL_BYTES`].
pub fn label(wire: String) -> Result<String, Malformed> {
    check(wire.len() <= LABEL_BYTES, "label too long")?;
    Ok(wire)
}

/// The number of an inode.
///
/// # Errors
/// When it is 0, which is no inode.
pub fn ino(wire: u64) -> Result<Ino, Malformed> {
    check(wire != 0, "inode number 0")?;
    Ok(Ino(wire))
}

/// The name of a directory entry.
///
/// # Errors
/// When no directory can hold it.
pub fn name(wire: &[u8]) -> Result<Name, Malformed> {
    Name::new(wire).map_err(|refusal| match refusal {
        Refusal::NameTooLong => Malformed { what: "name too long" },
        _ => Malformed { what: "not a name" },
    })
}

/// The full name of an extended attribute.
///
/// # Errors
/// When it is empty, too long or has a NUL in it.
fn xattr_name(wire: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    check((1..=XATTR_NAME_BYTES).contains(&wire.len()), "attribute name empty or too long")?;
    check(!wire.contains(&0), "NUL in an attribute name")?;
    Ok(wire)
}
