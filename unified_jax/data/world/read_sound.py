r"""Reading sounds: notes by their spectra at the eight pitches' harmonics, clicks by energy where no note reaches.

In a segment of N samples the amplitude at harmonic h of pitch f is A_h = |2 / N sum_n x_n exp(-2 pi i h f n / RATE)|. A
note of level l has A_h = sqrt(2) l w_h, so that l_fw = sum_h A_h w_h / sqrt(2) estimates the level of pitch f in timbre w;
the pair of largest level wins (all w have length one: Cauchy-Schwarz). Only magnitudes are used: a waveform whose phases
were lost, as after Griffin-Lim, reads the same.

The sound is two notes when its halves sound different, or the same with silence between them.
"""

import numpy as np
from jaxtyping import Float, Int

from unified_jax.data.world.read import Reading, make_reading
from unified_jax.data.world.sound import HARMONICS, LEVELS, PAUSE, PITCHES, RATE, TIMBRES, segments

SILENCE = 0.4 * LEVELS[0]
"""No note is softer."""
ABOVE = 3300.0
"""Hz; the highest harmonic of the highest pitch is at 3140."""
CLICK_ENERGY = 0.04
"""Least energy of a click above that frequency."""


def _levels(audio: np.ndarray) -> Float[np.ndarray, "b f s"]:
    """l_fw of the module docstring for every pitch f and shape s."""
    n = audio.shape[1]
    hertz = np.asarray(PITCHES)[:, None] * np.arange(1, HARMONICS + 1)
    wave = np.exp(-2j * np.pi * hertz.ravel()[:, None] * np.arange(n) / RATE)
    amplitude = np.abs(audio @ wave.T) * (2 / n)
    return amplitude.reshape(len(audio), len(PITCHES), HARMONICS) @ TIMBRES.T / np.sqrt(2)


def _note(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(colour, shape, level) of the loudest note."""
    levels = _levels(audio).reshape(len(audio), -1)
    colour, shape = np.divmod(levels.argmax(1), len(TIMBRES))
    return colour, shape, levels.max(1)


def _size(level: np.ndarray) -> np.ndarray:
    return abs(np.log(np.maximum(level, 1e-9))[:, None] - np.log(LEVELS)).argmin(1)


def read_audio(audio: Float[np.ndarray, "b 8000"]) -> Reading:
    """Reads a batch of waveforms: shape, colour and size of each note. ValueError for another length."""
    if audio.ndim != 2 or audio.shape[1] != RATE:
        raise ValueError(f"Sounds to be read must have the shape [b, {RATE}]; found {list(audio.shape)}.")
    audio = np.clip(np.nan_to_num(audio.astype(np.float64), nan=0.0), -1, 1)
    whole = _note(audio)
    halves = [_note(audio[:, start:stop]) for start, stop in segments(2)]
    middle = RATE // 2
    pause = _levels(audio[:, middle - int(PAUSE * RATE / 2) : middle + int(PAUSE * RATE / 2)])
    rows = np.arange(len(audio))
    same, quiet = np.ones(len(audio), bool), np.ones(len(audio), bool)
    for colour, shape, level in halves:
        same &= (colour == halves[0][0]) & (shape == halves[0][1]) & (_size(level) == _size(halves[0][2]))
        quiet &= pause[rows, colour, shape] < 0.5 * level
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
    """The times of clicks in one waveform, in seconds, rising; two within 10 ms count as one."""
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
    """How many clicks each waveform has."""
    return np.asarray([len(read_clicks(one)) for one in audio], np.int32)
