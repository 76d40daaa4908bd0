"""Masked diffusion against a distribution whose conditionals are known: every pair of bits but (1, 1) is equally
likely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.processes.grids import uniform_grid
from unified_jax.processes.masking import Masking
from unified_jax.samplers.masked import masked

PAIRS = np.asarray([(0, 0), (0, 1), (1, 0)])
PROCESS = Masking(vocabulary=2)


def exact(x_t, t):
    """Conditional log-probabilities of each place given the visible ones."""
    del t
    fits = jnp.all((x_t[:, None] == PROCESS.mask) | (x_t[:, None] == PAIRS), axis=-1)
    weight = fits / jnp.sum(fits, axis=1, keepdims=True)
    ones = weight @ PAIRS
    return jnp.log(jnp.maximum(jnp.stack([1 - ones, ones], -1), 1e-30))


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bound_of_the_exact_denoiser_is_the_entropy(schedule):
    """For masked diffusion the bound is tight: the order in which places are revealed is all that is random."""
    process = Masking(2, schedule, least_time=1e-4)
    count = 60_000
    x0 = jnp.asarray(PAIRS[np.arange(count) % 3])
    t = process.draw_times(keys_of(count))
    x_t = process.corrupt(x0, t, keys_of(count, 1))
    nats = 2 * np.asarray(process.losses(exact(x_t, t), x0, x_t, t)["nelbo"])
    assert abs(nats.mean() - np.log(3)) < 4 * nats.std() / np.sqrt(count) + 1e-3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_samples_follow_the_distribution(schedule):
    process = Masking(2, schedule)
    x = jnp.full((9000, 2), process.mask)
    found = np.asarray(jax.jit(lambda x: masked(exact, process, x, uniform_grid(40), keys_of(9000)))(x))
    assert set(np.unique(found)) <= {0, 1}
    counts = np.bincount(2 * found[:, 0] + found[:, 1], minlength=4) / 9000
    # Two places revealed in one step are drawn independently, which 40 steps make rare.
    np.testing.assert_allclose(counts, [1 / 3, 1 / 3, 1 / 3, 0], atol=0.02)


def test_given_tokens_stay_and_samples_do_not_depend_on_the_batch():
    x = jnp.full((6, 2), PROCESS.mask).at[:, 0].set(1)
    whole = masked(exact, PROCESS, x, uniform_grid(10), keys_of(6))
    np.testing.assert_array_equal(whole, np.asarray([[1, 0]] * 6))
    free = jnp.full((6, 2), PROCESS.mask)
    both = masked(exact, PROCESS, free, uniform_grid(10), keys_of(6))
    np.testing.assert_array_equal(masked(exact, PROCESS, free[2:4], uniform_grid(10), keys_of(6)[2:4]), both[2:4])


def test_greedy_decoding_takes_the_likeliest():
    logits = jnp.log(jnp.asarray([[[0.1, 0.9]]]))
    found = PROCESS.reveal(logits, jnp.full((1, 1), PROCESS.mask), jnp.asarray(1.0), jnp.asarray(0.0), keys_of(1), 0.0)
    assert int(found[0, 0]) == 1


def test_bad_processes_are_refused():
    with pytest.raises(ValueError, match="vocabulary"):
        Masking(0)
