"""Skip-layer guidance by its formula, within its times, for a network that can leave blocks out."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.plain import Plain
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.samplers.skip_layers import SkipLayers


class Sum(nn.Module):
    """The label, plus the numbers of the blocks that are not skipped, plus a parameter."""

    skip: tuple[int, ...] = ()
    takes: ClassVar = ("label",)
    streams: ClassVar = "one"

    def __post_init__(self):
        if any(i > 2 for i in self.skip):
            raise ValueError("Sum.skip names blocks 0 .. 2.")
        super().__post_init__()

    @nn.compact
    def __call__(self, noisy, conditions=(), *, layout=None, capture=()):
        """See `Backbone`."""
        (one,) = noisy
        bias = self.param("bias", nn.initializers.ones, ())
        blocks = bias + sum(10.0**i for i in range(3) if i not in self.skip)
        return {one.form.name: jnp.zeros_like(one.x) + blocks + 1000.0 * conditions[0].value[:, None, None, None]}, {}


MODEL = Diffusion(Sum(), modality=Image(2, 2, 1, 1), conditions=(Label("label", 3),))


def said(guidance, t):
    """The velocity that the guided denoiser gives for the label 1."""
    keys = jax.random.split(jax.random.key(0), 1)
    plan = SamplingPlan(Euler(), 2, guidance)
    params = MODEL.init(jax.random.key(0))
    denoise = MODEL.sampling(params, {"label": jnp.asarray([1])}, ("image",), keys, plan).denoise
    found = denoise(jnp.zeros((1, 2, 2, 1)), jnp.asarray([t]))
    return float((found.eps - found.x0)[0, 0, 0, 0])


def test_the_difference_to_the_network_without_blocks_is_added_within_its_times():
    whole, without = 1000 + 112.0, 1000 + 12.0  # block 2 is worth 100
    skip = SkipLayers((2,), scale=2.5, low=0.8, high=0.99)
    for t, share in ((0.9, 2.5), (0.5, 0.0), (0.8, 0.0), (1.0, 0.0)):
        np.testing.assert_allclose(said(Guidance(skip=skip), t), whole + share * (whole - without), rtol=1e-5)
    guided = 3000 + 112 + 2 * (1000 - 3000)  # scale 2 away from the null row, 3
    np.testing.assert_allclose(said(Guidance(2.0, skip=skip), 0.9), guided + 2.5 * 100, rtol=1e-5)
    assert said(Guidance(skip=SkipLayers((2,), scale=0.0)), 0.9) == said(Guidance(), 0.9)


def test_networks_and_blocks_that_are_not_there_are_refused():
    keys, plan = jax.random.split(jax.random.key(0), 1), SamplingPlan(Euler(), 2, Guidance(skip=SkipLayers((7,))))
    with pytest.raises(UserError, match="names blocks 0"):
        MODEL.sampling({}, {"label": jnp.asarray([1])}, ("image",), keys, plan)
    other = Diffusion(Plain(), modality=Image(2, 2, 1, 1))
    with pytest.raises(UserError, match="Plain cannot"):
        other.sampling({}, {}, ("image",), keys, plan)
    with pytest.raises(ValueError, match="needs layers"):
        SkipLayers(())


@pytest.mark.parametrize("steps", [28, 40, 50])
def test_the_defaults_are_the_steps_of_stable_diffusion_3_5(steps):
    """Those after 1 % and before 20 % of the steps, on its schedule of shift 3."""
    _, grid = SamplingPlan(Euler(), steps, shift=3.0).prepare(RectifiedFlow())
    found = np.flatnonzero(SkipLayers().at(jnp.asarray(grid[:-1])))
    np.testing.assert_array_equal(found, [i for i in range(steps) if 0.01 * steps < i < 0.2 * steps])
