"""Interpolation between two images by a model of several streams: its ends, and each step written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import keys_of
from tests.models.small import FIELDS, IMAGE, Small, batch_of, joint, noise_of, weights
from unified_jax.errors import UserError
from unified_jax.layers.form import NoisyInput
from unified_jax.models.between import between
from unified_jax.models.edited import IMAGE as FIRST, OTHER, SHARE, Edit, Edited
from unified_jax.precision import seed_key
from unified_jax.runs.image_edits import check_edit
from unified_jax.samplers.choice import Euler
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan

STEPS, SCALE, CALLS = 4, 1.5, 20
TIMES = np.linspace(1.0, 0.0, STEPS + 1, dtype=np.float32)
DOWN = np.stack([TIMES[:-1], TIMES[1:]], axis=1)
UP = DOWN[::-1, ::-1]
MODEL = joint(Small())
PARAMS = weights(MODEL, 0.03)
PAIR = tuple(batch_of(MODEL, 1, seed)["image"] for seed in (1, 2))


def velocities(image, image_t, audio, audio_t):
    """The network's answers, by stream; its times are 1,000 of ours."""
    told = {"image": (image, 1000.0 * image_t), "audio": (audio, 1000.0 * audio_t)}
    noisy = tuple(NoisyInput(s.form, told[s.label][0], jnp.full(1, told[s.label][1])) for s in MODEL.streams)
    return MODEL.call(PARAMS, noisy, ())[0]


def slerped(a, b, u):
    """sin((1 - u) w) / sin w a + sin(u w) / sin w b, w the angle between them."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    angle = np.arccos(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))
    return jnp.asarray((np.sin((1 - u) * angle) * a + np.sin(u * angle) * b) / np.sin(angle), jnp.float32)


def absent(name, keys):
    """The pure noise of a stream that is absent."""
    return noise_of(FIELDS, jax.vmap(lambda key: jax.random.fold_in(key, 7003))(keys))[name]


@jax.jit
def read_by_hand(image, noise, nothing):
    """(the noise of an image, the sound that is sampled given it, guided away from no image)."""

    def step(audio, times):
        t, s = times
        given, alone = velocities(image, 0.0, audio, t)["audio"], velocities(nothing, 1.0, audio, t)["audio"]
        return audio + (s - t) * (alone + SCALE * (given - alone)), None

    def back(x, times):  # x at t from which a step leads to x at s
        s, t = times
        closer = lambda _, at: x + (t - s) * velocities(at, t, audio, 0.0)["image"]  # noqa: E731
        return jax.lax.fori_loop(0, CALLS, closer, x), None

    audio = jax.lax.scan(step, noise, DOWN)[0]
    return jax.lax.scan(back, image, UP)[0], audio


@jax.jit
def drawn_by_hand(x, audio, nothing):
    def step(x, times):
        t, s = times
        given, alone = velocities(x, t, audio, 0.0)["image"], velocities(x, t, nothing, 1.0)["image"]
        return x + (s - t) * (alone + SCALE * (given - alone)), None

    return jax.lax.scan(step, x, DOWN)[0]


def test_a_mixed_sample_is_what_its_steps_say():
    keys, one, plan = keys_of(1, 5), seed_key(0)[None], SamplingPlan(Euler(), STEPS, Guidance(SCALE))
    images = [IMAGE.to_model(image) for image in PAIR]
    (na, ya), (nb, yb) = (read_by_hand(x, noise_of(FIELDS, one)["audio"], absent("image", one)) for x in images)
    made = jax.jit(lambda u: between(MODEL, PARAMS, {}, PAIR, u, keys, plan, CALLS))(jnp.asarray([0.3]))
    audio = slerped(ya, yb, 0.3)
    np.testing.assert_allclose(made["audio"], audio, atol=2e-5)
    expected = drawn_by_hand(slerped(na, nb, 0.3), audio, absent("audio", keys))
    np.testing.assert_allclose(made["image"], expected, atol=5e-5)
    assert np.abs(made["image"] - images[0]).max() > 0.1


@pytest.mark.nightly
def test_the_first_and_the_last_sample_are_the_two_images():
    rows = [np.repeat(image, 2, axis=0) for image in PAIR]
    given = {FIRST: rows[0], OTHER: rows[1], SHARE: np.asarray([0.0, 1.0], np.float32)}
    edited, plan = Edited(MODEL, Edit("interpolate", iterations=CALLS)), SamplingPlan(Euler(), STEPS)
    made = jax.jit(lambda keys: edited.generate(PARAMS, given, ("image", "audio"), keys, plan))(keys_of(2))
    for found, image in zip(made["image"], PAIR, strict=True):
        np.testing.assert_allclose(found, IMAGE.to_model(image)[0], atol=1e-4)
    assert made["audio"].shape == (2, *FIELDS["audio"].shape)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(UserError, match="Interpolation reads 'audio' from the two images"):
        between(MODEL, PARAMS, {"audio": batch_of(MODEL, 1)["audio"]}, PAIR, jnp.zeros(1), keys_of(1), SamplingPlan())
    with pytest.raises(UserError, match="this model denoises several"):
        check_edit(Edit("vary"), MODEL, SamplingPlan())
