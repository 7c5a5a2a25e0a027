//! `dfs node`: chunk daemons one by one, and what they are for.

mod drain;
mod show;

use std::io::Write as _;

use anyhow::{Context as _, bail};
use dfs_proto::v1::{ChangeNodeRequest, ClusterMap, MapNode, NodeChange, TrustRequest};

use super::status;
use crate::args::Node;
use crate::connect::{Meta, reason, request};
use crate::show::hex;

/// Runs one of its commands.
///
/// # Errors
/// Why it failed.
pub async fn run(addr: &str, command: Node, json: bool) -> anyhow::Result<u8> {
    let mut meta = Meta::new(addr)?;
    match command {
        Node::Ls => show::list(&mut meta, json).await,
        Node::Show { node } => show::one(&mut meta, &node, json).await,
        Node::Drain { node, no_wait } => drain::run(&mut meta, &node, no_wait, json).await,
        Node::Resume { node } => {
            change(&mut meta, &node, NodeChange::Resume, "takes its share of the slots again", json).await
        }
        Node::Retire { node } => change(&mut meta, &node, NodeChange::Retire, "is retired", json).await,
        Node::Trust => trust(&mut meta, json).await,
    }
}

/// A node of the map by the beginning of its id, or by its address.
pub(super) fn find<'a>(map: &'a ClusterMap, given: &str) -> anyhow::Result<&'a MapNode> {
    let is_it = |n: &&MapNode| n.addr == given || (!given.is_empty() && hex(&n.id).starts_with(given));
    let found: Vec<&MapNode> = map.nodes.iter().filter(is_it).collect();
    match found[..] {
        [one] => Ok(one),
        [] => bail!("there is no node {given}; `dfs node ls` lists them"),
        _ => bail!("{given} is the beginning of {} ids; give more digits", found.len()),
    }
}

async fn find_id(meta: &mut Meta, given: &str) -> anyhow::Result<Vec<u8>> {
    let status = status::fetch(meta).await?;
    let map = status.map.context("metad sent no map")?;
    Ok(find(&map, given)?.id.clone())
}

async fn ask(meta: &mut Meta, node: Vec<u8>, change: NodeChange) -> anyhow::Result<()> {
    let message = ChangeNodeRequest { node, change: change.into() };
    match meta.client().change_node(request(message)).await {
        Ok(_) => Ok(()),
        Err(s) if matches!(s.code(), tonic::Code::FailedPrecondition | tonic::Code::NotFound) => {
            bail!("{}", reason(&s))
        }
        Err(s) => Err(meta.explain(&s)),
    }
}

async fn change(meta: &mut Meta, given: &str, change: NodeChange, what: &str, json: bool) -> anyhow::Result<u8> {
    let id = find_id(meta, given).await?;
    let name = hex(&id);
    ask(meta, id, change).await?;
    super::print(json, &serde_json::json!({ "node": name }), || format!("node {name} {what}\n"))?;
    Ok(0)
}

async fn trust(meta: &mut Meta, json: bool) -> anyhow::Result<u8> {
    let answer = meta.client().trust(request(TrustRequest {})).await;
    let incarnation = answer.map_err(|s| meta.explain(&s))?.into_inner().incarnation;
    super::print(json, &serde_json::json!({ "incarnation": incarnation }), || {
        format!("nodes delete for this metad again (incarnation {incarnation})\n")
    })?;
    Ok(0)
}

/// Tells a person how far it is; standard output is for the result.
fn say(line: &str) {
    // Who does not read it does not want it.
    let _ = writeln!(std::io::stderr(), "{line}");
}
