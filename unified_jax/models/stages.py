"""Stages: models that a run holds beside the network and does not train.

Text and vision encoders, autoencoders, teachers, reference models. A stage names a model and the source of its
parameters. A run copies them to RUN/stages/NAME at its start (`runs.stages`), so that it opens without the source. In
a step they are a part of the frozen parameters, sharded by the same rules as the trained ones:

    params = {...the network's own..., "stages": {NAME: parameters of the stage}}
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.config import Open
from unified_jax.errors import UserError
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.models.row_groups import in_groups
from unified_jax.precision import seed_key
from unified_jax.typing import Keys, Params

START = "start"
"""The source of a stage that holds what the run itself starts from: a reference model, a first teacher."""
STAGES = "stages"
BUFFERS = "buffers"
RESERVED = (STAGES, BUFFERS, "average")
"""Names beside a model's own parameters: stages, state other than parameters (aux), an average of the parameters."""

Part = Literal["tokens", "pooled", "map"]
"""A field of `Encoded` that can be a condition."""


class Encoded(NamedTuple):
    """The outputs of an encoder; None where it has none of a kind."""

    tokens: Float[Array, "b m f"] | None = None
    length: Int[Array, "b"] | None = None
    """Number of tokens that are there; None: all."""
    pooled: Float[Array, "b v"] | None = None
    map: Float[Array, "b ..."] | None = None


@runtime_checkable
class Network(Protocol):
    """A model that can be a stage: a frozen dataclass. Every `Model` is one."""

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters, a plain nested dict."""
        ...

    def axes(self) -> Any:
        """The same tree with a tuple of logical axis names per parameter."""
        ...


@runtime_checkable
class Encoder(Network, Protocol):
    """A stage that turns the prepared arrays of a modality into conditions."""

    def encode(self, params: Params, x: Array, keys: Keys | None = None) -> Encoded:
        """The encoding of a stack of prepared arrays; `keys`, one per row, where it is drawn."""
        ...

    def condition_form(self, part: Part) -> ConditionForm:
        """The form in which a network reads this part. Raises ValueError if the encoder has none."""
        ...


@runtime_checkable
class Completes(Encoder, Protocol):
    """An encoder that can draw what its input leaves out (`SamplingPlan.complete`)."""

    def complete(self, params: Params, x: Array, keys: Keys) -> Encoded:
        """The encoding of a stack of prepared arrays with what they leave out drawn by `keys`, one per row."""
        ...


@runtime_checkable
class Published(Protocol):
    """A stage's model that reads published weights of its family in their own format."""

    def finds(self, source: str) -> bool:
        """Whether a source, a path or a name, is one of its family."""
        ...

    def read(self, source: str) -> Params:
        """Its parameters. Raises UserError for weights that are missing or do not fit."""
        ...


@runtime_checkable
class Serves(Protocol):
    """A model that is trained with more than a stage of it needs: heads of losses, discriminators."""

    def serves(self) -> Any:
        """The model of a stage of a run of it."""
        ...


@runtime_checkable
class Narrows(Protocol):
    """A stage's model that takes its own of the parameters of a run that trained it."""

    def of_run(self, params: Params) -> Params:
        """Its parameters; names that are missing stay missing."""
        ...


@runtime_checkable
class Decoder(Network, Protocol):
    """A stage that turns latents into data."""

    def decode(self, params: Params, z: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Data in model space."""
        ...


@dataclass(frozen=True)
class Stage:
    """A model that is not trained, and where its parameters come from."""

    name: str
    """Name of its parameters in the run: RUN/stages/NAME."""
    model: Open[Network] | None = None
    """The model (`uj.stage` takes it from a run); None, with the source "start", is the model that is trained."""
    source: str = START
    """A run directory, a safetensors file in our layout, published weights that the model reads (`Published`), or
    "start": what this run itself starts from."""
    ema: str = "0"
    """Which parameters of a run: index of an EMA, or "none" for the trained ones."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which they are held."""
    keep: Literal["copy", "reference"] = "copy"
    """Whether the run keeps a copy, or only a checksum and the path of the file (for very large ones)."""
    rows: int = 0
    """Rows that a device encodes at a time; 0: all. With a number, features do not depend on batch, slot and mesh."""
    places: ClassVar[tuple[str, ...]] = ("source",)
    """Fields that may differ on a resume: checksums decide, not paths."""

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"A stage needs a name of letters, digits, - and _, found {self.name!r}.")
        if self.model is None and self.source != START:
            raise ValueError(
                f"The stage {self.name!r} names no model: uj.stage({self.name!r}, {self.source!r}) takes it from a run."
            )
        if self.rows < 0:
            raise ValueError(f"Stage.rows must not be negative, found {self.rows}.")
        if self.source == START and self.keep == "reference":
            raise ValueError(f"The stage {self.name!r} holds what the run starts from, so the run keeps a copy.")
        if self.ema != "none" and not (self.ema.isascii() and self.ema.isdecimal()):
            raise ValueError(f"Stage.ema is the index of an EMA or 'none', found {self.ema!r}.")

    def network(self, model: Any) -> Any:
        """The stage's model, which is the trained one where it names none."""
        return model if self.model is None else self.model

    def shapes(self, model: Any) -> Params:
        """The shapes of its parameters, in its dtype; `model` is the trained one."""
        network = self.network(model)
        shapes = jax.eval_shape(network.init, seed_key(0))
        if self.model is not None and isinstance(network, Holds):
            shapes = {**shapes, **stage_shapes(network), **_buffers(network, shapes)}
        dtype = jnp.dtype(self.dtype)
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, dtype if jnp.issubdtype(s.dtype, jnp.floating) else s.dtype), shapes
        )

    def axes(self, model: Any) -> Any:
        """The logical axes of the same parameters."""
        network = self.network(model)
        axes = network.axes()
        if self.model is None or not isinstance(network, Holds):
            return axes
        nested = {STAGES: {one.name: one.axes(network) for one in network.stages}} if network.stages else {}
        held: Any = network
        buffers = _buffers(held, jax.eval_shape(held.init, seed_key(0)))
        return {**axes, **nested, **jax.tree.map(lambda s: (None,) * len(s.shape), buffers)}


@runtime_checkable
class Holds(Protocol):
    """A model with more than its own parameters: stages, and state other than parameters. Every `Model` is one."""

    @property
    def stages(self) -> tuple[Any, ...]:
        """See `Model`."""
        ...

    def init_aux(self, params: Params) -> Any:
        """See `Model`."""
        ...


def _buffers(network: Holds, shapes: Params) -> Params:
    aux = jax.eval_shape(network.init_aux, shapes)
    return {BUFFERS: aux} if jax.tree.leaves(aux) else {}


def encode(stage: Stage, params: Params, x: Array, drawn: Keys | None = None) -> Encoded:
    """The encoding of prepared arrays by a stage, float32 and without a gradient.

    With keys, one per row, a stage that `Completes` draws what they leave out, and encodes all rows at once.
    """
    encoder: Any = stage.model
    own = stage_params(params, stage.name)
    if drawn is not None and isinstance(encoder, Completes):
        return _cut_off(encoder.complete(own, x, drawn))
    run = lambda rows: _cut_off(encoder.encode(own, rows))  # noqa: E731
    return in_groups(run, x, stage.rows) if stage.rows else run(x)


def _cut_off(found: Encoded) -> Encoded:
    f32 = lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a  # noqa: E731
    return jax.lax.stop_gradient(jax.tree.map(f32, found))


def stage_shapes(model: Any) -> Params:
    """{"stages": {name: shapes}} of what a model's functions need beside its own parameters; {} for nothing."""
    return {STAGES: {stage.name: stage.shapes(model) for stage in model.stages}} if model.stages else {}


def check_stages(stages: tuple[Stage, ...], owner: str) -> tuple[Stage, ...]:
    """Each stage once. Raises ValueError for two stages of one name."""
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        if stage != by_name[stage.name]:
            other = by_name[stage.name]
            apart = [name for name in vars(stage) if getattr(stage, name) != getattr(other, name)]
            raise ValueError(f"{owner} has two stages called {stage.name!r}, and they differ in {', '.join(apart)}.")
    return tuple(by_name.values())


def merged(trained: Params, frozen: Params, aux: Any = None) -> Params:
    """All parameters of a model as its functions take them: trained, frozen, and aux, if there is any, as buffers."""
    return {**frozen, **trained} | ({BUFFERS: aux} if jax.tree.leaves(aux) else {})


def own(params: Params) -> Params:
    """A model's own parameters, without what is beside them (`RESERVED`)."""
    return {name: value for name, value in params.items() if name not in RESERVED}


def beside(params: Params) -> Params:
    """What is beside a model's own parameters."""
    return {name: value for name, value in params.items() if name in RESERVED}


def stage_params(params: Params, name: str) -> Params:
    """The parameters of a stage. Raises UserError if they are not there."""
    try:
        return params[STAGES][name]
    except KeyError:
        raise UserError(f"The parameters lack those of the stage {name!r}: open the run with uj.load.") from None
