//! The filesystem over a scripted metad and no stores at all.

mod told;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use dfs_core::attr::{Attr, FileKind};
use dfs_core::id::Ino;
use dfs_core::name::Name;
use dfs_core::query::{Answer, DirEntry, NodeInfo};
use dfs_core::time::Timestamp;

use super::{Inode, Invalidator, Vfs};
use crate::config::ClientConfig;
use crate::error::FsError;
use crate::file::buffer::WriteInfo;
use crate::meta::fake::FakeMeta;

const FILE: Ino = Ino(5);

fn attr(ino: Ino, kind: FileKind) -> Attr {
    let t = Timestamp::default();
    Attr {
        ino,
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        stored: 0,
        atime: t,
        mtime: t,
        ctime: t,
        btime: t,
        rdev: 0,
        change: 1,
        data: 1,
        xattrs: false,
    }
}

async fn setup(deadline: Duration) -> (FakeMeta, Arc<Vfs>) {
    let meta = FakeMeta::empty().await;
    let vfs = Vfs::connect(ClientConfig { deadline, ..meta.config() }).await.unwrap();
    (meta, vfs)
}

struct Told(Sender<(Ino, bool)>);

impl Invalidator for Told {
    fn inode(&self, ino: Ino, data: bool) {
        self.0.send((ino, data)).unwrap();
    }

    fn entry(&self, _: Ino, _: &Name) {}
}

fn listen(vfs: &Vfs) -> Receiver<(Ino, bool)> {
    let (tell, told) = channel();
    vfs.set_invalidator(Box::new(Told(tell)));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_lost_are_reported_once_and_not_shown_any_more() {
    let (_meta, vfs) = setup(Duration::from_millis(300)).await;
    let told = listen(&vfs);
    let inode = vfs.inodes.get(FILE);
    vfs.learn(&inode, attr(FILE, FileKind::File), Instant::now());
    let fh = vfs.opened(&inode, libc::O_RDWR).unwrap().fh;
    assert_eq!(vfs.try_write(fh, 0, b"0123456789", false), Some(Ok(10)));
    let dir = vfs.inodes.get(Ino::ROOT);
    vfs.learn(&dir, attr(Ino::ROOT, FileKind::Directory), Instant::now());
    let dir = vfs.opendir(Ino::ROOT).await.unwrap();
    vfs.save(&inode).await.unwrap();
    // One who closes a copy of the descriptor hears of it, and so does fsync.
    assert!(matches!(vfs.flush(fh), Err(FsError::Io(_))), "there is no store");
    assert_eq!(vfs.flush(fh), Ok(()));
    assert!(matches!(vfs.fsync(fh).await, Err(FsError::Io(_))));
    assert!(matches!(vfs.fsyncdir(dir).await, Err(FsError::Io(_))));
    assert_eq!(vfs.fsyncdir(dir).await, Ok(()));
    assert_eq!(vfs.flush(fh), Ok(()));
    assert_eq!(vfs.fsync(fh).await, Ok(()));
    assert_eq!(told.recv_timeout(Duration::from_secs(5)), Ok((FILE, true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_overtakes_data_that_is_still_on_its_way() {
    let (meta, vfs) = setup(Duration::from_millis(100)).await;
    let inode = vfs.inodes.get(FILE);
    Inode::change_buffer(&mut inode.state(), &vfs.budget, |buffer| {
        let info = WriteInfo { now: Instant::now(), time: Timestamp::default(), kill_priv: false };
        buffer.write(0, b"x", info);
        // Nobody saves it.
        buffer.seal_all().unwrap();
    });
    assert!(vfs.has_unsaved());
    assert!(matches!(vfs.save_or_fail(FILE).await, Err(FsError::Io(_))));
    let cut = dfs_core::op::SetAttr { size: Some(0), ..Default::default() };
    assert!(matches!(vfs.setattr(FILE, cut).await, Err(FsError::Io(_))));
    assert!(matches!(vfs.sync_all().await, Err(FsError::Io(_))), "it is in no list of dirty files");
    assert_eq!(meta.state().seen, [], "neither a rename nor a truncation may go before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_does_not_overtake_a_write_that_takes_setgid_away() {
    let (meta, vfs) = setup(Duration::from_millis(100)).await;
    let inode = vfs.inodes.get(FILE);
    Inode::change_buffer(&mut inode.state(), &vfs.budget, |buffer| {
        let info = WriteInfo { now: Instant::now(), time: Timestamp::default(), kill_priv: true };
        buffer.write(0, b"x", info);
        // Nobody saves it.
        buffer.seal_all().unwrap();
    });
    let set = vfs.set_acl(FILE, dfs_core::op::AclKind::Access, &[2, 0, 0, 0], false).await;
    assert!(matches!(set, Err(FsError::Io(_))), "{set:?}");
    assert_eq!(meta.state().seen, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_not_asked_about_before_those_of_closed_files_are_given_up() {
    let (meta, vfs) = setup(Duration::from_secs(5)).await;
    let giving_up = vfs.inodes.get(FILE).locking().lock_owned().await;
    meta.state().answers.extend([Answer::Lock(None)].map(Into::into));
    let range = dfs_core::range::ByteRange { start: 0, end: 1 };
    let ask = || vfs.getlk(FILE, dfs_core::id::LockOwner(1), range, dfs_core::lock::LockKind::Read);
    assert!(tokio::time::timeout(Duration::from_millis(100), ask()).await.is_err());
    assert_eq!(meta.state().answers.len(), 1, "nobody was asked");
    drop(giving_up);
    assert_eq!(ask().await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_appends_asks_for_capabilities_that_may_be_there() {
    let (_meta, vfs) = setup(Duration::from_secs(5)).await;
    let inode = vfs.inodes.get(FILE);
    vfs.learn(&inode, Attr { xattrs: true, ..attr(FILE, FileKind::File) }, Instant::now());
    let fh = vfs.opened(&inode, libc::O_WRONLY | libc::O_APPEND).unwrap().fh;
    assert_eq!(vfs.try_write(fh, 0, b"x", false), None);
    inode.state().no_capability = Some(Instant::now());
    assert_eq!(vfs.try_write(fh, 0, b"x", false), Some(Ok(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_directories_are_not_taken_from_who_works_in_them() {
    let (_meta, vfs) = setup(Duration::from_secs(5)).await;
    let (file, dir, name) = (FILE, Ino(6), |text: &str| Name::new(text.as_bytes()).unwrap());
    vfs.learn(&vfs.inodes.get(file), attr(file, FileKind::File), Instant::now());
    vfs.learn(&vfs.inodes.get(dir), attr(dir, FileKind::Directory), Instant::now());
    let names = vec![(name("file"), file), (name("dir"), dir), (name("unknown"), Ino(7))];
    assert_eq!(vfs.without_directories(names), [name("file"), name("unknown")]);
}

fn listed(numbers: std::ops::Range<u64>, plus: bool, end: bool) -> Answer {
    let entry = |n: u64| {
        let node = NodeInfo { attr: attr(Ino(n), FileKind::File), extents: None };
        let name = Name::new(format!("{n:04}").as_bytes()).unwrap();
        DirEntry { name, ino: Ino(n), kind: FileKind::File, node: plus.then_some(node) }
    };
    Answer::Dir { attr: attr(Ino::ROOT, FileKind::Directory), entries: numbers.map(entry).collect(), end }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_changes_its_mind_about_attributes_leaves_nothing_out() {
    let (meta, vfs) = setup(Duration::from_secs(5)).await;
    let root = Answer::Node(NodeInfo { attr: attr(Ino::ROOT, FileKind::Directory), extents: None });
    meta.state().answers.extend([root, listed(100..120, false, true)].map(Into::into));
    let fh = vfs.opendir(Ino::ROOT).await.unwrap();
    let first = vfs.readdir(fh, 0, false, 7).await.unwrap();
    let last = first.last().unwrap();
    assert_eq!((last.ino, last.cookie_after), (Ino(104), 7));
    // The first five and two others are taken away, as `rm` does, and two come before; then the kernel wants
    // attributes too.
    meta.state().answers.extend([listed(98..100, true, false), listed(107..120, true, true)].map(Into::into));
    let mut seen = Vec::new();
    let mut cookie = last.cookie_after;
    loop {
        let some = vfs.readdir(fh, cookie, true, 4).await.unwrap();
        let Some(last) = some.last() else { break };
        cookie = last.cookie_after;
        assert!(some.iter().all(|item| item.entry.is_some_and(|e| e.attr.ino == item.ino)));
        seen.extend(some.iter().map(|item| item.ino.0));
    }
    assert_eq!(seen, (107..120).collect::<Vec<_>>());
    assert!(meta.state().answers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_page_of_a_listing_is_on_its_way_when_the_first_is_read() {
    let (meta, vfs) = setup(Duration::from_secs(5)).await;
    let root = Answer::Node(NodeInfo { attr: attr(Ino::ROOT, FileKind::Directory), extents: None });
    meta.state().answers.extend([root.into()]);
    // With attributes, as the kernel begins; then with or without.
    for plus in [true, false] {
        let pages = [listed(1000..1190, true, false), listed(1190..1300, true, true)];
        meta.state().answers.extend(pages.map(Into::into));
        let fh = vfs.opendir(Ino::ROOT).await.unwrap();
        let first = vfs.readdir(fh, 0, true, 192).await.unwrap();
        assert_eq!(first.len(), 192, "the dots and the first page, which is short");
        let begun = Instant::now();
        while !meta.state().answers.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(5), "nobody asked for the second page");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let second = vfs.readdir(fh, first[191].cookie_after, plus, 192).await.unwrap();
        let seen: Vec<u64> = first[2..].iter().chain(&second).map(|item| item.ino.0).collect();
        assert_eq!(seen, (1000..1300).collect::<Vec<_>>());
        assert!(second.iter().all(|item| item.entry.is_some() == plus));
    }
}
