r"""The moments of an autoencoder as fields of a batch, computed once (`data.cached`): `SOURCE.STAGE.map`.

    field   [mean, log variance] of every position, before scale and shift; a latent is drawn of them in every step

A step that reads them needs neither data nor autoencoder: the stage is left out of the memory of training (`resting`),
kept in the run's folder, and loaded for as long as a preview takes.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.errors import UserError
from unified_jax.modalities.features import Features
from unified_jax.models.boxed import Wraps
from unified_jax.models.features import features_of
from unified_jax.models.stages import STAGES, Encoded, Part, Stage
from unified_jax.networks.autoencoders.moments import Moments
from unified_jax.typing import Keys, Params


@dataclass(frozen=True)
class MomentsOf(Wraps):
    """An autoencoder that says its moments of prepared arrays, as a map."""

    model: Any
    """The autoencoder, without scale and shift."""
    source: Any
    """The modality."""

    def encode(self, params: Params, x: Array, keys: Keys | None = None) -> Encoded:
        """See `Encoder`: means, and log variances of Gaussians."""
        del keys
        found = self.model.moments(params, self.source.to_model(x))
        return Encoded(map=found.mean if found.logvar is None else jnp.concatenate([found.mean, found.logvar], -1))


@dataclass(frozen=True)
class CachedLatents:
    """What `runs.encode` reads of a condition (`streams.Condition`), for a stream whose moments are computed once."""

    source: Any
    """The modality."""
    encoder: Stage
    """The autoencoder as a stage that says its moments."""
    part: Part = "map"
    cached: bool = True

    @property
    def features(self) -> tuple[Features, ...]:
        """The field of the moments."""
        return features_of(self.encoder, self.source, self.part)

    @property
    def label(self) -> str:
        """The field's name."""
        return self.features[0].name


def held(stream: Any) -> CachedLatents | None:
    """What a stream reads of its cached moments; None where it encodes in every step."""
    if stream.latents is None or not stream.latents.cached:
        return None
    stage = stream.latents.stage
    bare = replace(stage.model, scale=(1.0,), shift=(0.0,)) if hasattr(stage.model, "shift") else stage.model
    return CachedLatents(stream.modality, replace(stage, model=MomentsOf(bare, stream.modality)))


def held_latents(model: Any) -> tuple[CachedLatents, ...]:
    """Those of all streams of a model, each field once."""
    found = [one for stream in getattr(model, "streams", ()) if (one := held(stream)) is not None]
    return tuple({one.label: one for one in found}.values())


def resting(model: Any) -> tuple[str, ...]:
    """Names of the stages that no training step reads."""
    return tuple(one.encoder.name for one in held_latents(model))


def awake(model: Any, frozen: Params) -> Params:
    """Frozen parameters, or their shapes, without the stages that rest."""
    asleep = resting(model)
    if not asleep or STAGES not in frozen:
        return frozen
    stages = {name: value for name, value in frozen[STAGES].items() if name not in asleep}
    return {**{n: v for n, v in frozen.items() if n != STAGES}, **({STAGES: stages} if stages else {})}


def in_space(stream: Any, params: Params, batch: Any, keys: Keys | None, turned: Any) -> Float[Array, "b ..."]:
    """A batch's examples where they are denoised: from data, or drawn of moments that the batch holds."""
    one = held(stream)
    if one is None or one.label not in batch:
        return stream.to_space(params, jnp.asarray(batch[stream.modality.name]), keys, turned)
    if turned is not None:
        raise UserError(f"The moments of {one.label} are of one view: flip=False, or latents that are not cached.")
    raw, channels = jnp.asarray(batch[one.label]).astype(jnp.float32), stream.latents.shape[-1]
    found = Moments(raw) if raw.shape[-1] == channels else Moments(raw[..., :channels], raw[..., channels:])
    z = found.mean if keys is None or stream.latents.draw == "mean" else found.draw(keys)
    return jax.lax.stop_gradient(stream.latents.model.normalised(z))


class HoldsLatents:
    """A mixin without fields: what a training batch of a model of streams holds."""

    streams: Any
    reads: Any
    modalities: Any

    @property
    def trained_on(self) -> tuple[Any, ...]:
        """Its modalities without the data whose moments are there, unless a condition reads it."""
        cached = {one.source.name for one in held_latents(self)} - {c.source.name for c in self.reads if not c.cached}
        cached -= {s.modality.name for s in self.streams if held(s) is None}
        return tuple(m for m in self.modalities if m.name not in cached)
