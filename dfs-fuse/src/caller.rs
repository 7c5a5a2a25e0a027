//! Whether the process that waits for an answer wants to end.
//!
//! The FUSE library does not pass on the kernel's interrupts, so a caller whose request was read waits
//! for the answer even against SIGKILL. Therefore a handler that takes long looks itself. Only signals
//! by which someone ends a program count: many programs never expect EINTR from stat(2) or open(2)
//! on account of a timer or a child.

/// Signals by which someone asks a program to end: HUP, INT, QUIT, TERM.
const END: u64 = bit(libc::SIGHUP) | bit(libc::SIGINT) | bit(libc::SIGQUIT) | bit(libc::SIGTERM);
/// What a signal that ends a program becomes in each of its threads.
const KILL: u64 = bit(libc::SIGKILL);

const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// Whether thread `tid` has a signal pending that should end its wait. 0 is nobody. With `killed`, only one after
/// which it does nothing more counts.
#[must_use]
pub fn wants_out(tid: u32, killed: bool) -> bool {
    let end = |status: String| is_ending(&status, killed);
    tid != 0 && std::fs::read_to_string(format!("/proc/{tid}/status")).is_ok_and(end)
}

/// The same from the text of `/proc/TID/status`.
fn is_ending(status: &str, killed: bool) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| u64::from_str_radix(l.trim_start_matches(':').trim(), 16).ok()).unwrap_or(0)
    };
    let pending = mask("SigPnd") | mask("ShdPnd");
    let heard = pending & !mask("SigBlk") & !mask("SigIgn");
    pending & KILL != 0 || (!killed && heard & END != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ending(status: &str) -> bool {
        super::is_ending(status, false)
    }

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64) -> String {
        format!(
            "Name:\tcat\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n"
        )
    }

    #[test]
    fn only_signals_that_end_a_program_count() {
        let int = bit(libc::SIGINT);
        assert!(!is_ending(&status(0, 0, 0, 0)));
        assert!(is_ending(&status(KILL, 0, 0, 0)));
        assert!(is_ending(&status(0, KILL, u64::MAX, u64::MAX)));
        assert!(is_ending(&status(int, 0, 0, 0)));
        assert!(is_ending(&status(0, int, 0, 0)));
        assert!(!is_ending(&status(int, 0, int, 0)));
        assert!(!is_ending(&status(int, 0, 0, int)));
        assert!(!is_ending(&status(bit(libc::SIGCHLD) | bit(libc::SIGALRM) | bit(libc::SIGURG), 0, 0, 0)));
        assert!(!is_ending("nonsense"));
    }

    #[test]
    fn who_changes_something_is_let_go_only_to_die() {
        let int = bit(libc::SIGINT);
        let is_killed = |status: String| super::is_ending(&status, true);
        assert!(!is_killed(status(int, int, 0, 0)));
        assert!(is_killed(status(int | KILL, 0, 0, 0)));
        assert!(is_killed(status(0, KILL, u64::MAX, 0)));
    }

    #[test]
    fn a_living_thread_without_signals_stays() {
        assert!(!wants_out(std::process::id(), false));
        assert!(!wants_out(0, false));
    }
}
