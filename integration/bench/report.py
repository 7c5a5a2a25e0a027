"""From results to a table and a picture."""

import json
import os

from workloads import FIGURES

OURS = "dfs"
#: What is not another filesystem's achievement.
FLOOR = "local"


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}"


def ratio(results, key, more_is_better):
    """How many times better this project is than the best of the others, or None."""
    ours = results.get(OURS, {}).get("figures", {}).get(key)
    others = [r["figures"][key] for name, r in results.items()
              if name not in (OURS, FLOOR) and r["figures"].get(key)]
    if not ours or not others or more_is_better is None:
        return None
    return ours / max(others) if more_is_better else min(others) / ours


def markdown(results, machine):
    names = list(results)
    lines = [
        "# Measured", "",
        "Made by `make bench`; run it on your own machine before you believe it. All systems ran one after the other on",
        f"one machine ({machine}), servers and client together, over loopback, with their defaults. A figure alone means",
        "little on a shared machine; the ratio within one run means more. *Ratio* is this project to the best of the other",
        "distributed systems, more than 1 is better, whatever the unit.", "",
        "What each was configured to guarantee:", "",
    ]
    lines += [f"- **{name}**: {results[name]['guarantees']}" for name in names]
    lines += ["", "| workload | unit | " + " | ".join(names) + " | ratio |", "|---|---|" + "---:|" * (len(names) + 1)]
    for key, what, unit, more in FIGURES:
        values = [results[name]["figures"].get(key) for name in names]
        if any(value is not None for value in values):
            times = ratio(results, key, more)
            last = "" if times is None else f"{times:.2f}"
            lines.append(f"| {what} | {unit} | " + " | ".join(number(v) for v in values) + f" | {last} |")
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
