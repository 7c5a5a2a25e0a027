"""MooseFS: one master, three chunkservers, goal 3, the mount's default options.

Its chunkservers refuse loopback addresses, so all of it lives in a network namespace whose loopback device has
addresses of a private network.
"""

import subprocess

from .base import System, wait_until

NAMESPACE = "dfs-bench-moosefs"
MASTER = "10.213.7.1"
CHUNKSERVERS = ("10.213.7.11", "10.213.7.12", "10.213.7.13")


class MooseFs(System):
    name = "moosefs"
    guarantees = "3 copies in the chunkservers' memory; nothing is synced to a disk by fsync (hdd_fsync_before_close off, the default)"
    programs = ("mfsmaster", "mfschunkserver", "mfsmount", "mfscli", "mfssetgoal", "ip", "nsenter")

    def inside(self, *command, **options):
        # Only the network is another: with `ip netns exec` the mount would not be seen outside.
        return self.run("nsenter", f"--net=/run/netns/{NAMESPACE}", *command, **options)

    def up(self):
        self.prepare()
        subprocess.run(["ip", "netns", "del", NAMESPACE], stderr=subprocess.DEVNULL, check=False)
        self.run("ip", "netns", "add", NAMESPACE)
        self.inside("ip", "link", "set", "lo", "up")
        for address in (MASTER, *CHUNKSERVERS):
            self.inside("ip", "addr", "add", f"{address}/24", "dev", "lo")
        self.master()
        for number, address in enumerate(CHUNKSERVERS, 1):
            self.chunkserver(number, address)
        wait_until("three chunkservers", self.registered, 60)
        self.client()
        self.inside("mfssetgoal", "-r", "3", self.mount)
        self.inside("mfssettrashtime", "-r", "0", self.mount, check=False)

    def configure(self, name, **settings):
        path = self.path("etc", name)
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{key} = {value}\n" for key, value in settings.items())
        return path

    def master(self):
        with open(self.path("etc", "exports"), "w", encoding="utf-8") as file:
            file.write("* / rw,alldirs,admin,maproot=0:0\n* . rw\n")
        open(self.path("etc", "topology"), "w", encoding="utf-8").close()
        with open(self.path("master", "metadata.mfs"), "w", encoding="utf-8") as file:
            file.write("MFSM NEW")
        config = self.configure(
            "master", WORKING_USER="root", WORKING_GROUP="root", DATA_PATH=self.directory("master"),
            EXPORTS_FILENAME=self.path("etc", "exports"), TOPOLOGY_FILENAME=self.path("etc", "topology"),
            MATOML_LISTEN_HOST=MASTER, MATOCS_LISTEN_HOST=MASTER, MATOCL_LISTEN_HOST=MASTER)
        self.inside("mfsmaster", "-c", config, "start")

    def chunkserver(self, number, address):
        disks = self.path("etc", f"disks-{number}")
        with open(disks, "w", encoding="utf-8") as file:
            file.write("~" + self.directory(f"disk-{number}") + "\n")
        config = self.configure(
            f"chunkserver-{number}", WORKING_USER="root", WORKING_GROUP="root",
            DATA_PATH=self.directory(f"chunkserver-{number}"), HDD_CONF_FILENAME=disks, BIND_HOST=address,
            CSSERV_LISTEN_HOST=address, MASTER_HOST=MASTER, MASTER_RECONNECTION_DELAY=1)
        self.inside("mfschunkserver", "-c", config, "start")

    def registered(self):
        listing = self.inside("mfscli", "-H", MASTER, "-SCS", "-p", "-s|", check=False)
        return all(address in listing for address in CHUNKSERVERS)

    def client(self):
        self.inside("mfsmount", self.mount, "-H", MASTER)

    def remount(self):
        self.unmount()
        self.client()

    def down(self):
        self.unmount()
        for number in range(1, len(CHUNKSERVERS) + 1):
            self.inside("mfschunkserver", "-c", self.path("etc", f"chunkserver-{number}"), "stop", check=False)
        self.inside("mfsmaster", "-c", self.path("etc", "master"), "stop", check=False)
        self.run("ip", "netns", "del", NAMESPACE, check=False)
        self.remove()
