"""From results to a table and a picture."""

import json
import os

from workloads import FIGURES

OURS = "dfs"
#: What is not another filesystem's achievement.
FLOOR = "local"
#: Those that keep as many copies as this project does.
THREE_COPIES = ("moosefs", "seaweedfs", "glusterfs")

#: What this project must not fall below: figure, ratio to the best of the others, which others (None: all).
BOUNDS = [
    ("seq_write", 1.5, THREE_COPIES), ("seq_read_cold", 1.0, None), ("rand_write", 1.5, None),
    ("write4k_1", 3.0, None), ("write4k_4", 3.0, None), ("read4k_1", 2.0, None), ("read4k_4", 2.0, None),
    ("list_1", 0.8, None), ("list_4", 0.8, None), ("untar", 1.5, None), ("grep", 2.0, None), ("cp_tree", 2.0, None),
    ("cp_big", 1.0, None),
]
#: What it aims at.
GOALS = [
    ("seq_write", 0.7, ("juicefs",)), ("rand_read", 0.5, ("juicefs",)), ("rand_read", 2.0, THREE_COPIES),
    ("rand_write_sync", 1.0, None), ("rand_write_sync", 4.0, ("glusterfs",)),
    *((f"{phase}_{threads}", ratio, None) for threads, ratio in ((1, 0.6), (4, 1.0))
      for phase in ("create", "mkdir", "rename", "unlink")),
    ("stat_cold_1", 1.0, None), ("stat_cold_4", 1.0, None), ("find", 0.8, None), ("rm_trees", 1.0, None),
]


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}"


def ratio(results, key, more_is_better, among=None):
    """How many times better this project is than the best of the others, or of those `among` them; or None."""
    ours = results.get(OURS, {}).get("figures", {}).get(key)
    others = [r["figures"][key] for name, r in results.items()
              if name not in (OURS, FLOOR) and (among is None or name in among) and r["figures"].get(key)]
    if not ours or not others or more_is_better is None:
        return None
    return ours / max(others) if more_is_better else min(others) / ours


def aims(results, title, wanted):
    """A table of ratios beside what they should be."""
    known = {key: (what, unit, more) for key, what, unit, more in FIGURES}
    lines = ["", title, "", "| workload | beside the best of | at least | here |", "|---|---|---:|---:|"]
    for key, least, among in wanted:
        what, _, more = known[key]
        value = ratio(results, key, more, among)
        here = "-" if value is None else f"{value:.2f}" if value >= least else f"**{value:.2f}**"
        lines.append(f"| {what} | {', '.join(among) if among else 'all'} | {least:g} | {here} |")
    return lines


def markdown(results, machine):
    names = list(results)
    lines = [
        "# Measured", "",
        "Made by `make bench`; run it on your own machine before you believe it. All systems ran one after the other on",
        f"one machine ({machine}), servers and client together, over loopback,",
        "with their defaults. A figure alone means little on a shared machine; the ratio within one run means more. *Ratio* is",
        "this project to the best of the other distributed systems, more than 1 is better, whatever the unit.", "",
        "What each was configured to guarantee:", "",
    ]
    lines += [f"- **{name}**: {results[name]['guarantees']}" for name in names]
    lines += ["", "Runs of each, of which the table has the medians: "
              + ", ".join(f"{name} {results[name].get('rounds', 1)}" for name in names)
              + ". Those with another number than the rest were not measured in the same hour."]
    lines += ["", "| workload | unit | " + " | ".join(names) + " | ratio |", "|---|---|" + "---:|" * (len(names) + 1)]
    for key, what, unit, more in FIGURES:
        values = [results[name]["figures"].get(key) for name in names]
        if any(value is not None for value in values):
            times = ratio(results, key, more)
            last = "" if times is None else f"{times:.2f}"
            lines.append(f"| {what} | {unit} | " + " | ".join(number(v) for v in values) + f" | {last} |")
    lines += aims(results, "Ratios that this project must not fall below, and what they are (bold: not reached):", BOUNDS)
    lines += aims(results, "Ratios that it aims at:", GOALS)
    lines += ["", "CPU seconds of all processes together, and disk flushes, of the same steps:", "",
              "| step | " + " | ".join(f"{name} CPU s | {name} flushes" for name in names) + " |",
              "|---|" + "---:|---:|" * len(names)]
    steps = {step: None for name in names for step in results[name]["costs"]}
    for step in steps:
        row = []
        for name in names:
            cost = results[name]["costs"].get(step, {})
            row.append(f"{number(cost.get('cpu'))} | {number(cost.get('flushes'))}")
        lines.append(f"| {step} | " + " | ".join(row) + " |")
    failed = [f"- {name}: {step}: {error}" for name in names for step, error in results[name]["errors"].items()]
    if failed:
        lines += ["", "What failed:", "", *failed]
    lines += ["", "![ratios](benchmark.png)", ""]
    return "\n".join(lines)


def picture(results, path):
    """One bar a workload: this project to the best of the others, on a logarithmic scale."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [(what, ratio(results, key, more)) for key, what, _, more in FIGURES]
    bars = [(what, value) for what, value in bars if value]
    figure, axes = pyplot.subplots(figsize=(10, 0.28 * len(bars) + 1.2))
    colours = ["#2a7f4f" if value >= 1 else "#b5482f" for _, value in bars]
    axes.barh([what for what, _ in bars], [value for _, value in bars], color=colours, log=True)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("times the best of the others (right of the line: better)")
    axes.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write(results, machine, out):
    with open(os.path.join(out, "benchmark.md"), "w", encoding="utf-8") as file:
        file.write(markdown(results, machine))
    try:
        picture(results, os.path.join(out, "benchmark.png"))
    except ImportError:
        print("matplotlib is missing: no picture")


def load(directory):
    results = {}
    for entry in sorted(os.listdir(directory)):
        if entry.endswith(".json"):
            with open(os.path.join(directory, entry), encoding="utf-8") as file:
                result = json.load(file)
            results[result["system"]] = result
    return {name: results[name] for name in sorted(results, key=lambda n: (n != OURS, n != FLOOR, n))}
