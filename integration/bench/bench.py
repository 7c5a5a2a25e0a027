#!/usr/bin/env python3
"""Measures this filesystem, the local disk and every competitor that is installed, one after the other.

Needs root (mounts, caches), fio, tar, and for each competitor its programs on PATH. Results go as JSON to --results,
the table and the picture to --out.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import machine  # noqa: E402
import report  # noqa: E402
import systems  # noqa: E402
from workloads import Workloads  # noqa: E402


def log(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


def make_archive(source, path):
    """One archive of a real tree, made once, the same for all systems."""
    if not os.path.exists(path):
        subprocess.run(["tar", "cf", path + ".new", "-C", os.path.dirname(source), os.path.basename(source)], check=True)
        os.rename(path + ".new", path)


def one_round(kind, options, archive):
    """One run of everything on one system; None when it is not installed."""
    system = kind(options.base)
    try:
        system.check()
    except systems.Unavailable as missing:
        log(f"left out: {missing}")
        return None
    log(f"{system.name}: starting")
    try:
        system.up()
        busy = machine.wait_for_quiet()
        result = Workloads(system, options.small_files, archive, log).all()
        result["busy_before"] = busy
        return result
    finally:
        system.down()


def medians(rounds):
    """The middle of each figure and cost over all rounds; errors of any of them."""
    def middle(dicts):
        keys = {key: None for one in dicts for key in one}
        return {key: statistics.median([one[key] for one in dicts if key in one]) for key in keys}

    steps = {step: None for one in rounds for step in one["costs"]}
    return {
        "figures": middle([one["figures"] for one in rounds]),
        "costs": {step: middle([one["costs"][step] for one in rounds if step in one["costs"]]) for step in steps},
        "errors": {step: error for one in rounds for step, error in one["errors"].items()},
        "rounds": len(rounds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("systems", nargs="*", default=list(systems.ALL), help="default: " + " ".join(systems.ALL))
    parser.add_argument("--rounds", type=int, default=3,
                        help="runs of each system, of which the table has the medians (default %(default)s)")
    parser.add_argument("--base", default="/var/tmp/dfs-bench", help="where data and mounts are (default %(default)s)")
    parser.add_argument("--small-files", required=True, help="the program of that name, built by make")
    parser.add_argument("--tree", default="/usr/include", help="a real tree (default %(default)s)")
    parser.add_argument("--results", required=True, help="directory for one JSON file a system")
    parser.add_argument("--out", help="directory for benchmark.md and benchmark.png")
    options = parser.parse_args()
    unknown = [name for name in options.systems if name not in systems.ALL]
    if unknown:
        parser.error(f"no such system: {', '.join(unknown)}; there are {', '.join(systems.ALL)}")
    if os.geteuid() != 0:
        parser.error("this needs root: it mounts and drops caches")
    # An exception, so that what runs is taken down; also where the shell has SIGINT ignored, as in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("interrupted"))
    os.makedirs(options.base, exist_ok=True)
    os.makedirs(options.results, exist_ok=True)
    archive = os.path.join(options.base, "tree.tar")
    make_archive(options.tree, archive)

    rounds = {name: [] for name in options.systems}
    for number in range(options.rounds):
        # All of them in each round: what the machine does meanwhile hits all alike.
        for name in options.systems:
            log(f"round {number + 1} of {options.rounds}: {name}")
            try:
                result = one_round(systems.ALL[name], options, archive)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                log(f"{name}: does not work here: {error}")
                continue
            if result is None:
                continue
            rounds[name].append(result)
            kind = systems.ALL[name]
            done = {"system": name, "guarantees": kind.guarantees, **medians(rounds[name])}
            with open(os.path.join(options.results, name + ".json"), "w", encoding="utf-8") as file:
                json.dump(done, file, indent=1)
    results = report.load(options.results)
    what = machine.describe()
    if options.out:
        report.write(results, what, options.out)
    print(report.markdown(results, what))


if __name__ == "__main__":
    main()
