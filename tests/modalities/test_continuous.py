"""Film, depth, sound, points, actions and text: round trips, files, and what is said of bad ones."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import trimesh
from PIL import Image as Pillow

from tests.models.small import Words
from unified_jax.modalities.action import Action
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.base import Continuous
from unified_jax.modalities.depth import Depth
from unified_jax.modalities.grid import grid_positions, patchify, unpatchify
from unified_jax.modalities.image import Image
from unified_jax.modalities.mel import Mel, griffin_lim
from unified_jax.modalities.points import Points, morton_order
from unified_jax.modalities.sheets import show_samples
from unified_jax.modalities.text import Text, learn_bpe
from unified_jax.modalities.video import Video

ALL = (
    Image(10, 14, 3, 4),
    Video(5, 9, 12, 3, (2, 4, 8)),
    Video(1, 8, 8, 1, (1, 4, 4)),
    Depth(3, 7, 8, (2, 4, 4)),
    Audio(patch=(5, 10)),
    Points(50, 6, 16),
    Points(32, 3, 8),
    Action(15, 2, 4),
)


@pytest.mark.parametrize("modality", ALL, ids=str)
def test_patches_are_exactly_inverted(modality):
    assert isinstance(modality, Continuous)
    x = np.random.default_rng(0).standard_normal((2, *modality.shape)).astype(np.float32)
    tokens = modality.patches(jnp.asarray(x))
    assert tokens.shape == (2, modality.tokens, modality.patch_features)
    np.testing.assert_array_equal(modality.unpatch(tokens), x)
    assert modality.positions().shape[0] == modality.tokens
    assert modality.to_model(jnp.asarray(modality.blank()[None])).shape == (1, *modality.shape)


def test_patches_lie_at_their_positions():
    """A patch of a film of its own coordinates holds the coordinates from its position on."""
    sizes, patch = (4, 6, 6), (2, 3, 2)
    where = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1)[None].astype(np.float32)
    tokens = np.asarray(patchify(jnp.asarray(where), patch))[0].reshape(-1, 2 * 3 * 2, 3)
    np.testing.assert_array_equal(tokens[:, 0] / patch, grid_positions(sizes, patch))
    assert unpatchify(jnp.zeros((1, 12, 12)), sizes, patch).shape == (1, *sizes, 1)


@pytest.mark.parametrize("modality", [Video(3, 8, 8), Depth(1, 8, 8), Points(64, 6, 16), Action()], ids=str)
def test_model_space_is_exactly_left_again(modality):
    rng = np.random.default_rng(1)
    blank = modality.blank()
    raw = rng.integers(0, 256, blank.shape).astype(np.uint8) if blank.dtype == np.uint8 else rng.random(blank.shape)
    raw = modality.prepare(raw.astype(blank.dtype))[None]
    model = np.asarray(modality.to_model(jnp.asarray(raw)))
    assert -1 <= model.min() <= model.max() <= 1
    np.testing.assert_allclose(modality.from_model(model), raw, atol=1e-6)


def test_griffin_lim():
    """With its true phases a spectrum gives its waveform back; without momentum the error never rises."""
    mel = Mel(rate=8000, n_fft=256, hop=64, mels=40)
    t = np.arange(4000) / 8000
    wave = jnp.asarray((0.5 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * 1100 * t))[None], jnp.float32)
    spectrum = mel.spectrum(wave)
    np.testing.assert_allclose(mel.waveform(spectrum, 4000), wave, atol=2e-6)
    target, errors = jnp.abs(spectrum), []
    for iterations in (0, 1, 2, 4, 8, 16, 32):
        made = griffin_lim(mel, target, 4000, iterations, 0.0)
        errors.append(float(jnp.linalg.norm(jnp.abs(mel.spectrum(made)) - target) / jnp.linalg.norm(target)))
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.15
    back = Audio(4000, Mel(rate=8000, n_fft=512, hop=125, mels=64))
    first = back.to_model(wave)
    again = back.to_model(jnp.asarray(back.from_model(first)))
    loud = np.asarray(first[:, 2:-2] > 0.3)
    assert loud.mean() > 0.02
    assert np.abs(np.asarray(again - first)[:, 2:-2][loud]).mean() < 0.1


def test_a_sorted_cloud_is_local():
    rng = np.random.default_rng(0)
    cloud = rng.random((256, 3)).astype(np.float32)
    points = Points(256, 3, 16)
    tokens = points.prepare(cloud).reshape(16, 16, 3)
    assert sorted(map(tuple, tokens.reshape(-1, 3).tolist())) == sorted(map(tuple, cloud.tolist()))
    assert np.ptp(tokens, axis=1).mean() < 0.6 * np.ptp(cloud.reshape(16, 16, 3), axis=1).mean()
    cube = np.asarray([[0.9, 0.9, 0.9], [0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])
    assert morton_order(cube).tolist() == [1, 2, 3, 0]


def test_files_come_back(tmp_path):
    rng = np.random.default_rng(0)
    video = Video(4, 16, 16)
    film = np.zeros((4, 16, 16, 3), np.uint8)
    film[:, :, :8] = (200, 30, 60)
    film[np.arange(4), 4 * np.arange(4)] = 255
    video.save(tmp_path / "a.gif", film)
    assert np.abs(video.load(tmp_path / "a.gif").astype(int) - film).mean() < 3
    audio = Audio()
    wave = (0.3 * np.sin(np.arange(8000) / 5)).astype(np.float32)
    audio.save(tmp_path / "a.wav", wave)
    np.testing.assert_allclose(audio.load(tmp_path / "a.wav"), wave, atol=1e-4)
    assert (tmp_path / "a.png").exists()
    points = Points(64, 6, 16)
    cloud = points.prepare(rng.random((64, 6)))
    points.save(tmp_path / "a.ply", cloud)
    np.testing.assert_allclose(points.load(tmp_path / "a.ply"), cloud, atol=3e-3)
    action = Action()
    path = action.prepare(rng.random((16, 2)))
    action.save(tmp_path / "a.csv", path)
    np.testing.assert_allclose(action.load(tmp_path / "a.csv"), path, atol=1e-5)
    depth = Depth(1, 16, 16)
    depth.save(tmp_path / "depth.png", np.full((1, 16, 16, 1), 0.5, np.float32))
    picture = Image(16, 16)
    Pillow.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (picture.load(tmp_path / "clear.png") == 255).all()
    Text().save(tmp_path / "a.txt", "a red ring")
    assert Text().load(tmp_path / "a.txt") == "a red ring"
    made = {"video": film[None], "audio": wave[None], "points": cloud[None], "action": path[None]}
    sheet = show_samples((video, audio, points, action, Text()), {}, made)
    assert sheet.size[0] > 400


def test_meshes_are_sampled_by_area(tmp_path):
    box = trimesh.creation.box((2, 1, 1))
    for name in ("box.obj", "box.glb", "box.ply"):
        box.export(tmp_path / name)
        cloud = Points(2000, 3, 16).load(tmp_path / name)
        assert np.ptp(cloud, axis=0).max() == pytest.approx(1, abs=0.02)
        ends = (np.abs(cloud[:, 0] - cloud[:, 0].min()) < 1e-4).mean()
        assert ends == pytest.approx(1 / 10, abs=0.03)  # one of two end faces of area 1, of 10 in all
    (tmp_path / "empty.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    with pytest.raises(ValueError, match="at least 256 points, found 3"):
        Points().load(tmp_path / "empty.obj")


def test_films_other_than_gif(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    film = Video(5, 16, 16).load(tmp_path / "a.mp4")
    assert film.shape == (5, 16, 16, 3)
    assert np.abs(film.mean((1, 2, 3)) - 40 * np.arange(5)).max() < 12


@pytest.mark.parametrize(
    ("modality", "content", "message"),
    [
        (Image(), b"no picture", "cannot be read as an image"),
        (Video(), b"no film", "cannot be read as a video"),
        (Audio(), b"no sound", "cannot be read as audio"),
        (Points(), b"ply\nno", "as a point cloud or mesh|no such"),
        (Action(), b"1,2\n3,x\n", "could not convert|as a table"),
        (Action(), b"1,2\n3,4\n", r"expected float \[16, 2\]"),
    ],
    ids=str,
)
def test_bad_files_name_what_is_wrong(tmp_path, modality, content, message):
    path = tmp_path / f"bad{modality.suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        modality.load(path)
    with pytest.raises(ValueError, match="no such file"):
        modality.load(tmp_path / f"missing{modality.suffix}")


def test_bad_arrays_name_what_is_wrong(tmp_path):
    soundfile.write(tmp_path / "stereo.wav", np.zeros((100, 2)), 8000)
    soundfile.write(tmp_path / "fast.wav", np.zeros(100), 44100)
    with pytest.raises(ValueError, match="one channel, found 2"):
        Audio().load(tmp_path / "stereo.wav")
    with pytest.raises(ValueError, match="8000 samples per second, found 44100"):
        Audio().load(tmp_path / "fast.wav")
    with pytest.raises(ValueError, match="at most 8000 samples, found 9000"):
        Audio().prepare(np.zeros(9000, np.float32))
    with pytest.raises(ValueError, match="finite"):
        Audio().prepare(np.full(8000, np.nan, np.float32))
    with pytest.raises(ValueError, match="at least 256 points, found 20"):
        Points().prepare(np.zeros((20, 6), np.float32))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Points(4, 3, 2).prepare(np.full((4, 3), 2.0))
    with pytest.raises(ValueError, match="distances"):
        Depth(1, 8, 8).prepare(np.full((8, 8), 3.0))
    with pytest.raises(ValueError, match="finite"):
        Action().prepare(np.full((16, 2), np.inf))
    with pytest.raises(ValueError, match=r"expected uint8 \[8, 32, 32, 3\]"):
        Video().prepare(np.zeros((4, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="proportions"):
        Pillow.new("RGB", (64, 32)).save(tmp_path / "wide.png")
        Image().load(tmp_path / "wide.png")
    assert Audio().prepare(np.zeros(10, np.int16)).shape == (8000,)


def test_text():
    texts = [f"a {size} {colour} ring" for size in ("small", "large") for colour in ("red", "blue", "green")]
    bpe = learn_bpe(texts, 300)
    assert bpe == learn_bpe(texts, 300)
    for text in (Text(), Text(64, bpe)):
        for written in (*texts, "é 漢 \n tab\t", "unseen words!"):
            assert text.decode(text.encode(written)) == written
            assert text.from_model(text.prepare(written)[None]).tolist() == [written]
    assert len(Text(64, bpe).encode(texts[0])) < len(texts[0]) / 2
    assert Text().decode(np.asarray([255, 300, -1])) == "\N{REPLACEMENT CHARACTER}"
    for raw, message in (("", "empty"), (3, "expected a text"), (b"\xff", "UTF-8"), ("x" * 97, "at most 96 tokens")):
        with pytest.raises(ValueError, match=message):
            Text().prepare(raw)
    with pytest.raises(ValueError, match="not the JSON of a tokenizer"):
        Text(8, "{}")
    with pytest.raises(ValueError, match="at least 256"):
        learn_bpe(texts, 10)


def test_a_given_condition_of_ones_own_without_a_picture_is_not_drawn():
    """The protocol of a condition does not ask for one."""
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    words = {"words": np.ones((1, 3, 2), np.float32)}
    alone = show_samples((Image(8, 8),), {}, {"image": picture})
    assert show_samples((Image(8, 8), Words()), words, {"image": picture}).size == alone.size
