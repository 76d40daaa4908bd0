"""diffusers' ControlNetModel <-> our tree: a U-Net's way down and middle (`unets`), and what it has beside them.

hint/conv_in, blocks_i, conv_out     controlnet_cond_embedding.conv_in, blocks.i, conv_out
zero_i, zero_middle                  controlnet_down_blocks.i, controlnet_mid_block
"""

from collections.abc import Mapping

import numpy as np

from unified_jax.interop import table as tables, unets
from unified_jax.interop.names import flatten, unflatten
from unified_jax.interop.table import KERNEL, SAME, Line, Table
from unified_jax.interop.unets import Layout, Point
from unified_jax.typing import Params


def table(expected: Params, layout: Layout) -> Table:
    """The lines of a ControlNet with these parameters, or shapes."""
    flat = flatten(expected)
    added = sorted(name for name in flat if name.startswith(("hint/", "zero_")))
    copied = unflatten({name: value for name, value in flat.items() if name not in added})
    return (*unets.table(copied, layout), *(_line(name) for name in added))


def _line(name: str) -> Line:
    module, _, kind = name.rpartition("/")
    last = "weight" if kind == "kernel" else "bias"
    if module.startswith("hint/"):
        place = module.removeprefix("hint/").replace("blocks_", "blocks.")
        return Line(name, (f"controlnet_cond_embedding.{place}.{last}",), KERNEL if last == "weight" else SAME)
    number = module.removeprefix("zero_")
    place = "controlnet_mid_block" if number == "middle" else f"controlnet_down_blocks.{number}"
    return Line(name, (f"{place}.{last}",), Point(inputs=1, axes=2) if last == "weight" else SAME)


def read(what: str, tensors: Mapping[str, np.ndarray], expected: Params, layout: Layout) -> Params:
    """Our tree, of the shapes of `expected`. Raises UserError that lists every wrong, missing and unmapped array."""
    return tables.read(what, tensors, table(expected, layout), expected)


def write(params: Params, layout: Layout) -> dict[str, np.ndarray]:
    """Their arrays, by name."""
    return tables.write(params, table(params, layout))
