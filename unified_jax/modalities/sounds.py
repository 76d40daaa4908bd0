"""Reading audio files at their own rate, and bringing them to one rate and one channel."""

import io
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unified_jax.modalities.reading import File, told

LARGEST_SOUND = 1 << 26
"""Most samples, over all channels, that are read of a file."""

STREAMED = 0x7FFFF000
"""Sizes from here on stand in headers that were written before the length was known."""


class Sound(NamedTuple):
    """A waveform with its rate."""

    wave: np.ndarray
    """[samples] or [samples, channels], float in [-1, 1] or int16."""
    rate: int
    """Samples per second."""


def sound_of(raw: Any) -> Sound | None:
    """A raw example that knows its rate, or None: a `Sound`, or a dict of the `datasets` library (channels first)."""
    if isinstance(raw, Sound):
        return raw
    if isinstance(raw, Mapping) and {"array", "sampling_rate"} <= set(raw):
        wave = np.asarray(raw["array"])
        wave = wave.T if wave.ndim == 2 and wave.shape[0] < wave.shape[1] else wave
        return Sound(wave.astype(np.float32) if wave.dtype == np.float64 else wave, int(raw["sampling_rate"]))
    return None


def opened(content: Any) -> Any:
    """An audio file of libsndfile. Raises ValueError for anything else, and for a WAV file that is cut off."""
    import soundfile

    _check_whole(content)
    try:
        return soundfile.SoundFile(content)
    except soundfile.LibsndfileError as error:  # its own message names the object in memory
        raise ValueError(f"it cannot be read as audio ({error.error_string})") from None


def _check_whole(content: Any) -> None:
    """libsndfile reads what is there of a WAV file, as if it were all."""
    head = content.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        name, size = b"", 0
        while name != b"data" and len(chunk := content.read(8)) == 8:
            name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
            if name != b"data":
                content.seek(size + size % 2, io.SEEK_CUR)
        first = content.tell()
        there = content.seek(0, io.SEEK_END) - first
        if name == b"data" and there < size < STREAMED:
            raise ValueError(f"it is cut off: {there} bytes of sound, of the {size} that its header announces")
    content.seek(0)


def read_sound(file: File, seconds: float | None = None, first: float = 0.0) -> Sound:
    """A file, or of a longer one only so many seconds from `first` on, where `seconds` is given. Raises ValueError."""
    with file.opened() as content, told("audio"), opened(content) as audio:
        if seconds is None and audio.frames * audio.channels > LARGEST_SOUND:
            raise ValueError(f"it has {audio.frames} samples, more than are read; crop it, or cut it first")
        if first > 0:
            audio.seek(min(audio.frames, int(first * audio.samplerate)))
        count = -1 if seconds is None else math.ceil(seconds * audio.samplerate) + 1
        return Sound(audio.read(count, dtype="float32", always_2d=True), audio.samplerate)


def length_of(file: File) -> float:
    """Seconds of a file. Raises ValueError."""
    with file.opened() as content, told("audio"), opened(content) as audio:
        return audio.frames / audio.samplerate


def floats(wave: np.ndarray) -> np.ndarray:
    """16-bit values as floats in [-1, 1); anything else unchanged."""
    if wave.dtype == np.int16 or (wave.dtype == np.int64 and wave.size and abs(wave).max() <= 32768):
        return wave.astype(np.float32) / 32768
    return wave


def at_rate(sound: Sound, rate: int) -> Float[np.ndarray, " s"]:
    """The mean of the channels at this rate, by a polyphase filter; in [-1, 1] if the sound was."""
    from scipy.signal import resample_poly

    wave = floats(sound.wave)
    wave = wave.mean(axis=1, dtype=wave.dtype) if wave.ndim == 2 else wave
    if sound.rate == rate or not len(wave):
        return wave
    loudest = max(1.0, float(abs(wave).max()))
    common = math.gcd(sound.rate, rate)
    return np.clip(resample_poly(wave, rate // common, sound.rate // common), -loudest, loudest).astype(np.float32)
