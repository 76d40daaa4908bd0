r"""Scores of reconstructions: how near a model comes to what it is given (Wang et al. 2004; Zhang et al. 2018).

PSNR    10 log10(255^2 / mean square), the mean over images of each one's
SSIM    mean over places of (2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_x^2 + s_y^2 + c2)), moments under
        a Gaussian window of 11 x 11 with sigma 1.5 that lies within the image, c = (0.01 255)^2 and (0.03 255)^2,
        mean over channels
LPIPS   with the weights of a folder (`LpipsDistance`); without, the same distance of random filters, called
        random_perceptual
rFD     Frechet distance of the means of random filters' features over places; the reconstruction FID itself is
        `evaluate RUN --against test` with Inception's weights
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from unified_jax.evaluation.distances import frechet
from unified_jax.evaluation.scores import Row, Samples
from unified_jax.modalities.image import Image
from unified_jax.models.autoencoders.perceptual import LpipsDistance, RandomFeatures
from unified_jax.networks.lpips import Kind

SIDE, SIGMA = 11, 1.5
CHUNK = 32
"""Images at a time."""

Pictures = UInt8[np.ndarray, "n h w c"]


@dataclass(frozen=True)
class Reconstruction:
    """PSNR, SSIM, a perceptual distance and a Frechet distance of reconstructed images."""

    lpips: str = ""
    """Folder with torchvision's and the lpips package's weights; empty: random filters."""
    kind: Kind = "vgg"
    """The classifier of these weights."""

    def suits(self, data: Any, model: Any) -> str:
        """See `Score`: of a model that is given the one image that it makes."""
        del data
        given, wanted = model.request((), ()) if model.wantable else ((), ())
        images = [m for m in model.modalities if m.name in wanted and isinstance(m, Image)]
        same = given == wanted and len(images) == 1
        return "" if same else "it compares an image with its reconstruction"

    def __call__(self, samples: Samples) -> list[Row]:
        """See `Score`."""
        truth, made = samples.truth, samples.made
        rows = [mean_row("psnr", psnr(truth, made))]
        if min(truth.shape[1:3]) >= SIDE:
            rows.append(mean_row("ssim", ssim(truth, made)))
        label, apart = self._distance()
        return [*rows, mean_row(label, in_chunks(apart, truth, made)), feature_row(truth, made)]

    def _distance(self) -> tuple[str, Any]:
        if not self.lpips:
            filters = RandomFeatures()
            return filters.label, jax.jit(lambda a, b: filters.distance({}, a, b))
        model = LpipsDistance(self.kind)
        params = model.read(self.lpips)
        return model.label, jax.jit(lambda a, b: model.distance(params, a, b))


def psnr(truth: Pictures, made: Pictures) -> Float[np.ndarray, "n"]:
    """Of each image, in decibels; 100 for equal ones."""
    square = np.mean((truth.astype(np.float64) - made.astype(np.float64)) ** 2, axis=(1, 2, 3))
    return np.minimum(100.0, 10 * np.log10(255.0**2 / np.maximum(square, 1e-12)))


@functools.cache
def _window() -> Float[np.ndarray, "k"]:
    u = np.arange(SIDE) - SIDE // 2
    weights = np.exp(-(u**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _smooth(x: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n r s c"]:
    """Means under the window, where it lies within."""
    for axis in (1, 2):
        x = np.lib.stride_tricks.sliding_window_view(x, SIDE, axis=axis) @ _window()
    return x


def ssim(truth: Pictures, made: Pictures) -> Float[np.ndarray, "n"]:
    """Of each image of at least 11 x 11 pixels."""
    found = []
    for at in range(0, len(truth), CHUNK):
        x, y = (one[at : at + CHUNK].astype(np.float64) for one in (truth, made))
        a, b = _smooth(x), _smooth(y)
        xx, yy, xy = _smooth(x * x) - a * a, _smooth(y * y) - b * b, _smooth(x * y) - a * b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        each = (2 * a * b + c1) * (2 * xy + c2) / ((a * a + b * b + c1) * (xx + yy + c2))
        found.append(each.mean(axis=(1, 2, 3)))
    return np.concatenate(found)


def _model_space(x: Pictures) -> Float[Array, "n h w c"]:
    return jnp.asarray(x, jnp.float32) / 127.5 - 1.0


def in_chunks(apart: Any, truth: Pictures, made: Pictures) -> Float[np.ndarray, "n *d"]:
    """What `apart` gives for each pair; the last chunk is filled up, so that one program serves all."""
    found = []
    for at in range(0, len(truth), CHUNK):
        pair = [one[at : at + CHUNK] for one in (truth, made)]
        short = CHUNK - len(pair[0])
        a, b = (_model_space(np.concatenate([one, np.repeat(one[-1:], short, axis=0)])) for one in pair)
        found.append(np.asarray(apart(a, b))[: CHUNK - short])
    return np.concatenate(found)


def feature_row(truth: Pictures, made: Pictures) -> Row:
    """The reconstruction Frechet distance in the space of random filters."""
    network = RandomFeatures()

    @jax.jit
    def means(a: Array, b: Array) -> Array:
        del b
        return jnp.concatenate([jnp.mean(f, axis=(1, 2)) for f in network.features(a)], axis=-1)

    first, second = (in_chunks(means, x, x) for x in (truth, made))
    row = {"metric": f"reconstruction_frechet/{network.label}", "value": frechet(first, second)}
    return row | {"low": None, "high": None, "chance": None, "n": len(made)}


def mean_row(metric: str, each: Float[np.ndarray, "n"]) -> Row:
    """A mean over images with a normal 95 % interval."""
    mean, error = float(each.mean()), 1.96 * float(each.std(ddof=1)) / np.sqrt(len(each))
    return {"metric": metric, "value": mean, "low": mean - error, "high": mean + error, "chance": None, "n": len(each)}
