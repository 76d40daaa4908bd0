"""Files and arrays of any size become one size: crops as ADM makes them, random ones shared, padding told."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.base import blanks
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.fitting import CROP, Draw, fit_array, fit_pillow
from unified_jax.modalities.image import Image
from unified_jax.modalities.points import Points
from unified_jax.modalities.reading import File
from unified_jax.modalities.video import Video

RNG = np.random.default_rng(0)


def generator(seed=0):
    return np.random.Generator(np.random.Philox(key=np.array([seed, 7], np.uint64)))


def centre_crop(picture, size):
    """The published crop: halve by box means while twice too large, scale the smaller side, cut whole pixels."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Pillow.Resampling.BOX)
    scale = size / min(picture.size)
    whole = tuple(round(side * scale) for side in picture.size)
    array = np.asarray(picture.resize(whole, Pillow.Resampling.BICUBIC))
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]


def file_of(picture, name="a.png", **options):
    stored = io.BytesIO()
    picture.save(stored, Pillow.registered_extensions()["." + name.split(".")[-1]], **options)
    return File(name, stored=stored.getvalue())


def ramp(height, width):
    """A picture whose colours are the places of its pixels, 0 .. 255 over each side."""
    y, x = (np.linspace(0, 255, side) for side in (height, width))
    return np.stack([*np.meshgrid(x, y), np.zeros((height, width))], axis=-1).astype(np.uint8)


def test_a_centre_crop_is_the_published_one():
    for _ in range(60):
        height, width = (int(side) for side in RNG.integers(5, 220, 2))
        size = int(RNG.integers(4, 70))
        array = RNG.integers(0, 256, (height, width, 3), np.uint8)
        image = Image(size, size, fit="center_crop")
        wanted = centre_crop(Pillow.fromarray(array), size).astype(int)
        assert np.abs(image.prepare(array) - wanted).max() <= 1, (height, width, size)
        file = file_of(Pillow.fromarray(array))
        np.testing.assert_array_equal(image.prepare(image.read(file)), image.prepare(array))
        np.testing.assert_array_equal(image.prepare(file), image.prepare(array))


def test_every_fit_gives_the_wanted_shape():
    tall = ramp(90, 40)
    for fit in ("resize", "center_crop", "random_crop"):
        for size in ((16, 32), (64, 64), (200, 10)):
            made = Image(*size, fit=fit).prepare(tall)
            assert made.shape == (*size, 3)
            across, down = made[..., 0], made[..., 1]
            covers = max(size[0] / 90, size[1] / 40)
            share = (1.0, 1.0) if fit == "resize" else (size[0] / 90 / covers, size[1] / 40 / covers)
            for seen, part, ends in ((down, share[0], (down[0], down[-1])), (across, share[1], across[:, [0, -1]].T)):
                assert np.ptp(seen.astype(int)) == pytest.approx(255 * part, abs=255 * 3 / min(size))
                assert ends[0].mean() + ends[1].mean() == pytest.approx(255, abs=30)
    with pytest.raises(
        ValueError, match=r"expected uint8 \[16, 16, 3\], found uint8 \[90, 40, 3\]; choose another fit"
    ):
        Image(16, 16).prepare(tall)
    narrow = Image(512, 512, fit="center_crop").prepare(np.zeros((1, 60000, 3), np.uint8))  # never made whole
    assert narrow.shape == (512, 512, 3)


def test_image_depth_and_film_of_a_record_are_cut_and_mirrored_alike():
    image = Image(64, 64, fit="random_crop", flip=True)
    depth = Depth(1, 32, 32, fit="random_crop", flip=True)
    film = Video(2, 16, 16, fit="random_crop", flip=True, start="random")
    picture = ramp(120, 200)
    frames = np.stack([picture[::2, ::2]] * 4) + np.arange(4, dtype=np.uint8)[:, None, None, None] * [0, 0, 1]
    flips, sides, starts = set(), [], set()
    for seed in range(24):
        record = {"image": file_of(Pillow.fromarray(picture)), "depth": picture[::2, ::2, 0] / 255, "other": 3}
        record["video"] = frames.astype(np.uint8)
        for modality in (image, depth, film):
            assert modality.varies
            record = modality.vary(record, generator(seed))
        made = image.prepare(record["image"]).astype(float)
        small = made.reshape(32, 2, 32, 2, 3).mean((1, 3))
        assert np.abs(depth.prepare(record["depth"])[0, ..., 0] * 255 - small[..., 0]).max() < 4
        shown = film.prepare(record["video"]).astype(float)
        assert np.abs(shown[0, ..., :2] - made.reshape(16, 4, 16, 4, 3).mean((1, 3))[..., :2]).max() < 6
        assert record["other"] == 3
        flips.add(bool(made[0, 0, 0] > made[0, -1, 0]))
        sides.append(np.ptp(made[..., 1]) / 255)
        starts.add(int(shown[0, 0, 0, 2]))
    assert flips == {False, True} and starts == {0, 1, 2}
    assert CROP[0] - 0.02 < min(sides) < 0.87 and 0.93 < max(sides) <= 1
    again = image.vary({"image": picture}, generator(3))["image"]
    np.testing.assert_array_equal(again, image.vary({"image": picture}, generator(3))["image"])
    assert (again != image.vary({"image": picture}, generator(4))["image"]).any()
    np.testing.assert_array_equal(image.prepare(picture), centre_crop(Pillow.fromarray(picture), 64))
    assert not Image(64, 64, fit="center_crop").varies and not Audio().varies


@pytest.mark.parametrize("size", [(30, 50), (100, 50), (7, 3)])
def test_padding_is_grey_and_told(size):
    picture = RNG.integers(0, 100, (*size, 3)).astype(np.uint8)
    image = Image(24, 24, fit="pad", flip=True)
    assert image.pads and {n: a.shape for n, a in blanks(image).items()} == {
        "image": (24, 24, 3),
        "image.inside": (2, 2),
    }
    made = image.prepare(image.vary({"image": picture}, generator(1))["image"])
    (top, bottom), (left, right) = made["image.inside"]
    assert made["image.inside"].dtype == np.int32
    assert max(bottom - top, right - left) == 24 and abs(top - (24 - bottom)) <= 1 and abs(left - (24 - right)) <= 1
    assert (bottom - top) / (right - left) == pytest.approx(size[0] / size[1], rel=0.15)
    inside = np.zeros((24, 24), bool)
    inside[top:bottom, left:right] = True
    assert (made["image"][~inside] == 128).all() and (made["image"][inside] < 120).mean() > 0.95
    depth = Depth(2, 24, 24, fit="pad").prepare(picture[None, ..., :1].astype(np.float32) / 255)
    assert depth["depth.inside"].tolist() == [[0, 1], [top, bottom], [left, right]]
    assert (depth["depth"][1] == 0.5).all() and (depth["depth"][0][~inside] == 0.5).all()


def test_pictures_of_every_kind_are_read_at_their_own_size():
    grey16 = Pillow.fromarray(np.linspace(0, 65535, 60).reshape(6, 10).astype(np.uint16))
    image, depth = Image(4, 4), Depth(1, 4, 4)
    assert image.read(file_of(grey16)).shape == (6, 10, 3) and image.read(file_of(grey16))[-1, -1, 0] == 255
    assert depth.read(file_of(grey16)).shape == (1, 6, 10, 1)
    assert len(np.unique(depth.read(file_of(grey16)))) == 60
    clear = Pillow.new("RGBA", (10, 6), (255, 0, 0, 0))
    assert (image.read(file_of(clear)) == 255).all() and Image(4, 4, 1).read(file_of(clear)).shape == (6, 10, 1)
    exif = Pillow.Exif()
    exif[0x112] = 6
    turned = file_of(Pillow.fromarray(ramp(6, 10)), "a.jpg", exif=exif, quality=98)
    assert image.read(turned).shape == (10, 6, 3)
    with pytest.raises(ValueError, match="it cannot be read as an image"):
        image.read(File("a.png", stored=b"no picture"))
    with pytest.raises(ValueError, match=r"expected distances in \[0, 1\], found"):
        Depth(1, 4, 4, fit="resize").prepare(np.full((9, 9), 1200.0))


def test_a_modality_that_only_loads_reads_files_of_data_sets_too(tmp_path):
    table = "\n".join(f"0.{i},0.5" for i in range(4))
    (tmp_path / "a.csv").write_text(table)
    action, record = Action(4), {"action": 1}
    for file in (File("a.csv", tmp_path / "a.csv"), File("inner/a.csv", stored=table.encode())):
        np.testing.assert_allclose(action.prepare(action.read(file))[:, 0], [0, 0.1, 0.2, 0.3], atol=1e-6)
    assert not action.varies and not action.pads and action.vary(record, generator()) is record
    box = "OFF\n4 2 0\n0 0 0\n2 0 0\n0 2 0\n2 2 0\n3 0 1 2\n3 1 2 3\n"
    assert Points(8, 3, 4).read(File("box.OFF", stored=box.encode())).shape == (8, 3)
    with pytest.raises(ValueError, match=r"found '.txt'"):
        Points(8, 3, 4).read(File("box.txt", stored=b"1 2 3"))


def test_a_file_is_given_by_the_same_fit(tmp_path):
    Pillow.fromarray(ramp(60, 100)).save(tmp_path / "a.png")
    image = Image(32, 32, fit="center_crop")
    wanted = centre_crop(Pillow.fromarray(ramp(60, 100)), 32)
    np.testing.assert_array_equal(image.prepare(image.load(tmp_path / "a.png")), wanted)
    with pytest.raises(ValueError, match="proportions"):
        Image(32, 32).load(tmp_path / "a.png")


def test_a_draw_is_five_numbers_and_cuts_within_the_picture():
    array = RNG.integers(0, 256, (33, 57, 1), np.uint8)
    for numbers in ((0.0,) * 5, (0.999999,) * 5, (0.5, 0.0, 0.999999, 0.999999, 0.0)):
        assert fit_array(array, (16, 16), "random_crop", Draw(*numbers)).shape == (16, 16, 1)


def test_grey_arrays_become_colours_as_grey_files_do_but_not_where_exactly_one_shape_is_asked_for() -> None:
    grey = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28, 1)
    image = Image(32, 32, 3, fit="center_crop")
    made = image.prepare(grey)
    assert made.shape == (32, 32, 3)
    np.testing.assert_array_equal(made[..., 0], Image(32, 32, 1, fit="center_crop").prepare(grey)[..., 0])
    np.testing.assert_array_equal(made[..., 1:], made[..., :2])
    with pytest.raises(ValueError, match=r"expected uint8 \[28, 28, 3\]"):
        Image(28, 28, 3).prepare(grey)


def test_a_centre_crop_that_scales_only_what_it_keeps_equals_the_whole_scaled_and_cut_to_one_level() -> None:
    rng = np.random.default_rng(0)
    for size in ((300, 421), (421, 300), (500, 1030), (90, 330), (700, 260), (71, 70)):
        picture = Pillow.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        found = np.asarray(fit_pillow(picture, (64, 64), "center_crop")).astype(int)
        apart = np.abs(found - centre_crop(picture, 64).astype(int))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 2e-3
