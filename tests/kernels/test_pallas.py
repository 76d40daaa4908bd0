"""The TPU kernels, interpreted, equal float64 and the specification: forward and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.kernels.oracle import dense, runs
from unified_jax.kernels import choice, pallas, reference, xla
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights, Rotary

TPU = pallas.Target("tpu", interpret=True)


@functools.partial(jax.jit, static_argnames=("path", "dtype"))
def forward_and_gradient(q, k, v, visible, do, dlse, path, dtype=jnp.float32):
    """(out, lse, dq, dk, dv); the lse's cotangent counts where there is one."""

    def total(q, k, v):
        out, lse = path(q.astype(dtype), k.astype(dtype), v.astype(dtype), visible)
        return jnp.sum(do * out) + jnp.sum(jnp.where(jnp.isneginf(lse), 0.0, lse) * dlse), (out, lse)

    gradients, found = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return *found, *gradients


def kernel(q, k, v, visible):
    return pallas.attend(q, k, v, visible, TPU)


def problem(kind, b, n, m, h, g, e, seed=0):
    rng = np.random.default_rng(seed)
    q, k, v, do = (
        rng.standard_normal((b, t, heads, e)).astype(np.float32) for t, heads in ((n, h), (m, g), (m, g), (n, h))
    )
    visible = runs(kind, b, n, m, rng)
    dlse = rng.standard_normal((b, n, h)).astype(np.float32)
    return q, k, v, visible, do, dlse


def assert_close(found, expected, tolerance):
    for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), found, expected, strict=True):
        a, there = np.asarray(a, np.float64), np.isfinite(b)
        np.testing.assert_array_equal(np.isneginf(a), np.isneginf(b), err_msg=name)
        scale = np.abs(b[there]).max(initial=1e-6)
        assert np.abs(a[there] - b[there]).max(initial=0) <= tolerance * max(scale, 1e-3), name


CASES = [
    ("full", 1, 1, 1, 2, 2, 64),
    ("random", 2, 17, 17, 2, 1, 64),
    ("causal", 1, 128, 128, 2, 2, 128),
    ("packed", 2, 257, 257, 4, 2, 72),
    ("window", 1, 600, 600, 1, 1, 64),
    ("random", 1, 130, 700, 2, 2, 96),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}_{c[2]}x{c[3]}_{c[6]}")
def test_kernels_equal_float64(case):
    given = problem(*case)
    assert_close(forward_and_gradient(*given, path=kernel), dense(*given), 1e-5)


def halved(given):
    """A problem whose q, k, v and cotangent of the output are bfloat16 numbers, in float32."""
    q, k, v, visible, do, dlse = given
    q, k, v, do = (np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (q, k, v, do))
    return q, k, v, visible, do, dlse


@pytest.mark.parametrize("case", [CASES[1], CASES[3]], ids=["random", "packed"])
def test_kernels_in_bfloat16_stay_close(case):
    given = halved(problem(*case))
    found = forward_and_gradient(*given, path=kernel, dtype=jnp.bfloat16)
    assert_close(found, dense(*given), 1e-2)


@pytest.mark.parametrize("kind", ["causal", "random"])
def test_long_sequences_go_by_chunks_through_xla(kind, monkeypatch):
    monkeypatch.setattr(xla, "CHUNK", 16)
    monkeypatch.setattr(xla, "WHOLE", 100)
    given = problem(kind, 2, 50, 50, 4, 2, 8)
    assert_close(forward_and_gradient(*given, path=lambda *a: xla.attend(*a)), dense(*given), 1e-5)
    q, k, v, visible = map(jnp.asarray, given[:4])
    _, tangent = jax.jvp(lambda q: xla.attend(q, k, v, visible)[0], (q,), (q,))
    assert bool(jnp.isfinite(tangent).all())


def assert_unread(given, path, dtype, tolerance):
    """Keys and values that lie in no run are NaN: had they been loaded into a product, the output would be too."""
    q, k, v, _, do, dlse = given
    visible = np.zeros((1, 256, 2), np.int32)
    visible[:, ::2], visible[:, 1::2] = (0, 10), (1600, 1900)  # blocks 1 and 2 of four lie in no run
    k[:, 512:1536], v[:, 512:1536] = np.nan, np.nan
    found = forward_and_gradient(q, k, v, visible, do, dlse, path=path, dtype=dtype)
    k[:, 512:1536], v[:, 512:1536] = 0.0, 0.0
    assert_close(found, dense(q, k, v, visible, do, dlse), tolerance)


def test_no_block_outside_every_run_is_touched():
    assert_unread(problem("full", 1, 256, 2048, 1, 1, 64), kernel, jnp.float32, 1e-5)


@pytest.mark.slow
def test_no_races(capfd):
    """Pallas' own simulator of a TPU finds no race and no read out of bounds (it prints a race, on some versions)."""
    from tests.kernels.test_derivatives import assert_equal_to_float64

    target = pallas.Target("tpu", interpret=pltpu.InterpretParams(detect_races=True))
    given = problem("packed", 1, 200, 200, 2, 1, 64)
    # Outside jit: the simulator's effects have no place in an operation within a larger program.
    q, k, v, visible, do, dlse = map(jnp.asarray, given)
    found = forward_and_gradient.__wrapped__(q, k, v, visible, do, dlse, path=lambda *a: pallas.attend(*a, target))
    assert_close(found, dense(*given), 1e-5)
    assert_equal_to_float64(("packed", 1, 140, 140, 1, 1, 64), 2e-5, target=target, eager=True)
    x, m, qkv, out, rotary = projections(2, 40, 32, 2, 1, 8, rows=3)
    parts = jax.jit(lambda: pallas.modulated_qkv(x, m, qkv, rotary, "rms", 1e-6, target))()
    assert all(bool(jnp.isfinite(p).all()) for p in parts)
    assert bool(jnp.isfinite(jax.jit(lambda: pallas.gated_out(x, parts[0], out, m.gate, m.index, target))()).all())
    printed = capfd.readouterr()
    assert "RACE DETECTED" not in printed.out + printed.err


def projections(b, n, d, g, r, e, rows, seed=0):
    keys = iter(jax.random.split(jax.random.key(seed), 16))

    def draw(*shape):
        return 0.3 * jax.random.normal(next(keys), shape)

    index = None if rows == 1 else jax.random.randint(next(keys), (b, n), 0, rows)
    m = Modulation(draw(b, rows, d), draw(b, rows, d), draw(b, rows, d), index)
    qkv = QkvWeights(draw(d, g, r + 2, e), draw(g, r + 2, e), draw(d), draw(d), draw(e), draw(e))
    out = OutWeights(draw(g * r, e, d), draw(d))
    angles = draw(b, n, e // 2 - 1)
    return draw(b, n, d), m, qkv, out, Rotary(jnp.cos(angles), jnp.sin(angles))


@pytest.mark.parametrize(
    ("shape", "norm"),
    [((4, 32, 48, 2, 1, 24, 1), "layer"), ((2, 17, 64, 2, 2, 16, 5), "rms"), ((1, 600, 64, 1, 3, 16, 3), "rms")],
)
def test_projections_equal_the_specification(shape, norm):
    x, m, qkv, out, rotary = projections(*shape)

    def both(attention, x, rows, qkv, out):
        full = m._replace(**rows)
        q, k, v = choice.modulated_qkv(x, full, qkv, norm=norm, rotary=rotary, attention=attention)
        y = choice.gated_out(x, q, out, full.gate, full.index, attention=attention)
        return sum(jnp.sum(jnp.sin(part)) for part in (q, k, v, y)), (q, k, v, y)

    rows = {"shift": m.shift, "scale": m.scale, "gate": m.gate}
    run = jax.jit(jax.grad(both, argnums=(1, 2, 3, 4), has_aux=True), static_argnums=0)
    for a, b in zip(*(jax.tree.leaves(run(p, x, rows, qkv, out)) for p in ("reference", "pallas")), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5 * max(1, float(jnp.abs(a).max())))


@pytest.mark.parametrize("b", [4, 3])
def test_kernels_work_on_each_device_s_part(b):
    from unified_jax.sharding import MeshShape, Rules, make_mesh

    x, m, qkv, out, rotary = projections(b, 24, 32, 4, 1, 8, rows=3)
    visible = jnp.asarray(runs("packed", b, 24, 24, np.random.default_rng(1)))

    def loss(attention, x, qkv, out):
        y = choice.attention_half(x, m, qkv, out, visible=visible, norm="rms", rotary=rotary, attention=attention)
        return jnp.sum(jnp.sin(y)), y

    run = jax.jit(jax.grad(loss, argnums=(1, 2, 3), has_aux=True), static_argnums=0)
    expected = run("reference", x, qkv, out)
    for shape in (MeshShape(data=2, tensor=2, sequence=2), MeshShape(data=2, fsdp=2, sequence=2)):
        mesh = make_mesh(shape)
        with Rules().active(mesh):
            found = jax.jit(jax.grad(loss, argnums=(1, 2, 3), has_aux=True), static_argnums=0)("pallas", x, qkv, out)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(b, a, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", [reference.attend, xla.attend, kernel])
def test_merging_two_empty_runs_has_a_gradient(path):
    q, k, v = (jax.random.normal(key, (1, 3, 1, 8)) for key in jax.random.split(jax.random.key(0), 3))
    first = jnp.asarray([[[0, 0], [0, 1], [1, 1]]])
    second = jnp.asarray([[[2, 2], [1, 3], [0, 2]]])

    def merged(q, k, v):
        out, lse = reference.merge_runs(path(q, k, v, first), path(q, k, v, second))
        return jnp.sum(out) + jnp.sum(jnp.where(jnp.isneginf(lse), 0.0, lse))

    gradients = jax.jit(jax.grad(merged, argnums=(0, 1, 2)))(q, k, v)
    assert all(bool(jnp.isfinite(g).all()) for g in gradients)


def test_reference_and_kernel_agree_without_runs():
    q, k, v, _, do, dlse = problem("full", 1, 40, 40, 2, 2, 64)
    a = forward_and_gradient(q, k, v, None, do, dlse, path=lambda *a: reference.attend(*a))
    b = forward_and_gradient(q, k, v, None, do, dlse, path=kernel)
    assert_close(b, [np.asarray(x, np.float64) for x in a], 1e-5)
