"""The figures of a study: learning curves and the forest of differences."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from unified_jax.studies.cells import Arm, Cell
from unified_jax.studies.results import Row
from unified_jax.studies.running import curve

mpl.use("Agg")
import matplotlib.pyplot as plt


def draw_curves(arms: tuple[Arm, ...], out: Path, path: Path) -> None:
    """Training and validation loss against training FLOPs: the mean over seeds and the range."""
    names = [n for n in ("loss", "validation/loss") if any(curve(Cell(a, a.seeds[0], out).run_dir, n)[0] for a in arms)]
    figure, axes = plt.subplots(
        1, max(1, len(names)), figsize=(5.2 * max(1, len(names)), 3.8), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=False):
        for i, arm in enumerate(arms):
            found = [curve(Cell(arm, seed, out).run_dir, name) for seed in arm.seeds]
            found = [(steps, values) for steps, values in found if steps]
            if not found:
                continue
            steps = sorted(set.intersection(*(set(s) for s, _ in found)))
            values = np.asarray([[dict(zip(s, v, strict=True))[step] for step in steps] for s, v in found])
            if name == "loss" and len(steps) > 20:
                values = np.stack([_smooth(v) for v in values])
            flops = np.asarray(steps) * arm.flops_per_step
            colour = f"C{i % 10}"
            axis.plot(flops, values.mean(axis=0), "-" if len(steps) > 1 else "o", color=colour, label=arm.name, lw=1.4)
            axis.fill_between(flops, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
        axis.set(xlabel="training FLOPs", ylabel=name.replace("/", " "), yscale="log")
        axis.grid(alpha=0.3, which="both")
    if names:
        axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _smooth(values: Any, width: int = 5) -> Any:
    """A running mean that shrinks at the ends."""
    padded = np.convolve(values, np.ones(width), "same")
    return padded / np.convolve(np.ones(len(values)), np.ones(width), "same")


def draw_forest(rows: list[Row], path: Path) -> None:
    """Differences to the base with their intervals, a panel per metric; filled where a difference is claimed."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    height = max(2.0, 0.42 * len({row.arm for row in rows}) + 1.2)
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(4.6 * len(metrics), height), layout="constrained", squeeze=False
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        own = [row for row in rows if row.metric == metric and row.arm != "base"][::-1]
        for place, row in enumerate(own):
            if row.difference is None:
                axis.text(0, place, "failed", va="center", ha="center", fontsize=8, color="tab:red")
                continue
            d, claimed = row.difference, row.verdict in ("better", "worse")
            colour = {"better": "tab:green", "worse": "tab:red"}.get(row.verdict, "tab:gray")
            if d.n > 1:
                axis.plot([d.low, d.high], [place, place], color=colour, lw=1.6)
            axis.plot(d.value, place, "o", color=colour, mfc=colour if claimed else "white", ms=7)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(range(len(own)), [row.arm for row in own])
        axis.set_ylim(-0.7, len(own) - 0.3)
        axis.set(title=metric.title, xlabel=f"difference to base ({metric.better} is better)")
        axis.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=120)
    plt.close(figure)
