"""The sizes of a DiT from its weights, and every array of a model of these sizes."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from unified_jax.errors import UserError
from unified_jax.interop.names import Expected, Shape, account

PUBLISHED_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Heads by width of DiT and SiT S, B, L, XL."""

Measured = Mapping[str, tuple[str, tuple[str, ...]]]
"""Role -> (name of the array that determines a size, its axes)."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model by the shapes of its weights."""

    depth: int
    width: int
    heads: int
    hidden: int
    """Features inside the MLP."""
    patch: int
    channels: int
    outputs: int
    """Output channels an input channel: 2 with a learned variance."""
    rows: int
    """Rows of the label table, the null row included."""
    side: int
    """Patches along each side of the image."""

    def official(self) -> dict[str, Shape]:
        """Every array of the published layout."""
        d, f, p = self.width, self.hidden, self.patch
        linears = {"t_embedder.mlp.0": (d, 256), "t_embedder.mlp.2": (d, d)}
        for i in range(self.depth):
            block = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (f, d), "mlp.fc2": (d, f)}
            block["adaLN_modulation.1"] = (6 * d, d)
            linears |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
        linears["final_layer.adaLN_modulation.1"] = (2 * d, d)
        linears["final_layer.linear"] = (p * p * self.channels * self.outputs, d)
        expected: dict[str, Shape] = {f"{name}.weight": shape for name, shape in linears.items()}
        expected |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
        expected |= {"x_embedder.proj.weight": (d, self.channels, p, p), "x_embedder.proj.bias": (d,)}
        expected["y_embedder.embedding_table.weight"] = (self.rows, d)
        return expected | {"pos_embed": (1, self.side**2, d)}

    def tree(self) -> dict[str, Shape]:
        """Every array of our tree, by flat name."""
        n, d, f, h = self.depth, self.width, self.hidden, self.heads
        p, e = self.patch**2 * self.channels, self.width // self.heads
        linears: dict[str, Shape] = {"time/fc1": (256, d), "time/fc2": (d, d), "patch": (p, d)}
        linears |= {"blocks/modulation/linear": (n, d, 6 * d), "blocks/mlp/fc1": (n, d, f), "blocks/mlp/fc2": (n, f, d)}
        linears |= {"final_modulation/linear": (d, 2 * d), "final": (d, p * self.outputs)}
        expected = {f"{name}/kernel": shape for name, shape in linears.items()}
        expected |= {f"{name}/bias": shape[:-2] + shape[-1:] for name, shape in linears.items()}
        expected |= {"label_0/table": (self.rows, d)}
        attention = {"qkv_kernel": (n, d, h, 3, e), "qkv_bias": (n, h, 3, e), "out_kernel": (n, h, e, d)}
        expected |= {f"blocks/attention/{name}": shape for name, shape in attention.items()}
        return expected | {"blocks/attention/out_bias": (n, d)}

    def ratio(self) -> float:
        """The ratio whose product with the width, truncated to an integer as networks do, is the hidden width."""
        ratio = self.hidden / self.width
        return ratio if int(self.width * ratio) == self.hidden else math.nextafter(ratio, math.inf)

    def constructor(self) -> dict[str, Any]:
        """Arguments of the published classes DiT and SiT for these sizes."""
        return {
            "input_size": self.side * self.patch, "patch_size": self.patch, "in_channels": self.channels,
            "hidden_size": self.width, "depth": self.depth, "num_heads": self.heads, "mlp_ratio": self.ratio(),
            "class_dropout_prob": 0.1, "num_classes": self.rows - 1, "learn_sigma": self.outputs == 2,
        }  # fmt: skip


def depth_of(names: Iterable[str], folder: str) -> int:
    """Number of blocks: distinct numbers in `folder.NUMBER.`; a gap shows as missing and unmapped names."""
    found = (re.match(rf"{re.escape(folder)}\.(\d+)\.", name) for name in names)
    return max(1, len({match.group(1) for match in found if match}))


def heads_of(width: int, heads: int | None) -> int:
    """The given number of heads, or that of the published model of this width. Raises UserError."""
    chosen = PUBLISHED_HEADS.get(width) if heads is None else heads
    if chosen is None:
        raise UserError(f"The number of heads leaves no trace in weights of width {width}; give it with --heads.")
    if chosen < 1 or width % chosen or width % 4:
        raise UserError(f"A width of {width} does not fit {chosen} heads and sin-cos positions; check --heads.")
    return chosen


def measure(
    what: str, found: Mapping[str, Shape], measured: Measured, depth: int, layout: Callable[[Sizes], Iterable[str]]
) -> Sizes:
    """Sizes (except the heads) from these arrays; `layout` names every array of a file of these sizes.

    Raises UserError, listing all names, if one of them is missing or has other axes.
    """
    unknown = Sizes(depth, 4, 1, 1, 1, 1, 1, 1, 1)
    expected: dict[str, Expected] = dict.fromkeys(layout(unknown))
    useless = False
    for name, axes in measured.values():
        shape = found.get(name)
        if shape is None or len(shape) != len(axes) or 0 in shape:
            useless = True
            expected[name] = f"[{', '.join(axes)}]"
    if useless:
        account(what, found, expected)
    width, channels, patch, _ = found[measured["patch"][0]]
    side = math.isqrt(found["pos_embed"][1]) if "positions" in measured else 1
    outputs = 2 if found[measured["final"][0]][0] == 2 * patch**2 * channels else 1
    hidden, rows = found[measured["hidden"][0]][0], found[measured["table"][0]][0]
    return Sizes(depth, width, 1, hidden, patch, channels, outputs, rows, side)


def classes_of(rows: int, classes: int | None) -> int:
    """Number of class rows of a table: as given, else all but the last, which is the null row.

    A table of 1,000 rows (or of one) counts as ImageNet's classes, trained without guidance. Raises UserError.
    """
    if classes is None:
        return rows if rows in (1, 1000) else rows - 1
    if classes not in (rows, rows - 1) or classes < 1:
        raise UserError(
            f"--classes {classes}: the label table has {rows} rows; expected {rows} (no null row) or {rows - 1}."
        )
    return classes
