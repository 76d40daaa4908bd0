"""Features of a frozen encoder as latents: the decoder alone is trained, and its run is a latent space."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import EXPERIMENT, stirred
from unified_jax.interop import files
from unified_jax.interop.names import flatten
from unified_jax.models.autoencoders.model import DRAW
from unified_jax.models.feature_latents import FeatureAutoencoder, FeatureCoding, FeatureDecoder, Features, time_shift
from unified_jax.runs.loop import train
from unified_jax.runs.start import Start

HALF = uj.Preprocessing(16, 16, False, "cubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
VIT = uj.Vit(16, 8, width=6, depth=1, heads=2, hidden=8, activation="gelu", patch_bias=True, first_norm=False)
ENCODER = uj.MaskedImages(uj.ImageEncoder(VIT, uj.Image(16, 16), HALF))
STAGE = uj.Stage("features", ENCODER, "features.safetensors")
DECODER = FeatureDecoder(patch=8, width=8, depth=1, heads=2)
CODER = FeatureCoding(DECODER, (16, 16, 3), encoder=STAGE, noise=0.8)
MODEL = FeatureAutoencoder(CODER, uj.Image(16, 16), (uj.autoencoders.Pixels(),))


@pytest.fixture(scope="module")
def params():
    return {**stirred(MODEL.init), "stages": {"features": stirred(ENCODER.init)}}


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    return {"image": jnp.asarray(images), "slot": jnp.arange(4, dtype=jnp.int32)}


def test_the_decoder_reads_noised_features_of_the_frozen_encoder(params, batch):
    key = jax.random.key(1)

    def loss(p):
        term = MODEL.losses(p, {}, batch, key)[0]["l1"][0]
        return term.sum(), term

    slope, term = jax.jit(jax.grad(loss, has_aux=True))(params)
    x = batch["image"] / 127.5 - 1
    z = ENCODER.encode(params["stages"]["features"], x).map
    assert z.shape == (4, *CODER.latent_shape()) == (4, 2, 2, 6)
    keys = [jax.random.fold_in(jax.random.fold_in(key, slot), DRAW) for slot in range(4)]
    pairs = [jax.random.split(k) for k in keys]
    noise = jnp.stack([0.8 * jax.random.uniform(a) * jax.random.normal(b, (2, 2, 6)) for a, b in pairs])
    y = DECODER.apply({"params": uj.models.stages.own(params)}, z + noise, method="decode")
    np.testing.assert_allclose(term, jnp.abs(y - x).mean((1, 2, 3)), rtol=1e-4)
    slope = flatten(slope)
    assert max(float(jnp.abs(g).max()) for name, g in slope.items() if name.startswith("stages/")) == 0
    assert min(float(jnp.abs(g).max()) for name, g in slope.items() if not name.startswith("stages/")) > 0


def test_each_picture_has_a_noise_level_of_its_own_and_a_finished_coder_has_none():
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = Features(jnp.zeros((400, 4, 4, 6)), 0.8).draw(keys)
    levels = np.asarray(drawn).std(axis=(1, 2, 3))
    assert 0.75 < levels.max() < 1.0 and levels.min() < 0.05 and levels.mean() == pytest.approx(0.4, abs=0.03)
    assert MODEL.serves() == dataclasses.replace(CODER, noise=0.0)
    assert not np.any(Features(jnp.zeros((2, 2, 2, 6)), 0.0).draw(keys[:2]))


def test_the_shift_is_one_for_4096_numbers():
    assert time_shift((16, 16, 16)) == 1.0
    assert time_shift((16, 16, 768)) == pytest.approx(6.928, abs=1e-3)


@pytest.mark.nightly
def test_its_run_is_a_latent_space(tmp_path, one_device):
    files.write(tmp_path / "features.safetensors", flatten(jax.device_get(stirred(ENCODER.init))), {})
    stage = dataclasses.replace(STAGE, source=str(tmp_path / "features.safetensors"))
    model = dataclasses.replace(MODEL, coder=dataclasses.replace(CODER, encoder=stage))
    e = dataclasses.replace(
        EXPERIMENT, model=model, steps=3, preview=uj.Previews(every=0), validation=uj.Validation(every=0)
    )  # fmt: skip
    train(e, Start(tmp_path / "rae", quiet=True))
    space = uj.Latents(uj.stage("rae", tmp_path / "rae"), patch=1)
    assert space.model.noise == 0.0
    denoiser = uj.Diffusion(
        uj.DiT(depth=1, width=8, heads=2, remat="none"), modality=uj.Image(16, 16), latents=space,
        process=uj.RectifiedFlow(times=uj.times.LogitNormalTimes(shift=time_shift(space.shape, 6))),
    )  # fmt: skip
    train(dataclasses.replace(e, model=denoiser), Start(tmp_path / "dit", quiet=True))
    (tmp_path / "features.safetensors").unlink()
    made = uj.load(tmp_path / "dit").sample(count=2)["image"]
    assert made.shape == (2, 16, 16, 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="needs an encoder: there is none"):
        FeatureCoding(DECODER, (16, 16, 3))
    with pytest.raises(ValueError, match=r"makes \[8, 8, 3\] of features, expected the data's \[16, 16, 3\]"):
        dataclasses.replace(CODER, network=DECODER.clone(patch=4))
    with pytest.raises(ValueError, match="trains a FeatureCoding, found Autoencoding"):
        plain = uj.Autoencoding(uj.autoencoders.KlAutoencoder(uj.autoencoders.Levels(widths=(32, 32))), (16, 16, 3))
        FeatureAutoencoder(plain, uj.Image(16, 16), (uj.autoencoders.Pixels(),))
