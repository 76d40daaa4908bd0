r"""Reading audio: notes by their mel spectra, clicks by energy where no note reaches.

The root y of the mean mel power (64 bands, frames of 1024 samples) of a segment is compared with that of every note of
level one, z_fs for pitch f and shape s. The level is l = <y, z> / |z|^2. The pair that explains most, <y, z>^2 / |z|^2,
wins. The phase has no effect: a waveform from Griffin-Lim, whose tones are unsteady, reads the same, and so
does one with the right mel bands but wrong frequencies within them.

A waveform has two notes if its halves sound different, or equal with silence between them.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, Num

from unified_jax.data.world.read import Reading, make_reading
from unified_jax.data.world.scene import COLOURS, SHAPES
from unified_jax.data.world.sound import LEVELS, RATE, make_note, segments
from unified_jax.modalities.mel import Mel

SILENCE = 0.4 * LEVELS[0]
"""Least level of a note."""
ABOVE = 3300.0
"""Hz; the highest harmonic of the highest pitch is at 3140."""
CLICK_ENERGY = 0.04
"""Least energy of a click above that frequency."""


_FRAME, _HOP = 1024, 256


@lru_cache(maxsize=1)
def _analysis() -> tuple[np.ndarray, np.ndarray]:
    """(window, mel bank)."""
    mel = Mel(rate=RATE, n_fft=_FRAME, hop=_HOP, mels=64)
    return mel.hann(), mel.bank()


def _bands(audio: np.ndarray) -> Float[np.ndarray, "b m"]:
    """Root of the mean mel power over frames."""
    window, bank = _analysis()
    starts = np.arange(0, audio.shape[1] - _FRAME + 1, _HOP)
    frames = np.stack([audio[:, start : start + _FRAME] for start in starts], 1) * window
    return np.sqrt((np.abs(np.fft.rfft(frames)) ** 2 @ bank).mean(1))


@lru_cache(maxsize=1)
def _notes() -> Float[np.ndarray, "fs m"]:
    """z of every note, pitch by pitch."""
    middle = slice(RATE // 4, RATE // 4 + 4 * _FRAME)
    waves = [make_note(shape, colour, RATE)[middle] for colour in range(len(COLOURS)) for shape in range(len(SHAPES))]
    return _bands(np.stack(waves).astype(np.float64))


def _note(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(colour, shape, level) of the loudest note."""
    bands, notes = _bands(audio), _notes()
    inner, size = bands @ notes.T, np.square(notes).sum(1)
    best = (inner / np.sqrt(size)).argmax(1)
    colour, shape = np.divmod(best, len(SHAPES))
    return colour, shape, inner[np.arange(len(audio)), best] / size[best]


def _size(level: np.ndarray) -> np.ndarray:
    return abs(np.log(np.maximum(level, 1e-9))[:, None] - np.log(LEVELS)).argmin(1)


def read_audio(audio: Num[np.ndarray, "..."]) -> Reading:
    """Reads a batch of waveforms [b, 8000]: shape, colour and size of each note. ValueError for another length."""
    if audio.ndim != 2 or audio.shape[1] != RATE:
        raise ValueError(f"Audio to be read must have the shape [b, {RATE}]; found {list(audio.shape)}.")
    audio = np.clip(np.nan_to_num(audio.astype(np.float64), nan=0.0), -1, 1)
    whole = _note(audio)
    halves = [_note(audio[:, start:stop]) for start, stop in segments(2)]
    middle = RATE // 2
    pause = _bands(audio[:, middle - _FRAME // 2 : middle + _FRAME // 2]) @ _notes().T / np.square(_notes()).sum(1)
    rows = np.arange(len(audio))
    same, quiet = np.ones(len(audio), bool), np.ones(len(audio), bool)
    for colour, shape, level in halves:
        same &= (colour == halves[0][0]) & (shape == halves[0][1]) & (_size(level) == _size(halves[0][2]))
        quiet &= pause[rows, colour * len(SHAPES) + shape] < 0.5 * level
    audible = np.stack([level for _, _, level in halves], 1) > SILENCE
    two = audible.all(1) & (quiet | ~same)
    first = [np.where(two, half, all) for half, all in zip(halves[0], whole, strict=True)]
    colour, shape, level = (np.stack(pair, 1) for pair in zip(first, halves[1], strict=True))
    size = np.stack([_size(level[:, 0]), _size(level[:, 1])], 1)
    count = np.where(two, 2, (level[:, 0] > SILENCE).astype(int))
    power = np.square(audio).mean(1)
    heard = np.where(two, np.square(level).mean(1), np.square(level[:, 0]))
    fit = np.clip(heard / np.maximum(power, 1e-12), 0, 1)
    centre = np.full((len(audio), 2, 2), -1.0)
    residual = np.sqrt(np.maximum(power - heard, 0))
    return make_reading(count, centre, np.stack([fit, fit], 1), residual, shape=shape, colour=colour, size=size)


def read_clicks(audio: Float[np.ndarray, "8000"]) -> Float[np.ndarray, " k"]:
    """The times of clicks in one waveform, in seconds, increasing; two within 10 ms count as one."""
    spectrum = np.fft.rfft(np.nan_to_num(audio.astype(np.float64)))
    spectrum[np.fft.rfftfreq(len(audio), 1 / RATE) < ABOVE] = 0
    high = np.fft.irfft(spectrum, len(audio))
    width = int(0.006 * RATE)
    energy = np.convolve(np.square(high), np.ones(width))[width - 1 :]  # of the window that starts here
    times: list[float] = []
    while energy.max() > CLICK_ENERGY:
        peak = int(energy.argmax())
        times.append(peak / RATE)
        energy[max(0, peak - int(0.01 * RATE)) : peak + int(0.01 * RATE)] = 0
    return np.sort(np.asarray(times, np.float64))


def count_clicks(audio: Float[np.ndarray, "b 8000"]) -> Int[np.ndarray, " b"]:
    """Number of clicks in each waveform."""
    return np.asarray([len(read_clicks(one)) for one in audio], np.int32)
