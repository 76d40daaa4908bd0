"""Places without text or picture: copies with noise, which say nothing of what was there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from tests.models.small import Spy, batch_of, spied_losses, spied_samples
from unified_jax.modalities.conditions import ConditionForm
from unified_jax.modalities.image import Image
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.inside import with_border_noise
from unified_jax.models.padding import padded, replicated
from unified_jax.models.streams import Condition

RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.normal(0, 2, (3, 5, 4)), jnp.float32)
LENGTH = jnp.asarray([2, 5, 0], jnp.int32)


def test_without_noise_the_copies_are_exact():
    found = np.asarray(replicated(TOKENS, LENGTH, 0.0, keys_of(3)))
    y = np.asarray(TOKENS)
    np.testing.assert_array_equal(found[0], y[0, [0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(found[1], y[1])
    np.testing.assert_array_equal(found[2], y[2, [0] * 5])
    np.testing.assert_array_equal(replicated(TOKENS, LENGTH, 0.5), found)  # no keys: no noise


def test_noise_is_a_share_of_the_deviation_of_the_texts_own_tokens():
    keys = keys_of(3)
    found, y = np.asarray(replicated(TOKENS, LENGTH, 0.1, keys)), np.asarray(TOKENS)
    eps = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (5, 4)))(keys))
    np.testing.assert_array_equal(found[0, :2], y[0, :2])
    np.testing.assert_array_equal(found[1], y[1])
    wanted = y[0, [0, 1, 0]] + 0.1 * y[0, :2].std() * eps[0, 2:]
    np.testing.assert_allclose(found[0, 2:], wanted, rtol=1e-5)


def test_what_the_encoder_gives_beyond_the_text_reaches_nobody():
    beyond = jnp.arange(5) >= LENGTH[:, None]
    other = jnp.where((beyond & (jnp.arange(5) > 0))[..., None], 1e6, TOKENS)
    for noise in (0.0, 0.1):
        found, length = padded(TOKENS, LENGTH, "replicate", noise, keys_of(3))
        again, _ = padded(other, LENGTH, "replicate", noise, keys_of(3))
        np.testing.assert_array_equal(found, again)
        assert length is None


@dataclasses.dataclass(frozen=True)
class Phrase:
    """Texts of five places, the first two of which are words."""

    name: str = "phrase"

    def blank(self):
        return np.zeros((5, 4), np.float32)

    def prepare(self, raw):
        return np.asarray(raw, np.float32)

    def condition_form(self):
        return ConditionForm(self.name, "tokens", 4, 5, "zero")

    def to_condition(self, raw):
        return raw, jnp.full(len(raw), 2, jnp.int32)


def test_noise_is_drawn_anew_in_every_step_and_once_for_a_sample():
    model = Diffusion(
        Spy(), modality=Image(2, 2, 1, patch=1), drop_all=0.0,
        conditions=(Condition(Phrase(), padding="replicate", padding_noise=0.3),),
    )  # fmt: skip
    batch = batch_of(model, 2)
    one, other = (np.asarray(spied_losses(model, batch, seed)[1]["phrase"].value) for seed in (1, 2))
    np.testing.assert_array_equal(one[:, :2], other[:, :2])
    assert (one[:, 2:] != other[:, 2:]).all()
    calls, _ = spied_samples(model, {"phrase": batch["phrase"]}, ("image",), 2, 3)
    first, *rest = (np.asarray(shown["phrase"].value) for _, shown in calls)
    assert all(np.array_equal(first, more) for more in rest)
    assert calls[0][1]["phrase"].length is None
    assert (first[:, 2:4] != first[:, :2]).all()
    with pytest.raises(ValueError, match="padding_noise is of padding 'replicate'"):
        Condition(Phrase(), padding_noise=0.3)


def test_a_picture_repeats_its_border():
    image = Image(6, 6, 3, 2, fit="replicate")
    raw = RNG.integers(0, 256, (3, 6, 3), np.uint8)
    found = image.prepare(raw)
    assert found["image.inside"].tolist() == [[1, 4], [0, 6]]
    np.testing.assert_array_equal(found["image"], raw[[0, 0, 1, 2, 2, 2]])
    grey = dataclasses.replace(image, fit="pad").prepare(raw)
    np.testing.assert_array_equal(found["image.inside"], grey["image.inside"])


def test_noise_on_a_border_leaves_the_picture():
    image = Image(6, 6, 1, 2, fit="replicate", border_noise=0.5)
    inside = image.inside(jnp.asarray([[[1, 4], [0, 6]], [[0, 6], [2, 3]]], jnp.int32))
    x = jnp.asarray(RNG.normal(0, 1, (2, 6, 6, 1)), jnp.float32)
    found = with_border_noise(x, inside, 0.5, keys_of(2))
    eps = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (6, 6, 1)))(keys_of(2)))
    np.testing.assert_array_equal(np.asarray(found)[np.asarray(inside)], np.asarray(x)[np.asarray(inside)])
    np.testing.assert_allclose(found, np.where(inside, x, x + 0.5 * eps), rtol=1e-6)
    with pytest.raises(ValueError, match="border_noise is of fit 'replicate'"):
        Image(6, 6, 1, 2, fit="pad", border_noise=0.5)


def test_training_shows_the_noise_mirrored_with_its_picture():
    image = Image(4, 4, 1, 2, fit="replicate", border_noise=0.5)
    model = Diffusion(Spy(), modality=image, flip=True)
    batch = batch_of(model, 8) | {"image.inside": np.tile(np.asarray([[0, 4], [0, 3]], np.int32), (8, 1, 1))}
    batch["image"] = jnp.full_like(batch["image"], 128)
    clean = dataclasses.replace(image, border_noise=0.0)
    with_noise, without = (
        np.asarray(spied_losses(dataclasses.replace(model, modality=one), batch)[0]["image"].x)
        for one in (image, clean)
    )
    moved = (with_noise != without)[..., 0].any(axis=1)
    assert {tuple(row) for row in moved.tolist()} == {(False, False, False, True), (True, False, False, False)}
