r"""Oobleck's weights as diffusers stores them (AutoencoderOobleck) <-> our tree.

ours                                    theirs
encoder/conv_in, level_i, conv_out      encoder.conv1, encoder.block.i, encoder.conv2
level_i/unit_j/{conv1,conv2}            res_unit(j + 1).{conv1,conv2}
level_i/resample                        conv1 in the encoder, conv_t1 in the decoder
snake1_alpha, snake_out_alpha           snake1.alpha
kernel, gain                            weight_v, weight_g
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import table
from unified_jax.interop.names import Shape, flatten
from unified_jax.interop.table import KERNEL, SAME, Form, Kernel, Line, Table
from unified_jax.typing import Params

OPTIONS: dict[str, Any] = {
    "encoder_hidden_size": 128, "downsampling_ratios": (2, 4, 4, 8, 8), "channel_multiples": (1, 2, 4, 8, 16),
    "decoder_channels": 128, "decoder_input_channels": 64, "audio_channels": 2, "sampling_rate": 44100,
}  # fmt: skip
"""Options of AutoencoderOobleck with their defaults."""
LAST = {"kernel": "weight_v", "gain": "weight_g"}
MODULES = {"conv_in": "conv1", "conv_out": "conv2"}


class Padded(Form):
    """One number for each channel, between axes of size one."""

    before: bool = False

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        return (1, *shape, 1) if self.before else (*shape, 1, 1)

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        return parts[0].reshape(shape)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        return [ours.reshape(self.theirs(ours.shape))]


class Amid(Padded):
    """The same, with an axis of size one on either side."""

    before = True


class OobleckSettings(NamedTuple):
    """Fields of `networks.autoencoders.oobleck.Oobleck`."""

    channels: int
    latents: int
    width: int
    encoder_width: int
    multiples: tuple[int, ...]
    strides: tuple[int, ...]


def settings(what: str, c: Mapping[str, Any]) -> OobleckSettings:
    """The sizes from all options of AutoencoderOobleck. Raises UserError if the latents do not fit the encoder."""
    if c["encoder_hidden_size"] != 2 * c["decoder_input_channels"]:
        raise UserError(
            f"{what}: encoder_hidden_size is {c['encoder_hidden_size']}; expected twice decoder_input_channels, "
            f"{2 * c['decoder_input_channels']}."
        )
    return OobleckSettings(
        c["audio_channels"], c["decoder_input_channels"], c["decoder_channels"], c["encoder_hidden_size"],
        tuple(c["channel_multiples"]), tuple(c["downsampling_ratios"]),
    )  # fmt: skip


def lines(expected: Params) -> Table:
    """The table of a tree of these shapes."""
    found = []
    for name in flatten(expected):
        side, *parts, last = name.split("/")
        transposed = side == "decoder" and parts[-1:] == ["resample"]
        path = [side, *(_module(part, side) for part in parts)]
        if m := re.fullmatch(r"(snake\d|snake_out)_(alpha|beta)", last):
            path += ["snake1" if m[1] == "snake_out" else m[1], m[2]]
            form: Form = Amid()
        else:
            path.append(LAST.get(last, last))
            plain = {"kernel": Kernel(transposed=True) if transposed else KERNEL, "gain": Padded()}
            form = plain.get(last, SAME)
        found.append(Line(name, (".".join(path),), form))
    return tuple(found)


def _module(part: str, side: str) -> str:
    stem, _, number = part.rpartition("_")
    if stem == "level":
        return f"block.{number}"
    if stem == "unit":
        return f"res_unit{int(number) + 1}"
    if part == "resample":
        return "conv1" if side == "encoder" else "conv_t1"
    return MODULES.get(part, part)


def read(what: str, tensors: Mapping[str, np.ndarray], expected: Params) -> Params:
    """Our tree of these shapes. Raises UserError that lists what is unmapped, missing or of another shape."""
    return table.read(what, tensors, lines(expected), expected)


def write(params: Params) -> dict[str, np.ndarray]:
    """Their arrays."""
    return table.write(params, lines(params))
