//! POSIX access control lists: their bytes as the kernel writes them, and how they and the mode bits hang together.
//!
//! The group bits of the mode of an inode with an ACL are the ACL's mask. An ACL that says no more than the mode is
//! not kept.

use crate::error::Refusal;

/// The extended attribute of the ACL by which access is decided.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of what a directory gives to what is made in it.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";
/// Longest ACL in bytes; the kernel takes no longer one.
pub const ACL_BYTES: usize = 4096;

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
const RWX: u32 = 0o7;

/// Whom an entry is about; the numbers are those of the kernel's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    UserObj = 0x01,
    User = 0x02,
    GroupObj = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

impl Tag {
    fn parse(tag: u16) -> Option<Self> {
        [Self::UserObj, Self::User, Self::GroupObj, Self::Group, Self::Mask, Self::Other]
            .into_iter()
            .find(|known| *known as u16 == tag)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    perm: u32,
    id: u32,
}

/// A valid list: one entry each for owner, group and others, any number of named users and groups, and a mask if
/// there are such; in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads the kernel's format.
    ///
    /// # Errors
    /// `TooLarge`; `NotSupported` for another version; `Invalid` for what is no list.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > ACL_BYTES {
            return Err(Refusal::TooLarge);
        }
        let (header, body) = bytes.split_at_checked(HEADER).ok_or(Refusal::Invalid)?;
        if header != VERSION.to_le_bytes() {
            return Err(Refusal::NotSupported);
        }
        let entries: Option<Vec<Entry>> = body.chunks(ENTRY).map(entry).collect();
        let acl = Self { entries: entries.ok_or(Refusal::Invalid)? };
        if acl.is_valid() { Ok(acl) } else { Err(Refusal::Invalid) }
    }

    /// Writes it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            // Three bits.
            bytes.extend_from_slice(&(entry.perm as u16).to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.entries.iter().filter(|e| e.tag == tag).count();
        let named = count(Tag::User) + count(Tag::Group) > 0;
        self.entries.windows(2).all(|two| two[0].tag <= two[1].tag)
            && self.entries.iter().all(|e| e.perm <= RWX)
            && self.entries.iter().all(|e| e.id != u32::MAX || !matches!(e.tag, Tag::User | Tag::Group))
            && [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().all(|tag| count(tag) == 1)
            && count(Tag::Mask) <= 1
            && (count(Tag::Mask) == 1 || !named)
    }

    /// Whether it says more than nine permission bits can.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.entries.len() > 3
    }

    /// The permission bits of an inode that has it, laid over the others of `mode`.
    #[must_use]
    pub fn mode(&self, mode: u32) -> u32 {
        let perm = |tag| self.entries.iter().find(|e| e.tag == tag).map(|e| e.perm);
        let group = perm(Tag::Mask).or(perm(Tag::GroupObj)).unwrap_or(0);
        let (user, other) = (perm(Tag::UserObj).unwrap_or(0), perm(Tag::Other).unwrap_or(0));
        mode & !0o777 | user << 6 | group << 3 | other
    }

    /// What chmod(2) to `mode` makes of it.
    #[must_use]
    pub fn with_mode(mut self, mode: u32) -> Self {
        self.each_class(|perm, bits| *perm = bits, mode);
        self
    }

    /// What it gives, as the default ACL of a directory, to something made in there that was asked for with `mode`.
    #[must_use]
    pub fn inherited(mut self, mode: u32) -> Self {
        self.each_class(|perm, bits| *perm &= bits, mode);
        self
    }

    /// For the three entries that the mode's classes stand for, with the bits of `mode`.
    fn each_class(&mut self, change: impl Fn(&mut u32, u32), mode: u32) {
        let group = if self.entries.iter().any(|e| e.tag == Tag::Mask) { Tag::Mask } else { Tag::GroupObj };
        for entry in &mut self.entries {
            let shift = match entry.tag {
                Tag::UserObj => 6,
                tag if tag == group => 3,
                Tag::Other => 0,
                _ => continue,
            };
            change(&mut entry.perm, mode >> shift & RWX);
        }
    }
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let id = u32::from_le_bytes(bytes.get(4..ENTRY)?.try_into().ok()?);
    Some(Entry { tag: Tag::parse(half(0)?)?, perm: half(2)?.into(), id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    const NONE: u32 = u32::MAX;

    /// u::rwx u:7:rw g::r m::rw o::-
    fn extended() -> Vec<u8> {
        bytes(&[(1, 7, NONE), (2, 6, 7), (4, 4, NONE), (0x10, 6, NONE), (0x20, 0, NONE)])
    }

    #[test]
    fn bytes_come_back_as_they_were() {
        let acl = Acl::parse(&extended()).unwrap();
        assert_eq!(acl.to_bytes(), extended());
        assert!(acl.is_extended());
        assert!(!Acl::parse(&bytes(&[(1, 7, NONE), (4, 5, NONE), (0x20, 5, NONE)])).unwrap().is_extended());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let bad = [
            bytes(&[]),
            bytes(&[(1, 7, NONE), (4, 5, NONE)]),
            bytes(&[(4, 5, NONE), (1, 7, NONE), (0x20, 5, NONE)]),
            bytes(&[(1, 8, NONE), (4, 5, NONE), (0x20, 5, NONE)]),
            bytes(&[(1, 7, NONE), (2, 7, 5), (4, 5, NONE), (0x20, 5, NONE)]),
            bytes(&[(1, 7, NONE), (2, 7, NONE), (4, 5, NONE), (0x10, 7, NONE), (0x20, 5, NONE)]),
            bytes(&[(1, 7, NONE), (3, 5, NONE), (4, 5, NONE), (0x20, 5, NONE)]),
            bytes(&[(1, 7, NONE), (1, 7, NONE), (4, 5, NONE), (0x20, 5, NONE)]),
            extended()[..extended().len() - 1].to_vec(),
            vec![2, 0],
        ];
        for bytes in bad {
            assert_eq!(Acl::parse(&bytes), Err(Refusal::Invalid), "{bytes:?}");
        }
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(Refusal::NotSupported));
        assert_eq!(Acl::parse(&vec![2; ACL_BYTES + 1]), Err(Refusal::TooLarge));
    }

    #[test]
    fn the_group_bits_are_the_mask() {
        let acl = Acl::parse(&extended()).unwrap();
        assert_eq!(acl.mode(0o2111), 0o2760);
        let acl = acl.with_mode(0o4615);
        assert_eq!(acl.mode(0), 0o615);
        assert_eq!(acl.to_bytes(), bytes(&[(1, 6, NONE), (2, 6, 7), (4, 4, NONE), (0x10, 1, NONE), (0x20, 5, NONE)]));
    }

    #[test]
    fn what_is_inherited_is_no_more_than_was_asked_for() {
        let acl = Acl::parse(&extended()).unwrap().inherited(0o644);
        assert_eq!(acl.mode(0), 0o640);
        let bare = Acl::parse(&bytes(&[(1, 7, NONE), (4, 7, NONE), (0x20, 5, NONE)])).unwrap().inherited(0o666);
        assert_eq!((bare.mode(0o1000), bare.is_extended()), (0o1664, false));
    }
}
