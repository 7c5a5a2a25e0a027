//! Which inodes a command changes, as far as the order of commands goes. A name belongs to its directory.

use dfs_core::id::Ino;
use dfs_core::op::{Group, Op};

/// The inodes, each once, and those of `about`. A time of access may come in any order.
pub(super) fn touched(groups: &[Group], about: &[Ino]) -> Vec<Ino> {
    let mut inos = about.to_vec();
    for op in groups.iter().flat_map(|g| &g.ops) {
        match op {
            Op::Create(create) => inos.extend([create.ino, create.parent]),
            Op::Link { ino, parent, .. } => inos.extend([*ino, *parent]),
            Op::Unlink { parent, .. } | Op::Rmdir { parent, .. } | Op::Expect { parent, .. } => inos.push(*parent),
            Op::Rename(rename) => inos.extend([rename.parent, rename.new_parent]),
            Op::SetAttr { ino, .. } | Op::SetXattr { ino, .. } | Op::RemoveXattr { ino, .. } => inos.push(*ino),
            Op::Write(write) => inos.push(write.ino),
            Op::Move { ino, .. } | Op::DropSetgid { ino } => inos.push(*ino),
            Op::Clone(clone) | Op::ShortClone(clone) => inos.extend([clone.src, clone.dst]),
            Op::Space(space) => inos.push(space.ino),
            Op::Lock(lock) => inos.push(lock.ino),
            Op::SetAcl(set) => inos.push(set.ino),
            Op::Atime { .. } | Op::Cleaned { .. } | Op::CutIsGood { .. } => {}
        }
    }
    inos.sort_unstable();
    inos.dedup();
    inos
}

#[cfg(test)]
mod tests {
    use dfs_core::name::Name;
    use dfs_core::op::{Rename, RenameMode};
    use dfs_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_name_belongs_to_its_directory_and_atime_to_nobody() {
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let rename = Rename {
            parent: Ino(7),
            name: name("a"),
            new_parent: Ino(3),
            new_name: name("b"),
            mode: RenameMode::Replace,
            whiteout: None,
        };
        let ops = vec![
            Op::Rename(rename),
            Op::Unlink { parent: Ino(7), name: name("c") },
            Op::Atime { ino: Ino(9), atime: Timestamp::default() },
        ];
        let groups = [Group { time: Timestamp::default(), needs: Vec::new(), ops }];
        assert_eq!(touched(&groups, &[Ino(5)]), [Ino(3), Ino(5), Ino(7)]);
    }
}
