r"""DiT and SiT as published (facebookresearch/DiT, willisma/SiT: one layout) <-> our tree.

    theirs (torch: [out, in])                ours (flat names)                         how
    x_embedder.proj           [d, c, p, q]   patch/kernel          [p q c, d]          a convolution as a matrix
    t_embedder.mlp.0, .2                     time/fc1, time/fc2                        transposed
    y_embedder.embedding_table.weight        label_0/table                             unchanged
    blocks.i.attn.qkv         [3 h e, d]     blocks/attention/qkv_* [i, d, h, 3, e]    by head: tensor-parallel shards
    blocks.i.attn.proj        [d, h e]       blocks/attention/out_* [i, h, e, d]       stay within heads
    blocks.i.mlp.fc1, .fc2                   blocks/mlp/fc1, fc2                       transposed, blocks stacked
    blocks.i.adaLN_modulation.1              blocks/modulation/linear                  the same six chunks
    final_layer.adaLN_modulation.1           final_modulation/linear
    final_layer.linear                       final
    pos_embed                 [1, n, d]      none: computed                            checked, written on export

Nothing is computed, so a round trip is bitwise exact. Sizes are read from the shapes, except the number of heads. Both
projects compute the same function of these weights except for time: SiT's input is t in [0, 1] with t = 1 at the data,
and its output is the velocity towards the data. It drops the second half of its output channels if there is one.
"""

import dataclasses
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from jaxtyping import Float

from unified_jax.errors import UserError
from unified_jax.interop.dit_sizes import Sizes, depth_of, heads_of, measure
from unified_jax.interop.names import account, flatten, shapes, unflatten, unwrapped
from unified_jax.typing import Params

WHAT = "The DiT state dict"

GLOBAL = {
    "t_embedder.mlp.0": "time/fc1",
    "t_embedder.mlp.2": "time/fc2",
    "final_layer.adaLN_modulation.1": "final_modulation/linear",
    "final_layer.linear": "final",
}
BLOCK = {"adaLN_modulation.1": "modulation/linear", "mlp.fc1": "mlp/fc1", "mlp.fc2": "mlp/fc2"}
"""Linear layers that are only transposed."""

TOLERANCE = 1e-5
"""Tolerance of a stored position table."""

ROUNDED = (
    (np.float16, TOLERANCE),
    (ml_dtypes.bfloat16, 2.6e-4),
    (ml_dtypes.float8_e4m3fn, 2.1e-3),
    (ml_dtypes.float8_e5m2, 2.1e-3),
)
"""Precisions of files, each with the rounding of an earlier conversion."""

MEASURED = {
    "patch": ("x_embedder.proj.weight", ("width", "channels", "patch", "patch")),
    "final": ("final_layer.linear.weight", ("patch * patch * outputs", "width")),
    "table": ("y_embedder.embedding_table.weight", ("rows", "width")),
    "hidden": ("blocks.0.mlp.fc1.weight", ("hidden", "width")),
    "positions": ("pos_embed", ("1", "patches", "width")),
}
"""Arrays whose shapes determine the sizes of a model, with their axes."""


def read(tensors: Mapping[str, np.ndarray], heads: int | None = None) -> tuple[Params, Sizes]:
    """(our tree, sizes) of a published state dict. `heads` is needed for unpublished widths.

    Raises UserError: unmapped, missing or wrongly shaped arrays (all of them listed), or a pos_embed that is not the
    sin-cos table this library computes.
    """
    tensors, _ = unwrapped(WHAT, tensors)
    found = shapes(tensors)
    sizes = measure(WHAT, found, MEASURED, depth_of(found, "blocks"), Sizes.official)
    account(WHAT, found, sizes.official())
    sizes = dataclasses.replace(sizes, heads=heads_of(sizes.width, heads))
    table = position_table(sizes.width, sizes.side)
    if not _is_table(tensors["pos_embed"][0], table):
        error = float(np.abs(tensors["pos_embed"][0] - table).max())
        raise UserError(
            f"pos_embed differs from the sin-cos table of {sizes.side} x {sizes.side} patches by up to {error:.2g}: "
            "it was trained, or is another table, and cannot be represented here."
        )
    return _to_tree(tensors, sizes), sizes


def write(params: Params, sizes: Sizes) -> dict[str, np.ndarray]:
    """The published state dict of our tree. Raises UserError as `read` does, with our names."""
    flat = {name: np.asarray(value) for name, value in flatten(params).items()}
    account("The parameter tree", shapes(flat), sizes.tree())
    d, p = sizes.width, sizes.patch
    theirs: dict[str, np.ndarray] = {}

    def linear(name: str, kernel: np.ndarray, bias: np.ndarray) -> None:
        theirs[f"{name}.weight"], theirs[f"{name}.bias"] = kernel.T, bias

    for name, ours in GLOBAL.items():
        linear(name, flat[f"{ours}/kernel"], flat[f"{ours}/bias"])
    qkv_kernel = flat["blocks/attention/qkv_kernel"].swapaxes(2, 3).reshape(sizes.depth, d, 3 * d)
    qkv_bias = flat["blocks/attention/qkv_bias"].swapaxes(1, 2).reshape(sizes.depth, 3 * d)
    out_kernel = flat["blocks/attention/out_kernel"].reshape(sizes.depth, d, d)
    for i in range(sizes.depth):
        linear(f"blocks.{i}.attn.qkv", qkv_kernel[i], qkv_bias[i])
        linear(f"blocks.{i}.attn.proj", out_kernel[i], flat["blocks/attention/out_bias"][i])
        for name, ours in BLOCK.items():
            linear(f"blocks.{i}.{name}", flat[f"blocks/{ours}/kernel"][i], flat[f"blocks/{ours}/bias"][i])
    patch = flat["patch/kernel"].reshape(p, p, sizes.channels, d)
    theirs |= {"x_embedder.proj.weight": patch.transpose(3, 2, 0, 1), "x_embedder.proj.bias": flat["patch/bias"]}
    theirs["y_embedder.embedding_table.weight"] = flat["label_0/table"]
    theirs["pos_embed"] = position_table(d, sizes.side)[None]
    account(WHAT, shapes(theirs), sizes.official())
    return {name: np.ascontiguousarray(value) for name, value in theirs.items()}


def without_variance(params: Params, sizes: Sizes) -> tuple[Params, Sizes]:
    """The model without the second half of its output channels, which SiT computes and drops."""
    if sizes.outputs == 1:
        return params, sizes
    cut = (sizes.patch**2, sizes.outputs, sizes.channels)
    kernel = params["final"]["kernel"].reshape(-1, *cut)[:, :, 0].reshape(sizes.width, -1)
    bias = params["final"]["bias"].reshape(cut)[:, 0].reshape(-1)
    return params | {"final": {"kernel": kernel, "bias": bias}}, dataclasses.replace(sizes, outputs=1)


def with_null_row(params: Params) -> Params:
    """A label table without a null row gets one of zeros: "no label". It is untrained, so guidance has no meaning."""
    table = params["label_0"]["table"]
    return params | {"label_0": {"table": np.concatenate([table, np.zeros_like(table[:1])])}}


def position_table(width: int, side: int) -> Float[np.ndarray, "n d"]:
    """The sin-cos table of a square grid, computed in float64: columns in the first half of the features, then rows."""
    frequencies = 1.0 / 10000.0 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    angles = np.arange(side)[:, None] * frequencies
    parts = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    columns, rows = np.tile(parts, (side, 1)), np.repeat(parts, side, axis=0)
    return np.concatenate([columns, rows], axis=1).astype(np.float32)


def _is_table(stored: np.ndarray, table: Float[np.ndarray, "n d"]) -> bool:
    """Whether a stored table is this one, to 1e-5, or this one rounded to the precision of a file.

    Rounding keeps order: a rounded table is between its neighbours at distance `slack`. A trained table is not.
    """
    if bool((np.abs(stored - table) <= TOLERANCE).all()):
        return True
    for dtype, slack in ROUNDED:
        low, high = ((table + sign * slack).astype(dtype).astype(np.float32) for sign in (-1, 1))
        if bool(((low <= stored) & (stored <= high)).all()):
            return True
    return False


def _to_tree(tensors: Mapping[str, np.ndarray], sizes: Sizes) -> Params:
    n, d, h = sizes.depth, sizes.width, sizes.heads
    flat: dict[str, np.ndarray] = {}
    for name, ours in GLOBAL.items():
        flat[f"{ours}/kernel"], flat[f"{ours}/bias"] = tensors[f"{name}.weight"].T, tensors[f"{name}.bias"]

    def stacked(name: str) -> tuple[np.ndarray, np.ndarray]:
        blocks = [(tensors[f"blocks.{i}.{name}.weight"].T, tensors[f"blocks.{i}.{name}.bias"]) for i in range(n)]
        return np.stack([kernel for kernel, _ in blocks]), np.stack([bias for _, bias in blocks])

    for name, ours in BLOCK.items():
        flat[f"blocks/{ours}/kernel"], flat[f"blocks/{ours}/bias"] = stacked(name)
    kernel, bias = stacked("attn.qkv")
    flat["blocks/attention/qkv_kernel"] = kernel.reshape(n, d, 3, h, d // h).swapaxes(2, 3)
    flat["blocks/attention/qkv_bias"] = bias.reshape(n, 3, h, d // h).swapaxes(1, 2)
    kernel, flat["blocks/attention/out_bias"] = stacked("attn.proj")
    flat["blocks/attention/out_kernel"] = kernel.reshape(n, h, d // h, d)
    flat["patch/kernel"] = tensors["x_embedder.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, d)
    flat["patch/bias"] = tensors["x_embedder.proj.bias"]
    flat["label_0/table"] = tensors["y_embedder.embedding_table.weight"]
    return unflatten({name: np.ascontiguousarray(value) for name, value in flat.items()})
