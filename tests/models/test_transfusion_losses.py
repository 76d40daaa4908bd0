"""What a Transfusion shows its network in training, and which losses it counts: by hand from packed rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.data.packing import Documents
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
from unified_jax.models.transfusion import Stream, Transfusion, next_token_loss

STREAMS = (Stream(Image(4, 4, 3, 2, "left")), Stream(Image(4, 4, 3, 2, "right")))
MODEL = Transfusion(
    text=Text(6), streams=STREAMS, length=60, documents=Documents(keep=0.8, clean=0.4, noise_limit=0.5, per_row=2)
)
ROWS = 40


def packed(model):
    rng = np.random.default_rng(0)
    records = [
        {"caption": rng.integers(0, 256, 6).astype(np.int32)}
        | {s.modality.name: rng.integers(0, 256, (4, 4, 3)).astype(np.uint8) for s in STREAMS}
        for _ in range(2 * ROWS)
    ]
    return model.packer.pack(records, np.arange(2 * ROWS, dtype=np.int32), 7, 3)


@pytest.fixture
def train(monkeypatch):
    """model -> (batch, for each stream what its places were shown: (x, t), terms), all outputs being zero."""

    def losses(model):
        batch, seen = packed(model), []

        def forward(self, params, batch, shown, capture=False):
            seen.extend((np.asarray(x), np.asarray(time) / 1000) for x, time in shown)
            outputs = {s.modality.name: jnp.zeros((ROWS, 2, 4, 4, 3)) for s in self.streams}
            return jnp.zeros((ROWS, self.length, self.vocabulary.size)), outputs, None

        monkeypatch.setattr(Transfusion, "forward", forward)
        terms, _, _ = model.losses({}, {}, jax.tree.map(jnp.asarray, batch), jax.random.key(5))
        return batch, seen, terms

    return losses


def of(batch, m):
    """(x0, there, clean, limit) of the places of modality m."""
    name = MODEL.modalities[m].name
    x0 = batch[name].reshape(-1, 4, 4, 3) / 127.5 - 1.0
    return x0, *(batch[field][:, :, m].reshape(-1) for field in ("start", "clean", "limit"))


def test_spans_are_shown_clean_or_noised_and_only_those_that_are_noised_have_a_loss(train):
    batch, seen, terms = train(MODEL)
    for m, (x, t) in enumerate(seen, start=1):
        x0, start, clean, limit = of(batch, m)
        there = start >= 0
        assert min((there & clean).sum(), (there & ~clean).sum(), (limit < 1).sum(), (limit == 1).sum()) > 5
        np.testing.assert_allclose(x[clean], x0[clean], atol=1e-6)
        assert not t[clean].any()
        noised = there & ~clean
        loss = np.zeros(len(t))
        shaped = t[noised][:, None, None, None]
        eps = (x[noised] - (1 - shaped) * x0[noised]) / shaped
        assert np.std(eps) == pytest.approx(1.0, abs=0.1)
        loss[noised] = np.mean((eps - x0[noised]) ** 2, axis=(1, 2, 3))
        total, weight = terms[MODEL.modalities[m].name]
        np.testing.assert_allclose(total, loss.reshape(ROWS, 2).sum(1), rtol=2e-3)
        np.testing.assert_array_equal(weight, noised.reshape(ROWS, 2).sum(1))


def test_what_a_text_follows_is_noised_up_to_the_limit(train):
    batch, seen, _ = train(dataclasses.replace(MODEL, documents=Documents(clean=0.0, noise_limit=0.2, per_row=2)))
    for m, (_, t) in enumerate(seen, start=1):
        *_, limit = of(batch, m)
        assert 0.1 < t[limit < 1].max() < 0.2 + 1e-6
        assert 0.7 < t[limit == 1].max() < 1
        assert t[limit == 1].min() < 0.2


def test_every_stream_has_times_and_noise_of_its_own(train):
    batch, seen, _ = train(dataclasses.replace(MODEL, documents=Documents(clean=0.0, per_row=2)))
    noise = []
    for m, (x, t) in enumerate(seen, start=1):
        shaped = t[:, None, None, None]
        noise.append(np.ravel((x - (1 - shaped) * of(batch, m)[0]) / shaped))
    assert abs(np.corrcoef(*noise)[0, 1]) < 4 / np.sqrt(noise[0].size)
    assert abs(np.corrcoef(seen[0][1], seen[1][1])[0, 1]) < 4 / np.sqrt(2 * ROWS)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_the_text_loss_in_numpy(z_loss):
    """Cross-entropy and z-loss (z log^2 of the denominator; PaLM, section 5) at every place that has a weight."""
    rng = np.random.default_rng(1)
    logits, ids = rng.normal(1.0, 2.0, (3, 7, 11)), rng.integers(0, 11, (3, 7))
    ids[0, 4] = -1  # a span begins there, so the place before it has no weight
    weight = (rng.random((3, 7)) < 0.6).astype(np.float32)
    weight[0, 3] = 0.0
    wanted = np.zeros(3)
    for row in range(3):
        for i in range(6):
            total = np.log(np.exp(logits[row, i]).sum())
            loss = total - logits[row, i, ids[row, i + 1]] + z_loss * total**2
            wanted[row] += loss * weight[row, i]
    given = jnp.asarray(logits, jnp.float32), jnp.asarray(ids), jnp.asarray(weight)
    found = next_token_loss(*given, z_loss)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found[1], weight[:, :6].sum(1))
    text, _ = next_token_loss(*given)
    assert (z_loss == 0) == np.allclose(found[0], text)


def test_the_model_s_z_loss_is_that_of_its_text(train):
    """Logits of zero: every denominator is the vocabulary's size v, so each token costs log v + z log^2 v."""
    log = np.log(MODEL.vocabulary.size)
    for z_loss in (0.0, 0.5):
        batch, _, terms = train(dataclasses.replace(MODEL, z_loss=z_loss))
        total, weight = terms["text"]
        np.testing.assert_array_equal(weight, batch["text_weight"][:, :-1].sum(1))
        np.testing.assert_allclose(total, weight * (log + z_loss * log**2), rtol=1e-5)
