//! Configuration: flags, `-o` options and a TOML file become one raw form, which is validated once.
//!
//! A flag wins over an option, an option over the file, the file over the default. What is refused
//! here is a mistake of whoever mounts (exit code 2), never a state of the machine.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use dfs_client::cache::disk::DiskCache;
use dfs_client::config::ClientConfig;
use dfs_daemon::config::{self, ConfigError, in_range, wrong};
use dfs_daemon::log::{self, LogFormat};
use dfs_daemon::size;
use serde::{Deserialize, Serialize};

use crate::options::{self, MountFlags};

/// Threads that read requests from the kernel unless told otherwise.
const THREADS: u64 = 4;
/// The most memory that may be given to the write buffer or the cache.
const MAX_MIB: u64 = 1 << 20;

#[derive(Debug, Parser)]
#[command(
    name = "dfs-fuse",
    version,
    about = "Mounts the filesystem of a metad as a local directory.",
    long_about = "Mounts the filesystem of a metad as a local directory.\n\n\
        Returns as soon as the mount can be used, and goes on in the background. `umount DIR`,\n\
        `fusermount3 -u DIR` or SIGTERM end it: what is not yet saved is saved first, so the process may\n\
        outlive the unmount by a moment.\n\n\
        If metad or the chunk daemons are away, calls on the mount wait up to 30 s, then fail with EIO;\n\
        the mount works again when they are back, and can be unmounted at any time.",
    after_help = "Options for -o (several between commas; any other is refused):\n  \
        ro, rw, dev, nodev, suid, nosuid, exec, noexec, sync, dirsync\n                      \
        as in mount(8); unless said otherwise rw,nodev,nosuid\n  \
        allow_other         let other users in although you are not root (root always does)\n  \
        noatime             reading moves no access time; relatime, the default, moves it at most once a day\n  \
        cache=DIR, cache_size=SIZE, dirty_mib=, cache_mib=, threads=, log_file=, log_level=, pid_file=,\n  \
        metrics=            the flags of the same names, for fstab\n  \
        defaults, _netdev, noauto, user, nofail, x-* and the like are accepted and ignored\n\n\
        In fstab:\n  \
        10.0.0.1:7400  /mnt/dfs  fuse.dfs-fuse  defaults,_netdev,log_file=/var/log/dfs-fuse.log  0  0\n\n\
        Exit codes: 0 mounted (with --foreground: unmounted, everything saved); 1 it could not mount, or\n\
        could not save everything; 2 wrong flags, options or configuration."
)]
struct Args {
    /// Where metad answers
    #[arg(value_name = "HOST:PORT")]
    meta: Option<String>,
    /// An existing directory
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    /// Mount options, see below
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,
    /// Stay in the foreground and log to stderr
    #[arg(short = 'f', long)]
    foreground: bool,
    /// TOML file with the same names as these flags (log_level for --log-level), and meta, mountpoint, options
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Bytes that may wait in memory to be written, in MiB; over it, writers wait [default: 192]
    #[arg(long, value_name = "MIB")]
    dirty_mib: Option<u64>,
    /// Memory for chunks that were read, beside the kernel's page cache, in MiB [default: 64]
    #[arg(long, value_name = "MIB")]
    cache_mib: Option<u64>,
    /// Keep chunks that were read in this directory too, over restarts; each mount needs one of its own
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// How much of its disk the directory may take: a number with K, M, G or T, 64M to 2T [default: 10G]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<String>,
    /// Threads that read requests from the kernel [default: 4]
    #[arg(long, value_name = "N")]
    threads: Option<u64>,
    /// Append the log to this file [default: stderr with --foreground, else none]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or filters like info,dfs_client=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Serve Prometheus metrics over HTTP at this address [default: no metrics]
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<String>,
    /// Write the process id here once mounted, and remove the file at the end
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Print the configuration that results, as TOML, and exit
    #[arg(long)]
    print_config: bool,
    /// This is the process that goes on in the background; stdout reports to the one that waits
    #[arg(long, hide = true)]
    background_process: bool,
}

/// The form of the TOML file, and of options and flags laid over it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Raw {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) meta: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mountpoint: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) options: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dirty_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log_format: Option<LogFormat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid_file: Option<PathBuf>,
}

/// The mount's configuration, validated. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `host:port` of metad.
    pub meta: String,
    /// Where to mount.
    pub mountpoint: PathBuf,
    /// What the kernel is asked for.
    pub flags: MountFlags,
    /// Bytes that may wait to be written.
    pub dirty_bytes: u64,
    /// Bytes of chunks kept in memory for readers.
    pub cache_bytes: u64,
    /// Where more of them are kept on disk, if anywhere.
    pub disk_cache: Option<DiskCache>,
    /// Threads that read requests from the kernel.
    pub threads: usize,
    /// Where the log goes; `None`: stderr.
    pub log_file: Option<PathBuf>,
    /// Filter of the log.
    pub log_level: String,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Where metrics are served, if at all.
    pub metrics: Option<SocketAddr>,
    /// Where the process id is written.
    pub pid_file: Option<PathBuf>,
}

/// Which process of a mount this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Starts the background process and waits until it has mounted.
    Starter,
    /// Mounts and stays until unmounted.
    Foreground,
    /// Mounts, tells the starter, and stays until unmounted.
    Background,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To mount.
    Run {
        /// How.
        config: Box<Config>,
        /// As which process.
        role: Role,
    },
    /// To print this and exit.
    Print(String),
}

/// Reads flags, options and file.
///
/// # Errors
/// What is wrong with them.
pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<Request, ConfigError> {
    let args = Args::try_parse_from(args)?;
    let print = args.print_config;
    let role = match (args.background_process, args.foreground) {
        (true, _) => Role::Background,
        (false, true) => Role::Foreground,
        (false, false) => Role::Starter,
    };
    let mut raw: Raw = config::read_file(args.config.as_deref())?;
    let mut flags = MountFlags::default();
    for list in raw.options.take().iter().chain(&args.options) {
        options::apply(list, &mut flags, &mut raw).map_err(|why| wrong("-o", why))?;
    }
    let config = validate(merge(args, raw), flags)?;
    if print { Ok(Request::Print(print_config(&config))) } else { Ok(Request::Run { config: Box::new(config), role }) }
}

fn merge(args: Args, under: Raw) -> Raw {
    Raw {
        meta: args.meta.or(under.meta),
        mountpoint: args.mountpoint.or(under.mountpoint),
        options: None,
        dirty_mib: args.dirty_mib.or(under.dirty_mib),
        cache_mib: args.cache_mib.or(under.cache_mib),
        cache: args.cache.or(under.cache),
        cache_size: args.cache_size.or(under.cache_size),
        threads: args.threads.or(under.threads),
        log_file: args.log_file.or(under.log_file),
        log_level: args.log_level.or(under.log_level),
        log_format: args.log_format.or(under.log_format),
        metrics: args.metrics.or(under.metrics),
        pid_file: args.pid_file.or(under.pid_file),
    }
}

fn validate(raw: Raw, flags: MountFlags) -> Result<Config, ConfigError> {
    let meta = raw.meta.ok_or_else(|| wrong("HOST:PORT", "say where metad answers, as in 127.0.0.1:7400"))?;
    // fstab's old form `dfs-fuse#host:port`, where the part before # names the program.
    let meta = meta.strip_prefix("dfs-fuse#").unwrap_or(&meta).to_owned();
    check_address(&meta)?;
    let mountpoint = raw.mountpoint.ok_or_else(|| wrong("MOUNTPOINT", "say where to mount"))?;
    let dirty_mib =
        in_range("--dirty-mib", raw.dirty_mib.unwrap_or(ClientConfig::default().dirty_bytes >> 20), 128, MAX_MIB)?;
    let cache_mib =
        in_range("--cache-mib", raw.cache_mib.unwrap_or(ClientConfig::default().cache_bytes >> 20), 0, MAX_MIB)?;
    let disk_cache = disk_cache(raw.cache, raw.cache_size)?;
    let threads = in_range("--threads", raw.threads.unwrap_or(THREADS), 1, 64)?;
    let log_level = log::level(raw.log_level)?;
    let metrics = config::metrics_address(raw.metrics)?;
    Ok(Config {
        meta,
        mountpoint: absolute("MOUNTPOINT", &mountpoint)?,
        flags,
        dirty_bytes: dirty_mib << 20,
        cache_bytes: cache_mib << 20,
        disk_cache,
        threads: usize::try_from(threads).unwrap_or(1),
        log_file: raw.log_file.map(|p| absolute("--log-file", &p)).transpose()?,
        log_level,
        log_format: raw.log_format.unwrap_or_default(),
        metrics,
        pid_file: raw.pid_file.map(|p| absolute("--pid-file", &p)).transpose()?,
    })
}

fn disk_cache(dir: Option<PathBuf>, size: Option<String>) -> Result<Option<DiskCache>, ConfigError> {
    let Some(dir) = dir else {
        return match size {
            None => Ok(None),
            Some(_) => Err(wrong("--cache-size", "say where the cache is to be, with --cache DIR or -o cache=DIR")),
        };
    };
    let bytes = match size {
        None => DiskCache::DEFAULT,
        Some(text) => size::parse(&text)
            .ok_or_else(|| wrong("--cache-size", format!("{text:?} is not a size such as 500M, 10G or 1T")))?,
    };
    if !(DiskCache::LEAST..=DiskCache::MOST).contains(&bytes) {
        let (least, most) = (size::show(DiskCache::LEAST), size::show(DiskCache::MOST));
        return Err(wrong("--cache-size", format!("must be between {least} and {most}, not {}", size::show(bytes))));
    }
    Ok(Some(DiskCache { dir: absolute("--cache", &dir)?, bytes }))
}

fn absolute(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|e| wrong(flag, format!("{}: {e}", path.display())))
}

fn check_address(meta: &str) -> Result<(), ConfigError> {
    let good = meta.rsplit_once(':').is_some_and(|(host, port)| {
        let host_is_good =
            !host.is_empty() && !host.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control());
        host_is_good && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    if good { Ok(()) } else { Err(wrong("HOST:PORT", format!("{meta:?} is not an address such as 127.0.0.1:7400"))) }
}

fn print_config(config: &Config) -> String {
    let f = &config.flags;
    let word = |on: bool, yes: &str, no: &str| if on { yes.to_owned() } else { no.to_owned() };
    let mut options = vec![
        word(f.read_only, "ro", "rw"),
        word(f.dev, "dev", "nodev"),
        word(f.suid, "suid", "nosuid"),
        word(f.exec, "exec", "noexec"),
    ];
    let more = [(f.sync, "sync"), (f.dirsync, "dirsync"), (f.allow_other, "allow_other")];
    options.extend(more.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    let raw = Raw {
        meta: Some(config.meta.clone()),
        mountpoint: Some(config.mountpoint.clone()),
        options: Some(options.join(",")),
        dirty_mib: Some(config.dirty_bytes >> 20),
        cache_mib: Some(config.cache_bytes >> 20),
        cache: config.disk_cache.as_ref().map(|disk| disk.dir.clone()),
        cache_size: config.disk_cache.as_ref().map(|disk| size::show(disk.bytes)),
        threads: u64::try_from(config.threads).ok(),
        log_file: config.log_file.clone(),
        log_level: Some(config.log_level.clone()),
        log_format: Some(config.log_format),
        metrics: config.metrics.map(|a| a.to_string()),
        pid_file: config.pid_file.clone(),
    };
    toml::to_string(&raw).unwrap_or_else(|e| format!("# cannot be shown: {e}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Request, ConfigError> {
        load(std::iter::once("dfs-fuse").chain(args.iter().copied()).map(OsString::from))
    }

    fn run(args: &[&str]) -> (Config, Role) {
        match parse(args).unwrap() {
            Request::Run { config, role } => (*config, role),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_plain_form_goes_to_the_background() {
        let (config, role) = run(&["127.0.0.1:7400", "/mnt/x"]);
        assert_eq!(role, Role::Starter);
        assert_eq!((config.meta.as_str(), config.mountpoint.as_path()), ("127.0.0.1:7400", Path::new("/mnt/x")));
        assert_eq!((config.dirty_bytes, config.cache_bytes, config.threads), (192 << 20, 64 << 20, 4));
        assert_eq!(run(&["h:1", "/m", "--foreground"]).1, Role::Foreground);
        assert_eq!(run(&["h:1", "/m", "--background-process"]).1, Role::Background);
    }

    #[test]
    fn the_forms_of_fstab_are_understood() {
        for spec in ["dfs-fuse#10.0.0.1:7400", "10.0.0.1:7400"] {
            let (config, role) = run(&[spec, "/m", "-o", "rw,dev,suid,_netdev,x-systemd.automount,dirty_mib=500"]);
            assert_eq!((config.meta.as_str(), role), ("10.0.0.1:7400", Role::Starter));
            assert!(config.flags.dev && config.flags.suid && !config.flags.read_only);
            assert_eq!(config.dirty_bytes, 500 << 20);
        }
        assert!(run(&["[::1]:7400", "/m", "-o", "ro", "-o", "noexec"]).0.flags.read_only);
    }

    #[test]
    fn a_flag_wins_over_an_option_and_an_option_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "meta = 'a:1'\nmountpoint = '/m'\noptions = 'ro'\ndirty_mib = 200\ncache_mib = 1\n")
            .unwrap();
        let file = file.to_str().unwrap();
        let (config, _) = run(&["--config", file, "-o", "dirty_mib=201", "--cache-mib", "3"]);
        assert_eq!((config.meta.as_str(), config.flags.read_only), ("a:1", true));
        assert_eq!((config.dirty_bytes >> 20, config.cache_bytes >> 20), (201, 3));
        std::fs::write(dir.path().join("c.toml"), "metta = 'a:1'\n").unwrap();
        let why = parse(&["--config", file]).unwrap_err().to_string();
        assert!(why.contains("metta"), "{why}");
    }

    #[test]
    fn a_cache_on_disk_has_a_size() {
        assert_eq!(run(&["h:1", "/m"]).0.disk_cache, None);
        let of = |args: &[&str]| run(&[&["h:1", "/m"], args].concat()).0.disk_cache.unwrap();
        assert_eq!(of(&["-o", "cache=/c"]), DiskCache { dir: "/c".into(), bytes: 10 << 30 });
        assert_eq!(of(&["-o", "cache=/c,cache_size=64M"]).bytes, 64 << 20);
        assert_eq!(of(&["-o", "cache=/c,cache_size=64M", "--cache", "/d", "--cache-size", "2t"]).bytes, 2 << 40);
        assert!(of(&["--cache", "here"]).dir.is_absolute());
    }

    #[test]
    fn mistakes_are_refused_with_their_flag() {
        for (args, word) in [
            (&["h:1"][..], "MOUNTPOINT"),
            (&[][..], "HOST:PORT"),
            (&["host", "/m"][..], "HOST:PORT"),
            (&["host:0", "/m"][..], "HOST:PORT"),
            (&["a,b:7", "/m"][..], "HOST:PORT"),
            (&["h:1", "/m", "-o", "wibble"][..], "wibble"),
            (&["h:1", "/m", "--dirty-mib", "1"][..], "--dirty-mib"),
            (&["h:1", "/m", "--threads", "0"][..], "--threads"),
            (&["h:1", "/m", "--log-level", "a=b=c"][..], "--log-level"),
            (&["h:1", "/m", "--metrics", "here"][..], "--metrics"),
            (&["h:1", "/m", "-o", "cache_size=1G"][..], "--cache DIR"),
            (&["h:1", "/m", "-o", "cache=/c,cache_size=1M"][..], "between 64M and 2T"),
            (&["h:1", "/m", "--cache", "/c", "--cache-size", "lots"][..], "--cache-size"),
            (&["h:1", "/m", "--wibble"][..], "--wibble"),
            (&["h:1", "/m", "/n"][..], "/n"),
        ] {
            let why = parse(args).unwrap_err().to_string();
            assert!(why.contains(word), "{args:?}: {why}");
        }
    }

    #[test]
    fn the_printed_configuration_reads_back_the_same() {
        let cache = "ro,suid,noexec,sync,cache=/c,cache_size=1025M";
        let args = ["h:1", "/m", "-o", cache, "--pid-file", "/p", "--metrics", "127.0.0.1:9"];
        let (config, _) = run(&args);
        let Request::Print(text) = parse(&[&args[..], &["--print-config"]].concat()).unwrap() else { panic!() };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        assert_eq!(run(&["--config", file.to_str().unwrap()]).0, config);
    }
}
