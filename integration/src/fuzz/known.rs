//! What the generator remembers of the run so far: names that should exist, and what each actor has open. It may be
//! wrong; it only makes calls likelier to meet something.

use super::outcome::Outcome;
use super::step::{MAPS, Op, Place, SLOTS, Step, Target};

/// Names that are remembered at most.
const NAMES: usize = 60;

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    Symlink,
    Other,
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) kind: Kind,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) scanning: bool,
}

/// Of one actor.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) cwd: String,
    pub(super) slots: [Option<Open>; SLOTS as usize],
    pub(super) maps: [Option<u32>; MAPS as usize],
}

/// All that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Absolute paths.
    pub(super) names: Vec<(String, Kind)>,
    pub(super) actors: Vec<Own>,
}

impl Known {
    pub(super) fn new(actors: usize) -> Self {
        let own = Own { cwd: "/".into(), slots: Default::default(), maps: Default::default() };
        Self { names: vec![("/".into(), Kind::Dir)], actors: vec![own; actors] }
    }

    /// The absolute path of a place, if it is that plain.
    fn absolute(&self, actor: usize, place: &Place) -> Option<String> {
        if place.base.is_some() || place.path.is_empty() || place.path.len() > 600 {
            return None;
        }
        let full = match place.path.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None => format!("{}/{}", self.actors[actor].cwd, place.path),
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in full.split('/').filter(|p| !p.is_empty() && *p != ".") {
            if part == ".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        Some(format!("/{}", parts.join("/")))
    }

    fn add(&mut self, actor: usize, place: &Place, kind: Kind) {
        let Some(path) = self.absolute(actor, place) else { return };
        if self.names.iter().any(|(p, _)| *p == path) {
            return;
        }
        if self.names.len() >= NAMES {
            // The root stays.
            self.names.remove(1);
        }
        self.names.push((path, kind));
    }

    fn remove(&mut self, actor: usize, place: &Place) {
        let Some(path) = self.absolute(actor, place) else { return };
        self.names.retain(|(p, _)| p == "/" || *p != path);
    }

    fn kind(&self, actor: usize, place: &Place) -> Kind {
        let path = self.absolute(actor, place);
        self.names.iter().find(|(p, _)| Some(p) == path.as_ref()).map_or(Kind::File, |(_, kind)| *kind)
    }

    fn rename(&mut self, actor: usize, from: &Place, to: &Place) {
        let (Some(from), Some(to)) = (self.absolute(actor, from), self.absolute(actor, to)) else { return };
        self.names.retain(|(p, _)| p == "/" || *p != to);
        let below = format!("{from}/");
        for (path, _) in &mut self.names {
            if *path == from {
                path.clone_from(&to);
            } else if let Some(rest) = path.strip_prefix(&below) {
                *path = format!("{to}/{rest}");
            }
        }
    }

    /// Takes in what a step came to.
    pub(super) fn learn(&mut self, step: &Step, outcome: &Outcome) {
        let actor = usize::from(step.actor);
        if outcome.result() == Err(libc::ENOENT) {
            for on in step.op.objects().iter().take(1) {
                if let Target::At(place) | Target::Link(place) = on {
                    self.remove(actor, place);
                }
            }
        }
        if !outcome.ok() {
            if let Op::Close { slot } = &step.op {
                self.actors[actor].slots[usize::from(*slot)] = None;
            }
            return;
        }
        match &step.op {
            Op::Open { slot, at, flags, .. } => {
                let mut kind = self.kind(actor, at);
                if flags & libc::O_DIRECTORY != 0 {
                    kind = Kind::Dir;
                }
                if flags & libc::O_CREAT != 0 {
                    self.add(actor, at, Kind::File);
                }
                let mode = flags & libc::O_ACCMODE;
                let usable = flags & libc::O_PATH == 0;
                self.actors[actor].slots[usize::from(*slot)] = Some(Open {
                    kind,
                    read: usable && mode != libc::O_WRONLY,
                    write: usable && mode != libc::O_RDONLY,
                    scanning: false,
                });
            }
            Op::Close { slot } => self.actors[actor].slots[usize::from(*slot)] = None,
            Op::Dup { slot, to } => {
                self.actors[actor].slots[usize::from(*to)] = self.actors[actor].slots[usize::from(*slot)];
            }
            Op::ListBegin { slot, .. } | Op::ListEnd { slot, .. } => {
                let scanning = matches!(step.op, Op::ListBegin { .. });
                if let Some(open) = &mut self.actors[actor].slots[usize::from(*slot)] {
                    open.scanning = scanning;
                }
            }
            Op::Map { map, len, .. } => self.actors[actor].maps[usize::from(*map)] = Some(*len),
            Op::Unmap { map } => self.actors[actor].maps[usize::from(*map)] = None,
            Op::Link { from, to, .. } => self.add(actor, to, self.kind(actor, from)),
            Op::Symlink { at, .. } => self.add(actor, at, Kind::Symlink),
            Op::Mkdir { at, .. } => self.add(actor, at, Kind::Dir),
            Op::Mknod { at, .. } => self.add(actor, at, Kind::Other),
            Op::Rename { from, to, .. } => self.rename(actor, from, to),
            Op::Unlink { at } | Op::Rmdir { at } => self.remove(actor, at),
            Op::Chdir { to: Target::At(at) } => {
                if let Some(path) = self.absolute(actor, at) {
                    self.actors[actor].cwd = path;
                }
            }
            _ => {}
        }
    }
}
