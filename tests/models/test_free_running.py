"""Labels and further texts in a document, spans that see only the past, pairs kept apart, and free running."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.small import weights
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
from unified_jax.runs.outputs import write_samples
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan

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


def drawer(streams, written):
    """(a model of the text and so many streams and labels, parameters that all matter, its compiled sampler)."""
    model = dataclasses.replace(MODEL, streams=MODEL.streams[:streams], written=MODEL.written[:written])
    return model, weights(model, 0.15), jax.jit(model.generate, static_argnames=("wanted", "plan"))


def test_free_running_is_forced_order_that_the_model_chose():
    """A sample equals the same items made alone in the order that it chose, and none depends on its batch."""
    model, params, draw = drawer(1, 1)
    plan = SamplingPlan(steps=2, guidance=Guidance(1.5), temperature=1.0)
    keys = jax.random.split(jax.random.key(4), 4)
    given = {"shape": jnp.asarray([r["shape"] for r in records(4)])}
    made = jax.device_get(draw(params, given, wanted=(), keys=keys, plan=plan))
    company = np.asarray([3, 3, 0, 1])
    others = {"shape": given["shape"][company]}
    again = jax.device_get(draw(params, others, wanted=(), keys=keys[company], plan=plan))
    for name, value in again.items():
        np.testing.assert_allclose(value, made[name][company], atol=2e-5)
    order = made.pop("order")
    assert set(made) == {m.name for m in model.modalities} - {"shape"}
    chosen = [tuple(model.modalities[m].name for m in row if m >= 0) for row in order]
    for i, names in enumerate(chosen):
        assert len(set(names)) == len(names)
        for name in set(made) - set(names):
            assert not np.any(made[name][i] > 0)
    assert len(set(chosen)) > 1
    turned = [len(row[row >= 0]) * (np.diff(row[row >= 0]) < 0).any() for row in order]  # 0: in the model's own order
    i = int(np.argmax(turned))
    assert turned[i] > 1
    alone = {"shape": given["shape"][i : i + 1]}
    forced = draw(params, alone, wanted=chosen[i], keys=keys[i : i + 1], plan=plan)
    for name, value in forced.items():
        np.testing.assert_allclose(made[name][i], np.asarray(value[0]), atol=2e-5)


def test_a_document_of_nothing_given_holds_something():
    model, params, draw = drawer(0, 2)
    keys, plan = jax.random.split(jax.random.key(1), 32), SamplingPlan(steps=1, temperature=1.0)
    made = draw(params, {}, wanted=(), keys=keys, plan=plan)
    order = np.asarray(made["order"])
    assert (order[:, 0] >= 0).all()
    assert (order[:, 1] < 0).any()  # the model ends documents early
    everything = {m.name: jnp.zeros((1, *np.shape(records(1)[0][m.name])), jnp.int32) for m in model.modalities}
    with pytest.raises(UserError, match="Everything is given"):
        model.generate(params, everything, (), jax.random.split(jax.random.key(1), 1), SamplingPlan())
    with pytest.raises(UserError, match="found 'smell'"):
        model.generate(params, {"smell": jnp.zeros((1, 1))}, (), jax.random.split(jax.random.key(1), 1), SamplingPlan())


def test_samples_of_a_model_that_makes_nothing_are_written(tmp_path):
    """Greedy, it may end each document after what is given."""
    shape = {"shape": np.asarray([3, 4])}
    write_samples(tmp_path / "s", MODEL.modalities, shape, {}, ("npz", "sheet"), {"made": [[], []], "first": 5})
    arrays = np.load(tmp_path / "s" / "samples.npz")
    assert arrays["index"].tolist() == [5, 6] and arrays["given/shape"].tolist() == [3, 4]


def test_skips_go_around_the_trunk_while_sampling_too():
    """A step of the sampler is the training forward: the same x_t, time and past give the same output."""
    embedders = {"image": "unet", "second": "convolutional"}
    streams = tuple(Stream(Image(16, 16, 3, 8, name), embedder=e, features=4) for name, e in embedders.items())
    model = dataclasses.replace(MODEL, streams=streams, written=())
    draw = jax.jit(model.generate, static_argnames=("wanted", "plan"))
    made = draw(
        weights(model, 0.1),
        {},
        wanted=tuple(embedders),
        keys=jax.random.split(jax.random.key(0), 2),
        plan=SamplingPlan(steps=2),
    )
    for name in embedders:
        assert made[name].shape == (2, 16, 16, 3)
        assert np.isfinite(made[name]).all()
    with pytest.raises(ValueError, match="needs points"):
        Stream(Image(), embedder="groups")
