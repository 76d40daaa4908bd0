"""Encoders of images that are trained here: with labels, and by masked patches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import stirred
from unified_jax.interop.preprocessing import DEFAULTS
from unified_jax.modalities.grid import patchify
from unified_jax.models.masked_images import MASKED

VIT = uj.Vit(16, 4, width=16, depth=1, heads=2, hidden=32, activation="gelu", patch_bias=True, first_norm=False)
PLAIN = dataclasses.replace(DEFAULTS["clip"], resize=16, side=16, mean=(0.5,) * 3, std=(0.5,) * 3)
ENCODER = uj.ImageEncoder(VIT, uj.Image(16, 16), PLAIN)
MASKS = uj.MaskedImages(ENCODER, 0.5)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(20, 236, (4, 16, 16, 3), np.uint8)),
        "shape": jnp.asarray([0, 1, 2, 1], jnp.int32), "slot": jnp.arange(4, dtype=jnp.int32),
    }  # fmt: skip


def test_the_first_loss_is_that_of_equal_classes(batch):
    model = uj.ImageClassifier(ENCODER, (uj.Label("shape", 3),))
    params = model.init(jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(model.axes(), is_leaf=lambda x: isinstance(x, tuple))
    terms, _, metrics = model.losses(params, {}, batch, jax.random.key(1))
    np.testing.assert_allclose(terms["shape"][0], np.log(4), rtol=1e-6)  # three classes and "it does not say"
    assert set(metrics) == {"accuracy/shape"}
    encoded = model.encode(params, batch["image"])
    assert encoded.pooled.shape == (4, 16)


def test_only_masked_patches_are_predicted_and_none_is_seen(batch):
    params, key = stirred(MASKS.init), jax.random.key(1)

    def loss(params, image):
        terms, _, _ = MASKS.losses(params, {}, batch | {"image": image}, key)
        return terms["masked"][0]

    # With a head that predicts grey the loss is the mean absolute value over the masked half.
    grey = params | {MASKED: jax.tree.map(jnp.zeros_like, params[MASKED])}
    x = patchify(ENCODER.prepare(batch["image"]), (4, 4))
    found = np.asarray(loss(grey, batch["image"]))
    halves = np.sort(np.abs(np.asarray(x)).mean(2), axis=1)
    assert (halves[:, :8].mean(1) - 1e-6 <= found).all()
    assert (found <= halves[:, 8:].mean(1) + 1e-6).all()

    # What is predicted must not be seen: the gradient of the prediction with respect to the pixels of a masked patch
    # is that of the target alone, of constant size.
    model_space = ENCODER.image.to_model(batch["image"])
    slopes = jax.grad(lambda v: loss(params, v).sum())(model_space)
    slopes = np.abs(np.asarray(patchify(slopes, (4, 4))))
    constant = (np.ptp(slopes, axis=2) < 1e-7) & (slopes.max(2) > 1e-7)
    assert constant.sum(1).tolist() == [8, 8, 8, 8]


def test_masks_depend_on_the_slot_alone(batch):
    params, key = stirred(MASKS.init), jax.random.key(1)
    whole = MASKS.losses(params, {}, batch, key)[0]["masked"][0]
    part = MASKS.losses(params, {}, {name: value[2:] for name, value in batch.items()}, key)[0]["masked"][0]
    np.testing.assert_allclose(whole[2:], part, rtol=1e-5)
    np.testing.assert_allclose(
        MASKS.encode(params, batch["image"]).pooled, MASKS.encode(params, batch["image"]).tokens.mean(1), rtol=1e-5
    )


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        uj.MaskedImages(ENCODER, 1.0)
    with pytest.raises(ValueError, match="distinct names"):
        uj.ImageClassifier(ENCODER, ())
    none = dataclasses.replace(ENCODER, network=VIT.clone(pool="none"))
    with pytest.raises(ValueError, match="a network with a vector"):
        uj.ImageClassifier(none, (uj.Label("shape", 3),))
    with pytest.raises(ValueError, match="whole patches"):
        uj.MaskedImages(uj.ImageEncoder(VIT, uj.Image(16, 16), dataclasses.replace(PLAIN, resize=18, side=18)))
