r"""Audio: waveforms float32 `[samples]` in [-1, 1] outside, log-mel spectra in model space, cut into patches.

    x = 2 (ln(max(mel, floor)) - ln floor) / (ln top - ln floor) - 1

is in [-1, 1] for spectra between `floor` and `top`. The inverse finds magnitudes by the mel filter bank's
pseudo-inverse and phases by Griffin-Lim (`mel`).

How other audio becomes one clip, by `fit`:

    exact      one channel at this rate, or it is refused; a shorter clip ends in silence
    resample   any rate and channels: resampled (polyphase) and mixed down; a shorter clip ends in silence
    pad        as resample, but the silence has no loss

A longer clip is refused, or with `crop` cut: at its beginning, or with `start` "random", in training, anywhere.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unified_jax.modalities.base import Prepared, check_array
from unified_jax.modalities.fitting import Draw, Fitted, Start, check_fit, cut_start
from unified_jax.modalities.mel import Mel, griffin_lim
from unified_jax.modalities.reading import File, open_file, told
from unified_jax.modalities.sounds import Sound, at_rate, floats, length_of, opened, read_sound, sound_of

SPEECH_LIKE = Mel(rate=8000, n_fft=1024, hop=250, mels=64)
"""Mel analysis for audio at 8 kHz: a frame every 31 ms."""

MOST_CHANNELS = 64
"""More are a wrong order of axes."""


@dataclass(frozen=True)
class Audio(Fitted):
    """Audio clips of one length and sampling rate, one channel."""

    samples: int = 8000
    """Samples of a waveform."""
    mel: Mel = SPEECH_LIKE
    """Mel analysis, with the sampling rate."""
    patch: tuple[int, int] = (8, 16)
    """Frames and mel bands of a patch."""
    floor: float = 1e-5
    """Mel power that counts as silence."""
    top: float = 3e3
    """Mel power that maps to 1."""
    iterations: int = 64
    """Griffin-Lim iterations."""
    crop: bool = False
    """Crop longer audio; by default it is refused."""
    name: str = "audio"
    """Field of the batch."""
    fit: Literal["exact", "resample", "pad"] = "exact"
    """How audio of other rates, channels and lengths becomes this clip: refused, resampled and mixed down, or also
    without loss on added silence."""
    start: Start = "first"
    """Where longer audio is cut with `crop`: at its beginning, or in training anywhere."""

    def __post_init__(self) -> None:
        if self.samples < self.mel.n_fft // 2 + 1 or min(self.patch) < 1 or not 0 < self.floor < self.top:
            raise ValueError(
                f"Audio needs more than {self.mel.n_fft // 2} samples, positive patches and floor < top, found {self}."
            )
        check_fit(self, ("exact", "resample", "pad"))
        if self.start == "random" and not self.crop:
            raise ValueError("Audio.start 'random' says where longer audio is cut; set crop to True with it.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, bands, 1)."""
        return self.mel.frames(self.samples), self.mel.mels, 1

    @property
    def cut(self) -> tuple[int, int]:
        """Frames and bands of a patch."""
        return self.patch

    @property
    def suffix(self) -> str:
        """WAV, 16 bits."""
        return ".wav"

    def blank(self) -> Float[np.ndarray, " s"]:
        """Zeros in the place of a prepared example."""
        return np.zeros(self.samples, np.float32)

    def read(self, file: File) -> Sound:
        """The waveform `[samples, channels]` of a file and its rate; with `crop` only as much as is kept."""
        return read_sound(file, self._seconds if self.crop else None)

    def prepare(self, raw: Any) -> Prepared:
        """A finite waveform of this many samples, float in [-1, 1] or int16, by `fit`; with "pad" also NAME.inside.

        `raw` is a `Sound`, a dict of `array` and `sampling_rate`, or an array at this rate, with a second axis for
        several channels. A shorter one is padded with silence.
        """
        value = self.fitted(raw, None)
        if self.pads:
            return self.padded(value, (self.samples,), 0.0)
        return np.pad(value, (0, self.samples - len(value)))

    def fitted(self, raw: Any, drawn: Draw | None) -> Float[np.ndarray, " s"]:
        """A file or an array, at this rate in one channel, cut to at most this many samples."""
        file = isinstance(raw, File)
        sound = self._read(raw, drawn) if file else sound_of(raw) or Sound(np.asarray(raw), self.mel.rate)
        value, rate, drawn = sound.wave, sound.rate, None if file else drawn  # a file is cut as it is read
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if value.ndim != 1 and (self.fit == "exact" or value.ndim != 2):
            raise ValueError(f"expected one channel [{self.samples}], found {value.dtype} {list(value.shape)}")
        if value.ndim == 2 and value.shape[1] > MOST_CHANNELS:
            raise ValueError(f"expected [samples, channels], found {list(value.shape)}")
        if rate != self.mel.rate and self.fit == "exact":
            raise ValueError(f"expected {self.mel.rate} samples per second, found {rate}; choose fit 'resample'")
        value = self._cut(floats(value), drawn) if rate == self.mel.rate else floats(value)
        value = check_array(value, value.shape, np.float32)
        if file and self.fit != "exact":  # a decoder of a compressed file overshoots; resampling clips as well
            value = np.clip(value, -1.0, 1.0)
        if value.size and abs(value).max() > 1.001:
            raise ValueError(f"expected a waveform in [-1, 1], found values up to {abs(value).max():.3g}")
        if self.fit != "exact" and not len(value):
            raise ValueError("expected sound, found none")
        return self._cut(at_rate(Sound(value, rate), self.mel.rate), drawn)

    def _cut(self, value: np.ndarray, drawn: Draw | None) -> np.ndarray:
        if self.crop:
            first = cut_start(len(value), self.samples, self.start, drawn)
            value = value[first : first + self.samples]
        if len(value) > self.samples:
            raise ValueError(f"expected at most {self.samples} samples, found {len(value)}; crop it, or set crop")
        return value

    @property
    def _seconds(self) -> float:
        return self.samples / self.mel.rate

    def _read(self, file: File, drawn: Draw | None) -> Sound:
        """Of a long file only what is kept, at this rate."""
        if self.start == "first" or drawn is None:
            return self.read(file)
        total = math.ceil(length_of(file) * self.mel.rate)
        return read_sound(file, self._seconds, cut_start(total, self.samples, self.start, drawn) / self.mel.rate)

    def inside(self, bounds: Int[Array, "b 1 2"]) -> Bool[Array, "b f m 1"]:
        """The frames that the waveform inside the bounds would have alone, at least one."""
        first, stop = -(-bounds[:, 0, 0] // self.mel.hop), bounds[:, 0, 1] - (0 if self.mel.center else self.mel.n_fft)
        last = jnp.maximum(first, stop // self.mel.hop)
        place = jnp.arange(self.shape[0])
        found = (place >= first[:, None]) & (place <= last[:, None])
        return jnp.broadcast_to(found[:, :, None, None], (len(bounds), *self.shape[:2], 1))

    def to_model(self, raw: Float[Array, "b s"]) -> Float[Array, "b f m 1"]:
        """The normalised log-mel spectrum."""
        low, high = math.log(self.floor), math.log(self.top)
        level = jnp.log(jnp.maximum(self.mel(raw.astype(jnp.float32)), self.floor))
        return (2 * (level - low) / (high - low) - 1)[..., None]

    def from_model(self, x: Array | np.ndarray) -> Float[np.ndarray, "b s"]:
        """A waveform with approximately this spectrum, clipped to [-1, 1]."""
        return np.asarray(self.to_prepared(jnp.asarray(x, jnp.float32)))

    def to_prepared(self, x: Array) -> Float[Array, "b s"]:
        """The same in a program, for the links of a chain."""
        low, high = math.log(self.floor), math.log(self.top)
        level = (jnp.clip(x[..., 0], -1, 1.5) + 1) / 2 * (high - low) + low
        mel = jnp.exp(level) - self.floor
        made = griffin_lim(self.mel, self.mel.magnitude(mel), self.samples, self.iterations)
        return jnp.clip(made, -1, 1)

    def load(self, path: Path) -> Any:
        """An audio file of this rate with one channel; of a long one, only the requested part is read.

        With another `fit` than "exact", as a data set's files are read.
        """
        if self.fit != "exact":
            return self.read(File(path.name, path))
        with open_file(path) as content, told("audio"), opened(content) as file:
            if file.channels != 1:
                raise ValueError(f"expected one channel, found {file.channels}; mix it down first")
            if file.samplerate != self.mel.rate:
                raise ValueError(
                    f"expected {self.mel.rate} samples per second, found {file.samplerate}; resample it first"
                )
            wave = file.read(self.samples + 1, dtype="float32", always_2d=True)[:, 0]
            if len(wave) > self.samples and not self.crop:
                raise ValueError(f"expected at most {self.samples} samples, found {max(file.frames, len(wave))}")
        return np.pad(self.fitted(wave, None), (0, max(0, self.samples - len(wave))))

    def save(self, path: Path, example: Float[np.ndarray, " s"]) -> None:
        """One waveform as WAV, with its spectrogram as PNG."""
        import soundfile

        soundfile.write(path, example, self.mel.rate, subtype="PCM_16")
        self.picture(example).save(path.with_suffix(".png"))

    def picture(self, example: Float[np.ndarray, " s"]) -> Any:
        """The mel spectrogram: time to the right, pitch upward, loud is bright."""
        from PIL import Image as Pillow

        level = np.asarray(self.to_model(jnp.asarray(example)[None]))[0, ..., 0]
        grey = np.clip((level.T[::-1] + 1) / 2, 0, 1)
        colour = np.stack([grey**0.8, grey**1.8, 0.15 + 0.5 * grey * (1 - grey)], axis=-1)
        picture = Pillow.fromarray(np.round(255 * np.clip(colour, 0, 1)).astype(np.uint8))
        return picture.resize((96, 96), Pillow.Resampling.NEAREST)
