//! Signals, and what becomes of a child when its parent goes away.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Sends a signal to a process, or (a negative number) to a process group. To one that is gone it does nothing.
#[allow(unsafe_code)]
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: kill only takes numbers.
    unsafe { libc::kill(pid, signal) };
}

/// The child gets `signal` when the test process goes away without cleaning up.
#[allow(unsafe_code)]
pub(crate) fn die_with_parent(command: &mut Command, signal: i32) {
    // SAFETY: prctl is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal);
            Ok(())
        });
    }
}
