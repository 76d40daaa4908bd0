"""Crops that are told: the numbers are where a picture was cut, and a text that names a side keeps it unmirrored."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.models.small import Spy, batch_of, spied_losses, spied_samples
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError
from unified_jax.modalities.crop import Crop
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.draws import Draw, names_side
from unified_jax.modalities.image import Image
from unified_jax.modalities.reading import File
from unified_jax.models.diffusion import Diffusion
from unified_jax.samplers.guidance import Guidance

RNG = np.random.default_rng(0)


def ramp(height, width):
    """A picture whose red and green are the column and the row, in shares of 255 pixels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("fit", ["center_crop", "random_crop"])
@pytest.mark.parametrize("sizes", [(60, 100), (100, 60), (130, 250)])
def test_the_numbers_say_where_the_picture_begins(fit, sizes):
    image = Image(40, 40, 3, 4, fit=fit, flip=True, crop=(0.5, 1.0))
    crop, raw = Crop(image, unit="pixel", mirror=True), ramp(*sizes)
    for _ in range(12):
        drawn = Draw(*RNG.random(5).tolist()) if fit == "random_crop" else None
        height, width, top, left, turned = crop.told(sizes, drawn)
        assert (height, width) == sizes
        cut = image.fitted(raw, drawn).astype(float)
        assert turned == (drawn is not None and drawn.flip < 0.5)
        columns, rows = cut[20, 5:35, 0], cut[5:35, 20, 1]  # away from edges a pixel shows its place in the record
        scale = np.polyfit(np.arange(30), rows, 1)[0]  # of the record to the whole, in which the numbers count
        assert abs((top + 20) * scale - 0.5 - rows.mean()) < 1.3
        across = width - 1 - columns if turned else columns  # in the mirrored whole
        assert abs((left + 20) * scale - 0.5 - across.mean()) < 1.3


def test_the_numbers_are_relative_and_default_to_the_whole():
    image = Image(32, 16, 3, 4, fit="center_crop")
    crop = Crop(image)
    assert crop.blank().tolist() == [1, 1, 0, 0]
    assert crop.derive({"image": ramp(64, 16)}).tolist() == [2, 1, 0.5, 0]
    stored = io.BytesIO()
    Pillow.fromarray(ramp(64, 16)).save(stored, "PNG")
    assert crop.derive({"image": File("a.png", stored=stored.getvalue())}).tolist() == [2, 1, 0.5, 0]
    assert Crop(image, unit="pixel").blank().tolist() == [32, 16, 0, 0]
    resized = dataclasses.replace(image, fit="resize")
    assert Crop(resized).derive({"image": ramp(64, 16)}).tolist() == [2, 1, 0, 0]
    assert crop.parse("1 1 0 0.5").tolist() == [1, 1, 0, 0.5]


class Pictures:
    """Pictures of several sizes with texts, some of which name a side; no field tells their crops."""

    name = "pictures"

    def parts(self, split, fields):
        assert set(fields) <= {"image", "depth"}
        return ((1.0, "pictures", self),)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        text = "a cat on the Left" if index % 2 else "a cat with bright, copyrighted fur"
        record = {"image": ramp(50 + index, 80), "caption": text, "index": index}
        return record | {"depth": np.linspace(0, 1, 80, dtype=np.float32)[None].repeat(50 + index, 0)}


def test_a_batch_tells_the_crop_of_its_image():
    image = Image(24, 24, 3, 4, fit="random_crop", flip=True)
    crop = Crop(image, unit="pixel", mirror=True)
    varied = Pipeline(Pictures(), "train", (image, crop), 8, 0, vary=True)
    one, again = varied.batch(3), varied.batch(3)
    np.testing.assert_array_equal(one.arrays["crop"], again.arrays["crop"])
    for picture, told, number in zip(one.arrays["image"], one.arrays["crop"], one.ids, strict=True):
        columns = picture[12, :, 0].astype(float)
        assert told[:2].tolist() == [50 + int(number), 80]
        assert told[4] == (columns[20] < columns[4])
        scale = abs(columns[20] - columns[4]) / 16
        middle = 79 - columns[12] if told[4] else columns[12]
        assert abs((told[3] + 12.5) * scale - 0.5 - middle) < 1.5
    plain = Pipeline(Pictures(), "train", (image, crop), 8, 0).batch(3).arrays["crop"]
    assert (plain[:, 4] == 0).all()
    assert (one.arrays["crop"][:, 2:4] != plain[:, 2:4]).any()


def test_a_text_that_names_a_side_is_not_mirrored():
    image = Image(24, 24, 3, 4, fit="center_crop", flip=True, sides=("left", "right"))
    depth = Depth(1, 24, 24, fit="center_crop", flip=True, sides=("left", "right"))
    pipeline = Pipeline(Pictures(), "train", (image, depth), 8, 0, vary=True)
    turned = {True: [], False: []}
    for step in range(8):
        batch = pipeline.batch(step)
        for picture, map_, number in zip(batch.arrays["image"], batch.arrays["depth"], batch.ids, strict=True):
            mirrored = int(picture[12, 20, 0]) < int(picture[12, 4, 0])
            assert mirrored == bool(map_[0, 12, 20, 0] < map_[0, 12, 4, 0])
            turned[bool(number % 2)].append(mirrored)
    assert not any(turned[True])
    assert 0.25 < np.mean(turned[False]) < 0.75
    assert names_side({"caption": b"RIGHT-handed"}, ("right",))
    assert names_side({"caption": File("a.txt", stored=b"to the left\n")}, ("left",))
    assert not names_side({"caption": "upright, leftover", "image": ramp(4, 4)}, ("left", "right"))
    other = dataclasses.replace(depth, sides=())
    with pytest.raises(UserError, match="mirrored together need the same `sides`"):
        Pipeline(Pictures(), "train", (image, other), 8, 0, vary=True)


def test_sampling_is_told_the_whole_unless_it_is_given():
    image = Image(4, 4, 1, 2, fit="random_crop")
    model = Diffusion(Spy(), modality=image, conditions=(Crop(image),), drop_all=0.0)
    told = [np.asarray(shown["crop"].value) for _, shown in spied_samples(model, {}, ("image",), 2, 2)[0]]
    assert all((value == [1, 1, 0, 0]).all() for value in told)
    given = {"crop": np.asarray([[2, 2, 0.5, 0]] * 2, np.float32)}
    for _, shown in spied_samples(model, given, ("image",), 2, 2, Guidance(3.0))[0]:
        np.testing.assert_array_equal(shown["crop"].value, given["crop"])  # guidance leaves it in its place
    every = dataclasses.replace(model, drop_all=1.0)
    batch = batch_of(every, 3)
    assert (np.asarray(batch["crop"]) != [1, 1, 0, 0]).any()
    np.testing.assert_array_equal(spied_losses(every, batch)[1]["crop"].value, batch["crop"])


def test_a_crop_of_another_image_is_refused():
    image = Image(4, 4, 1, 2, fit="random_crop")
    with pytest.raises(ValueError, match="a field is one modality"):
        Diffusion(Spy(), modality=image, conditions=(Crop(dataclasses.replace(image, fit="center_crop")),))
    with pytest.raises(ValueError, match="told before the model mirrors"):
        Diffusion(Spy(), modality=image, conditions=(Crop(image),), flip=True)
