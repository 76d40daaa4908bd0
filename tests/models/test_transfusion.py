"""Packing and the Transfusion model: what a token may see, packed equals alone, cached equals whole."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from unified_jax.data.base import prepare_example
from unified_jax.data.packing import Documents, Item, Packer, choose_items
from unified_jax.data.vocabulary import check_written
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import SIZES, Spans, Tokens, Trunk, trunk_preset
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Ddim
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.samplers.skip_layers import SkipLayers

STREAMS = (Stream(Image(16, 16, 3, 8)), Stream(Action()), Stream(Points(64, 6, 16)))
TEXT = Text(110)
MODEL = Transfusion(
    Trunk(depth=2, width=48, heads=4, kv_heads=2, remat="none"), TEXT, STREAMS, 300,
    Documents(clean=0.4, alone=0.3, per_row=2),
)  # fmt: skip
WORLD = World(resolution=16, max_objects=1, points=64)


def records(count, model=MODEL, world=WORLD):
    source = world.source("train", tuple(m.name for m in model.modalities))
    return [prepare_example("world", i, source[i], model.modalities) for i in range(count)]


def batch_of(model, found, step=3):
    return model.packer.pack(found, np.arange(len(found), dtype=np.int32), 7, step)


@pytest.fixture(scope="module")
def params():
    return stirred(MODEL.init)


@functools.partial(jax.jit, static_argnums=(0, 1))
def forward(network, vocabulary, params, tokens, spans, times):
    return network.apply({"params": params}, tokens, spans, times, vocabulary=vocabulary)


def outputs(model, params, batch):
    """(logits, outputs of all spans, noised alike) for a batch of rows."""
    rows, places = batch["slot"].shape
    count = len(model.modalities)
    times = np.linspace(0.1, 0.9, 1 + places * count, dtype=np.float32)
    spans = []
    for m, stream in enumerate(model.streams, start=1):
        x = stream.modality.to_model(
            jnp.asarray(batch[stream.modality.name]).reshape(-1, *batch[stream.modality.name].shape[2:])
        )
        start = jnp.asarray(batch["start"][:, :, m])
        item = jnp.broadcast_to(1 + count * jnp.arange(places) + m, (rows, places))
        spans.append(Spans(stream.form, x.reshape(rows, places, *x.shape[1:]), start, item))
    tokens = Tokens(*(jnp.asarray(batch[name]) for name in ("ids", "position", "visible", "item")))
    table = jnp.broadcast_to(times, (rows, len(times)))
    logits, found, _ = forward(model.network, model.vocabulary.size, params, tokens, tuple(spans), table)
    return np.asarray(logits), {name: np.asarray(value) for name, value in found.items()}


def test_a_row_by_an_independent_reading_of_the_layout():
    """Every token of packed rows, checked against sentences of the module docstring rather than the packer's code."""
    batch = batch_of(MODEL, records(16))
    words, count = MODEL.vocabulary, len(MODEL.modalities)
    for row in range(8):
        ids, used = batch["ids"][row], batch["used"][row]
        starts = np.flatnonzero(ids[:used] == words.bos)
        stops = np.flatnonzero(ids[:used] == words.eos) + 1
        assert len(starts) == len(stops) == 2 - batch["dropped"][row]
        for first, stop in zip(starts, stops, strict=True):
            position = 0
            for i in range(first, stop):
                low, high = batch["visible"][row, i]
                assert first <= low <= i < high <= stop
                assert (batch["position"][row, i] >= position).all() if ids[i] >= 0 else True
                if ids[i] >= 0:
                    assert high == i + 1
                    assert len(set(batch["position"][row, i])) == 1
                    assert batch["position"][row, i, 0] == position
                    position += 1
                elif ids[i - 1] >= 0:  # a span begins
                    end = i + next(k for k, one in enumerate(ids[i:]) if one >= 0)
                    assert (batch["visible"][row, i:end, 1] == end).all()
                    place, m = divmod(int(batch["item"][row, i]) - 1, count)
                    assert batch["start"][row, place, m] == i
                    assert end - i == MODEL.packer.content(m)
                    assert ids[i - 1] == words.begin(m)
                    assert ids[end] == words.end(m)
                    assert batch["text_weight"][row, i - 1 : end].sum() == 0
                    position += 1
            assert batch["text_weight"][row, stop - 1] == 0
        assert not batch["visible"][row, used:].any()
        assert not batch["text_weight"][row, used:].any()


def test_packing_depends_on_the_slots_alone():
    found = records(8)
    whole = batch_of(MODEL, found)
    half = MODEL.packer.pack(found[4:], np.arange(4, 8, dtype=np.int32), 7, 3)
    for name, value in half.items():
        np.testing.assert_array_equal(value, whole[name][2:])
    other = batch_of(MODEL, found, step=4)
    assert (other["ids"] != whole["ids"]).any()


def test_what_does_not_fit_is_dropped_and_counted(params):
    short = dataclasses.replace(MODEL, length=150)
    batch = batch_of(short, records(16))
    assert batch["dropped"].sum() > 0
    losses = jax.jit(lambda rows: short.losses(params, None, rows, jax.random.key(0))[2]["documents/dropped"])
    total, count = losses(batch)
    assert (total, count) == (batch["dropped"].sum(), 16)
    parts = [losses({name: value[half] for name, value in batch.items()}) for half in (slice(0, 4), slice(4, 8))]
    assert tuple(map(sum, zip(*parts, strict=True))) == (total, count)  # microbatches add up
    assert ((batch["start"] >= 0).any((1, 2))).all()
    with pytest.raises(ValueError, match="too short for a document of up to 132"):
        dataclasses.replace(MODEL, length=120)


def test_a_row_holds_each_item_and_what_always_comes_together():
    """16 tokens an image, 4 and 8 the texts: a document of one, of all that is sure, of all but those kept apart."""
    items = (Text(8), Image(8, 8, 3, 2), Image(8, 8, 3, 2, name="after"))

    def longest(**policy):
        with pytest.raises(ValueError, match="too short for a document of up to") as found:
            Packer(items, 1, Documents(**policy))
        return int(re.search(r"up to (\d+)", str(found.value))[1])

    assert longest(keep=1.0) == longest(keep=0.2, whole=0.1) == 2 + 10 + 18 + 18
    assert longest(keep=0.5) == 2 + 18  # never sure of two, and each may come
    assert longest(keep=0.5, keep_of=(("caption", 1.0), ("after", 1.0))) == 2 + 10 + 18
    assert longest(keep=0.5, keep_of=(("image", 0.0), ("after", 0.0))) == 2 + 10
    assert longest(keep=1.0, apart=(("image", "after"),)) == 2 + 10 + 18
    Packer(items, 30, Documents(keep=1.0, apart=(("image", "after"),)))
    with pytest.raises(ValueError, match="leave out every modality"):
        Packer(items, 99, Documents(keep=0.0))


def test_what_is_never_kept_is_never_a_document():
    policy = Documents(keep=0.1, keep_of=(("image", 0.0),))
    record = {m.name: m.blank() for m in MODEL.modalities}
    found = [choose_items(policy, MODEL.modalities, record, np.random.default_rng(i)) for i in range(300)]
    image = [m.name for m in MODEL.modalities].index("image")
    assert all(items for items in found)
    assert not any(item.modality == image for items in found for item in items)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"keep_of": (("image", 0.5), ("image", 0.6))}, "keep_of names 'image' twice"),
        ({"clean_of": (("image", 0.5), ("image", 0.5))}, "clean_of names 'image' twice"),
        ({"apart": (("image", "image"),)}, "keeps 'image' apart from itself"),
    ],
)
def test_a_policy_says_each_thing_once(policy, words):
    with pytest.raises(ValueError, match=words):
        Documents(**policy)


@pytest.mark.parametrize("name", ["position", "used", "dropped", "step", "free", "order"])
def test_names_with_a_meaning_of_their_own_are_refused(name):
    with pytest.raises(ValueError, match=f"{name!r}"):
        Transfusion(MODEL.network, Text(6), (Stream(Image(4, 4, 3, 2, name=name)),), 24)


def test_no_token_sees_the_future(params):
    """Every later token is changed; earlier outputs, but for those of a span that has not ended, stay."""
    batch = batch_of(MODEL, records(8))
    logits, _ = outputs(MODEL, params, batch)
    rng = np.random.default_rng(0)
    for cut in (20, 75, 120, 200):
        changed = {name: value.copy() for name, value in batch.items()}
        later = np.arange(batch["ids"].shape[1]) >= cut
        text = later & (batch["ids"] >= 0)
        changed["ids"][text] = rng.integers(0, 200, int(text.sum()))
        for m, stream in enumerate(STREAMS, start=1):
            name = stream.modality.name
            begun = batch["start"][:, :, m] + MODEL.packer.content(m) > cut
            changed[name][begun] = (200 * rng.random(changed[name][begun].shape)).astype(changed[name].dtype)
        after, _ = outputs(MODEL, params, changed)
        blind = (np.arange(logits.shape[1]) < cut) & (batch["visible"][..., 1] <= cut) & (batch["used"][:, None] > 0)
        assert blind.sum() > 30
        np.testing.assert_array_equal(after[blind], logits[blind])
        assert not np.allclose(after[~blind], logits[~blind])


def test_packed_rows_have_the_losses_of_their_documents(params):
    alone = dataclasses.replace(MODEL, documents=dataclasses.replace(MODEL.documents, per_row=1), length=150)
    found = records(6)
    key = jax.random.key(5)
    packed, single = (jax.jit(m.losses)(params, {}, batch_of(m, found), key)[0] for m in (MODEL, alone))
    assert set(packed) == {"text", "image", "action", "points"}
    for name, (total, weight) in packed.items():
        assert float(weight.sum()) == float(single[name][1].sum()) > 0
        assert float(total.sum()) == pytest.approx(float(single[name][0].sum()), rel=1e-5)


def test_a_span_alone_sees_only_itself():
    packer = Packer(MODEL.modalities, 300, MODEL.documents)
    arrays = packer.empty(1)
    packer.place(arrays, 0, 0, [Item(0, (5, 6, 7)), Item(1, alone=True), Item(2)], 0)
    start = arrays["start"][0, 0, 1]
    assert arrays["visible"][0, start - 1].tolist() == [start - 1, start]
    assert arrays["visible"][0, start].tolist() == [start - 1, start + 4]
    assert arrays["visible"][0, start + 4].tolist() == [0, start + 5]
    assert arrays["visible"][0, arrays["start"][0, 0, 2], 0] == 0


def test_items_come_at_their_rates():
    policy = Documents(keep=0.5, clean=0.3, alone=0.2, noise_limit=0.5)
    record = records(1)[0]
    drawn = [choose_items(policy, MODEL.modalities, record, np.random.default_rng(i)) for i in range(4000)]
    assert min(len(items) for items in drawn) == 1
    spans = [item for items in drawn for item in items if item.modality]
    assert np.mean([item.clean for item in spans]) == pytest.approx(0.3, abs=0.02)
    assert np.mean([item.alone for item in spans]) == pytest.approx(0.2, abs=0.02)
    for items in drawn[:200]:
        order = [item.modality for item in items]
        for place, item in enumerate(items):
            assert item.limit == (0.5 if item.modality and 0 in order[place + 1 :] else 1.0)


def test_a_sample_does_not_depend_on_its_batch(params):
    """Given texts of several lengths; texts that are written are compared by the next test, and while running free."""
    found, wanted = records(6), ("image",)
    given = {name: jnp.asarray(np.stack([record[name][:96] for record in found])) for name in ("points", "caption")}
    keys, company = jax.random.split(jax.random.key(3), 6), np.asarray([4, 4, 0, 2, 5, 1])
    draw = jax.jit(dataclasses.replace(MODEL, text=Text(96)).generate, static_argnames=("wanted", "plan"))

    def drawn(rows):
        some = {name: value[rows] for name, value in given.items()}
        plan = SamplingPlan(steps=2, guidance=Guidance(1.5))
        return jax.device_get(draw(params, some, wanted=wanted, keys=keys[rows], plan=plan))

    whole, other = drawn(np.arange(6)), drawn(company)
    for name in wanted:
        np.testing.assert_allclose(other[name].astype(float), whole[name][company].astype(float), atol=2e-5)
        assert not np.array_equal(whole[name][4], whole[name][0])


def test_cached_decoding_equals_a_whole_forward(params):
    """The likeliest next tokens by the cache are those of full forwards over rows packed by the packer."""
    found = records(3)
    given = {"image": jnp.asarray(np.stack([record["image"] for record in found]))}
    draw = jax.jit(MODEL.generate, static_argnames=("wanted", "plan"))
    ids = np.asarray(
        draw(params, given, wanted=("caption",), keys=jax.random.split(jax.random.key(0), 3), plan=SamplingPlan())[
            "caption"
        ]
    )
    packer = Packer(MODEL.modalities, 300, Documents(per_row=1))
    words = MODEL.vocabulary
    allowed = [*range(words.text), words.end(0)]
    for i in range(3):
        text = tuple(int(one) for one in ids[i] if one >= 0)
        arrays = packer.empty(1)
        packer.place(arrays, 0, 0, [Item(1, clean=True), Item(0, text or (0,))], 0)
        arrays["image"][0, 0] = given["image"][i]
        times = jnp.zeros((1, 1 + len(MODEL.modalities)))
        x = MODEL.streams[0].modality.to_model(jnp.asarray(arrays["image"][0]))
        start = jnp.asarray(arrays["start"][:, :, 1])
        span = Spans(STREAMS[0].form, x[None], start, jnp.full((1, 1), 2))
        tokens = Tokens(*(jnp.asarray(arrays[name]) for name in ("ids", "position", "visible", "item")))
        logits, _, _ = forward(MODEL.network, words.size, params, tokens, (span,), times)
        first = int(arrays["start"][0, 0, 0]) - 1
        best = np.asarray(logits)[0, first : first + len(text) + 1][:, allowed].argmax(1)
        wanted = [*text, *([words.text] if len(text) < MODEL.text.length else [])]
        assert best[: len(wanted)].tolist() == wanted


def test_chains_and_bad_requests(params):
    chain = dataclasses.replace(
        MODEL, streams=(Stream(Image(16, 16, 3, 8), DiscreteGaussian(schedule="squared_cosine")), *STREAMS[1:])
    )
    keys = jax.random.split(jax.random.key(0), 2)
    draw = jax.jit(chain.generate, static_argnames=("wanted", "plan"))
    made = draw(params, {}, wanted=("image",), keys=keys, plan=SamplingPlan(Ddim(), steps=3))["image"]
    assert made.shape == (2, 16, 16, 3) and np.isfinite(made).all()
    for given, wanted in (
        ({}, ("image", "image")),
        ({}, ("smell",)),
        ({"image": jnp.zeros((2, 16, 16, 3), jnp.uint8)}, ("image",)),
    ):
        with pytest.raises(UserError, match=r"asked for twice|This model generates caption, image|both given and"):
            MODEL.generate(params, given, wanted, keys, SamplingPlan())
    with pytest.raises(ValueError, match="distinct"):
        dataclasses.replace(MODEL, streams=(STREAMS[0], STREAMS[0]))
    with pytest.raises(ValueError, match="more than 512 samples"):
        Audio(samples=10)
    for skipped in (Guidance(joint=2.0), Guidance(skip=SkipLayers((0,)))):
        with pytest.raises(UserError, match="use one guidance scale"):
            MODEL.generate(params, {}, ("image",), keys, SamplingPlan(guidance=skipped))
    with pytest.raises(UserError, match="no single denoiser"):
        MODEL.sampling()


def test_what_has_no_tokens_is_refused():
    for changes, words in (
        ({"written": (Label("shape", 3, absent=True),)}, "no token for an absent label.* shape"),
        ({"text": dataclasses.replace(TEXT, empty="keep")}, "at least one token; caption"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(MODEL, **changes)
    with pytest.raises(ValueError, match="note is no stream, it belongs into `written`"):
        check_written((TEXT,), (dataclasses.replace(TEXT, name="note"),))
    alone = dataclasses.replace(MODEL, streams=())
    assert alone.request((), ()) == ((), ("caption",))


def test_published_sizes():
    """Parameters as counted by hand: 12 d^2-like blocks of Llama, the table and the head."""
    counts = {}
    for size in SIZES:
        model = Transfusion(trunk_preset(size), Text(64), (Stream(Image(32, 32, 8, 2), RectifiedFlow()),), 512)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        network = model.network
        d, h, v = network.width, network.hidden_features, model.vocabulary.size
        block = 4 * d * d + 3 * d * h + 2 * d
        time = 256 * d + d + d * d + d
        patches = 2 * 32 * d + d + 32
        total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert total == network.depth * block + 2 * v * d + d + time + patches
        counts[size] = total - 2 * v * d + 2 * 32_000 * d
    published = {"0.16B": 0.16e9, "0.37B": 0.37e9, "0.76B": 0.76e9, "1.4B": 1.4e9, "7B": 7e9}
    for size, wanted in published.items():
        assert counts[size] == pytest.approx(wanted, rel=0.06)
