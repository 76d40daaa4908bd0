"""Inception's input: what each published mode makes of pictures, by hand."""

import numpy as np
import pytest

from unified_jax.evaluation.preprocessing import bilinear_matrix, prepare, resize_bilinear, resize_clean


def test_tensorflows_bilinear_reads_the_source_at_i_h_over_side():
    """No half pixel: output 0 is pixel 0, and the last outputs repeat the last pixel; pytorch's reads at its centre."""
    column = np.array([0, 100, 200], np.float32).reshape(1, 3, 1, 1)
    assert resize_bilinear(column, 6, half_pixel=False)[0, :, 0, 0].tolist() == [0, 50, 100, 150, 200, 200]
    assert resize_bilinear(column, 6, half_pixel=True)[0, :, 0, 0].tolist() == [0, 25, 75, 125, 175, 200]
    assert np.allclose(bilinear_matrix(7, 299, False).sum(1), 1)


def test_modes_differ_in_range_and_filter():
    flat = np.full((2, 5, 9, 1), 128, np.uint8)
    for mode, value in (("adm", 0.0), ("torch_fidelity", 0.0), ("clean", 0.0), ("pytorch_fid", 128 / 127.5 - 1)):
        made = prepare(flat, mode)
        assert made.shape == (2, 299, 299, 3) and np.allclose(made, value, atol=1e-5)
    edge = np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(16, axis=0).reshape(1, 16, 16, 1)
    sharp = resize_clean(np.repeat(edge, 3, axis=-1), 40)
    assert sharp.min() == 0 and sharp.max() == 255  # the bicubic overshoot is clipped, as the reference does
    with pytest.raises(ValueError, match="decode latents first"):
        prepare(np.zeros((1, 8, 8, 4), np.uint8), "adm")
