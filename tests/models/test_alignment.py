"""Alignment with a teacher: the term by hand, what it moves, and what it leaves as it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import stirred
from unified_jax.interop.names import flatten
from unified_jax.models.alignment import ALIGNMENT, Alignment
from unified_jax.models.denoising import FLIP
from unified_jax.models.stages import own

HALF = uj.Preprocessing(8, 8, False, "cubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
VIT = uj.Vit(8, 4, width=6, depth=1, heads=2, hidden=8, activation="gelu", patch_bias=True, first_norm=False)
TEACHER = uj.MaskedImages(uj.ImageEncoder(VIT, uj.Image(8, 8), HALF))
ALIGN = Alignment(uj.Stage("teacher", TEACHER, "teacher.safetensors"), layer=2, weight=0.5, hidden=5)
PLAIN = uj.Diffusion(
    uj.DiT(depth=3, width=8, heads=2, remat="none"), modality=uj.Image(8, 8, patch=4), flip=True,
    conditions=(uj.Label("label", 3),),
)  # fmt: skip
MODEL = dataclasses.replace(PLAIN, align=ALIGN)


@pytest.fixture(scope="module")
def params():
    return {**stirred(MODEL.init), "stages": {"teacher": stirred(TEACHER.init)}}


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.asarray([0, 1, 2, 1]), "slot": jnp.arange(4, dtype=jnp.int32)}


def losses(model, params, batch):
    return jax.jit(lambda p, b: model.losses(p, {}, b, jax.random.key(1))[0])(params, batch)


def test_the_term_is_half_the_mean_negative_cosine_of_the_clean_mirrored_picture(params, batch):
    term, weight = losses(MODEL, params, batch)[ALIGNMENT]
    slots = [jax.random.fold_in(jax.random.key(1), i) for i in range(4)]
    turned = np.asarray([bool(jax.random.bernoulli(jax.random.fold_in(s, FLIP))) for s in slots])
    assert 0 < turned.sum() < 4
    images = np.where(turned[:, None, None, None], batch["image"][:, :, ::-1], batch["image"])
    y = np.asarray(TEACHER.encode(params["stages"]["teacher"], jnp.asarray(images)).tokens)
    seen = {}
    bare = dataclasses.replace(PLAIN)
    object.__setattr__(bare, "align", dataclasses.replace(ALIGN))

    def caught(p, noisy, conditions, capture=()):
        found = PLAIN.call(p, noisy, conditions, ("block/1",))
        seen["h"] = found[1]["block/1"]
        return found

    object.__setattr__(bare, "call", caught)
    h = np.asarray(jax.jit(lambda p: (bare.losses(p, {}, batch, jax.random.key(1)), seen["h"])[1])(params))
    p = jax.tree.map(np.asarray, params[ALIGNMENT])
    silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731
    for name in ("fc1", "fc2"):
        h = silu(h @ p[name]["kernel"] + p[name]["bias"])
    h = h @ p["fc3"]["kernel"] + p["fc3"]["bias"]
    cosines = (h * y).sum(-1) / np.linalg.norm(h, axis=-1) / np.linalg.norm(y, axis=-1)
    np.testing.assert_allclose(term, -0.5 * cosines.mean(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(weight, np.ones(4))


def test_the_gradient_reaches_the_first_blocks_and_the_projector_alone(params, batch):
    slope = jax.jit(jax.grad(lambda p: MODEL.losses(p, {}, batch, jax.random.key(1))[0][ALIGNMENT][0].sum()))(params)
    moved = {name: np.asarray(jnp.abs(g).max()) for name, g in flatten(slope).items()}
    assert max(v for n, v in moved.items() if n.startswith("stages/")) == 0
    assert min(v for n, v in moved.items() if n.startswith(ALIGNMENT)) > 0
    by_block = np.abs(np.asarray(slope["blocks"]["mlp"]["fc1"]["kernel"])).max(axis=(1, 2))
    assert (by_block > 0).tolist() == [True, True, False]
    assert moved["final/kernel"] == 0


def test_without_a_weight_it_is_the_plain_model(params, batch):
    zero = dataclasses.replace(PLAIN, align=dataclasses.replace(ALIGN, weight=0.0))
    assert zero.stages == () == PLAIN.stages
    assert MODEL.stages == (ALIGN.teacher,)
    fresh, plain = (jax.eval_shape(m.init, jax.random.key(0)) for m in (zero, PLAIN))
    assert flatten(fresh).keys() == flatten(plain).keys()
    found = jax.make_jaxpr(lambda p, b: zero.losses(p, {}, b, jax.random.key(1)))(own(params), batch)
    assert str(found) == str(jax.make_jaxpr(lambda p, b: PLAIN.losses(p, {}, b, jax.random.key(1)))(own(params), batch))


@pytest.mark.nightly
def test_the_network_and_its_loss_are_those_of_the_plain_model(params, batch):
    key = jax.random.key(3)
    aligned, plain = (jax.jit(m.init)(key) for m in (MODEL, PLAIN))
    assert set(aligned) - set(plain) == {ALIGNMENT}
    same = jax.tree.map(np.array_equal, {n: v for n, v in aligned.items() if n != ALIGNMENT}, plain)
    assert all(jax.tree.leaves(same))
    np.testing.assert_allclose(
        losses(MODEL, params, batch)["mse"][0], losses(PLAIN, own(params), batch)["mse"][0], rtol=1e-5
    )


def test_a_teacher_of_another_grid_is_resized_and_one_of_other_tokens_refused(params, batch):
    fine = dataclasses.replace(MODEL, modality=uj.Image(8, 8, patch=2))
    shapes = jax.eval_shape(fine.init, jax.random.key(0)) | {"stages": params["stages"]}
    found = jax.eval_shape(lambda p, b: fine.losses(p, {}, b, jax.random.key(1))[0], shapes, batch)
    assert found[ALIGNMENT][0].shape == (4,)
    tokens = dataclasses.replace(fine, align=dataclasses.replace(ALIGN, part="tokens"))
    with pytest.raises(ValueError, match="'teacher' has 4 tokens, the network 16"):
        jax.eval_shape(lambda p, b: tokens.losses(p, {}, b, jax.random.key(1))[0], shapes, batch)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"reads tokens after block 4; DiT has 3"):
        dataclasses.replace(MODEL, align=dataclasses.replace(ALIGN, layer=4))
    coder = uj.Autoencoding(uj.autoencoders.KlAutoencoder(uj.autoencoders.Levels(widths=(32, 32))), (8, 8, 3))
    held = uj.Latents(uj.Stage("coder", coder, "x"), patch=2, cached=True)
    with pytest.raises(ValueError, match="a batch of cached latents holds none"):
        dataclasses.replace(MODEL, latents=held, flip=False)
    with pytest.raises(ValueError, match="encodes nothing"):
        Alignment(uj.Stage("teacher", PLAIN, "x"))
    with pytest.raises(ValueError, match="a weight that is not negative"):
        dataclasses.replace(ALIGN, weight=-1.0)
