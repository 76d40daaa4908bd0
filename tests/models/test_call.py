"""The network call beside the one before it (tests/legacy): parameters, losses, gradients and samples, bitwise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, MODEL, stirred
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
from unified_jax.samplers.plan import Plan


@dataclasses.dataclass(frozen=True)
class Before(legacy.Diffusion, Declared):
    """The model as it was, with what it did not yet declare."""


FLOW = (RectifiedFlow("x0", loss="velocity"), Plan(Euler(), 3, Guidance(2.0, rescale=0.5), clip=True))
GIVEN = {"shape": jnp.arange(4) % 6}
CHAIN = (DiscreteGaussian(steps=40, variance="learned_range"), Plan(Ddpm(), 4, Guidance(1.5)))


@pytest.mark.parametrize(
    ("conditioning", "process", "plan"),
    [("adaln_zero", *FLOW), ("adaln", CHAIN[0], None), ("cross", FLOW[0], None), ("in_context", *CHAIN)],
)
def test_a_run_is_the_same_to_the_bit(conditioning, process, plan):
    batch = Pipeline(EXPERIMENT.data, "train", MODEL.modalities, 8, 0).batch(0).arrays
    found = []
    for network, model in ((legacy.DiT, Before), (DiT, Diffusion)):
        one = model(
            network(2, 32, 4, conditioning=conditioning, remat="dots" if plan else "none"), process,
            MODEL.modality, MODEL.conditions,
            drop_all=0.2, drop_some=0.4, flip=True,
        )  # fmt: skip
        assert set(one.terms) == ({"mse", "vb"} if process.channels_per_output == 2 else {"mse"})
        params = stirred(one.init, 0.05)

        @jax.jit
        def run(params, one=one):
            def total(params):
                terms, _, metrics = one.losses(params, {}, batch | {"step": 0}, seed_key(3))
                return sum(jnp.sum(value) for value, _ in terms.values()), (terms, metrics)

            made = one.generate(params, GIVEN, ("image",), sample_keys(1, 0, 4), plan) if plan else {}
            return jax.value_and_grad(total, has_aux=True)(params), made

        found.append((params, run(params)))
    before, now = (jax.tree.leaves_with_path(tree) for tree in found)
    assert [path for path, _ in before] == [path for path, _ in now]
    for (path, old), (_, new) in zip(before, now, strict=True):
        assert np.any(old), jax.tree_util.keystr(path)
        np.testing.assert_array_equal(old, new, err_msg=jax.tree_util.keystr(path))
