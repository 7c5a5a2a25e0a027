"""This project, as `dfs dev up` starts it: one metad, three chunkds, three replicas, one mount."""

import os

from .base import System

PORT = 17433


class Dfs(System):
    name = "dfs"
    guarantees = ("3 replicas, each byte read verified; fsync waits for the disks of all reachable replicas and a synced "
                  "log; create, rename and unlink are durable when they return")
    programs = ("dfs", "dfs-fuse", "metad", "chunkd")

    def up(self):
        self.prepare()
        self.run("dfs", "dev", "up", "--dir", self.path("cluster"), "--mount", self.mount, "--port", str(PORT))

    def remount(self):
        self.unmount()
        self.run("dfs-fuse", f"127.0.0.1:{PORT}", self.mount)

    def down(self):
        self.unmount()
        if os.path.isdir(self.path("cluster")):
            self.run("dfs", "dev", "down", "--dir", self.path("cluster"))
        self.remove()
