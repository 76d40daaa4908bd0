"""What we write we can read: every modality in every format that it writes, and films with every frame they had."""

import numpy as np
import pytest
from PIL import Image as Pillow

from unified_jax.errors import UserError
from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.files import frame_counts
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.mel import Mel
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.modalities.video import Video
from unified_jax.runs.outputs import check_formats

SOUND = Audio(600, Mel(rate=8000, n_fft=256, hop=64, mels=16), (2, 4))
WRITTEN = [
    (Image(9, 14, 3, 4), ".png", 0),
    (Image(9, 14, 1, 4), ".png", 0),
    (Video(5, 9, 12, 3, (1, 4, 4)), ".gif", 0),
    (Video(5, 9, 12, 1, (1, 4, 4)), ".gif", 0),
    (Video(1, 9, 12, 3, (1, 4, 4)), ".gif", 0),
    (Depth(1, 7, 8, (1, 4, 4)), ".png", 1e-5),
    (Depth(4, 7, 8, (2, 4, 4)), ".tif", 1e-5),
    (SOUND, ".wav", 1 / 32767),
    (Points(48, 6, 16), ".ply", 2.1e-3),
    (Points(48, 3, 16), ".ply", 1e-6),
    (Points(48, 6, 16), ".glb", 2.1e-3),
    (Action(15, 2, 4), ".csv", 6e-6),
    (Action(15, 3, 4), ".csv", 6e-6),
]


def examples(modality):
    """The least, the greatest and random examples, and one that changes nowhere."""
    blank, rng = modality.blank(), np.random.default_rng(0)
    top = 255 if blank.dtype == np.uint8 else 1
    for seed in range(3):
        yield (rng.random(blank.shape) * (top + (top == 255)) * (seed + 1) / 3).astype(blank.dtype)
    if not isinstance(modality, Points):  # whose points lie apart
        yield blank
        yield np.full_like(blank, top)
        yield np.full_like(blank, top / 3)


@pytest.mark.parametrize(("modality", "suffix", "tolerance"), WRITTEN, ids=lambda v: str(v)[:40])
def test_what_is_written_is_read(tmp_path, modality, suffix, tolerance):
    assert suffix in (modality.suffix, ".glb")
    for example in examples(modality):
        example = modality.prepare(example)
        modality.save(tmp_path / f"a{suffix}", example)
        back = modality.prepare(modality.load(tmp_path / f"a{suffix}"))
        np.testing.assert_allclose(back.astype(float), example.astype(float), atol=tolerance, rtol=0)


@pytest.mark.parametrize("text", ["a red ring", "zwei grüne Ringe 漢字", "two\nlines", "x" * 90, "'\"\t#"])
def test_written_texts_are_read(tmp_path, text):
    Text().save(tmp_path / "a.txt", text)
    assert Text().load(tmp_path / "a.txt") == text


def test_written_labels_are_read(tmp_path):
    for label in (Label("shape", 3, ("ring", "a star", "étoile")), Label("digit", 12)):
        for i in range(label.classes):
            label.save(tmp_path / "a.txt", i)
            assert int(label.prepare(label.load(tmp_path / "a.txt"))) == i
        label.save(tmp_path / "a.txt", -1)
        with pytest.raises(ValueError, match=r"expected 0 .. .*, found '\*'"):
            label.load(tmp_path / "a.txt")


def still(change):
    film = np.full((8, 16, 16, 3), 100, np.uint8)
    change(film)
    return film


FILMS = {
    "still": still(lambda f: None),
    "half still": still(lambda f: f[4:].fill(200)),
    "a level of a pixel": still(lambda f: f[:, 3, 5, 1].__iadd__(np.arange(8, dtype=np.uint8))),
    "back and forth": still(lambda f: f[::2].fill(7)),
}


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("rate", [1.0, 16.0, 30.0, 100.0])
def test_a_film_comes_back_frame_by_frame(tmp_path, name, rate):
    film = FILMS[name]
    Video(8, 16, 16, rate=rate).save(tmp_path / "a.gif", film)
    with Pillow.open(tmp_path / "a.gif") as file:
        assert file.n_frames == 8
        assert abs(file.info["duration"] - 1000 / rate) <= 5
        assert file.info["loop"] == 0
    np.testing.assert_array_equal(Video(8, 16, 16, rate=5.0).load(tmp_path / "a.gif"), film)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_a_frame_that_lasts_longer_counts_more_often(tmp_path, suffix):
    frames = [Pillow.new("RGB", (16, 16), (level,) * 3) for level in (10, 20, 30)]
    told = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=[100, 300, 100], **told)
    film = Video(5, 16, 16).load(tmp_path / f"a{suffix}")
    assert film[:, 0, 0, 0].tolist() == [10, 20, 20, 20, 30]
    with pytest.raises(ValueError, match="at least 20 frames, found 5"):
        Video(20, 16, 16).load(tmp_path / f"a{suffix}")


def test_films_whose_writer_merged_equal_frames_are_whole_again(tmp_path):
    """Pillow's own writer merges them and adds up their durations."""
    frames = [Pillow.new("RGB", (16, 16), (level,) * 3) for level in (9, 9, 9, 9, 80, 80, 80, 80)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=62)
    with Pillow.open(tmp_path / "a.gif") as file:
        assert file.n_frames == 2
    film = Video(8, 16, 16, rate=16.0).load(tmp_path / "a.gif")
    assert film[:, 0, 0, 0].tolist() == [9] * 4 + [80] * 4


def test_frames_are_counted_by_their_durations():
    assert frame_counts([0.0, 0.0, 0.0], 3, 16.0) == [1, 1, 1]
    assert frame_counts([60.0, 70.0, 60.0], 3, 16.0) == [1, 1, 1]
    assert frame_counts([0.0, 100.0, 200.0], 4, 16.0) == [1, 1, 2]
    assert frame_counts([500.0], 8, 16.0) == [8]
    assert frame_counts([10.0, 655350.0], 40, 16.0) == [1, 40]
    assert frame_counts([], 4, 16.0) == []


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((17, 15), 1)])
def test_videos_are_written_as_mp4_and_read_again(tmp_path, size, channels):
    pytest.importorskip("av")
    rng = np.random.default_rng(0)
    video = Video(8, *size, channels, patch=(2, 8, 8), rate=8.0)
    frames = np.repeat(np.repeat(rng.integers(0, 256, (8, 1, 1, channels)), size[0], 1), size[1], 2).astype(np.uint8)
    video.save(tmp_path / "a.mp4", frames)
    again = video.load(tmp_path / "a.mp4")
    assert np.abs(again.astype(int) - frames).mean() < 4  # H.264 keeps what people see, not each number


def test_mp4_is_refused_where_nothing_moves():
    with pytest.raises(UserError, match="nothing of this request is one"):
        check_formats(("sheet", "mp4"), (Image(16, 16, 3, 8),), ("image",))
    check_formats(("mp4",), (Image(16, 16, 3, 8), Video()), ("video",))
