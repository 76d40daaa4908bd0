"""Figures of the probes of Transfusion models: attention masses, similarity of modalities."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from unified_jax.evaluation.probes.similarity import Similarity

mpl.use("Agg")
import matplotlib.pyplot as plt

MOST = 8
"""Depths with their own heat map."""


def draw_masses(masses: np.ndarray, even: np.ndarray, items: list[str], title: str, path: Path) -> None:
    """A row per block, a column per head and one their mean, each a matrix of items `[l, h, q, k]`; below, `even`."""
    layers, heads = masses.shape[:2]
    side = 0.55 + 0.36 * len(items)
    size = (heads + 1) * side + 1.2, (layers + 1) * side + 1.2
    figure, axes = plt.subplots(layers + 1, heads + 1, figsize=size, layout="constrained", squeeze=False)
    for axis in axes[-1, 1:]:
        axis.axis("off")
    for i, j in itertools.product(range(layers), range(heads + 1)):
        _matrix(axes[i, j], masses[i].mean(axis=0) if j == heads else masses[i, j], items, j == 0, i == layers - 1)
        if i == 0:
            axes[i, j].set_title("mean of heads" if j == heads else f"head {j}", fontsize=8)
        if j == 0:
            axes[i, j].set_ylabel(f"block {i}", fontsize=8)
    _matrix(axes[-1, 0], even, items, True, True)
    axes[-1, 0].set_ylabel("if even", fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_similarity(found: Similarity, untrained: np.ndarray, names: list[str], path: Path) -> None:
    """Above, heat maps by depth and one of shuffled scenes; below, one line per pair over depth."""
    depth = len(found.cka)
    chosen = sorted(set(np.linspace(0, depth - 1, min(MOST, depth)).round().astype(int).tolist()))
    maps = [(found.cka[k], "in" if k == 0 else f"after block {k - 1}") for k in chosen]
    maps.append((found.shuffled[0, -1], f"after block {depth - 2}, shuffled"))
    columns = -(-len(maps) // 2)
    side = 0.9 + 0.42 * len(names)
    figure = plt.figure(figsize=(max(9.0, columns * side), 2 * side + 4.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2 * side, 4.6))
    axes = parts[0].subplots(2, columns, squeeze=False)
    for axis in axes.flat[len(maps) :]:
        axis.axis("off")
    for place, (axis, (values, title)) in enumerate(zip(axes.flat, maps, strict=False)):
        _matrix(axis, values, names, place % columns == 0, place + columns >= len(maps))
        axis.set_title(title, fontsize=9)
    _draw_lines(parts[1].subplots(), found, untrained, names)
    figure.suptitle("linear CKA (unbiased) between what the trunk makes of two modalities of a scene", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_lines(axis: Any, found: Similarity, untrained: np.ndarray, names: list[str]) -> None:
    depths = np.arange(len(found.cka))
    pairs = list(itertools.combinations(range(len(names)), 2))
    colours = mpl.colormaps["tab20" if len(pairs) > 10 else "tab10"]
    for place, (i, j) in enumerate(pairs):
        colour = colours(place % colours.N)
        axis.plot(depths, found.cka[:, i, j], "o-", ms=3, color=colour, label=f"{names[i]} - {names[j]}")
        axis.plot(depths, untrained[:, i, j], ":", lw=1, color=colour)
    apart = np.stack([found.shuffled[:, :, i, j] for i, j in pairs], axis=1).reshape(-1, len(depths))
    low, high = np.nanquantile(apart, (0.025, 0.975), axis=0)
    axis.fill_between(depths, low, high, color="grey", alpha=0.4, lw=0, label="scenes shuffled, 95 %")
    axis.plot([], [], ":", color="grey", label="untrained")
    axis.set(xlabel="after block", ylabel="CKA", xticks=depths[:: max(1, len(depths) // 12)])
    axis.set_xticks(axis.get_xticks(), ["in" if k == 0 else f"{k - 1:.0f}" for k in axis.get_xticks()])
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _matrix(axis: Any, values: np.ndarray, names: list[str], left: bool, bottom: bool) -> None:
    """Values in [0, 1] as blues with their numbers; optional names at the left and below."""
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1)
    places = range(len(names))
    axis.set_yticks(places, names if left else [""] * len(names), fontsize=7)
    axis.set_xticks(places, names if bottom else [""] * len(names), fontsize=7, rotation=90)
    axis.tick_params(length=0)
    for i, j in itertools.product(places, places):
        if np.isfinite(values[i, j]):
            ink = "white" if values[i, j] > 0.55 else "black"
            number = f"{values[i, j]:.2f}".replace("-0.00", "0.00").replace("0.", ".", 1)
            axis.text(j, i, number, ha="center", va="center", fontsize=6, color=ink)
