r"""Audio: waveforms float32 `[samples]` in [-1, 1] outside, log-mel spectra in model space, cut into patches.

    x = 2 (ln(max(mel, floor)) - ln floor) / (ln top - ln floor) - 1

is in [-1, 1] for spectra between `floor` and `top`. The inverse finds magnitudes by the mel filter bank's
pseudo-inverse and phases by Griffin-Lim (`mel`).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.modalities.base import Continuous, check_array
from unified_jax.modalities.mel import Mel, griffin_lim
from unified_jax.modalities.reading import open_file, told

SPEECH_LIKE = Mel(rate=8000, n_fft=1024, hop=250, mels=64)
"""Mel analysis for audio at 8 kHz: a frame every 31 ms."""


@dataclass(frozen=True)
class Audio(Continuous):
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

    def __post_init__(self) -> None:
        if self.samples < self.mel.n_fft // 2 + 1 or min(self.patch) < 1 or not 0 < self.floor < self.top:
            raise ValueError(
                f"Audio needs more than {self.mel.n_fft // 2} samples, positive patches and floor < top, found {self}."
            )

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

    def prepare(self, raw: Any) -> Float[np.ndarray, " s"]:
        """A finite waveform of this many samples, float in [-1, 1] or int16; a shorter one is padded with silence.

        Stereo and longer audio are refused.
        """
        value = np.asarray(raw)
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if value.ndim != 1:
            raise ValueError(f"expected one channel [{self.samples}], found {value.dtype} {list(value.shape)}")
        if value.dtype == np.int16 or (value.dtype == np.int64 and value.size and abs(value).max() <= 32768):
            value = value.astype(np.float32) / 32768
        value = value[: self.samples] if self.crop else value
        if len(value) > self.samples:
            raise ValueError(f"expected at most {self.samples} samples, found {len(value)}")
        value = check_array(value, value.shape, np.float32)
        if value.size and abs(value).max() > 1.001:
            raise ValueError(f"expected a waveform in [-1, 1], found values up to {abs(value).max():.3g}")
        return np.pad(value, (0, self.samples - len(value)))

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

    def load(self, path: Path) -> Float[np.ndarray, " s"]:
        """An audio file of this rate with one channel. Of a long one, only the requested part is read."""
        with open_file(path) as content, told("audio"), _opened(content) as file:
            if file.channels != 1:
                raise ValueError(f"expected one channel, found {file.channels}; mix it down first")
            if file.samplerate != self.mel.rate:
                raise ValueError(
                    f"expected {self.mel.rate} samples per second, found {file.samplerate}; resample it first"
                )
            wave = file.read(self.samples + 1, dtype="float32", always_2d=True)[:, 0]
            if len(wave) > self.samples and not self.crop:
                raise ValueError(f"expected at most {self.samples} samples, found {max(file.frames, len(wave))}")
        return self.prepare(wave)

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


def _opened(content: BinaryIO) -> Any:
    import soundfile

    try:
        return soundfile.SoundFile(content)
    except soundfile.LibsndfileError as error:  # its own message names the object in memory
        raise ValueError(f"it cannot be read as audio ({error.error_string})") from None
