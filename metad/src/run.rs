//! The daemon's life: open, bind, serve, and end in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use dfs_core::limits::{DEADLINE, SESSIONS};
use dfs_daemon::{inbox, listener};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::background;
use crate::config::Config;
use crate::engine::{self, EngineOptions};
use crate::live::healing::Healing;
use crate::live::leases::Leases;
use crate::live::nodes::Nodes;
use crate::live::sessions::Sessions;
use crate::live::waits::Waits;
use crate::machine::read;
use crate::service::{Service, Shared};

/// Open connections may take this long to end after the streams were told to.
const DRAIN: Duration = Duration::from_secs(5);
/// Connections at once: of all sessions, of nodes, and of people with tools.
const CONNECTIONS: usize = SESSIONS + 2000;

/// Runs until a signal or a fault.
///
/// # Errors
/// Why it could not start, or the fault that ended it.
pub async fn run(config: Config) -> anyhow::Result<()> {
    if let Some(addr) = config.metrics {
        crate::metrics::serve(addr).with_context(|| format!("cannot serve metrics at {addr}"))?;
    }
    // The port first: a wrong start must not touch the data.
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}: is another metad running there? give another --listen", config.listen)
    })?;
    let addr = listener.local_addr()?;
    let options = EngineOptions {
        dir: config.data.clone(),
        replicas: config.replicas,
        min_replicas: config.min_replicas,
        cache_bytes: config.cache_mib << 20,
    };
    let began = Instant::now();
    let (engine, thread) = tokio::task::spawn_blocking(move || engine::open(&options)).await??;
    let (shutdown_tx, shutdown) = watch::channel(false);
    let sessions = Sessions::default();
    let found = read::sessions(&*engine.snapshot())?;
    let leases = Arc::new(Leases::new(found.iter().map(|(id, _)| *id)));
    for (id, row) in found {
        sessions.add(id, row.client, Instant::now());
    }
    let nodes = Nodes::new(Instant::now(), config.node_down(), config.replace_after());
    let shared = Arc::new(Shared {
        engine: engine.clone(),
        sessions,
        nodes,
        healing: Healing::default(),
        waits: Waits::default(),
        leases,
        shutdown: shutdown.clone(),
    });
    let mut background = background::spawn(shared.clone(), &config);
    tracing::info!(%addr, cluster = %engine.cluster(), data = %config.data.display(), took = ?began.elapsed(), "metad is ready");

    let service = Arc::new(Service(shared));
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<dfs_proto::v1::meta_server::MetaServer<Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(dfs_proto::DESCRIPTORS)
        .build_v1()?;
    let mut stop = shutdown.clone();
    let incoming = listener::accept(listener, CONNECTIONS);
    let server = dfs_proto::server::metad_server()
        .layer(inbox::layer(DEADLINE))
        .add_service(dfs_proto::server::meta_service(service.clone()))
        .add_service(dfs_proto::server::nodes_service(service))
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming, async move {
            // An error means that the sender is gone, which ends all as well.
            drop(stop.wait_for(|s| *s).await);
        });
    let mut server = tokio::spawn(server);

    let fault = tokio::select! {
        () = terminated() => None,
        fault = engine.stopped() => fault,
        _ = &mut background => Some(engine::Fault::new("the work in the background has ended")),
        ended = &mut server => {
            ended??;
            None
        }
    };
    match &fault {
        None => tracing::info!("shutting down"),
        Some(fault) => tracing::error!(%fault, "stopping: the next start recovers from the log"),
    }
    shutdown_tx.send_replace(true);
    background.abort();
    if !server.is_finished() && tokio::time::timeout(DRAIN, &mut server).await.is_err() {
        server.abort();
    }
    tokio::task::spawn_blocking(move || thread.stop()).await?;
    match fault {
        None => Ok(()),
        Some(fault) => Err(fault.into()),
    }
}

async fn terminated() {
    let on = |kind| signal(kind).map_err(|e| tracing::error!(%e, "signals cannot be received"));
    let (Ok(mut term), Ok(mut int)) = (on(SignalKind::terminate()), on(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
