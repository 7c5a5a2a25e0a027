//! Two faults at a time, drawn at random, under load: nothing acknowledged is lost, no byte is wrong, nothing hangs.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_integration::cluster::Cluster;
use dfs_integration::net::Net;
use dfs_integration::tool::{seed, sh};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::load::Load;
use crate::watch::{quick, until_whole};

/// Rounds with `make test`; `$DFS_FAULT_ROUNDS` are others.
const ROUNDS: usize = 5;
const NODES: usize = 5;
/// Hosts of the network: metad, the client, then the nodes.
const METAD: usize = 0;
const CLIENT: usize = 1;
const FIRST_NODE: usize = 2;
/// The node on a small disk.
const SMALL: usize = 4;
const SMALL_MIB: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill(usize),
    Stop(usize),
    KillMetad,
    StopMetad,
    Cut(usize, usize),
    Fill,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |h: &usize| match *h {
            METAD => "metad".to_owned(),
            CLIENT => "client".to_owned(),
            node => format!("chunkd {}", node - FIRST_NODE + 1),
        };
        match self {
            Self::Kill(n) => write!(f, "kill -9 of chunkd {}", n + 1),
            Self::Stop(n) => write!(f, "SIGSTOP of chunkd {}", n + 1),
            Self::KillMetad => f.write_str("kill -9 of metad"),
            Self::StopMetad => f.write_str("SIGSTOP of metad"),
            Self::Cut(a, b) => write!(f, "no network between {} and {}", host(a), host(b)),
            Self::Fill => write!(f, "the disk of chunkd {} full", SMALL + 1),
        }
    }
}

fn draw(rng: &mut StdRng) -> Fault {
    let node = rng.random_range(0..NODES);
    match rng.random_range(0..10) {
        0 | 1 => Fault::Kill(node),
        2 | 3 => Fault::Stop(node),
        4 => Fault::KillMetad,
        5 => Fault::StopMetad,
        6 => Fault::Cut(CLIENT, FIRST_NODE + node),
        7 => Fault::Cut(METAD, FIRST_NODE + node),
        8 => Fault::Cut(FIRST_NODE + node, FIRST_NODE + (node + rng.random_range(1..NODES)) % NODES),
        _ => Fault::Fill,
    }
}

/// A disk of its own for one node, which goes with the value.
struct Disk(PathBuf);

impl Disk {
    fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let image = dir.with_extension("img");
        let (image, dir_text) = (image.display(), dir.display());
        let script = format!(
            "truncate -s {SMALL_MIB}M {image} && mkfs.ext4 -q -m 0 {image} && mount -o loop {image} {dir_text}"
        );
        sh(&PathBuf::from("/"), &script)?;
        Ok(Self(dir))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(sh(&PathBuf::from("/"), &format!("umount -l {}", self.0.display())));
    }
}

struct World {
    /// Dropped first: its mountpoint lies in the cluster's directory.
    disk: Disk,
    cluster: Cluster,
}

impl World {
    fn new() -> Result<Self> {
        let net = Net::new(FIRST_NODE + NODES)?;
        let mut cluster = Cluster::start_on(quick(0).with_no_wait(), net)?;
        let disk = Disk::new(cluster.chunkd_dir(SMALL))?;
        cluster.add_chunkds(NODES)?;
        Ok(Self { disk, cluster })
    }

    fn net(&self) -> Result<&Net> {
        self.cluster.net().context("it has a network")
    }

    fn filler(&self) -> PathBuf {
        self.disk.0.join("filler")
    }

    fn happens(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill(n) => {
                if let Some(mut daemon) = self.cluster.chunkds[n].take() {
                    daemon.kill9()?;
                }
            }
            Fault::Stop(n) => self.cluster.chunkds[n].iter().for_each(|d| d.signal(libc::SIGSTOP)),
            Fault::KillMetad => {
                if let Some(mut daemon) = self.cluster.metad.take() {
                    daemon.kill9()?;
                }
            }
            Fault::StopMetad => self.cluster.metad.iter().for_each(|d| d.signal(libc::SIGSTOP)),
            Fault::Cut(a, b) => self.net()?.cut(a, b)?,
            Fault::Fill => {
                let filler = self.filler();
                sh(&self.disk.0, &format!("dd if=/dev/zero of={} bs=1M status=none || true", filler.display()))?;
            }
        }
        Ok(())
    }

    fn ends(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill(n) => {
                if self.cluster.chunkds[n].is_none() {
                    self.cluster.start_chunkd(n)?;
                }
            }
            Fault::Stop(n) => self.cluster.chunkds[n].iter().for_each(|d| d.signal(libc::SIGCONT)),
            Fault::KillMetad => {
                if self.cluster.metad.is_none() {
                    self.cluster.start_metad()?;
                }
            }
            Fault::StopMetad => self.cluster.metad.iter().for_each(|d| d.signal(libc::SIGCONT)),
            Fault::Cut(a, b) => self.net()?.mend(a, b)?,
            Fault::Fill => drop(fs::remove_file(self.filler())),
        }
        Ok(())
    }
}

#[test]
fn two_faults_at_a_time_are_survived() -> Result<()> {
    let rounds = std::env::var("DFS_FAULT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new()?;
    let mount = world.cluster.mount("mnt")?;
    for round in 0..rounds {
        let faults = [draw(&mut rng), draw(&mut rng)];
        let dir = mount.path.join(format!("round{round}"));
        fs::create_dir(&dir)?;
        let load = Load::start(&dir, 2, rng.random())?;
        let began = Instant::now();
        for fault in faults {
            std::thread::sleep(Duration::from_millis(rng.random_range(100..1500)));
            world.happens(fault)?;
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(500..6000)));
        for fault in faults {
            world.ends(fault)?;
            std::thread::sleep(Duration::from_millis(rng.random_range(0..1000)));
        }
        std::thread::sleep(Duration::from_millis(500));
        let what = format!("round {round}: {}, and {}", faults[0], faults[1]);
        let pulse = load.finish().with_context(|| what.clone())?;
        let healed = until_whole(&world.cluster, Duration::from_secs(90)).with_context(|| what.clone())?;
        world.cluster.wait_fsck(0, Duration::from_secs(60)).with_context(|| what.clone())?;
        eprintln!(
            "{what}: longest write {:.1} s, whole {:.1} s after, {:.1} s in all",
            pulse.longest.as_secs_f64(),
            healed.as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
        ensure!(pulse.longest < Duration::from_secs(30), "{what}: a write stood still for {:?}", pulse.longest);
        fs::remove_dir_all(&dir).with_context(|| what)?;
    }
    Ok(())
}
