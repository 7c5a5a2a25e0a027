"""The machine as a measurement sees it: its processors, its disk, and whether it is quiet."""

import os
import subprocess
import time


def disk_of(path):
    """Name of the block device that holds `path`, or None."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    link = f"/sys/dev/block/{number}"
    if not os.path.exists(link):
        return None
    real = os.path.realpath(link)
    # Of a partition the whole disk counts flushes.
    return os.path.basename(os.path.dirname(real) if os.path.exists(os.path.join(real, "partition")) else real)


class Counters:
    """CPU seconds and disk traffic of everything that runs, between two moments."""

    def __init__(self, path):
        self.disk = disk_of(path)

    def read(self):
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(field) for field in file.readline().split()[1:]]
        # All but idle and waiting for I/O; guests are in user already.
        busy = sum(ticks[:3]) + sum(ticks[5:8])
        now = {"wall": time.monotonic(), "cpu": busy / os.sysconf("SC_CLK_TCK")}
        if self.disk:
            with open(f"/sys/block/{self.disk}/stat", encoding="ascii") as file:
                fields = [int(field) for field in file.read().split()]
            now.update(read_mib=fields[2] / 2048, written_mib=fields[6] / 2048)
            if len(fields) > 15:
                now["flushes"] = fields[15]
        return now

    @staticmethod
    def between(before, after):
        return {key: round(after[key] - before[key], 3) for key in before}


def drop_caches():
    """Page, dentry and inode caches of the whole machine; servers on it lose theirs too."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3\n")


def wait_for_quiet(seconds=120):
    """Waits until less than a sixth of one core is busy over 3 s. Returns how much was at the end, in cores."""
    counters = Counters("/")
    end = time.monotonic() + seconds
    while True:
        before = counters.read()
        time.sleep(3)
        done = Counters.between(before, counters.read())
        busy = done["cpu"] / done["wall"]
        if busy < 1 / 6 or time.monotonic() > end:
            return round(busy, 2)


def describe():
    """What it is, for the report."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) // (1 << 20)
    kernel = subprocess.run(["uname", "-r"], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    return f"{os.cpu_count()} cores ({model}), {memory} GiB, Linux {kernel}"
