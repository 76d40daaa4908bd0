"""Update rules, groups, schedules and averages."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.helpers import MODEL
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training import newton_schulz
from unified_jax.training.algorithms import Adafactor, AdamW, Lion, Muon, matrices, path_of
from unified_jax.training.ema import Ema, post_hoc_weights, power_of
from unified_jax.training.optimizer import Group, Optimization
from unified_jax.training.program import stacked_paths

RULES = [
    (AdamW(), 3e-3),
    (Lion(), 3e-3),
    (Adafactor(), 0.3),  # relative to the size of the parameter
    (Adafactor(momentum=0.9, relative=False), 3e-3),
    (Muon(), 3e-3),
]
STACKED = stacked_paths(MODEL.axes())


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0))


def first_update(transform, gradient, params):
    """Of a fresh state."""
    return jax.jit(lambda g, p: transform.update(g, transform.init(p), p)[0])(gradient, params)


@pytest.mark.parametrize(("rule", "rate"), RULES, ids=lambda rule: type(rule).__name__)
def test_every_rule_goes_downhill(rule, rate, params):
    """A quadratic around other parameters: each rule at least halves it in sixty steps."""
    goal = jax.tree.map(lambda p: np.asarray(p) + np.float32(0.03), params)
    transform = Optimization(rule, learning_rate=rate, clip_norm=100.0).transform(60, STACKED)

    def value(p):
        return sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(goal), strict=True))

    def step(carry, _):
        p, state = carry
        updates, state = transform.update(jax.grad(value)(p), state, p)
        return (optax.apply_updates(p, updates), state), None

    @jax.jit
    def values(p):
        (after, _), _ = jax.lax.scan(step, (p, transform.init(p)), None, 60)
        return value(p), value(after)

    before, after = values(params)
    assert after < 0.5 * before


def test_muon_orthogonalises_the_matrices_of_the_blocks(params):
    numbers = matrices(params, STACKED)
    whole = lambda x: x is None or hasattr(x, "reduction_axis")  # noqa: E731
    named = {path_of(p): n for p, n in jax.tree_util.tree_leaves_with_path(numbers, is_leaf=whole) if n is not None}
    assert set(named) == {
        "blocks/attention/qkv_kernel",
        "blocks/attention/out_kernel",
        "blocks/mlp/fc1/kernel",
        "blocks/mlp/fc2/kernel",
    }
    transform = Optimization(Muon(rms=0.2), learning_rate=1.0).transform(10, STACKED)
    rng = np.random.default_rng(0)
    gradient = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    updates = first_update(transform, gradient, params)
    for name, layer in (("fc1", 0), ("fc2", 1)):
        matrix = np.asarray(updates["blocks"]["mlp"][name]["kernel"][layer])
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() / values.min() < 2.0  # Newton-Schulz leaves them near 1, not at 1
        assert np.sqrt((matrix**2).mean()) == pytest.approx(0.2, rel=0.2)


STACKS = {  # shape, how many axes are a matrix' rows, and which axis counts separate matrices
    "qkv_kernel": ((2, 24, 2, 4, 3), 1, 3),  # [layers, d, g, r + 2, e]
    "out_kernel": ((2, 4, 3, 24), 2, None),  # [layers, h, e, d]
    "q_kernel": ((2, 24, 4, 3), 1, None),  # [layers, d, h, e]
    "kv_kernel": ((2, 24, 4, 2, 3), 1, 3),  # [layers, d, h, 2, e]
    "kernel": ((2, 24, 12), 1, None),
}


def test_muon_takes_the_polar_factor_of_each_matrix():
    """Of U S V^T the step is -U V^T times a size: a matrix a layer, and one each for queries, keys and values."""
    rng, polars, gradients = np.random.default_rng(0), {}, {}

    def matrices_of(name, array):
        """[layers, matrices, rows, columns]."""
        _, rows, apart = STACKS[name]
        array = array[:, None] if apart is None else np.moveaxis(array, apart, 1)
        return array.reshape(*array.shape[:2], int(np.prod(array.shape[2 : 2 + rows])), -1)

    for name, (shape, _, apart) in STACKS.items():
        u, _, v = np.linalg.svd(rng.standard_normal(matrices_of(name, np.empty(shape)).shape), full_matrices=False)
        polars[name], scaled = u @ v, (u * rng.uniform(0.5, 2.0, v.shape[-2])) @ v
        kept = [size for axis, size in enumerate(shape) if axis != apart]
        whole = scaled.reshape(shape if apart is None else (kept[0], shape[apart], *kept[1:]))
        gradients[name] = jnp.asarray(whole if apart is None else np.moveaxis(whole, 1, apart), jnp.float32)
    params = {"trunk": {"half": jax.tree.map(np.zeros_like, gradients)}}  # stacks are what the axes say, not a name
    transform = Optimization(Muon(rms=0.2), learning_rate=1.0).transform(10, tuple(f"trunk/half/{n}" for n in STACKS))
    found = first_update(transform, {"trunk": {"half": gradients}}, params)
    for name, polar in polars.items():
        step = matrices_of(name, np.asarray(found["trunk"]["half"][name]))
        lengths = np.linalg.norm(step, axis=(2, 3)) * np.linalg.norm(polar, axis=(2, 3))
        assert (-np.sum(step * polar, axis=(2, 3)) / lengths > 0.97).all(), name  # singular values are near 1, not at 1
        np.testing.assert_allclose(np.sqrt(np.mean(step**2, axis=(2, 3))), 0.2, rtol=0.2, err_msg=name)


def test_muon_takes_the_polar_factor_of_a_convolution_that_it_is_told_of():
    rng, transform = np.random.default_rng(0), Optimization(Muon(rms=0.2, also=("conv[12]/",)), learning_rate=1.0)
    named = {"conv1": {"kernel": (3, 3, 6, 20)}, "conv_in": {"kernel": (3, 3, 6, 20)}, "blocks": {"kernel": (2, 8, 8)}}
    draw = lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    gradient = jax.tree.map(draw, named, is_leaf=lambda node: isinstance(node, tuple))
    found = first_update(transform.transform(10, ("blocks/kernel",)), gradient, jax.tree.map(jnp.zeros_like, gradient))
    u, _, v = np.linalg.svd(np.asarray(gradient["conv1"]["kernel"]).reshape(54, 20), full_matrices=False)
    step = np.asarray(found["conv1"]["kernel"]).reshape(54, 20)
    assert -np.sum(step * (u @ v)) / np.linalg.norm(step) / np.linalg.norm(u @ v) > 0.97
    np.testing.assert_allclose(np.sqrt(np.mean(step**2)), 0.2, rtol=0.2)
    ratio = np.asarray(found["conv_in"]["kernel"]) / np.sign(gradient["conv_in"]["kernel"])
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)  # Adam's: the sign, and one size
    with pytest.raises(ValueError, match=r"Muon.also '\(' is not a regular expression"):
        Muon(also=("(",))


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_an_accelerator_takes_the_products_that_muon_names(products):
    """In the program for a TPU and a GPU; Adam's part has none."""
    gradient = {"blocks": {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 24)), jnp.float32)}}
    transform = Optimization(Muon(products=products), learning_rate=1.0).transform(10, ("blocks/kernel",))
    update = jax.jit(lambda g: transform.update(g, transform.init(g), g)[0])
    text = jax.export.export(update, platforms=("tpu", "cuda"))(gradient).mlir_module()
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(lines) >= 3
    if products == "float32":
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in lines), lines[:2]
    else:
        form = re.compile(r"\(tensor<[\dx]+xbf16>, tensor<[\dx]+xbf16>\) -> tensor<[\dx]+xf32>")
        assert all(form.search(line) for line in lines), lines[:2]


STACKED_KERNELS = {"qkv_kernel": (2, 24, 2, 3, 8), "out_kernel": (2, 2, 8, 24), "kernel": (2, 24, 40)}


def updates_of(rule):
    """The third update of kernels in stacks, a bias and a kernel that uses Adam; and the state."""
    rng = np.random.default_rng(0)
    shapes = {"blocks": {**STACKED_KERNELS, "bias": (2, 24)}, "last": {"kernel": (5, 6)}}
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.standard_normal(s), jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    transform = Optimization(rule, learning_rate=0.1).transform(10, tuple(f"blocks/{name}" for name in STACKED_KERNELS))
    state, step = transform.init(params), jax.jit(transform.update)
    for i in range(3):
        updates, state = step(jax.tree.map(lambda x: jnp.cos(x + i), params), state, params)  # noqa: B023
        params = optax.apply_updates(params, updates)
    return updates, state


def test_the_iterations_are_those_of_optax(monkeypatch):
    """With float32 operands to rounding; with bfloat16 ones to its rounding. A state fits either."""
    expected, state = updates_of(Muon(weight_decay=0.1))
    short, other = updates_of(Muon(weight_decay=0.1, products="bfloat16"))
    exact = functools.partial(newton_schulz.newton_schulz, dot=functools.partial(jnp.einsum, precision="highest"))
    with monkeypatch.context() as patch:
        patch.setattr(newton_schulz, "newton_schulz", exact)
        same, _ = updates_of(Muon(weight_decay=0.1, products="bfloat16"))
    assert jax.tree.structure(state) == jax.tree.structure(other)

    def error(found):
        return jax.tree.map(lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)), found, expected)

    assert max(jax.tree.leaves(error(same))) < 1e-5
    rounded = error(short)
    assert all(1e-3 < rounded["blocks"][name] < 0.1 for name in STACKED_KERNELS), rounded
    assert max(rounded["blocks"]["bias"], rounded["last"]["kernel"]) < 1e-6, rounded


def test_sharded_iterations_are_those_of_one_device():
    """To the rounding of bfloat16, whose sums have another order: as near to float32 as on one device."""
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 24, 40)), jnp.float32)
    x = x / jnp.linalg.norm(x, axis=(1, 2), keepdims=True)
    exact = newton_schulz.newton_schulz(x, 5, functools.partial(jnp.einsum, precision="highest"))
    step = jax.jit(functools.partial(newton_schulz.newton_schulz, iterations=5))
    places = (x, jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))))
    far = [float(jnp.linalg.norm(step(one) - exact) / jnp.linalg.norm(exact)) for one in places]
    assert max(far) < 0.05 and far[1] < 1.2 * far[0], far


def test_groups_scale_and_freeze(params):
    groups = (Group("label_", rate=0.0), Group("blocks/mlp", rate=0.1))
    plain, grouped = Optimization(learning_rate=1e-2), Optimization(learning_rate=1e-2, groups=groups)
    gradient = jax.tree.map(np.ones_like, params)
    a, b = (first_update(optimization.transform(5), gradient, params) for optimization in (plain, grouped))
    assert not np.any(b["label_0"]["table"])
    np.testing.assert_allclose(
        b["blocks"]["mlp"]["fc1"]["kernel"], 0.1 * a["blocks"]["mlp"]["fc1"]["kernel"], rtol=1e-5
    )
    np.testing.assert_allclose(b["patch"]["kernel"], a["patch"]["kernel"], rtol=1e-6)


def test_adamw_with_clipping_groups_and_a_schedule_in_numpy():
    """Three steps of gradients of other sizes: clipped as a whole, decay on kernels, a group's own rate and decay."""
    rng, shapes = np.random.default_rng(0), {"a_kernel": (3, 2), "b_kernel": (4,), "bias": (5,)}
    draw = lambda: {name: rng.normal(size=shape) for name, shape in shapes.items()}  # noqa: E731
    params, gradients = draw(), [{n: size * g for n, g in draw().items()} for size in (5.0, 0.05, 2.0)]
    config = Optimization(
        AdamW(b1=0.8, b2=0.9, eps=1e-2, weight_decay=0.3), learning_rate=0.1, warmup_steps=1, schedule="linear",
        final_fraction=0.25, clip_norm=1.0, groups=(Group("^b_", rate=0.5, decay=0.2),),
    )  # fmt: skip
    transform = config.transform(4)
    single = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)  # noqa: E731
    found = single(params)
    state, update = jax.jit(transform.init)(found), jax.jit(transform.update)
    first, second = ({name: np.zeros(shape) for name, shape in shapes.items()} for _ in range(2))
    for k, (rate, gradient) in enumerate(zip((0.1, 0.1, 0.075), gradients, strict=True), start=1):
        updates, state = update(single(gradient), state, found)
        found = optax.apply_updates(found, updates)
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name, g in gradient.items():
            g = g / max(1.0, norm)
            first[name], second[name] = 0.8 * first[name] + 0.2 * g, 0.9 * second[name] + 0.1 * g**2
            step = first[name] / (1 - 0.8**k) / (np.sqrt(second[name] / (1 - 0.9**k)) + 1e-2)
            scale, decay = (0.5, 0.06) if name == "b_kernel" else (1.0, 0.3 if name == "a_kernel" else 0.0)
            params[name] = params[name] - rate * scale * (step + decay * params[name])
        for name in shapes:
            np.testing.assert_allclose(found[name], params[name], rtol=2e-5, atol=1e-6, err_msg=f"{name}, step {k}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Optimization(groups=(Group("no such"),)).transform(1).init(jax.jit(MODEL.init)(jax.random.key(0))),
            "there are",
        ),
        (lambda: Group("("), "regular expression"),
        (lambda: Group(rate=-1.0), "not be negative"),
        (lambda: Muon(iterations=0), "iterations"),
        (lambda: Lion(b1=1.0), "b1 and b2"),
        (lambda: Adafactor(clipping=0.0), "clipping"),
        (lambda: Ema(decay=1.0), "must lie in"),
        (lambda: Ema(std=0.5), "std"),
    ],
)
def test_bad_values_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_shares_of_the_averages():
    k = jnp.arange(200.0)
    assert float(Ema(0.9, "constant").share(k)[0]) == pytest.approx(0.9)
    for warmup in ("ratio", "inverse", "power"):
        shares = np.asarray(jax.vmap(Ema(0.999, warmup).share)(k))
        assert shares[0] == 0.0  # the first average is the parameters
        assert (np.diff(shares) >= 0).all()
        assert (shares < 1).all()
    late = jax.vmap(Ema(0.9, "ratio", after=50, least=0.3).share)(k)
    assert float(late[50]) == 0.0
    assert float(late[51]) == pytest.approx(0.3)


def test_shares_by_their_formulas():
    """s counts from the step after which averaging begins, which is the step with index `after`."""
    for step in (0, 3, 4, 9, 200):
        s = max(0, step - 3)
        share = lambda ema, step=step: float(ema.share(jnp.asarray(1.0 * step)))  # noqa: E731
        ratio = min(0.9, (1 + s) / (10 + s)) if s else 0.0
        inverse = min(0.95, 1 - (1 + s / 7) ** -0.75) if s else 0.0
        assert share(Ema(0.9, "ratio", after=3)) == pytest.approx(ratio, rel=1e-5)
        assert share(Ema(0.95, "inverse", inv_gamma=7.0, power=0.75, after=3)) == pytest.approx(inverse, rel=1e-5)
        power = (1 - 1 / (step + 1)) ** (power_of(0.07) + 1)
        assert share(Ema(warmup="power", std=0.07)) == pytest.approx(power, rel=1e-5)


def power_average(values, std):
    ema = Ema(warmup="power", std=std)
    step = lambda average, at: (ema.update(average, *at), None)  # noqa: E731
    scan = jax.jit(lambda at: jax.lax.scan(step, jnp.zeros(()), at)[0])
    return float(scan((np.float32(values), np.arange(len(values)))))


def test_the_power_average_has_its_width_and_can_be_put_together_afterwards():
    """Karras et al. 2024, section 3: weights i^gamma; another width from the snapshots of two."""
    gamma = power_of(0.1)
    assert np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(0.1)
    values = np.sin(np.arange(1, 401) / 60.0)
    weights = np.arange(1, 401) ** gamma
    assert power_average(values, 0.1) == pytest.approx((weights * values).sum() / weights.sum(), rel=0.02)
    steps = np.asarray([100.0, 200, 300, 400] * 2)
    stds = np.asarray([0.05] * 4 + [0.1] * 4)
    stored = [power_average(values[: int(n)], s) for n, s in zip(steps, stds, strict=True)]
    found = post_hoc_weights(steps, stds, 400.0, 0.075) @ np.asarray(stored)
    assert found == pytest.approx(power_average(values, 0.075), abs=0.02)


def test_narrow_averages_of_long_runs_can_be_put_together():
    """Only ratios of the steps matter; the powers of a million themselves are not finite."""
    steps, stds = np.asarray([0.5, 0.7, 0.8, 1.0] * 2), np.asarray([0.02] * 4 + [0.05] * 4)
    small = post_hoc_weights(steps, stds, 1.0, 0.03)
    np.testing.assert_allclose(post_hoc_weights(1e6 * steps, stds, 1e6, 0.03), small, rtol=1e-4, atol=1e-6)
    assert small.sum() == pytest.approx(1.0, abs=0.1)


def test_frozen_groups_do_not_count_in_clipping():
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    gradient = {"a": jnp.full(3, 0.5), "b": jnp.full(3, 1e4)}
    rule = AdamW(eps=1.0)  # so that the size of a gradient shows
    found = []
    for groups in ((Group("^b$", rate=0.0),), ()):
        transform = Optimization(rule, learning_rate=0.1, groups=groups, clip_norm=1.0).transform(10)
        own, slope = (params, gradient) if groups else ({"a": params["a"]}, {"a": gradient["a"]})
        found.append(transform.update(slope, transform.init(own), own)[0])
    np.testing.assert_array_equal(found[0]["a"], found[1]["a"])
    np.testing.assert_array_equal(found[0]["b"], 0.0)
