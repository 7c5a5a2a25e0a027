//! Extended attributes: setting and removing. Which names which kind of inode may have is the kernel's business; ACLs
//! are in `acl`.

use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::{XATTR_LIST_BYTES, XATTR_NAME_BYTES, XATTR_VALUE_BYTES};
use dfs_core::op::{OpReply, XattrMode};

use crate::kv::Table;
use crate::machine::ops::acl::is_acl;
use crate::machine::ops::{Call, reply};
use crate::machine::txn::{Res, Txn};
use crate::schema::inode::{InodeRow, XattrRow};
use crate::schema::{Fault, corrupt, keys};

pub(super) fn set(
    txn: &mut Txn<'_, '_>,
    call: &Call<'_>,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> Res<OpReply> {
    check(name)?;
    if value.len() > XATTR_VALUE_BYTES {
        return Err(Refusal::TooLarge.into());
    }
    let mut inode = txn.inode(ino)?;
    let key = keys::xattr(ino, name);
    let is_there = txn.snap().get(Table::Xattr, &key)?.is_some();
    match (mode, is_there) {
        (XattrMode::Create, true) => return Err(Refusal::Exists.into()),
        (XattrMode::Replace, false) => return Err(Refusal::NoAttribute.into()),
        _ => {}
    }

    if !is_there {
        add_name(&mut inode, name)?;
    }
    inode.altered(call.time);
    txn.put(key, &XattrRow { value: value.to_vec() });
    txn.put_inode(ino, &inode);
    Ok(reply(inode.data, [inode.attr(ino)]))
}

pub(super) fn remove(txn: &mut Txn<'_, '_>, call: &Call<'_>, ino: Ino, name: &[u8]) -> Res<OpReply> {
    check(name)?;
    let mut inode = txn.inode(ino)?;
    let key = keys::xattr(ino, name);
    if txn.snap().get(Table::Xattr, &key)?.is_none() {
        return Err(Refusal::NoAttribute.into());
    }

    drop_name(&mut inode, name, &key)?;
    inode.altered(call.time);
    txn.kv.delete(Table::Xattr, key);
    txn.put_inode(ino, &inode);
    Ok(reply(inode.data, [inode.attr(ino)]))
}

fn check(name: &[u8]) -> Result<(), Refusal> {
    if name.is_empty() || name.contains(&0) || is_acl(name) {
        return Err(Refusal::Invalid);
    }
    if name.len() > XATTR_NAME_BYTES {
        return Err(Refusal::NameTooLong);
    }
    Ok(())
}

/// An inode gets one more name.
pub(super) fn add_name(inode: &mut InodeRow, name: &[u8]) -> Result<(), Refusal> {
    inode.xattr_bytes += listed(name);
    if inode.xattr_bytes as usize > XATTR_LIST_BYTES {
        return Err(Refusal::NoSpace);
    }
    Ok(())
}

/// An inode has one name less.
pub(super) fn drop_name(inode: &mut InodeRow, name: &[u8], key: &[u8]) -> Result<(), Fault> {
    let rest = inode.xattr_bytes.checked_sub(listed(name));
    inode.xattr_bytes = rest.ok_or_else(|| corrupt(Table::Xattr, key, "the inode counts fewer names than it has"))?;
    Ok(())
}

/// What a name takes in the list: itself and a NUL.
fn listed(name: &[u8]) -> u32 {
    u32::try_from(name.len() + 1).unwrap_or(u32::MAX)
}
