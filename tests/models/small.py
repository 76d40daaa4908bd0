"""A network of a few lines over many streams and all kinds of conditions, one that remembers what it was shown, and
what they denoise: small pictures and sounds of the world."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import keys_of
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.base import check_array
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.modalities.mel import Mel
from unified_jax.models.joint import JointDiffusion
from unified_jax.models.streams import Stream
from unified_jax.processes.grids import Needs
from unified_jax.processes.targets import velocity
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.loop import START, at_time, normal_like, step_pairs
from unified_jax.samplers.plan import SamplingPlan

IMAGE = Image(16, 16, 3, patch=8)
AUDIO = Audio(mel=Mel(rate=8000, hop=1000, mels=8), patch=(3, 4))
EVERY = ("label", "vector", "scalars", "tokens", "map")


class Small(nn.Module):
    """Every patch reads itself and a sum over all streams, their times and the conditions."""

    takes: ClassVar = EVERY
    streams: ClassVar = "many"
    width: int = 8

    @nn.compact
    def __call__(self, noisy, conditions=(), *, layout=None, capture=()):
        """See `Backbone`."""
        parts = []
        for form, x, t, _ in noisy:
            parts.append(nn.Dense(self.width, name=f"{form.name}_all")(x.reshape(len(x), -1)))
            parts.append(nn.Dense(self.width, name=f"{form.name}_time")(t[:, None] / 1000))
        for form, value, present, *_ in conditions:
            row = jax.nn.one_hot(value, form.features) if form.kind == "label" else value.reshape(len(value), -1)
            null = jnp.zeros((len(row), 1)) if present is None else 1.0 - present[:, None]
            parts.append(nn.Dense(self.width, name=form.name)(jnp.concatenate([row, null], axis=1)))
        outputs = {}
        for form, x, _, _ in noisy:
            h = nn.Dense(self.width, name=f"{form.name}_in")(form.patches(x)) + sum(parts)[:, None]
            outputs[form.name] = form.unpatch(nn.Dense(form.out_features, name=f"{form.name}_out")(jnp.tanh(h)))
        return outputs, {}


SHOWN = []


class Spy(nn.Module):
    """Answers zeros, and keeps what it was shown in SHOWN."""

    takes: ClassVar = EVERY
    streams: ClassVar = "many"

    @nn.compact
    def __call__(self, noisy, conditions=(), *, layout=None, capture=()):
        """See `Backbone`."""
        self.param("unused", nn.initializers.zeros, ())
        SHOWN.append((noisy, conditions))
        return {n.form.name: jnp.zeros((*n.x.shape[:-1], n.form.out_channels)) for n in noisy}, {}


PLAIN = Guidance()


@dataclass(frozen=True)
class Steps:
    """Euler, unrolled, so that what a network is shown can leave the program."""

    needs = Needs()

    def __call__(self, denoise, process, x, grid, keys):
        """See `Sampler`."""
        here, there = step_pairs(process, grid)
        for i in range(len(jax.tree.leaves(here)[0])):
            t, s = (jax.tree.map(lambda _, g, i=i: g[i], process, times) for times in (here, there))
            said = denoise(x, at_time(process, t, x))
            x = jax.tree.map(
                lambda p, d, x, t, s: x + (s - t) * velocity(p, d, jnp.full(len(x), t)), process, said, x, t, s
            )
        return x


def spied(call, *arguments):
    """([({stream: NoisyInput}, {condition: ConditionInput}) of each call of the network], the answer)."""

    def both(*arguments):
        SHOWN.clear()
        found = call({"unused": jnp.zeros(())}, *arguments)
        return list(SHOWN), found

    shown, found = jax.jit(both)(*arguments)
    return [tuple({one.form.name: one for one in some} for some in both) for both in shown], found


def spied_losses(model, batch, seed=3):
    """(what the network of a training step was shown, terms, metrics)."""
    shown, (terms, _, metrics) = spied(lambda p, batch: model.losses(p, {}, batch, jax.random.key(seed)), batch)
    return *shown[0], terms, metrics


def spied_samples(model, given, wanted, count, steps=2, guidance=PLAIN):
    """What the network was shown at each call of a sampler, and the samples."""
    plan = SamplingPlan(Steps(), steps, guidance)
    return spied(lambda p, given, keys: model.generate(p, given, wanted, keys, plan), given, keys_of(count))


def weights(model, size=0.2):
    """Random parameters, all of which matter."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0))
    return jax.device_put(jax.tree.map(lambda p: rng.normal(0, size, p.shape).astype(p.dtype), shapes))


def close(found, expected):
    """The same numbers, but for the last bits."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def batch_of(model, rows, seed=0):
    """Random examples of every field, prepared."""
    rng = np.random.default_rng(seed)
    batch = {"slot": np.arange(rows, dtype=np.int32)}
    for field in model.modalities:
        blank = field.blank()
        if blank.dtype == np.uint8:
            batch[field.name] = rng.integers(0, 256, (rows, *blank.shape), np.uint8)
        elif blank.dtype == np.int32:
            batch[field.name] = rng.integers(0, field.classes, rows, np.int32)
        else:
            batch[field.name] = rng.uniform(0, 1, (rows, *blank.shape)).astype(np.float32)
    return jax.device_put(batch)  # `jnp.asarray` compiles a program for each shape


def joint(network=None, image=None, audio=None, **fields):
    """A model of pictures and sounds; `image` and `audio` are fields of their streams."""
    streams = (Stream(IMAGE, **(image or {})), Stream(AUDIO, **(audio or {})))
    return JointDiffusion(network or Spy(), streams, **fields)


@dataclass(frozen=True)
class Words:
    """A modality of the user's own: rows of tokens that a network reads as they are."""

    name: str = "words"
    length: int = 3
    features: int = 2
    null: str = "learned"

    def blank(self):
        """As `Modality.blank`."""
        return np.zeros((self.length, self.features), np.float32)

    def prepare(self, raw):
        """As `Modality.prepare`."""
        return check_array(raw, self.blank().shape, np.float32)

    def condition_form(self):
        """Tokens."""
        return ConditionForm(self.name, "tokens", self.features, self.length, self.null)

    def to_condition(self, raw):
        """As they are."""
        return jnp.asarray(raw, jnp.float32)


FIELDS = {"image": IMAGE, "audio": AUDIO}


@dataclass(frozen=True)
class Third(Image):
    """A third field."""

    height: int = 4
    width: int = 4
    channels: int = 1
    name: str = "third"


def noise_of(names, keys):
    """Where the samplers begin."""
    return normal_like(keys, START, {name: jnp.zeros((len(keys), *FIELDS[name].shape)) for name in names})
