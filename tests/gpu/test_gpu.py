"""What a Hopper GPU computes is what the specification says, and what a CPU computes. `make gpu` runs this.

Anywhere else every test says "not verified".
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.oracle import dense
from tests.kernels.test_derivatives import assert_equal_to_float64
from tests.kernels.test_hopper import assert_projections
from tests.kernels.test_pallas import assert_close, assert_unread, forward_and_gradient, halved, problem
from unified_jax.kernels import choice, pallas
from unified_jax.kernels.hopper import compat
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.networks.dit import DiT
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization
from unified_jax.training.step import Optimizer, init_state, train_step

THERE = any(name in jax.devices()[0].device_kind for name in choice.HOPPER)
pytestmark = pytest.mark.skipif(not THERE or compat.missing() is not None, reason="not verified: no Hopper GPU here")

CASES = [
    ("full", 1, 1, 1, 2, 2, 64),
    ("full", 4, 256, 256, 16, 16, 72),
    ("random", 2, 17, 17, 2, 1, 72),
    ("causal", 1, 1030, 1030, 2, 2, 128),
    ("packed", 2, 1000, 1000, 4, 2, 128),
    ("window", 1, 600, 600, 2, 2, 64),
    ("random", 1, 130, 700, 2, 1, 96),
]


PATHS = {
    name: lambda q, k, v, visible, name=name: choice.attend(q, k, v, visible, attention=name)
    for name in ("pallas", "xla", "cudnn")
}


def assert_attention(case, attention):
    """Forward and gradient in bfloat16, beside float64."""
    given = halved(problem(*case))
    found = forward_and_gradient(*given, path=PATHS[attention], dtype=jnp.bfloat16)
    assert_close(found, dense(*given), 2e-2)


def named(case):
    return f"{case[0]}_{case[2]}x{case[3]}_{case[6]}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_attention_by_the_kernels_equals_float64(case):
    assert_attention(case, "pallas")


@pytest.mark.parametrize("case", CASES[1:], ids=named)
def test_attention_by_xla_equals_float64(case):
    """Not of one key: its gradient is a difference of equal numbers, one of which goes through bfloat16 there."""
    assert_attention(case, "xla")


@pytest.mark.parametrize("case", [CASES[1], ("packed", 2, 1000, 1000, 4, 4, 128)], ids=named)
def test_attention_by_cudnn_equals_float64(case):
    assert_attention(case, "cudnn")


@pytest.mark.parametrize("case", [("packed", 2, 300, 300, 4, 2, 64), ("causal", 1, 257, 257, 2, 2, 128)], ids=named)
def test_forward_mode_and_reverse_over_forward_equal_float64(case):
    assert_equal_to_float64(case, 2e-2, jnp.bfloat16, pallas.Target("hopper"))


def test_no_block_outside_every_run_is_read():
    assert_unread(halved(problem("full", 1, 256, 2048, 2, 2, 64)), PATHS["pallas"], jnp.bfloat16, 2e-2)


@pytest.mark.parametrize("case", [("full", 16, 1024, 1024, 16, 16, 72), ("packed", 4, 2048, 2048, 16, 4, 128)])
def test_kernels_give_the_same_bits_every_time(case):
    """A race would show as a moving error."""
    given = jax.device_put(halved(problem(*case)))
    again = functools.partial(forward_and_gradient, *given, path=PATHS["pallas"], dtype=jnp.bfloat16)
    first = again()
    for _ in range(30):
        assert all(bool(jnp.array_equal(a, b, equal_nan=True)) for a, b in zip(first, again(), strict=True))


@pytest.mark.parametrize("rows", [1, 3])
def test_projections_equal_the_specification(rows):
    assert_projections((2, 270, 1152, 16, 1, 72, rows), pallas.Target("hopper"))


@pytest.mark.parametrize("attention", ["pallas", "cudnn", "xla"])
def test_the_half_of_dit_xl_and_its_gradients_equal_the_specification(attention):
    keys = iter(jax.random.split(jax.random.key(0), 8))
    b, n, d, h = 4, 256, 1152, 16

    def draw(*size, dtype=jnp.bfloat16):
        return (0.05 * jax.random.normal(next(keys), size)).astype(dtype)

    rows = Modulation(*(draw(b, 1, d, dtype=jnp.float32) for _ in range(3)))
    given = (draw(b, n, d), rows, QkvWeights(draw(d, h, 3, d // h)), OutWeights(draw(h, d // h, d)))

    def total(given, attention):
        y = choice.attention_half(*given, attention=attention)
        return jnp.sum(jnp.sin(100.0 * y.astype(jnp.float32)))

    found = jax.jit(jax.grad(total), static_argnames="attention")(given, attention=attention)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), given)
    expected = jax.jit(jax.grad(total), static_argnames="attention")(exact, attention="reference")
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= 3e-2 * np.linalg.norm(b)


MODEL = Diffusion(DiT(depth=4, width=192, heads=3), modality=Image(16, 16, 3, 2), conditions=(Label("label", 10),))
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8),
    "label": np.arange(8, dtype=np.int32),
    "slot": np.arange(8, dtype=np.int32),
}


def trained(model, device, steps=20):
    """(losses, parameters) of the first steps on a device."""
    optimizer, balance = Optimizer(Optimization(learning_rate=1e-3), (Ema(),), 1000), FixedBalance()
    with jax.default_device(device):
        state = jax.jit(functools.partial(init_state, model, optimizer, balance))(jax.random.key(0))
        step = jax.jit(functools.partial(train_step, model, optimizer, balance), donate_argnums=0)
        losses = []
        for _ in range(steps):
            state, metrics = step(state, {}, BATCH, jax.random.key(0))
            losses.append(float(metrics["loss"]))
        return losses, jax.device_get(state.params)


def test_a_float32_run_has_the_losses_of_a_cpu_s():
    gpu, cpu = (trained(MODEL, jax.devices(kind)[0])[0] for kind in ("gpu", "cpu"))
    np.testing.assert_allclose(gpu, cpu, rtol=2e-5)
    assert gpu[-1] < gpu[0]


def test_samples_are_a_cpu_s():
    plan, made = SamplingPlan(Euler(), steps=20, guidance=Guidance(2.0)), []
    for kind in ("gpu", "cpu"):
        with jax.default_device(jax.devices(kind)[0]):
            params = jax.tree.map(
                lambda p: p + 0.02 * jnp.cos(jnp.arange(p.size).reshape(p.shape)), MODEL.init(jax.random.key(0))
            )
            generate = jax.jit(lambda p, k: MODEL.generate(p, {}, wanted=("image",), keys=k, plan=plan))
            made.append(np.asarray(generate(params, jax.random.split(jax.random.key(1), 4))["image"]))
    assert np.abs(made[0] - made[1]).max() <= 1e-4 * np.abs(made[1]).max()


@pytest.mark.parametrize("attention", ["pallas", "xla", "cudnn"])
def test_two_runs_in_bfloat16_learn_and_their_bits_are_equal(attention):
    model = dataclasses.replace(MODEL, network=MODEL.network.clone(dtype="bfloat16", attention=attention))
    (first, params), (second, others) = (trained(model, jax.devices("gpu")[0]) for _ in range(2))
    exact, _ = trained(MODEL, jax.devices("gpu")[0])
    np.testing.assert_allclose(first, exact, rtol=2e-2)
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, params, others)
