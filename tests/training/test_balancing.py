"""Balances on problems whose answers are known, and inside the train step, sharded and in microbatches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, first_steps
from tests.training.test_meshes import UNIFIED
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.models.base import Declared
from unified_jax.models.terms import blank_batch
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.balancing import (
    FixedBalance,
    GradNorm,
    MagnitudeBalance,
    PcGrad,
    Uncertainty,
    gradnorm_loss,
)
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization
from unified_jax.training.program import assemble
from unified_jax.training.projection import project
from unified_jax.training.step import Optimizer, init_state, train_step

KEY = jax.random.key(0)


def in_numpy(gradients, order):
    """Algorithm 1 of the paper, as it is written."""
    total = np.zeros(gradients.shape[1])
    for i, g in enumerate(gradients):
        h = g.copy()
        for j in order[i]:
            if j != i and h @ gradients[j] < 0:
                h = h - (h @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        total += h
    return total


@pytest.mark.parametrize("seed", range(5))
def test_projection_is_the_algorithm(seed):
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((4, 6)).astype(np.float32)
    order = np.stack([rng.permutation(4) for _ in range(4)])
    each = {"a": jnp.asarray(gradients[:, :2].reshape(4, 1, 2)), "b": jnp.asarray(gradients[:, 2:])}
    found = project(each, jnp.asarray(order))
    flat = np.concatenate([np.ravel(found["a"]), np.ravel(found["b"])])
    np.testing.assert_allclose(flat, in_numpy(gradients.astype(np.float64), order), atol=2e-6)


def test_projection_of_two():
    orders = [jnp.asarray(o) for o in ([[0, 1], [1, 0]], [[1, 0], [0, 1]])]
    aligned = jnp.asarray([[1.0, 0.0], [0.5, 1.0]])
    np.testing.assert_allclose(project({"p": aligned}, orders[0])["p"], [1.5, 1.0])
    np.testing.assert_allclose(project({"p": jnp.asarray([[1.0, 2.0], [-1.0, -2.0]])}, orders[0])["p"], 0.0, atol=1e-6)
    conflict = jnp.asarray([[1.0, 0.0], [-0.5, 1.0]])
    found = [project({"p": conflict}, order)["p"] for order in orders]
    np.testing.assert_array_equal(*found)  # for two terms the order does not matter
    np.testing.assert_allclose(found[0], in_numpy(np.asarray(conflict), [[0, 1], [1, 0]]), atol=1e-6)
    in_place = np.asarray([1.0, 0.0]) - (-0.5 / 1.25) * np.asarray([-0.5, 1.0])  # projects the first, then on it
    assert np.abs(found[0] - (in_place + np.asarray([-0.5, 1.0]))).max() > 0.1


def test_heads_are_not_projected():
    shared, head = jnp.asarray([[1.0, 0.0], [-1.0, 0.2]]), jnp.asarray([[7.0], [0.0]])
    found = project({"shared": shared, "head": head}, jnp.asarray([[1, 0], [0, 1]]))
    np.testing.assert_allclose(found["head"], [7.0])
    np.testing.assert_allclose(found["shared"], in_numpy(np.asarray(shared), [[1, 0], [0, 1]]), atol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def settled(balance, state, losses, each):
    """The balance's state after a step with these losses and gradients of the watched layer."""
    return balance.settle(state, losses, {}, each, KEY)[1]


def test_gradnorm_makes_norms_equal():
    balance, scales = GradNorm(alpha=0.0), jnp.asarray([1.0, 100.0])
    state = balance.init(("a", "b"))
    for _ in range(800):  # on L_k = scale_k w^2 / 2 at w = 1
        state = settled(balance, state, scales / 2, {"final_norm": (state.weights * scales)[:, None]})
        assert float(jnp.sum(state.weights)) == pytest.approx(2.0, abs=1e-5)
    norms = state.weights * scales
    assert float(norms[0] / norms[1]) == pytest.approx(1.0, rel=0.2)


def test_gradnorm_trains_what_lags_behind_harder():
    balance = GradNorm(alpha=1.0)
    state = balance.init(("a", "b"))
    ones = jnp.ones(2)
    for step in range(40):
        losses = jnp.asarray([1.0, 1.0]) if step == 0 else jnp.asarray([0.2, 0.9])
        each = {"final_norm": (state.weights * ones)[:, None]}
        state = settled(balance, state, losses, each)
    assert float(state.weights[1]) > float(state.weights[0])
    kept = settled(balance, state, jnp.asarray([0.0, 0.9]), {"final_norm": jnp.asarray([[0.0], [1.0]])})
    ratio = kept.weights[0] / jnp.sum(kept.weights)
    assert np.isfinite(ratio)  # a batch without the first term
    assert float(kept.first[0]) == 1.0


def test_uncertainty_and_magnitude_find_the_inverse_of_the_loss():
    losses = jnp.asarray([0.5, 4.0])
    learned, mean = Uncertainty(0.1), MagnitudeBalance(0.9)
    states = [learned.init(("a", "b")), mean.init(("a", "b"))]
    assert [float(v) for v in mean.weigh(states[1], ("a", "b")).values()] == [1.0, 1.0]
    for _ in range(300):
        states = [settled(b, s, losses, {}) for b, s in zip((learned, mean), states, strict=True)]
    found = learned.weigh(states[0], ("a", "b"))
    np.testing.assert_allclose([found["a"], found["b"]], 1 / losses, rtol=1e-3)
    found = mean.weigh(states[1], ("a", "b"))
    np.testing.assert_allclose([found["a"] * 0.5, found["b"] * 4.0], [8 / 9] * 2, rtol=1e-4)  # sum w = 2


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_the_loss_of_gradnorm_in_numpy(alpha):
    """Chen et al. 2018, eq. 2, and its gradient, which takes the common rate as constant; the last term is absent."""
    w, norms = np.asarray([0.7, 1.1, 1.2, 1.0]), np.asarray([2.0, 0.5, 3.0, 9.0])
    losses, first = np.asarray([0.3, 2.0, 0.9, 0.0]), np.asarray([0.6, 2.0, 3.0, 5.0])
    here = np.asarray([True, True, True, False])
    ratio = losses[:3] / first[:3]
    target = np.mean(w[:3] * norms[:3]) * (ratio / ratio.mean()) ** alpha
    given = [jnp.asarray(v, jnp.float32) for v in (w, norms, losses, first)]
    value, slope = jax.value_and_grad(gradnorm_loss)(*given, jnp.asarray(here), alpha)
    assert float(value) == pytest.approx(np.abs(w[:3] * norms[:3] - target).sum(), rel=1e-5)
    np.testing.assert_allclose(slope, [*(norms[:3] * np.sign(w[:3] * norms[:3] - target)), 0.0], rtol=1e-5)


def test_means_of_magnitude_are_of_the_steps_that_had_the_term():
    """Weighted by decay^age, without the zero that they start at; a term that was not seen counts as the others do."""
    balance, names, seen = MagnitudeBalance(0.7), ("a", "b", "c"), [(2.0, 0.0, 0.0), (1.0, 5.0, 0.0), (4.0, 0.0, 0.0)]
    state = balance.init(names)
    for losses in seen:
        state = settled(balance, state, jnp.asarray(losses), {})
    ages = 0.7 ** np.asarray([2, 1, 0])
    inverse = np.asarray([ages.sum() / (ages @ [2.0, 1.0, 4.0]), 1 / 5.0, 0.0])
    inverse[2] = inverse[:2].mean()
    found = balance.weigh(state, names)
    np.testing.assert_allclose([found[name] for name in names], 3 * inverse / inverse.sum(), rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Three(Declared):
    """Three terms by one kernel and one norm, that pull apart; the third is not there for every example."""

    modality: Image = Image(16, 16, 3, patch=8)

    @property
    def modalities(self):
        return (self.modality,)

    def init(self, key):
        draw = jax.random.normal(key, (2, 8, 8))
        return {"shared": {"kernel": draw[0]}, "final_norm": {"scale": jnp.ones(8)}, "head": {"kernel": draw[1]}}

    def axes(self):
        kernel = {"kernel": ("embed", "mlp")}
        return {"shared": kernel, "final_norm": {"scale": ("embed",)}, "head": kernel}

    def losses(self, params, aux, batch, key):
        x = self.modality.to_model(jnp.asarray(batch["image"])).mean((2, 3))[:, ::2]
        h = jnp.tanh(x @ params["shared"]["kernel"]) * params["final_norm"]["scale"]
        ones, some = jnp.ones(len(x)), (batch["slot"] % 3 > 0).astype(jnp.float32)
        terms = {
            "up": (((h - 1) ** 2).mean(1), ones),
            "down": (((h + 1) ** 2).mean(1), ones),
            "same": (some * ((h @ params["head"]["kernel"] - x) ** 2).mean(1), some),
        }
        return terms, aux, {}


THREE = dataclasses.replace(
    EXPERIMENT, model=Three(), batch_size=16, mesh=MeshShape(1), ema=(Ema(0.9),), steps=40,
    optimizer=Optimization(learning_rate=5e-2), preview=dataclasses.replace(EXPERIMENT.preview, every=0),
)  # fmt: skip


def train(e, devices, steps=4):
    """(losses, state of the balance) after some steps on the first `devices` devices."""
    losses, state = first_steps(e, devices, steps)
    return losses, jax.device_get(state.balance)


def assert_the_same_in_parts(one, losses, state, parts=2):
    """On a mesh of four devices and in so many microbatches a step."""
    found, there = train(dataclasses.replace(one, mesh=MeshShape(2, 2), accumulate=parts), 4)
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "balance", [MagnitudeBalance(), Uncertainty(0.1), GradNorm(), PcGrad((("same", 2.0),))], ids=str
)
def test_balances_train_sharded_and_in_microbatches(balance):
    one = dataclasses.replace(THREE, balance=balance)
    losses, state = train(one, 1)
    assert np.isfinite(losses).all()
    constant = FixedBalance(getattr(balance, "weights", ()))
    fixed = train(dataclasses.replace(THREE, balance=constant), 1)[0]
    assert losses[0] == pytest.approx(fixed[0], rel=1e-5)  # before anything was learned
    assert abs(losses[-1] / fixed[-1] - 1) > 1e-4
    assert_the_same_in_parts(one, losses, state)


@pytest.mark.nightly
def test_gradients_of_every_term_of_a_network_are_projected_sharded_as_on_one_device():
    """In the suite: `test_balances_train_sharded_and_in_microbatches`, with a model of three kernels."""
    model = dataclasses.replace(
        EXPERIMENT.model, network=EXPERIMENT.model.network.clone(remat="none"),
        process=DiscreteGaussian(steps=40, variance="learned_range"),
    )  # fmt: skip
    one = dataclasses.replace(THREE, model=model, balance=PcGrad((("vb", 5.0),)), batch_size=8)
    assert_the_same_in_parts(one, *train(one, 1), parts=1)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match=r"GradNorm.layer 'trunk' is not a layer of this network; it has .*final_norm"):
        train(dataclasses.replace(THREE, balance=GradNorm("trunk")), 1)
    strict = dataclasses.replace(EXPERIMENT, mesh=MeshShape(1), balance=PcGrad(), reduction="strict", virtual_shards=8)
    with pytest.raises(UserError, match="balances of losses only"):
        assemble(strict, make_mesh(strict.mesh, jax.devices()[:1]))
    with pytest.raises(ValueError, match="decay"):
        MagnitudeBalance(1.0)


def test_learned_balances_weigh_a_streams_second_term():
    """A stream of learned variance has two terms; both have a weight from the first step on."""
    stream = dataclasses.replace(UNIFIED.model.streams[0], process=DiscreteGaussian(steps=40, variance="learned_range"))
    model = dataclasses.replace(UNIFIED.model, streams=(stream, *UNIFIED.model.streams[1:]))
    name = stream.modality.name
    assert {"text", name, f"{name}_vb"} <= set(model.terms)
    optimizer = Optimizer(Optimization(), (Ema(),), 10)
    shapes = jax.eval_shape(functools.partial(init_state, model, optimizer, Uncertainty()), KEY)
    assert shapes.balance["log_variance"].shape == (len(model.terms),)
    batch = {n: jax.ShapeDtypeStruct((4, *one.shape), one.dtype) for n, (_, one) in blank_batch(model, 4).items()}
    step = functools.partial(train_step, model, optimizer, Uncertainty())
    _, metrics = jax.eval_shape(step, shapes, {}, batch, KEY)
    assert {f"weight/{term}" for term in model.terms} <= set(metrics)


def test_a_negative_term_has_the_weight_of_its_size():
    """A term that starts above 0 and falls below it, as alignment does, is not stuck at its first value."""
    balance, names = MagnitudeBalance(decay=0.9), ("alignment", "mse")
    state = balance.init(names)
    for second in (0.004, *[-0.5] * 60):
        _, state = balance.settle(state, jnp.asarray([second, 1.0]), {}, {}, KEY)
    weights = balance.weigh(state, names)
    assert float(weights["alignment"]) / float(weights["mse"]) == pytest.approx(2.0, rel=0.02)
