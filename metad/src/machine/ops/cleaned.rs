//! Cleaned: somebody has looked at a cut that wanted cleaning and done what was to be done.
//!
//! Its note goes only if it was found to be good as it is now: whoever wrote to it meanwhile has found the note there and made
//! no other. Otherwise it is due again after a while.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::op::OpReply;

use crate::machine::command::Reply;
use crate::machine::ops::member::CHANGES;
use crate::machine::ops::reply;
use crate::machine::txn::{Res, Stop, Txn};
use crate::schema::extent::CleanRow;
use crate::schema::keys;

/// `good_at`: the `data` of the file with which the cut is good.
pub(super) fn cleaned(txn: &mut Txn<'_, '_>, ino: Ino, cut: u64, good_at: Option<u64>) -> Res<OpReply> {
    let inode = txn.inode(ino)?;
    if let Some(row) = txn.get::<CleanRow>(&keys::clean(ino, cut))? {
        txn.drop_clean(ino, cut, row.due);
        if good_at != Some(inode.data) {
            txn.note_clean(ino, cut);
        }
    }
    Ok(reply(inode.data, [inode.attr(ino)]))
}

/// Somebody has found that these cuts want cleaning.
pub(in crate::machine) fn want(txn: &mut Txn<'_, '_>, cuts: &[(Ino, u64)]) -> Res<Reply> {
    if cuts.len() > CHANGES {
        return Err(Refusal::OverLimit.into());
    }
    for (ino, cut) in cuts {
        match txn.inode(*ino) {
            Ok(row) if row.kind == FileKind::File => txn.want_cleaning(*ino, *cut)?,
            Ok(_) | Err(Stop::Refused(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(Reply::Done)
}
