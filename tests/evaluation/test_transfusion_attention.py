"""Attention maps of a Transfusion model: what is captured, the sample that is drawn, masses from item to item."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of, stirred
from unified_jax.data.base import prepare_example
from unified_jax.data.packing import Documents
from unified_jax.data.world import World
from unified_jax.evaluation.probes.attention import map_grid
from unified_jax.evaluation.probes.documents import MARKS, clean_inputs, lay_out, owners
from unified_jax.evaluation.probes.transfusion_attention import (
    between,
    even_masses,
    items_of,
    pair_masses,
    trace_span,
)
from unified_jax.modalities.action import Action
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.processes.edm import Edm
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan

MODEL = Transfusion(
    Trunk(depth=2, width=48, heads=4, kv_heads=2, remat="dots"), Text(100), (Stream(Image(16, 16, 3, 8)),
    Stream(Action(), Edm(sigma_data=0.5))), 160, Documents(clean=0.4, alone=0.3), written=(Label("label", 48),),
)  # fmt: skip


def moved(model):
    """Parameters away from their start, where modulation does nothing."""
    return stirred(model.init)


@pytest.fixture(scope="module")
def params():
    return moved(MODEL)


@pytest.fixture(scope="module")
def records():
    source = World(resolution=16, max_objects=1).source("train", tuple(m.name for m in MODEL.modalities))
    return [prepare_example("world", i, source[i], MODEL.modalities) for i in range(4)]


def dense(visible, n):
    return (np.arange(n) >= visible[..., :1]) & (np.arange(n) < visible[..., 1:])


def test_what_is_captured_of_packed_rows(params, records):
    """Weights sum to 1 over what a token sees and are 0 elsewhere; the outputs are those of a pass without capture."""
    batch = jax.tree.map(jnp.asarray, MODEL.packer.pack(records, np.arange(4, dtype=np.int32), 7, 3))
    shown = clean_inputs(MODEL, params, batch)
    shown[0] = 0.3 * shown[0][0], jnp.full(4, 500.0)
    call = jax.jit(MODEL.forward, static_argnames="capture")
    logits, outputs, nothing = call(params, batch, tuple(shown))
    same, alike, captured = call(params, batch, tuple(shown), capture=True)
    assert nothing is None
    assert captured.attention.shape == (2, 4, 4, 160, 160)
    assert captured.hidden.shape == (3, 4, 160, 48)
    seen = dense(np.asarray(batch["visible"]), 160)
    weights = np.asarray(captured.attention)
    assert (weights[..., ~seen[:, None] & np.ones((1, 4, 1, 1), bool)] == 0).all()
    total = np.broadcast_to(seen.any(axis=-1)[:, None], weights.shape[:-1])
    np.testing.assert_allclose(weights.sum(-1), total, atol=1e-5)
    np.testing.assert_allclose(same, logits, atol=1e-5)
    for name, value in outputs.items():
        np.testing.assert_allclose(alike[name], value, atol=1e-5)


def test_a_cache_is_not_captured(params):
    tokens = (jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, 3), jnp.int32), jnp.ones((1, 1, 2), jnp.int32))
    from unified_jax.layers.attention import KvCache
    from unified_jax.networks.transfusion import Tokens

    blank = jnp.zeros((2, 1, 4, 2, 12))
    cache = KvCache(blank, blank, jnp.zeros((2, 1), jnp.int32))
    with pytest.raises(ValueError, match="complete rows only"):
        MODEL.network.apply(
            {"params": params}, Tokens(*tokens, tokens[0]), (), jnp.zeros((1, 2)), cache,
            vocabulary=MODEL.vocabulary.size, capture=True,
        )  # fmt: skip


def test_the_sample_is_that_of_cached_generation(params, records):
    """Whole passes without a cache, document laid out by the packer, against `generate` from the same key."""
    given = {name: records[0][name][None] for name in ("label", "caption", "action")}
    plan = SamplingPlan(Euler(), steps=3, guidance=Guidance(1.0))
    keys = keys_of(1, seed=5)
    draw = jax.jit(MODEL.generate, static_argnames=("wanted", "plan"))
    made = draw(params, {n: jnp.asarray(v) for n, v in given.items()}, wanted=("image",), keys=keys, plan=plan)["image"]
    trace = trace_span(MODEL, params, given, "image", plan, keys[0])
    np.testing.assert_allclose(trace.x, made[0], atol=2e-5)
    assert trace.t == pytest.approx([1.0, 2 / 3, 1 / 3])
    assert trace.x0.shape == (3, 16, 16, 3)
    n = len(trace.owner)
    assert trace.weights.shape == (3, 2, 4, n, n)
    seen = dense(trace.visible, n)
    np.testing.assert_allclose(trace.weights.sum(-1), 1.0, atol=1e-5)
    assert (trace.weights[..., ~seen] == 0).all()
    assert items_of(trace.owner) == [MARKS, 0, 1, 3, 2]
    for name in ("action", "label", "smell"):
        with pytest.raises(ValueError, match="can be sampled, not"):
            trace_span(MODEL, params, given, name, plan, keys[0])


def test_a_level_process_is_drawn_too(params, records):
    trace = trace_span(
        MODEL, params, {"caption": records[1]["caption"][None]}, "action", SamplingPlan(steps=2), keys_of(1)[0]
    )
    assert np.isfinite(trace.x).all() and trace.x.shape == (16, 2)


def test_a_document_by_its_owners(records):
    batch = lay_out(MODEL, {name: records[2][name][None] for name in ("image", "label")})
    words = MODEL.vocabulary
    assert owners(MODEL, batch)[0].tolist() == [-1, -1, 2, 2, 2, 2, -1, -1, 1, -1, -1]
    marks = [words.bos, words.begin(2), words.end(2), words.begin(1), words.end(1), words.eos]
    assert batch["ids"][0][[0, 1, 6, 7, 9, 10]].tolist() == marks
    assert batch["ids"][0, 8] == words.first[1] + records[2]["label"]
    np.testing.assert_array_equal(batch["image"][0, 0], records[2]["image"])
    x0, t = clean_inputs(MODEL, {}, jax.tree.map(jnp.asarray, batch))[0]
    np.testing.assert_allclose(x0[0], records[2]["image"] / 127.5 - 1, atol=1e-6)
    assert not t.any()


def test_masses_by_loops():
    """Against sums written out token by token; a row of masses is all that an item spends."""
    rng = np.random.default_rng(0)
    owner = np.asarray([-1, -1, 3, 3, 3, -1, -1, 0, 0, -1])
    weights = rng.random((2, 3, 10, 10))
    weights /= weights.sum(-1, keepdims=True)
    masses, items = pair_masses(weights, owner), items_of(owner)
    assert items == [-1, 3, 0]
    for q, k in ((0, 1), (1, 2), (2, 2)):
        queries = [i for i in range(10) if owner[i] == items[q]]
        keys = [j for j in range(10) if owner[j] == items[k]]
        wanted = sum(weights[1, 2, i, j] for i in queries for j in keys) / len(queries)
        assert masses[1, 2, q, k] == pytest.approx(wanted)
    np.testing.assert_allclose(masses.sum(-1), 1.0)
    part = between(weights, owner, 3, 0)
    np.testing.assert_array_equal(part, weights[:, :, 2:5, 7:9])
    visible = np.stack([np.zeros(10, int), np.arange(10) + 1], axis=1)
    even = even_masses(visible, owner)
    assert even[1, 1] == pytest.approx(np.mean([1 / 3, 2 / 4, 3 / 5]))
    assert even[1, 2] == 0


def test_a_pale_map_stays_pale():
    weights = np.full((1, 1, 2, 2), 0.25)
    assert (np.asarray(map_grid(weights, 40))[38, 72] == (12, 44, 132)).all()
    pale = np.asarray(map_grid(weights, 40, dark=np.ones((1, 1))))[38, 72]
    np.testing.assert_allclose(pale, 255 + 0.25 * (np.asarray([12, 44, 132]) - 255), atol=1)


def test_oblong_maps_and_borders():
    weights = np.random.default_rng(0).random((2, 3, 4, 16))
    plain, lined = map_grid(weights, 80), map_grid(weights, 80, ((2,), (8,)))
    assert plain.size == lined.size == (52 + 3 * 84, 18 + 2 * 24)
    pixels = np.asarray(lined)
    assert (pixels[18 + 5, 52 + 40] == (240, 170, 90)).all()
    assert (np.asarray(plain)[18 + 5, 52 + 40] != (240, 170, 90)).any()
