//! Who is told of what: of losses, of old pages, of files that are not one's own.

use std::sync::{Condvar, Mutex};

use dfs_core::error::Refusal;
use dfs_core::op::CommitReply;

use super::*;
use crate::meta::fake::Judge;
use crate::vfs::Caller;

const NOBODY: Caller = Caller { uid: 65_534, gid: 65_534, umask: 0o022 };

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// A file whose data is lost; there is no store. Whoever wrote it has closed it unless `fh` is kept.
async fn lost(vfs: &Vfs, keep: bool) -> (Arc<Inode>, Option<u64>) {
    let inode = vfs.inodes.get(FILE);
    vfs.learn(&inode, attr(FILE, FileKind::File), Instant::now());
    let fh = vfs.opened(&inode, libc::O_RDWR).unwrap().fh;
    assert_eq!(vfs.try_write(fh, 0, b"0123456789", false), Some(Ok(10)));
    if !keep {
        // One who reads is told by nothing that he does.
        vfs.opened(&inode, libc::O_RDONLY).unwrap();
        vfs.release(fh);
    }
    vfs.save(&inode).await.unwrap();
    assert!(inode.state().buffer().is_clean());
    vfs.learn(&inode, attr(FILE, FileKind::File), Instant::now());
    (inode, keep.then_some(fh))
}

#[tokio::test(flavor = "multi_thread")]
async fn fsync_of_who_opens_a_file_later_tells_what_was_lost_of_it() {
    let (_meta, vfs) = setup(Duration::from_millis(300)).await;
    let (inode, _) = lost(&vfs, false).await;
    let fh = vfs.opened(&inode, libc::O_RDWR).unwrap().fh;
    assert_eq!(vfs.flush(fh), Ok(()), "it was not this one's");
    assert!(matches!(vfs.fsync(fh).await, Err(FsError::Io(_))));
    assert_eq!(vfs.fsync(fh).await, Ok(()), "once");
    let later = vfs.opened(&inode, libc::O_RDWR).unwrap().fh;
    assert_eq!(vfs.fsync(later).await, Ok(()), "somebody was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_file_does_not_take_the_place_of_another() {
    let (meta, vfs) = setup(Duration::from_millis(300)).await;
    lost(&vfs, false).await;
    let commits = meta.state().seen.len();
    vfs.dentries.set(Ino::ROOT, &name("new"), FILE, Instant::now());
    let (new, good) = (name("new"), name("good"));
    let rename = || vfs.rename(NOBODY, Ino::ROOT, &new, Ino::ROOT, &good, 0);
    assert!(matches!(rename().await, Err(FsError::Io(_))));
    assert_eq!(meta.state().seen.len(), commits, "nothing was renamed");
    let _ = rename().await;
    assert!(meta.state().seen.len() > commits, "who was told may do it");

    lost(&vfs, false).await;
    let commits = meta.state().seen.len();
    assert!(matches!(vfs.link(FILE, Ino::ROOT, &name("again")).await, Err(FsError::Io(_))));
    assert_eq!(meta.state().seen.len(), commits);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_nobody_heard_is_told_again() {
    let (_meta, vfs) = setup(Duration::from_millis(300)).await;
    let (_inode, fh) = lost(&vfs, true).await;
    let fh = fh.unwrap();
    assert!(matches!(vfs.fsync(fh).await, Err(FsError::Io(_))));
    vfs.fsync_unheard(fh);
    assert!(matches!(vfs.fsync(fh).await, Err(FsError::Io(_))));
    assert_eq!(vfs.fsync(fh).await, Ok(()));
    vfs.learn(&vfs.inodes.get(Ino::ROOT), attr(Ino::ROOT, FileKind::Directory), Instant::now());
    let dir = vfs.opendir(Ino::ROOT).await.unwrap();
    assert_eq!(vfs.fsyncdir(dir).await, Ok(()));
    vfs.fsyncdir_unheard(dir);
    assert!(matches!(vfs.fsyncdir(dir).await, Err(FsError::Io(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_somebody_else_is_not_opened_by_who_would_make_it() {
    let (meta, vfs) = setup(Duration::from_secs(5)).await;
    let refuse = |commit: dfs_core::op::Commit| CommitReply {
        puts: Vec::new(),
        groups: commit.groups.iter().map(|_| Err(Refusal::Exists)).collect(),
    };
    meta.state().judge = Some(Judge(Box::new(refuse)));
    let is = |uid, mode| {
        let attr = Attr { uid, mode, change: 1, ..attr(FILE, FileKind::File) };
        Answer::Node(NodeInfo { attr, extents: None })
    };
    let create = async |answer, flags| {
        vfs.dentries.forget(Ino::ROOT, &name("f"));
        vfs.inodes.forget(FILE);
        meta.state().answers.extend([answer].map(Into::into));
        let done = vfs.create(NOBODY, Ino::ROOT, &name("f"), 0o644, flags).await;
        meta.state().answers.clear();
        done.map(|(entry, opened)| {
            vfs.release(opened.fh);
            entry.attr.ino
        })
    };
    let (me, stale) = (NOBODY.uid, Err(Refusal::Stale.into()));
    assert_eq!(create(is(0, 0o666), libc::O_RDWR).await, stale, "the kernel is to look at its mode");
    assert_eq!(create(is(me, 0o400), libc::O_RDWR).await, stale);
    assert_eq!(create(is(me, 0o400), libc::O_RDONLY | libc::O_TRUNC).await, stale);
    assert_eq!(create(is(me, 0o400), libc::O_RDONLY).await, Ok(FILE));
    assert_eq!(create(is(me, 0o600), libc::O_RDWR).await, Ok(FILE));
    assert_eq!(create(is(me, 0o600), libc::O_RDWR | libc::O_EXCL).await, Err(Refusal::Exists.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_appends_as_its_flags_say_at_each_write() {
    let (_meta, vfs) = setup(Duration::from_secs(5)).await;
    let inode = vfs.inodes.get(FILE);
    vfs.learn(&inode, Attr { size: 100, ..attr(FILE, FileKind::File) }, Instant::now());
    let fh = vfs.opened(&inode, libc::O_RDWR | libc::O_APPEND).unwrap().fh;
    let end = || inode.state().buffer().end();
    vfs.set_append(fh, false);
    assert_eq!((vfs.try_write(fh, 5, b"x", false), end()), (Some(Ok(1)), Some(6)));
    vfs.set_append(fh, true);
    assert_eq!((vfs.try_write(fh, 5, b"x", false), end()), (Some(Ok(1)), Some(101)));
}

/// Forgets nothing before it may.
#[derive(Clone, Default)]
struct Slow(Arc<(Mutex<bool>, Condvar)>);

impl Slow {
    fn may(&self, may: bool) {
        *self.0.0.lock().unwrap() = may;
        self.0.1.notify_all();
    }
}

impl Invalidator for Slow {
    fn inode(&self, _: Ino, _: bool) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |may| !*may).unwrap());
    }

    fn entry(&self, _: Ino, _: &Name) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_keeps_no_page_and_hears_no_length_before_old_pages_are_dropped() {
    let (_meta, vfs) = setup(Duration::from_secs(5)).await;
    let kernel = Slow::default();
    vfs.set_invalidator(Box::new(kernel.clone()));
    let inode = vfs.inodes.get(FILE);
    let learn = |data| {
        let attr = Attr { change: data, data, size: 100 * data, ..attr(FILE, FileKind::File) };
        vfs.learn(&inode, attr, Instant::now());
    };
    let keeps = || {
        let opened = vfs.opened(&inode, libc::O_RDONLY).unwrap();
        vfs.release(opened.fh);
        opened.keep_cache
    };
    learn(1);
    assert_eq!((keeps(), keeps()), (false, true));
    assert!(vfs.try_getattr(FILE).is_some());
    // Another client has written to it.
    learn(2);
    assert_eq!((keeps(), keeps()), (false, false), "the pages are still there");
    assert!(vfs.try_getattr(FILE).is_none());
    let mut asked = std::pin::pin!(vfs.settle_all(&[FILE]));
    assert!(tokio::time::timeout(Duration::from_millis(50), asked.as_mut()).await.is_err());
    kernel.may(true);
    asked.await;
    assert!(vfs.try_getattr(FILE).is_some());
    assert!(keeps());
    // Nobody waits for ever.
    kernel.may(false);
    learn(3);
    let begun = Instant::now();
    vfs.settle_all(&[FILE]).await;
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert!(!keeps());
    kernel.may(true);
}
