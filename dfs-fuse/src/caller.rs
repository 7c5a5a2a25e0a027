//! Whether the process that waits for an answer wants to end.
//!
//! The FUSE library does not pass on the kernel's interrupts, so a caller whose request was read waits
//! for the answer even against SIGKILL. Therefore a handler that takes long looks itself. Only signals
//! by which someone ends a program count: many programs never expect EINTR from stat(2) or open(2)
//! on account of a timer or a child. Who waits for a lock is another matter: any signal ends that.

use dfs_core::attr::Attr;

/// Signals by which someone asks a program to end: HUP, INT, QUIT, TERM.
const END: u64 = bit(libc::SIGHUP) | bit(libc::SIGINT) | bit(libc::SIGQUIT) | bit(libc::SIGTERM);
/// What a signal that ends a program becomes in each of its threads.
const KILL: u64 = bit(libc::SIGKILL);

/// Numbers of capabilities(7).
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_SYS_ADMIN: u32 = 21;

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

/// Whether thread `tid` has any signal to attend to; with `killed`, only one that kills it counts. A thread that does
/// not exist any more has.
#[must_use]
pub fn has_signal(tid: u32, killed: bool) -> bool {
    let pending = |status: &str| {
        let wanted = if killed { KILL } else { u64::MAX };
        heard(status) & wanted != 0
    };
    tid != 0 && status(tid).is_none_or(|status| pending(&status) || is_dead(&status))
}

fn status(tid: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{tid}/status")).ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn hex(status: &str, name: &str) -> u64 {
    field(status, name).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0)
}

/// Pending signals that are neither blocked nor ignored; that which kills can be neither.
fn heard(status: &str) -> u64 {
    let pending = hex(status, "SigPnd") | hex(status, "ShdPnd");
    pending & (!(hex(status, "SigBlk") | hex(status, "SigIgn")) | KILL)
}

fn is_dead(status: &str) -> bool {
    field(status, "State").is_some_and(|state| state.starts_with(['Z', 'X']))
}

/// Whether thread `tid` may set files of group `gid` setgid: it is in the group or has CAP_FSETID.
#[must_use]
pub fn keeps_setgid(tid: u32, gid: u32) -> bool {
    status(tid).is_some_and(|status| has_capability(&status, CAP_FSETID) || is_in_group(&status, gid))
}

/// Whether thread `tid` has CAP_SYS_ADMIN.
#[must_use]
pub fn is_administrator(tid: u32) -> bool {
    status(tid).is_some_and(|status| has_capability(&status, CAP_SYS_ADMIN))
}

/// Whether a chown by thread `tid`, which is not the owner's, would take setuid or setgid from a file that it may not
/// change: one with CAP_FOWNER may.
#[must_use]
pub fn loses_privileges(tid: u32, attr: &Attr) -> bool {
    status(tid).is_none_or(|status| !has_capability(&status, CAP_FOWNER) && would_lose(&status, attr))
}

/// setuid goes, and setgid with the group's right to execute or when the caller is not in the group.
fn would_lose(status: &str, attr: &Attr) -> bool {
    let setgid_stays = has_capability(status, CAP_FSETID) || is_in_group(status, attr.gid);
    attr.mode & 0o4000 != 0 || (attr.mode & 0o2000 != 0 && (attr.mode & 0o010 != 0 || !setgid_stays))
}

/// Calls that change the owner of a file. Older architectures have more of them.
#[cfg(target_arch = "x86_64")]
const CHOWN: &[libc::c_long] = &[libc::SYS_chown, libc::SYS_lchown, libc::SYS_fchown, libc::SYS_fchownat];
#[cfg(not(target_arch = "x86_64"))]
const CHOWN: &[libc::c_long] = &[libc::SYS_fchown, libc::SYS_fchownat];

/// How often, and how long apart, a thread that has not begun to wait yet is looked at.
const LOOKS: u32 = 5;
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(1);

/// Whether thread `tid`, which waits for an answer, is in chown(2) or one of its kind. What cannot be told counts as
/// that.
pub async fn is_in_chown(tid: u32) -> bool {
    for _ in 0..LOOKS {
        match std::fs::read_to_string(format!("/proc/{tid}/syscall")) {
            Ok(text) if text.starts_with("running") => tokio::time::sleep(LOOK_AGAIN).await,
            found => return found.map_or(true, |text| is_chown(&text)),
        }
    }
    true
}

/// The same from the text of `/proc/TID/syscall`: the number of the call comes first, -1 outside of any.
fn is_chown(syscall: &str) -> bool {
    let number = syscall.split_whitespace().next().and_then(|first| first.parse().ok());
    number.is_none_or(|number| number < 0 || CHOWN.contains(&number))
}

fn has_capability(status: &str, capability: u32) -> bool {
    hex(status, "CapEff") >> capability & 1 != 0
}

fn is_in_group(status: &str, gid: u32) -> bool {
    let numbers = |name| field(status, name).unwrap_or("").split_whitespace().map(|n| n.parse() == Ok(gid));
    // Real, effective, saved and that for files.
    numbers("Gid").nth(3) == Some(true) || numbers("Groups").any(|same| same)
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
    fn any_signal_that_is_heard_ends_a_wait_for_a_lock() {
        let alarm = bit(libc::SIGALRM);
        assert_eq!(heard(&status(alarm, 0, 0, 0)), alarm);
        assert_eq!(heard(&status(0, alarm, 0, 0)), alarm);
        assert_eq!(heard(&status(alarm, alarm, alarm, 0)) | heard(&status(alarm, 0, 0, alarm)), 0);
        assert_eq!(heard(&status(0, KILL, u64::MAX, u64::MAX)), KILL);
        assert!(is_dead("Name:\tx\nState:\tZ (zombie)\n") && !is_dead("State:\tD (disk sleep)\n"));
        assert!(!has_signal(std::process::id(), true) && has_signal(u32::MAX, false));
    }

    #[test]
    fn groups_and_capabilities_are_read_from_the_status() {
        let user = "Gid:\t5\t6\t7\t8\nGroups:\t20 30 \nCapEff:\t0000000000000000\n";
        assert!([8, 20, 30].iter().all(|gid| is_in_group(user, *gid)));
        assert!([5, 6, 7, 3, 0].iter().all(|gid| !is_in_group(user, *gid)));
        assert!(!has_capability(user, CAP_FSETID));
        assert!(has_capability("CapEff:\t0000000000200000\n", CAP_SYS_ADMIN));
        assert!(has_capability("CapEff:\t0000000000000010\n", CAP_FSETID));
    }

    #[test]
    fn setgid_without_group_execution_goes_for_who_is_not_in_the_group() {
        let status = "Gid:\t5\t5\t5\t5\nGroups:\t20 \nCapEff:\t0000000000000000\n";
        let lose = |mode, gid| would_lose(status, &attr(mode, gid));
        assert!(lose(0o4755, 20) && lose(0o2755, 20) && lose(0o2745, 21));
        assert!(!lose(0o755, 21) && !lose(0o2745, 20));
    }

    fn attr(mode: u32, gid: u32) -> Attr {
        let t = dfs_core::time::Timestamp::default();
        let (ino, kind) = (dfs_core::id::Ino(5), dfs_core::attr::FileKind::File);
        Attr {
            ino,
            kind,
            mode,
            uid: 0,
            gid,
            nlink: 1,
            size: 0,
            stored: 0,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
            rdev: 0,
            change: 1,
            data: 1,
            xattrs: false,
        }
    }

    #[test]
    fn a_call_is_told_by_its_number() {
        assert!(is_chown(&format!("{} 0x3 0xffffffff\n", libc::SYS_fchown)) && is_chown("-1 0x7ffd 0x7fa3\n"));
        assert!(is_chown("nonsense"));
        assert!(!is_chown(&format!("{} 0x3 0x7fa3\n", libc::SYS_pwrite64)) && !is_chown("0 0x3"));
    }

    #[test]
    fn a_living_thread_without_signals_stays() {
        assert!(!wants_out(std::process::id(), false));
        assert!(!wants_out(0, false));
    }
}
