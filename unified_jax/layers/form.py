"""The interface between a model and its network: forms, noisy inputs, conditions, embedders.

A network is called as

    network(noisy, conditions, layout=None, capture=()) -> ({name: output}, captured)

`noisy` is a tuple of denoised arrays, each with its form and its own time. Another modality at its own time is not a
condition but a further noisy input (given: its x0 at network time 0; absent: pure noise at its noise end).
`conditions` is a tuple of condition inputs. Forms are static: they hold shapes and names, never arrays, and are not
leaves of a tree. `layout` says that the arrays are packed rows of several items, of several sizes (`Layout`).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unified_jax.errors import UserError
from unified_jax.modalities.conditions import ConditionForm, Kind
from unified_jax.modalities.grid import grid_of, grid_positions, patchify, unpatchify

EmbedderKind = Literal["linear", "convolutional", "unet", "pointnet", "groups"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Form:
    """The static form of a denoised array."""

    name: str
    """Name of the stream, and of its layers."""
    shape: tuple[int, ...]
    """Shape `(*sizes, c)` of one example in model space."""
    cut: tuple[int, ...]
    """Patch size along each axis."""
    out_channels: int
    """Channels of the network's output."""
    embedder: EmbedderKind = "linear"
    """How patches become tokens, and tokens patches."""
    features: int = 32
    """Features of the embedder's own layers."""

    @property
    def tokens(self) -> int:
        """Patches of an example."""
        return math.prod(grid_of(self.shape[:-1], self.cut))

    @property
    def out_features(self) -> int:
        """Numbers in a patch of the output."""
        return math.prod(self.cut) * self.out_channels

    def positions(self) -> Int[np.ndarray, "n a"]:
        """Integer positions of the patches, one to three axes."""
        return grid_positions(self.shape[:-1], self.cut)

    def patches(self, x: Float[Array, "b ..."]) -> Float[Array, "b n p"]:
        """The array divided into patches."""
        return patchify(x, self.cut)

    def unpatch(self, tokens: Float[Array, "b n p"]) -> Float[Array, "b ..."]:
        """The inverse of `patches`; the channels follow from the features."""
        return unpatchify(tokens, self.shape[:-1], self.cut)


class NoisyInput(NamedTuple):
    """A denoised array at its time."""

    form: Form
    x: Float[Array, "b ..."]
    """The array, as `Process.network_input` gives it; with a layout the tokens `[b, n, p]` of rows."""
    t: Float[Array, "b"]
    """`Process.network_time` of this stream; with a layout `[b, k]`."""
    to: Float[Array, "b"] | None = None
    """Target time of the step (flow maps); reserved."""


class ConditionInput(NamedTuple):
    """A condition of a batch."""

    form: ConditionForm
    value: Array
    present: Bool[Array, "b"] | None = None
    """False selects the network's null. None: a label's null row is part of its value; other conditions are present."""
    length: Int[Array, "b"] | None = None
    """Number of tokens; of an absent condition, the length of its null."""
    weight: Float[Array, "b"] | None = None
    """Share of a control condition's embedding at this time (`models.controls`); None: all of it."""


class Layout(NamedTuple):
    """Which token of a packed row is whose: up to k items, of any sizes, side by side in a row of n tokens.

    With a layout everything of a call that is `[b, ...]` is `[b, k, ...]`: the time, and a condition's value, presence,
    length and weight, for each item of a row. Noisy inputs and outputs are tokens, `[b, n, p]` in the order of
    `Form.patches`. What the network answers in the place of padding is not read.
    """

    item: Int[Array, "b n"]
    """Which of the row's k items a token belongs to; -1: padding."""
    position: Int[Array, "b n a"]
    """Its place in its own item's grid, which starts at 0."""
    visible: Int[Array, "b n 2"]
    """The key range that it attends to: its item's tokens, which lie side by side. Padding has an empty one."""
    grid: Int[Array, "b k a"]
    """Patches of each item along each axis; 0 of an item that is not there."""
    stream: Int[Array, "b n"] | None = None
    """Which noisy input a token is of; None: there is one."""


@runtime_checkable
class Backbone(Protocol):
    """The interface of denoising networks: a Linen module whose fields are its configuration."""

    @property
    def takes(self) -> tuple[Kind, ...]:
        """Kinds of conditions that it accepts; a plain class attribute will do."""
        ...

    streams: ClassVar[Any]
    """"one" denoised array, or "many", each at its own time."""

    def __call__(
        self,
        noisy: tuple[NoisyInput, ...],
        conditions: tuple[ConditionInput, ...] = (),
        *,
        layout: Any = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[dict[str, Float[Array, "b ..."]], dict[str, Any]]:
        """({name of a noisy input: output `[b, *sizes, out_channels]`, float32}, {name in `capture`: value}).

        layout    a `Layout`: packed rows of mixed sizes. A network that takes them says so by `packs = True`; the
                  others raise ValueError
        capture   "attention" (forces the reference implementation), "block/8": the tokens after a block
        """
        ...


@runtime_checkable
class Positioned(Protocol):
    """A network with learned tables over the places of a grid."""

    def position_grids(self, forms: tuple[Form, ...]) -> dict[str, tuple[int, int]]:
        """{path of a parameter `[..., rows * columns + others, d]`: (rows, columns)}, for inputs of these forms."""
        ...


@runtime_checkable
class Grafted(Protocol):
    """A network that is built around another one: what it starts from is called differently there."""

    def begins_as(self, path: str) -> str:
        """The path, in the other network, of the parameter from which the one at `path` starts."""
        ...


@runtime_checkable
class Supervised(Protocol):
    """A network of one array, whose parts have losses of their own (deep supervision)."""

    guesses: ClassVar[tuple[str, ...]]
    """Names in `capture` of further predictions, like the output; in training each has a loss beside the output's.

    Asked for them, the network detaches the output from them (`stop_gradient`): each learns from its own loss alone.
    """


def guesses_of(network: Any) -> tuple[str, ...]:
    """The further predictions that have losses of their own; () of most networks."""
    return network.guesses if isinstance(network, Supervised) else ()


def check_backbone(network: Any, streams: int, conditions: tuple[ConditionForm, ...], owner: str) -> None:
    """Raises ValueError for unsupported conditions, or more streams than the network denoises."""
    name = type(network).__name__
    if streams > 1 and network.streams != "many":
        raise ValueError(f"{owner}: {name} denoises one array; the model has {streams} streams.")
    for form in conditions:
        if form.kind not in network.takes:
            kinds = ", ".join(network.takes) or "none"
            raise ValueError(
                f"{owner}: {name} takes conditions of kind {kinds}; the condition {form.name!r} is a {form.kind}."
            )


def own_parameters(network: Any, variables: Any) -> Any:
    """What `network.init` gives. Raises UserError for state beside the parameters, which no step would update."""
    if state := sorted(set(variables) - {"params", "intermediates"}):
        raise UserError(
            f"{type(network).__name__} keeps {', '.join(state)} beside its parameters, and a network here has "
            "parameters only; running statistics are a model's aux (docs/adding_a_model.md)."
        )
    return variables.get("params", {})


def check_outputs(
    network: Any, noisy: tuple[NoisyInput, ...], found: Any, capture: tuple[str, ...], layout: Layout | None = None
) -> Any:
    """What a network answered. Raises UserError unless it is what `Backbone` says; a wrong shape would broadcast."""
    name = type(network).__name__
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], dict)):
        raise UserError(f"{name} returns {type(found).__name__}, expected ({{name: output}}, captured).")
    for form, x, *_ in noisy:
        if form.name not in found[0]:
            raise UserError(f"{name} gives no output {form.name!r}; it gives {', '.join(found[0]) or 'none'}.")
        shape, wanted = found[0][form.name].shape, (len(x), *form.shape[:-1], form.out_channels)
        what = "the array's sizes, and form.out_channels"
        if layout is not None:
            wanted, what = (*x.shape[:2], form.out_features), "the rows' tokens, and form.out_features"
        if shape != wanted:
            raise UserError(f"{name}'s output {form.name!r} is {list(shape)}, expected {list(wanted)}: {what}.")
    if missing := [one for one in capture if one not in found[1]]:
        raise UserError(f"{name} does not capture {', '.join(missing)}.")
    return found


@runtime_checkable
class Embedder(Protocol):
    """Implementations: PatchEmbedder, UNet, PointNet, PointGroups (`layers.embedders` chooses)."""

    def encode(
        self, x: Float[Array, "n ..."], c: Float[Array, "n d"], width: int, dtype: Any
    ) -> tuple[Float[Array, "n k d"], tuple[Array, ...]]:
        """(tokens, skips); c is the embedding of each item's time."""
        ...

    def decode(
        self, h: Float[Array, "n k d"], skips: tuple[Array, ...], c: Float[Array, "n d"]
    ) -> Float[Array, "n ..."]:
        """The output array, float32; zero at the start."""
        ...


def only_stream(owner: str, noisy: tuple[NoisyInput, ...], layout: Any) -> NoisyInput:
    """The stream of a backbone of one. Raises ValueError for a layout, which it does not read."""
    if layout is not None:
        raise ValueError(f"{owner} reads arrays of one size: layout must be None.")
    (one,) = noisy
    return one
