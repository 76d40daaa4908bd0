"""Draws the pictures of docs/world.md: `python docs/world/draw.py` writes scene.png, splits.png and edits.png."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from unified_jax.data.world import World
from unified_jax.data.world.scene import combinations

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
WORLD = World(resolution=64, max_objects=2)
EXAMPLE = 2
"""Of the split "test": two objects, one of them moving."""


def scene() -> None:
    """One scene in its seven modalities."""
    raw = WORLD.source("test")[EXAMPLE]
    figure, axes = plt.subplots(2, 4, figsize=(8, 4.4), layout="constrained")
    (image, video, depth, points), (audio, spectrum, action, label) = axes
    image.imshow(raw["image"])
    frames = raw["video"][[0, 2, 5, 7]]
    video.imshow(np.vstack([np.hstack(frames[:2]), np.hstack(frames[2:])]))
    depth.imshow(raw["depth"][0, ..., 0], cmap="gray")
    cloud = raw["points"]
    points.scatter(cloud[:, 0], cloud[:, 1], c=cloud[:, 3:], s=4)
    points.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", facecolor="#18181a")
    audio.plot(np.arange(8000) / 8000, raw["audio"], linewidth=0.3)
    audio.set(xlabel="s", ylim=(-1, 1))
    with np.errstate(divide="ignore"):  # between two tones there is silence
        spectrum.specgram(raw["audio"], NFFT=256, Fs=8000, noverlap=128)
    spectrum.set(xlabel="s", ylabel="Hz")
    action.plot(*raw["action"].T, "o-", markersize=3)
    action.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
    words, lines = str(raw["caption"]).split(), [""]
    for word in words:
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1] + word) < 18 else [*lines, word]
    label.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", fontsize=9)
    names = ("image", "video: frames 0, 2, 5, 7", "depth, frame 0", "points", "audio", "audio: spectrum", "action")
    for axis, name in zip(axes.flat, (*names, "caption"), strict=True):
        axis.set_title(name, fontsize=9)
        if name not in ("audio", "audio: spectrum"):
            axis.set(xticks=[], yticks=[])
    save(figure, "scene.png")


def splits() -> None:
    """Examples of the three splits, a row each, and which combinations each holds."""
    figure, axes = plt.subplots(3, 1, figsize=(8, 3.6), layout="constrained")
    world = World(resolution=64, max_objects=1)
    for axis, split in zip(axes, ("train", "test", "held_out"), strict=True):
        source = world.source(split, ("image",))
        axis.imshow(np.hstack([np.pad(source[i]["image"], ((2, 2), (2, 2), (0, 0))) for i in range(10)]))
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{split}: {len(combinations(split))} of 144 combinations", fontsize=9)
    save(figure, "splits.png")


def edits() -> None:
    """Images, instructions, and the images after them."""
    source = World(resolution=64, max_objects=1).source("test", ("image", "instruction", "edited"))
    figure, axes = plt.subplots(1, 4, figsize=(8, 1.6), layout="constrained")
    for i, axis in enumerate(axes):
        raw = source[i]
        axis.imshow(np.hstack([raw["image"], raw["edited"]]))
        axis.set(xticks=[], yticks=[])
        axis.set_title(str(raw["instruction"]), fontsize=8)
    save(figure, "edits.png")


def save(figure: plt.Figure, name: str) -> None:
    """A small PNG, the same bytes on every machine with the same versions."""
    figure.savefig(HERE / name, dpi=80, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    scene()
    splits()
    edits()
