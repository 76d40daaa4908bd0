"""From one resolution to another: positions between those that are known, and as much noise for a patch as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.small import weights
from unified_jax.layers.embeddings import scaled_positions, sincos_positions
from unified_jax.layers.form import Form
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.tuned import Tuning
from unified_jax.networks.dit import DiT
from unified_jax.networks.mdit import MaskedDiT
from unified_jax.networks.mdit_block import SPECIAL
from unified_jax.networks.uvit import UVit
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.times import shift_times
from unified_jax.runs.weight_transfer import plan_graft, resampled

SIZES = {"depth": 2, "width": 16, "heads": 2, "remat": "none"}


def model(network, side):
    return Diffusion(network, modality=Image(side, side, 1, patch=2), conditions=(Label("shape", 3),))


def test_positions_of_another_size_lie_between_those_of_the_grid():
    small, large = Form("x", (8, 8, 1), (2, 2), 1), Form("x", (16, 8, 1), (2, 2), 1)
    found = scaled_positions(large, (4, 4)).reshape(8, 4, 2)
    np.testing.assert_array_equal(found[:, 0, 0], np.arange(8) * 4 / 8)
    np.testing.assert_array_equal(found[0, :, 1], np.arange(4))
    same = scaled_positions(small, (4, 4))
    assert same.dtype == small.positions().dtype
    np.testing.assert_array_equal(same, small.positions())
    np.testing.assert_array_equal(scaled_positions(large, ()), large.positions())
    known = sincos_positions(jnp.asarray(small.positions()), 8).reshape(4, 4, 8)
    np.testing.assert_array_equal(sincos_positions(jnp.asarray(found), 8)[::2], known)


@pytest.mark.parametrize("rotary", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_dit_reads_scaled_positions(rotary):
    x = jnp.asarray(np.random.default_rng(0).normal(0, 1, (1, 16, 16, 1)), jnp.float32)
    outputs = []
    for grid in ((), (8, 8), (4, 4)):
        one = model(DiT(**{**SIZES, "depth": 1}, grid=grid, rotary=rotary), 16)
        params = weights(one)
        apply = jax.jit(
            lambda params, x, one=one: one.apply(
                params, one.process, x, jnp.asarray([0.5]), one.conditions_of({}, {}, 1)
            )[0]
        )
        outputs.append(np.asarray(apply(params, x)))
    np.testing.assert_array_equal(outputs[0], outputs[1])  # its own grid
    assert np.abs(outputs[0] - outputs[2]).max() > 1e-3


def test_a_linear_table_is_resampled_to_its_line():
    """Half-pixel centres: place i of n reads (i + 1/2) m / n - 1/2, and the edge beyond; other rows stay."""
    y, x = np.meshgrid(np.arange(4.0), np.arange(3.0), indexing="ij")
    table = np.concatenate([np.stack([y, x], axis=-1).reshape(12, 2), [[7.0, 8.0]]]).astype(np.float32)
    found = np.asarray(resampled(jnp.asarray(np.stack([table, 2 * table])), (4, 3), (8, 6)))
    rows = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    columns = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
    wanted = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(48, 2)
    np.testing.assert_allclose(found[0, :48], wanted, atol=1e-6)
    np.testing.assert_allclose(found[1], 2 * found[0], atol=1e-6)
    np.testing.assert_array_equal(found[0, 48:], [[7, 8]])


@pytest.mark.parametrize(
    "network", [UVit(**SIZES), MaskedDiT(**{**SIZES, "depth": 3}, decoders=1)], ids=["uvit", "mdit"]
)
def test_a_run_of_another_resolution_gives_its_positions(network):
    old, new = model(network, 8), model(network, 12)
    params, fresh = weights(old), weights(new)
    graft = plan_graft(old, new, Tuning())
    assert not graft.fresh and not graft.left
    assert "resampled: " in graft.tell()
    made = jax.jit(graft.apply)(params, fresh)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, fresh)
    name = "image_positions" if "image_positions" in params else "positions"
    grid = np.asarray(params[name]).reshape(4, 4, 16)
    places = np.clip((np.arange(6) + 0.5) * 4 / 6 - 0.5, 0, 3)
    across = np.asarray(made[name]).reshape(6, 6, 16)
    middle = np.stack(
        [[np.interp(places, range(4), row[:, i]) for i in range(16)] for row in grid]
    )  # rows x d x columns
    wanted = np.stack([[np.interp(places, range(4), middle[:, i, c]) for c in range(6)] for i in range(16)])
    np.testing.assert_allclose(across, wanted.transpose(2, 1, 0), atol=1e-5)
    if name == "positions":
        table, moved = (np.asarray(p["in_blocks"]["relative"]) for p in (params, made))
        assert table.shape[1:] == (49 + SPECIAL, 2) and moved.shape[1:] == (121 + SPECIAL, 2)
        np.testing.assert_allclose(moved[:, 60], table[:, 24], atol=1e-6)  # no offset stays no offset
        np.testing.assert_array_equal(moved[:, 121:], table[:, 49:])
    back = plan_graft(new, new, Tuning())
    assert "resampled" not in back.tell()


def test_the_shift_divides_the_signal_to_noise_ratio():
    t = np.linspace(0.05, 0.95, 7)
    flow = [(1 - u) / u for u in (t, shift_times(t, 2.0))]
    np.testing.assert_allclose(flow[1], flow[0] / 2, rtol=1e-12)
    one = DiscreteGaussian(steps=50, schedule="squared_cosine", target="v")
    two = DiscreteGaussian(steps=50, schedule="squared_cosine", target="v", shift=2.0)
    plain, shifted = one.alphas_cumprod, two.alphas_cumprod
    np.testing.assert_allclose(shifted, plain / (plain + 4 * (1 - plain)), rtol=1e-9)
    ratio = [np.sqrt(abar / (1 - abar)) for abar in (plain, shifted)]
    np.testing.assert_allclose(ratio[1], ratio[0] / 2, rtol=1e-9)
    dark = DiscreteGaussian(steps=50, schedule="squared_cosine", target="v", shift=2.0, zero_snr=True)
    assert dark.alphas_cumprod[-1] == 0 and np.isfinite(dark.betas).all()
    with pytest.raises(ValueError, match="shift must be positive"):
        DiscreteGaussian(shift=0.0)
