"""Labels and further texts in a document, spans that see only the past, pairs kept apart, and free running."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from unified_jax.data.base import prepare_example
from unified_jax.data.packing import Documents, Item, Packer, choose_items
from unified_jax.data.vocabulary import vocabulary_of
from unified_jax.data.world import World
from unified_jax.data.world.scene import COLOURS, SHAPES
from unified_jax.errors import UserError
from unified_jax.modalities.action import Action
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import Plan

MODEL = Transfusion(
    Trunk(depth=2, width=32, heads=2, remat="none"), Text(12), (Stream(Image(16, 16, 3, 8)), Stream(Action())), 120,
    Documents(clean=0.4, per_row=2), (Label("shape", 6, SHAPES), Label("colour", 8, COLOURS), Text(6, name="word")),
)  # fmt: skip
WORLD = World(resolution=16, max_objects=1)


def records(count):
    source = WORLD.source("train", ("image", "action", "shape", "colour"))
    found = []
    for i in range(count):
        raw = dict(source[i]) | {"caption": SHAPES[source[i]["shape"]], "word": "ab" * (1 + i % 3)}
        found.append(prepare_example("world", i, raw, MODEL.modalities))
    return found


@pytest.fixture(scope="module")
def params():
    return stirred(MODEL.init, 0.15)


def test_labels_and_texts_have_their_own_ids():
    words = vocabulary_of(MODEL.modalities)
    assert (words.text, words.first, words.sizes) == (256 + 14, (0, 256, 262, 0, 0, 0), (256, 6, 8, 256, 0, 0))
    assert words.size == 270 + 2 + 12
    found = records(4)
    arrays = MODEL.packer.pack(found, np.arange(4, dtype=np.int32), 0, 0)
    for row in range(2):
        for place in range(2):
            record = found[2 * row + place]
            for m, name in ((1, "shape"), (2, "colour")):
                at = arrays["start"][row, place, m]
                assert arrays["ids"][row, at] == words.first[m] + record[name]
                assert arrays["ids"][row, at + 1] == words.end(m)
            at = arrays["start"][row, place, 3]
            text = MODEL.modalities[3].decode(record["word"])
            assert bytes(arrays["ids"][row, at : at + len(text)].tolist()).decode() == text


def test_pairs_kept_apart_never_meet():
    policy = Documents(apart=(("image", "action"), ("caption", "word")))
    seen = set()
    for i in range(300):
        items = choose_items(policy, MODEL.modalities, records(1)[0], np.random.default_rng(i))
        names = {MODEL.modalities[item.modality].name for item in items}
        assert not {"image", "action"} <= names
        assert not {"caption", "word"} <= names
        seen |= names
    assert seen == {m.name for m in MODEL.modalities}
    with pytest.raises(ValueError, match="apart, keep_of or clean_of names smell"):
        Packer(MODEL.modalities, 120, Documents(apart=(("image", "smell"),)))
    with pytest.raises(ValueError, match="clean_of names taste"):
        Packer(MODEL.modalities, 120, Documents(keep_of=(("taste", 0.5),)))


def test_a_causal_span_sees_its_own_past_only():
    packer = Packer(MODEL.modalities, 120, Documents(causal=True))
    arrays = packer.empty(1)
    packer.place(arrays, 0, 0, [Item(4), Item(0, (5, 6))], 0)
    start = arrays["start"][0, 0, 4]
    assert arrays["visible"][0, start : start + 4].tolist() == [[0, start + 1 + i] for i in range(4)]


def test_the_text_comes_first_and_last_at_its_rates():
    policy, record = Documents(text_first=0.5, text_last=0.3), records(1)[0]
    drawn = [choose_items(policy, MODEL.modalities, record, np.random.default_rng(i)) for i in range(3000)]
    first, last = (np.mean([all(item.ids for item in items[part]) for items in drawn]) for part in np.s_[:4, 2:])
    by_chance = 0.2 / 15  # two spans behind or before four texts
    assert first == pytest.approx(0.5 + by_chance, abs=0.025)
    assert last == pytest.approx(0.3 + by_chance, abs=0.025)
    with pytest.raises(ValueError, match=r"exclude each other.*0.5 and 0.6"):
        Documents(text_first=0.5, text_last=0.6)


def test_documents_of_everything_come_at_their_rate():
    policy, record = Documents(keep=0.5, keep_of=(("image", 0.0),), whole=0.2), records(1)[0]
    drawn = [choose_items(policy, MODEL.modalities, record, np.random.default_rng(i)) for i in range(3000)]
    everything = [len(items) == len(MODEL.modalities) for items in drawn]
    assert np.mean(everything) == pytest.approx(0.2, abs=0.025)
    with pytest.raises(ValueError, match="too short for a document of up to"):
        Packer(MODEL.modalities, 20, policy)


def test_free_running_is_forced_order_that_the_model_chose(params):
    """Each sample equals the same items made in the order that it chose, and does not depend on its batch."""
    count, plan = 3, Plan(steps=2, guidance=Guidance(1.5), temperature=1.0)
    keys = jax.random.split(jax.random.key(4), count)
    given = {"shape": jnp.asarray([r["shape"] for r in records(count)])}
    draw = jax.jit(MODEL.generate, static_argnames=("wanted", "plan"))
    made = draw(params, given, wanted=(), keys=keys, plan=plan)
    order = np.asarray(made.pop("order"))
    assert set(made) == {m.name for m in MODEL.modalities} - {"shape"}
    assert len({tuple(row) for row in order}) > 1
    for i in range(count):
        names = [MODEL.modalities[m].name for m in order[i] if m >= 0]
        assert len(set(names)) == len(names)
        alone = {"shape": given["shape"][i : i + 1]}
        one = draw(params, alone, wanted=(), keys=keys[i : i + 1], plan=plan)
        assert np.asarray(one["order"])[0].tolist() == order[i].tolist()
        forced = draw(params, alone, wanted=tuple(names), keys=keys[i : i + 1], plan=plan) if names else {}
        for name, value in forced.items():
            np.testing.assert_allclose(np.asarray(made[name][i]), np.asarray(value[0]), atol=2e-5)
            np.testing.assert_allclose(np.asarray(one[name][0]), np.asarray(value[0]), atol=2e-5)
        for name in set(made) - set(names):
            assert not np.any(np.asarray(made[name][i]) > 0)


def test_a_document_of_nothing_given_holds_something(params):
    draw = jax.jit(MODEL.generate, static_argnames=("wanted", "plan"))
    made = draw(params, {}, wanted=(), keys=jax.random.split(jax.random.key(1), 4), plan=Plan(steps=2))
    assert (np.asarray(made["order"])[:, 0] >= 0).all()
    everything = {m.name: jnp.zeros((1, *np.shape(records(1)[0][m.name])), jnp.int32) for m in MODEL.modalities}
    with pytest.raises(UserError, match="Everything is given"):
        MODEL.generate(params, everything, (), jax.random.split(jax.random.key(1), 1), Plan())


@pytest.mark.parametrize("embedder", ["unet", "convolutional"])
def test_skips_go_around_the_trunk_while_sampling_too(params, embedder):
    """A step of the sampler is the training forward: the same x_t, time and past give the same output."""
    del params
    image = Stream(Image(16, 16, 3, 8), embedder=embedder, features=4)
    model = dataclasses.replace(MODEL, streams=(image, Stream(Action())))
    moved = stirred(model.init)
    draw = jax.jit(model.generate, static_argnames=("wanted", "plan"))
    made = draw(moved, {}, wanted=("image",), keys=jax.random.split(jax.random.key(0), 2), plan=Plan(steps=2))["image"]
    assert made.shape == (2, 16, 16, 3)
    assert np.isfinite(made).all()
    with pytest.raises(ValueError, match="needs points"):
        Stream(Image(), embedder="groups")
