"""Grids: a sweep over samplers, processes, spacings, numbers of steps and shifts; what has no effect is refused."""

import itertools
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.errors import UserError
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.grids import GridRequest, Needs, Spacing, check_falls, spaced_steps, uniform_grid
from unified_jax.processes.interpolant import Interpolant
from unified_jax.processes.levels import NoiseLevels
from unified_jax.processes.paths import Gvp, Vp
from unified_jax.processes.times import shift_times
from unified_jax.samplers.choice import Ddim, Ddpm, Dopri5, DpmFast, DpmSolver, Euler, Karras, Sde, UniPc
from unified_jax.samplers.plan import SamplingPlan

PROCESSES = {
    "flow": Interpolant(),
    "flow within": Interpolant("eps", noise_end=0.999, data_end=0.02),
    "gvp": Interpolant("score", Gvp(), noise_end=0.98, data_end=0.01),
    "vp": Interpolant(path=Vp(), data_end=0.001),
    "vp near": Interpolant(path=Vp(), data_end=0.0005),
    "edm": Edm(),
    "chain": DiscreteGaussian(),
    "short chain": DiscreteGaussian("squared_cosine", 100, target="v", zero_snr=True),
}
SAMPLERS = (
    *(Euler(), Dopri5(), Ddim(), Ddpm(), DpmSolver(of_eps=True), DpmFast(), UniPc()),
    *(Sde(), Sde(form="sbdm"), Karras()),
)


@pytest.mark.parametrize("name", PROCESSES)
def test_grids_fall_between_the_ends_that_were_asked_for(name):
    process, made = PROCESSES[name], 0
    for sampler, spacing, steps, shift in itertools.product(SAMPLERS, get_args(Spacing), (1, 7, 61), (1.0, 3.0)):
        where, needs = (sampler, spacing, steps, shift), sampler.needs
        try:
            view, grid = SamplingPlan(sampler, steps, spacing=spacing, shift=shift).prepare(process)
        except UserError:
            continue
        made += 1
        assert (np.diff(np.asarray(grid, np.float32)) < 0).all(), where
        assert needs.adaptive or len(grid) == steps + 1, where
        alpha, sigma = (np.asarray(v) for v in view.alpha_sigma(jnp.asarray(grid[[0, -1]])))
        assert not (needs.below_noise and alpha[0] == 0) and not (needs.above_data and sigma[1] == 0), where
        if isinstance(process, Interpolant):
            assert needs.below_noise or grid[0] == process.noise_end, where
            assert needs.above_data or grid[-1] == process.data_end, where
            continue
        assert needs.above_data or sigma[1] == 0, where
        if isinstance(view, DiscreteGaussian):
            assert spacing == "leading" or view.timesteps[-1] == view.steps - 1, where
        elif spacing != "leading":
            assert grid[0] == pytest.approx(view.sigma_max, rel=1e-6), where
    assert made > 30


def test_a_lowest_time_leaves_the_first_where_it_is():
    process = Interpolant("eps", noise_end=0.9)
    grid = SamplingPlan(steps=4, shift=3.0, lowest=0.01).prepare(process)[1]
    assert grid[0] == pytest.approx(0.9) and grid[-2] == pytest.approx(shift_times(0.01, 3.0))
    np.testing.assert_allclose(np.diff(shift_times(grid[:-1], 1 / 3.0), n=2), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("plan", "process", "words"),
    [
        (SamplingPlan(Dopri5(), last="first"), DiscreteGaussian(), "last 'first' has no effect here"),
        (SamplingPlan(Euler(), whole=True), Edm(), "whole True has no effect here"),
        (SamplingPlan(Ddim(), steps=1, spacing="leading", last="first"), DiscreteGaussian(), "begins where it ends"),
    ],
)
def test_options_without_an_effect_and_grids_without_a_step_are_refused(plan, process, words):
    with pytest.raises(UserError, match=words):
        plan.prepare(process)


def test_a_shift_moves_the_times_between_the_ends_as_the_formula_says():
    np.testing.assert_array_equal(uniform_grid(7, 3.0), shift_times(np.linspace(1.0, 0.0, 8), 3.0))
    within = uniform_grid(5, 3.0, 0.98, 0.02)
    assert (within[0], within[-1]) == (0.98, 0.02)
    np.testing.assert_allclose(np.diff(shift_times(within, 1 / 3.0), n=2), 0.0, atol=1e-12)  # even before the shift


@pytest.mark.parametrize("total", [100, 500, 1000, 4000])
def test_every_spacing_visits_as_many_steps_as_were_asked_for(total):
    for spacing in ("linspace", "leading", "trailing"):
        for steps in (1, 2, 3, 61, 76, 99, total // 3, total - 1, total):
            visited = spaced_steps(total, steps, spacing)
            assert len(visited) == steps and visited.min() >= 0 and (np.diff(visited) < 0).all()
            assert spacing == "leading" or visited.max() == total - 1


@pytest.mark.parametrize(
    ("plan", "name", "words"),
    [
        (SamplingPlan(Ddim(), 5, shift=3.0), "chain", "shift 3.0 has no effect"),
        (SamplingPlan(Euler(), 5, shift=3.0), "edm", "shift 3.0 has no effect"),
        (SamplingPlan(Euler(), 5, shift=3.0, spacing="karras"), "flow", "'karras' places the times itself"),
        (SamplingPlan(Sde(), 5, spacing="leading"), "flow", "spacing 'leading' has no effect"),
        (SamplingPlan(Sde(last_size=0.98), 5), "flow within", "leaves nothing of the times"),
        (SamplingPlan(Sde(), 1), "flow", "at least two steps"),
        (SamplingPlan(Dopri5(), spacing="karras"), "edm", "Dopri5 chooses its own times"),
        (SamplingPlan(Dopri5(), shift=2.0), "flow", "Dopri5 chooses its own times"),
        (SamplingPlan(Ddim(), 101), "short chain", "has 100 steps"),
        (SamplingPlan(Euler(), 20_000, spacing="beta"), "flow", "cannot tell apart"),
    ],
)
def test_what_has_no_effect_or_no_room_is_a_sentence(plan, name, words):
    with pytest.raises(UserError, match=words):
        plan.prepare(PROCESSES[name])


def test_a_process_of_ones_own_answers_a_request_by_the_same_functions():
    levels = NoiseLevels(DiscreteGaussian())
    view, grid = levels.grid(GridRequest(10, needs=Needs(over="either")))
    assert view.timesteps[-1] == 999 and grid.tolist() == list(range(9, -2, -1))
    with pytest.raises(UserError, match="cannot tell apart"):
        check_falls(np.asarray([1.0, np.nan, 0.0]), GridRequest())
