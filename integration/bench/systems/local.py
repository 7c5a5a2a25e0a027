"""The disk itself, through the filesystem that is on it: what the others stand on."""

from .base import System


class Local(System):
    name = "local"
    guarantees = "the local filesystem under the others: one copy, fsync reaches the disk"

    def up(self):
        self.prepare()

    def remount(self):
        """Nothing to mount: the caller drops the kernel's caches."""

    def down(self):
        self.remove()
