//! One mount from its start to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use dfs_client::config::ClientConfig;
use dfs_client::error::{FsError, FsResult};
use dfs_client::vfs::Vfs;
use dfs_core::id::Ino;
use dfs_core::limits::LABEL_BYTES;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::args::Config;
use crate::background::Ready;
use crate::fs::Dfs;
use crate::invalidate::Invalidations;
use crate::mount::{self, Mounted, Unmounted};
use crate::process::{self, EndSignals};
use crate::task::{Limits, Tasks};

/// How long the kernel may take to let go after an unmount.
const LET_GO: Duration = Duration::from_secs(5);

/// Why a mount ends.
enum End {
    /// Somebody unmounted it.
    Unmounted,
    /// This process was told to end.
    Signal(&'static str),
}

/// Like [`serve`], in the background: the log and `ready` hear of errors.
///
/// # Errors
/// As [`serve`].
pub fn serve_reporting(config: &Config, mut ready: Ready) -> anyhow::Result<()> {
    let result = process::start_log(config).and_then(|()| serve(config, &mut ready));
    if let Err(e) = &result {
        tracing::error!("{e:#}");
        ready.failed(e);
    }
    result
}

/// Mounts, says so, and returns when the mount has ended and everything is saved.
///
/// # Errors
/// Why it could not mount, or could not save everything.
pub fn serve(config: &Config, ready: &mut Ready) -> anyhow::Result<()> {
    process::prepare();
    let point = mount::check_mountpoint(&config.mountpoint)?;
    check_own_files(config, &point)?;
    let runtime = process::runtime()?;
    if let Some(address) = config.metrics {
        crate::metrics::serve(address, runtime.handle())?;
    }
    let mut signals = {
        let _context = runtime.enter();
        EndSignals::listen().context("cannot listen for signals")?
    };
    let client = client_config(config, &point);
    let limits = Limits::from_deadline(client.deadline);
    let vfs = connect(&runtime, client, &mut signals)?;
    let outcome = serve_mount(config, &point, &runtime, &vfs, limits, &mut signals, ready);
    // Whatever happened, nothing that was written is thrown away without a try.
    let saved = runtime.block_on(within(limits.sync, vfs.shutdown()));
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Some(file) = &config.pid_file
        && outcome.is_ok()
    {
        remove_pid_file(file);
    }
    outcome?;
    saved.with_context(|| format!("not everything written to {} could be saved", point.display()))?;
    tracing::info!("unmounted {}, everything is saved", point.display());
    Ok(())
}

/// A log that lies in the mount would wait for itself.
fn check_own_files(config: &Config, point: &Path) -> anyhow::Result<()> {
    for file in config.log_file.iter().chain(&config.pid_file) {
        // The file need not exist yet; its directory must.
        let directory = file.parent().and_then(|d| d.canonicalize().ok()).unwrap_or_else(|| file.clone());
        if directory.starts_with(point) {
            bail!("{} lies under the mountpoint; put it elsewhere", file.display());
        }
    }
    if let Some(cache) = &config.disk_cache {
        let dir = resolved(&cache.dir);
        if dir.starts_with(point) {
            bail!("the cache {} lies under the mountpoint; put it elsewhere", cache.dir.display());
        }
        if point.starts_with(&dir) {
            bail!("the mountpoint {} lies in the cache {}; put one elsewhere", point.display(), cache.dir.display());
        }
    }
    Ok(())
}

/// The path without symlinks, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    for known in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (known.canonicalize(), path.strip_prefix(known)) {
            // Joining an empty rest would leave a slash at the end.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_path_buf()
}

fn client_config(config: &Config, point: &Path) -> ClientConfig {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut name = format!("{} pid {} at {}", host.trim(), std::process::id(), point.display());
    while name.len() > LABEL_BYTES {
        name.pop();
    }
    ClientConfig {
        meta: config.meta.clone(),
        client_name: name,
        dirty_bytes: config.dirty_bytes,
        cache_bytes: config.cache_bytes,
        disk_cache: config.disk_cache.clone(),
        atime: !config.flags.noatime,
        ..ClientConfig::default()
    }
}

/// Connects and looks at the root, so that what is mounted works.
fn connect(runtime: &Runtime, client: ClientConfig, signals: &mut EndSignals) -> anyhow::Result<Arc<Vfs>> {
    let meta = client.meta.clone();
    runtime.block_on(async {
        let connecting = async {
            let vfs = match Vfs::connect(client).await {
                Err(FsError::Unusable(why)) => bail!(why),
                vfs => vfs.with_context(|| format!("cannot use the metad at {meta}"))?,
            };
            vfs.getattr(Ino::ROOT)
                .await
                .with_context(|| format!("the metad at {meta} has no root directory to show"))?;
            Ok(vfs)
        };
        tokio::select! {
            vfs = connecting => vfs,
            signal = signals.next() => bail!("ended by {signal} before it had mounted"),
        }
    })
}

fn serve_mount(
    config: &Config,
    point: &Path,
    runtime: &Runtime,
    vfs: &Arc<Vfs>,
    limits: Limits,
    signals: &mut EndSignals,
    ready: &mut Ready,
) -> anyhow::Result<()> {
    let (ended, mut has_ended) = oneshot::channel();
    let tasks = Tasks::new(runtime.handle().clone());
    let mounted = mount::mount(Dfs::new(Arc::clone(vfs), tasks, limits, config.flags.sync, ended), config, point)?;
    vfs.set_invalidator(Box::new(Invalidations::new(mounted.notifier())));
    let announced = config.pid_file.as_ref().map_or(Ok(()), |file| write_pid_file(file)).and_then(|()| ready.mounted());
    let end = match &announced {
        Ok(()) => {
            tracing::info!("{} is mounted at {} by process {}", config.meta, point.display(), std::process::id());
            runtime.block_on(async {
                tokio::select! {
                    _ = &mut has_ended => End::Unmounted,
                    signal = signals.next() => End::Signal(signal),
                }
            })
        }
        // Nobody was told that it is mounted, so it must not stay.
        Err(_) => End::Signal("a failed start"),
    };
    match end {
        End::Unmounted => tracing::info!("{} was unmounted; saving what is left", point.display()),
        End::Signal(signal) => {
            tracing::info!("ending because of {signal}: saving, then unmounting {}", point.display());
            leave(runtime, vfs, &mounted, limits, point)?;
            if runtime.block_on(async { tokio::time::timeout(LET_GO, has_ended).await }).is_err() {
                tracing::warn!("files under {} are still open; they fail from now on", point.display());
            }
        }
    }
    announced
}

/// Saves and unmounts; files that are in use are taken away from their users.
fn leave(runtime: &Runtime, vfs: &Arc<Vfs>, mounted: &Mounted, limits: Limits, point: &Path) -> anyhow::Result<()> {
    if let Err(e) = runtime.block_on(within(limits.sync, vfs.sync_all())) {
        tracing::error!("cannot save everything before unmounting: {e:#}");
    }
    if mounted.unmount(false)? == Unmounted::Busy {
        tracing::warn!("{} is in use; unmounting it from under its users", point.display());
        mounted.unmount(true)?;
    }
    Ok(())
}

async fn within(limit: Duration, op: impl Future<Output = FsResult<()>>) -> anyhow::Result<()> {
    match tokio::time::timeout(limit, op).await {
        Ok(result) => Ok(result?),
        Err(_) => bail!("no answer within {} s", limit.as_secs()),
    }
}

fn write_pid_file(file: &Path) -> anyhow::Result<()> {
    // A new file renamed over the old: a reader never sees half a number.
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    std::fs::write(&new, format!("{}\n", std::process::id()))
        .and_then(|()| std::fs::rename(&new, file))
        .with_context(|| format!("cannot write the pid file {}", file.display()))
}

/// Removes it unless a later mount has written its own.
fn remove_pid_file(file: &Path) {
    let is_ours = std::fs::read_to_string(file).is_ok_and(|t| t.trim() == std::process::id().to_string());
    if is_ours && let Err(e) = std::fs::remove_file(file) {
        tracing::warn!("cannot remove the pid file {}: {e}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{self, Request};

    #[test]
    fn the_cache_and_the_mount_do_not_lie_in_each_other() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        let (point, cache) = (base.join("mnt"), base.join("cache"));
        std::fs::create_dir_all(point.join("sub")).unwrap();
        std::os::unix::fs::symlink(&point, base.join("link")).unwrap();
        let check = |cache: &Path, point: &Path| {
            let args = ["x", "h:1", point.to_str().unwrap(), "--cache", cache.to_str().unwrap()];
            let Ok(Request::Run { config, .. }) = args::load(args.map(Into::into)) else { panic!() };
            check_own_files(&config, point).map_err(|e| e.to_string())
        };
        assert_eq!(check(&cache, &point), Ok(()));
        for bad in [point.clone(), point.join("sub"), point.join("not/yet"), base.join("link"), base.join("link/new")] {
            assert!(check(&bad, &point).unwrap_err().contains("lies under the mountpoint"), "{}", bad.display());
        }
        assert!(check(&base, &point).unwrap_err().contains("lies in the cache"));
        assert_eq!(check(&base.join("mnt2"), &point), Ok(()), "a longer name is no directory below");
    }

    #[test]
    fn only_the_own_pid_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.pid");
        write_pid_file(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{}\n", std::process::id()));
        remove_pid_file(&file);
        assert!(!file.exists());
        std::fs::write(&file, "1\n").unwrap();
        remove_pid_file(&file);
        assert!(file.exists());
        assert!(write_pid_file(&dir.path().join("no/x.pid")).is_err());
    }
}
