//! The generator: from a seed to steps. Calls are weighted, and drawn towards what exists, towards each other, and
//! towards limits; about a third of them fail, which is as much of the contract as success.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::actor::IDENTITIES;
use super::feature::{Feature, Features};
use super::known::{Kind, Known, Open};
use super::outcome::Outcome;
use super::step::{MAPS, Op, Owner, Place, SLOTS, Step, Target, Time, Watch};
use super::tree::BASES;

/// Directories are not made below this depth.
const DEPTH: usize = 6;
const FILES: [&str; 6] = ["a", "b", "c", "d", "e", "\u{e9}\u{20ac}"];
const DIRS: [&str; 4] = ["p", "q", "r", "s"];
const MODES: [u32; 14] =
    [0o777, 0o777, 0o755, 0o644, 0o600, 0o700, 0o666, 0o666, 0o000, 0o2775, 0o1777, 0o4755, 0o2644, 0o6711];
const XATTRS: [&str; 7] =
    ["user.a", "user.b", "user.\u{e9}", "trusted.a", "security.a", "security.capability", "bogus.a"];

/// Makes steps.
#[derive(Debug)]
pub struct Chooser {
    rng: StdRng,
    features: Features,
    known: Known,
    /// Whose step it is.
    actor: usize,
    /// What the call that is being made would need, and its actor has not.
    lacks: Option<Lack>,
}

/// What an actor can lack.
#[derive(Clone, Copy, Debug)]
enum Lack {
    File,
    Directory,
    Map,
}

type Make = fn(&mut Chooser) -> Op;

/// Weight, what it takes, and how to make one.
const CALLS: &[(u32, Option<Feature>, Make)] = &[
    (130, None, Chooser::open),
    (55, None, |c| Op::Close { slot: c.slot(|_| true) }),
    (8, None, |c| Op::Dup { slot: c.slot(|_| true), to: c.any_slot() }),
    (90, None, Chooser::read),
    (130, None, Chooser::write),
    (20, None, Chooser::seek),
    (12, Some(Feature::Holes), |c| {
        let whence = c.one(&[libc::SEEK_DATA, libc::SEEK_HOLE]);
        Op::SeekHole { slot: c.slot(|o| o.read), offset: c.offset(), whence }
    }),
    (28, None, |c| Op::Ftruncate { slot: c.slot(|o| o.write), len: c.offset() }),
    (14, None, |c| Op::Truncate { path: c.place_here(Some(Kind::File)).path, len: c.offset() }),
    (28, Some(Feature::Fallocate), Chooser::fallocate),
    (24, Some(Feature::Copy), Chooser::copy),
    (6, Some(Feature::Copy), |c| Op::Sendfile {
        from: c.slot(|o| o.read),
        to: c.slot(|o| o.write),
        len: c.rng.random_range(0..200_000),
    }),
    (14, None, |c| Op::Sync { slot: c.slot(|_| true), data_only: c.rng.random() }),
    (10, None, |c| Op::Forget { slot: c.slot(|o| o.kind == Kind::File) }),
    (40, None, |c| Op::Stat { on: c.target(None) }),
    (20, None, |c| Op::Access {
        at: c.place(None),
        mode: c.one(&[0, 1, 2, 3, 4, 4, 5, 6, 7]),
        effective: c.rng.random(),
    }),
    (28, None, |c| Op::Chmod { on: c.target(None), mode: c.mode() }),
    (28, None, Chooser::chown),
    (28, None, |c| Op::Utimens { on: c.target(None), atime: c.time(), mtime: c.time() }),
    (28, None, |c| Op::Link { from: c.place(None), to: c.new_place(), follow: c.rng.random() }),
    (22, None, Chooser::symlink),
    (10, None, |c| Op::Readlink { at: c.place(Some(Kind::Symlink)) }),
    (55, None, Chooser::rename),
    (40, None, |c| Op::Unlink { at: c.place(None) }),
    (18, None, |c| Op::Rmdir { at: c.place(Some(Kind::Dir)) }),
    (40, None, |c| Op::Mkdir { at: c.new_dir(), mode: c.mode() }),
    (14, None, Chooser::mknod),
    (16, None, |c| Op::List { slot: c.directory_slot(), room: c.room() }),
    (8, None, |c| Op::ListSeek { slot: c.directory_slot(), room: c.room() }),
    (8, None, |c| Op::ListBegin { slot: c.directory_slot(), room: c.room() }),
    (8, None, |c| Op::ListEnd { slot: c.slot(|o| o.scanning), room: c.room() }),
    (10, Some(Feature::Xattr), |c| Op::GetXattr { on: c.target_here(), name: c.xattr(), room: c.xattr_room() }),
    (26, Some(Feature::Xattr), Chooser::set_xattr),
    (8, Some(Feature::Xattr), |c| Op::ListXattr { on: c.target_here(), room: c.xattr_room() }),
    (8, Some(Feature::Xattr), |c| Op::RemoveXattr { on: c.target_here(), name: c.xattr() }),
    (16, Some(Feature::Acl), Chooser::set_acl),
    (6, Some(Feature::Acl), |c| Op::GetXattr { on: c.target_here(), name: c.acl(), room: 200 }),
    (4, Some(Feature::Acl), |c| Op::RemoveXattr { on: c.target_here(), name: c.acl() }),
    (24, Some(Feature::Locks), Chooser::lock),
    (8, Some(Feature::Locks), |c| {
        let how = c.one(&[libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN]);
        Op::Flock { slot: c.slot(|_| true), how }
    }),
    (16, Some(Feature::Maps), Chooser::map),
    (16, Some(Feature::Maps), |c| {
        let (map, at, len) = c.mapped();
        Op::MapRead { map, at, len }
    }),
    (20, Some(Feature::Maps), |c| {
        let (map, at, len) = c.mapped();
        Op::MapWrite { map, at, len, seed: c.rng.random() }
    }),
    (6, Some(Feature::Maps), |c| Op::MapSync { map: c.mapped().0 }),
    (5, Some(Feature::Maps), |c| Op::Unmap { map: c.mapped().0 }),
    (10, None, |c| {
        let on_slot = c.rng.random_ratio(1, 4);
        let to = if on_slot { Target::Slot(c.slot(|o| o.kind == Kind::Dir)) } else { Target::At(c.directory()) };
        Op::Chdir { to }
    }),
    (4, None, |_| Op::Getcwd),
    (4, None, |c| Op::Umask { mode: c.one(&[0, 0, 0o022, 0o022, 0o022, 0o077, 0o027, 0o777]) }),
];

impl Chooser {
    /// The same seed and features give the same steps, as long as the local side answers the same.
    #[must_use]
    pub fn new(seed: u64, features: Features) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), features, known: Known::new(IDENTITIES.len()), actor: 0, lacks: None }
    }

    /// The next step.
    pub fn next_step(&mut self) -> Step {
        // Root does more, so that there is something to be denied.
        self.actor = self.one(&[0, 0, 0, 1, 1, 2, 3]);
        let features = &self.features;
        let may = |needs: &Option<Feature>| needs.is_none_or(|n| features.has(n));
        let calls: Vec<_> = CALLS.iter().filter(|(_, needs, _)| may(needs)).collect();
        let make = calls.choose_weighted(&mut self.rng, |(weight, ..)| *weight).expect("there are calls").2;
        self.lacks = None;
        let mut op = make(self);
        if let Some(lack) = self.lacks
            && self.chance(85)
        {
            op = match lack {
                Lack::File => self.open_file(),
                Lack::Directory => self.open_directory(),
                Lack::Map => self.map(),
            };
        }
        let watch = match self.rng.random_range(0..100) {
            0..3 => Watch::Times,
            3..30 => Watch::After,
            _ => Watch::Nothing,
        };
        Step { actor: u8::try_from(self.actor).unwrap_or(0), watch, op }
    }

    /// Takes in what the local side said to it.
    pub fn learn(&mut self, step: &Step, outcome: &Outcome) {
        self.known.learn(step, outcome);
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.rng).expect("something to choose from")
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn mode(&mut self) -> u32 {
        if self.chance(80) { self.one(&MODES) } else { self.rng.random_range(0..0o10000) }
    }

    fn any_slot(&mut self) -> u8 {
        self.rng.random_range(0..SLOTS)
    }

    /// A slot with nothing in it, mostly.
    fn free_slot(&mut self) -> u8 {
        let own = &self.known.actors[self.actor];
        let free: Vec<u8> = (0..SLOTS).filter(|s| own.slots[usize::from(*s)].is_none()).collect();
        if free.is_empty() || self.chance(10) { self.any_slot() } else { self.one(&free) }
    }

    /// A slot whose file is right for the call, mostly.
    fn slot(&mut self, right: fn(&Open) -> bool) -> u8 {
        let own = &self.known.actors[self.actor];
        let fits: Vec<u8> = (0..SLOTS).filter(|s| own.slots[usize::from(*s)].as_ref().is_some_and(right)).collect();
        if fits.is_empty() {
            self.lacks.get_or_insert(Lack::File);
        }
        if fits.is_empty() || self.chance(3) { self.any_slot() } else { self.one(&fits) }
    }

    fn directory_slot(&mut self) -> u8 {
        let is_dir: fn(&Open) -> bool = |o| o.kind == Kind::Dir;
        if !self.known.actors[self.actor].slots.iter().flatten().any(is_dir) {
            self.lacks.get_or_insert(Lack::Directory);
        }
        self.slot(is_dir)
    }

    /// An offset or length: near 0 mostly, near limits of chunks and of cuts at times.
    fn offset(&mut self) -> i64 {
        let base = if self.chance(85) { 0 } else { self.one(&BASES).cast_signed() };
        let near = match self.rng.random_range(0..10) {
            0 => 0,
            1..4 => self.rng.random_range(0..100),
            4..7 => self.rng.random_range(0..20_000),
            7 => self.rng.random_range(0..64) * 4096,
            8 => self.rng.random_range(0..300_000),
            _ => self.rng.random_range(-100..1_500_000),
        };
        if self.chance(1) { -1 } else { (base + near).max(0) }
    }

    fn len(&mut self) -> u32 {
        match self.rng.random_range(0..20) {
            0 => 0,
            1..8 => self.rng.random_range(1..200),
            8..14 => self.rng.random_range(1..10_000),
            14..16 => self.rng.random_range(1..32_u32) * 4096,
            16..19 => self.rng.random_range(1..200_000),
            _ => self.rng.random_range(1..1_300_000),
        }
    }

    fn sizes(&mut self) -> Vec<u32> {
        if self.chance(85) {
            return vec![self.len()];
        }
        (0..self.rng.random_range(1..5)).map(|_| self.rng.random_range(0..9000)).collect()
    }

    fn maybe_offset(&mut self) -> Option<i64> {
        self.rng.random::<bool>().then(|| self.offset())
    }

    fn open(&mut self) -> Op {
        if self.chance(15) { self.open_directory() } else { self.open_file() }
    }

    fn open_directory(&mut self) -> Op {
        let mut flags = libc::O_RDONLY | libc::O_NONBLOCK;
        if self.chance(80) {
            flags |= libc::O_DIRECTORY;
        }
        if self.chance(10) {
            flags |= libc::O_PATH;
        }
        Op::Open { slot: self.free_slot(), at: self.directory(), flags, mode: 0 }
    }

    fn open_file(&mut self) -> Op {
        let mode = self.one(&[libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR, libc::O_WRONLY]);
        // Never waiting for the other end of a fifo.
        let mut flags = mode | libc::O_NONBLOCK;
        let create = self.chance(50);
        let likely = [
            (if create { 100 } else { 0 }, libc::O_CREAT),
            (if create { 15 } else { 2 }, libc::O_EXCL),
            (12, libc::O_TRUNC),
            (3, libc::O_NOFOLLOW),
            (2, libc::O_DSYNC),
            (2, libc::O_SYNC),
            (3, libc::O_PATH),
            (2, libc::O_NOATIME),
        ];
        for (percent, flag) in likely {
            if self.chance(percent) {
                flags |= flag;
            }
        }
        // Appending and O_DIRECT together would need files of whole blocks.
        match self.rng.random_range(0..20) {
            0..3 => flags |= libc::O_APPEND,
            3 if self.features.has(Feature::Direct) => flags |= libc::O_DIRECT,
            _ => {}
        }
        if self.chance(2) {
            flags |= libc::O_DIRECTORY;
        }
        let at = if create && self.chance(50) { self.new_place() } else { self.place(Some(Kind::File)) };
        let mode = self.mode() | if self.chance(80) { 0o600 } else { 0 };
        Op::Open { slot: self.free_slot(), at, flags, mode }
    }

    fn read(&mut self) -> Op {
        let flags = if self.chance(3) { libc::RWF_HIPRI } else { 0 };
        Op::Read { slot: self.slot(|o| o.read), at: self.maybe_offset(), sizes: self.sizes(), flags }
    }

    fn write(&mut self) -> Op {
        let flags = if self.chance(8) { self.one(&[libc::RWF_APPEND, libc::RWF_SYNC, libc::RWF_DSYNC]) } else { 0 };
        let at = self.maybe_offset();
        Op::Write { slot: self.slot(|o| o.write), at, sizes: self.sizes(), flags, seed: self.rng.random_range(1..1000) }
    }

    fn seek(&mut self) -> Op {
        let whence = self.one(&[libc::SEEK_SET, libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END]);
        let offset = match whence {
            libc::SEEK_SET => self.offset(),
            _ => self.rng.random_range(-5000..5000),
        };
        Op::Seek { slot: self.slot(|o| o.kind == Kind::File), offset, whence }
    }

    fn fallocate(&mut self) -> Op {
        let (keep, punch, zero) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
        let mode = self.one(&[0, keep, keep | punch, keep | punch, zero, zero | keep, punch]);
        let len = if self.chance(3) { 0 } else { i64::from(self.len()) };
        Op::Fallocate { slot: self.slot(|o| o.write), mode, at: self.offset(), len }
    }

    fn copy(&mut self) -> Op {
        Op::Copy {
            from: self.slot(|o| o.read && o.kind == Kind::File),
            from_at: self.maybe_offset(),
            to: self.slot(|o| o.write && o.kind == Kind::File),
            to_at: self.maybe_offset(),
            len: self.len().into(),
        }
    }

    fn chown(&mut self) -> Op {
        let ids = [u32::MAX, 0, 1000, 1001, 2000];
        Op::Chown { on: self.target(None), uid: self.one(&ids), gid: self.one(&ids) }
    }

    fn time(&mut self) -> Time {
        let times = [
            Time::Now,
            Time::Omit,
            Time::At(0, 0),
            Time::At(1_000_000_000, 123_456_789),
            Time::At(1_234_567_890, 1),
            Time::At(4_000_000_000, 999_999_999),
            Time::At(-1000, 5),
            Time::At(1_000_000_000, 1_000_000_000),
        ];
        if self.chance(97) { self.one(&times[..7]) } else { times[7] }
    }

    fn symlink(&mut self) -> Op {
        let target = match self.rng.random_range(0..20) {
            0 => String::new(),
            1 => "x".repeat(4095),
            2 => "x".repeat(4096),
            3 => format!("../{}", self.one(&FILES)),
            4..8 => self.name(),
            _ => self.place_here(None).path,
        };
        Op::Symlink { target, at: self.new_place() }
    }

    fn rename(&mut self) -> Op {
        let from = self.place(None);
        let to = if self.chance(50) { self.place(None) } else { self.new_place() };
        let flags = match self.rng.random_range(0..20) {
            0..3 => libc::RENAME_NOREPLACE,
            3..6 => libc::RENAME_EXCHANGE,
            6 => libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE,
            7 if self.features.has(Feature::Whiteout) => libc::RENAME_WHITEOUT,
            _ => 0,
        };
        Op::Rename { from, to, flags }
    }

    fn mknod(&mut self) -> Op {
        let kind =
            self.one(&[libc::S_IFIFO, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK, libc::S_IFREG]);
        // Numbers that no driver has.
        let device = if matches!(kind, libc::S_IFCHR | libc::S_IFBLK) { (245 << 8) | 7 } else { 0 };
        Op::Mknod { at: self.new_place(), mode: kind | self.mode(), device }
    }

    fn room(&mut self) -> u32 {
        self.one(&[64, 300, 300, 1024, 4096, 32_768])
    }

    fn xattr(&mut self) -> String {
        match self.rng.random_range(0..60) {
            0 => format!("user.{}", "n".repeat(250)),
            1 => format!("user.{}", "n".repeat(251)),
            2 => "user.".into(),
            3..30 => "user.a".into(),
            _ => self.one(&XATTRS).into(),
        }
    }

    fn xattr_room(&mut self) -> u32 {
        self.one(&[0, 1, 5, 400, 400, 400])
    }

    fn set_xattr(&mut self) -> Op {
        let name = self.xattr();
        let len = self.one(&[0, 1, 10, 10, 60]);
        let mut value: Vec<u8> = (0..len).map(|_| self.rng.random()).collect();
        if name == "security.capability" && self.chance(90) {
            // Revision 2, effective; CAP_NET_RAW.
            value = [&0x0200_0001_u32.to_le_bytes()[..], &0x2000_u32.to_le_bytes(), &[0; 12]].concat();
        }
        let flags = self.one(&[0, 0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]);
        Op::SetXattr { on: self.target_here(), name, value, flags }
    }

    fn acl(&mut self) -> String {
        self.one(&["system.posix_acl_access", "system.posix_acl_access", "system.posix_acl_default"]).into()
    }

    fn set_acl(&mut self) -> Op {
        let name = self.acl();
        let mut value = vec![2, 0, 0, 0];
        let mut entry = |tag: u8, permissions: u8, id: u32| {
            value.extend_from_slice(&[tag, 0, permissions, 0]);
            value.extend_from_slice(&id.to_le_bytes());
        };
        let nobody = u32::MAX;
        let mut permissions = || self.rng.random_range(0..8_u8);
        let [owner, user, group, named, mask, other, shape] = std::array::from_fn(|_| permissions());
        entry(1, owner, nobody);
        if shape & 1 != 0 {
            entry(2, user, 1000);
        }
        entry(4, group, nobody);
        if shape & 2 != 0 {
            entry(8, named, 2000);
        }
        // A mask has to be there with named entries; at times it is missing, which is refused.
        if (shape & 3 != 0) != (shape == 7) {
            entry(16, mask, nobody);
        }
        entry(32, other, nobody);
        Op::SetXattr { on: self.target_here(), name, value, flags: 0 }
    }

    fn lock(&mut self) -> Op {
        let owner = if self.chance(75) { Owner::Process } else { Owner::File };
        let (slot, start) = (self.slot(|o| o.kind == Kind::File), self.rng.random_range(0..40));
        let len = self.one(&[0, 1, 5, 10, 20]);
        if self.chance(30) {
            return Op::TestLock { slot, owner, kind: self.one(&[libc::F_RDLCK, libc::F_WRLCK]), start, len };
        }
        Op::Lock {
            slot,
            owner,
            kind: self.one(&[libc::F_RDLCK, libc::F_WRLCK, libc::F_WRLCK, libc::F_UNLCK]),
            start,
            len,
        }
    }

    fn map(&mut self) -> Op {
        let map = self.rng.random_range(0..MAPS);
        let at = self.one(&[0, 0, 0, 4096, 65_536]);
        let len = self.one(&[1000, 4096, 10_000, 65_536, 200_000]);
        let shared = self.chance(70);
        let (slot, write) =
            if self.chance(70) { (self.slot(|o| o.read && o.write), true) } else { (self.slot(|o| o.read), false) };
        Op::Map { map, slot, at, len, shared, write }
    }

    fn mapped(&mut self) -> (u8, u32, u32) {
        let own = &self.known.actors[self.actor];
        let maps: Vec<(u8, u32)> = (0..MAPS).filter_map(|m| own.maps[usize::from(m)].map(|len| (m, len))).collect();
        if maps.is_empty() {
            self.lacks.get_or_insert(Lack::Map);
        }
        let (map, room) = if maps.is_empty() { (0, 4096) } else { self.one(&maps) };
        let at = self.rng.random_range(0..room);
        (map, if self.chance(30) { 0 } else { at }, self.len().min(100_000))
    }

    fn name(&mut self) -> String {
        match self.rng.random_range(0..200) {
            0 => "n".repeat(255),
            1 => "n".repeat(256),
            2..60 => self.one(&DIRS).into(),
            _ => self.one(&FILES).into(),
        }
    }

    /// A path that should lead to something of a kind, from the working directory.
    fn place_here(&mut self, kind: Option<Kind>) -> Place {
        let fits: Vec<String> = self
            .known
            .names
            .iter()
            .filter(|(path, k)| path != "/" && kind.is_none_or(|wanted| wanted == *k))
            .map(|(path, _)| path.clone())
            .collect();
        let path = if fits.is_empty() || self.chance(10) {
            let dir = self.directory().path;
            let name = if kind == Some(Kind::Dir) { self.one(&DIRS).to_owned() } else { self.name() };
            format!("{dir}/{name}")
        } else {
            let path = fits.choose(&mut self.rng).expect("not empty").clone();
            self.relative_to_cwd(&path)
        };
        Place::new(self.decorated(path))
    }

    /// An absolute path, or the same as the working directory sees it.
    fn relative_to_cwd(&mut self, path: &str) -> String {
        let cwd = &self.known.actors[self.actor].cwd;
        let below = if cwd == "/" { path.strip_prefix('/') } else { path.strip_prefix(&format!("{cwd}/")) };
        match below {
            Some(rest) if !rest.is_empty() => {
                let rest = rest.to_owned();
                if self.chance(85) { rest } else { path.to_owned() }
            }
            _ => path.to_owned(),
        }
    }

    fn decorated(&mut self, path: String) -> String {
        match self.rng.random_range(0..300) {
            0..6 => format!("{path}/"),
            6..9 => format!("{path}/."),
            9..12 => format!("{path}/.."),
            12..15 => format!("./{path}"),
            15..18 => path.replace('/', "//"),
            18 => String::new(),
            19 => format!("{}{path}", "./".repeat(2040)),
            20 => format!("{}{path}", "./".repeat(2048)),
            21..24 => format!("p/../{path}"),
            24 => ".".into(),
            25 => "..".into(),
            26 => "/".into(),
            _ => path,
        }
    }

    /// The same, or a name in an open directory.
    fn place(&mut self, kind: Option<Kind>) -> Place {
        let has_dir = self.known.actors[self.actor].slots.iter().flatten().any(|o| o.kind == Kind::Dir);
        if has_dir && self.chance(12) {
            let base = self.slot(|o| o.kind == Kind::Dir);
            let name = self.name();
            return Place { base: Some(base), path: self.decorated(name) };
        }
        self.place_here(kind)
    }

    fn directory(&mut self) -> Place {
        let dirs: Vec<String> =
            self.known.names.iter().filter(|(_, k)| *k == Kind::Dir).map(|(p, _)| p.clone()).collect();
        let path = dirs.choose(&mut self.rng).expect("the root is known").clone();
        Place::new(self.relative_to_cwd(&path))
    }

    /// A name that may be new, in a directory that should exist.
    fn new_place(&mut self) -> Place {
        let name = self.name();
        self.new_named(&name)
    }

    fn new_dir(&mut self) -> Place {
        let name = if self.chance(90) { self.one(&DIRS).to_owned() } else { self.name() };
        self.new_named(&name)
    }

    fn new_named(&mut self, name: &str) -> Place {
        let has_dir = self.known.actors[self.actor].slots.iter().flatten().any(|o| o.kind == Kind::Dir);
        if has_dir && self.chance(10) {
            return Place { base: Some(self.slot(|o| o.kind == Kind::Dir)), path: self.decorated(name.into()) };
        }
        let dir = self.directory().path;
        let dir = if dir.matches('/').count() >= DEPTH { "/".to_owned() } else { dir };
        let path = match dir.as_str() {
            "/" if self.known.actors[self.actor].cwd == "/" => name.to_owned(),
            "/" => format!("/{name}"),
            dir => format!("{dir}/{name}"),
        };
        Place::new(self.decorated(path))
    }

    /// An open file or a name.
    fn target(&mut self, kind: Option<Kind>) -> Target {
        match self.rng.random_range(0..10) {
            0..4 => Target::Slot(self.slot(|_| true)),
            4..8 => Target::At(self.place(kind)),
            _ => Target::Link(self.place(kind)),
        }
    }

    /// The same without open directories: calls about extended attributes do not know them.
    fn target_here(&mut self) -> Target {
        match self.rng.random_range(0..10) {
            0..4 => Target::Slot(self.slot(|_| true)),
            4..8 => Target::At(self.place_here(None)),
            _ => Target::Link(self.place_here(None)),
        }
    }
}
