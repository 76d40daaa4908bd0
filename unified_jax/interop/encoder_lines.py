"""Shared by the tables of encoders: the lines of a pre-norm block, and patch embeddings stored as convolutions.

theirs                               ours (`networks.encoder_blocks`)
two norms                            blocks/attention/norm_*, blocks/norm
queries, keys, values                blocks/attention/qkv_*         joined head by head
the projection after them            blocks/attention/out_*
the MLP's layers                     blocks/mlp/fc1, blocks/mlp/fc2
"""

from dataclasses import dataclass

import numpy as np

from unified_jax.interop.names import Shape
from unified_jax.interop.table import BIAS, Form, Line, Table, linear, norm


@dataclass(frozen=True)
class Patches(Form):
    """Ours is the matrix [p p c, d] of patches, theirs a convolution [d, c, p, p]."""

    channels: int = 3
    """Channels of an image."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        side = round((shape[0] / self.channels) ** 0.5)
        return shape[1], self.channels, side, side

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        return parts[0].transpose(2, 3, 1, 0).reshape(shape)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        d, c, p, _ = self.theirs(ours.shape)
        return [ours.reshape(p, p, c, d).transpose(3, 2, 0, 1)]


class Fused(Form):
    """Ours is [d, h, 3, e] (of a bias [h, 3, e]), theirs [3 h e, d]: queries first, then keys, then values."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        *d, h, _, e = shape
        return (3 * h * e, *d)

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        *d, h, _, e = shape
        return np.moveaxis(parts[0].T.reshape(*d, 3, h, e), -3, -2)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        *d, h, _, e = ours.shape
        return [np.moveaxis(ours, -2, -3).reshape(*d, 3 * h * e).T]


class OneRow(Form):
    """Ours is [..., d], theirs the same with leading axes of 1, to three axes."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        return (*(1,) * (3 - len(shape)), *shape)


def patch_lines(ours: str, theirs: str, channels: int, bias: bool = True) -> Table:
    """The lines of a patch embedding."""
    kernel = Line(f"{ours}/kernel", (f"{theirs}.weight",), Patches(channels=channels))
    return (kernel, Line(f"{ours}/bias", (f"{theirs}.bias",))) if bias else (kernel,)


def block_lines(
    norms: tuple[str, str], qkv: tuple[str, str, str], out: str, mlp: tuple[str, str], qkv_bias: bool = True
) -> Table:
    """The lines of blocks with LayerNorm and biases, from the names of their parts with `{i}`."""
    attention = "blocks/attention"
    joined = Line(f"{attention}/qkv_kernel", tuple(f"{name}.weight" for name in qkv), Form(inputs=1, joined=2))
    biases = Line(f"{attention}/qkv_bias", tuple(f"{name}.bias" for name in qkv), Form(inputs=0, joined=1))
    return (
        Line(f"{attention}/norm_gain", (f"{norms[0]}.weight",)),
        Line(f"{attention}/norm_bias", (f"{norms[0]}.bias",)),
        joined,
        *((biases,) if qkv_bias else ()),
        Line(f"{attention}/out_kernel", (f"{out}.weight",), Form(inputs=2)),
        Line(f"{attention}/out_bias", (f"{out}.bias",), BIAS),
        *norm("blocks/norm", norms[1]),
        *linear("blocks/mlp/fc1", mlp[0]),
        *linear("blocks/mlp/fc2", mlp[1]),
    )


def clip_block_lines(prefix: str) -> Table:
    """The lines of blocks in the layout of CLIP and SigLIP."""
    layer = f"{prefix}encoder.layers.{{i}}"
    attention = f"{layer}.self_attn"
    q, k, v = (f"{attention}.{part}_proj" for part in "qkv")
    norms, mlp = (f"{layer}.layer_norm1", f"{layer}.layer_norm2"), (f"{layer}.mlp.fc1", f"{layer}.mlp.fc2")
    return block_lines(norms, (q, k, v), f"{attention}.out_proj", mlp)
