"""GlusterFS: a replica-3 volume whose three bricks are on this host, FUSE mount, default options."""

import os
import subprocess

from .base import System, listens, wait_until

#: glusterd does not take 127.0.0.1 for a brick's host.
HOST = "127.0.0.2"
VOLUME = "bench"


class GlusterFs(System):
    name = "glusterfs"
    guarantees = "3 copies; fsync reaches the disks of all three bricks"
    programs = ("glusterd", "gluster", "glusterfs")

    def gluster(self, *arguments, **options):
        return self.run("gluster", "--mode=script", *arguments, **options)

    def up(self):
        self.prepare()
        for directory in ("/var/run/gluster", "/var/log/glusterfs/bricks"):
            os.makedirs(directory, exist_ok=True)
        options = {
            "working-directory": self.directory("glusterd"), "transport-type": "socket",
            "transport.address-family": "inet", "transport.socket.bind-address": HOST,
            "transport.socket.listen-port": "24007", "ping-timeout": "0", "max-port": "60999",
        }
        with open(self.path("glusterd.vol"), "w", encoding="utf-8") as file:
            file.write("volume management\n    type mgmt/glusterd\n")
            file.writelines(f"    option {key} {value}\n" for key, value in options.items())
            file.write("end-volume\n")
        self.start("glusterd", "glusterd", "--no-daemon", "--volfile=" + self.path("glusterd.vol"),
                   "--log-file=" + self.path("log", "glusterd.log"), "--log-level=WARNING")
        wait_until("glusterd", lambda: listens(HOST, 24007))
        wait_until("glusterd's answers", self.answers)
        bricks = [f"{HOST}:{self.directory(f'brick-{number}')}" for number in (1, 2, 3)]
        self.gluster("volume", "create", VOLUME, "replica", "3", "transport", "tcp", *bricks, "force")
        self.gluster("volume", "start", VOLUME)
        self.client()

    def answers(self):
        done = subprocess.run(["gluster", "--mode=script", "volume", "list"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False)
        return done.returncode == 0

    def client(self):
        self.run("glusterfs", "--process-name", "fuse", "--volfile-server=" + HOST, "--volfile-id=/" + VOLUME,
                 "--log-file=" + self.path("log", "mount.log"), self.mount)
        wait_until("the mount", lambda: os.path.ismount(self.mount))
        wait_until("the mount's answers", self.mount_answers)

    def mount_answers(self):
        try:
            os.stat(self.mount)
            return True
        except OSError:
            return False

    def remount(self):
        self.unmount()
        self.client()

    def down(self):
        self.unmount()
        self.gluster("volume", "stop", VOLUME, "force", check=False)
        self.gluster("volume", "delete", VOLUME, check=False)
        self.stop_all()
        self.remove()
