"""A family of published weights as a table: one line for each array of ours, with the names of theirs and a form.

    Line("blocks/fc1/kernel", ("encoder.layer.{i}.intermediate.dense.weight",), MATRIX)

`{i}` counts blocks, which are stacked along the first axis of our array. Our shapes come from `jax.eval_shape` of the
model, and theirs follow from ours by the form: both lists are compared in full before anything is converted
(`names.account`). Nothing is computed, so a round trip is bitwise exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from unified_jax.interop.names import Shape, account, flatten, shapes, unflatten
from unified_jax.typing import Params


@dataclass(frozen=True)
class Form:
    """How an array of ours is made of theirs (torch: [out, in])."""

    inputs: int | None = None
    """Leading axes of ours that a matrix product sums over (0: a bias); None: theirs has the same axes."""
    joined: int | None = None
    """Axis of ours along which several of theirs are joined; None: there is one."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of each of theirs."""
        shape = shape if self.joined is None else shape[: self.joined] + shape[self.joined + 1 :]
        if self.inputs is None:
            return shape
        left, right = math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :])
        return (right, left) if self.inputs else (right,)

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours, of this shape."""
        if self.joined is None:
            return parts[0].T.reshape(shape) if self.inputs else parts[0].reshape(shape)
        one = shape[: self.joined] + shape[self.joined + 1 :]
        return np.stack([(p.T if self.inputs else p).reshape(one) for p in parts], axis=self.joined)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        parts = [ours] if self.joined is None else list(np.moveaxis(ours, self.joined, 0))
        shape = self.theirs(ours.shape)
        return [p.reshape(shape[::-1]).T if self.inputs else p.reshape(shape) for p in parts]


@dataclass(frozen=True)
class Kernel(Form):
    """A convolution's kernel: ours [*sizes, in, out], theirs [out, in, *sizes], or [in, out, *sizes] if transposed."""

    transposed: bool = False
    """Whether theirs belongs to a transposed convolution."""

    def _order(self, axes: int) -> tuple[int, ...]:
        """Axes of ours in the order of theirs."""
        channels = (axes - 2, axes - 1) if self.transposed else (axes - 1, axes - 2)
        return (*channels, *range(axes - 2))

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        return tuple(shape[axis] for axis in self._order(len(shape)))

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        return parts[0].transpose(np.argsort(self._order(len(shape))))

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        return [ours.transpose(self._order(ours.ndim))]


SAME, BIAS, MATRIX, KERNEL = Form(), Form(inputs=0), Form(inputs=1), Kernel()


class Line(NamedTuple):
    """One array of ours."""

    ours: str
    """Flat name, such as "blocks/fc1/kernel"."""
    theirs: tuple[str, ...]
    """Names of the arrays that it is made of, with `{i}` for the number of a block."""
    form: Form = SAME
    first: int = 0
    """Number of the first of the stacked blocks."""


Table = tuple[Line, ...]


def linear(ours: str, theirs: str) -> Table:
    """The two lines of a linear layer."""
    return Line(f"{ours}/kernel", (f"{theirs}.weight",), MATRIX), Line(f"{ours}/bias", (f"{theirs}.bias",))


def convolution(ours: str, theirs: str, bias: bool = True) -> Table:
    """The lines of a convolution."""
    kernel = Line(f"{ours}/kernel", (f"{theirs}.weight",), KERNEL)
    return (kernel, Line(f"{ours}/bias", (f"{theirs}.bias",))) if bias else (kernel,)


def norm(ours: str, theirs: str) -> Table:
    """The two lines of a norm with gain and bias."""
    return Line(f"{ours}/gain", (f"{theirs}.weight",)), Line(f"{ours}/bias", (f"{theirs}.bias",))


def read(what: str, tensors: Mapping[str, np.ndarray], table: Table, expected: Params) -> Params:
    """Our tree, with the shapes of `expected` (`jax.eval_shape` of the model's init).

    Raises UserError that begins with `what` and lists every unmapped, missing and wrongly shaped array.
    """
    lines = _lines(table, expected)
    account(what, shapes(tensors), theirs(table, expected))
    flat = {}
    for line, shape in lines:
        if _blocks(line, shape) is None:
            flat[line.ours] = line.form.read([tensors[n] for n in line.theirs], shape)
            continue
        each = ([tensors[n.format(i=i + line.first)] for n in line.theirs] for i in range(shape[0]))
        flat[line.ours] = np.stack([line.form.read(parts, shape[1:]) for parts in each])
    return unflatten({name: np.ascontiguousarray(value) for name, value in flat.items()})


def theirs(table: Table, expected: Params) -> dict[str, Shape]:
    """The shape of each of their arrays, by name."""
    return {name: one for line, shape in _lines(table, expected) for name, one in _theirs(line, shape).items()}


def write(params: Params, table: Table) -> dict[str, np.ndarray]:
    """Their arrays, by name: the inverse of `read`."""
    flat = {name: np.asarray(value) for name, value in flatten(params).items()}
    found: dict[str, np.ndarray] = {}
    for line, shape in _lines(table, flat):
        blocks = _blocks(line, shape)
        for i, one in enumerate([flat[line.ours]] if blocks is None else flat[line.ours]):
            found |= zip([n.format(i=i + line.first) for n in line.theirs], line.form.write(one), strict=True)
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def _lines(table: Table, params: Mapping[str, Any]) -> list[tuple[Line, Shape]]:
    """Each line with the shape of ours. Raises UserError unless the table has each array of the tree once."""
    ours = shapes(flatten(params))
    account("The parameter tree", ours, {line.ours: None for line in table})
    return [(line, ours[line.ours]) for line in table]


def _blocks(line: Line, shape: Shape) -> int | None:
    """The number of blocks that are stacked in this array; None if it is of no block."""
    return shape[0] if any("{i}" in name for name in line.theirs) else None


def _theirs(line: Line, shape: Shape) -> dict[str, Shape]:
    """The arrays that the line expects, by name."""
    blocks = _blocks(line, shape)
    one = line.form.theirs(shape if blocks is None else shape[1:])
    return {name.format(i=i + line.first): one for i in range(1 if blocks is None else blocks) for name in line.theirs}
