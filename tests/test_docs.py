"""The code in docs/adding_a_sampler.md runs, and is the sampler it says it is."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.grids import uniform_grid


def test_the_example_of_a_new_sampler():
    page = (Path(__file__).parents[1] / "docs" / "adding_a_sampler.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    room: dict = {}
    exec(compile(code, "adding_a_sampler.md", "exec"), room)

    def denoise(x, t):
        return Prediction(0.5 * x, x - 0.1 * t[:, None])

    x, keys = jnp.ones((2, 3)), jax.random.split(jax.random.key(0), 2)
    found = room["halves"](denoise, RectifiedFlow(), x, uniform_grid(5), keys)
    np.testing.assert_allclose(found, ddim(denoise, RectifiedFlow(), x, uniform_grid(5), keys), rtol=1e-5)
