"""R3GAN's weights in its authors' layout (https://github.com/brownvc/R3GAN), for the generator or the discriminator.

    block_I_J     MainLayers.I.Layers.(J + 1 in the generator).LinearLayer1 .. 3, NonLinearity1 .. 2
    up_I, down_I  MainLayers.I.Layers.(first in the generator, last in the discriminator).LinearLayer
    picture       AggregationLayer or ExtractionLayer

The filters of their resamplers are no weights: they are compared with ours, left out, and written again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import table
from unified_jax.interop.names import flatten
from unified_jax.interop.table import KERNEL, MATRIX, SAME, Line
from unified_jax.typing import Params

PREFIX = "Model."
"""Of every name in the authors' checkpoints, around the network itself."""
FILTER = "Resampler.Kernel"
IN_BLOCK = {
    "in/kernel": ("LinearLayer1.Layer.weight", KERNEL), "mix_kernel": ("LinearLayer2.Layer.weight", KERNEL),
    "out/kernel": ("LinearLayer3.Layer.weight", KERNEL), "in_bias": ("NonLinearity1.Bias", SAME),
    "mix_bias": ("NonLinearity2.Bias", SAME),
}  # fmt: skip


def lines(expected: Params) -> table.Table:
    """A line for each array of a tree of ours."""
    flat = flatten(expected)
    makes = "start/kernel" in flat
    blocks = [name.split("/")[0].split("_")[1:] for name in flat if name.startswith("block_")]
    last = max((int(i) for i, _ in blocks), default=0)
    counts = {str(i): len({j for k, j in blocks if k == str(i)}) for i in range(last + 1)}
    end = f"MainLayers.{0 if makes else last}.Layers.{0 if makes else counts[str(last)]}"
    plain = {
        "basis": (f"{end}.Basis", SAME) if makes else (f"{end}.Basis.weight", KERNEL),
        "start/kernel": (f"{end}.LinearLayer.weight", MATRIX), "end/kernel": (f"{end}.LinearLayer.weight", MATRIX),
        "embed/kernel": ("EmbeddingLayer.weight", MATRIX),
        "picture/kernel": (f"{'AggregationLayer' if makes else 'ExtractionLayer'}.Layer.weight", KERNEL),
    }  # fmt: skip
    found = []
    for name in flat:
        if name in plain:
            theirs, form = plain[name]
        elif name.startswith("block_"):
            block, part = name.split("/", 1)
            _, i, j = block.split("_")
            theirs, form = IN_BLOCK[part]
            theirs = f"MainLayers.{i}.Layers.{int(j) + makes}.{theirs}"
        else:
            i = name.split("/")[0].split("_")[1]
            theirs, form = f"MainLayers.{i}.Layers.{0 if makes else counts[i]}.LinearLayer.Layer.weight", KERNEL
        found.append(Line(name, (theirs,), form))
    return tuple(found)


def filters(expected: Params, taps: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Their resamplers' filters, by name, for a tree of ours."""
    makes, names = "start/kernel" in flatten(expected), [line.theirs[0] for line in lines(expected)]
    stages = sorted({int(n.split(".")[1]) for n in names if n.startswith("MainLayers.")})
    row = np.convolve(np.asarray(taps), [1, 1]).reshape(1, -1)
    square = (row.T @ row).astype(np.float32)
    found = {}
    for i in stages[1:] if makes else stages[:-1]:
        blocks = {n.split(".")[3] for n in names if n.startswith(f"MainLayers.{i}.") and "LinearLayer1" in n}
        found[f"MainLayers.{i}.Layers.{0 if makes else len(blocks)}.{FILTER}"] = square / square.sum()
    return found


def read(what: str, tensors: Mapping[str, np.ndarray], expected: Params, taps: tuple[float, ...]) -> Params:
    """Our tree. Raises UserError that begins with `what` and lists what is missing, unmapped or of another shape."""
    if tensors and all(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    fixed = filters(expected, taps)
    for name, ours in fixed.items():
        theirs: Any = tensors.get(name)
        if theirs is not None and (theirs.shape != ours.shape or not np.allclose(theirs, ours, atol=1e-6)):
            raise UserError(f"{what}: {name} is another filter than that of taps = {taps}; set the network's taps.")
    weights = {name: value for name, value in tensors.items() if name not in fixed}
    if lost := sorted(set(fixed) - set(tensors)):
        raise UserError(f"{what}: missing {', '.join(lost)}.")
    return table.read(what, weights, lines(expected), expected)


def write(params: Params, taps: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Their arrays, by name, filters too: the inverse of `read`."""
    return table.write(params, lines(params)) | filters(params, taps)
