//! The members of a slot, each a sorted stream of chunk ids fetched page by page.

use dfs_core::limits::LIST_CHUNKS;
use dfs_proto::v1::chunks_client::ChunksClient;
use dfs_proto::v1::{ClusterMap, ListRequest, MapSlot};
use tonic::transport::Channel;

use super::report::Unreachable;
use crate::connect::{Nodes, reason, request, store_nodes};

/// One member's list, read forward.
#[derive(Debug)]
pub(crate) struct Member {
    /// The store.
    pub(crate) store: Vec<u8>,
    /// `None`: its node is not in the map or did not answer; it counts as having nothing.
    client: Option<ChunksClient<Channel>>,
    slot: u32,
    page: std::vec::IntoIter<Vec<u8>>,
    /// The id that the stream stands at.
    head: Option<Vec<u8>>,
    /// Last id of the page.
    last: Vec<u8>,
    at_end: bool,
}

/// All members of one slot.
#[derive(Debug)]
pub(crate) struct Members(pub(crate) Vec<Member>);

impl Members {
    /// A store that did not answer once is not asked again: each try may take long.
    pub(crate) fn open(
        nodes: &mut Nodes,
        map: &ClusterMap,
        slot: &MapSlot,
        unreachable: &Unreachable,
    ) -> anyhow::Result<Self> {
        let addrs = store_nodes(map);
        let open = |store: &Vec<u8>| {
            let addr = addrs.get(store).filter(|_| !unreachable.has(store));
            let client = addr.map(|(addr, _)| nodes.at(addr)).transpose()?;
            Ok(Member::new(store.clone(), slot.id, client))
        };
        let members: anyhow::Result<Vec<Member>> = slot.members.iter().map(|m| &m.store).map(open).collect();
        members.map(Self)
    }
}

impl Member {
    fn new(store: Vec<u8>, slot: u32, client: Option<ChunksClient<Channel>>) -> Self {
        let at_end = client.is_none();
        Self { store, client, slot, page: Vec::new().into_iter(), head: None, last: Vec::new(), at_end }
    }

    /// For tests: a member with this list and no node behind it.
    #[cfg(test)]
    pub(crate) fn fixed(store: Vec<u8>, ids: Vec<Vec<u8>>) -> Self {
        Self { page: ids.into_iter(), ..Self::new(store, 0, None) }
    }

    /// Whether it has `id`. Ids must be asked in ascending order.
    pub(crate) async fn has(&mut self, id: &[u8], unreachable: &mut Unreachable) -> bool {
        loop {
            match &self.head {
                Some(head) if head.as_slice() == id => return true,
                Some(head) if head.as_slice() > id => return false,
                _ => {}
            }
            self.head = self.page.next();
            if self.head.is_some() {
                continue;
            }
            if self.at_end {
                return false;
            }
            self.fetch(unreachable).await;
        }
    }

    async fn fetch(&mut self, unreachable: &mut Unreachable) {
        let Some(client) = &mut self.client else {
            self.at_end = true;
            return;
        };
        let after = self.last.clone();
        let ask = ListRequest { store: self.store.clone(), slot: self.slot, after, limit: LIST_CHUNKS };
        match client.list(request(ask)).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                // A list that does not go forward would never end.
                self.at_end = answer.end || answer.chunks.last().is_none_or(|c| c.id <= self.last);
                let ids: Vec<Vec<u8>> = answer.chunks.into_iter().map(|c| c.id).collect();
                self.last = ids.last().cloned().unwrap_or_default();
                self.page = ids.into_iter();
            }
            Err(status) => {
                unreachable.add(&self.store, &reason(&status));
                self.client = None;
                self.at_end = true;
            }
        }
    }
}
