"""A model of one stream learns and samples any continuous modality, one of the user's own too."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from tests.models.small import AUDIO, Small, batch_of, weights
from unified_jax.errors import UserError
from unified_jax.modalities.base import Continuous, check_array
from unified_jax.modalities.points import Points
from unified_jax.modalities.video import Video
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.plan import SamplingPlan


@dataclass(frozen=True)
class Weather(Continuous):
    """Hours by stations by three readings, which no patch divides."""

    hours: int = 7
    name: str = "weather"
    suffix = ".csv"
    cut = (4, 2)

    @property
    def shape(self):
        """As `Continuous.shape`."""
        return self.hours, 3, 3

    def prepare(self, raw):
        """As `Modality.prepare`."""
        return check_array(raw, self.shape, np.float32)

    def to_model(self, raw):
        """Degrees to about unit size."""
        return raw / 10

    def from_model(self, x):
        """Degrees."""
        return 10 * np.asarray(x)

    def save(self, path, example):
        """A table."""
        np.savetxt(path, example.reshape(len(example), -1))

    def picture(self, example):
        """Nothing to see."""


POINTS = Points(32, per_token=8)
VIDEO = Video(4, 8, 8, patch=(2, 4, 4))
CHAIN = DiscreteGaussian(steps=40, variance="learned_range")


@pytest.mark.parametrize(
    ("network", "modality", "process"),
    [
        (Small(), AUDIO, RectifiedFlow()),
        (Small(), POINTS, CHAIN),
        (DiT(1, 24, 2, remat="none"), VIDEO, RectifiedFlow()),
        (Small(), Weather(), RectifiedFlow("x0")),
    ],
    ids=["audio", "points", "video", "own"],
)
def test_it_learns_and_samples(network, modality, process):
    model = Diffusion(network, process, modality)
    params, batch = weights(model), batch_of(model, 4)

    @jax.jit
    def step(params):
        def total(params):
            terms, _, _ = model.losses(params, {}, batch, jax.random.key(0))
            return sum((value.mean() for value, _ in terms.values()), jnp.zeros(()))

        value, gradient = jax.value_and_grad(total)(params)
        return jax.tree.map(lambda p, g: p - 0.02 * g, params, gradient), value

    losses = []
    for _ in range(8):
        params, value = step(params)
        losses.append(float(value))
    assert losses[-1] < losses[0]
    assert model.wantable == (modality.name,)
    draw = jax.jit(lambda keys: model.generate(params, {}, (modality.name,), keys, SamplingPlan(steps=2)))
    made = draw(keys_of(2))[modality.name]
    assert made.shape == (2, *modality.shape)
    assert np.isfinite(made).all() and not np.allclose(made[0], made[1])


def test_positions_that_the_width_does_not_hold_are_a_sentence():
    model = Diffusion(DiT(1, 32, 2), modality=VIDEO)
    with pytest.raises(ValueError, match="over 3 axes need a width divisible by 6, found 32"):
        jax.eval_shape(model.init, jax.random.key(0))


def test_what_has_no_left_and_right_is_not_mirrored():
    for modality in (POINTS, AUDIO):
        with pytest.raises(ValueError, match="flip mirrors what has a left and a right"):
            Diffusion(Small(), modality=modality, flip=True)
    assert Diffusion(Small(), modality=VIDEO, flip=True).flip


def test_bits_are_of_eight_bit_data():
    model = Diffusion(Small(), modality=POINTS)
    with pytest.raises(UserError, match="8-bit data, and 'points' is not"):
        model.bits({}, batch_of(model, 2), keys_of(2), 2)
