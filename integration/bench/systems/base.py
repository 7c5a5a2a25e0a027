"""What every system under measurement has in common: its processes, its mount, and a clean end.

Processes are started here, written down by pid, and ended by that pid. Everything listens on loopback addresses or in
a network namespace made for the purpose.
"""

import os
import shutil
import signal
import socket
import subprocess
import time


class Unavailable(Exception):
    """The programs of a system are not installed."""


class System:
    """One filesystem. `up` leaves it mounted at `self.mount`; `down` leaves nothing."""

    name = ""
    #: What the system was configured to guarantee, for the report.
    guarantees = ""
    #: Programs that must be on PATH.
    programs: tuple = ()

    def __init__(self, base):
        self.base = os.path.join(base, self.name)
        self.mount = os.path.join(base, self.name + ".mount")
        self.pids = {}

    def check(self):
        """Raises Unavailable when a program is missing."""
        missing = [p for p in self.programs if shutil.which(p) is None]
        if missing:
            raise Unavailable(f"{self.name}: not installed: {', '.join(missing)}")

    def prepare(self):
        self.remove()
        os.makedirs(self.base)
        os.makedirs(self.mount, exist_ok=True)

    def up(self):
        raise NotImplementedError

    def remount(self):
        """Unmounts and mounts again, so that nothing the client had cached is left."""
        raise NotImplementedError

    def down(self):
        raise NotImplementedError

    def remove(self):
        shutil.rmtree(self.base, ignore_errors=True)
        if os.path.isdir(self.mount) and not os.path.ismount(self.mount):
            shutil.rmtree(self.mount, ignore_errors=True)

    # Processes

    def path(self, *parts):
        path = os.path.join(self.base, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def directory(self, *parts):
        path = os.path.join(self.base, *parts)
        os.makedirs(path, exist_ok=True)
        return path

    def start(self, name, *command, env=None):
        """A daemon in a session of its own, logging to a file of its name."""
        with open(self.path("log", name), "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **(env or {})}, cwd=self.base)
        self.pids[name] = process
        return process

    def stop(self, name, seconds=15):
        process = self.pids.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self):
        for name in reversed(list(self.pids)):
            self.stop(name)

    def run(self, *command, timeout=60, env=None, check=True):
        """A command to its end; its output is in the error when it fails."""
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=timeout, env={**os.environ, **(env or {})}, cwd=self.base)
        if check and done.returncode != 0:
            raise RuntimeError(f"{command[0]}: exit {done.returncode}: {done.stdout.decode(errors='replace')[-800:]}")
        return done.stdout.decode(errors="replace")

    def unmount(self):
        for _ in range(100):
            if not os.path.ismount(self.mount):
                return
            if subprocess.run(["umount", self.mount], stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        subprocess.run(["umount", "-l", self.mount], check=False)


def wait_until(what, condition, seconds=30):
    """Polls until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def listens(host, port):
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), 1).close()
        return True
    except OSError:
        return False
