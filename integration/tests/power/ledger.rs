//! One client that changes metadata and remembers, for each commit, where the disk was when it began and when it
//! was acknowledged; and what the whole filesystem must look like after each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use dfs_client::chunks::ChunkClient;
use dfs_client::config::ClientConfig;
use dfs_client::meta::MetaClient;
use dfs_core::attr::FileKind;
use dfs_core::chunk::ChunkId;
use dfs_core::extent::Extent;
use dfs_core::id::Ino;
use dfs_core::limits::DIR_ENTRIES;
use dfs_core::name::Name;
use dfs_core::op::{Create, Group, Op, Put, Rename, RenameMode, SetAttr, Write, XattrMode};
use dfs_core::query::{Answer, DirEntry, Query};
use dfs_core::range::ByteRange;
use dfs_integration::powercut::{PowerDisk, Rig};
use dfs_integration::tool::bytes;
use dfs_proto::v1;
use dfs_proto::v1::meta_client::MetaClient as MetaRpc;
use rand::Rng;
use rand::rngs::StdRng;
use tonic::transport::Channel;

/// Directories below the root.
const DIRS: usize = 5;
/// Files that have large attributes; their names begin with an x and they are not renamed.
const LARGE: usize = 24;
/// Bytes of a large attribute.
const VALUE: usize = 60_000;

/// What is known of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    ino: Ino,
    kind: FileKind,
    mode: u32,
    size: u64,
    extents: Vec<Extent>,
    xattrs: BTreeMap<Vec<u8>, blake3::Hash>,
}

/// All names.
pub(crate) type Model = BTreeMap<(Ino, Name), Facts>;

/// After one commit.
#[derive(Clone, Debug)]
struct Step {
    /// Operations of the disk when it was sent, and when its answer was here.
    began: usize,
    acked: usize,
    after: Arc<Model>,
}

/// All commits, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    steps: Vec<Step>,
}

impl Ledger {
    /// The states that a power cut just after operation `n` may leave: at least what was acknowledged by
    /// then, at most what was sent by then.
    fn allowed(&self, n: usize) -> impl Iterator<Item = (usize, Arc<Model>)> {
        let least = self.steps.iter().take_while(|s| s.acked <= n).count();
        let most = self.steps.iter().take_while(|s| s.began < n).count().max(least);
        (least..=most).map(|k| (k, self.state(k)))
    }

    /// After `k` commits.
    fn state(&self, k: usize) -> Arc<Model> {
        k.checked_sub(1).map_or_else(Arc::default, |k| self.steps[k].after.clone())
    }

    /// How many commits there were.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Compares what is found with what a power cut after operation `n` may leave; says after how many commits.
    pub(crate) fn judge(&self, found: &Model, n: usize) -> Result<usize> {
        let allowed: Vec<_> = self.allowed(n).collect();
        if let Some((k, _)) = allowed.iter().find(|(_, model)| **model == *found) {
            return Ok(*k);
        }
        let (k, least) = allowed.first().context("there is always one")?;
        // None of them: say how it differs from the least.
        self.is_after(found, *k)
            .with_context(|| format!("{} names found, {} acknowledged", found.len(), least.len()))?;
        Ok(*k)
    }

    /// Whether this is the state after `k` commits.
    pub(crate) fn is_after(&self, found: &Model, k: usize) -> Result<()> {
        let model = self.state(k);
        let wrong = model.iter().find(|(place, facts)| found.get(place) != Some(facts));
        if let Some((place, facts)) = wrong {
            bail!("after commit {k}: {place:?} should be {facts:?} but is {:?}", found.get(place));
        }
        let extra = found.keys().find(|place| !model.contains_key(place));
        ensure!(extra.is_none(), "after commit {k}: {extra:?} should not be there");
        Ok(())
    }
}

/// The client at work.
pub(crate) struct Worker {
    meta: MetaClient,
    chunks: ChunkClient,
    disk: PowerDisk,
    rng: StdRng,
    model: Model,
    dirs: Vec<Ino>,
    large: Vec<(Ino, Name)>,
    names: u64,
    pub(crate) ledger: Ledger,
}

fn now() -> dfs_core::time::Timestamp {
    SystemTime::now().into()
}

fn group(ops: Vec<Op>) -> Group {
    Group { time: now(), needs: Vec::new(), ops }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn create(ino: Ino, parent: Ino, name: Name, kind: FileKind) -> Op {
    Op::Create(Create {
        ino,
        parent,
        name,
        kind,
        mode: 0o755,
        umask: 0,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: Vec::new(),
    })
}

async fn client(rig: &Rig) -> Result<(MetaClient, ClientConfig)> {
    let config = ClientConfig { meta: rig.meta.clone(), client_name: "power".into(), ..ClientConfig::default() };
    Ok((MetaClient::connect(&config).await?, config))
}

impl Worker {
    /// Makes the directories and the files with large attributes.
    pub(crate) async fn start(rig: &Rig, rng: StdRng) -> Result<Self> {
        let (meta, config) = client(rig).await?;
        let chunks = ChunkClient::new(meta.clone(), &config);
        let disk = rig.disks()[0].clone();
        let (model, ledger) = (Model::new(), Ledger::default());
        let mut worker =
            Self { meta, chunks, disk, rng, model, dirs: vec![Ino::ROOT], large: Vec::new(), names: 0, ledger };
        for n in 0..DIRS {
            let ino = worker.make(Ino::ROOT, &format!("d{n}"), FileKind::Directory).await?;
            worker.dirs.push(ino);
        }
        for n in 0..LARGE {
            let dir = worker.dirs[n % worker.dirs.len()];
            worker.make(dir, &format!("x{n}"), FileKind::File).await?;
            worker.large.push((dir, name(&format!("x{n}"))));
        }
        Ok(worker)
    }

    async fn make(&mut self, dir: Ino, text: &str, kind: FileKind) -> Result<Ino> {
        let ino = self.meta.new_ino().await?;
        let op = create(ino, dir, name(text), kind);
        self.model.insert((dir, name(text)), Facts::new(ino, kind));
        self.commit(Vec::new(), vec![group(vec![op])]).await?;
        Ok(ino)
    }

    /// Commits what the model has taken on already.
    async fn commit(&mut self, puts: Vec<Put>, groups: Vec<Group>) -> Result<()> {
        let began = self.disk.ops();
        let reply = self.meta.commit(puts, groups).await?;
        if let Some(refusal) = reply.groups.into_iter().find_map(Result::err) {
            bail!("refused: {refusal}");
        }
        let after = Arc::new(self.model.clone());
        self.ledger.steps.push(Step { began, acked: self.disk.ops(), after });
        Ok(())
    }

    /// One random commit.
    pub(crate) async fn step(&mut self) -> Result<()> {
        // Now and then a lone small change, as most are.
        let small = self.rng.random_bool(0.3);
        let mut most = |n: usize| if small { 1 } else { self.rng.random_range(1..=n) };
        let (values, files, few) = (most(96), most(150), most(60));
        match self.rng.random_range(0..10) {
            0..5 => self.attributes(values).await,
            5..7 => self.files(files).await,
            7 => self.renames(few).await,
            8 => self.unlinks(few).await,
            _ => self.modes(few).await,
        }
    }

    async fn attributes(&mut self, count: usize) -> Result<()> {
        let mut groups = Vec::new();
        for _ in 0..count {
            let place = self.large[self.rng.random_range(0..LARGE)].clone();
            let facts = self.model.get_mut(&place).context("it stays")?;
            let key = format!("user.{}", self.rng.random_range(0..4)).into_bytes();
            let value = bytes(self.rng.random(), self.rng.random_range(VALUE / 2..VALUE));
            facts.xattrs.insert(key.clone(), blake3::hash(&value));
            groups.push(group(vec![Op::SetXattr { ino: facts.ino, name: key, value, mode: XattrMode::Set }]));
        }
        self.commit(Vec::new(), groups).await
    }

    async fn files(&mut self, count: usize) -> Result<()> {
        let contents: Vec<Vec<u8>> =
            (0..count).map(|_| bytes(self.rng.random(), self.rng.random_range(1..3000))).collect();
        let small = contents.into_iter().map(|c| (ChunkId::of(&c), c.into())).collect();
        let puts: Vec<Put> = self.chunks.put_small(None, small).await?;
        let mut groups = Vec::new();
        for put in &puts {
            let (ino, dir) = (self.meta.new_ino().await?, self.dirs[self.rng.random_range(0..self.dirs.len())]);
            self.names += 1;
            let name = name(&format!("f{}", self.names));
            let range = ByteRange { start: 0, end: put.chunk.len.into() };
            let extents = vec![Extent { range, chunk: put.chunk, offset: 0 }];
            let facts = Facts { size: range.end, extents: extents.clone(), ..Facts::new(ino, FileKind::File) };
            self.model.insert((dir, name.clone()), facts);
            let write = Write { ino, extents, holes: Vec::new(), mtime: now(), kill_priv: false };
            groups.push(group(vec![create(ino, dir, name, FileKind::File), Op::Write(write)]));
        }
        self.commit(puts, groups).await
    }

    /// Some file that may be moved and removed.
    fn any_file(&mut self) -> Option<(Ino, Name)> {
        let mut files: Vec<_> = self.model.keys().filter(|(_, n)| n.as_bytes()[0] == b'f').collect();
        let n = self.rng.random_range(0..files.len().max(1));
        (n < files.len()).then(|| files.swap_remove(n).clone())
    }

    async fn renames(&mut self, count: usize) -> Result<()> {
        let mut groups = Vec::new();
        for _ in 0..count {
            let Some((parent, old)) = self.any_file() else { break };
            let (new_parent, new_name) = if self.rng.random_bool(0.3) {
                self.any_file().context("there is one")?
            } else {
                self.names += 1;
                (self.dirs[self.rng.random_range(0..self.dirs.len())], name(&format!("f{}", self.names)))
            };
            let facts = self.model.remove(&(parent, old.clone())).context("it is there")?;
            self.model.insert((new_parent, new_name.clone()), facts);
            let mode = RenameMode::Replace;
            let rename = Rename { parent, name: old, new_parent, new_name, mode, whiteout: None };
            groups.push(group(vec![Op::Rename(rename)]));
        }
        self.commit(Vec::new(), groups).await
    }

    async fn unlinks(&mut self, count: usize) -> Result<()> {
        let mut groups = Vec::new();
        for _ in 0..count {
            let Some((parent, name)) = self.any_file() else { break };
            self.model.remove(&(parent, name.clone()));
            groups.push(group(vec![Op::Unlink { parent, name }]));
        }
        self.commit(Vec::new(), groups).await
    }

    async fn modes(&mut self, count: usize) -> Result<()> {
        let mut groups = Vec::new();
        for _ in 0..count {
            let mode = self.rng.random_range(0..0o1000);
            let Some(place) = self.any_file() else { break };
            let facts = self.model.get_mut(&place).context("it is there")?;
            facts.mode = mode;
            let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
            groups.push(group(vec![Op::SetAttr { ino: facts.ino, set }]));
        }
        self.commit(Vec::new(), groups).await
    }
}

impl Facts {
    fn new(ino: Ino, kind: FileKind) -> Self {
        Self { ino, kind, mode: 0o755, size: 0, extents: Vec::new(), xattrs: BTreeMap::new() }
    }
}

/// Makes a directory through a new session.
pub(crate) async fn make_dir(rig: &Rig, text: &str) -> Result<()> {
    let (meta, _) = client(rig).await?;
    let ino = meta.new_ino().await?;
    let op = create(ino, Ino::ROOT, name(text), FileKind::Directory);
    let reply = meta.commit(Vec::new(), vec![group(vec![op])]).await?;
    reply.groups.into_iter().find_map(Result::err).map_or(Ok(()), |refusal| bail!("refused: {refusal}"))
}

/// Takes such a directory out of what was found; whether it was there.
pub(crate) fn take_dir(found: &mut Model, text: &str) -> bool {
    found.remove(&(Ino::ROOT, name(text))).is_some()
}

/// Lets metad check itself, and reads all names with what is known of them.
pub(crate) async fn read_all(rig: &Rig) -> Result<Model> {
    let channel = dfs_proto::client::meta_channel(&rig.meta)?;
    let mut meta = dfs_proto::client::meta_client(channel);
    let mut answers = meta.check(v1::CheckRequest {}).await?.into_inner();
    loop {
        let answer = answers.message().await?.context("the check did not come to its end")?;
        ensure!(answer.findings.is_empty() && answer.more == 0, "metad finds {:?}", answer.findings);
        if answer.done {
            break;
        }
    }
    let mut asker = Asker(meta);
    let mut model = Model::new();
    let mut dirs = vec![Ino::ROOT];
    while let Some(dir) = dirs.pop() {
        for entry in asker.entries(dir).await? {
            let node = entry.node.context("asked for with attributes")?;
            let mut facts = Facts::new(entry.ino, entry.kind);
            facts.mode = node.attr.mode;
            if entry.kind == FileKind::File {
                facts.size = node.attr.size;
            }
            facts.extents = node.extents.unwrap_or_default();
            if entry.name.as_bytes()[0] == b'x' {
                facts.xattrs = asker.xattrs(entry.ino).await?;
            }
            if entry.kind == FileKind::Directory {
                dirs.push(entry.ino);
            }
            model.insert((dir, entry.name), facts);
        }
    }
    Ok(model)
}

struct Asker(MetaRpc<Channel>);

impl Asker {
    async fn ask(&mut self, query: Query) -> Result<Answer> {
        let answer = self.0.ask(v1::Query::from(query)).await?.into_inner().result;
        match answer.context("no answer")? {
            v1::ask_response::Result::Answer(answer) => Ok(Answer::try_from(answer)?),
            v1::ask_response::Result::Refusal(refusal) => bail!("refused: {refusal:?}"),
        }
    }

    async fn entries(&mut self, ino: Ino) -> Result<Vec<DirEntry>> {
        let mut all: Vec<DirEntry> = Vec::new();
        loop {
            let after = all.last().map(|e| e.name.clone());
            let query = Query::ReadDir { ino, after, limit: DIR_ENTRIES, plus: true };
            let Answer::Dir { entries, end, .. } = self.ask(query).await? else { bail!("not a directory") };
            all.extend(entries);
            if end {
                return Ok(all);
            }
        }
    }

    async fn xattrs(&mut self, ino: Ino) -> Result<BTreeMap<Vec<u8>, blake3::Hash>> {
        let Answer::Names(names) = self.ask(Query::ListXattr { ino }).await? else { bail!("not names") };
        let mut all = BTreeMap::new();
        for name in names {
            let Answer::Value(value) = self.ask(Query::GetXattr { ino, name: name.clone() }).await? else {
                bail!("not a value")
            };
            all.insert(name, blake3::hash(&value));
        }
        Ok(all)
    }
}
