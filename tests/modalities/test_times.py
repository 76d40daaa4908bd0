"""Films and sounds are read by time: at the wanted rate, from the beginning or from anywhere, and padded at the end."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from tests.modalities.test_fitting import file_of, generator
from unified_jax.modalities.audio import Audio
from unified_jax.modalities.films import turned
from unified_jax.modalities.mel import Mel
from unified_jax.modalities.reading import File
from unified_jax.modalities.sounds import Sound
from unified_jax.modalities.video import Video


def gif(colours, duration, name="a.gif"):
    frames = [Pillow.new("P", (12, 8), int(i)) for i in range(len(colours))]
    for frame in frames:
        frame.putpalette([v for colour in colours for v in (colour,) * 3])
    return file_of(frames[0], name, save_all=True, append_images=frames[1:], duration=duration)


def test_films_are_read_by_time():
    colours = np.arange(0, 200, 8)
    film = gif(colours, 20)  # 25 frames, 50 a second
    shown = lambda video, raw: video.prepare(raw)[:, 0, 0, 0].tolist()  # noqa: E731
    video = Video(5, 8, 8, rate=10.0, fit="center_crop")
    assert shown(video, video.read(film)) == colours[::5].tolist()
    with pytest.raises(ValueError, match=r"expected uint8 \[6, 8, 8, 3\], found uint8 \[5, 8, 8, 3\]"):
        long = Video(6, 8, 8, rate=10.0, fit="resize")
        long.prepare(long.read(film))
    padded = Video(6, 8, 8, rate=10.0, fit="pad")
    made = padded.prepare(padded.read(film))
    assert made["video.inside"].tolist() == [[0, 5], [1, 6], [0, 8]] and (made["video"][5] == 128).all()
    slow = gif([10, 60, 110], [100, 300, 100])
    assert Video(10, 8, 8, rate=20.0).read(slow)[:, 0, 0, 0].tolist() == [10] * 2 + [60] * 6 + [110] * 2
    cut = Video(2, 8, 8, rate=10.0, fit="center_crop", start="random")
    found = {tuple(shown(cut, cut.vary({"video": film}, generator(i))["video"])) for i in range(30)}
    assert found == {tuple(colours[[i, i + 5]].tolist()) for i in (0, 5, 10, 15)}
    assert not Video(2, 8, 8).varies
    for stored, message in ((b"", "the file is empty"), (b"no film", "it cannot be read as a video")):
        with pytest.raises(ValueError, match=message):
            video.read(File("a.mp4", stored=stored))


def test_what_is_saved_is_read_frame_by_frame(tmp_path):
    frames = np.repeat(np.arange(40, 240, 5, dtype=np.uint8), 16 * 16 * 3).reshape(40, 16, 16, 3)
    for rate in (8.0, 16.0, 24.0, 30.0):
        video = Video(40, 16, 16, rate=rate)
        video.save(tmp_path / "a.gif", frames)
        np.testing.assert_allclose(
            video.read(File("a.gif", tmp_path / "a.gif"))[:, 0, 0, 0], frames[:, 0, 0, 0], atol=1
        )


def test_films_of_pyav_are_read_by_time(tmp_path):
    pytest.importorskip("av")
    frames = np.repeat(np.arange(20, 220, 5, dtype=np.uint8), 32 * 32 * 3).reshape(40, 32, 32, 3)
    Video(40, 32, 32, rate=20.0).save(tmp_path / "a.mp4", frames)
    file = File("a.mp4", stored=(tmp_path / "a.mp4").read_bytes())
    level = lambda raw: raw[:, 4, 4].astype(float).mean(-1)  # noqa: E731
    np.testing.assert_allclose(level(Video(20, 16, 16, rate=10.0).read(file)), frames[::2, 0, 0, 0], atol=4)
    assert len(Video(99, 16, 16, rate=20.0).read(file)) == 40
    cut = Video(4, 16, 16, rate=10.0, fit="resize", start="random")
    starts = set()
    for i in range(12):
        seen = level(cut.prepare(cut.vary({"video": file}, generator(i))["video"]))
        np.testing.assert_allclose(np.diff(seen), 10, atol=4)
        starts.add(round((seen[0] - 20) / 10))
    assert len(starts) > 4 and min(starts) >= 0 and max(starts) <= 16


def test_films_of_a_phone_held_upright_are_turned():
    lying = Pillow.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    for angle, wanted in ((0, [[0, 1, 2], [3, 4, 5]]), (-90, [[3, 0], [4, 1], [5, 2]]), (90, [[2, 5], [1, 4], [0, 3]])):
        frame = SimpleNamespace(rotation=angle, to_image=lambda: lying)  # counterclockwise, as FFmpeg counts
        assert np.asarray(turned(frame)).tolist() == wanted


def sound(seconds, rate, channels=1, hertz=200.0):
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    stored = io.BytesIO()
    soundfile.write(stored, np.stack([wave] * channels, axis=1) * np.linspace(1, 0.5, channels), rate, format="WAV")
    return File("a.wav", stored=stored.getvalue())


def test_sound_is_resampled_mixed_down_cut_and_padded():
    mel = Mel(rate=8000, n_fft=256, hop=100, mels=8)
    audio = Audio(4000, mel, fit="pad")
    wanted = 0.375 * np.sin(2 * np.pi * 200 * np.arange(2000) / 8000)
    made = audio.prepare(audio.read(sound(0.25, 44100, 2)))
    assert made["audio.inside"].tolist() == [[0, 2000]] and not made["audio"][2000:].any()
    np.testing.assert_allclose(made["audio"][50:1950], wanted[50:1950], atol=2e-3)
    assert Audio(4000, mel, fit="resample").prepare(audio.read(sound(0.25, 44100, 2))).shape == (4000,)
    wave = audio.read(sound(0.25, 44100)).wave[:, 0]
    also = audio.prepare({"array": wave.astype(np.float64), "sampling_rate": 44100})["audio"]
    np.testing.assert_allclose(also[50:1950], 0.5 / 0.375 * wanted[50:1950], atol=2e-3)
    for raw, message in (
        (Sound(wave, 44100), "8000 samples per second, found 44100"),
        (np.zeros((100, 2), np.float32), "expected one channel"),
        (np.zeros(4001, np.float32), "at most 4000 samples, found 4001"),
    ):
        with pytest.raises(ValueError, match=message):
            Audio(4000, mel).prepare(raw)
    with pytest.raises(ValueError, match="at most 4000 samples, found 8000"):
        audio.prepare(audio.read(sound(1, 16000)))
    with pytest.raises(ValueError, match=r"expected \[samples, channels\], found \[2, 900\]"):
        audio.prepare(np.zeros((2, 900), np.float32))
    with pytest.raises(ValueError, match="set crop to True"):
        Audio(4000, mel, start="random")
    with pytest.raises(ValueError, match="cannot be read as audio"):
        audio.read(File("a.wav", stored=b"no sound"))


def test_a_random_part_of_a_long_sound_is_read():
    audio = Audio(2000, Mel(rate=8000, n_fft=256, hop=100, mels=8), fit="resample", crop=True, start="random")
    rising = np.linspace(0, 0.9, 16000).astype(np.float32)
    stored = io.BytesIO()
    soundfile.write(stored, rising, 16000, format="WAV", subtype="FLOAT")
    starts = []
    for seed in range(20):
        file = File("a.wav", stored=stored.getvalue())
        seen = audio.prepare(audio.vary({"audio": file}, generator(seed))["audio"])
        array = audio.prepare(audio.vary({"audio": Sound(rising, 16000)}, generator(seed))["audio"])
        np.testing.assert_allclose(seen[30:-30], array[30:-30], atol=2e-3)
        assert np.ptp(seen[30:-30]) == pytest.approx(0.9 * 1940 / 8000, rel=0.02)
        starts.append(seen[30])
    assert min(starts) < 0.15 and max(starts) > 0.5
    np.testing.assert_allclose(
        audio.prepare(audio.read(File("a.wav", stored=stored.getvalue())))[30], 0.0034, atol=1e-3
    )
