"""Products of bfloat16 arrays on a CPU: beside float64, under every transformation, and as they are compiled."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from unified_jax.kernels import choice, product, xla
from unified_jax.kernels.inputs import OutWeights, QkvWeights
from unified_jax.layers.conv import Conv, convolve
from unified_jax.layers.mlp import Mlp
from unified_jax.layers.remat import rematerialised
from unified_jax.networks.autoencoders.dc_blocks import LinearAttention
from unified_jax.networks.dit import DiT
from unified_jax.sharding import MeshShape, Rules, make_mesh
from unified_jax.training.flops import count_flops

FORMS = {
    "nd,dm->nm": ((33, 700), (700, 12)),  # 700 terms: an accumulator of bfloat16 would be far off
    "bgne,bgme->bgnm": ((2, 3, 20, 16), (2, 3, 24, 16)),
    "bgnm,bgme->bgne": ((2, 3, 20, 24), (2, 3, 24, 16)),
    "bnge,bngf->bgef": ((2, 40, 3, 16), (2, 40, 3, 9)),
    "bnd,dhte->bnhte": ((2, 10, 32), (32, 2, 3, 8)),
    "nd,d->n": ((9, 16), (16,)),
}


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(jnp.bfloat16)


def rounded(x):
    return np.asarray(x).astype(jnp.bfloat16).astype(np.float64)


def transposes(form):
    a, b, out = product.parts_of_form(form)
    return f"{out},{b}->{a}", f"{a},{out}->{b}"


def assert_close(found, wanted, terms, short):
    """`terms`: the sum of the terms' sizes; a float32 sum, rounded once more where the result is `short`."""
    error = np.abs(np.asarray(found, np.float64) - wanted)
    assert np.all(error <= 2e-6 * terms + (2.0**-8 * np.abs(wanted) if short else 0.0)), error.max()


def exact(form, a, b):
    """(the product, the sum of its terms' sizes) in float64, of operands rounded to bfloat16."""
    a, b = rounded(a), rounded(b)
    return np.einsum(form, a, b), np.einsum(form, np.abs(a), np.abs(b))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_products_and_derivatives_are_those_of_float64(form, dtype):
    """The cotangent is rounded first, sums are float32: a wrong order of operands, or a sum in bfloat16, is far off."""
    shapes = FORMS[form]
    a, b, da, db = drawn(0, *shapes[0]), drawn(1, *shapes[1]), drawn(2, *shapes[0]), drawn(3, *shapes[1])
    to_a, to_b = transposes(form)
    short = dtype == jnp.bfloat16

    @jax.jit
    def both(a, b, da, db, g, h):
        """(out, tangent), and the gradient of both in the operands and the directions."""
        found, back = jax.vjp(
            lambda x, way: jax.jvp(lambda a, b: product.product(form, a, b, dtype), x, way), (a, b), (da, db)
        )
        return found, back((g.astype(dtype), h.astype(dtype)))

    out = exact(form, a, b)
    g, h = (np.random.default_rng(i).standard_normal(out[0].shape).astype(np.float32) for i in (4, 5))
    (found, tangent), ((by_a, by_b), (by_da, by_db)) = both(a, b, da, db, g, h)
    assert found.dtype == tangent.dtype == dtype and by_a.dtype == by_db.dtype == jnp.bfloat16
    assert_close(found, *out, short)
    pairs = {"tangent": (tangent, [(form, da, b), (form, a, db)])}
    pairs |= {"da": (by_da, [(to_a, h, b)]), "db": (by_db, [(to_b, a, h)])}
    pairs |= {"a": (by_a, [(to_a, g, b), (to_a, h, db)]), "b": (by_b, [(to_b, a, g), (to_b, da, h)])}
    for name, (one, terms) in pairs.items():
        sums = [exact(*term) for term in terms]
        size = sum(s[1] for s in sums) + (2**12 * sum(np.abs(s[0]) for s in sums) if short or name != "tangent" else 0)
        assert_close(one, sum(s[0] for s in sums), size, False)  # each term is rounded, and their sum


@pytest.mark.parametrize("shape", [(12, 24, 8), (2, 40, 24)])
def test_operands_that_were_transposed_before(shape):
    """The compiler folds the transpositions into the product, for which the processor's runtime may have no code."""
    x = drawn(0, *shape).astype(jnp.bfloat16)
    turned = np.asarray(x, np.float64).swapaxes(1, 2)
    own = lambda x: product.product("nij,nkj->nik", x.swapaxes(1, 2), x.swapaxes(1, 2), jnp.float32)  # noqa: E731
    found = jax.jit(own)(x)
    np.testing.assert_allclose(found, np.einsum("nij,nkj->nik", turned, turned), rtol=1e-5, atol=1e-5)


def test_forward_over_reverse_is_reverse_over_forward():
    a, b, da, db, g = drawn(0, 16, 32), drawn(1, 32, 8), drawn(2, 16, 32), drawn(3, 32, 8), drawn(4, 16, 8)
    run = lambda a, b: jnp.sum(product.product("nd,dm->nm", a, b, jnp.float32) * g.astype(np.float32))  # noqa: E731
    _, (by_a, by_b) = jax.jit(lambda x, way: jax.jvp(jax.grad(run, (0, 1)), x, way))((a, b), (da, db))
    assert_close(by_a, *exact("nm,dm->nd", g, db), True)
    assert_close(by_b, *exact("nd,nm->dm", da, g), True)


@pytest.mark.parametrize("axes", [(0, 0), (1, None), (None, 0)], ids=str)
def test_mapped_scanned_and_recomputed(axes):
    shapes = [list(s) for s in FORMS["nd,dm->nm"]]
    for shape, axis in zip(shapes, axes, strict=True):
        shape.insert(axis, 3) if axis is not None else None
    a, b = drawn(0, *shapes[0]), drawn(1, *shapes[1])
    one = jax.checkpoint(lambda a, b: product.product("nd,dm->nm", a, b, jnp.float32))

    def scanned(a, b):
        return jax.lax.scan(lambda carry, _: (carry + one(a, b), None), jnp.zeros((33, 12)), None, 2)[0]

    run = jax.vmap(scanned, in_axes=axes)
    value, (da, db) = jax.jit(jax.value_and_grad(lambda a, b: jnp.sum(run(a, b)), (0, 1)))(a, b)
    moved = [jnp.moveaxis(x, axis, 0) if axis is not None else x for x, axis in zip((a, b), axes, strict=True)]
    letters = ["z" if axis is not None else "" for axis in axes]
    form = f"{letters[0]}nd,{letters[1]}dm->znm"
    ones = np.ones((3, 33, 12))
    to_a, to_b = transposes(form)
    put = lambda x, axis: np.moveaxis(np.asarray(x, np.float64), axis or 0, 0)  # noqa: E731
    assert_close(value, 2 * exact(form, *moved)[0].sum(), 2 * exact(form, *moved)[1].sum(), False)
    assert_close(put(da, axes[0]), *(2 * x for x in exact(to_a, ones, moved[1])), True)
    assert_close(put(db, axes[1]), *(2 * x for x in exact(to_b, moved[0], ones)), True)


@pytest.mark.parametrize("check", [True, False])
def test_on_each_device_s_part(check):
    """Weights are alike on all devices, rows are not: their gradient is the sum over the devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, w = drawn(0, 64, 32), drawn(1, 32, 24)

    def loss(x, w):
        run = lambda x, w: product.product("nd,dm->nm", x, w, jnp.float32)  # noqa: E731
        return jnp.sum(
            jax.shard_map(run, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"), check_vma=check)(x, w)
        )

    by_x, by_w = jax.jit(jax.grad(loss, (0, 1)))(x, w)
    assert_close(by_x, *exact("nm,dm->nd", np.ones((64, 24)), w), True)
    wanted, terms = exact("nd,nm->dm", x, np.ones((64, 24)))
    assert_close(by_w, wanted, terms * 2**13, False)  # eight parts, each rounded


def test_sharded_by_the_compiler():
    """Rows over four devices, features over two: the same numbers as float64 has."""
    mesh = make_mesh(MeshShape(4, 1, 2), jax.devices())
    x, w = drawn(0, 64, 32), drawn(1, 32, 24)
    placed = [jax.device_put(t, NamedSharding(mesh, P(*cut))) for t, cut in ((x, ("data",)), (w, (None, "tensor")))]
    by_x, by_w = jax.jit(jax.grad(lambda x, w: jnp.sum(product.matmul(x, w)), (0, 1)))(*placed)
    assert_close(by_x, *exact("nm,dm->nd", np.ones((64, 24)), w), True)
    assert_close(by_w, *exact("nd,nm->dm", x, np.ones((64, 24))), True)


# As compiled: every product has bfloat16 operands and a float32 result, forward and backward.

DOT = re.compile(r"%\S+ = (\w+)\[[^]]*\]\S* dot\(%(\S+?), %(\S+?)\)")
NAMED = re.compile(r"^\s*(?:ROOT )?%(\S+) = (\w+)\[", re.M)


def dots(function, *given):
    """(left, right, result) dtypes of the matrix products of a compiled function."""
    text, found = jax.jit(function).lower(*given).compile().as_text(), []
    for computation in re.split(r"\n(?=%|ENTRY)", text):
        kinds = dict(NAMED.findall(computation))
        found += [(kinds[a], kinds[b], out) for out, a, b in DOT.findall(computation)]
    return found


def gradient(run, *given):
    """The sum's gradient in all arguments."""
    return jax.grad(lambda given: jnp.sum(jnp.square(run(*given).astype(jnp.float32))))(given)


def attention(x, qkv, out):
    return choice.attention_half(x, None, QkvWeights(qkv), OutWeights(out), attention="xla")


def parameters(module, *given):
    return jax.tree.map(lambda p: p + 0.02, module.init(jax.random.key(0), *given))


def linear_attention():
    module, x = LinearAttention(32, (3,), "rms", jnp.bfloat16), jnp.ones((2, 8, 8, 64))
    return module.apply, parameters(module, x), x


def mlp():
    module, x = Mlp(256, jnp.bfloat16), jnp.ones((4, 32, 128))
    return module.apply, parameters(module, x), x


def conv():
    module, x = Conv(64, dtype=jnp.bfloat16), jnp.ones((4, 16, 16, 32))
    return module.apply, parameters(module, x), x


CASES = {
    "mlp": (mlp, 2),
    "attention": (lambda: (attention, jnp.ones((2, 64, 128)), jnp.ones((128, 2, 3, 64), jnp.bfloat16),
                           jnp.ones((2, 64, 128), jnp.bfloat16)), 4),
    "convolution": (conv, 1),
    "linear_attention": (linear_attention, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compiled_products_take_bfloat16_and_give_float32(name):
    make, forward = CASES[name]
    run, *given = make()
    found = dots(functools.partial(gradient, run), *given)
    assert len(found) == 3 * forward
    assert set(found) == {("bf16", "bf16", "f32")}


def test_attention_that_asks_jax_for_its_gradient_would_fail_that(monkeypatch):
    """So the test above sees what it should."""
    run, *given = CASES["attention"][0]()
    monkeypatch.setattr(product, "applies", lambda dtype: False)
    assert set(dots(functools.partial(gradient, run), *given)) != {("bf16", "bf16", "f32")}


def test_the_compiled_gradient_of_weights_contracts_the_last_axis_of_its_left_operand():
    """The form that XLA gives to its fast library: neither operand contracted over its first axis."""
    given = (jnp.ones((256, 128), jnp.bfloat16), jnp.ones((128, 192), jnp.bfloat16))
    text = jax.jit(functools.partial(gradient, product.matmul)).lower(*given).compile().as_text()
    lines = [line for line in text.splitlines() if " dot(" in line]
    assert len(lines) == 3
    assert all("lhs_contracting_dims={1}" in line for line in lines)


# What stays as it was.


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_other_devices_keep_their_programs(monkeypatch, platform):
    """No such operation is traced for them, and a product is the plain one, to the letter."""
    monkeypatch.setattr(product, "device", lambda: (platform, "any"))
    x, w = jnp.ones((4, 8, 16), jnp.bfloat16), jnp.ones((16, 24), jnp.bfloat16)
    q = jnp.ones((1, 8, 2, 16), jnp.bfloat16)
    for run, given in ((product.matmul, (x, w)), (lambda q: xla.attend(q, q, q)[0], (q,))):
        assert "product" not in str(jax.make_jaxpr(functools.partial(gradient, run))(*given)).replace("_product", "")
    kernel = jnp.ones((3, 3, 16, 8), jnp.bfloat16)
    assert "conv_general" in str(jax.make_jaxpr(lambda x: convolve(x, kernel, (1, 1)))(x[None]))
    target = (platform.replace("gpu", "cuda"),)

    def text(multiply):
        def run(x, w):
            return multiply(x, w)

        return jax.jit(run).trace(x, w).lower(lowering_platforms=target).as_text()

    assert text(product.matmul) == text(functools.partial(jnp.matmul, precision=jax.lax.Precision.DEFAULT))


def test_float32_stays():
    x = jnp.ones((4, 8))
    assert "product" not in str(jax.make_jaxpr(product.matmul)(x, x.T))


def test_for_another_platform_it_is_the_plain_product():
    """A program traced on a CPU and exported for others: no barriers, no turned copies."""
    given = (jnp.ones((64, 32), jnp.bfloat16), jnp.ones((32, 48), jnp.bfloat16))
    run = jax.jit(functools.partial(gradient, product.matmul)).trace(*given)
    here, there = (run.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu"))
    assert "optimization_barrier" in here and "optimization_barrier" not in there
    assert here.count("dot_general") == there.count("dot_general") == 3


def test_dots_keeps_projections_and_computes_the_rest_again():
    import flax.linen as nn

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + Mlp(64, jnp.bfloat16)(x)

    x = jnp.ones((2, 8, 32))

    def products(remat):
        module = rematerialised(Both, remat)()
        params = module.init(jax.random.key(0), x)
        text = str(jax.make_jaxpr(jax.grad(lambda p, x: jnp.sum(module.apply(p, x)), (0, 1)))(params, x))
        return len(re.findall(r"= product\[", text))

    assert products("none") == products("dots") == 6
    assert products("full") == 7  # the second product's result is not needed again


def test_flops_are_counted():
    counts = []
    for dtype in ("float32", "bfloat16"):
        module = Mlp(64, jnp.dtype(dtype))
        params = module.init(jax.random.key(0), jnp.ones((2, 8, 32)))
        counts.append(count_flops(jax.grad(lambda p, m=module: jnp.sum(m.apply(p, jnp.ones((2, 8, 32))))), params))
    assert counts[0] == counts[1] > 0


SIZES = [
    ((1, 1), (3, 3), ((1, 1), (1, 1)), (1, 1)),
    ((2, 2), (3, 3), ((0, 1), (1, 0)), (1, 1)),
    ((1, 2), (2, 4), ((0, 0), (2, 1)), (2, 1)),
    ((4, 4), (4, 4), ((0, 0), (0, 0)), (1, 1)),
    ((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    ((2,), (5,), ((2, 1),), (1,)),
]


@pytest.mark.parametrize(("stride", "size", "pads", "apart"), SIZES, ids=str)
def test_convolutions_are_those_of_float32(stride, size, pads, apart):
    """Of the same rounded numbers; gradients are rounded once a tap."""
    x, k = drawn(0, 2, *(8, 12)[: len(size)], 5), drawn(1, *size, 5, 7)

    def run(x, k):
        return convolve(x, k, stride, pads, 1, apart)

    @jax.jit
    def both(x, k, g):
        out, back = jax.vjp(run, x, k)
        return out, *back(g)

    g = drawn(2, *jax.eval_shape(run, x, k).shape)
    short, long = both(x, k, g), both(*(t.astype(np.float32) for t in (x, k, g)))
    assert {one.dtype for one in short} == {jnp.dtype(jnp.bfloat16)}
    for found, one in zip(short, long, strict=True):
        np.testing.assert_allclose(np.asarray(found, np.float32), one, atol=0.012 * float(jnp.abs(one).max()))


@pytest.mark.nightly
def test_a_mesh_of_eight_devices_computes_the_same():
    """DiT in bfloat16: the gradient of its loss, sharded over data, fsdp, tensor and sequence, as on one device."""
    from tests.helpers import call_of, stirred
    from unified_jax.modalities.image import Image

    network = DiT(depth=1, width=64, heads=2, dtype="bfloat16")
    x = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    given = call_of(Image(16, 16, 3, 4), x, jnp.linspace(0, 1, 8), ((3, jnp.zeros(8)),))
    params = stirred(lambda key: network.init(key, *given))

    def loss(params):
        return jnp.mean((network.apply(params, *given)[0]["image"] - x) ** 2)

    found = []
    for mesh in (MeshShape(1), MeshShape(1, 2, 2, 2)):
        made = make_mesh(mesh, jax.devices()[: 1 if mesh.data == 1 and mesh.fsdp == 1 else 8])
        with Rules().active(made):
            placed = jax.device_put(params, NamedSharding(made, P()))
            found.append(jax.device_get(jax.jit(jax.grad(loss))(placed)))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2 * np.abs(one).max())
