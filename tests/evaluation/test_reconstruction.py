"""Scores of reconstructions, against their formulas."""

import dataclasses

import numpy as np

import unified_jax as uj
from tests.helpers import MODEL
from unified_jax.evaluation.evaluate import scores_for
from unified_jax.evaluation.reconstruction import Reconstruction, psnr, ssim
from unified_jax.evaluation.scores import PixelFrechet, Samples
from unified_jax.models.autoencoding import Autoencoding
from unified_jax.networks.autoencoders.coder import Levels
from unified_jax.networks.autoencoders.kl import KlAutoencoder

LEVELS = Levels(widths=(4, 4), blocks=1, latents=2, groups=2, middle_attention=False)
MODEL_OF = uj.Autoencoder(Autoencoding(KlAutoencoder(LEVELS), (16, 16, 3)), uj.Image(16, 16))


def flat(value):
    return np.full((1, 16, 16, 3), value, np.uint8)


def test_psnr_and_ssim_are_those_of_their_formulas():
    assert np.allclose(psnr(flat(100), flat(110)), 20 * np.log10(25.5)) and psnr(flat(7), flat(7)) == 100
    c1 = (0.01 * 255) ** 2
    assert np.allclose(ssim(flat(100), flat(110)), (2 * 100 * 110 + c1) / (100**2 + 110**2 + c1))
    x = np.random.default_rng(0).integers(0, 256, (1, 11, 11, 1), np.uint8)
    y = 255 - x  # one window: its weights by hand
    w = np.exp(-(((np.arange(11) - 5) / 1.5) ** 2) / 2)
    w = np.outer(w, w) / w.sum() ** 2
    a, b = (np.sum(w * v[0, ..., 0]) for v in (x, y))
    s, t, st = (np.sum(w * (p[0, ..., 0] - p_) * (q[0, ..., 0] - q_)) for p, p_, q, q_ in
                ((x, a, x, a), (y, b, y, b), (x, a, y, b)))  # fmt: skip
    c2 = (0.03 * 255) ** 2
    expected = (2 * a * b + c1) * (2 * st + c2) / ((a * a + b * b + c1) * (s + t + c2))
    assert np.allclose(ssim(x, y), expected) and np.allclose(ssim(x, x), 1)


def test_a_reconstruction_is_compared_with_what_was_given_and_each_number_names_its_features():
    world = uj.World(resolution=16)
    assert [type(one) for one in scores_for((), world, MODEL_OF)] == [PixelFrechet, Reconstruction]
    assert Reconstruction().suits(world, MODEL) != ""
    truth = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    made = np.roll(truth, 1, axis=0)
    rows = {row["metric"]: row for row in Reconstruction()(Samples("test", MODEL_OF, {}, "image", truth, made))}
    assert set(rows) == {"psnr", "ssim", "random_perceptual", "reconstruction_frechet/random_perceptual"}
    assert (
        rows["psnr"]["low"] <= rows["psnr"]["value"] <= rows["psnr"]["high"] and rows["random_perceptual"]["value"] > 0
    )
    # the same pictures in another order: no distance between the sets, some between the pairs
    assert abs(rows["reconstruction_frechet/random_perceptual"]["value"]) < 1e-6
    same = Reconstruction()(Samples("test", MODEL_OF, {}, "image", truth, truth))
    assert {row["metric"]: row["value"] for row in same}["random_perceptual"] == 0
    assert dataclasses.replace(Reconstruction(), kind="alex").lpips == ""
