"""Spectra against closed forms: waves, noise, Parseval; and the command against the definition, by a matrix."""

import json

import jax
import numpy as np
import pytest

import unified_jax as uj
from unified_jax.cli import probe
from unified_jax.cli.entry import run_command
from unified_jax.data.pipeline import Pipeline
from unified_jax.evaluation.probes.spectrum import block_energies, spectrum, upper_third, zigzag
from unified_jax.runs.adapters import write_run

DRAW = np.random.default_rng(0)


def cosines(b):
    """Rows are the vectors of the orthonormal DCT-II."""
    x, u = np.arange(b), np.arange(b)[:, None]
    return np.where(u == 0, np.sqrt(1 / b), np.sqrt(2 / b)) * np.cos((2 * x + 1) * u * np.pi / (2 * b))


def test_a_wave_has_its_frequency_alone():
    wave = np.outer(cosines(8)[5], cosines(8)[2])
    signs = np.asarray([1.0, -1.0, 3.0, -3.0])[:, None, None, None]  # so that the set's mean is 0
    whole = np.tile(wave, (2, 3))[None, :, :, None] * signs
    found = spectrum(block_energies(whole, 8))
    expected = np.zeros((8, 8))
    expected[5, 2] = 1.0
    np.testing.assert_allclose(found.energy, expected, atol=1e-12)
    assert found.high == pytest.approx(0.0, abs=1e-12)
    assert spectrum(block_energies(np.swapaxes(whole, 1, 2), 8)).energy[2, 5] == pytest.approx(1.0)


def test_energies_are_those_of_the_numbers_less_the_mean_of_their_channel():
    x = DRAW.normal(size=(6, 8, 12, 2)) + np.asarray([100.0, -7.0])
    energies = block_energies(x, 4)
    np.testing.assert_allclose(energies.mean(0).sum(), 16 * x.var(axis=(0, 1, 2)).mean(), rtol=1e-10)  # Parseval
    np.testing.assert_allclose(block_energies(np.pad(x, ((0, 0), (0, 3), (0, 1), (0, 0)), "edge"), 4).shape, (6, 4, 4))


def test_white_noise_is_flat_and_the_interval_covers_its_share():
    share, inside = upper_third(8).mean(), 0
    for seed in range(200):
        found = spectrum(block_energies(np.random.default_rng(seed).normal(size=(40, 8, 8, 1)), 8))
        inside += found.low_end <= share <= found.high_end
    assert 180 <= inside <= 198  # 95 % of 200, less for the small sets


def test_what_has_no_spectrum_is_refused():
    for x, block in ((np.zeros((2, 8, 8, 1)), 8), (DRAW.normal(size=(1, 8, 8, 1)), 8), (np.ones((2, 4, 4, 1)), 8)):
        with pytest.raises(ValueError, match=r"spectrum is of two arrays|Blocks of 8"):
            spectrum(block_energies(x, block))
    assert sorted(zigzag(4).tolist()) == list(range(16))


def test_the_command_measures_an_autoencoder(tmp_path, capsys):
    ae = uj.autoencoders
    coder = uj.Autoencoding(ae.KlAutoencoder(ae.Levels(latents=2, widths=(4, 4), blocks=1, groups=2)), (16, 16, 3))
    image, data = uj.Image(16, 16), uj.World(resolution=16)
    made = uj.Experiment(model=uj.Autoencoder(coder, image, (ae.Pixels("l2"),)), data=data, batch_size=4)
    params, run = jax.jit(made.model.init)(jax.random.key(0)), tmp_path / "run"
    write_run(run, made, params, {})
    assert run_command(probe.main, ["spectrum", "--run", str(run), "--count", "6", "--batch", "4"]) == 0
    found = json.loads((run / "probes" / "spectrum.json").read_text())
    pipeline = Pipeline(data, "test", (image,), 4, 0)
    x = np.concatenate([pipeline.batch(i).arrays["image"] for i in range(2)])[:6] / 127.5 - 1
    blocks = (x - x.mean((0, 1, 2))).reshape(6, 2, 8, 2, 8, 3)
    energy = np.square(np.einsum("ux,nixjyc,vy->nicjuv", cosines(8), blocks, cosines(8))).mean((0, 1, 2, 3))
    np.testing.assert_allclose(found["spectra"]["pictures"]["energy"], energy / energy.sum(), rtol=1e-4, atol=1e-7)
    assert set(found["spectra"]) == {"pictures", "latents", "reconstructions"} and found["block"] == 8
    assert np.isfinite(found["psnr"]) and (run / "probes" / "spectrum.png").exists()
    assert run_command(probe.main, ["spectrum", "--run", str(run), "--block", "1"]) == 2
    assert "--count and --block are at least 2" in capsys.readouterr().err
