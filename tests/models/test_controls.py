"""Control conditions: their weight over time in training and sampling, and what networks do with it."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from tests.models.small import Small, Spy, batch_of, close, spied_losses, spied_samples
from unified_jax.layers.form import ConditionInput, Form, NoisyInput
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.numbers import Numbers
from unified_jax.models.controls import control_weight
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.joint import JointDiffusion
from unified_jax.models.streams import Condition, Stream
from unified_jax.networks.dit import DiT
from unified_jax.networks.gentron import GenTron
from unified_jax.networks.joint_blocks import Summary
from unified_jax.networks.mdit import MaskedDiT
from unified_jax.networks.pixart import PixArt
from unified_jax.networks.unet.embedding import Embedding
from unified_jax.networks.uvit import UVit
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.guidance import Guidance

TINY = Image(2, 2, 1, patch=1)
SIZE, SHAPE = Numbers("size", 2), Label("shape", 5)


class WeighingSpy(Spy):
    """A spy that says it weighs."""

    weighs: ClassVar = True


def model(**fields):
    conditions = (Condition(SIZE, control=3.0), SHAPE)
    return Diffusion(WeighingSpy(), modality=TINY, conditions=conditions, drop_all=0.0, **fields)


def test_the_weight_is_zero_at_noise_and_one_at_data():
    t = np.linspace(0, 1, 9)
    for a in (0.5, 1.0, 8.0):
        wanted = [((1 + math.cos(math.pi * x)) / 2) ** a for x in t]
        np.testing.assert_allclose(control_weight(jnp.asarray(t, jnp.float32), a), wanted, atol=1e-6)
    ends = control_weight(jnp.asarray([0.0, 1.0]), 2.0)
    assert ends.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("process", [RectifiedFlow(), DiscreteGaussian("squared_cosine", 10)])
def test_training_and_sampling_weigh_by_the_time_that_they_show(process):
    one = model(process=process)
    batch = batch_of(one, 6)

    def weight(shown):
        t = np.asarray(shown.t) / 1000 if isinstance(process, RectifiedFlow) else (np.asarray(shown.t) + 1) / 10
        return ((1 + np.cos(np.pi * t)) / 2) ** 3

    noisy, shown, _, _ = spied_losses(one, batch)
    assert shown["shape"].weight is None
    close(shown["size"].weight, weight(noisy["image"]))
    assert np.ptp(np.asarray(shown["size"].weight)) > 0.1
    given = {name: batch[name] for name in ("size", "shape")}
    calls, _ = spied_samples(one, given, ("image",), 6, 4, Guidance(2.0))
    assert len(calls) == 8  # with and without conditions
    for noisy, shown in calls:
        close(shown["size"].weight, weight(noisy["image"]))


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(ValueError, match="is a map, and a control condition is one of label, vector, scalars"):
        Condition(Image(2, 2, 1, name="low"), control=1.0)
    with pytest.raises(ValueError, match="exponent of at least 0, found -1"):
        Condition(SIZE, control=-1.0)
    with pytest.raises(ValueError, match="Spy does not scale conditions, and 'size' is a control condition"):
        Diffusion(Spy(), modality=TINY, conditions=(Condition(SIZE, control=1.0),))
    streams = (Stream(TINY), Stream(Image(2, 2, 1, patch=1, name="other")))
    with pytest.raises(ValueError, match="needs one time, and the streams have several"):
        JointDiffusion(Small(), streams, (Condition(SIZE, control=1.0),))


def condition(kind, weight, seed):
    """A condition of a kind, with a weight."""
    rng = np.random.default_rng(seed)
    value = rng.integers(0, 4, 3, np.int32) + seed % 2 if kind == "label" else rng.normal(0, 1, (3, 3)).astype("f")
    form = ConditionForm("told", kind, 6 if kind == "label" else 3, null="row" if kind == "label" else "zero")
    weights = None if weight is None else jnp.full(3, weight)
    return ConditionInput(form, jnp.asarray(value), None if kind == "label" else jnp.ones(3, bool), weight=weights)


def check(call):
    """At weight 0 the value says nothing, at 1 all, in between something else; `call(weight, seed)`."""
    np.testing.assert_array_equal(call(0.0, 0), call(0.0, 1))
    np.testing.assert_array_equal(call(1.0, 0), call(None, 0))
    assert np.abs(call(1.0, 0) - call(1.0, 1)).max() > 1e-3
    half = call(0.5, 0)
    assert min(np.abs(half - call(w, 0)).max() for w in (0.0, 1.0)) > 1e-4


def embedded(module):
    """What a module makes of a time and conditions, as a check's call by kind."""

    def of(kind):
        t = jnp.asarray([0.1, 0.4, 0.9])
        params = stirred(lambda key: module.init(key, t, (condition(kind, None, 0),)), 0.1)
        apply = jax.jit(module.apply)
        return lambda weight, seed: np.asarray(apply(params, t, (condition(kind, weight, seed),)))

    return of


@pytest.mark.parametrize("kind", ["label", "vector", "scalars"])
@pytest.mark.parametrize("module", [Summary(16), Embedding(8, 16, scalar_features=8)], ids=["sum", "unet"])
def test_embeddings_are_weighed(module, kind):
    check(embedded(module)(kind))


SIZES = {"depth": 2, "width": 24, "heads": 2, "remat": "none"}
NETWORKS = {
    "adaln": (DiT(**SIZES), ("label", "vector")),
    "in_context": (DiT(**SIZES, conditioning="in_context"), ("label",)),
    "cross": (DiT(**SIZES, conditioning="cross"), ("label",)),
    "uvit": (UVit(**SIZES), ("label", "vector")),
    "masked": (MaskedDiT(**{**SIZES, "depth": 3}, decoders=1), ("label",)),
    "pixart": (PixArt(**SIZES), ("label", "vector", "scalars")),
    "gentron": (GenTron(**SIZES), ("vector",)),
}
CASES = [(name, kind) for name, (_, kinds) in NETWORKS.items() for kind in kinds]
DEFAULT = [("adaln", "vector"), ("in_context", "label")]


@pytest.mark.parametrize(
    ("name", "kind"), [c if c in DEFAULT else pytest.param(*c, marks=pytest.mark.nightly) for c in CASES]
)
def test_networks_weigh(name, kind):
    network, form = NETWORKS[name][0], Form("image", (4, 4, 2), (2, 2), 2)
    x = jnp.asarray(np.random.default_rng(7).normal(0, 1, (3, 4, 4, 2)), jnp.float32)
    noisy = (NoisyInput(form, x, jnp.asarray([100.0, 400.0, 900.0])),)
    params = stirred(lambda key: network.init(key, noisy, (condition(kind, None, 0),)), 0.2)
    apply = jax.jit(lambda params, shown: network.apply(params, noisy, (shown,))[0]["image"])
    assert network.weighs
    check(lambda weight, seed: np.asarray(apply(params, condition(kind, weight, seed))))


def test_a_model_without_controls_shows_no_weights():
    plain = dataclasses.replace(model(), conditions=(SIZE, SHAPE))
    _, shown, _, _ = spied_losses(plain, batch_of(plain, 2))
    assert all(one.weight is None for one in shown.values())
