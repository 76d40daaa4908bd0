"""The network call beside the one before it (tests/legacy): equal state, moments, EMA and guided samples, bitwise."""

import dataclasses
import functools

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
from unified_jax.samplers.choice import Ddpm, Heun
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan
from unified_jax.training.algorithms import AdamW
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization
from unified_jax.training.step import Optimizer, init_state, train_step


@dataclasses.dataclass(frozen=True)
class Before(legacy.Diffusion, Declared):
    """The model as it was, with what it did not yet declare."""


OPTIMIZER = Optimizer(Optimization(AdamW(weight_decay=0.01), learning_rate=1e-2), (Ema(0.9),), 10)
FLOW = (RectifiedFlow("x0", loss="velocity"), Plan(Heun(), 3, Guidance(2.0, rescale=0.5), clip=True))
GIVEN = {"shape": jnp.arange(4) % 6}
CHAIN = (DiscreteGaussian(steps=40, variance="learned_range"), Plan(Ddpm(), 4, Guidance(1.5)))


@pytest.mark.parametrize(
    ("conditioning", "process", "plan"),
    [("adaln_zero", *FLOW), ("adaln", *CHAIN), ("cross", *FLOW), ("in_context", *CHAIN)],
)
def test_a_run_is_the_same_to_the_bit(conditioning, process, plan):
    batches = Pipeline(EXPERIMENT.data, "train", MODEL.modalities, 8, 0)
    found = []
    for network, model in ((legacy.DiT, Before), (DiT, Diffusion)):
        one = model(
            network(depth=2, width=32, heads=4, conditioning=conditioning), process, MODEL.modality, MODEL.conditions,
            drop_all=0.2, drop_some=0.4, flip=True,
        )  # fmt: skip
        assert set(one.terms) == ({"mse", "vb"} if process.channels_per_output == 2 else {"mse"})
        state = jax.jit(functools.partial(init_state, one, OPTIMIZER, FixedBalance()))(seed_key(3))
        step = jax.jit(functools.partial(train_step, one, OPTIMIZER, FixedBalance()))
        for i in range(3):
            state, metrics = step(state, {}, batches.batch(i).arrays, seed_key(3))
        made = jax.jit(lambda params, m=one: m.generate(params, GIVEN, ("image",), sample_keys(1, 0, 4), plan))
        found.append((state, metrics, made(state.ema[0])))
    before, now = (jax.tree.leaves_with_path(tree) for tree in found)
    assert [path for path, _ in before] == [path for path, _ in now]
    for (path, old), (_, new) in zip(before, now, strict=True):
        np.testing.assert_array_equal(old, new, err_msg=jax.tree_util.keystr(path))
