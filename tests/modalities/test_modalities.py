import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pillow

from unified_jax.modalities.base import Modality
from unified_jax.modalities.image import Image, sheet
from unified_jax.modalities.label import Label


@pytest.mark.parametrize("size", [(8, 8, 3, 2), (6, 10, 1, 2), (5, 15, 4, 5), (7, 3, 2, 1), (7, 5, 3, 4)], ids=str)
def test_unpatch_is_the_inverse_of_patches(size):
    image = Image(*size)
    x = jnp.arange(2 * np.prod(image.shape), dtype=jnp.float32).reshape(2, *image.shape)
    tokens = image.patches(x)
    assert tokens.shape == (2, image.tokens, image.patch_features)
    np.testing.assert_array_equal(image.unpatch(tokens), x)
    doubled = jnp.concatenate([x, -x], axis=-1)
    np.testing.assert_array_equal(image.unpatch(image.patches(doubled)), doubled)


def test_positions_run_row_by_row_with_the_patches():
    image = Image(4, 6, 1, 2)
    rows = jnp.broadcast_to(jnp.arange(4.0)[:, None, None] // 2, (4, 6, 1))[None]
    columns = jnp.broadcast_to(jnp.arange(6.0)[None, :, None] // 2, (4, 6, 1))[None]
    np.testing.assert_array_equal(image.positions()[:, 0], image.patches(rows)[0, :, 0])
    np.testing.assert_array_equal(image.positions()[:, 1], image.patches(columns)[0, :, 0])


def test_model_space_round_trip_is_exact():
    image = Image(16, 16, 1, 4)
    raw = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = image.to_model(jnp.asarray(raw))
    assert float(x.min()) == -1.0
    assert float(x.max()) == 1.0
    np.testing.assert_array_equal(image.from_model(x), raw)


def test_prepare_says_what_it_found():
    image = Image(4, 4, 1, 2)
    assert image.prepare(np.zeros((4, 4), np.uint8)).shape == (4, 4, 1)
    with pytest.raises(ValueError, match=r"expected uint8 \[4, 4, 1\], found float32 \[4, 4, 1\]"):
        image.prepare(np.zeros((4, 4, 1), np.float32))
    with pytest.raises(ValueError, match=r"found uint8 \[5, 4, 1\]"):
        image.prepare(np.zeros((5, 4, 1), np.uint8))
    with pytest.raises(ValueError, match="positive"):
        Image(28, 28, 1, 0)


def test_pictures_are_written(tmp_path):
    image = Image(8, 8, 1, 2)
    image.save(tmp_path / "one.png", np.full((8, 8, 1), 7, np.uint8))
    with Pillow.open(tmp_path / "one.png") as opened:
        assert np.asarray(opened).tolist() == [[[7, 7, 7]] * 8] * 8
    made = sheet(np.zeros((5, 8, 8, 3), np.uint8), titles=["a"] * 5)
    assert made.size[0] > 3 * 96


def test_labels():
    label = Label("shape", 3, ("circle", "square", "star"))
    assert isinstance(label, Modality)
    assert [int(label.prepare(v)) for v in (2, np.int64(1), b"star", "circle")] == [2, 1, 2, 0]
    assert int(Label("shape", 3, absent=True).prepare(3)) == label.null
    assert [label.parse(v) for v in ("1", "star")] == [1, 2]
    assert [label.title(i) for i in range(4)] == ["circle", "square", "star", "*"]
    for bad in ("7", "-1", "triangle", "1.5"):
        with pytest.raises(ValueError, match=r"^expected 0 .. 2 or one of circle, square, star"):
            label.parse(bad)
    for bad in (4, 3, -1, 1.5, b"ring"):
        with pytest.raises(ValueError, match="expected"):
            label.prepare(bad)
    with pytest.raises(ValueError, match="2 names"):
        Label("x", 3, ("a", "b"))
