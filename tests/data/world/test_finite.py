"""The finite variant: its list, the posterior against float64, limits and floors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.data.world import finite
from unified_jax.data.world.render import render_image
from unified_jax.data.world.scene import held_out, sample_scene

IMAGES = finite.finite_images(16)


def brute_force(x_t, alpha, sigma, scenes, log_prior=None):
    """Equations (1) and (2) word for word, in float64."""
    x_t, scenes = x_t.astype(np.float64), scenes.astype(np.float64)
    square = ((x_t[:, None] - alpha[:, None, None, None, None] * scenes) ** 2).sum((2, 3, 4))
    logits = -square / (2 * sigma[:, None] ** 2) + (0 if log_prior is None else log_prior)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return weights, np.tensordot(weights, scenes, 1)


def test_the_lists_agree():
    everything, train, kept = (finite.finite_attributes(split) for split in ("all", "train", "held_out"))
    assert len(everything) == 1296 and len(train) + len(kept) == 1296
    assert all(held_out(*row[:3]) for row in kept.tolist()) and not any(held_out(*row[:3]) for row in train.tolist())
    np.testing.assert_array_equal(finite.finite_attributes("test"), train)
    np.testing.assert_array_equal(everything[finite.finite_ids("held_out")], kept)
    assert finite.finite_ids("all").tolist() == list(range(1296))
    with pytest.raises(ValueError, match="no split 'valid'"):
        finite.finite_attributes("valid")


def test_images_are_distinct_and_those_of_the_world():
    assert IMAGES.shape == (len(finite.finite_ids()), 16, 16, 3) and IMAGES.dtype == np.float32
    assert (
        IMAGES.min() >= -1
        and IMAGES.max() <= 1
        and len(np.unique(IMAGES.reshape(len(IMAGES), -1), axis=0)) == len(IMAGES)
    )
    rows = {tuple(row): n for n, row in enumerate(finite.finite_attributes().tolist())}
    for id in range(30):
        scene = sample_scene(0, "train", id, 1, False)
        o = scene.objects[0]
        expected = render_image(scene, 16) / np.float32(127.5) - 1
        np.testing.assert_allclose(IMAGES[rows[o.shape, o.colour, o.size, o.place]], expected, atol=1e-6)


@pytest.mark.parametrize("prior", [False, True])
def test_posterior_equals_brute_force(prior):
    rng = np.random.default_rng(0)
    scenes = IMAGES[::7]
    log_prior = rng.standard_normal(len(scenes)).astype(np.float32) if prior else None
    sigma = np.array([0.05, 0.3, 0.7, 1.0, 2.0, 5.0], np.float32)
    alpha = np.array([1.0, 0.9, 0.5, 0.2, 1.0, 0.7], np.float32)
    noise = rng.standard_normal((6, 16, 16, 3))
    x_t = (alpha[:, None, None, None] * scenes[:6] + sigma[:, None, None, None] * noise).astype(np.float32)
    weights, mean = brute_force(x_t, alpha, sigma, scenes, log_prior)
    log_p = None if log_prior is None else jnp.asarray(log_prior)
    x_t, alpha, sigma, scenes = (jnp.asarray(a) for a in (x_t, alpha, sigma, scenes))
    np.testing.assert_allclose(finite.posterior_weights(x_t, alpha, sigma, scenes, log_p), weights, atol=1e-4)
    np.testing.assert_allclose(jax.jit(finite.posterior_mean)(x_t, alpha, sigma, scenes, log_p), mean, atol=1e-4)


@pytest.mark.parametrize("wrap", [jax.jit, lambda function: function], ids=["jit", "eager"])
def test_posterior_limits_are_finite(wrap):
    scenes = jnp.asarray(IMAGES[::7])
    x_t = jnp.concatenate([scenes[:5], jnp.zeros_like(scenes[:2])])
    alpha = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    sigma = jnp.array([0.0, 1e-8, 1e-6, 1e-5, 1e-3, 1.0, 0.0])
    mean = wrap(finite.posterior_mean)(x_t, alpha, sigma, scenes)
    np.testing.assert_allclose(mean[:5], scenes[:5], atol=1e-6)
    np.testing.assert_allclose(mean[5:], jnp.broadcast_to(scenes.mean(0), (2, 16, 16, 3)), atol=1e-5)


def test_posterior_respects_an_excluded_scene():
    scenes = jnp.asarray(IMAGES[:20])
    log_prior = jnp.zeros(20).at[3].set(-jnp.inf)
    weights = finite.posterior_weights(scenes[3:4], jnp.ones(1), jnp.full(1, 0.5), scenes, log_prior)
    assert float(weights[0, 3]) == 0 and abs(float(weights.sum()) - 1) < 1e-5


def test_mmse_limits():
    scenes, key = jnp.asarray(IMAGES), jax.random.key(0)
    assert finite.mmse(1.0, 0.0, scenes, key, 256)[0] < 1e-6
    assert finite.mmse(1.0, 0.01, scenes, key, 256)[0] < 1e-6
    value, error = finite.mmse(0.0, 1.0, scenes, key, 256)
    np.testing.assert_allclose(value, IMAGES.var(0).mean(), rtol=1e-4)
    assert error < 1e-6


def test_mmse_grows_with_noise():
    scenes = jnp.asarray(IMAGES)
    values = [finite.mmse(1.0, sigma, scenes, jax.random.key(1), 512)[0] for sigma in (0.3, 1.0, 3.0, 10.0)]
    assert values == sorted(values) and values[-1] < IMAGES.var(0).mean()


def test_mmse_is_the_error_of_the_denoiser():
    scenes = jnp.asarray(IMAGES)
    value, error = finite.mmse(0.6, 0.8, scenes, jax.random.key(2), 2048)
    key_scene, key_noise = jax.random.split(jax.random.key(3))
    x0 = scenes[jax.random.randint(key_scene, (2048,), 0, len(scenes))]
    x_t = 0.6 * x0 + 0.8 * jax.random.normal(key_noise, x0.shape)
    mean = finite.posterior_mean(x_t, jnp.full(2048, 0.6), jnp.full(2048, 0.8), scenes)
    errors = np.square(np.asarray(mean - x0)).mean((1, 2, 3))
    assert abs(errors.mean() - value) < 4 * np.hypot(error, errors.std() / np.sqrt(2048))


@pytest.mark.parametrize(("p", "q"), [(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (-0.8, 0.6)])
def test_loss_floor_is_the_error_on_the_target(p, q):
    alpha, sigma, scenes = 0.6, 0.8, jnp.asarray(IMAGES)
    value, error = finite.loss_floor(alpha, sigma, p, q, scenes, jax.random.key(4), 1024)
    keys = jax.random.split(jax.random.key(5))
    x0 = scenes[jax.random.randint(keys[0], (1024,), 0, len(scenes))]
    eps = jax.random.normal(keys[1], x0.shape)
    x_t = alpha * x0 + sigma * eps
    mean = finite.posterior_mean(x_t, jnp.full(1024, alpha), jnp.full(1024, sigma), scenes)
    best = p * mean + q * (x_t - alpha * mean) / sigma
    errors = np.square(np.asarray(best - (p * x0 + q * eps))).mean((1, 2, 3))
    assert abs(errors.mean() - value) < 4 * np.hypot(error, errors.std() / 32)


def test_loss_floor_limits():
    scenes, key = jnp.asarray(IMAGES), jax.random.key(6)
    assert finite.loss_floor(1.0, 0.02, 0.0, 1.0, scenes, key, 256)[0] < 1e-3
    assert abs(finite.loss_floor(1.0, 0.0, -1.0, 1.0, scenes, key, 256)[0] - 1) < 1e-5
    np.testing.assert_allclose(
        finite.loss_floor(0.0, 1.0, -1.0, 1.0, scenes, key, 256)[0], IMAGES.var(0).mean(), rtol=1e-4
    )
