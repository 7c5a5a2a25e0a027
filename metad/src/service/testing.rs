//! What tests of services and background tasks need.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Shared, now};
use crate::engine::{self, EngineOptions};
use crate::live::healing::Healing;
use crate::live::leases::Leases;
use crate::live::nodes::Nodes;
use crate::live::sessions::Sessions;
use crate::live::waits::Waits;

/// A metad of one replica in `dir`, without a server.
pub(crate) fn shared(dir: &Path) -> Arc<Shared> {
    let dir = dir.join("m");
    let options = EngineOptions { dir, replicas: 1, min_replicas: 1, cache_bytes: 8 << 20 };
    let (engine, _thread) = engine::open(&options).expect("an empty directory can be opened");
    let (never, shutdown) = watch::channel(false);
    // Its end would be a shutdown, too.
    std::mem::forget(never);
    Arc::new(Shared {
        engine,
        sessions: Sessions::default(),
        nodes: Nodes::new(now(), Duration::from_secs(10), Duration::from_secs(60)),
        healing: Healing::default(),
        waits: Waits::default(),
        leases: Arc::new(Leases::new([])),
        shutdown,
    })
}
