r"""Log-mel spectra of waveforms, and back.

    X[m, k] = sum_n w[n] x[n + m H] e^{-2 pi i k n / N}        frames of N samples, H apart, under a Hann window
    mel     = |X|^power @ bank                                 triangles, evenly spaced on the mel scale

mel(f) = 2595 log10(1 + f / 700) (HTK), or Slaney's: linear (3 f / 200) below 1 kHz, logarithmic (27 / ln 6.4 per
e-fold) above. Slaney's norm gives every triangle the area 1. The frames of a centred spectrum start half a frame before
the waveform, which is reflected there.

Inverse: magnitudes by the bank's pseudo-inverse, clipped at zero; phases by Griffin & Lim (1984) with the momentum of
Perraudin et al. (2013), which looks for a waveform whose spectrum has these magnitudes.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from unified_jax.precision import EXACT


@dataclass(frozen=True)
class Mel:
    """A mel analysis."""

    rate: int = 16_000
    """Sampling rate in Hz."""
    n_fft: int = 1024
    """Samples of a frame."""
    hop: int = 256
    """Samples between frames."""
    window: int = 0
    """Samples of the window, centred in the frame; 0 is the full frame."""
    mels: int = 64
    """Number of mel bands."""
    low: float = 0.0
    """Lower edge of the first band in Hz."""
    high: float = 0.0
    """Upper edge of the last band in Hz; 0 is half the rate."""
    scale: Literal["htk", "slaney"] = "htk"
    """The mel scale."""
    slaney_norm: bool = False
    """Normalise the triangles to equal area instead of equal height."""
    power: float = 2.0
    """2: power, 1: magnitude."""
    center: bool = True
    """Whether frame m is centred at sample m hop."""

    def __post_init__(self) -> None:
        top = self.high or self.rate / 2
        if min(self.rate, self.n_fft, self.hop, self.mels) < 1 or not 0 <= self.window <= self.n_fft:
            raise ValueError(f"A mel analysis needs positive sizes and a window of at most n_fft, found {self}.")
        if not 0 <= self.low < top <= self.rate / 2:
            raise ValueError(f"Mel bands must lie in 0 .. {self.rate / 2} Hz, found {self.low} .. {top}.")

    def frames(self, samples: int) -> int:
        """Frames of a waveform."""
        return 1 + (samples // self.hop if self.center else (samples - self.n_fft) // self.hop)

    def hann(self) -> Float[np.ndarray, " n_fft"]:
        """The periodic window, in the middle of a frame."""
        n = self.window or self.n_fft
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
        left = (self.n_fft - n) // 2
        return np.pad(window, (left, self.n_fft - n - left))

    def bank(self) -> Float[np.ndarray, "k m"]:
        """The triangles, `[n_fft / 2 + 1, mels]`, float64."""
        hertz = np.linspace(0, self.rate / 2, self.n_fft // 2 + 1)
        low, high = _to_mel(np.asarray([self.low, self.high or self.rate / 2]), self.scale).tolist()
        edges = _to_hertz(np.linspace(low, high, self.mels + 2), self.scale)
        rising = (hertz[:, None] - edges[:-2]) / np.diff(edges)[:-1]
        falling = (edges[2:] - hertz[:, None]) / np.diff(edges)[1:]
        bank = np.maximum(0, np.minimum(rising, falling))
        return bank * (2 / (edges[2:] - edges[:-2])) if self.slaney_norm else bank

    def spectrum(self, x: Float[Array, "b s"]) -> Complex[Array, "b f k"]:
        """X of the module docstring."""
        if self.center:
            x = jnp.pad(x, ((0, 0), (self.n_fft // 2,) * 2), mode="reflect")
        count = 1 + (x.shape[1] - self.n_fft) // self.hop
        index = np.arange(count)[:, None] * self.hop + np.arange(self.n_fft)
        return jnp.fft.rfft(x[:, index] * jnp.asarray(self.hann(), x.dtype))

    def __call__(self, x: Float[Array, "b s"]) -> Float[Array, "b f m"]:
        """The mel spectrum."""
        power = jnp.abs(self.spectrum(x)) ** self.power
        return jnp.matmul(power, jnp.asarray(self.bank(), x.dtype), precision=EXACT)

    def waveform(self, spectrum: Complex[Array, "b f k"], samples: int) -> Float[Array, "b s"]:
        """The waveform whose spectrum is closest in least squares: overlap-add over the sum of squared windows."""
        window = jnp.asarray(self.hann(), jnp.float32)
        frames = jnp.fft.irfft(spectrum, self.n_fft) * window
        count = spectrum.shape[1]
        index = (np.arange(count)[:, None] * self.hop + np.arange(self.n_fft)).ravel()
        length = (count - 1) * self.hop + self.n_fft
        total = jnp.zeros((spectrum.shape[0], length)).at[:, index].add(frames.reshape(len(frames), -1))
        weight = jnp.zeros(length).at[index].add(jnp.tile(window**2, count))
        start = self.n_fft // 2 if self.center else 0
        whole = total / jnp.maximum(weight, 1e-8)
        whole = jnp.pad(whole, ((0, 0), (0, max(0, start + samples - length))))
        return whole[:, start : start + samples]

    def magnitude(self, mel: Float[Array, "b f m"]) -> Float[Array, "b f k"]:
        """Magnitudes of least norm with this mel spectrum, clipped at zero."""
        inverse = jnp.asarray(np.linalg.pinv(self.bank()), jnp.float32)
        return jnp.maximum(jnp.matmul(mel, inverse, precision=EXACT), 0) ** (1 / self.power)


@partial(jax.jit, static_argnames=("analysis", "samples", "iterations", "momentum"))
def griffin_lim(
    analysis: Mel, magnitude: Float[Array, "b f k"], samples: int, iterations: int = 60, momentum: float = 0.99
) -> Float[Array, "b s"]:
    """A waveform whose spectrum has approximately these magnitudes; phases start as a sum of steady tones."""
    frames, bins = magnitude.shape[1:]
    advance = 2 * math.pi * analysis.hop / analysis.n_fft * np.outer(np.arange(frames), np.arange(bins))
    phase = jnp.asarray(np.exp(1j * (advance % (2 * math.pi))), jnp.complex64)

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        phase, before = carry
        found = analysis.spectrum(analysis.waveform(magnitude * phase, samples))
        turned = found - momentum / (1 + momentum) * before
        return (turned / jnp.maximum(jnp.abs(turned), 1e-12), found), None

    start = (jnp.broadcast_to(phase, magnitude.shape), jnp.zeros(magnitude.shape, jnp.complex64))
    (phase, _), _ = jax.lax.scan(step, start, None, length=iterations)
    return analysis.waveform(magnitude * phase, samples)


def _to_mel(hertz: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    return np.where(hertz < 1000, 3 * hertz / 200, 15 + 27 / np.log(6.4) * np.log(np.maximum(hertz, 1000) / 1000))


def _to_hertz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) / 27 * (np.maximum(mel, 15) - 15)))


def to_decibel(
    value: Float[Array, "..."], power: float = 2.0, reference: Array | float = 1.0, top: float | None = None
) -> Array:
    """(20 / power) log10(value / reference), both at least 1e-10, and at least the greatest level less `top`."""
    ratio = jnp.log10(jnp.maximum(value, 1e-10)) - jnp.log10(jnp.maximum(reference, 1e-10))
    level = 20 / power * ratio
    return level if top is None else jnp.maximum(level, jnp.max(level) - top)
