//! Configuration: flags over a TOML file over defaults, checked once, then plain values.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dfs_core::limits;
use dfs_daemon::config::{ConfigError, in_range, read_file, wrong};
use dfs_daemon::log::{self, LogFormat};
use serde::{Deserialize, Serialize};

/// The metadata daemon of a distributed filesystem.
///
/// Keeps names, attributes and the places of all chunks in DIR, and answers
/// mounts (dfs-fuse), chunk daemons (chunkd) and other programs over gRPC.
/// A DIR that is empty or missing becomes a new filesystem.
///
/// Exit codes: 0 after SIGTERM or SIGINT, 1 failure, 2 wrong usage.
#[derive(Clone, Debug, Parser)]
#[command(name = "metad", version, max_term_width = 100)]
pub struct Args {
    /// Directory for the metadata; made if it is missing.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address to listen on. Default 127.0.0.1:7400.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<SocketAddr>,
    /// Copies of each chunk, 1 to 16; only looked at when DIR is made new. Default 3.
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
    /// Copies that must be synced before a write counts; only for a new DIR. Default 2, or 1 with one replica.
    #[arg(long, value_name = "N")]
    pub min_replicas: Option<u8>,
    /// Serves Prometheus metrics over HTTP at this address. Default: not at all.
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<SocketAddr>,
    /// TOML file with the same settings (`data = "..."`, `session_end_s = 600`, ...); flags win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ends a client's session after it was silent this long. Default 600.
    #[arg(long, value_name = "SECONDS")]
    pub session_end_s: Option<u64>,
    /// Takes a node for down after it was silent this long. Default 10.
    #[arg(long, value_name = "SECONDS")]
    pub node_down_s: Option<u64>,
    /// Gives the places of a node's stores to others after it was down for this long, or of a single store after its
    /// disk failed so long ago. Default 60.
    #[arg(long, value_name = "SECONDS")]
    pub replace_after_s: Option<u64>,
    /// Refuses new data when the disk of DIR has less than this free. Default 256.
    #[arg(long, value_name = "MIB")]
    pub reserve_mib: Option<u64>,
    /// Memory for what is kept of the database's files. Default 64.
    #[arg(long, value_name = "MIB")]
    pub cache_mib: Option<u64>,
    /// What to log: error, warn, info, debug, trace, or a filter like `metad=debug`. Default info.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How to log.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Prints the settings in force as TOML and exits.
    #[arg(long)]
    pub print_config: bool,
}

/// The settings as a file may give them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    listen: Option<SocketAddr>,
    replicas: Option<u8>,
    min_replicas: Option<u8>,
    metrics: Option<SocketAddr>,
    session_end_s: Option<u64>,
    node_down_s: Option<u64>,
    replace_after_s: Option<u64>,
    reserve_mib: Option<u64>,
    cache_mib: Option<u64>,
    log_level: Option<String>,
    log_format: Option<LogFormat>,
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Data directory.
    pub data: PathBuf,
    /// Listening address.
    pub listen: SocketAddr,
    /// Copies of each chunk in a new filesystem.
    pub replicas: u8,
    /// Copies that a commit needs in a new filesystem.
    pub min_replicas: u8,
    /// Where metrics are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Seconds of silence that end a session.
    pub session_end_s: u64,
    /// Seconds of silence after which a node is down.
    pub node_down_s: u64,
    /// Seconds after that until its places go to others.
    pub replace_after_s: u64,
    /// MiB to be left free on the disk.
    pub reserve_mib: u64,
    /// MiB for what is kept of the database's files.
    pub cache_mib: u64,
    /// Log filter.
    pub log_level: String,
    /// Log form.
    pub log_format: LogFormat,
}

impl Config {
    /// Reads the file that `args` name, lets flags win, checks all.
    ///
    /// # Errors
    /// What is wrong, in words for the user.
    pub fn new(args: &Args) -> Result<Self, ConfigError> {
        let file: File = read_file(args.config.as_deref())?;
        let replicas = args.replicas.or(file.replicas).unwrap_or(3);
        let config = Self {
            data: args
                .data
                .clone()
                .or(file.data)
                .ok_or_else(|| wrong("--data", "say where the metadata is to be kept"))?,
            listen: args.listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7400))),
            replicas,
            min_replicas: args.min_replicas.or(file.min_replicas).unwrap_or(replicas.min(2)),
            metrics: args.metrics.or(file.metrics),
            session_end_s: args.session_end_s.or(file.session_end_s).unwrap_or(limits::SESSION_END.as_secs()),
            node_down_s: args.node_down_s.or(file.node_down_s).unwrap_or(limits::NODE_DOWN.as_secs()),
            replace_after_s: args.replace_after_s.or(file.replace_after_s).unwrap_or(limits::REPLACE_AFTER.as_secs()),
            reserve_mib: args.reserve_mib.or(file.reserve_mib).unwrap_or(256),
            cache_mib: args.cache_mib.or(file.cache_mib).unwrap_or(64),
            log_level: log::level(args.log_level.clone().or(file.log_level))?,
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        in_range("--replicas", self.replicas.into(), 1, 16)?;
        in_range("--min-replicas", self.min_replicas.into(), 1, self.replicas.into())?;
        in_range("--session-end-s", self.session_end_s, 5, 86_400)?;
        in_range("--node-down-s", self.node_down_s, 2, 3_600)?;
        in_range("--replace-after-s", self.replace_after_s, 0, 30 * 86_400)?;
        in_range("--reserve-mib", self.reserve_mib, 16, 1 << 20)?;
        in_range("--cache-mib", self.cache_mib, 8, 1 << 20)?;
        Ok(())
    }

    /// Silence that ends a session.
    #[must_use]
    pub fn session_end(&self) -> Duration {
        Duration::from_secs(self.session_end_s)
    }

    /// How long the places of what is down or failed are kept for it.
    #[must_use]
    pub fn replace_after(&self) -> Duration {
        Duration::from_secs(self.replace_after_s)
    }

    /// Silence after which a node is down.
    #[must_use]
    pub fn node_down(&self) -> Duration {
        Duration::from_secs(self.node_down_s)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::try_parse_from(std::iter::once("metad").chain(words.iter().copied())).unwrap()
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "data = '/a'\nreplicas = 2\nlog_format = 'json'\n").unwrap();
        let config = Config::new(&args(&["--config", path.to_str().unwrap(), "--replicas", "5"])).unwrap();
        assert_eq!((config.replicas, config.min_replicas, config.data.as_path()), (5, 2, Path::new("/a")));
        assert_eq!(config.log_format, LogFormat::Json);
    }

    #[test]
    fn wrong_values_are_refused() {
        assert!(Config::new(&args(&[])).is_err());
        assert!(Config::new(&args(&["--data", "/x", "--replicas", "17"])).is_err());
        assert!(Config::new(&args(&["--data", "/x", "--replicas", "2", "--min-replicas", "3"])).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "data = '/a'\nreplicaz = 2\n").unwrap();
        let error = Config::new(&args(&["--config", path.to_str().unwrap()])).unwrap_err().to_string();
        assert!(error.contains("replicaz"), "{error}");
    }
}
