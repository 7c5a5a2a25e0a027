//! Talking to the daemons, and what to say when they do not answer.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, bail};
use dfs_core::error::Refusal;
use dfs_proto::client::{chunk_channel, chunks_client, meta_channel, meta_client};
use dfs_proto::v1::chunks_client::ChunksClient;
use dfs_proto::v1::meta_client::MetaClient;
use dfs_proto::v1::{Answer, ClusterMap, Query, ask_response, query};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// No single answer takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// The connection to metad.
#[derive(Clone, Debug)]
pub struct Meta {
    addr: String,
    client: MetaClient<Channel>,
}

/// The address of metad that the user named.
///
/// # Errors
/// When there is none.
pub fn meta_address(given: Option<&str>) -> anyhow::Result<&str> {
    given.context("say where metad answers: --meta HOST:PORT, or the environment variable DFS_META")
}

/// A request with this tool's deadline.
pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

impl Meta {
    /// To the metad at `addr`; connects when used.
    ///
    /// # Errors
    /// When it is no address.
    pub fn new(addr: &str) -> anyhow::Result<Self> {
        let channel = meta_channel(addr)?;
        Ok(Self { addr: addr.to_owned(), client: meta_client(channel) })
    }

    /// The client for calls.
    pub fn client(&mut self) -> &mut MetaClient<Channel> {
        &mut self.client
    }

    /// What a failed call means to a person.
    #[must_use]
    pub fn explain(&self, status: &Status) -> anyhow::Error {
        let addr = &self.addr;
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => anyhow::anyhow!(
                "metad does not answer at {addr} ({}); is it running, and is that its address?",
                reason(status)
            ),
            Code::Unimplemented => anyhow::anyhow!("what answers at {addr} is no metad, or one of another version"),
            _ => anyhow::anyhow!("metad at {addr} refuses: {}", reason(status)),
        }
    }

    /// Asks one question.
    ///
    /// # Errors
    /// What metad says against it.
    pub async fn ask(&mut self, query: query::Query) -> anyhow::Result<Result<Answer, Refused>> {
        let answer = self.client.ask(request(Query { query: Some(query) })).await;
        let answer = answer.map_err(|s| self.explain(&s))?.into_inner();
        match answer.result {
            Some(ask_response::Result::Answer(answer)) => Ok(Ok(answer)),
            Some(ask_response::Result::Refusal(refusal)) => Ok(Err(Refused(refusal.code))),
            None => bail!("metad at {} sent an empty answer", self.addr),
        }
    }
}

/// A refusal as the wire has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub i32);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use dfs_proto::v1::RefusalCode as Code;
        match Code::try_from(self.0) {
            Ok(Code::RefusalNotFound) => Refusal::NotFound.fmt(f),
            Ok(Code::RefusalNotDirectory) => Refusal::NotDirectory.fmt(f),
            Ok(Code::RefusalNameTooLong) => Refusal::NameTooLong.fmt(f),
            Ok(code) => f.write_str(code.as_str_name()),
            Err(_) => write!(f, "refusal {}", self.0),
        }
    }
}

/// The words of a status, with what lies below a transport error.
#[must_use]
pub fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = e.source();
    }
    if text.is_empty() { format!("{:?}", status.code()) } else { text }
}

/// Connections to chunk daemons, one for each address.
#[derive(Debug, Default)]
pub struct Nodes {
    by_addr: HashMap<String, ChunksClient<Channel>>,
}

impl Nodes {
    /// The client for the node at `addr`; connects when used.
    ///
    /// # Errors
    /// When it is no address.
    pub fn at(&mut self, addr: &str) -> anyhow::Result<ChunksClient<Channel>> {
        if let Some(client) = self.by_addr.get(addr) {
            return Ok(client.clone());
        }
        let client = chunks_client(chunk_channel(addr)?);
        self.by_addr.insert(addr.to_owned(), client.clone());
        Ok(client)
    }
}

/// Address and state of the node of each store.
#[must_use]
pub fn store_nodes(map: &ClusterMap) -> HashMap<Vec<u8>, (String, i32)> {
    let nodes: HashMap<_, _> = map.nodes.iter().map(|n| (&n.id, n)).collect();
    let of = |s: &dfs_proto::v1::MapStore| nodes.get(&s.node).map(|n| (s.id.clone(), (n.addr.clone(), n.state)));
    map.stores.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_needed_and_checked() {
        let why = meta_address(None).unwrap_err().to_string();
        assert!(why.contains("--meta") && why.contains("DFS_META"), "{why}");
        assert!(
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .block_on(async { Meta::new("nonsense").is_err() })
        );
    }

    #[tokio::test]
    async fn a_metad_that_is_away_is_named() {
        // Port 1 of the loopback: nobody listens there.
        let mut meta = Meta::new("127.0.0.1:1").unwrap();
        let why = meta.ask(query::Query::GetAttr(1)).await.unwrap_err().to_string();
        assert!(why.contains("127.0.0.1:1") && why.contains("running"), "{why}");
    }
}
