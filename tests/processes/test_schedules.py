import numpy as np
import pytest

from unified_jax.processes.schedules import make_betas, space_timesteps, zero_terminal_snr

ALL = ["linear", "scaled_linear", "squared_cosine", "sigmoid", "constant", "jsd", "warmup10", "warmup50"]


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("steps", [10, 1000])
def test_betas_are_variances(schedule, steps):
    betas = make_betas(schedule, steps)
    assert betas.shape == (steps,)
    assert betas.dtype == np.float64
    assert (betas > 0).all()
    assert (betas <= 1).all()


def test_linear_ends_and_squared_cosine_formula():
    betas = make_betas("linear", 1000)
    assert betas[0] == 1e-4
    assert betas[-1] == 0.02
    abar = np.cumprod(1 - make_betas("squared_cosine", 1000))
    t = 500 / 1000
    start = np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert abar[499] == pytest.approx(np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / start, rel=1e-9)


def test_zero_terminal_snr_keeps_the_first_step():
    betas = make_betas("linear", 100, 1e-3, 0.2)
    rescaled = np.cumprod(1 - zero_terminal_snr(betas))
    assert rescaled[-1] == pytest.approx(0.0, abs=1e-12)
    assert rescaled[0] == pytest.approx(1 - betas[0])


def test_respacing():
    assert space_timesteps(1000, "1000") == tuple(range(1000))
    assert space_timesteps(1000, "ddim50") == tuple(range(0, 1000, 20))
    spread = space_timesteps(1000, "250")
    assert (len(spread), spread[0], spread[-1]) == (250, 0, 999)
    parts = space_timesteps(300, "10,15,20")
    assert [sum(low <= t < low + 100 for t in parts) for low in (0, 100, 200)] == [10, 15, 20]


@pytest.mark.parametrize("sections", ["ddim37", "1001", "0", "600,600"])
def test_impossible_respacing_is_a_sentence(sections):
    with pytest.raises(ValueError, match="keep"):
        space_timesteps(1000, sections)
