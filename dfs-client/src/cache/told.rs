//! Which names the kernel takes for which directories.
//!
//! The kernel asks for a directory to be removed by its name. When that was done, it takes the directory that *it* had
//! found under the name for dead (`S_DEAD`) for as long as it remembers it: nothing is found in it any more. Another
//! mount may have put another directory there since. So the directory that is meant is named too, and one that is not
//! there any more is `ESTALE`: the kernel then looks the name up anew, and tries once more.

use dfs_core::attr::FileKind;
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::name::Name;
use dfs_core::op::Op;
use quick_cache::sync::Cache;

use crate::error::FsError;

/// Names kept. Of others nothing is known, and what is there is removed.
const NAMES: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub struct Told {
    directories: Cache<(Ino, Name), Ino>,
}

impl Default for Told {
    /// Nothing was told yet.
    fn default() -> Self {
        Self { directories: Cache::new(NAMES) }
    }
}

impl Told {
    /// The kernel is told what a name is.
    pub fn tell(&self, parent: Ino, name: &Name, ino: Ino, kind: FileKind) {
        let key = (parent, name.clone());
        if kind == FileKind::Directory {
            self.directories.insert(key, ino);
        } else {
            self.directories.remove(&key);
        }
    }

    /// For a group that removes or replaces the directory of this name: that it is the one which the kernel means.
    #[must_use]
    pub fn expected(&self, parent: Ino, name: &Name) -> Option<Op> {
        let ino = self.directories.get(&(parent, name.clone()))?;
        Some(Op::Expect { parent, name: name.clone(), ino })
    }

    /// The directory of this name was removed, or is another by now: the kernel will ask.
    pub fn outcome<T>(&self, parent: Ino, name: &Name, done: &Result<T, FsError>) {
        if matches!(done, Ok(_) | Err(FsError::Refused(Refusal::Stale))) {
            self.directories.remove(&(parent, name.clone()));
        }
    }

    /// What the kernel knew under one name it knows under the other now; with `both`, also the other way round.
    pub fn moved(&self, from: (Ino, &Name), to: (Ino, &Name), both: bool) {
        let key = |(parent, name): (Ino, &Name)| (parent, name.clone());
        let (one, other) = (self.directories.remove(&key(from)), self.directories.remove(&key(to)));
        if let Some((_, ino)) = one {
            self.directories.insert(key(to), ino);
        }
        if let Some((_, ino)) = other.filter(|_| both) {
            self.directories.insert(key(from), ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Ino = Ino(1);

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn expected(told: &Told, text: &str) -> Option<u64> {
        match told.expected(ROOT, &name(text))? {
            Op::Expect { parent: ROOT, name: n, ino } if n == name(text) => Some(ino.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_is_expected_where_the_kernel_was_told_of_it_last() {
        let told = Told::default();
        told.tell(ROOT, &name("f"), Ino(5), FileKind::File);
        assert_eq!(expected(&told, "f"), None);
        told.tell(ROOT, &name("d"), Ino(6), FileKind::Directory);
        told.tell(ROOT, &name("d"), Ino(7), FileKind::Directory);
        assert_eq!(expected(&told, "d"), Some(7));
        told.outcome(ROOT, &name("d"), &Err::<(), _>(Refusal::NotEmpty.into()));
        assert_eq!(expected(&told, "d"), Some(7));
        told.outcome(ROOT, &name("d"), &Err::<(), _>(Refusal::Stale.into()));
        assert_eq!(expected(&told, "d"), None);
    }

    #[test]
    fn what_is_moved_is_expected_at_its_new_name() {
        let told = Told::default();
        let (a, b) = (name("a"), name("b"));
        told.tell(ROOT, &a, Ino(5), FileKind::Directory);
        told.tell(ROOT, &b, Ino(6), FileKind::Directory);
        told.moved((ROOT, &a), (ROOT, &b), true);
        assert_eq!((expected(&told, "a"), expected(&told, "b")), (Some(6), Some(5)));
        told.moved((ROOT, &a), (ROOT, &b), false);
        assert_eq!((expected(&told, "a"), expected(&told, "b")), (None, Some(6)));
        told.moved((ROOT, &name("file")), (ROOT, &b), false);
        assert_eq!(expected(&told, "b"), None, "a file is there now");
    }
}
