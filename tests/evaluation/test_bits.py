"""Bits/dim of networks that output zero, whose densities are known."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.helpers import MODEL
from unified_jax.data.world import World
from unified_jax.evaluation.bits import bits_per_dim
from unified_jax.evaluation.evaluate import bits_row
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian

DATA = World(resolution=16, max_objects=1)


def scored(process, **options):
    model = dataclasses.replace(MODEL, process=process)
    params = jax.jit(model.init)(jax.random.key(0))  # adaLN-Zero: the output is 0
    return bits_per_dim(model, params, DATA, "test", 10, 0, batch=4, **options)


def images():
    source = DATA.source("test")
    from unified_jax.data.pipeline import Pipeline

    rows = Pipeline(DATA, "test", MODEL.modalities, 10, 0).batch(0).arrays["image"]
    assert len(source) > 0
    return rows / 127.5 - 1


def test_no_velocity_is_the_prior_itself():
    """d x / d t = 0 carries the data to noise unchanged: p is N(0, 1), and so are the bits of 8-bit levels."""
    x = images().reshape(10, -1)
    want = (0.5 * x**2 + 0.5 * np.log(2 * np.pi)).mean(1) / np.log(2) + np.log2(127.5)
    np.testing.assert_allclose(scored(MODEL.process, steps=20), want, atol=0.02)


def test_edm_without_a_network_is_a_gaussian_of_the_data_deviation():
    """F = 0 leaves D = c_skip x, the optimal denoiser of N(0, sigma_data^2)."""
    x = images().reshape(10, -1)
    want = (0.5 * (x / 0.5) ** 2 + 0.5 * np.log(2 * np.pi) + np.log(0.5)).mean(1) / np.log(2) + np.log2(127.5)
    np.testing.assert_allclose(scored(Edm(sigma_data=0.5), steps=100), want, atol=0.05)


def test_a_chain_is_scored_by_its_bound():
    bits = scored(DiscreteGaussian(steps=50, variance="learned_range"))
    assert bits.shape == (10,)
    assert np.isfinite(bits).all()
    assert (bits > 1).all()
    row = bits_row(bits, MODEL, "test")
    assert row["low"] < row["value"] < row["high"]
    assert row["value"] == pytest.approx(bits.mean())
