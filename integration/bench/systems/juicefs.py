"""JuiceFS: metadata in one Redis with its append-only file on, data as files on the local disk: one copy, no network
between client and storage. Both are in its favour beside those that keep three copies."""

import os
import shutil

from .base import System, listens, wait_until

PORT = 17436
META = f"redis://127.0.0.1:{PORT}/1"


class JuiceFs(System):
    name = "juicefs"
    guarantees = "ONE copy; Redis syncs its log once a second, objects are not synced; a local disk cache for reads"
    programs = ("juicefs", "redis-server")

    def up(self):
        self.prepare()
        self.start("redis", "redis-server", "--bind", "127.0.0.1", "--port", str(PORT), "--dir", self.directory("redis"),
                   "--appendonly", "yes", "--save", "", "--daemonize", "no")
        wait_until("redis", lambda: listens("127.0.0.1", PORT))
        self.run("juicefs", "format", "--no-update", "--storage", "file", "--bucket", self.directory("objects") + "/",
                 META, "bench")
        self.client()

    def client(self):
        self.run("juicefs", "mount", "-d", "--no-usage-report", "--cache-dir", self.path("cache"),
                 "--log", self.path("log", "mount"), META, self.mount)
        wait_until("the mount", lambda: os.path.ismount(self.mount))

    def leave(self):
        if os.path.ismount(self.mount):
            # Saves what the client still holds.
            self.run("juicefs", "umount", "--flush", self.mount, timeout=120, check=False)
        self.unmount()

    def remount(self):
        self.leave()
        # With its disk cache a cold read would not be cold.
        shutil.rmtree(self.path("cache"), ignore_errors=True)
        self.client()

    def down(self):
        self.leave()
        self.stop_all()
        self.remove()
