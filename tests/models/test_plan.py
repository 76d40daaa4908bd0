"""Plans: every sampler over every kind of process, from the command line's text to samples of known moments."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import gaussian_denoiser
from unified_jax.config import from_plain, to_plain
from unified_jax.errors import UserError
from unified_jax.processes.edm import Edm
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant, RectifiedFlow
from unified_jax.processes.levels import NoiseLevels
from unified_jax.processes.paths import Gvp, Vp
from unified_jax.runs.sampling_flags import parse_sampler, sampler_names, with_flags
from unified_jax.samplers.choice import AnySampler, Ddim, DpmSolver, Heun, Karras, Sampler, Sde
from unified_jax.samplers.guidance import Axis, Guidance
from unified_jax.samplers.karras import Churn
from unified_jax.samplers.loop import START, normal_like
from unified_jax.samplers.plan import SamplingPlan

MEAN, STD = 0.3, 0.5
PROCESSES = {
    "flow": RectifiedFlow(),
    "gvp": Interpolant("velocity", Gvp()),
    "vp": Interpolant("eps", Vp()),
    "edm": Edm(sigma_data=STD),
    "chain": DiscreteGaussian("squared_cosine", 200, target="v"),
    "zero snr": DiscreteGaussian("linear", 200, target="v", zero_snr=True),
}
UNFIT = {"Ddpm": ("flow", "gvp", "vp", "edm"), "Karras": ("flow", "gvp", "vp"), "Sde": ("edm", "chain", "zero snr")}


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", get_args(AnySampler), ids=lambda cls: cls.__name__)
def test_every_sampler_on_every_process(sampler, name):
    process, plan = PROCESSES[name], SamplingPlan(sampler(), steps=60)
    assert isinstance(plan.sampler, Sampler)
    if name in UNFIT.get(sampler.__name__, ()):
        with pytest.raises(UserError, match=sampler.__name__):
            plan.prepare(process)
        return
    process, grid = plan.prepare(process)
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    def run(keys):
        noise = normal_like(keys, START, jnp.zeros((4000, 1)))
        x = process.start(noise, jnp.full(4000, grid[0]))
        return plan.run(gaussian_denoiser(process, MEAN, STD), process, x, grid, keys)

    found = np.asarray(run(keys))
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.06)
    assert float(found.std()) == pytest.approx(STD, abs=0.06)


@pytest.mark.parametrize("spacing", ["default", "leading", "trailing", "karras", "exponential", "beta"])
def test_spacings(spacing):
    for process in (RectifiedFlow(), Edm(), DiscreteGaussian()):
        plan = SamplingPlan(Heun(), 12, spacing=spacing)
        if spacing in ("leading", "trailing") and not isinstance(process, DiscreteGaussian):
            with pytest.raises(UserError, match="for discrete processes"):
                plan.prepare(process)
            continue
        made, grid = plan.prepare(process)
        assert len(grid) == 13
        assert (np.diff(grid) < 0).all()
        assert grid[-1] == 0
        assert isinstance(made, NoiseLevels) == isinstance(process, DiscreteGaussian)
    kept, grid = SamplingPlan(Ddim(), 10, spacing="trailing").prepare(DiscreteGaussian())
    assert kept.timesteps[-1] == 999
    assert grid.tolist() == list(range(9, -2, -1))
    with pytest.raises(UserError, match="whole steps"):
        SamplingPlan(sampler_names()["ddpm"](), 10, spacing="karras").prepare(DiscreteGaussian())


def test_the_command_line_names_samplers():
    assert parse_sampler("heun") == Heun()
    assert parse_sampler("ddim:eta=0.5") == Ddim(0.5)
    assert parse_sampler("dpm_solver:order=3,sde=true") == DpmSolver(3, sde=True)
    assert parse_sampler("sde:form=linear,last=tweedie,last_size=0.02") == Sde(
        form="linear", last="tweedie", last_size=0.02
    )
    assert parse_sampler("karras:churn=40,low=0.05,high=50") == Karras(Churn(40.0, 0.05, 50.0))
    assert set(sampler_names()) >= {"euler", "heun", "dopri5", "euler_ancestral", "uni_pc", "dpm_fast"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rk4", r"'rk4' is unknown\. Expected one of ddim, "),
        ("huen", r"is unknown; did you mean heun\?"),
        ("ddim:eta=0.5,eta=0.7", "eta is given twice"),
        ("ddim:beta=1", "options: eta"),
        ("ddim:eta=much", "a finite number"),
        ("ddim:eta=-1", "not be negative"),
        ("dpm_solver:sde=maybe", "true or false"),
        ("dpm_solver:form=simpson", "one of midpoint, heun"),
        ("heun:x", "expected option=value, found 'x'; its options: "),
    ],
)
def test_bad_samplers_are_a_sentence(text, words):
    with pytest.raises(UserError, match=words):
        parse_sampler(text)


def test_plans_are_configuration():
    plan = SamplingPlan(DpmSolver(3), 20, spacing="karras")
    assert from_plain(to_plain(plan)) == plan
    assert plan.with_steps(7, 3.0).guidance.scale == 3.0
    with pytest.raises(UserError, match="at least one step"):
        SamplingPlan(steps=0)


def test_flags_of_guidance_replace_the_runs_and_do_not_lose_each_other():
    def said(plan, **flags):
        return with_flags(plan, {"axes": (), "sampler": "", **flags}).guidance

    ranged = SamplingPlan(guidance=Guidance(3.0, high=0.8, power=2.0))
    several = SamplingPlan(guidance=Guidance(axes=(Axis(("colour",), 2.0),)))
    found = said(ranged, axes=("shape=3",))
    assert (found.axes, found.scale, found.high, found.power) == ((Axis(("shape",), 3.0),), 1.0, 1.0, 0.0)
    assert said(several, guidance=3.0) == Guidance(3.0)
    assert said(several) == several.guidance
    with pytest.raises(UserError, match="leave --guidance out"):
        said(ranged, axes=("shape=3",), guidance=2.0)
