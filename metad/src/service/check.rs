//! The consistency check as a request: one at a time, and given up when nobody waits for it any more.

use dfs_proto::v1;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::Status;

use crate::kv::{KvError, Snapshot, Table, Visitor};
use crate::machine::check;
use crate::service::{Shared, fault};

/// Findings in one message.
const FINDINGS: usize = 100;
/// Messages of one check: all fit, so that it never waits for its reader.
const MESSAGES: usize = check::FINDINGS / FINDINGS + 2;

/// It takes memory and a thread: one is enough.
static ONE: Semaphore = Semaphore::const_new(1);

type Messages = mpsc::Receiver<Result<v1::CheckResponse, Status>>;

/// Begins a check of the state as it is now.
pub(super) fn begin(shared: &Shared) -> Result<Messages, Status> {
    let busy = |_| Status::resource_exhausted("a check is under way already; try again when it has ended");
    let one = ONE.try_acquire().map_err(busy)?;
    let (snapshot, shutdown) = (shared.engine.snapshot(), shared.shutdown.clone());
    let (tx, rx) = mpsc::channel(MESSAGES);
    tokio::task::spawn_blocking(move || {
        tell(&tx, &*snapshot, &shutdown);
        drop(one);
    });
    Ok(rx)
}

fn tell(
    tx: &mpsc::Sender<Result<v1::CheckResponse, Status>>,
    snapshot: &dyn Snapshot,
    shutdown: &watch::Receiver<bool>,
) {
    let unwanted = || tx.is_closed() || *shutdown.borrow();
    // There is room for all; an error means that the reader is gone.
    let send = |r| drop(tx.try_send(r));
    match check::check(&Wanted { snapshot, unwanted: &unwanted }) {
        Ok(report) => {
            for part in report.findings.chunks(FINDINGS) {
                send(Ok(v1::CheckResponse { findings: part.iter().map(words).collect(), ..Default::default() }));
            }
            send(Ok(v1::CheckResponse {
                findings: Vec::new(),
                done: true,
                inodes: report.inodes,
                extents: report.extents,
                chunks: report.chunks,
                missed: report.missed,
                more: report.wrong - report.findings.len() as u64,
            }));
        }
        Err(e) => send(Err(fault(e))),
    }
}

fn words(finding: &check::Finding) -> String {
    format!("table {}, key {}: {}", finding.table, finding.key, finding.what)
}

/// A state that fails to be read when nobody wants the result.
struct Wanted<'a> {
    snapshot: &'a dyn Snapshot,
    unwanted: &'a (dyn Fn() -> bool + Sync),
}

impl Wanted<'_> {
    fn look(&self) -> Result<(), KvError> {
        if (self.unwanted)() { Err(KvError::Other("nobody waits for this any more".into())) } else { Ok(()) }
    }
}

impl Snapshot for Wanted<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.look()?;
        self.snapshot.get(table, key)
    }

    fn visit(&self, table: Table, from: &[u8], until: Option<&[u8]>, visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.look()?;
        self.snapshot.visit(table, from, until, visitor)
    }

    fn visit_back(&self, table: Table, from: &[u8], until: &[u8], visitor: &mut Visitor<'_>) -> Result<(), KvError> {
        self.look()?;
        self.snapshot.visit_back(table, from, until, visitor)
    }

    fn multi_get(&self, keys: &[(Table, Vec<u8>)]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.look()?;
        self.snapshot.multi_get(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemKv;

    #[test]
    fn a_check_that_nobody_wants_ends() {
        let kv = MemKv::default();
        let (on, off) = (watch::channel(false).1, watch::channel(true).1);
        let run = |shutdown: &watch::Receiver<bool>| {
            let (tx, mut rx) = mpsc::channel(MESSAGES);
            tell(&tx, &kv, shutdown);
            rx.try_recv().unwrap()
        };
        assert!(run(&on).unwrap().done);
        assert!(run(&off).unwrap_err().message().contains("nobody waits"));
    }
}
