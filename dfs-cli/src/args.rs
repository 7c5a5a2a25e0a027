//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Looks after a filesystem.
#[derive(Debug, Parser)]
#[command(
    name = "dfs",
    version,
    about = "Looks after a distributed filesystem, and runs one on this machine to try.",
    after_help = "Examples:\n  \
        dfs dev up --dir /tmp/try --mount /tmp/try/mnt      a whole cluster on this machine\n  \
        dfs --meta 127.0.0.1:7400 status\n  \
        dfs stat /tmp/try/mnt/file\n  \
        dfs --meta 127.0.0.1:7400 fsck --json\n  \
        dfs dev down --dir /tmp/try\n\n\
        Exit codes: 0 done; 1 it failed, or fsck found damage; 2 wrong arguments, or fsck found too few copies."
)]
pub struct Args {
    /// Where metad answers
    #[arg(long, global = true, value_name = "HOST:PORT", env = "DFS_META")]
    pub meta: Option<String>,
    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster on this machine, in the background
    #[command(subcommand)]
    Dev(Dev),
    /// Nodes, stores, space, slots in sync and sessions
    #[command(after_help = "Exit codes: 0 metad answered; 1 it did not.")]
    Status,
    /// What a file is made of: inode, extents, chunks, and the stores that hold each
    #[command(
        long_about = "What a file is made of: inode, extents, chunks, and the stores that hold each.\n\n\
            Shows what is committed; what clients have written and not saved yet is not in it (dfs sync saves).",
        after_help = "Exit codes: 0 shown; 1 no such file, or metad did not answer."
    )]
    Stat {
        /// A file on a mount, or with --meta an absolute path inside the filesystem
        path: PathBuf,
    },
    /// Check all metadata, and that every chunk it names is on all members of its slot
    #[command(
        after_help = "Exit codes: 0 clean; 2 degraded: copies are missing, but each chunk has one; 1 the metadata \
        is inconsistent or a chunk has no copy (they are listed), or the check could not be made."
    )]
    Fsck {
        /// List at most so many of each kind of finding
        #[arg(long, value_name = "N", default_value_t = 100)]
        list: usize,
    },
    /// Chunk daemons one by one: list, show, drain, retire
    #[command(subcommand)]
    Node(Node),
    /// Compare what all stores have with what metad knows, now and not in their turn
    #[command(
        long_about = "Compare what all stores have with what metad knows, now and not in their turn. Chunks that are \
            missing are fetched from other stores; chunks that belong to no file are removed when they are old enough, \
            and stay in the store's trash directory for a day.",
        after_help = "Exit codes: 0 all stores were compared; 2 some could not be; 1 metad did not answer."
    )]
    Reconcile,
    /// Copy a file or a tree on a mount without copying any data
    #[command(
        long_about = "Copy a file or a tree on a mount without copying any data: both share what is stored, and each \
            can be changed without the other.\n\nModes, owners, times, extended attributes, hard links inside the \
            tree, symlinks and special files are kept. TARGET appears when all of it is there. A file that changes \
            meanwhile is cloned as it is found.",
        after_help = "Exit codes: 0 cloned; 1 TARGET exists, is on another mount, or something could not be cloned: \
            then there is no TARGET; 2 wrong arguments."
    )]
    Clone {
        /// A file or directory on a mount
        source: PathBuf,
        /// What the clone is to be called, on the same mount; must not exist
        target: PathBuf,
    },
    /// Save everything that was written to a mount; returns when it is durable
    #[command(after_help = "Exit codes: 0 all is durable; 1 it is not, or this is no mount.")]
    Sync {
        /// The mountpoint, or a directory below it
        mount: PathBuf,
    },
}

/// Chunk daemons one by one. NODE is the beginning of an id, or an address, as `dfs node ls` shows them.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List the nodes
    Ls,
    /// Show one node: state, stores, what it lacks
    Show {
        /// Which
        node: String,
    },
    /// Empty a node while everything runs on, and retire it
    #[command(
        long_about = "Empty a node while everything runs on: others copy what it has, then it leaves its slots, and is \
            retired when it is in none. Shows how far that is until it is done; it goes on if this command is ended.",
        after_help = "Exit codes: 0 retired (or begun, with --no-wait); 1 it could not begin, or was cancelled."
    )]
    Drain {
        /// Which
        node: String,
        /// Do not wait until it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Cancel a drain, or take a retired node back
    Resume {
        /// Which
        node: String,
    },
    /// Give up a node that is down for good: its places go to others at once
    Retire {
        /// Which
        node: String,
    },
    /// Let nodes delete for this metad again, after an old copy of its directory was restored
    #[command(
        long_about = "Let nodes delete for this metad again. They stop when they have heard things from a metad that \
            knew more than this one does, as after an old copy of its directory was restored: chunks of files that \
            this metad does not know are then still there. Once nodes trust it, such chunks are removed in time.",
        after_help = "Exit codes: 0 done; 1 metad did not answer."
    )]
    Trust,
}

/// A cluster on this machine.
#[derive(Debug, Subcommand)]
pub enum Dev {
    /// Start what is missing: metad, chunk daemons, mount; returns when all is healthy
    #[command(
        long_about = "Start what is missing of a cluster on this machine, in the background; returns when it is healthy \
            and mounted.\n\nData is kept in DIR/metad and DIR/chunkd-1..N, process ids in DIR/run, logs in DIR/log. The \
            settings are remembered in DIR/cluster.toml: call it again without them after a kill or a reboot.",
        after_help = "Exit codes: 0 healthy; 1 something did not start (the end of its log is shown); 2 wrong arguments."
    )]
    Up(Up),
    /// Unmount and stop all of it; the data stays
    #[command(after_help = "Exit codes: 0 nothing runs any more; 1 the mount is in use, or something did not end.")]
    Down {
        /// Directory of the cluster
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// What to start. What is not given is as it was the last time, or the default.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Up {
    /// Directory of the cluster; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Mount here; the directory is made if it is missing
    #[arg(long, value_name = "MOUNTPOINT")]
    pub mount: Option<PathBuf>,
    /// Chunk daemons; later there may be more, not fewer [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: Option<u16>,
    /// Copies of each chunk, on as many nodes [default: 3, but no more than nodes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub replicas: Option<u16>,
    /// Port of metad on 127.0.0.1 [default: 7400]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Serve Prometheus metrics: metad at PORT, chunkd-I at PORT + I, dfs-fuse at PORT + 100 [default: none]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65000))]
    pub metrics_base: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn commands_and_their_flags() {
        let args = parse("dfs --meta h:1 status --json").unwrap();
        assert_eq!((args.meta.as_deref(), args.json), (Some("h:1"), true));
        assert!(matches!(args.command, Command::Status));
        let args = parse("dfs fsck --meta h:1 --list 5").unwrap();
        assert!(matches!(args.command, Command::Fsck { list: 5 }));
        let Command::Dev(Dev::Up(up)) =
            parse("dfs dev up --dir d --mount m --nodes 4 --replicas 2 --port 9").unwrap().command
        else {
            panic!()
        };
        assert_eq!((up.nodes, up.replicas, up.port), (Some(4), Some(2), Some(9)));
        assert!(matches!(parse("dfs dev down --dir d").unwrap().command, Command::Dev(Dev::Down { .. })));
        assert!(matches!(parse("dfs sync /m").unwrap().command, Command::Sync { .. }));
        assert!(matches!(parse("dfs clone a b --json").unwrap().command, Command::Clone { .. }));
    }

    #[test]
    fn wrong_arguments_are_refused_with_2() {
        for line in [
            "dfs",
            "dfs dev up",
            "dfs dev up --dir d --nodes 0",
            "dfs dev up --dir d --port 0",
            "dfs stat",
            "dfs x",
            "dfs clone a",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
