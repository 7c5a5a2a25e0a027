//! What a client can be told, and the bounds of it.

use std::time::Duration;

use dfs_core::limits;

use crate::cache::disk::DiskCache;
use crate::error::{FsError, FsResult};

/// Below this a single writer would wait for each of its parts.
const DIRTY_LEAST: u64 = 8 * limits::PART_BYTES as u64;

/// Configuration of one client (one mount, or one program).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// `host:port` of metad.
    pub meta: String,
    /// Host, pid and mountpoint, for people who look at the list of sessions; at most 255 bytes.
    pub client_name: String,
    /// Bytes that may wait in the write buffer of the whole mount; over it, writers wait.
    pub dirty_bytes: u64,
    /// Bytes of chunks kept in memory for readers.
    pub cache_bytes: u64,
    /// More of them in a directory on disk, kept over restarts; `None`: nothing is kept on disk.
    pub disk_cache: Option<DiskCache>,
    /// A call without an answer by then fails with EIO.
    pub deadline: Duration,
    /// How long metad may be away when the client starts.
    pub connect_deadline: Duration,
    /// How long attributes, entries and extents serve without asking again.
    pub ttl: Duration,
    /// Whether reading moves the access time, as `relatime` does; else nothing but utimens(2) does.
    pub atime: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            meta: "127.0.0.1:7400".into(),
            client_name: format!("pid {}", std::process::id()),
            dirty_bytes: 192 << 20,
            cache_bytes: 64 << 20,
            disk_cache: None,
            deadline: limits::DEADLINE,
            connect_deadline: Duration::from_secs(10),
            ttl: limits::TTL,
            atime: true,
        }
    }
}

impl ClientConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// `Io` that names the field and what it may be.
    pub fn validate(&self) -> FsResult<()> {
        let wrong = |what: String| Err(FsError::Io(what));
        match self.meta.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0) => {}
            _ => return wrong(format!("the address of metad must be HOST:PORT, not {:?}", self.meta)),
        }
        if self.client_name.len() > limits::LABEL_BYTES {
            return wrong(format!("the client's name is longer than {} bytes", limits::LABEL_BYTES));
        }
        if self.dirty_bytes < DIRTY_LEAST {
            return wrong(format!("the write buffer must be at least {DIRTY_LEAST} bytes"));
        }
        let bounds = DiskCache::LEAST..=DiskCache::MOST;
        if self.disk_cache.as_ref().is_some_and(|disk| !bounds.contains(&disk.bytes)) {
            return wrong(format!("the disk cache must be {} to {} bytes", bounds.start(), bounds.end()));
        }
        let second = Duration::from_secs(1);
        let hour = Duration::from_secs(3600);
        for (name, value) in [("deadline", self.deadline), ("deadline for connecting", self.connect_deadline)] {
            if value < Duration::from_millis(100) || value > hour {
                return wrong(format!("the {name} must be between 0.1 s and an hour, not {value:?}"));
            }
        }
        if self.ttl > 10 * second {
            return wrong(format!("the time to live must be at most 10 s, not {:?}", self.ttl));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_each_bound_is_checked() {
        let good = ClientConfig::default();
        assert_eq!(good.validate(), Ok(()));
        for meta in ["", "host", "host:", ":7400", "host:0", "host:70000"] {
            assert!(ClientConfig { meta: meta.into(), ..good.clone() }.validate().is_err(), "{meta}");
        }
        assert!(ClientConfig { client_name: "x".repeat(256), ..good.clone() }.validate().is_err());
        assert!(ClientConfig { dirty_bytes: 1 << 20, ..good.clone() }.validate().is_err());
        let disk = |bytes| Some(DiskCache { dir: "/x".into(), bytes });
        assert!(ClientConfig { disk_cache: disk(1 << 20), ..good.clone() }.validate().is_err());
        assert!(ClientConfig { disk_cache: disk(64 << 20), ..good.clone() }.validate().is_ok());
        assert!(ClientConfig { deadline: Duration::ZERO, ..good.clone() }.validate().is_err());
        assert!(ClientConfig { ttl: Duration::from_secs(60), ..good }.validate().is_err());
    }
}
