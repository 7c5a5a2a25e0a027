//! A side: something that steps are done on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::actor::{Actor, IDENTITIES};
use super::outcome::Outcome;
use super::perform::{Mapping, Shared, mapped};
use super::step::Step;
use super::tree::Tree;

/// Something that steps are done on.
pub trait Side {
    /// Does a step, as the actor that it names.
    ///
    /// # Errors
    /// The call hangs, or the actor has ended.
    fn step(&mut self, step: &Step) -> Result<Outcome>;

    /// All that is there now.
    ///
    /// # Errors
    /// It cannot be read.
    fn tree(&self) -> Result<Tree>;

    /// Ends all actors: everything they had open is closed.
    fn end(&mut self);

    /// Removes all that is there; the actors have ended.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove(&mut self) -> Result<()>;
}

/// A directory of whatever filesystem, and its actors.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    shared: Arc<Shared>,
    actors: Vec<Actor>,
}

impl Directory {
    /// Makes the directory, writable by all, and starts the actors.
    ///
    /// # Errors
    /// It exists or cannot be made, or this process is not root's.
    pub fn new(root: &Path) -> Result<Self> {
        fs::create_dir(root).with_context(|| format!("making {}", root.display()))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o777))?;
        let shared = Arc::new(Shared::new());
        let start = |identity| Actor::start(identity, root, Arc::clone(&shared));
        let actors = IDENTITIES.into_iter().map(start).collect::<Result<_>>()?;
        Ok(Self { root: root.into(), shared, actors })
    }
}

impl Side for Directory {
    fn step(&mut self, step: &Step) -> Result<Outcome> {
        self.actors.get_mut(usize::from(step.actor)).context("no such actor")?.perform(step)
    }

    fn tree(&self) -> Result<Tree> {
        Tree::read(&self.root, self.shared.began, &|ino| mapped(&self.shared).get(&ino) == Some(&Mapping::Written))
    }

    fn end(&mut self) {
        self.actors.clear();
    }

    fn remove(&mut self) -> Result<()> {
        fs::remove_dir_all(&self.root).with_context(|| format!("removing {}", self.root.display()))
    }
}
