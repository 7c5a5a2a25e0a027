//! POSIX locks: among processes of one mount and between two, against what a local filesystem does.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_integration::daemon::Daemon;
use dfs_integration::tool::sh;

use crate::Scene;

/// What the scripts share: `ask` runs one lock call in a process of its own, `Keeper` is one that lives on.
const TOOLS: &str = r#"
import ctypes, errno, fcntl, os, signal, struct, subprocess, sys, time

def flock(kind, start, length):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)

R, W, U = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK

def call(fd, command, kind, start, length):
    try:
        return struct.unpack("hhqqi4x", fcntl.fcntl(fd, command, flock(kind, start, length)))
    except OSError as e:
        return errno.errorcode[e.errno]

def lock(fd, kind, start=0, length=0, wait=False):
    found = call(fd, fcntl.F_SETLKW if wait else fcntl.F_SETLK, kind, start, length)
    return found if isinstance(found, str) else "ok"

def get(fd, kind, start=0, length=0):
    found = call(fd, fcntl.F_GETLK, kind, start, length)
    if isinstance(found, str): return found
    return "free" if found[0] == U else (found[0], found[2], found[3], found[4])

def done(what, *args):
    try:
        what(*args)
        return "ok"
    except OSError as e:
        return errno.errorcode[e.errno]

class Keeper:
    "A process that has the file open and does what it is told, one line each."
    def __init__(self, path):
        self.path = path
        self.p = subprocess.Popen([sys.executable, "-c", TOOLS + KEEPER, path], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True, bufsize=1)
    def tell(self, line):
        self.p.stdin.write(line + "\n")
    def hear(self):
        return self.p.stdout.readline().strip()
    def __call__(self, line):
        self.tell(line)
        return self.hear()
    def end(self):
        self.p.stdin.close()
        self.p.wait()

KEEPER = '''
fd = os.open(sys.argv[1], os.O_RDWR)
for line in sys.stdin:
    print(eval(line), flush=True)
'''

def soon(what, look, good):
    until = time.time() + 5
    while True:
        found = look()
        if good(found): return found
        assert time.time() < until, (what, found)
        time.sleep(0.02)
"#;

/// Runs a script with a path on each of some mounts as its arguments.
fn python(script: &str, paths: &[&Path]) -> Result<String> {
    let tools = format!("TOOLS = {}\nexec(TOOLS)\n", python_text(TOOLS));
    let out =
        Command::new("timeout").args(["120", "python3", "-c", &format!("{tools}{script}")]).args(paths).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{}\n{text}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(text)
}

/// The text as a literal of Python.
fn python_text(text: &str) -> String {
    let escaped: String = text.chars().flat_map(char::escape_default).collect();
    format!("\"{escaped}\"")
}

/// The same script between two paths of one file, which may be on two mounts; it prints what it saw.
const RULES: &str = r#"
a, b = Keeper(sys.argv[1]), Keeper(sys.argv[2])
def show(*args): print(*args, flush=True)
show("shared", a("lock(fd, R, 0, 100)"), b("lock(fd, R, 50, 100)"))
show("upgrade", a("lock(fd, W, 0, 100)"), a("lock(fd, W, 0, 50)"), b("lock(fd, R, 0, 50)"))
show("split", a("lock(fd, U, 10, 10)"), b("lock(fd, W, 10, 10)"), b("lock(fd, W, 9, 1)"), b("lock(fd, W, 20, 1)"))
show("downgrade", a("lock(fd, R, 0, 10)"), b("lock(fd, R, 0, 10)"), b("lock(fd, W, 0, 10)"), a("lock(fd, R, 0, 10)"))
show("unlock", b("lock(fd, U)"), a("lock(fd, W)"), b("lock(fd, R, 1 << 62, 1)"))
show("get", b("get(fd, R, 5, 1)[:3]"), a("get(fd, W)"))
show("to the end", a("lock(fd, U, 0, 1000)"), b("lock(fd, W, 0, 1000)"), b("lock(fd, W, 999, 2)"))
show("merge", b("lock(fd, U)"), a("[lock(fd, U), lock(fd, R, 0, 10), lock(fd, R, 20, 10), lock(fd, R, 10, 10)]"), b("get(fd, W)[:3]"), b("get(fd, R)"))
# A file closed through any descriptor loses all locks of that process.
show("close", a("lock(fd, W)"), a("os.close(os.open(sys.argv[1], os.O_RDONLY))"), b("lock(fd, W)"))
# A child has none of its parent's locks, and its end takes none away.
show("fork", a("os.waitpid(os.spawnv(os.P_NOWAIT, '/bin/true', ['true']), 0)[1]"), a("lock(fd, R)"), b("lock(fd, R)"))
b.end()
show("exit", a("lock(fd, W)"))
c = Keeper(sys.argv[2])
show("kill", c("lock(fd, R)"))
a.p.kill(); a.p.wait()
show("killed", soon("a killed process keeps its lock", lambda: c("lock(fd, W)"), lambda l: l == "ok"))
show("flock", c("fcntl.flock(fd, fcntl.LOCK_EX)"))
show("bad", c("lock(fd, 77)"), c("lock(fd, R, -5, 3)"))
c.end()
"#;

/// docs/semantics.md: "POSIX locks (`fcntl`: `F_SETLK`, `F_SETLKW`, `F_GETLK`) work between all mounts".
/// docs/semantics.md: "byte ranges, shared and exclusive, with the splitting and merging of POSIX".
/// docs/semantics.md: "They belong to the process".
/// docs/semantics.md: "and end with it".
#[test]
fn ranges_kinds_and_owners_are_those_of_a_local_filesystem() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.cluster.mount("other")?;
    let local = scene.cluster.dir().join("local");
    for path in [scene.path("f"), local.clone()] {
        fs::write(path, b"some bytes")?;
    }
    let expected = python(RULES, &[&local, &local])?;
    ensure!(expected.contains("close ok None ok"), "{expected}");
    for two in [scene.path("f"), other.path.join("f")] {
        let got = python(RULES, &[&scene.path("f"), &two])?;
        ensure!(got == expected, "{}:\n{got}\nlocally:\n{expected}", two.display());
    }
    drop(other);
    scene.finish()
}

/// docs/semantics.md: "are gone when its close of any descriptor of the file returns".
#[test]
fn a_close_returns_when_its_locks_are_gone_for_other_mounts_too() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.cluster.mount("other")?;
    fs::write(scene.path("f"), b"")?;
    // What was written under the lock has to be saved before.
    let script = r#"
a, b = Keeper(sys.argv[1]), Keeper(sys.argv[2])
for n in range(10):
    assert a("lock(fd, W)") == "ok"
    assert a("os.pwrite(fd, b'x' * (4 << 20), 0)") == str(4 << 20)
    assert a("os.close(os.open(sys.argv[1], os.O_RDONLY))") == "None"
    assert (b("lock(fd, W)"), b("lock(fd, U)")) == ("ok", "ok"), n
a.end()
b.end()
"#;
    python(script, &[&scene.path("f"), &other.path.join("f")])?;
    drop(other);
    scene.finish()
}

/// docs/semantics.md: "waits for metad two seconds at most".
#[test]
fn a_close_does_not_wait_for_a_metad_that_does_not_answer() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.cluster.mount("other")?;
    fs::write(scene.path("f"), b"")?;
    let script = r#"
a, b = Keeper(sys.argv[1]), Keeper(sys.argv[2])
metad = int(sys.argv[3])
assert a("lock(fd, W)") == "ok"
os.kill(metad, signal.SIGSTOP)
try:
    began = time.time()
    assert a("os.close(fd)") == "None"
    took = time.time() - began
finally:
    os.kill(metad, signal.SIGCONT)
assert took < 10, took
# It has not forgotten them.
soon("the lock of a closed file stays", lambda: b("lock(fd, W)"), lambda l: l == "ok")
a.end()
b.end()
"#;
    let metad = scene.cluster.metad.as_ref().map_or(0, Daemon::pid).to_string();
    python(script, &[&scene.path("f"), &other.path.join("f"), Path::new(&metad)])?;
    drop(other);
    scene.finish()
}

/// docs/semantics.md: "Waiting ends when the lock is free".
/// docs/semantics.md: "with a signal (`EINTR`".
/// docs/semantics.md: "or with `EDEADLK` when the holder waits".
#[test]
fn waiting_ends_with_the_lock_with_a_signal_or_is_refused_when_it_would_never_end() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.cluster.mount("other")?;
    for name in ["f", "g"] {
        fs::write(scene.path(name), b"")?;
    }
    let script = r#"
a, b = Keeper(sys.argv[1]), Keeper(sys.argv[2])
assert a("lock(fd, W)") == "ok"
# Woken, and soon.
b.tell("lock(fd, W, wait=True)")
time.sleep(0.5)
began = time.time()
assert a("lock(fd, U)") == "ok"
assert b.hear() == "ok"
assert time.time() - began < 1, time.time() - began
# Nobody else was held up meanwhile, and in their order.
more = [Keeper(sys.argv[1 + n % 2]) for n in range(6)]
for k in more:
    k.tell("lock(fd, R, wait=True)")
assert b("lock(fd, U)") == "ok"
assert [k.hear() for k in more] == ["ok"] * 6
for k in more: k.end()
# An alarm interrupts, and the program hears of it.
assert a("lock(fd, W)") == "ok"
c = Keeper(sys.argv[2])
assert c("[signal.signal(signal.SIGALRM, lambda *a: 1 / 0)] and None") == "None"
began = time.time()
c.tell("signal.setitimer(signal.ITIMER_REAL, 0.3) and 0 or lock(fd, W, wait=True)")
c.p.wait()
assert 0.2 < time.time() - began < 2, time.time() - began
# So does kill -9 of one that waits; the lock it waited for does not become its.
d = Keeper(sys.argv[2])
d.tell("lock(fd, W, wait=True)")
time.sleep(0.3)
began = time.time()
d.p.kill(); d.p.wait()
assert time.time() - began < 1
assert a("lock(fd, U)") == "ok"
time.sleep(0.3)
assert a("lock(fd, W)") == "ok"
# A ring of two, over two files and two mounts.
assert a("[globals().update(g=os.open(sys.argv[1][:-1] + 'g', os.O_RDWR))]") == "[None]"
assert b("[globals().update(g=os.open(sys.argv[1][:-1] + 'g', os.O_RDWR))]") == "[None]"
assert b("lock(g, W)") == "ok"
b.tell("lock(fd, W, wait=True)")
time.sleep(0.3)
assert a("lock(g, W, wait=True)") in ("EDEADLK", "EDEADLOCK")
assert a("lock(fd, U)") == "ok"
assert b.hear() == "ok"
a.end(); b.end()
"#;
    python(script, &[&scene.path("f"), &other.path.join("f")])?;
    drop(other);
    scene.finish()
}

/// docs/semantics.md: "go with the last descriptor of the open file".
#[test]
fn locks_of_an_open_file_go_with_it() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.cluster.mount("other")?;
    fs::write(scene.path("f"), b"")?;
    let script = r#"
def ofd(fd, kind, start=0, length=0):
    try:
        fcntl.fcntl(fd, 37, flock(kind, start, length))
        return "ok"
    except OSError as e:
        return errno.errorcode[e.errno]
one, two = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[2], os.O_RDWR)
assert ofd(one, W) == "ok" and ofd(two, R) == "EAGAIN"
os.close(os.dup(one))
os.close(os.open(sys.argv[1], os.O_RDWR))
assert ofd(two, R) == "EAGAIN"
os.close(one)
soon("the lock of a closed file stays", lambda: ofd(two, R), lambda l: l == "ok")
"#;
    for two in [scene.path("f"), other.path.join("f")] {
        python(script, &[&scene.path("f"), &two])?;
    }
    drop(other);
    scene.finish()
}

/// A process that has locked a file until it is dropped.
struct Holder(Child);

impl Holder {
    /// Returns when it has the lock.
    fn start(scene: &Scene, file: &Path) -> Result<Self> {
        let ready = scene.cluster.dir().join("ready");
        let script =
            "a = Keeper(sys.argv[1]); assert a('lock(fd, W)') == 'ok'; open(sys.argv[2], 'w').close(); time.sleep(600)";
        let tools = format!("TOOLS = {}\nexec(TOOLS)\n{script}", python_text(TOOLS));
        let holder = Self(Command::new("python3").args(["-c", &tools]).args([file, &ready]).spawn()?);
        let until = Instant::now() + Duration::from_secs(30);
        while !ready.exists() {
            ensure!(Instant::now() < until, "the lock was not taken");
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::remove_file(ready)?;
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        let _gone = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// docs/semantics.md: "a restart of metad takes none away".
/// docs/semantics.md: "They end with their session: when the mount ends".
#[test]
fn locks_outlive_metad_and_end_with_their_mount() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut other = scene.cluster.mount("other")?;
    fs::write(scene.path("f"), b"")?;
    let holder = Holder::start(&scene, &other.path.join("f"))?;
    let taken = "a = Keeper(sys.argv[1]); assert a('lock(fd, W)') == 'EAGAIN'; a.end()";
    python(taken, &[&scene.path("f")])?;
    if let Some(mut metad) = scene.cluster.metad.take() {
        metad.kill9()?;
    }
    scene.cluster.start_missing()?;
    python(taken, &[&scene.path("f")])?;
    // The end of the process that serves the mount ends its session, in order.
    other.daemon.terminate(Duration::from_secs(60))?;
    python("a = Keeper(sys.argv[1]); assert a('lock(fd, W, wait=True)') == 'ok'; a.end()", &[&scene.path("f")])?;
    drop(holder);
    drop(other);
    scene.finish()
}

/// Who asks for the locks of a mount that died is not told of them: what was done under them and not saved is gone, and
/// nobody is there who could give them up.
/// docs/semantics.md: "one that died, as soon as its machine mounts the filesystem again".
/// docs/semantics.md: "Meanwhile `F_GETLK` does not answer (up to 20 s)".
#[test]
fn locks_of_a_dead_mount_are_nobodys() -> Result<()> {
    let scene = Scene::new()?;
    fs::write(scene.path("f"), b"")?;
    let mut other = scene.cluster.mount("other")?;
    let holder = Holder::start(&scene, &other.path.join("f"))?;
    other.kill9()?;
    // It may be a mount that comes back: the answer waits until that is known.
    let began = Instant::now();
    let got =
        python("a = Keeper(sys.argv[1]); print(a('get(fd, W)'), a('lock(fd, W)')); a.end()", &[&scene.path("f")])?;
    ensure!(got.trim() == "free ok", "{got}");
    ensure!(began.elapsed() > Duration::from_secs(5), "metad cannot know that so soon: {:?}", began.elapsed());
    drop(holder);

    // On the same machine the next mount knows it at once.
    let mut other = scene.cluster.mount("other")?;
    let holder = Holder::start(&scene, &other.path.join("f"))?;
    other.kill9()?;
    let next = scene.cluster.mount("next")?;
    let began = Instant::now();
    let got = python("a = Keeper(sys.argv[1]); print(a('lock(fd, W)')); a.end()", &[&scene.path("f")])?;
    ensure!(got.trim() == "ok", "{got}");
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(holder);
    drop(next);
    scene.finish()
}

/// Who had the lock writes what he would have written, and must not destroy what the next one wrote.
const STANDSTILL: &str = r#"
a, b = Keeper(sys.argv[1]), Keeper(sys.argv[2])
assert a("lock(fd, W)") == a("done(os.pwrite, fd, b'a' * 4096, 0)") == a("done(os.fsync, fd)") == "ok"
os.kill(mount, signal.SIGSTOP)
try:
    began = time.time()
    assert b("lock(fd, W, wait=True)") == "ok"
    took = time.time() - began
    assert b("os.pread(fd, 4096, 0) == b'a' * 4096") == "True"
    assert b("done(os.pwrite, fd, b'b' * 4096, 0)") == b("done(os.fsync, fd)") == b("lock(fd, U)") == "ok"
finally:
    os.kill(mount, signal.SIGCONT)
# Before the thirty seconds of one that is silent, when its connection is found dead; never at once.
assert 5 < took < 60, took
# Not at once: it has to learn of it.
told = lambda: [a("done(os.pwrite, fd, b'a' * 10, 100)"), a("done(os.fsync, fd)")]
soon("nobody says that the lock is lost", told, lambda found: "EIO" in found)
assert a("lock(fd, R)") == "ok"
assert a("os.pread(fd, 4096, 0) == b'b' * 4096") == "True", "written under a lock that was lost"
# It is said once; then all goes on as before.
assert a("lock(fd, W)") == a("done(os.pwrite, fd, b'c' * 4096, 0)") == a("done(os.fsync, fd)") == a("lock(fd, U)") == "ok"
assert b("lock(fd, R)") == "ok" and b("os.pread(fd, 4096, 0) == b'c' * 4096") == "True"
"#;

/// docs/semantics.md: "loses them after ten seconds, one that is silent after thirty".
/// docs/semantics.md: "the next write, fsync or close of each file that was locked fails with `EIO`".
#[test]
fn a_mount_that_stood_still_and_lost_its_locks_says_so_and_writes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    fs::write(scene.path("f"), b"")?;
    let other = scene.cluster.mount("other")?;
    let script = format!("mount = {}\n{STANDSTILL}", other.daemon.pid());
    python(&script, &[&other.path.join("f"), &scene.path("f")])?;
    drop(other);
    scene.finish()
}

/// docs/semantics.md: "Taking a lock drops what this mount had cached of the file".
/// docs/semantics.md: "first saves and commits all that was written to the file".
/// docs/semantics.md: "what is done under a lock is seen by whoever has it next".
/// docs/semantics.md: "sees at once all that was done to the file under the lock before".
#[test]
fn what_is_done_under_a_lock_is_seen_by_the_next_who_has_it() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.cluster.mount("other")?;
    // Nobody has a lock yet: saved, so that both mounts begin with it.
    fs::write(scene.path("f"), b"0")?;
    fs::File::open(scene.path("f"))?.sync_all()?;
    let script = r#"
WORKER = '''
fd = os.open(sys.argv[1], os.O_RDWR)
for n in range(int(sys.argv[2])):
    assert lock(fd, W, wait=True) == "ok"
    # A file that grows, changes in place and shrinks.
    old = os.pread(fd, 1000, 0)
    assert len(old) == os.fstat(fd).st_size, (old, os.fstat(fd).st_size)
    value, size = int(old.split()[0]) + 1, len(old)
    new = str(value).encode() + b" " * (value * 7 % 300)
    if len(new) < size: os.ftruncate(fd, len(new))
    os.pwrite(fd, new, 0)
    assert lock(fd, U) == "ok"
'''
began = time.time()
workers = [subprocess.Popen([sys.executable, "-c", TOOLS + WORKER, sys.argv[1 + n % 2], "40"]) for n in range(8)]
assert [w.wait() for w in workers] == [0] * 8
assert lock(os.open(sys.argv[1], os.O_RDWR), R) == "ok"
found = int(open(sys.argv[1]).read().split()[0])
assert found == 8 * 40, found
print(time.time() - began)
"#;
    let took = python(script, &[&scene.path("f"), &other.path.join("f")])?;
    eprintln!("320 increments by 8 processes on two mounts took {} s", took.trim());
    drop(other);
    scene.finish()
}

/// docs/semantics.md: "what sqlite needs with a rollback journal".
#[test]
fn sqlite_has_two_writers_on_two_mounts() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.cluster.mount("other")?;
    sh(
        &scene.mount.path,
        "sqlite3 db 'pragma journal_mode=delete; create table t(who, n); create table c(n); insert into c values(0)'",
    )?;
    let script = r#"
import sqlite3
WORKER = '''
import sqlite3, sys
db = sqlite3.connect(sys.argv[1] + "/db", timeout=100, isolation_level=None)
for n in range(30):
    db.execute("begin immediate")
    db.execute("insert into t values (?, ?)", (sys.argv[2], n))
    db.execute("update c set n = n + 1")
    if n % 5 == 4: db.execute("rollback")
    else: db.execute("commit")
    count, rows = db.execute("select (select n from c), (select count(*) from t)").fetchone()
    assert count == rows, (count, rows)
'''
workers = [subprocess.Popen([sys.executable, "-c", WORKER, sys.argv[1 + n % 2], str(n)]) for n in range(2)]
assert [w.wait() for w in workers] == [0] * 2
for path in sys.argv[1:]:
    db = sqlite3.connect(path + "/db")
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert db.execute("select (select n from c), (select count(*) from t)").fetchone() == (48, 48)
"#;
    python(script, &[&scene.mount.path, &other.path])?;
    drop(other);
    scene.finish()
}

/// docs/semantics.md: "`flock` is local to the mount: it excludes nobody on another one".
/// docs/semantics.md: "`flock` and `fcntl` locks look the same in the library".
#[test]
fn flock_excludes_on_one_mount_alone() -> Result<()> {
    let scene = Scene::new()?;
    let mut other = scene.cluster.mount("other")?;
    sh(&scene.mount.path, "touch file")?;
    let elsewhere = other.path.join("file");
    sh(
        &scene.mount.path,
        &format!("exec 9< file; flock -x 9; not flock -n -x file true; flock -n -x {} true", elsewhere.display()),
    )?;
    other.unmount()?;
    scene.finish()
}

/// One holds the lock, more wait for it than the mount has threads, and everything else goes on.
const WAITERS: &str = r#"
import fcntl, os, subprocess, sys, time
path = sys.argv[1]
wait = "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR); print(flush=True); fcntl.lockf(fd, fcntl.LOCK_EX)"
fd = os.open(path, os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX)
waiters = [subprocess.Popen([sys.executable, "-c", wait, path], stdout=subprocess.PIPE) for _ in range(12)]
for waiter in waiters: waiter.stdout.readline()
time.sleep(0.5)
begin, other = time.time(), path + ".other"
for n in range(20):
    with open(other, "w") as file: file.write(str(n))
    assert os.stat(other).st_size == len(str(n)) and "f.other" in os.listdir(os.path.dirname(path))
assert time.time() - begin < 20 and all(waiter.poll() is None for waiter in waiters)
fcntl.lockf(fd, fcntl.LOCK_UN)
assert [waiter.wait(60) for waiter in waiters] == [0] * 12
"#;

#[test]
fn who_waits_for_a_lock_keeps_no_thread_of_the_mount() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.mount.unmount()?;
    scene.mount = scene.cluster.mount_with("mnt", &["--threads", "1"])?;
    fs::write(scene.path("f"), "content")?;
    python(WAITERS, &[&scene.path("f")])?;
    scene.finish()
}

/// Who holds a lock is told by its process on the same mount, and by 0 on another.
const HOLDERS: &str = r#"
a, b, c = Keeper(sys.argv[1]), Keeper(sys.argv[1]), Keeper(sys.argv[2])
assert a("lock(fd, W, 3, 4)") == "ok"
assert eval(b("get(fd, R)")) == (W, 3, 4, a.p.pid), b("get(fd, R)")
assert eval(c("get(fd, R)")) == (W, 3, 4, 0), c("get(fd, R)")
for keeper in (a, b, c): keeper.end()
"#;

/// docs/semantics.md: "`F_GETLK` tells the process if it is on the same mount, else 0".
#[test]
fn the_holder_of_a_lock_is_told_by_its_process_on_one_mount() -> Result<()> {
    let scene = Scene::new()?;
    let mut other = scene.cluster.mount("other")?;
    fs::write(scene.path("f"), "content")?;
    python(HOLDERS, &[&scene.path("f"), &other.path.join("f")])?;
    other.unmount()?;
    scene.finish()
}
