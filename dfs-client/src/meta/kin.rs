//! Sessions of clients that died on this machine: their locks go at once, not when metad has waited long enough.
//!
//! A client names its process in the description of its session: the boot of the kernel, the namespace of process ids, the
//! id, and when it began. Who comes later and sees the same boot and the same namespace can tell whether that process
//! still runs; of all others, and of those of whom the kernel does not speak plainly, nobody here says that they are dead.

use std::fs;
use std::time::Duration;

use dfs_core::limits::LABEL_BYTES;
use dfs_proto::v1;
use dfs_proto::v1::meta_client::MetaClient as Wire;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

/// How long all of it may hold up a mount.
const LONGEST: Duration = Duration::from_secs(5);

/// A process, for all who share its kernel and its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    boot: String,
    namespace: u64,
    pid: u32,
    /// Clock ticks since boot.
    began: u64,
}

impl Process {
    /// This one; `None` where `/proc` does not say, or is that of another namespace.
    fn own() -> Option<Self> {
        if fs::read_link("/proc/self").ok()?.to_str()? != std::process::id().to_string() {
            return None;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let link = fs::read_link("/proc/self/ns/pid").ok()?;
        let namespace = link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()?;
        let pid = std::process::id();
        Some(Self { boot: boot.trim().to_owned(), namespace, pid, began: stat(pid)?.1 })
    }

    fn mark(&self) -> String {
        format!(" [{} {} {} {}]", self.boot, self.namespace, self.pid, self.began)
    }

    /// Out of the description of a session.
    fn parse(client: &str) -> Option<Self> {
        let (_, mark) = client.strip_suffix(']')?.rsplit_once(" [")?;
        let mut words = mark.split(' ');
        let process = Self {
            boot: words.next()?.to_owned(),
            namespace: words.next()?.parse().ok()?,
            pid: words.next()?.parse().ok()?,
            began: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(process)
    }

    /// Whether another process is seen from here, and gone.
    fn sees_dead(&self, other: &Self) -> bool {
        self.boot == other.boot
            && self.namespace == other.namespace
            // What `/proc` hides (`hidepid`) is not gone.
            && (is_nobodys(other.pid) || stat(other.pid).is_some_and(|(ended, began)| ended || began != other.began))
    }
}

/// Whether there is no process of this id in this namespace.
#[allow(unsafe_code)]
fn is_nobodys(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 only asks whether there is such a process; it takes numbers.
    pid > 0
        && unsafe { libc::kill(pid, 0) } == -1
        && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

/// Whether a process has ended and was not waited for, and when it began; `None` if that cannot be read.
fn stat(pid: u32) -> Option<(bool, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything; behind it the state is field 3, the begin field 22.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let ended = fields.next()? == "Z";
    Some((ended, fields.nth(18)?.parse().ok()?))
}

/// A description with the mark of this process, if both fit.
pub(super) fn marked(name: &str) -> String {
    let mark = Process::own().map(|p| p.mark()).unwrap_or_default();
    let mut name = name.to_owned();
    while name.len() + mark.len() > LABEL_BYTES && name.pop().is_some() {}
    name + &mark
}

/// Ends the sessions of clients that died here. What cannot be done is left to metad's patience.
pub(super) async fn bury_dead(wire: &Wire<Channel>) {
    let Some(own) = Process::own() else { return };
    if timeout(LONGEST, bury(own, wire.clone())).await.is_err() {
        tracing::warn!("metad did not end the sessions of dead clients in time");
    }
}

async fn bury(own: Process, mut wire: Wire<Channel>) {
    let sessions = match wire.status(v1::StatusRequest {}).await {
        Ok(status) => status.into_inner().sessions,
        Err(e) => return tracing::debug!(code = ?e.code(), reason = e.message(), "cannot look for dead clients"),
    };
    let is_dead = |s: &v1::SessionStatus| Process::parse(&s.client).is_some_and(|other| own.sees_dead(&other));
    let ends = sessions.into_iter().filter(is_dead).map(|s| end(wire.clone(), s));
    futures::future::join_all(ends).await;
}

/// Takes the session over, and ends it.
async fn end(mut wire: Wire<Channel>, dead: v1::SessionStatus) {
    let hello = v1::Hello { protocol: dfs_proto::PROTOCOL, session: dead.id, ..Default::default() };
    let close = v1::SessionRequest { hello: Some(hello), close: true, ..Default::default() };
    let ended = async {
        let mut answers = wire.session(tokio_stream::once(close)).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    match ended.await {
        Ok(()) => tracing::info!(session = dead.id, client = dead.client, "ended the session of a dead client"),
        Err(e) => tracing::warn!(session = dead.id, reason = e.message(), "cannot end the session of a dead client"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_the_living_are_seen() {
        let own = Process::own().unwrap();
        let client = marked("host [a] at /mnt");
        assert_eq!(Process::parse(&client), Some(own.clone()));
        assert!(!own.sees_dead(&own));
        let long = marked(&"ü".repeat(LABEL_BYTES));
        assert!(long.len() <= LABEL_BYTES && Process::parse(&long) == Some(own));
        for none in ["", "host pid 7", "host [x]", "h [b 1 2]", "h [b 1 2 3 4]", "h [b x 2 3]"] {
            assert_eq!(Process::parse(none), None, "{none}");
        }
    }

    #[test]
    fn only_who_is_seen_from_here_and_gone_is_dead() {
        let own = Process::own().unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let other = Process { pid: child.id(), began: stat(child.id()).unwrap().1, ..own.clone() };
        assert!(!own.sees_dead(&other));
        assert!(own.sees_dead(&Process { began: other.began + 1, ..other.clone() }), "its id was given to another");
        child.kill().unwrap();
        let gone = std::time::Instant::now() + Duration::from_secs(10);
        while !own.sees_dead(&other) {
            assert!(std::time::Instant::now() < gone, "it is dead, though nobody has waited for it");
        }
        child.wait().unwrap();
        assert!(own.sees_dead(&other));
        assert!(!own.sees_dead(&Process { boot: "another".into(), ..other.clone() }));
        assert!(!own.sees_dead(&Process { namespace: own.namespace + 1, ..other }));
    }
}
