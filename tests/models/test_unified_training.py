"""One batch of any modalities: single modalities are special cases, and terms tell how they pull."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from unified_jax.data.base import prepare_example
from unified_jax.data.packing import Documents, Item
from unified_jax.data.world import World
from unified_jax.modalities.action import Action
from unified_jax.modalities.image import Image
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.gradients import term_gradients
from unified_jax.training.optimizer import Optimization
from unified_jax.training.step import Optimizer, init_state

STREAMS = (Stream(Image(16, 16, 3, 8)), Stream(Action()), Stream(Points(64, 6, 16)))
MODEL = Transfusion(
    Trunk(depth=2, width=48, heads=4, remat="none"), Text(110), STREAMS, 160, Documents(clean=0.0, alone=0.0)
)
WORLD = World(resolution=16, max_objects=1, points=64)


def records(count):
    source = WORLD.source("train", tuple(m.name for m in MODEL.modalities))
    return [prepare_example("world", i, source[i], MODEL.modalities) for i in range(count)]


@pytest.fixture(scope="module")
def params():
    return stirred(MODEL.init)


def rows_of(model, found, items):
    """Rows that hold these items of these records, of a model that may know fewer modalities."""
    arrays = model.packer.empty(len(found))
    for row, record in enumerate(found):
        arrays["used"][row] = model.packer.place(arrays, row, 0, items(record), 0)
        arrays["slot"][row, 0] = row
        for stream in model.streams:
            arrays[stream.modality.name][row, 0] = record[stream.modality.name]
    return jax.device_put(arrays)


def narrowed(params, kept):
    """The parameters of a model of the text and of the kept modalities: fewer begin and end tokens, fewer patches."""
    words = MODEL.vocabulary
    ids = [*range(words.text + 2)]
    names = [m.name for m in MODEL.modalities]
    for name in ("caption", *kept):
        ids += [words.begin(names.index(name)), words.end(names.index(name))]
    gone = [f"{s.modality.name}_{end}" for s in STREAMS for end in ("in", "out") if s.modality.name not in kept]
    fewer = {name: value for name, value in params.items() if name not in gone}
    fewer["table"] = params["table"][jnp.asarray(ids)]
    fewer["logits"] = {"kernel": params["logits"]["kernel"][:, jnp.asarray(ids)]}
    return fewer


class Fixed(Transfusion):
    """The same draws in every model: those of a span belong to its slot and to its modality's place."""

    def _noised(self, params, stream, m, batch, slots):
        x0, _, _, _, clean = super()._noised(params, stream, m, batch, slots)
        eps, t = jax.random.normal(jax.random.key(1), x0.shape), jnp.asarray([0.2, 0.5, 0.9])
        shaped = t.reshape(-1, *(1,) * (x0.ndim - 1))
        return x0, eps, t, (1 - shaped) * x0 + shaped * eps, clean


LOSSES = jax.jit(Transfusion.losses, static_argnums=0)


@pytest.mark.parametrize("name", ["image", "action", "points"])
def test_a_batch_of_one_modality_is_the_model_of_that_modality(params, name):
    """The same rows, one item each, through the model of all and through the model of that one alone."""
    place = [m.name for m in MODEL.modalities].index(name)
    single = dataclasses.replace(MODEL, streams=(STREAMS[place - 1],))
    found = records(3)
    whole = rows_of(MODEL, found, lambda record: [Item(place)])
    alone = rows_of(single, found, lambda record: [Item(1)])
    losses = []
    for model, batch, values in ((MODEL, whole, params), (single, alone, narrowed(params, (name,)))):
        fixed = Fixed(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})
        losses.append(LOSSES(fixed, values, {}, batch, jax.random.key(0))[0])
    for a, b in zip(losses[0][name], losses[1][name], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert float(losses[0][name][0].sum()) > 0
    for other in {"image", "action", "points"} - {name}:
        assert float(losses[0][other][1].sum()) == 0


def test_a_batch_of_text_is_a_language_model(params):
    """The next-token loss of texts alone does not know of the other modalities."""
    single = dataclasses.replace(MODEL, streams=(STREAMS[0],))
    found = records(3)

    def items(record):
        return [Item(0, tuple(record["caption"][record["caption"] >= 0].tolist()))]

    terms, _, metrics = LOSSES(MODEL, params, {}, rows_of(MODEL, found, items), jax.random.key(0))
    fewer, rows = narrowed(params, ("image",)), rows_of(single, found, items)
    alone, _, _ = LOSSES(single, fewer, {}, rows, jax.random.key(0))
    assert float(terms["text"][1].sum()) == float(alone["text"][1].sum()) > 30
    # The larger vocabulary's softmax is over more ids: never better than the smaller one's.
    assert (np.asarray(terms["text"][0]) >= np.asarray(alone["text"][0]) - 1e-4).all()
    expected = np.mean([(record["caption"] >= 0).sum() for record in found])
    assert float(metrics["tokens/caption"][0]) == pytest.approx(expected)
    assert float(metrics["tokens/image"][0]) == 0


def test_terms_pull_as_their_own_gradients(params):
    """Norms and cosines against one gradient a term."""
    model, params = dataclasses.replace(MODEL, streams=STREAMS[:2]), narrowed(params, ("image", "action"))
    balance = FixedBalance((("image", 3.0), ("text", 0.5)))
    optimizer = Optimizer(Optimization(), (Ema(),), 10)
    state = jax.jit(functools.partial(init_state, model, optimizer, balance))(jax.random.key(0))
    state = dataclasses.replace(state, params=params)
    batch = jax.device_put(model.packer.pack(records(4), np.arange(4, dtype=np.int32), 0, 0))
    key = jax.random.key(7)
    found = jax.jit(term_gradients, static_argnums=(0, 1))(model, balance, state, {}, batch, key)
    weights = {"image": 3.0, "text": 0.5, "action": 1.0}

    @jax.jit
    @jax.grad
    def gradient_of(p, chosen):
        terms, _, _ = model.losses(p, {}, batch, jax.random.fold_in(key, 0))
        return sum(chosen[name] * w * jnp.sum(terms[name][0]) / jnp.sum(terms[name][1]) for name, w in weights.items())

    def term(name):
        gradient = gradient_of(params, {other: float(other == name) for other in weights})
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

    own = {name: term(name) for name in weights}
    for name, gradient in own.items():
        assert float(found[f"grad_norm/{name}"]) == pytest.approx(float(np.linalg.norm(gradient)), rel=1e-4)
    a, b = own["text"], own["image"]
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    name = "grad_cosine/image,text" if "grad_cosine/image,text" in found else "grad_cosine/text,image"
    assert float(found[name]) == pytest.approx(cosine, abs=1e-4)
    assert len([name for name in found if name.startswith("grad_cosine/")]) == 3
