//! The filesystem itself: its beginning, each start of metad, and trust after lost history.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::{ClusterId, Epoch, Ino, OrderNo, StartId};

use crate::machine::command::Reply;
use crate::machine::ops::create::new_inode;
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::InodeRow;
use crate::schema::keys::{self, Counter};
use crate::schema::meta::{ClusterRow, CountRow, FormatRow, OrdersRow, StartRow};

const REPLICAS_MAX: u8 = 16;

pub(in crate::machine) fn format(
    txn: &mut Txn<'_, '_>,
    cluster: ClusterId,
    (replicas, min_replicas): (u8, u8),
    (uid, gid): (u32, u32),
) -> Res<Reply> {
    if txn.get::<FormatRow>(keys::FORMAT)?.is_some() {
        return Err(Refusal::Exists.into());
    }
    if !(1..=REPLICAS_MAX).contains(&replicas) || !(1..=replicas).contains(&min_replicas) {
        return Err(Refusal::Invalid.into());
    }

    let root = InodeRow { mode: 0o755, uid, gid, parent: Ino::ROOT, ..new_inode(txn, FileKind::Directory, txn.now) };
    txn.put_inode(Ino::ROOT, &root);
    txn.count(Counter::Inodes, 1);
    txn.put(keys::counter(Counter::NextIno), &CountRow(Ino::ROOT.0 + 1));
    txn.put(keys::FORMAT, &FormatRow { cluster, replicas, min_replicas, made: txn.now });
    let row = ClusterRow { epoch: Epoch(1), next_slot: 0 };
    txn.put(keys::CLUSTER, &row);
    txn.put(keys::ORDERS, &OrdersRow { incarnation: 1, floor: OrderNo::default() });
    let map = dfs_core::cluster::ClusterMap { cluster, epoch: row.epoch, replicas, min_replicas, ..txn.map.clone() };
    txn.set_map(map);
    Ok(Reply::Done)
}

pub(in crate::machine) fn start(txn: &mut Txn<'_, '_>, start: StartId) -> Res<Reply> {
    let row = StartRow { start, index: txn.place.index };
    txn.put(keys::START, &row);
    // Kept for ever: a node that was away long must not take an old start of ours for another history.
    txn.put(keys::started(start), &row);
    Ok(Reply::Done)
}

/// Raises the incarnation above what any node remembers; orders from now on are newer than all they know.
pub(in crate::machine) fn trust(txn: &mut Txn<'_, '_>, above: u32) -> Res<Reply> {
    let mut orders = txn.orders()?;
    let next = above.max(orders.incarnation).checked_add(1).ok_or(Refusal::Invalid)?;
    orders.incarnation = next;
    txn.put(keys::ORDERS, &orders);
    Ok(Reply::Incarnation(next))
}
