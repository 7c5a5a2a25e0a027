"""SeaweedFS: one master, three volume servers with three copies (002), one filer with its default store."""

import os
import shutil
import urllib.request

from .base import System, listens, wait_until

MASTER, FILER, VOLUMES = 19433, 18433, (18434, 18435, 18436)
HERE = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1")


class SeaweedFs(System):
    name = "seaweedfs"
    guarantees = "3 copies in the volume servers' page cache; nothing is synced to a disk by fsync"
    programs = ("weed",)

    def weed(self, name, *arguments):
        return self.start(name, "weed", "-logtostderr=true", "-v=0", *arguments)

    def up(self):
        self.prepare()
        self.weed("master", "master", *HERE, f"-port={MASTER}", "-peers=none", "-telemetry=false",
                  "-mdir=" + self.directory("master"), "-defaultReplication=002", "-volumeSizeLimitMB=1024")
        wait_until("the master", lambda: listens("127.0.0.1", MASTER))
        for number, port in enumerate(VOLUMES, 1):
            self.weed(f"volume-{number}", "volume", *HERE, f"-port={port}", f"-master=127.0.0.1:{MASTER}",
                      "-dir=" + self.directory(f"volume-{number}"), "-max=100", "-rack=r1", "-preStopSeconds=0")
        for port in VOLUMES:
            wait_until("a volume server", lambda port=port: listens("127.0.0.1", port))
        self.weed("filer", "filer", *HERE, f"-port={FILER}", f"-master=127.0.0.1:{MASTER}",
                  "-defaultStoreDir=" + self.directory("filer"), "-defaultReplicaPlacement=002")
        wait_until("the filer", lambda: listens("127.0.0.1", FILER), 60)
        wait_until("room for three copies", self.assigns, 60)
        self.client()

    @staticmethod
    def assigns():
        try:
            url = f"http://127.0.0.1:{MASTER}/dir/assign?replication=002"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return b'"fid"' in answer.read()
        except OSError:
            return False

    def client(self):
        self.weed("mount", "mount", f"-filer=127.0.0.1:{FILER}", "-dir=" + self.mount,
                  "-cacheDir=" + self.directory("cache"), "-localSocket=" + self.path("run", "mount.sock"))
        wait_until("the mount", lambda: os.path.ismount(self.mount))

    def remount(self):
        self.unmount()
        self.stop("mount", 20)
        shutil.rmtree(self.path("cache"), ignore_errors=True)
        self.client()

    def down(self):
        self.unmount()
        self.stop_all()
        self.remove()
