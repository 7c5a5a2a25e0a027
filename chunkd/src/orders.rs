//! Carrying out deletion orders: for each store one list after the other, in the order they came.
//!
//! Before a store obeys, it remembers durably whose word it was: a metad that later does not
//! know that word has lost history, and is not obeyed (see the store's *untrusted*).

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_core::id::{OrderNo, SlotId};
use dfs_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use crate::node::Served;
use crate::store::{Carried, Order, Remembered, Store, StoreError};
use crate::{metrics, wire};

/// How old what is remembered of metad's history may get.
const REMEMBER: Duration = Duration::from_secs(10);

/// Deletions for one store, as one heartbeat's answer brought them.
#[derive(Debug)]
pub(crate) struct OrderList {
    orders: Vec<Order>,
    complete_up_to: OrderNo,
    floor: OrderNo,
    seen: Remembered,
}

impl OrderList {
    pub(crate) fn decode(list: v1::StoreOrders, seen: Remembered) -> Result<Self, Status> {
        let order = |o: v1::Order| {
            let chunk = o.chunk.ok_or_else(|| Status::invalid_argument("an order names no chunk"))?;
            Ok(Order { number: wire::order_no(o.number), slot: SlotId(chunk.slot), id: wire::chunk_id(&chunk.id)? })
        };
        Ok(Self {
            orders: list.orders.into_iter().map(order).collect::<Result<_, Status>>()?,
            complete_up_to: wire::order_no(list.complete_up_to),
            floor: wire::order_no(list.floor),
            seen,
        })
    }
}

/// Carries out the lists of one store as they come.
pub(crate) async fn run(served: Arc<Served>, mut lists: mpsc::Receiver<OrderList>) {
    served.registered().await;
    let mut remembered_at: Option<Instant> = None;
    let mut said_untrusted = false;
    while let Some(list) = lists.recv().await {
        let remember = remembered_at.is_none_or(|at| at.elapsed() >= REMEMBER);
        let store = Arc::clone(&served.store);
        match served.background.run(move || obey(&store, &list, remember)).await {
            Ok(Ok(Obeyed::Yes { orders, remembered })) => {
                metrics::orders(orders);
                said_untrusted = false;
                if remembered {
                    remembered_at = Some(Instant::now());
                }
            }
            Ok(Ok(Obeyed::Untrusted)) => {
                if !std::mem::replace(&mut said_untrusted, true) {
                    tracing::error!(store = %served.id, "metad is not trusted: nothing is deleted until `dfs node trust`");
                }
            }
            // The number stays, so metad sends them again.
            Ok(Err(e)) => tracing::error!(store = %served.id, error = %e, "deletion orders were not carried out"),
            Err(e) => tracing::error!(store = %served.id, error = %e, "deletion orders were not carried out"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Obeyed {
    Yes { orders: usize, remembered: bool },
    Untrusted,
}

pub(crate) fn obey(store: &Store, list: &OrderList, remember: bool) -> Result<Obeyed, StoreError> {
    let before = store.orders();
    if store.untrusted() {
        // Only `dfs node trust` raises the incarnation above all that nodes remember.
        if list.complete_up_to.incarnation <= before.incarnation {
            return Ok(Obeyed::Untrusted);
        }
        store.trust(list.complete_up_to.incarnation, list.seen)?;
        tracing::info!(incarnation = list.complete_up_to.incarnation, "metad is trusted again");
    }
    let due = list.orders.iter().filter(|o| o.number > before).count();
    let new_start = store.remembered().is_none_or(|r| r.start != list.seen.start);
    let remember = remember || new_start || due > 0;
    if remember && store.remembered() != Some(list.seen) {
        store.remember(list.seen)?;
    }
    if before < list.floor && before != OrderNo::default() {
        tracing::warn!(before = ?before, floor = ?list.floor, "orders that this store missed are gone; metad compares it");
    }
    if due > 0 || list.complete_up_to > before {
        match store.carry_out(&list.orders, list.complete_up_to)? {
            Carried::UpTo(_) => {}
            Carried::Untrusted(_) => return Ok(Obeyed::Untrusted),
        }
    }
    Ok(Obeyed::Yes { orders: due, remembered: remember })
}
