//! Machines of a network of their own: a network namespace for each, on one bridge, and cuts between any two.
//!
//! A cut is silent, as when a cable is pulled: each of the two sends the other's packets to a station that is not
//! there. Nothing outside the namespaces is touched. They go when the value is dropped, and what an earlier run that
//! was killed has left goes when the next begins.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

const PREFIX: &str = "dfs-net-";

/// The network.
#[derive(Debug)]
pub struct Net {
    pid: u32,
    hosts: usize,
}

fn ip(args: &str) -> Result<()> {
    let out = Command::new("ip").args(args.split(' ')).output().context("ip (package iproute2) cannot be run")?;
    if !out.status.success() {
        bail!("ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

impl Net {
    /// So many hosts, 0 .. `hosts`, which all reach each other.
    ///
    /// # Errors
    /// Not root, or the kernel has no namespaces or bridges.
    pub fn new(hosts: usize) -> Result<Self> {
        remove_stale();
        let net = Self { pid: std::process::id(), hosts };
        let hub = net.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add br0 type bridge"))?;
        ip(&format!("-n {hub} link set br0 up"))?;
        for host in 0..hosts {
            let (name, addr, mac) = (net.name(host), net.addr(host), mac(host));
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {hub} link add p{host} type veth peer name eth0 address {mac} netns {name}"))?;
            ip(&format!("-n {hub} link set p{host} master br0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} addr add {addr}/24 dev eth0"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        // No host ever asks for another's station: what it is told here holds until it is told otherwise.
        for from in 0..hosts {
            for to in (0..hosts).filter(|to| *to != from) {
                net.tell(from, to, &mac(to))?;
            }
        }
        Ok(net)
    }

    fn hub(&self) -> String {
        format!("{PREFIX}{}-hub", self.pid)
    }

    /// The namespace of a host.
    #[must_use]
    pub fn name(&self, host: usize) -> String {
        format!("{PREFIX}{}-{host}", self.pid)
    }

    /// The address of a host.
    #[must_use]
    pub fn addr(&self, host: usize) -> String {
        format!("10.213.0.{}", host + 1)
    }

    fn tell(&self, from: usize, to: usize, station: &str) -> Result<()> {
        let (name, addr) = (self.name(from), self.addr(to));
        ip(&format!("-n {name} neigh replace {addr} lladdr {station} dev eth0 nud permanent"))
    }

    /// Neither of the two hears the other any more.
    ///
    /// # Errors
    /// What the system says.
    pub fn cut(&self, a: usize, b: usize) -> Result<()> {
        self.tell(a, b, "02:00:00:00:ff:ff")?;
        self.tell(b, a, "02:00:00:00:ff:ff")
    }

    /// They do again.
    ///
    /// # Errors
    /// What the system says.
    pub fn mend(&self, a: usize, b: usize) -> Result<()> {
        self.tell(a, b, &mac(b))?;
        self.tell(b, a, &mac(a))
    }
}

fn mac(host: usize) -> String {
    format!("02:00:00:00:00:{:02x}", host + 1)
}

impl Drop for Net {
    fn drop(&mut self) {
        let names = (0..self.hosts).map(|h| self.name(h)).chain([self.hub()]);
        for name in names {
            drop(ip(&format!("netns del {name}")));
        }
    }
}

/// Removes namespaces of test processes that are gone.
fn remove_stale() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(ip(&format!("netns del {name}")));
        }
    }
}
