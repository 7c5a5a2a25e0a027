"""The workloads: the same on every filesystem, each step timed, with what it cost the machine.

Whatever is read back is compared with what was written: a filesystem that is fast and wrong fails its step.
"""

import json
import os
import shutil
import subprocess
import time

from machine import Counters, drop_caches

MIB = 1 << 20

#: key, what it is, unit, whether more is better (None: neither)
FIGURES = [
    ("seq_write", "sequential write of 1 GiB in 1 MiB, fsync included", "MiB/s", True),
    ("seq_read_cold", "sequential read, cold", "MiB/s", True),
    ("seq_read_warm", "sequential read again", "MiB/s", True),
    ("rand_read", "random 4 KiB reads, 4 threads, from cold", "IOPS", True),
    ("rand_read_p99", "... its p99 latency", "us", False),
    ("rand_write", "random 4 KiB writes, 10 s, fsync at the end", "IOPS", True),
    ("rand_write_sync", "random 4 KiB writes, fdatasync after each", "IOPS", True),
    ("rand_write_sync_p99", "... its p99 latency", "us", False),
    ("rand_write_sync_flushes", "... disk flushes for each fdatasync", "", None),
    ("cp_big", "cp of the 1 GiB file, cold", "s", False),
]
PHASES = [
    ("create", "create empty files"), ("stat", "stat after create"), ("write4k", "create and write 4 KiB"),
    ("read4k", "open and read 4 KiB, cold"), ("list", "readdir with stat, cold"), ("stat_cold", "stat, cold"),
    ("rename", "rename"), ("unlink", "unlink empty files"), ("unlink4k", "unlink 4 KiB files"),
    ("mkdir", "mkdir"), ("rmdir", "rmdir"),
]
for threads in (1, 4):
    FIGURES += [(f"{phase}_{threads}", f"{what}, {threads} thread{'s' * (threads > 1)}", "ops/s", True)
                for phase, what in PHASES]
FIGURES += [
    ("untar", "tar xf of a source tree", "s", False),
    ("find", "find, cold", "s", False),
    ("grep", "grep -r after it", "s", False),
    ("cp_tree", "cp -r inside", "s", False),
    ("rm_trees", "rm -rf of both trees", "s", False),
]


class Workloads:
    """Runs all of them in a directory of their own below `system.mount`."""

    def __init__(self, system, small_files, tree, log):
        self.system = system
        self.small_files = small_files
        self.tree = tree
        self.log = log
        self.dir = os.path.join(system.mount, "bench")
        self.counters = Counters(os.path.dirname(system.mount))
        self.figures = {}
        self.costs = {}
        self.errors = {}

    def all(self):
        os.makedirs(self.dir)
        for part in (self.one_large_file, self.many_small_files, self.a_tree):
            try:
                part()
            except Exception as error:  # a filesystem that fails is a result
                self.errors.setdefault(part.__name__, str(error)[:500])
        shutil.rmtree(self.dir, ignore_errors=True)
        return {"figures": self.figures, "costs": self.costs, "errors": self.errors}

    def step(self, name, work):
        self.log(f"{self.system.name}: {name}")
        before = self.counters.read()
        try:
            work()
        except Exception as error:
            self.errors[name] = str(error)[:500]
            self.log(f"{self.system.name}: {name} FAILED: {str(error)[:200]}")
        self.costs[name] = Counters.between(before, self.counters.read())

    def cold(self):
        self.system.remount()
        drop_caches()
        # The first look at a mount is not what is measured.
        os.stat(self.system.mount)
        time.sleep(1)

    @staticmethod
    def run(*command, timeout=300, fine=(0,)):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=timeout, check=False)
        if done.returncode not in fine:
            raise RuntimeError(f"{command[0]}: exit {done.returncode}: {done.stderr.decode(errors='replace')[-400:]}")
        return done.stdout.decode(errors="replace")

    def timed(self, key, *command, **options):
        begin = time.monotonic()
        output = self.run(*command, **options)
        self.figures[key] = round(time.monotonic() - begin, 2)
        return output

    # One large file

    def fio(self, *options):
        out = self.run("fio", "--name=job", f"--filename={self.dir}/large", "--size=1g", "--ioengine=psync", "--thread",
                       "--direct=0", "--fallocate=none", "--invalidate=0", "--group_reporting", "--output-format=json",
                       *options)
        job = json.loads(out[out.index("{"):])["jobs"][0]
        if job.get("error"):
            raise RuntimeError(f"fio: error {job['error']}")
        return job

    def one_large_file(self):
        def write():
            job = self.fio("--rw=write", "--bs=1m", "--end_fsync=1")
            self.figures["seq_write"] = round(job["write"]["io_bytes"] / MIB / (job["job_runtime"] / 1000), 1)

        def read(key):
            self.figures[key] = round(self.fio("--rw=read", "--bs=1m")["read"]["bw_bytes"] / MIB, 1)

        def random_read():
            job = self.fio("--rw=randread", "--bs=4k", "--numjobs=4", "--time_based", "--runtime=10", "--norandommap")
            self.figures["rand_read"] = round(job["read"]["iops"])
            self.figures["rand_read_p99"] = round(job["read"]["clat_ns"]["percentile"]["99.000000"] / 1000)

        def random_write():
            job = self.fio("--rw=randwrite", "--bs=4k", "--time_based", "--runtime=10", "--norandommap", "--end_fsync=1")
            self.figures["rand_write"] = round(job["write"]["total_ios"] / (job["job_runtime"] / 1000))

        def synced_write():
            before = self.counters.read()
            job = self.fio("--rw=randwrite", "--bs=4k", "--time_based", "--runtime=10", "--norandommap", "--fdatasync=1")
            done = Counters.between(before, self.counters.read())
            total = job["write"]["total_ios"]
            self.figures["rand_write_sync"] = round(total / (job["job_runtime"] / 1000))
            latency = sum(part["percentile"]["99.000000"] for part in (job["write"]["clat_ns"], job["sync"]["lat_ns"]))
            self.figures["rand_write_sync_p99"] = round(latency / 1000)
            if "flushes" in done and total:
                self.figures["rand_write_sync_flushes"] = round(done["flushes"] / total, 2)

        large = os.path.join(self.dir, "large")
        self.step("seq_write", write)
        self.cold()
        self.step("seq_read_cold", lambda: read("seq_read_cold"))
        self.step("seq_read_warm", lambda: read("seq_read_warm"))
        self.cold()
        self.step("rand_read", random_read)
        self.step("rand_write", random_write)
        time.sleep(1)
        self.step("rand_write_sync", synced_write)
        self.cold()
        self.step("cp_big", lambda: self.timed("cp_big", "cp", "--reflink=auto", large, large + ".copy"))
        self.step("compare", lambda: self.run("cmp", large, large + ".copy"))
        for path in (large, large + ".copy"):
            if os.path.exists(path):
                os.unlink(path)
        time.sleep(2)

    # Many small files

    def many_small_files(self):
        for count in (1, 4):
            where = os.path.join(self.dir, f"small-{count}")

            def phases(*names, count=count, where=where, rename=None):
                out = self.run(self.small_files, where, str(count), "2000", "10", *names)
                for line in out.splitlines():
                    result = json.loads(line)
                    phase = (rename or {}).get(result["phase"], result["phase"])
                    self.figures[f"{phase}_{count}"] = round(result["ops_per_s"])

            for name in ("create", "stat", "write4k"):
                self.step(f"{name}_{count}", lambda name=name: phases(name))
            self.cold()
            self.step(f"read4k_{count}", lambda: phases("read4k"))
            self.step(f"list_{count}", lambda: phases("list"))
            self.cold()
            self.step(f"stat_cold_{count}", lambda: phases("stat", rename={"stat": "stat_cold"}))
            for name in ("rename", "unlink", "unlink4k", "mkdir", "rmdir"):
                self.step(f"{name}_{count}", lambda name=name: phases(name))
            shutil.rmtree(where, ignore_errors=True)
            time.sleep(2)

    # A tree

    def a_tree(self):
        first, second = os.path.join(self.dir, "tree"), os.path.join(self.dir, "copy")
        os.mkdir(first)
        with open(self.tree, "rb") as archive:  # from memory, not from the disk
            while archive.read(MIB):
                pass
        self.step("untar", lambda: self.timed("untar", "tar", "xf", self.tree, "-C", first, "--no-same-owner"))
        self.cold()
        self.step("find", lambda: self.timed("find", "find", first, "-type", "f"))
        self.step("grep", lambda: self.timed("grep", "grep", "-r", "--no-messages", "-c", "size_t", first, fine=(0, 1)))
        self.step("cp_tree", lambda: self.timed("cp_tree", "cp", "-r", first, second))
        self.step("compare_trees", lambda: self.run("diff", "-r", "--no-dereference", first, second))
        self.step("rm_trees", lambda: self.timed("rm_trees", "rm", "-rf", first, second))
