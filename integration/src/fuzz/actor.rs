//! One actor of one side: a thread that is a process in all that a filesystem sees. It has its own descriptors,
//! working directory, root, umask and credentials, and locks of its own.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::outcome::Outcome;
use super::perform::{Performer, Shared};
use super::step::Step;
use super::syscall;

/// Longer than any call may take: the client gives up after 30 s.
const DEADLINE: Duration = Duration::from_secs(90);

/// Who an actor is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: &'static [u32],
}

/// The actors of each side: two that may do all, two that may not.
pub const IDENTITIES: [Identity; 4] = [
    Identity { uid: 0, gid: 0, groups: &[] },
    Identity { uid: 1000, gid: 1000, groups: &[2000] },
    Identity { uid: 0, gid: 0, groups: &[] },
    Identity { uid: 1001, gid: 1001, groups: &[1000] },
];

/// A running actor.
#[derive(Debug)]
pub struct Actor {
    ask: Option<SyncSender<Step>>,
    told: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
}

impl Actor {
    /// Starts one whose root is `root`.
    ///
    /// # Errors
    /// This process may not do so: it takes root.
    pub fn start(identity: Identity, root: &Path, shared: Arc<Shared>) -> Result<Self> {
        let (ask, asked) = sync_channel::<Step>(1);
        let (tell, told) = sync_channel(1);
        let root = CString::new(root.as_os_str().as_bytes())?;
        let (ready, is_ready) = sync_channel(1);
        let body = move || {
            let entered = enter(identity, &root).and_then(|()| Performer::new(shared));
            let mut performer = match entered {
                Ok(performer) => performer,
                Err(errno) => {
                    let _ = ready.send(Err(errno));
                    return;
                }
            };
            let _ = ready.send(Ok(()));
            while let Ok(step) = asked.recv() {
                if tell.send(performer.step(&step)).is_err() {
                    break;
                }
            }
            performer.leave();
        };
        let thread = std::thread::Builder::new().name(format!("actor-{}", identity.uid)).spawn(body)?;
        is_ready
            .recv()
            .context("an actor ended early")?
            .map_err(|errno| anyhow!("an actor cannot start: {}", std::io::Error::from_raw_os_error(errno)))?;
        Ok(Self { ask: Some(ask), told, thread: Some(thread) })
    }

    /// Has it do a step.
    ///
    /// # Errors
    /// It does not come back: the call hangs.
    pub fn perform(&mut self, step: &Step) -> Result<Outcome> {
        let ask = self.ask.as_ref().context("an actor that hung is asked again")?;
        ask.send(step.clone()).context("an actor has ended")?;
        match self.told.recv_timeout(DEADLINE) {
            Ok(outcome) => Ok(outcome),
            Err(RecvTimeoutError::Timeout) => {
                // It cannot be waited for any more.
                drop(self.thread.take());
                self.ask = None;
                bail!("hangs for more than {DEADLINE:?}: {step}")
            }
            Err(RecvTimeoutError::Disconnected) => bail!("an actor died in {step}"),
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say any more, also if it panicked.
            drop(thread.join());
        }
    }
}

fn enter(identity: Identity, root: &CString) -> Result<(), i32> {
    syscall::become_own()?;
    syscall::chroot(root)?;
    syscall::chdir(c"/")?;
    syscall::umask(0o022)?;
    syscall::become_user(identity.uid, identity.gid, identity.groups)?;
    Ok(())
}
