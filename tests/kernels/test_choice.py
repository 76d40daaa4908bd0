"""Which implementation runs where, and what is said when a forced one cannot."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import call_of
from unified_jax.errors import UserError
from unified_jax.kernels import choice, measured
from unified_jax.modalities.image import Image
from unified_jax.networks.dit import DiT


def on(monkeypatch, platform, kind):
    monkeypatch.setattr(choice, "device", lambda: (platform, kind))


def test_auto_is_xla_where_nothing_was_measured_and_what_was_fastest_elsewhere(monkeypatch):
    on(monkeypatch, "gpu", "NVIDIA H200")
    assert choice.resolve("auto", jnp.bfloat16, 64, 256, runs=False) == "xla"
    row = measured.Fastest("H200", "bfloat16", 64, 128, 512, False, "cudnn", False, "a result file")
    monkeypatch.setattr(measured, "TABLE", (row,))
    assert choice.resolve("auto", jnp.bfloat16, 64, 256, runs=False) == "cudnn"
    assert choice.resolve("auto", jnp.bfloat16, 64, 256, runs=False, projection=True) == "xla"
    monkeypatch.setattr(measured, "TABLE", (row._replace(choice="pallas", whole=True),))
    monkeypatch.setattr(choice, "kernels", lambda: (None, None, None))
    assert choice.resolve("auto", jnp.bfloat16, 64, 256, runs=False, projection=True) == "pallas"
    monkeypatch.setattr(measured, "TABLE", (row,))
    assert choice.resolve("auto", jnp.bfloat16, 64, 256, runs=False, bias=True) == "xla"
    for other in ((jnp.float32, 64, 256, False), (jnp.bfloat16, 72, 256, False), (jnp.bfloat16, 64, 513, False)):
        assert choice.resolve("auto", other[0], other[1], other[2], runs=other[3]) == "xla"
    on(monkeypatch, "cpu", "cpu")
    assert choice.resolve("auto", jnp.bfloat16, 64, 256, runs=False) == "xla"


@pytest.mark.parametrize("row", measured.TABLE)
def test_what_is_called_fastest_is_so_in_the_file_it_names(root, row):
    found = json.loads((root / row.source).read_text())
    assert row.device_kind in found["device"]
    near = []
    for one in found["shapes"].values():
        _, tokens, width, heads, runs = one["shape"].values()
        if (width // heads, runs) == (row.head_dim, row.runs) and row.least_tokens <= tokens <= row.most_tokens:
            near.append(one)
    assert near
    for one in near:
        for task in {"forward", "gradient", "attend", "attend_gradient"} & set(one):
            ours = [side for side in one[task] if side["name"] in ("pallas", "xla", "cudnn")]
            assert min(ours, key=lambda side: side["median_ms"])["name"] == row.choice


@pytest.mark.parametrize(
    ("where", "attention", "dtype", "head_dim", "bias", "reason"),
    [
        (("cpu", "cpu"), "cudnn", "bfloat16", 64, False, "NVIDIA GPUs"),
        (("gpu", "NVIDIA H200"), "cudnn", "float32", 64, False, "bfloat16 and float16"),
        (("gpu", "NVIDIA A100"), "cudnn", "bfloat16", 160, False, "up to 128"),
        (("gpu", "NVIDIA A100"), "pallas", "bfloat16", 64, False, "for Hopper"),
        (("gpu", "NVIDIA H200"), "pallas", "float32", 64, False, "take bfloat16"),
        (("tpu", "TPU v5p"), "pallas", "float16", 64, False, "bfloat16 and float32"),
        (("tpu", "TPU v5p"), "pallas", "bfloat16", 512, False, "up to 256"),
        (("tpu", "TPU v5p"), "pallas", "bfloat16", 64, True, "additive bias"),
    ],
)
def test_a_forced_choice_that_cannot_work_says_why(monkeypatch, where, attention, dtype, head_dim, bias, reason):
    on(monkeypatch, *where)
    with pytest.raises(UserError, match=f"attention='{attention}' cannot work here: .*{reason}.* Choose 'auto'"):
        choice.resolve(attention, dtype, head_dim, 256, runs=False, bias=bias)


def test_it_is_said_before_anything_is_compiled():
    network = DiT(depth=1, width=32, heads=2, attention="cudnn")
    given = call_of(Image(4, 4, 2, 2), jnp.zeros((1, 4, 4, 2)), jnp.zeros(1))
    with pytest.raises(UserError, match="cuDNN"):
        jax.eval_shape(lambda: network.init(jax.random.key(0), *given))


def test_a_version_that_cannot_run_the_kernels_falls_back_and_says_so_once(monkeypatch):
    monkeypatch.setattr(choice, "kernels", lambda: (None, None, "the kernels need a newer JAX."))
    on(monkeypatch, "gpu", "NVIDIA H200")
    choice._say_once.cache_clear()
    with pytest.warns(UserWarning, match="falls back to 'xla'.*newer JAX"):
        assert choice.resolve("pallas", jnp.bfloat16, 64, 256, runs=False) == "xla"
    assert choice.resolve("pallas", jnp.bfloat16, 64, 256, runs=False) == "xla"  # a second warning would be an error


@pytest.mark.parametrize("attention", ["reference", "xla", "pallas"])
def test_every_path_keeps_the_residual_stream_s_dtype(attention):
    network = DiT(depth=2, width=32, heads=2, dtype="bfloat16", attention=attention)
    given = call_of(Image(4, 4, 2, 2), jnp.zeros((1, 4, 4, 2)), jnp.zeros(1))
    out, _ = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), *given)[0])
    assert out["image"].dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "transfusion"])
def test_a_trunk_learns_the_same_with_the_kernels_as_with_the_specification(name):
    """Fifty steps of a tiny trunk, losses of either path."""
    import optax

    from unified_jax.layers.form import Form
    from unified_jax.networks.transfusion import Spans, Tokens, Trunk

    rng = np.random.default_rng(0)
    if name == "dit":
        x = jnp.asarray(rng.standard_normal((2, 6, 6, 2)), jnp.float32)
        given = call_of(Image(6, 6, 2, 2), x, jnp.asarray([0.2, 0.7]))

        def network(attention):
            return DiT(depth=2, width=32, heads=2, attention=attention)

        def apply(net, params):
            return net.apply(params, *given)[0]["image"]

        options = {}
    else:
        ids = np.asarray([[1, 2, 3, -1, -1, -1, -1, 4, 5, 6]] * 2)
        visible = np.stack([np.zeros((2, 10)), np.tile(np.arange(10) + 1, (2, 1))], -1).astype(np.int32)
        visible[:, 3:7, 1] = 7
        position = np.tile(np.arange(10)[:, None], (2, 1, 3))
        tokens = Tokens(*(jnp.asarray(x) for x in (ids, position, visible, np.where(ids < 0, 1, 0))))
        form = Form("image", (4, 4, 3), (2, 2), 3, "linear", 8)
        one = jnp.asarray([[3], [3]])
        spans = (Spans(form, jnp.asarray(rng.standard_normal((2, 1, 4, 4, 3)), jnp.float32), one, one * 0 + 1),)
        given = (tokens, spans, jnp.asarray([[0.0, 0.5], [0.0, 0.9]]))

        def network(attention):
            return Trunk(depth=2, width=32, heads=2, attention=attention)

        def apply(net, params):
            logits, outputs, _ = net.apply(params, *given, vocabulary=8)
            return jnp.concatenate([logits.reshape(2, -1), outputs["image"].reshape(2, -1)], axis=1)

        options = {"vocabulary": 8}

    optimizer = optax.adam(1e-2)

    def losses(attention):
        net = network(attention)
        params = jax.jit(lambda: net.init(jax.random.key(0), *given, **options))()

        @jax.jit
        def step(params, state):
            value, gradient = jax.value_and_grad(lambda p: jnp.mean((apply(net, p) - 1) ** 2))(params)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state, value

        state, found = optimizer.init(params), []
        for _ in range(50):
            params, state, value = step(params, state)
            found.append(float(value))
        return found

    kernel, specification = losses("pallas"), losses("reference")
    assert specification[-1] < 0.5 * specification[0]
    np.testing.assert_allclose(kernel, specification, rtol=1e-3)
