"""LPIPS' weights <-> our tree.

ours          theirs
conv_i        features.i           torchvision's vgg16 or alexnet
weights_k     lin{k}.model.1       the lpips package
"""

from collections.abc import Mapping

import numpy as np

from unified_jax.interop import table
from unified_jax.interop.names import Shape, flatten
from unified_jax.interop.table import Form, Line, Table, convolution
from unified_jax.typing import Params

UNUSED = "classifier."
"""The classifier's own last layers."""


class Weights(Form):
    """One number for each channel; theirs is a 1 x 1 convolution to one channel."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        return (1, *shape, 1, 1)

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        return parts[0].reshape(shape)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        return [ours.reshape(self.theirs(ours.shape))]


def lines(expected: Params) -> Table:
    """The table of a tree of these shapes."""
    found: list[Line] = []
    for name in sorted({name.split("/")[0] for name in flatten(expected)}):
        stem, _, number = name.partition("_")
        if stem == "conv":
            found += convolution(name, f"features.{number}")
        else:
            found.append(Line(name, (f"lin{number}.model.1.weight",), Weights()))
    return tuple(found)


def read(what: str, tensors: Mapping[str, np.ndarray], expected: Params) -> Params:
    """Our tree, from the arrays of both files together. Raises UserError that lists what does not fit."""
    kept = {name: value for name, value in tensors.items() if not name.startswith(UNUSED)}
    return table.read(what, kept, lines(expected), expected)
