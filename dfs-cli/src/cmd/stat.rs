//! `dfs stat`: what a file is made of, down to the stores that hold its chunks.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use anyhow::{Context, bail};
use dfs_core::limits::{EXTENTS, LIST_CHUNKS};
use dfs_proto::v1::{Attr, ChunkRef, ClusterMap, Dentry, Extent, FindRequest, GetExtents, Time, answer, query};
use serde::Serialize;

use crate::cmd::status;
use crate::connect::{Meta, Nodes, meta_address, request, store_nodes};
use crate::mounts;
use crate::show::{count, hex, kind, node_state, size, time};

#[derive(Debug, Serialize)]
struct Report {
    path: String,
    ino: u64,
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    stored: u64,
    atime: String,
    mtime: String,
    ctime: String,
    btime: String,
    change: u64,
    data: u64,
    extents: Vec<ExtentReport>,
}

#[derive(Debug, Serialize)]
struct ExtentReport {
    start: u64,
    end: u64,
    /// Where in the chunk the first byte is.
    offset: u32,
    chunk: String,
    chunk_len: u32,
    slot: u32,
    stores: Vec<Copy>,
}

#[derive(Clone, Debug, Serialize)]
struct Copy {
    store: String,
    addr: String,
    node_state: &'static str,
    /// Null: the node did not say.
    holds: Option<bool>,
}

/// What each store says of each chunk.
type Holdings = HashMap<(Vec<u8>, Vec<u8>), bool>;

/// Runs it.
///
/// # Errors
/// When there is no such file or metad does not answer.
pub async fn run(addr: Option<&str>, path: &Path, json: bool) -> anyhow::Result<u8> {
    let (mut meta, ino) = find(addr, path).await?;
    let attr = attr(&mut meta, ino).await?.with_context(|| format!("metad knows no inode {ino}; was it removed?"))?;
    let extents = extents(&mut meta, ino).await?;
    let map = status::fetch(&mut meta).await?.map.unwrap_or_default();
    let holdings = holdings(&map, &extents).await?;
    let report = report(path, &attr, &extents, &map, &holdings);
    super::print(json, &report, || text(&report))?;
    Ok(0)
}

/// The inode that the path names: by the mount it is on, else inside the filesystem.
async fn find(addr: Option<&str>, path: &Path) -> anyhow::Result<(Meta, u64)> {
    let shown = path.display();
    let local = std::fs::symlink_metadata(path);
    if let Ok(info) = &local
        && let Some(mount) = mounts::ours_with_device(info.dev())?
        && let Some(source) = mount.meta()
    {
        return Ok((Meta::new(addr.unwrap_or(source))?, info.ino()));
    }
    if addr.is_none() {
        return match local {
            Ok(_) => bail!("{shown} is not on a mount of this filesystem; with --meta, a path inside it can be given"),
            Err(e) => Err(e).with_context(|| format!("cannot use {shown}")),
        };
    }
    let mut meta = Meta::new(meta_address(addr)?)?;
    let mut ino = 1;
    for name in inner_names(path)? {
        let at = Dentry { parent: ino, name: name.to_vec() };
        let answer = meta.ask(query::Query::Lookup(at)).await?;
        let answer = answer.map_err(|why| anyhow::anyhow!("{shown} inside the filesystem: {why}"))?;
        let Some(answer::Answer::Node(node)) = answer.answer else { bail!("metad answered something else") };
        ino = node.attr.context("metad sent no attributes")?.ino;
    }
    Ok((meta, ino))
}

/// The names along an absolute path; symlinks are not followed.
fn inner_names(path: &Path) -> anyhow::Result<Vec<&[u8]>> {
    if !path.is_absolute() {
        bail!("{} is not on a mount; a path inside the filesystem begins with /", path.display());
    }
    let names = path.components().filter_map(|c| match c {
        Component::RootDir | Component::CurDir => None,
        Component::Normal(name) => Some(Ok(name.as_bytes())),
        Component::ParentDir | Component::Prefix(_) => Some(Err(())),
    });
    names.collect::<Result<_, ()>>().map_err(|()| anyhow::anyhow!("a path inside the filesystem has no .. in it"))
}

async fn attr(meta: &mut Meta, ino: u64) -> anyhow::Result<Option<Attr>> {
    match meta.ask(query::Query::GetAttr(ino)).await? {
        Ok(answer) => match answer.answer {
            Some(answer::Answer::Node(node)) => Ok(node.attr),
            _ => bail!("metad answered something else"),
        },
        Err(_) => Ok(None),
    }
}

async fn extents(meta: &mut Meta, ino: u64) -> anyhow::Result<Vec<Extent>> {
    let mut all: Vec<Extent> = Vec::new();
    loop {
        let from = all.last().map_or(0, |e| e.end);
        let ask = query::Query::Extents(GetExtents { ino, from, limit: EXTENTS });
        // Not a file: nothing to list.
        let Ok(answer) = meta.ask(ask).await? else { return Ok(all) };
        let Some(answer::Answer::Extents(page)) = answer.answer else { bail!("metad answered something else") };
        let goes_on = page.extents.last().is_some_and(|e| e.end > from);
        all.extend(page.extents);
        if page.end || !goes_on {
            return Ok(all);
        }
    }
}

/// Asks every member for the chunks that it should have.
async fn holdings(map: &ClusterMap, extents: &[Extent]) -> anyhow::Result<Holdings> {
    let members: HashMap<u32, &[dfs_proto::v1::MapMember]> = map.slots.iter().map(|s| (s.id, &s.members[..])).collect();
    let mut asked: HashMap<&[u8], Vec<&ChunkRef>> = HashMap::new();
    let mut seen = HashSet::new();
    for chunk in extents.iter().filter_map(|e| e.chunk.as_ref()) {
        if seen.insert((&chunk.id, chunk.slot)) {
            for member in members.get(&chunk.slot).copied().unwrap_or_default() {
                asked.entry(&member.store[..]).or_default().push(chunk);
            }
        }
    }
    let addrs = store_nodes(map);
    let mut nodes = Nodes::default();
    let mut out = Holdings::new();
    for (store, chunks) in asked {
        let Some((addr, _)) = addrs.get(store) else { continue };
        for some in chunks.chunks(LIST_CHUNKS as usize) {
            let ask = FindRequest { store: store.to_vec(), chunks: some.iter().map(|c| (*c).clone()).collect() };
            // Who does not answer is shown as not having said.
            let Ok(found) = nodes.at(addr)?.find(request(ask)).await else { break };
            let answers = found.into_inner().found;
            out.extend(some.iter().zip(answers).map(|(c, f)| ((store.to_vec(), c.id.clone()), f.ack.is_some())));
        }
    }
    Ok(out)
}

fn report(path: &Path, attr: &Attr, extents: &[Extent], map: &ClusterMap, holdings: &Holdings) -> Report {
    let addrs = store_nodes(map);
    let members: HashMap<u32, &[dfs_proto::v1::MapMember]> = map.slots.iter().map(|s| (s.id, &s.members[..])).collect();
    let copy = |store: &Vec<u8>, id: &Vec<u8>| {
        let (addr, state) = addrs.get(store).cloned().unwrap_or_default();
        let holds = holdings.get(&(store.clone(), id.clone())).copied();
        Copy { store: hex(store), addr, node_state: node_state(state), holds }
    };
    let extent = |e: &Extent| {
        let chunk = e.chunk.clone().unwrap_or_default();
        let stores = members.get(&chunk.slot).copied().unwrap_or_default();
        ExtentReport {
            start: e.start,
            end: e.end,
            offset: e.offset,
            chunk: hex(&chunk.id),
            chunk_len: chunk.len,
            slot: chunk.slot,
            stores: stores.iter().map(|m| copy(&m.store, &chunk.id)).collect(),
        }
    };
    let when = |t: &Option<Time>| t.as_ref().map(time).unwrap_or_default();
    Report {
        path: path.to_string_lossy().into_owned(),
        ino: attr.ino,
        kind: kind(attr.kind),
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        size: attr.size,
        stored: attr.stored,
        atime: when(&attr.atime),
        mtime: when(&attr.mtime),
        ctime: when(&attr.ctime),
        btime: when(&attr.btime),
        change: attr.change,
        data: attr.data,
        extents: extents.iter().map(extent).collect(),
    }
}

fn text(r: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", r.path);
    let _ = writeln!(
        out,
        "  inode {}, {}, mode {:04o}, owner {}:{}, {}",
        r.ino,
        r.kind,
        r.mode,
        r.uid,
        r.gid,
        count(u64::from(r.nlink), "link", "links")
    );
    let _ = writeln!(out, "  size {} ({}), stored {}", r.size, size(r.size), size(r.stored));
    for (name, when) in [("modified", &r.mtime), ("changed", &r.ctime), ("read", &r.atime), ("born", &r.btime)] {
        let _ = writeln!(out, "  {name:<9}{when}");
    }
    let _ = writeln!(out, "  {}", count(r.extents.len() as u64, "extent", "extents"));
    for e in &r.extents {
        let _ = writeln!(
            out,
            "\n  bytes {}..{} are {} on of chunk {} ({}), slot {}",
            e.start,
            e.end,
            e.offset,
            e.chunk,
            size(u64::from(e.chunk_len)),
            e.slot
        );
        for c in &e.stores {
            let word = match c.holds {
                Some(true) => "has it",
                Some(false) => "LACKS IT",
                None => "does not say",
            };
            let _ = writeln!(out, "    store {}  node {} ({})  {word}", c.store, c.addr, c.node_state);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::v1::{MapMember, MapNode, MapSlot, MapStore};

    #[test]
    fn inner_paths_are_absolute_and_plain() {
        assert_eq!(inner_names(Path::new("/a/./b c/")).unwrap(), [&b"a"[..], b"b c"]);
        assert!(inner_names(Path::new("/")).unwrap().is_empty());
        assert!(inner_names(Path::new("a/b")).is_err());
        assert!(inner_names(Path::new("/a/../b")).is_err());
    }

    #[tokio::test]
    async fn what_is_on_no_mount_needs_an_address() {
        let dir = tempfile::tempdir().unwrap();
        assert!(run(None, dir.path(), false).await.unwrap_err().to_string().contains("--meta"));
        assert!(run(None, &dir.path().join("missing"), false).await.is_err());
    }

    #[test]
    fn each_copy_is_shown_with_what_its_store_says() {
        let (store, node, id) = (vec![1; 16], vec![2; 16], vec![3; 32]);
        let map = ClusterMap {
            nodes: vec![MapNode {
                id: node.clone(),
                addr: "127.0.0.1:5".into(),
                zone: String::new(),
                state: 2,
                draining: false,
            }],
            stores: vec![MapStore { id: store.clone(), node, capacity: 1, start: 1 }],
            slots: vec![MapSlot {
                id: 8,
                members: vec![
                    MapMember { store: store.clone(), full: true },
                    MapMember { store: vec![9; 16], full: true },
                ],
            }],
            ..ClusterMap::default()
        };
        let chunk = ChunkRef { id: id.clone(), len: 10, slot: 8 };
        let extents = [Extent { start: 0, end: 10, chunk: Some(chunk), offset: 0 }];
        let holdings = Holdings::from([((store, id), false)]);
        let r = report(Path::new("/x"), &Attr { ino: 5, size: 10, ..Attr::default() }, &extents, &map, &holdings);
        let copies = &r.extents[0].stores;
        assert_eq!(
            (copies[0].holds, copies[0].node_state, copies[0].addr.as_str()),
            (Some(false), "up", "127.0.0.1:5")
        );
        assert_eq!((copies[1].holds, copies[1].node_state), (None, "unknown"));
        let text = text(&r);
        assert!(
            text.contains("LACKS IT") && text.contains("does not say") && text.contains(&"03".repeat(32)),
            "{text}"
        );
    }
}
