//! Configuration: flags and a TOML file become one raw form, which is validated once.
//!
//! A flag wins over the file, the file over the default. What is refused here is a
//! mistake of whoever starts the daemon (exit code 2), never a state of the machine.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dfs_core::limits::{LABEL_BYTES, STORES_PER_NODE};
use dfs_daemon::config::{self, ConfigError, wrong};
use dfs_daemon::log::{self, LogFormat};
use dfs_daemon::size;
use dfs_proto::client::check_address;
use serde::{Deserialize, Serialize};

use crate::node::Upkeep;

/// Where the daemon listens unless told otherwise: a free port of the loopback.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:0";

/// MiB a second that the scrub reads of each store unless told otherwise, and at most.
pub const DEFAULT_SCRUB_MIB_S: u64 = 20;
const MAX_SCRUB_MIB_S: u64 = 1 << 20;
/// Seconds after which a chunk that nobody knows is removed unless told otherwise.
pub const DEFAULT_ABANDONED_AFTER_S: u64 = 3600;

/// The chunk daemon: keeps immutable chunks on local disks and serves them.
#[derive(Debug, Default, Parser)]
#[command(
    name = "chunkd",
    version,
    about = "The chunk daemon: keeps the bytes of files on local disks and serves them.",
    long_about = "The chunk daemon: keeps the bytes of files on local disks and serves them.\n\n\
        Each --data directory is one store; give one for each disk. An empty or missing directory is\n\
        formatted on the first start and from then on belongs to this node and to the cluster of the\n\
        metad at --meta. The daemon runs in the foreground, logs to stderr, and ends cleanly on SIGTERM\n\
        or SIGINT: running uploads get five seconds to finish.\n\n\
        A directory whose disk fails is taken out alone. SIGHUP closes directories that have failed and\n\
        opens those that are not open: replaced or repaired disks come back without a restart. An empty\n\
        directory that had a store counts as a disk that is not mounted until SIGHUP is sent.\n\n\
        While metad is away, chunks are still served; the daemon registers when metad is back.",
    after_help = "Examples:\n  \
        chunkd --data /srv/dfs --meta 10.0.0.1:7400 --listen 10.0.0.2:7401\n  \
        chunkd --data /disk1/dfs --data /disk2/dfs --meta meta:7400 --listen 0.0.0.0:7401 \\\n         \
        --advertise node2:7401 --zone rack-2\n  \
        chunkd --config /etc/dfs/chunkd.toml --print-config\n\n\
        Exit codes: 0 ended on a signal; 1 it could not start or had to stop; 2 wrong flags or configuration."
)]
struct Args {
    /// Directory of a store; repeat it for several disks
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Where metad answers
    #[arg(long, value_name = "HOST:PORT")]
    meta: Option<String>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:0]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Address that clients and other nodes reach [default: the one listened on]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Failure zone (a rack, a room): copies are spread over zones [default: a zone of its own]
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// TOML file with the same names as these flags (log_level for --log-level); flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Bytes of each disk that are never filled with chunks; K, M, G and T may follow [default: 1 GiB or 2 % of
    /// the disk, whichever is more, but at most a tenth of it]
    #[arg(long, value_name = "BYTES")]
    reserve: Option<String>,
    /// MiB a second of each disk that are read in the background to find damage; 0: none [default: 20]
    #[arg(long, value_name = "MIB")]
    scrub_mib_s: Option<u64>,
    /// Seconds after which a chunk that belongs to no file is removed [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    abandoned_after_s: Option<u64>,
    /// Serve Prometheus metrics over HTTP at this address [default: no metrics]
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<String>,
    /// What to log: error, warn, info, debug, trace, or filters like info,chunkd=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Print the configuration that results, as TOML, and exit
    #[arg(long)]
    print_config: bool,
}

/// The form of the TOML file, and of flags laid over it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    data: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserve: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub_mib_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abandoned_after_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}

/// A number of bytes in a TOML file: a number, or a text such as "10G".
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Number(u64),
    Text(String),
}

/// The daemon's configuration, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directories of the stores; at least one, none twice.
    pub data: Vec<PathBuf>,
    /// `host:port` of metad.
    pub meta: String,
    /// `host:port` to listen on; port 0 takes a free one.
    pub listen: String,
    /// `host:port` that others reach; `None`: the address listened on.
    pub advertise: Option<String>,
    /// Failure zone; empty: one of its own.
    pub zone: String,
    /// Bytes of each disk that are never filled with chunks; `None`: what the store thinks right.
    pub reserve: Option<u64>,
    /// MiB a second that the scrub reads of each store; 0: none.
    pub scrub_mib_s: u64,
    /// Seconds after which a chunk that nobody knows is removed.
    pub abandoned_after_s: u64,
    /// Where metrics are served, if at all.
    pub metrics: Option<std::net::SocketAddr>,
    /// Filter of the log.
    pub log_level: String,
    /// Form of the log.
    pub log_format: LogFormat,
}

impl Config {
    pub(crate) fn upkeep(&self) -> Upkeep {
        Upkeep {
            scrub_bytes_per_second: self.scrub_mib_s << 20,
            abandoned_after: Duration::from_secs(self.abandoned_after_s),
        }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To run.
    Run(Config),
    /// To print this and exit.
    Print(String),
}

/// Reads flags and file.
///
/// # Errors
/// What is wrong with them.
pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<Request, ConfigError> {
    let args = Args::try_parse_from(args)?;
    let print = args.print_config;
    let file = config::read_file(args.config.as_deref())?;
    let config = validate(merge(args, file))?;
    if print { Ok(Request::Print(print_config(&config))) } else { Ok(Request::Run(config)) }
}

fn merge(args: Args, file: Raw) -> Raw {
    Raw {
        data: if args.data.is_empty() { file.data } else { args.data },
        meta: args.meta.or(file.meta),
        listen: args.listen.or(file.listen),
        advertise: args.advertise.or(file.advertise),
        zone: args.zone.or(file.zone),
        reserve: args.reserve.map(Bytes::Text).or(file.reserve),
        scrub_mib_s: args.scrub_mib_s.or(file.scrub_mib_s),
        abandoned_after_s: args.abandoned_after_s.or(file.abandoned_after_s),
        metrics: args.metrics.or(file.metrics),
        log_level: args.log_level.or(file.log_level),
        log_format: args.log_format.or(file.log_format),
    }
}

fn validate(raw: Raw) -> Result<Config, ConfigError> {
    let data = validate_data(raw.data)?;
    let meta = raw.meta.ok_or_else(|| wrong("--meta", "say where metad answers, as in --meta 127.0.0.1:7400"))?;
    if host_port("--meta", &meta)?.1 == 0 {
        return Err(wrong("--meta", format!("{meta} has port 0; give the port that metad listens on")));
    }
    check_address(&meta).map_err(|e| wrong("--meta", e.to_string()))?;
    let listen = raw.listen.unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    let (host, _) = host_port("--listen", &listen)?;
    match &raw.advertise {
        Some(address) => {
            let (host, port) = host_port("--advertise", address)?;
            if port == 0 || is_unspecified(&host) {
                return Err(wrong("--advertise", format!("{address} is not an address that others can reach")));
            }
            check_address(address).map_err(|e| wrong("--advertise", e.to_string()))?;
        }
        None if is_unspecified(&host) => {
            return Err(wrong(
                "--listen",
                format!("{listen} is not an address that others can reach; name one with --advertise HOST:PORT"),
            ));
        }
        None => {}
    }
    let zone = raw.zone.unwrap_or_default();
    if zone.len() > LABEL_BYTES || zone.chars().any(char::is_control) {
        return Err(wrong("--zone", format!("at most {LABEL_BYTES} bytes, without control characters")));
    }
    let reserve = match raw.reserve {
        None => None,
        Some(Bytes::Number(n)) => Some(n),
        Some(Bytes::Text(text)) => Some(size::parse(&text).ok_or_else(|| {
            wrong("--reserve", format!("{text:?} is not a number of bytes such as 500000000, 500M or 10G"))
        })?),
    };
    let scrub_mib_s = raw.scrub_mib_s.unwrap_or(DEFAULT_SCRUB_MIB_S);
    if scrub_mib_s > MAX_SCRUB_MIB_S {
        return Err(wrong("--scrub-mib-s", format!("{scrub_mib_s} is more than {MAX_SCRUB_MIB_S}")));
    }
    let metrics = config::metrics_address(raw.metrics)?;
    let log_level = log::level(raw.log_level)?;
    Ok(Config {
        data,
        meta,
        listen,
        advertise: raw.advertise,
        zone,
        reserve,
        scrub_mib_s,
        abandoned_after_s: raw.abandoned_after_s.unwrap_or(DEFAULT_ABANDONED_AFTER_S),
        metrics,
        log_level,
        log_format: raw.log_format.unwrap_or_default(),
    })
}

fn validate_data(data: Vec<PathBuf>) -> Result<Vec<PathBuf>, ConfigError> {
    if data.is_empty() {
        return Err(wrong("--data", "name at least one directory for a store, as in --data /srv/dfs"));
    }
    if data.len() > STORES_PER_NODE {
        return Err(wrong(
            "--data",
            format!("{} directories; a node has at most {STORES_PER_NODE} stores", data.len()),
        ));
    }
    for (i, dir) in data.iter().enumerate() {
        if dir.as_os_str().is_empty() {
            return Err(wrong("--data", "an empty path is not a directory"));
        }
        if data[..i].contains(dir) {
            return Err(wrong("--data", format!("{} is named twice", dir.display())));
        }
    }
    Ok(data)
}

/// Splits `host:port`; an IPv6 host stands in brackets.
fn host_port(flag: &'static str, text: &str) -> Result<(String, u16), ConfigError> {
    let bad = || wrong(flag, format!("{text:?} is not HOST:PORT"));
    if text.len() > LABEL_BYTES || text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(bad());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(bad)?,
        None if host.contains(':') => return Err(bad()),
        None => host,
    };
    if host.is_empty() {
        return Err(bad());
    }
    Ok((host.to_owned(), port.parse().map_err(|_| bad())?))
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// The configuration as a TOML file that would give the same.
fn print_config(config: &Config) -> String {
    let raw = Raw {
        data: config.data.clone(),
        meta: Some(config.meta.clone()),
        listen: Some(config.listen.clone()),
        advertise: config.advertise.clone(),
        zone: Some(config.zone.clone()),
        reserve: config.reserve.map(Bytes::Number),
        scrub_mib_s: Some(config.scrub_mib_s),
        abandoned_after_s: Some(config.abandoned_after_s),
        metrics: config.metrics.map(|a| a.to_string()),
        log_level: Some(config.log_level.clone()),
        log_format: Some(config.log_format),
    };
    // Only paths that are not UTF-8 cannot be written as TOML.
    toml::to_string(&raw).unwrap_or_else(|e| format!("# this configuration cannot be written as TOML: {e}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Config, ConfigError> {
        match load(std::iter::once("chunkd").chain(args.iter().copied()).map(OsString::from))? {
            Request::Run(config) => Ok(config),
            Request::Print(_) => panic!("asked to run"),
        }
    }

    fn message(args: &[&str]) -> String {
        run(args).unwrap_err().to_string()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "data = ['/a', '/b']\nmeta = 'm:1'\nzone = 'z'\nreserve = '2M'\nlog_format = 'json'\n")
            .unwrap();
        let c = run(&["--config", path.to_str().unwrap(), "--meta", "n:2"]).unwrap();
        assert_eq!(c.data, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!((c.meta.as_str(), c.zone.as_str(), c.reserve), ("n:2", "z", Some(2 << 20)));
        assert_eq!((c.listen.as_str(), c.log_format), (DEFAULT_LISTEN, LogFormat::Json));
    }

    #[test]
    fn what_is_printed_gives_the_same_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let args = ["--data", "/x y", "--meta", "h:7400", "--listen", "[::1]:0", "--zone", "r\"1", "--reserve", "1G"];
        let first = run(&args).unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, print_config(&first)).unwrap();
        assert_eq!(run(&["--config", path.to_str().unwrap()]).unwrap(), first);
    }

    #[test]
    fn mistakes_are_named() {
        let ok = ["--data", "/a", "--meta", "h:1"];
        let with = |more: &[&str]| message(&[&ok[..], more].concat());
        assert!(message(&["--meta", "h:1"]).starts_with("--data: name at least one"));
        assert!(message(&["--data", "/a"]).starts_with("--meta: say where"));
        assert!(message(&["--data", "/a", "--meta", "h:0"]).contains("port 0"));
        assert!(with(&["--data", "/a"]).contains("named twice"));
        assert!(with(&["--listen", "0.0.0.0:7"]).contains("--advertise"));
        assert!(with(&["--advertise", "[::]:7"]).starts_with("--advertise"));
        assert!(with(&["--listen", "nonsense"]).contains("not HOST:PORT"));
        assert!(with(&["--reserve", "12Q"]).contains("12Q"));
        assert!(with(&["--metrics", "here"]).contains("--metrics"));
        assert!(with(&["--log-level", "a=b=c"]).contains("--log-level"));
        assert!(with(&["--zone", "a\nb"]).contains("--zone"));
        assert!(matches!(run(&["--wrong"]), Err(ConfigError::Usage(_))));
    }

    #[test]
    fn a_file_with_an_unknown_or_absent_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "data = ['/a']\nmetta = 'm:1'\n").unwrap();
        assert!(message(&["--config", path.to_str().unwrap()]).contains("metta"));
        assert!(message(&["--config", "/does/not/exist.toml"]).contains("cannot read"));
    }
}
