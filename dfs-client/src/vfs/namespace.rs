//! Names: lookup and everything that makes, moves or takes away an entry. Each change is one commit, unsaved data
//! that must come before it included.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_core::attr::{Attr, FileKind};
use dfs_core::error::Refusal;
use dfs_core::id::Ino;
use dfs_core::limits::SYMLINK_BYTES;
use dfs_core::name::Name;
use dfs_core::op::{Create, Op, OpReply, Rename, RenameMode, SetAttr};
use dfs_core::query::{Answer, Query};

use super::Vfs;
use super::attr::wrong_answer;
use super::inode::Inode;
use super::types::{Caller, Entry, Opened};
use crate::cache::dentry::Dentries;
use crate::error::{FsError, FsResult};

/// How often a number for a new inode may turn out to be no longer granted: the session was given up in the
/// meantime, or very many others have been granted since.
const NUMBERS: u32 = 4;

/// Tells the name cache when an own change of directories begins, and when it is back, however that ends.
struct Changing<'a> {
    dentries: &'a Dentries,
    parents: [Ino; 2],
}

impl<'a> Changing<'a> {
    fn new(dentries: &'a Dentries, parents: [Ino; 2]) -> Self {
        parents.iter().for_each(|p| dentries.changed(*p));
        Self { dentries, parents }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.parents.iter().for_each(|p| self.dentries.changed(*p));
    }
}

fn subject(reply: &OpReply) -> FsResult<Attr> {
    reply.attrs.first().copied().ok_or_else(wrong_answer)
}

impl Vfs {
    /// [`Vfs::lookup`] without waiting.
    pub fn try_lookup(&self, parent: Ino, name: &Name) -> Option<FsResult<Entry>> {
        if self.meta.is_absent(parent, name) {
            return Some(Err(Refusal::NotFound.into()));
        }
        let now = Instant::now();
        if self.careful.is(parent, now) {
            return None;
        }
        let (ino, left) = self.dentries.get(parent, name, now)?;
        let inode = self.inodes.find(ino)?;
        let entry = {
            let state = inode.state();
            state.entry(now, self.config.ttl).filter(|_| state.known.is_settled())?
        };
        self.note_found(parent, name, now);
        self.told.tell(parent, name, entry.attr.ino, entry.attr.kind);
        Some(Ok(Entry { ttl: entry.ttl.min(left), ..entry }))
    }

    /// What is called `name` in `parent`, for the kernel.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`; faults.
    pub async fn lookup(&self, parent: Ino, name: &Name) -> FsResult<Entry> {
        if let Some(entry) = self.try_lookup(parent, name) {
            return entry;
        }
        let ticket = self.dentries.ticket(parent);
        let entry = self.ask_for(parent, name).await?;
        self.settle_all(&[entry.attr.ino]).await;
        // An answer from before an own change is told, but not the last word.
        if self.dentries.is_current(ticket, parent) {
            self.told.tell(parent, name, entry.attr.ino, entry.attr.kind);
        }
        Ok(entry)
    }

    /// What metad says that a name is.
    async fn ask_for(&self, parent: Ino, name: &Name) -> FsResult<Entry> {
        let ticket = self.dentries.ticket(parent);
        match self.meta.query(Query::Lookup { parent, name: name.clone() }).await {
            Ok(Answer::Node(node)) => {
                let entry = self.learn_node(&node, ticket.asked());
                self.dentries.learn(ticket, parent, name, node.attr.ino);
                self.found_in(node.attr, parent);
                self.note_asked(parent, name);
                Ok(self.kept(parent, entry))
            }
            Ok(_) => Err(wrong_answer()),
            Err(e) => {
                if e == FsError::Refused(Refusal::NotFound) {
                    self.dentries.forget(parent, name);
                    self.meta.missed(parent);
                }
                Err(e)
            }
        }
    }

    /// Remembers where an inode is: for `..`, and for what a lock of a file means for the names beside it.
    pub(super) fn found_in(&self, attr: Attr, parent: Ino) {
        if attr.ino != parent {
            self.inodes.get(attr.ino).state().parent = Some(parent);
        }
    }

    /// Makes an inode of any kind. `create.ino` is chosen here.
    async fn make(&self, mut create: Create) -> FsResult<(Entry, Arc<Inode>)> {
        let (parent, name) = (create.parent, create.name.clone());
        let changing = Changing::new(&self.dentries, [parent; 2]);
        let mut tries = 0;
        let (sent, reply) = loop {
            create.ino = self.meta.new_ino().await?;
            let sent = Instant::now();
            match self.change_one(Op::Create(create.clone())).await {
                Ok(reply) => break (sent, reply),
                Err(FsError::Refused(Refusal::NotGranted)) if tries < NUMBERS => tries += 1,
                Err(e) => {
                    self.dentries.forget(parent, &name);
                    return Err(e);
                }
            }
        };
        drop(changing);
        let attr = subject(&reply)?;
        let inode = self.inodes.get(attr.ino);
        self.dentries.set(parent, &name, attr.ino, sent);
        self.found_in(attr, parent);
        let mut state = inode.state();
        state.known.learn_all_extents(attr.data, &[]);
        state.no_capability = Some(sent);
        let late = Entry { attr: state.shown().unwrap_or(attr), ttl: Duration::ZERO };
        let entry = state.entry(Instant::now(), self.config.ttl).unwrap_or(late);
        drop(state);
        self.told.tell(parent, &name, attr.ino, attr.kind);
        Ok((self.kept(parent, entry), inode))
    }

    fn new_inode(who: Caller, parent: Ino, name: &Name, kind: FileKind, mode: u32) -> Create {
        Create {
            ino: Ino(0),
            parent,
            name: name.clone(),
            kind,
            mode: mode & 0o7777,
            umask: who.umask & 0o777,
            uid: who.uid,
            gid: who.gid,
            rdev: 0,
            target: Vec::new(),
        }
    }

    /// Makes a regular file and opens it. Without `O_EXCL`, one that somebody else made in this moment is opened if it is
    /// the caller's own.
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `NotDirectory` and other refusals of metad; `Stale` for a file that is there and not to be
    /// opened without a look at its rights; faults.
    pub async fn create(
        &self,
        who: Caller,
        parent: Ino,
        name: &Name,
        mode: u32,
        flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        match self.make(Self::new_inode(who, parent, name, FileKind::File, mode)).await {
            Ok((entry, inode)) => Ok((entry, self.opened(&inode, flags)?)),
            Err(FsError::Refused(Refusal::Exists)) if flags & libc::O_EXCL == 0 => {
                let mut entry = self.lookup(parent, name).await?;
                // The kernel, for which the file is a new one, looks at nobody's rights. At this error it asks again
                // what the name is, and then it does.
                if !is_owners_to_open(&entry.attr, who, flags) {
                    return Err(Refusal::Stale.into());
                }
                if flags & libc::O_TRUNC != 0 {
                    let time = super::now();
                    let set = SetAttr { size: Some(0), mtime: Some(time), ..SetAttr::default() };
                    entry = self.setattr(entry.attr.ino, set).await?;
                }
                Ok((entry, self.open(entry.attr.ino, flags).await?))
            }
            Err(e) => Err(e),
        }
    }

    /// Makes a file, pipe, socket or device; the kind is in `mode`.
    ///
    /// # Errors
    /// As for [`Vfs::create`]; `Invalid` for a kind that mknod(2) does not make.
    pub async fn mknod(&self, who: Caller, parent: Ino, name: &Name, mode: u32, rdev: u32) -> FsResult<Entry> {
        let kind = match FileKind::from_mode(mode) {
            None | Some(FileKind::Directory | FileKind::Symlink) => return Err(Refusal::Invalid.into()),
            Some(kind) => kind,
        };
        let rdev = if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) { rdev } else { 0 };
        let create = Create { rdev, ..Self::new_inode(who, parent, name, kind, mode) };
        Ok(self.make(create).await?.0)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As for [`Vfs::create`].
    pub async fn mkdir(&self, who: Caller, parent: Ino, name: &Name, mode: u32) -> FsResult<Entry> {
        Ok(self.make(Self::new_inode(who, parent, name, FileKind::Directory, mode)).await?.0)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As for [`Vfs::create`]; `NameTooLong` for the target.
    pub async fn symlink(&self, who: Caller, parent: Ino, name: &Name, target: &[u8]) -> FsResult<Entry> {
        if target.len() > SYMLINK_BYTES {
            return Err(Refusal::NameTooLong.into());
        }
        let who = Caller { umask: 0, ..who };
        let create = Self::new_inode(who, parent, name, FileKind::Symlink, 0o777);
        Ok(self.make(Create { target: target.to_vec(), ..create }).await?.0)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for what is none; `NotFound`; faults.
    pub async fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        match self.meta.query(Query::ReadLink { ino }).await? {
            Answer::Value(target) => Ok(target),
            _ => Err(wrong_answer()),
        }
    }

    /// One more name for a file. Its unsaved data is committed with it.
    ///
    /// # Errors
    /// `Exists` and other refusals; what kept the data from being saved, now or before; faults.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &Name) -> FsResult<Entry> {
        self.hear(ino)?;
        let unsaved = self.inodes.find(ino).filter(|inode| !inode.state().buffer().is_clean());
        let changing = Changing::new(&self.dentries, [parent; 2]);
        let sent = Instant::now();
        let reply = self.change_after(unsaved.as_ref(), &Op::Link { ino, parent, name: name.clone() }, &[]).await;
        drop(changing);
        if reply.is_err() {
            self.dentries.forget(parent, name);
        }
        let attr = subject(&reply?)?;
        self.dentries.set(parent, name, ino, sent);
        Ok(self.seen(attr))
    }

    /// An entry of an inode that was just learnt of.
    fn seen(&self, attr: Attr) -> Entry {
        let inode = self.inodes.get(attr.ino);
        let state = inode.state();
        let late = Entry { attr: state.shown().unwrap_or(attr), ttl: Duration::ZERO };
        state.entry(Instant::now(), self.config.ttl).unwrap_or(late)
    }

    /// Takes away a name of what is no directory. Data that nobody can reach any more is not saved.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory` and other refusals; faults.
    pub async fn unlink(&self, parent: Ino, name: &Name) -> FsResult<()> {
        self.remove(parent, name, None, Op::Unlink { parent, name: name.clone() }).await
    }

    /// Takes away an empty directory: the one that the kernel was told of.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty`, `Stale`; faults.
    pub async fn rmdir(&self, parent: Ino, name: &Name) -> FsResult<()> {
        let expected = self.told.expected(parent, name);
        let done = self.remove(parent, name, expected, Op::Rmdir { parent, name: name.clone() }).await;
        self.told.outcome(parent, name, &done);
        done
    }

    async fn remove(&self, parent: Ino, name: &Name, expected: Option<Op>, op: Op) -> FsResult<()> {
        let changing = Changing::new(&self.dentries, [parent; 2]);
        let reply = self.change_if(expected, op, &[]).await;
        self.dentries.forget(parent, name);
        drop(changing);
        self.drop_unreachable(&reply?);
        Ok(())
    }

    /// Drops unsaved data of what lost its last name and is not open here.
    fn drop_unreachable(&self, reply: &OpReply) {
        for attr in reply.attrs.iter().filter(|a| a.nlink == 0) {
            self.unheard.take(attr.ino);
            self.drop_unsaved(&self.inodes.get(attr.ino));
        }
    }

    /// rename(2), renameat2(2): `flags` are `RENAME_*`. Unsaved data of what is moved is committed with it, so that
    /// a file written and renamed over another is never found empty.
    ///
    /// # Errors
    /// Refusals of metad, `Stale` if the directory to be replaced is not the one that the kernel was told of;
    /// `Invalid` for unknown flags; what kept the data from being saved, now or (once) before; faults.
    pub async fn rename(
        &self,
        who: Caller,
        parent: Ino,
        name: &Name,
        new_parent: Ino,
        new_name: &Name,
        flags: u32,
    ) -> FsResult<()> {
        let whiteout = flags & libc::RENAME_WHITEOUT != 0;
        let mode = match flags & !libc::RENAME_WHITEOUT {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE if !whiteout => RenameMode::Exchange,
            _ => return Err(Refusal::Invalid.into()),
        };
        if mode == RenameMode::Exchange
            && let Some(other) = self.unsaved(new_parent, new_name).await?
        {
            self.save_or_fail(other.ino).await?;
        }
        let unsaved = self.unsaved(parent, name).await?;
        let mut rename =
            Rename { parent, name: name.clone(), new_parent, new_name: new_name.clone(), mode, whiteout: None };
        let changing = Changing::new(&self.dentries, [parent, new_parent]);
        let sent = Instant::now();
        let named = [(parent, name), (new_parent, new_name)];
        let about: Vec<Ino> =
            named.iter().filter_map(|(dir, name)| self.dentries.get(*dir, name, sent)).map(|(ino, _)| ino).collect();
        let mut tries = 0;
        let reply = loop {
            if whiteout {
                rename.whiteout = Some((self.meta.new_ino().await?, who.uid, who.gid));
            }
            let op = Op::Rename(rename.clone());
            // Only a directory is told of, and a directory has no unsaved data and replaces nothing else.
            let expected = (mode == RenameMode::Replace).then(|| self.told.expected(new_parent, new_name)).flatten();
            let done = match &unsaved {
                Some(unsaved) => self.change_after(Some(unsaved), &op, &about).await,
                None => self.change_if(expected, op, &about).await,
            };
            match done {
                Err(FsError::Refused(Refusal::NotGranted)) if tries < NUMBERS => tries += 1,
                reply => break reply,
            }
        };
        self.dentries.forget(parent, name);
        self.dentries.forget(new_parent, new_name);
        drop(changing);
        match &reply {
            Ok(_) => self.told.moved((parent, name), (new_parent, new_name), mode == RenameMode::Exchange),
            Err(_) => self.told.outcome(new_parent, new_name, &reply),
        }
        let reply = reply?;
        let attr = subject(&reply)?;
        self.dentries.set(new_parent, new_name, attr.ino, sent);
        self.found_in(attr, new_parent);
        self.drop_unreachable(&reply);
        Ok(())
    }

    /// What a name stands for, if this client has unsaved data of it. An error if some of it was lost and nobody has been
    /// told.
    async fn unsaved(&self, parent: Ino, name: &Name) -> FsResult<Option<Arc<Inode>>> {
        if !self.has_unsaved() && !self.unheard.is_any() {
            return Ok(None);
        }
        let ino = match self.dentries.get(parent, name, Instant::now()) {
            Some((ino, _)) => ino,
            None => self.ask_for(parent, name).await?.attr.ino,
        };
        self.hear(ino)?;
        Ok(self.inodes.find(ino).filter(|inode| !inode.state().buffer().is_clean()))
    }

    /// What was lost of a file and nobody has been told of.
    fn hear(&self, ino: Ino) -> FsResult<()> {
        self.unheard.take(ino).map_or(Ok(()), Err)
    }
}

/// Whether the owner of a regular file asks for what its mode gives him.
fn is_owners_to_open(attr: &Attr, who: Caller, flags: i32) -> bool {
    let (read, write) = (0o400, 0o200);
    let wanted = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => read,
        libc::O_WRONLY => write,
        _ => read | write,
    };
    let wanted = wanted | if flags & libc::O_TRUNC != 0 { write } else { 0 };
    attr.kind == FileKind::File && attr.uid == who.uid && attr.mode & wanted == wanted
}
