"""What a Diffusion shows its network in training, and what the metrics make of its answer, counted by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan

MODEL = Diffusion(modality=Image(4, 6, 1, 2), conditions=(Label("shape", 6), Label("colour", 8)), time_bins=4)
COUNT = 64
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (COUNT, 4, 6, 1), np.uint8),
    "slot": np.arange(COUNT, dtype=np.int32),
    "shape": np.arange(COUNT, dtype=np.int32) % 6,
    "colour": np.arange(COUNT, dtype=np.int32) % 8,
}
X0 = BATCH["image"] / 127.5 - 1.0


@pytest.fixture
def train(monkeypatch):
    """model -> (what its network was shown: x_t, t, labels; terms; metrics), the network's output being zero."""

    def losses(model):
        shown = []

        def call(self, params, noisy, conditions, capture=()):
            (one,), labels = noisy, jnp.stack([condition.value for condition in conditions], axis=1)
            shown.append([np.asarray(value) for value in (one.x, one.t / model.process.time_scale, labels)])
            return {"image": jnp.zeros_like(one.x)}, {}

        monkeypatch.setattr(Diffusion, "call", call)
        terms, _, metrics = model.losses({}, {}, BATCH, jax.random.key(3))
        return shown[0], terms, metrics

    return losses


def test_flips_are_left_to_right_and_half_of_them(train):
    """Almost without noise, what is shown is the picture or its mirror image."""
    clear = RectifiedFlow(noise_end=1e-3)
    for flip, least, most in ((False, 0, 0), (True, COUNT // 4, 3 * COUNT // 4)):
        (x_t, _, _), _, _ = train(dataclasses.replace(MODEL, process=clear, flip=flip))
        gaps = [np.abs(x_t - wanted).max((1, 2, 3)) for wanted in (X0, X0[:, :, ::-1])]
        assert (np.minimum(*gaps) < 0.02).all()
        assert least <= (gaps[1] < 0.02).sum() <= most


def test_the_loss_by_time_counts_each_example_in_its_bin(train):
    (x_t, t, _), terms, metrics = train(MODEL)
    shaped = t[:, None, None, None]
    losses = np.mean(((x_t - X0) / shaped) ** 2, axis=(1, 2, 3))  # the velocity is eps - x0 = (x_t - x0) / t
    np.testing.assert_allclose(terms["mse"][0], losses, rtol=2e-3)
    sums, weights = metrics["loss_by_time"]
    bins = np.minimum((4 * t).astype(int), 3)
    assert np.bincount(bins, minlength=4).min() > 5
    np.testing.assert_array_equal(weights, np.bincount(bins, minlength=4))
    np.testing.assert_allclose(sums, np.bincount(bins, losses, minlength=4), rtol=2e-3)


def test_time_noise_and_drops_are_drawn_apart(train):
    """Of every example: noise that does not follow its time, another example's noise, or what is dropped of it."""
    (x_t, t, labels), _, _ = train(dataclasses.replace(MODEL, drop_all=0.5))
    eps = (x_t - (1 - t[:, None, None, None]) * X0).reshape(COUNT, -1) / t[:, None]
    assert np.std(eps) == pytest.approx(1.0, abs=0.1)
    assert len(np.unique(t)) == COUNT
    assert np.abs(np.corrcoef(eps) - np.eye(COUNT)).max() < 0.85  # 24 numbers each
    dropped = labels == [6, 8]
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 1])
    np.testing.assert_array_equal(
        labels[~dropped[:, 0]], np.stack([BATCH["shape"], BATCH["colour"]], 1)[~dropped[:, 0]]
    )
    assert COUNT // 4 < dropped[:, 0].sum() < 3 * COUNT // 4
    assert abs(np.corrcoef(dropped[:, 0], t)[0, 1]) < 0.5


@dataclasses.dataclass(frozen=True)
class Once(Euler):
    """A sampler that answers with x0 as it is predicted half way from the noise it starts at."""

    def __call__(self, denoise, process, x, grid, keys):
        return denoise(x, jnp.full(len(x), 0.5)).x0


@pytest.mark.parametrize("clip", [False, True])
def test_a_sample_is_guided_away_from_the_null_labels_and_clipped_if_asked(monkeypatch, clip):
    """The velocity that the network gives is its labels' sum: 2 + 3 with what is given, 2 + 8 where one is not."""

    def call(self, params, noisy, conditions, capture=()):
        velocity = sum(condition.value for condition in conditions)
        return {"image": 0 * noisy[0].x + velocity[:, None, None, None]}, {}

    monkeypatch.setattr(Diffusion, "call", call)
    keys, plan = keys_of(4), SamplingPlan(Once(), 1, clip=clip)
    zero = {"shape": jnp.zeros(4), "colour": jnp.zeros(4)}
    noise = MODEL.generate({}, zero, ("image",), keys, SamplingPlan(Once(), 1))["image"]
    assert np.std(noise) == pytest.approx(1.0, abs=0.2)
    for given, scale, velocity in (
        ({"shape": 2, "colour": 3}, 1.0, 5.0), ({"shape": 2}, 1.0, 10.0), ({}, 1.0, 14.0),
        ({"shape": 2, "colour": 3}, 3.0, 14 + 3 * (5.0 - 14)),
    ):  # fmt: skip
        labels = {name: jnp.full(4, value) for name, value in given.items()}
        guided = dataclasses.replace(plan, guidance=Guidance(scale))
        found = MODEL.generate({}, labels, ("image",), keys, guided)["image"]
        wanted = noise - 0.5 * velocity
        np.testing.assert_allclose(found, jnp.clip(wanted, -1, 1) if clip else wanted, atol=1e-5)
