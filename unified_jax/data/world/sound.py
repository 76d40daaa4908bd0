r"""The audio of a scene: one second at 8 kHz, float32 in [-1, 1].

An object is a steady note,

    a(t) = level sqrt(2) sum_h w_h sin(2 pi h f t - pi h^2 / 6),   sum_h w_h^2 = 1

whose pitch f is its colour (eight notes of a major scale from C4), whose timbre w its shape (six mixtures of the first
six harmonics) and whose level, the root mean square, its size. The phases keep the peaks low. One object sounds from 0
to 1 s; of two, the first in reading order sounds in the first half and the other in the second, with `PAUSE` between
them, so that two objects are never taken for one. Notes fade in and out over `FADE`.

Whenever an object touches a wall there is a click, a decaying burst of noise, always the same. The video's 16 frames
span the second: frame k is at k / 16 s.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from unified_jax.data.world.scene import FRAMES, Scene, bounces

RATE = 8000
PITCHES = tuple(261.63 * 2 ** (step / 12) for step in (0, 2, 4, 5, 7, 9, 11, 12))
LEVELS = (0.05, 0.1, 0.2)
HARMONICS = 6
TIMBRES = np.array(
    [
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),  # circle: pure
        (1.0, 0.0, 0.8, 0.0, 0.6, 0.0),  # square: odd harmonics
        (1.0, 0.9, 0.0, 0.0, 0.0, 0.0),  # triangle
        (0.7, 0.0, 0.0, 1.0, 0.0, 0.0),  # diamond
        (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),  # star: bright
        (1.0, 0.0, 0.0, 0.0, 0.0, 1.0),  # ring: hollow
    ]
)
TIMBRES /= np.sqrt((TIMBRES**2).sum(1, keepdims=True))
TIMBRES.flags.writeable = False
PAUSE, FADE = 0.2, 0.01
CLICK_LEVEL, CLICK_SAMPLES = 0.6, 48


@lru_cache(maxsize=1)
def click() -> Float[np.ndarray, "48"]:
    """The burst: noise of fixed seed, of largest value CLICK_LEVEL, decaying to e^-3."""
    noise = np.random.Generator(np.random.Philox(7)).standard_normal(CLICK_SAMPLES)
    burst = noise * np.exp(-3 * np.arange(CLICK_SAMPLES) / CLICK_SAMPLES)
    return (CLICK_LEVEL * burst / abs(burst).max()).astype(np.float32)


def segments(objects: int) -> tuple[tuple[int, int], ...]:
    """(first, last + 1) sample of each object's note."""
    if objects == 1:
        return ((0, RATE),)
    half, pause = RATE // 2, int(PAUSE * RATE / 2)
    return (0, half - pause), (half + pause, RATE)


@lru_cache(maxsize=512)
def make_note(shape: int, colour: int, samples: int) -> Float[np.ndarray, " samples"]:
    """A note of level one, of this many samples; read-only, as it is shared."""
    t = np.arange(samples) / RATE
    h = np.arange(1, HARMONICS + 1)
    waves = np.sin(2 * math.pi * PITCHES[colour] * h[:, None] * t - math.pi * h[:, None] ** 2 / 6)
    edge = np.minimum(np.minimum(t, t[::-1]) / FADE, 1)
    note = (math.sqrt(2) * (TIMBRES[shape] @ waves) * edge).astype(np.float32)
    note.flags.writeable = False
    return note


def click_times(scene: Scene) -> Float[np.ndarray, " k"]:
    """Times of all clicks in seconds, increasing."""
    return np.sort(np.concatenate([bounces(object) for object in scene.objects])) / FRAMES


def render_audio(scene: Scene) -> Float[np.ndarray, "8000"]:
    """The waveform."""
    audio = np.zeros(RATE, np.float32)
    for object, (start, stop) in zip(scene.objects, segments(len(scene.objects)), strict=True):
        audio[start:stop] = np.float32(LEVELS[object.size]) * make_note(object.shape, object.colour, stop - start)
    for time in click_times(scene):
        start = min(round(time * RATE), RATE - CLICK_SAMPLES)
        audio[start : start + CLICK_SAMPLES] += click()
    return np.clip(audio, -1, 1)
