//! Requests that cannot be answered at once: a task each, with a deadline, and an ear for callers
//! that are to end.
//!
//! What was given up is as a rule not cut off in the middle: it runs on to its own end (the client's calls
//! have deadlines of their own), and what it then brings, such as an open handle, is put back. A caller that
//! heard of an error must not find later that its change happened after what it did next: see `Manner`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dfs_client::error::FsResult;
use fuser::Errno;
use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::caller;
use crate::complaints::Complaints;
use crate::metrics::Meters;
use crate::reply::{Answer, errno};

/// Tasks at once; the kernel itself bounds what is not a caller waiting.
const TASKS: usize = 16_384;
/// How often a task that waits looks whether its caller is to end.
const LOOK: Duration = Duration::from_millis(100);
/// How long a task may go on for nobody.
const LEFT_ALONE: Duration = Duration::from_secs(600);

/// How long a caller waits at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For most requests: the client's own deadline and a little more, so that its error comes first.
    pub call: Duration,
    /// For fsync and its like, which may have a whole buffer to save, and for changes, which may have to save a
    /// file first: longer than these ever take.
    pub sync: Duration,
}

/// How to give an operation up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// For a signal that asks a program to end, and at the deadline; it runs on to its end.
    Asks,
    /// The same, but only for a caller that is killed: one that goes on could be overtaken by what it gave up.
    Changes,
    /// For a signal and at the deadline; it is dropped and nothing has happened.
    Stops,
}

impl Limits {
    /// From the client's deadline for one call to a server.
    #[must_use]
    pub fn from_deadline(deadline: Duration) -> Self {
        Self { call: deadline + Duration::from_secs(5), sync: deadline * 4 }
    }
}

/// Starts tasks and counts them.
#[derive(Debug)]
pub struct Tasks {
    runtime: Handle,
    free: Arc<Semaphore>,
    complaints: Arc<Complaints>,
    meters: Meters,
}

impl Tasks {
    /// On this runtime.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        let free = Arc::new(Semaphore::new(TASKS));
        Self { runtime, free, complaints: Arc::default(), meters: Meters::new() }
    }

    /// Makes the runtime known to this thread, for calls that may start tasks.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Answers at once.
    pub(crate) fn now<T>(&self, reply: impl Answer<T>, result: FsResult<T>) {
        self.meters.fast.increment(1);
        reply.answer(result.map_err(|e| {
            self.complaints.hear(&e);
            errno(&e)
        }));
    }

    /// Answers thread `tid` when `op` is done, or with an error after `limit`; `undo` gets what comes too late, an error
    /// too.
    pub(crate) fn run<T, R, F, U>(&self, tid: u32, limit: Duration, manner: Manner, reply: R, op: F, undo: U)
    where
        T: Send,
        R: Answer<T>,
        F: Future<Output = FsResult<T>> + Send + 'static,
        U: FnOnce(FsResult<T>) + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            tracing::warn!("more than {TASKS} requests wait; one more is answered with EIO");
            return reply.answer(Err(Errno::EIO));
        };
        let (meters, complaints) = (self.meters.clone(), Arc::clone(&self.complaints));
        meters.tasks.increment(1);
        meters.in_flight.increment(1.0);
        self.runtime.spawn(async move {
            let _permit = permit;
            supervise(tid, limit, manner, reply, op, undo, &meters, &complaints).await;
            meters.in_flight.decrement(1.0);
        });
    }
}

#[allow(clippy::too_many_arguments)]
async fn supervise<T, R, F, U>(
    tid: u32,
    limit: Duration,
    manner: Manner,
    reply: R,
    op: F,
    undo: U,
    meters: &Meters,
    complaints: &Complaints,
) where
    R: Answer<T>,
    F: Future<Output = FsResult<T>>,
    U: FnOnce(FsResult<T>),
{
    let mut op = Box::pin(op);
    let end = Instant::now() + limit;
    let given_up = loop {
        let wait = LOOK.min(end.saturating_duration_since(Instant::now()));
        match timeout(wait, op.as_mut()).await {
            Ok(result) => {
                return reply.answer(result.map_err(|e| {
                    complaints.hear(&e);
                    errno(&e)
                }));
            }
            Err(_) if Instant::now() >= end => {
                meters.deadlines.increment(1);
                break Errno::EIO;
            }
            Err(_) if caller::wants_out(tid, manner == Manner::Changes) => {
                meters.interrupts.increment(1);
                break Errno::EINTR;
            }
            Err(_) => {}
        }
    };
    if manner == Manner::Stops {
        // Before the caller hears of it.
        drop(op);
        return reply.answer(Err(given_up));
    }
    reply.answer(Err(given_up));
    if let Ok(late) = timeout(LEFT_ALONE, op).await {
        undo(late);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_client::error::FsError;
    use std::sync::mpsc::{Sender, channel};

    struct Told(Sender<Result<u32, i32>>);

    impl Answer<u32> for Told {
        fn answer(self, result: Result<u32, Errno>) {
            self.0.send(result.map_err(Errno::code)).unwrap();
        }
    }

    fn tasks() -> (tokio::runtime::Runtime, Tasks) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tasks = Tasks::new(runtime.handle().clone());
        (runtime, tasks)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_and_an_error_reach_the_caller() {
        let (_runtime, tasks) = tasks();
        let (tx, rx) = channel();
        tasks.run(0, LONG, Manner::Asks, Told(tx.clone()), async { Ok(7) }, |_| panic!("not late"));
        assert_eq!(rx.recv().unwrap(), Ok(7));
        tasks.run(0, LONG, Manner::Asks, Told(tx), async { Err(FsError::NoSpace) }, |_| panic!("not late"));
        assert_eq!(rx.recv().unwrap(), Err(libc::ENOSPC));
    }

    #[test]
    fn at_the_deadline_the_caller_gets_eio_and_what_comes_late_is_put_back() {
        let (_runtime, tasks) = tasks();
        let (tx, rx) = channel();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (late_tx, late_rx) = channel();
        let op = async move {
            let _ = gone.await;
            Ok(9)
        };
        tasks.run(0, Duration::from_millis(20), Manner::Changes, Told(tx), op, move |n| {
            late_tx.send(n.unwrap()).unwrap()
        });
        assert_eq!(rx.recv().unwrap(), Err(libc::EIO));
        assert!(late_rx.try_recv().is_err());
        go.send(()).unwrap();
        assert_eq!(late_rx.recv().unwrap(), 9);
    }

    #[test]
    fn what_stops_is_gone_before_its_caller_hears_of_it() {
        let (_runtime, tasks) = tasks();
        let (tx, rx) = channel();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let op = async move {
            let _ = gone.await;
            Ok(9)
        };
        tasks.run(0, Duration::from_millis(20), Manner::Stops, Told(tx), op, |_| panic!("it has stopped"));
        assert_eq!(rx.recv().unwrap(), Err(libc::EIO));
        assert!(go.send(()).is_err(), "nobody waits for it any more");
    }

    #[test]
    fn a_panic_in_an_operation_does_not_use_up_a_place() {
        let (_runtime, tasks) = tasks();
        let (tx, rx) = channel();
        tasks.run(0, LONG, Manner::Asks, Told(tx), async { panic!("boom") }, |_| ());
        assert!(rx.recv().is_err(), "the reply is dropped, which the kernel sees as EIO");
        while tasks.free.available_permits() < TASKS {
            std::thread::yield_now();
        }
    }
}
