//! Saving, over a scripted metad and stores in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dfs_core::attr::{Attr, FileKind};
use dfs_core::chunk::{ChunkId, ChunkRef};
use dfs_core::error::Refusal;
use dfs_core::extent::Extent;
use dfs_core::id::{Ino, SlotId};
use dfs_core::name::Name;
use dfs_core::op::{Commit, CommitReply, Op, OpReply, PutVerdict, SetAttr};
use dfs_core::query::{Answer, NodeInfo, Query};
use dfs_core::range::ByteRange;
use dfs_core::time::Timestamp;

use crate::chunks::fake::{Cluster, Mode};
use crate::config::ClientConfig;
use crate::error::FsError;
use crate::lock::lock;
use crate::meta::fake::{Judge, Oracle};
use crate::vfs::{Caller, Vfs};

const DIR: Ino = Ino::ROOT;

type Refused = (fn(&Op) -> bool, Refusal);

/// What metad shall answer, and what it was asked.
#[derive(Debug, Default)]
struct Script {
    /// Of each commit that came, its ops, group by group.
    seen: Vec<Vec<Vec<Op>>>,
    needs: Vec<Vec<Vec<u16>>>,
    /// For the puts of the next commits that have some.
    verdicts: VecDeque<PutVerdict>,
    /// The first op that fits is refused, once.
    refuse: Vec<Refused>,
    /// How far the next truncations come.
    reach: VecDeque<u64>,
    change: u64,
}

impl Script {
    fn judge(&mut self, commit: Commit) -> CommitReply {
        self.seen.push(commit.groups.iter().map(|g| g.ops.clone()).collect());
        self.needs.push(commit.groups.iter().map(|g| g.needs.clone()).collect());
        let verdict = if commit.puts.is_empty() { None } else { self.verdicts.pop_front() };
        let mut groups: Vec<Result<Vec<OpReply>, Refusal>> = Vec::new();
        for group in &commit.groups {
            let needed = group.needs.iter().find(|n| groups[usize::from(**n)].is_err());
            let ops: Result<Vec<OpReply>, Refusal> = match needed {
                Some(needed) => Err(Refusal::Needed(*needed)),
                None => group.ops.iter().map(|op| self.one(op, verdict.is_none())).collect(),
            };
            groups.push(ops);
        }
        let puts = commit.puts.iter().map(|put| verdict.unwrap_or(PutVerdict::Accepted(put.chunk))).collect();
        CommitReply { puts, groups }
    }

    fn one(&mut self, op: &Op, accepted: bool) -> Result<OpReply, Refusal> {
        if let Some(at) = self.refuse.iter().position(|(fits, _)| fits(op)) {
            return Err(self.refuse.remove(at).1);
        }
        if matches!(op, Op::Write(_)) && !accepted {
            return Err(Refusal::Chunk);
        }
        self.change += 1;
        let ino = match op {
            Op::Write(write) => write.ino,
            Op::SetAttr { ino, .. } | Op::Link { ino, .. } => *ino,
            Op::Create(create) => create.ino,
            _ => Ino(5),
        };
        let wanted = if let Op::SetAttr { set, .. } = op { set.size.unwrap_or(0) } else { 0 };
        let reached = if wanted > 0 { self.reach.pop_front().unwrap_or(wanted) } else { wanted };
        Ok(OpReply { attrs: vec![attr(ino, self.change)], data_before: self.change - 1, reached })
    }
}

fn attr(ino: Ino, change: u64) -> Attr {
    let t = dfs_core::time::Timestamp::default();
    let kind = if ino == DIR { FileKind::Directory } else { FileKind::File };
    #[rustfmt::skip]
    let attr = Attr {
        ino, kind, mode: 0o644, uid: 0, gid: 0, nlink: 1, size: 0, stored: 0, atime: t, mtime: t, ctime: t, btime: t,
        rdev: 0, change, data: change, xattrs: false,
    };
    attr
}

struct World {
    cluster: Cluster,
    script: Arc<Mutex<Script>>,
    vfs: Arc<Vfs>,
}

impl World {
    async fn new() -> Self {
        Self::with(Duration::from_secs(6)).await
    }

    async fn with(deadline: Duration) -> Self {
        let cluster = Cluster::three().await;
        let script = Arc::new(Mutex::new(Script { change: 1, ..Script::default() }));
        let judged = script.clone();
        cluster.meta.state().judge = Some(Judge(Box::new(move |commit| lock(&judged).judge(commit))));
        let vfs = Vfs::connect(ClientConfig { deadline, ..cluster.meta.config() }).await.unwrap();
        Self { cluster, script, vfs }
    }

    /// A file `name` with `bytes` unsaved, and a handle of it.
    async fn written(&self, name: &str, bytes: &[u8]) -> (Ino, u64) {
        let who = Caller::default();
        let (entry, opened) = self.vfs.create(who, DIR, &self::name(name), 0o644, libc::O_RDWR).await.unwrap();
        assert_eq!(self.vfs.try_write(opened.fh, 0, bytes, false), Some(Ok(bytes.len() as u32)));
        lock(&self.script).seen.clear();
        lock(&self.script).needs.clear();
        (entry.attr.ino, opened.fh)
    }

    async fn rename(&self, from: &str, to: &str, flags: u32) -> Result<(), FsError> {
        self.vfs.rename(Caller::default(), DIR, &name(from), DIR, &name(to), flags).await
    }

    /// Of each commit, its groups in short.
    fn seen(&self) -> Vec<Vec<String>> {
        let short = |op: &Op| match op {
            Op::Write(write) => {
                let bytes: u64 = write.extents.iter().map(|e| e.range.len()).sum();
                format!("write {bytes}")
            }
            Op::SetAttr { set, .. } if set.size.is_some() => format!("cut {:?}", set.size),
            Op::SetAttr { .. } => "set".into(),
            Op::Rename(_) => "rename".into(),
            Op::Link { .. } => "link".into(),
            other => format!("{other:?}"),
        };
        let commit = |commit: &Vec<Vec<Op>>| commit.iter().flatten().map(short).collect();
        lock(&self.script).seen.iter().map(commit).collect()
    }

    fn is_clean(&self, ino: Ino) -> bool {
        self.vfs.inodes.get(ino).state().buffer().is_clean()
    }

    fn chunks(&self) -> usize {
        self.cluster.stores[0].state().chunks.len()
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn cut(size: u64) -> SetAttr {
    SetAttr { size: Some(size), ..SetAttr::default() }
}

const WRITE: fn(&Op) -> bool = |op| matches!(op, Op::Write(_));
const OTHER: fn(&Op) -> bool = |op| !matches!(op, Op::Write(_));

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_of_a_file_with_unsaved_data_is_one_commit() {
    let world = World::new().await;
    let (ino, fh) = world.written("a", b"0123456789").await;
    world.rename("a", "b", 0).await.unwrap();
    assert_eq!(world.seen(), [["write 10", "rename"]]);
    assert_eq!(lock(&world.script).needs, [[vec![], vec![0]]]);
    assert!(world.is_clean(ino));
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    // A link too; and without unsaved data, the op alone.
    assert_eq!(world.vfs.try_write(fh, 10, b"more", false), Some(Ok(4)));
    world.vfs.link(ino, DIR, &name("c")).await.unwrap();
    world.rename("b", "d", 0).await.unwrap();
    assert_eq!(world.seen()[1..], [vec!["write 4", "link"], vec!["rename"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_not_accepted_are_made_good_and_the_change_waits_for_them() {
    let world = World::new().await;
    for verdict in [PutVerdict::AskAgain, PutVerdict::TooFewCopies] {
        lock(&world.script).verdicts.push_back(verdict);
        let (ino, fh) = world.written("a", b"0123456789").await;
        world.rename("a", "b", 0).await.unwrap();
        assert_eq!(world.seen(), [["write 10", "rename"], ["write 10", "rename"]], "{verdict:?}");
        assert!(world.is_clean(ino));
        assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_should_be_there_is_not_sent_and_if_it_is_gone_it_is() {
    let world = World::new().await;
    let bytes = b"0123456789";
    let slot = *world.vfs.meta.map().slots.keys().next().unwrap();
    let chunk = ChunkRef { id: ChunkId::of(bytes), len: 10, slot };
    world.vfs.copied.add(chunk);
    let (ino, fh) = world.written("a", bytes).await;
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    assert_eq!((world.seen(), world.chunks()), (vec![vec!["write 10".to_owned()]], 0));
    assert!(world.is_clean(ino));
    // Once more, and metad does not know it.
    lock(&world.script).verdicts.push_back(PutVerdict::TooFewCopies);
    let (ino, fh) = world.written("b", bytes).await;
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    assert_eq!((world.seen().len(), world.chunks()), (2, 1));
    assert!(world.is_clean(ino) && world.vfs.copied.find(chunk.id, 10).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_leaves_the_data_saved_and_lost_data_no_change() {
    let world = World::new().await;
    let (ino, fh) = world.written("a", b"0123456789").await;
    lock(&world.script).refuse.push((OTHER, Refusal::Exists));
    assert_eq!(world.rename("a", "b", libc::RENAME_NOREPLACE).await, Err(Refusal::Exists.into()));
    assert!(world.is_clean(ino));
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    assert_eq!(world.seen(), [["write 10", "rename"]]);
    assert_eq!(world.vfs.try_write(fh, 0, b"x", false), Some(Ok(1)));
    lock(&world.script).refuse.push((WRITE, Refusal::NoSpace));
    // What a refused rename left of a name is asked for again.
    let node = NodeInfo { attr: attr(ino, lock(&world.script).change), extents: None };
    world.cluster.meta.state().answers.push_back(Answer::Node(node).into());
    assert_eq!(world.rename("a", "b", 0).await, Err(Refusal::NoSpace.into()));
    assert_eq!(world.seen()[1..], [["write 1", "rename"]], "its group was refused with the data's");
    assert_eq!(world.vfs.fsync(fh).await, Err(Refusal::NoSpace.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_truncation_cuts_off_is_not_uploaded_and_stays_until_it_is_done() {
    let world = World::new().await;
    let (ino, fh) = world.written("a", b"0123456789").await;
    world.vfs.setattr(ino, cut(0)).await.unwrap();
    assert_eq!(world.seen(), [["cut Some(0)"]]);
    assert!(world.is_clean(ino) && world.chunks() == 0);
    assert_eq!(world.vfs.try_write(fh, 0, b"0123456789", false), Some(Ok(10)));
    world.vfs.setattr(ino, cut(4)).await.unwrap();
    assert_eq!(world.seen()[1..], [["write 4", "cut Some(4)"]]);
    // Refused: all of it is still there, and gets saved.
    lock(&world.script).seen.clear();
    assert_eq!(world.vfs.try_write(fh, 0, b"9876543210", false), Some(Ok(10)));
    lock(&world.script).refuse.push((OTHER, Refusal::NotPermitted));
    assert_eq!(world.vfs.setattr(ino, cut(0)).await, Err(Refusal::NotPermitted.into()));
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    assert_eq!(world.seen(), [["cut Some(0)"], ["write 10"]]);
    // The same when nobody knows.
    lock(&world.script).seen.clear();
    assert_eq!(world.vfs.try_write(fh, 0, b"abcdefghij", false), Some(Ok(10)));
    world.cluster.meta.script([crate::meta::fake::Step::Refuse(Refusal::OverLimit)]);
    assert!(world.vfs.setattr(ino, cut(0)).await.is_err());
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    assert_eq!(world.seen(), [["write 10"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_saved_with_the_data_they_come_after() {
    let world = World::new().await;
    let (ino, fh) = world.written("a", b"0123456789").await;
    let time = |secs| Some(Timestamp { secs, nanos: 0 });
    let times = SetAttr { atime: time(1000), mtime: time(2000), ..SetAttr::default() };
    let shown = world.vfs.setattr(ino, times).await.unwrap().attr;
    assert_eq!((shown.atime, shown.mtime), (time(1000).unwrap(), time(2000).unwrap()));
    assert_eq!(world.seen(), Vec::<Vec<String>>::new(), "nothing has left yet");
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    assert_eq!(world.seen(), [["write 10", "set"]]);
    let ops = lock(&world.script).seen[0][0].clone();
    let Op::Write(write) = &ops[0] else { panic!("the write comes first") };
    assert_eq!(Some(write.mtime), time(2000));
    let set = SetAttr { atime: time(1000), ..SetAttr::default() };
    assert_eq!(ops[1], Op::SetAttr { ino, set });
    // Other rights, or a file that is saved: at once.
    lock(&world.script).seen.clear();
    world.vfs.setattr(ino, times).await.unwrap();
    assert_eq!(world.vfs.try_write(fh, 0, b"x", false), Some(Ok(1)));
    world.vfs.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    assert_eq!(world.seen(), [["set"], ["set"]]);
    // What is put off is not lost with bytes that are cut off.
    lock(&world.script).seen.clear();
    world.vfs.setattr(ino, times).await.unwrap();
    world.vfs.setattr(ino, cut(0)).await.unwrap();
    assert_eq!(world.seen().concat(), ["write 1", "set", "cut Some(0)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_in_steps_goes_on_without_the_data() {
    let world = World::new().await;
    let (ino, _) = world.written("a", b"0123456789").await;
    lock(&world.script).reach.extend([300, 200]);
    world.vfs.setattr(ino, cut(5)).await.unwrap();
    assert_eq!(world.seen(), [vec!["write 5", "cut Some(5)"], vec!["cut Some(5)"], vec!["cut Some(5)"]]);
    assert!(world.is_clean(ino));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whiteout_gets_another_number_when_its_own_is_not_granted() {
    let world = World::new().await;
    world.written("a", b"0123456789").await;
    lock(&world.script).refuse.push((OTHER, Refusal::NotGranted));
    world.rename("a", "b", libc::RENAME_WHITEOUT).await.unwrap();
    assert_eq!(world.seen(), [vec!["write 10", "rename"], vec!["rename"]]);
    let script = lock(&world.script);
    let number = |op: &Op| if let Op::Rename(rename) = op { rename.whiteout.map(|w| w.0) } else { None };
    let numbers: Vec<_> = script.seen.iter().flatten().flatten().filter_map(number).collect();
    assert!(numbers.len() == 2 && numbers[0] != numbers[1], "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_file_that_is_gone_is_stale_for_who_holds_it_and_no_loss_for_others() {
    let world = World::new().await;
    let (_, fh) = world.written("a", b"0123456789").await;
    lock(&world.script).refuse.push((WRITE, Refusal::NotFound));
    assert_eq!(world.vfs.fsync(fh).await, Err(FsError::Gone));
    assert_eq!(world.vfs.fsync(fh).await, Ok(()), "told once");
    let lost = || world.vfs.lost_seals.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(lost(), 1);
    let (ino, fh) = world.written("b", b"0123456789").await;
    lock(&world.script).refuse.push((WRITE, Refusal::NotFound));
    world.vfs.release(fh);
    assert_eq!(world.vfs.sync_all().await, Ok(()));
    assert!(world.is_clean(ino));
    assert_eq!(lost(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_after_data_that_nobody_needs_any_more_is_judged_by_itself() {
    let world = World::new().await;
    let (ino, fh) = world.written("a", b"0123456789").await;
    world.vfs.release(fh);
    // Removed elsewhere; what has the name now is moved.
    lock(&world.script).refuse.push((WRITE, Refusal::NotFound));
    assert_eq!(world.rename("a", "b", 0).await, Ok(()));
    assert_eq!(world.seen(), [vec!["write 10", "rename"], vec!["rename"]]);
    assert!(world.is_clean(ino));
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_do_not_answer_are_waited_for_no_longer_than_one_deadline() {
    let world = World::with(Duration::from_secs(2)).await;
    world.cluster.stores.iter().for_each(|store| store.set(Mode::Stall));
    let (_, fh) = world.written("a", &vec![7; 3 << 20]).await;
    let begun = Instant::now();
    assert!(matches!(world.vfs.fsync(fh).await, Err(FsError::Io(_))));
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(3500), "its stream was waited for, and then the same again: {took:?}");
}

/// A saved file, of which metad says from now on that it has 1,000 extents of ten bytes; `versions`: and at every question
/// that it is of another version.
async fn crumbled(world: &World, versions: bool) -> (Ino, u64) {
    let (ino, fh) = world.written("a", &[7; 4096]).await;
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
    let (slot, id) = *world.cluster.stores[0].state().chunks.keys().next().unwrap();
    let chunk = ChunkRef { id, len: 4096, slot: SlotId(slot) };
    let extents: Vec<Extent> = (0..1000)
        .map(|n| Extent { range: ByteRange { start: 10 * n, end: 10 * n + 10 }, chunk, offset: (n % 400) as u32 })
        .collect();
    let mut data = 100;
    world.cluster.meta.state().oracle = Some(Oracle(Box::new(move |query| {
        data += u64::from(versions);
        match query {
            Query::Extents { from, limit, .. } => {
                let rest: Vec<Extent> = extents.iter().filter(|e| e.range.end > from).copied().collect();
                let end = rest.len() <= limit as usize;
                Answer::Extents { data, extents: rest.into_iter().take(limit as usize).collect(), end }
            }
            _ => Answer::Node(NodeInfo { attr: Attr { size: 10_000, ..attr(ino, data) }, extents: None }),
        }
    })));
    world.vfs.inodes.get(ino).state().known.distrust();
    (ino, fh)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_many_extents_is_read_while_others_write_it_faster_than_is_asked() {
    let world = World::new().await;
    let (_, fh) = crumbled(&world, true).await;
    assert_eq!(world.vfs.read(fh, 0, 10_000).await.map(|bytes| bytes.len()), Ok(10_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_ahead_does_not_end_where_a_read_would_have_asked_for_few_extents() {
    let world = World::new().await;
    let (ino, _) = crumbled(&world, false).await;
    let inode = world.vfs.inodes.get(ino);
    let ahead = world.vfs.plan_ahead(&inode, ByteRange { start: 0, end: 10_000 }).await.unwrap().unwrap();
    assert_eq!(ahead.len(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn mapped_pages_find_room_when_programs_have_to_wait() {
    let world = World::new().await;
    let (_, fh) = world.written("a", b"x").await;
    let limit = world.vfs.budget.limit();
    world.vfs.budget.change(0, limit);
    assert_eq!(world.vfs.try_write(fh, 0, b"from a program", false), None);
    assert_eq!(world.vfs.try_write_pages(fh, 0, b"from the kernel"), Some(Ok(15)));
    world.vfs.budget.change(limit, 0);
    assert_eq!(world.vfs.fsync(fh).await, Ok(()));
}
