//! The daemon from its start to its end.
//!
//! Start: bind the port, open the stores, serve, register. Bound first, so that a taken port is
//! an error before anything on disk changes; registered last, so that whoever hears of this
//! node is answered. End: stop accepting, let uploads finish for a while, close the stores.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dfs_core::limits::DEADLINE;
use dfs_daemon::{inbox, listener};
use dfs_proto::client::InvalidAddress;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tonic_health::server::HealthReporter;

use crate::config::Config;
use crate::disks::keeper::Keeper;
use crate::disks::{self, DisksError};
use crate::node::{Node, UPLOADS};
use crate::register::{Meta, Outcast};
use crate::service::HeldReads;
use crate::store::StoreError;
use crate::{metrics, process, register, report};

/// How long running uploads may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(5);
/// Connections at once.
const CONNECTIONS: usize = 2048;
/// How long uploads that are cut off may take to clean up; the next start does it otherwise.
const CUT_OFF: Duration = Duration::from_secs(2);
/// How long the keeper of the disks may take to end what it does.
const END_KEEPER: Duration = Duration::from_secs(12);
/// How long closing the stores may take.
const CLOSE: Duration = Duration::from_secs(20);
/// Unread bytes of one stream and of one connection that this daemon holds: smaller than the
/// contract's presets, because they are held for every connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A frame is held whole before it is handed on.
const FRAME: u32 = 256 << 10;

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The port.
    #[error("cannot listen on {address}: {source}; is another daemon running there? Choose another --listen")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The stores.
    #[error(transparent)]
    Disks(#[from] DisksError),
    /// metad's address.
    #[error("--meta: {0}")]
    Meta(#[from] InvalidAddress),
    /// The metrics.
    #[error("cannot serve metrics on {address}: {reason}; choose another --metrics")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The cluster.
    #[error(transparent)]
    Outcast(#[from] Outcast),
    /// A store could not be closed; what was acknowledged is safe.
    #[error("a store was not closed cleanly: {0}; the next start will read its logs")]
    Close(StoreError),
    /// The process.
    #[error("{what}: {source}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn process_error(what: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::Process { what, source }
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// Why it could not start or had to stop.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let signal = process::ended_by_signal().map_err(process_error("cannot listen to signals"))?;
    let mut hangup = process::hangups().map_err(process_error("cannot listen to signals"))?;
    if let Some(address) = config.metrics {
        metrics::serve(address).map_err(|e| DaemonError::Metrics { address, reason: e.to_string() })?;
    }
    let mut daemon = Daemon::start(config).await?;
    tokio::pin!(signal);
    let outcast = loop {
        tokio::select! {
            signal = &mut signal => {
                tracing::info!(signal, "ending");
                break None;
            }
            outcast = daemon.ended() => break Some(outcast),
            _ = hangup.recv() => daemon.look_again(),
        }
    };
    let stopped = daemon.stop().await;
    match outcast {
        Some(e) => Err(e),
        None => stopped,
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    node: Arc<Node>,
    health: HealthReporter,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    stop: oneshot::Sender<()>,
    membership: JoinHandle<Outcast>,
    reports: JoinHandle<()>,
    keeper: JoinHandle<Keeper>,
    stop_keeper: watch::Sender<bool>,
    again: Arc<Notify>,
}

impl Daemon {
    /// Starts it. Within the runtime. Returns when it serves, not when it has registered.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn start(config: Config) -> Result<Self, DaemonError> {
        let meta = Meta::new(&config.meta)?;
        let (listener, local) = listener::bind(&config.listen)
            .await
            .map_err(|source| DaemonError::Listen { address: config.listen.clone(), source })?;
        let address = config.advertise.clone().unwrap_or_else(|| local.to_string());
        let zone = config.zone.clone();
        let (upkeep, reserve) = (config.upkeep(), config.reserve);
        let disks = tokio::task::spawn_blocking(move || disks::open(&config))
            .await
            .map_err(|e| process_error("opening the stores was cut off")(io::Error::other(e)))??;
        let (node, lost) = Node::new(disks.node, address, zone, disks.cluster, upkeep);
        let (stop_keeper, keeper_stopped) = watch::channel(false);
        let keeper = Keeper::new(&node, &meta, reserve, disks, keeper_stopped);
        let (stop, stopped) = oneshot::channel();
        let (health, serving) = serve(&node, &meta, listener, stopped).await?;
        let reports = tokio::spawn(report::run(Arc::clone(&node), meta.clone(), lost));
        let again = Arc::new(Notify::new());
        let keeper = tokio::spawn(keeper.run(Arc::clone(&again)));
        tracing::info!(
            listen = %local, advertise = %node.address, node = %node.id, stores = node.stores().count(),
            meta = %meta.address, version = env!("CARGO_PKG_VERSION"), "ready"
        );
        let membership = tokio::spawn(register::keep(Arc::clone(&node), meta));
        Ok(Self { node, health, serving, stop, membership, reports, keeper, stop_keeper, again })
    }

    /// What its parts share.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// `host:port` that others reach.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.node.address
    }

    /// Has failed stores closed, and every directory opened that is not open: disks may have been replaced.
    pub fn look_again(&self) {
        self.again.notify_one();
    }

    /// Waits until the daemon cannot go on, and says why.
    pub async fn ended(&mut self) -> DaemonError {
        tokio::select! {
            outcast = &mut self.membership => match outcast {
                Ok(outcast) => outcast.into(),
                Err(e) => process_error("membership was cut off")(io::Error::other(e)),
            },
            served = &mut self.serving => {
                let why = match served {
                    Ok(Ok(())) => io::Error::other("it ended by itself"),
                    Ok(Err(e)) => io::Error::other(e),
                    Err(e) => io::Error::other(e),
                };
                process_error("the gRPC server failed")(why)
            }
        }
    }

    /// Ends it: running uploads get some seconds, then the stores are closed.
    ///
    /// # Errors
    /// When a store cannot be closed cleanly.
    pub async fn stop(mut self) -> Result<(), DaemonError> {
        self.health.set_not_serving::<HeldReads>().await;
        self.membership.abort();
        // Whoever waits for the signal is there unless the server has failed already.
        let _failed = self.stop.send(());
        let served = self.serving.is_finished() || tokio::time::timeout(DRAIN, &mut self.serving).await.is_ok();
        self.node.cut_off_uploads();
        self.reports.abort();
        self.stop_keeper.send_replace(true);
        // A disk that hangs while it is being closed or opened is left behind.
        let mut keeper = match tokio::time::timeout(END_KEEPER, &mut self.keeper).await {
            Ok(Ok(keeper)) => Some(keeper),
            Ok(Err(e)) => return Err(process_error("the disks' keeper was cut off")(e.into())),
            Err(_) => None,
        };
        if let Some(keeper) = &mut keeper {
            keeper.end_workers().await;
        } else {
            tracing::warn!("a disk does not answer; it is left as it is");
            self.keeper.abort();
        }
        // Uploads that are cut off remove their files.
        let all = u32::try_from(UPLOADS).unwrap_or(u32::MAX);
        let uploads = self.node.stores().map(|s| async move { s.uploads.acquire_many(all).await.is_ok() });
        let ended = tokio::time::timeout(CUT_OFF, futures::future::join_all(uploads)).await.is_ok();
        if !served || !ended {
            tracing::warn!(uploads_ended = ended, "some requests were still running after {} s", DRAIN.as_secs());
        }
        let node = Arc::clone(&self.node);
        let close = tokio::task::spawn_blocking(move || node.stores().map(|s| s.store.close()).collect::<Vec<_>>());
        // Closing only makes the next start quicker: a disk that hangs is left behind.
        let closed = tokio::time::timeout(CLOSE, close)
            .await
            .map_err(|e| process_error("a disk does not answer; its store was not closed")(e.into()))?
            .map_err(|e| process_error("closing the stores was cut off")(io::Error::other(e)))?;
        // Unlocks the directories.
        drop(keeper);
        let mut result = Ok(());
        for error in closed.into_iter().filter_map(Result::err) {
            tracing::error!(error = %error, "a store was not closed cleanly");
            result = Err(DaemonError::Close(error));
        }
        tracing::info!("ended");
        result
    }
}

/// Begins to answer requests.
async fn serve(
    node: &Arc<Node>,
    meta: &Meta,
    listener: tokio::net::TcpListener,
    stopped: oneshot::Receiver<()>,
) -> Result<(HealthReporter, JoinHandle<Result<(), tonic::transport::Error>>), DaemonError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<HeldReads>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(dfs_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|e| process_error("the descriptors are wrong")(io::Error::other(e)))?;
    let server = dfs_proto::server::chunkd_server()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .layer(inbox::layer(DEADLINE))
        .add_service(HeldReads::new(node, meta))
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(listener::accept(listener, CONNECTIONS), async {
            // A dropped sender is an end as well.
            let _asked = stopped.await;
        });
    Ok((health, tokio::spawn(server)))
}
