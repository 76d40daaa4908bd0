"""Streams, which a model denoises, each with a process and a time; and conditions, which it reads."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from unified_jax.config import Open, check_finite, check_open, lacking
from unified_jax.errors import UserError
from unified_jax.layers.embedders import make_embedder
from unified_jax.layers.form import ConditionInput, EmbedderKind, Form
from unified_jax.modalities.base import Continuous, Encodable, Modality
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.features import Features
from unified_jax.modalities.image import Image
from unified_jax.models.controls import check_control
from unified_jax.models.features import features_of
from unified_jax.models.latents import Latents
from unified_jax.models.nulls import without
from unified_jax.models.padding import Padding, padded
from unified_jax.models.stages import Encoded, Encoder, Part, Stage
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Process, expand
from unified_jax.typing import Keys, Params


@dataclass(frozen=True)
class Stream:
    """A denoised modality with its process."""

    modality: Open[Encodable] = Image()
    """The denoised modality: a `Continuous` one; with `latents` any that an autoencoder reads, a `Text` too."""
    process: Open[Process] = RectifiedFlow()
    """Its noising process, and what the network predicts."""
    embedder: EmbedderKind = "linear"
    """How patches become tokens, and tokens patches (`layers.embedders`)."""
    features: int = 32
    """Features of the embedder's own layers, where it has any."""
    name: str = ""
    """Name in the network and in the loss terms; empty: its modality's name."""
    time: str = ""
    """Another stream whose times it shares; empty: its own times."""
    ends: float = 0.0
    """Share of training examples at the ends of time: half of them clean, half pure noise."""
    latents: Latents | None = None
    """The latent space of a frozen autoencoder in which it is denoised; None: model space."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_open(self)
        if self.latents is None and (words := lacking(type(self.modality), Continuous)):
            raise ValueError(f"A modality that is denoised derives from Continuous (modalities/base.py): {words}.")
        if self.features < 1:
            raise ValueError(f"Stream.features must be at least 1, found {self.features}.")
        if not 0 <= self.ends <= 1:
            raise ValueError(f"Stream.ends must lie in [0, 1], found {self.ends}.")
        if self.ends and not hasattr(self.process, "noise_time"):
            raise ValueError(f"Stream.ends needs to know where {type(self.process).__name__} ends: give it noise_time.")
        if self.latents is not None:
            self.latents.check(f"The modality {self.modality.name!r}", self.modality.shape)
            if getattr(self.modality, "pads", False):
                raise ValueError(f"Latents of {self.modality.name!r} would hold its padding; use another fit.")
            self.latents.check_cached(self.modality)
        make_embedder(self.form)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is noised: `[*sizes, c]` of one example, or of its latent."""
        return self.modality.shape if self.latents is None else self.latents.shape

    @property
    def cut(self) -> tuple[int, ...]:
        """Sizes of its patches."""
        modality: Any = self.modality
        return modality.cut if self.latents is None else self.latents.cut

    def to_space(self, params: Params, raw: Array, keys: Keys | None = None, turned: Any = None) -> Array:
        """Prepared arrays where it is denoised: model space, mirrored where `turned`, or latents, drawn by `keys`."""
        x = self.modality.to_model(raw)
        x = x if turned is None else mirrored(x, turned)
        return x if self.latents is None else self.latents.encode(params, x, keys)

    def from_space(self, params: Params, x: Array) -> Array:
        """The same in model space."""
        return x if self.latents is None else self.latents.decode(params, x)

    @property
    def label(self) -> str:
        """Its name; default: its modality's."""
        return self.name or self.modality.name

    @property
    def clock(self) -> str:
        """The stream whose times it uses: its own by default."""
        return self.time or self.label

    @property
    def form(self) -> Form:
        """Its static form for the network."""
        channels = self.shape[-1] * self.process.channels_per_output
        return Form(self.label, self.shape, self.cut, channels, self.embedder, self.features)


@runtime_checkable
class ConditionSource(Protocol):
    """A modality that a network can read directly. Implementations: Label, Numbers, everything `Continuous`."""

    @property
    def name(self) -> str:
        """Its field in a batch."""
        ...

    def prepare(self, raw: Any) -> np.ndarray:
        """See `Modality.prepare`."""
        ...

    def blank(self) -> np.ndarray:
        """See `Modality.blank`."""
        ...

    def condition_form(self) -> ConditionForm:
        """Its static form for the network, under the modality's name."""
        ...

    def to_condition(self, raw: Array) -> Array | tuple[Array, Array]:
        """A stack of prepared arrays as the network's input; tokens may come with their length: (tokens, int `[b]`)."""
        ...


@dataclass(frozen=True)
class Condition:
    """A condition of the network."""

    source: Open[Modality]
    """The modality that provides it: one that a network reads directly, or any with an `encoder`."""
    name: str = ""
    """Name in the network, in guidance and in requests; empty: its source's name."""
    drop: float = 0.0
    """Probability of dropping this condition from a training example, independently of the others."""
    encoder: Stage | None = None
    """The frozen model that encodes the source; None: the network reads it directly."""
    part: Part = "tokens"
    """The output of the encoder that the network reads."""
    padding: Padding = "mask"
    """Tokens beyond the length of an encoding: not attended to, zeros, as the encoder gives them (SD's), or the text
    again (`models.padding`)."""
    cached: bool = False
    """Whether the batch also holds the encoder's outputs, computed once (`data.cached`)."""
    padding_noise: float = 0.0
    """Noise of "replicate", as a share of the standard deviation of the text's tokens."""
    control: float = 0.0
    """Exponent of the weight of a control condition, 0 at noise and 1 at data (`models.controls`); 0: none."""
    guided: bool = True
    """Whether the prediction that guidance moves away from is made without it; False: both read it, as published
    ControlNets read their hint."""

    def __post_init__(self) -> None:
        words = "" if self.encoder is None else lacking(type(self.encoder.model), Encoder)
        if words:
            raise ValueError(f"The stage {getattr(self.encoder, 'name', '')!r} encodes nothing: {words}.")
        if self.encoder is None and (words := lacking(type(self.source), ConditionSource)):
            raise ValueError(
                f"Condition.source is not a modality that a network can read directly: {words}. Name an encoder."
            )
        if self.cached and self.encoder is None:
            raise ValueError(f"The condition {self.label!r} has no encoder whose outputs could be cached.")
        if self.cached and getattr(self.source, "varies", False):
            raise ValueError(
                f"The condition {self.label!r} caches one encoding of {self.source.name!r}, which varies from step to "
                "step; leave cached off, or crop at the centre and do not mirror."
            )
        if not 0.0 <= self.drop <= 1.0:
            raise ValueError(f"Condition.drop is a probability in [0, 1], found {self.drop}.")
        if self.drop and self.form.kept:
            raise ValueError(f"The condition {self.label!r} has no null, so it cannot be dropped.")
        if self.padding_noise < 0 or (self.padding_noise and self.padding != "replicate"):
            raise ValueError(f"Condition.padding_noise is of padding 'replicate', found {self.padding_noise}.")
        if self.control:
            check_control(self.label, self.control, self.form.kind)

    @property
    def label(self) -> str:
        """Its name; default: its source's."""
        return self.name or self.source.name

    @property
    def form(self) -> ConditionForm:
        """Its static form for the network."""
        if self.encoder is None:
            source: Any = self.source
            form = source.condition_form()
        else:
            encoder: Any = self.encoder.model
            form = encoder.condition_form(self.part)
        return ConditionForm(self.label, form.kind, form.features, form.length, form.null)

    @property
    def features(self) -> tuple[Features, ...]:
        """What a batch holds of its encodings, where they are cached: `SOURCE.STAGE.PART`."""
        if self.encoder is None or not self.cached:
            return ()
        return features_of(self.encoder, self.source, self.part)

    def shown(
        self, given: dict[str, Any], count: int, encoded: Encoded | None = None, keys: Keys | None = None
    ) -> ConditionInput:
        """Its arrays for `count` examples: those in `given`, or of `encoded` with an encoder; else its null.

        The noise of its padding is drawn by `keys`; without them there is none.
        """
        form = self.form
        if self.encoder is not None:
            return self._encoded(form, count, encoded, keys)
        source: Any = self.source
        there = source.name in given
        if there:
            value = source.to_condition(jnp.asarray(given[source.name]))
        else:
            value = source.to_condition(jnp.broadcast_to(source.blank(), (count, *source.blank().shape)))
        tokens: Any = value if isinstance(value, tuple) else (value, None)
        self._check(form, jnp.shape(tokens[0]), count)
        value, length = padded(tokens[0], tokens[1], self.padding, self.padding_noise, keys)
        present = None if form.null in ("row", "empty") else jnp.full((count,), there or form.kept)
        found = ConditionInput(form, value, present, length)
        return found if there else without(found, jnp.ones((count,), bool))

    def _check(self, form: ConditionForm, found: tuple[int, ...], count: int) -> None:
        """Raises UserError where a source of one's own gives another shape than its form says."""
        shapes = {"label": (), "tokens": (form.length, form.features)}
        wanted = (count, *shapes.get(form.kind, (form.features,)))
        if form.kind != "map" and found != wanted:
            name = type(self.source).__name__
            raise UserError(
                f"The condition {self.label!r}: {name}.to_condition gives {list(found)} for {count} examples, and its "
                f"condition_form, kind {form.kind!r}, says {list(wanted)}."
            )

    def _encoded(self, form: ConditionForm, count: int, encoded: Encoded | None, keys: Keys | None) -> ConditionInput:
        if encoded is None:
            shape = (count, form.features) if form.kind == "vector" else (count, form.length, form.features)
            if form.kind == "map":
                shape = (count, *features_of(self.encoder, self.source, self.part)[0].shape)  # pyright: ignore[reportArgumentType]
            return ConditionInput(form, jnp.zeros(shape), jnp.zeros((count,), bool))
        value: Any = getattr(encoded, self.part)
        length = encoded.length if self.part == "tokens" else None
        value, length = padded(value, length, self.padding, self.padding_noise, keys)
        return ConditionInput(form, value, jnp.ones((count,), bool), length)


def condition(source: Any) -> Condition:
    """Wraps a bare modality as a condition."""
    return source if isinstance(source, Condition) else Condition(source)


def conditions_of(model: Any) -> tuple[Condition, ...]:
    """The conditions of a model that declares them as `reads`; () of any other."""
    return getattr(model, "reads", ())


def mirrored(x: Array, turned: Bool[Array, "b"]) -> Array:
    """Examples mirrored along their last spatial axis, where `turned`."""
    return jnp.where(expand(turned, x), jnp.flip(x, axis=-2), x)
