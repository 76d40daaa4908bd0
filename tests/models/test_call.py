"""The network call beside the one before it (tests/legacy): equal parameters, losses, gradients and guided samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, MODEL
from tests.legacy import call as legacy
from unified_jax.data.pipeline import Pipeline
from unified_jax.models.base import Declared
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.sampling import sample_keys
from unified_jax.networks.dit import DiT
from unified_jax.precision import seed_key
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Ddpm, Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan


@dataclasses.dataclass(frozen=True)
class Before(legacy.Diffusion, Declared):
    """The model as it was, with what it did not yet declare."""


FLOW = (RectifiedFlow("x0", loss="velocity"), SamplingPlan(Euler(), 3, Guidance(2.0, rescale=0.5), clip=True))
GIVEN = {"shape": jnp.arange(4) % 6}
CHAIN = (DiscreteGaussian(steps=40, variance="learned_range"), SamplingPlan(Ddpm(), 4, Guidance(1.5)))


@pytest.mark.parametrize(
    ("conditioning", "process", "plan"),
    [("adaln_zero", *FLOW), ("adaln", *CHAIN), ("cross", FLOW[0], None), ("in_context", CHAIN[0], None)],
)
def test_losses_gradients_and_samples_are_the_same_to_the_bit(conditioning, process, plan):
    """Each process is sampled once: the sampler calls the network as the losses do."""
    rows = Pipeline(EXPERIMENT.data, "train", MODEL.modalities, 8, 0).batch(0).arrays
    found = []
    for network, model in ((legacy.DiT, Before), (DiT, Diffusion)):
        one = model(
            network(depth=2, width=32, heads=4, conditioning=conditioning, remat="none"), process, MODEL.modality,
            MODEL.conditions, drop_all=0.2, drop_some=0.4, flip=True,
        )  # fmt: skip
        assert set(one.terms) == ({"mse", "vb"} if process.channels_per_output == 2 else {"mse"})

        @jax.jit
        def answers(params, rows, one=one):
            def total(params):
                terms, _, metrics = one.losses(params, {}, rows, seed_key(3))
                return sum((value.sum() for value, _ in terms.values()), jnp.zeros(())), (terms, metrics)

            made = one.generate(params, GIVEN, ("image",), sample_keys(1, 0, 4), plan) if plan else {}
            return jax.value_and_grad(total, has_aux=True)(params), made

        fresh = jax.jit(one.init)(seed_key(3))
        rng = np.random.default_rng(0)  # nothing is zero, so that every parameter matters
        stirred = jax.tree.map(
            lambda p, rng=rng: p + rng.normal(0, 0.1, p.shape).astype(p.dtype), jax.device_get(fresh)
        )
        found.append((fresh, answers(stirred, rows)))
    before, now = (jax.tree.leaves_with_path(tree) for tree in found)
    assert [path for path, _ in before] == [path for path, _ in now]
    for (path, old), (_, new) in zip(before, now, strict=True):
        np.testing.assert_array_equal(old, new, err_msg=jax.tree_util.keystr(path))
