"""Where the schedulers of a folder end for a given prediction: numbers of diffusers 0.42.

Seven steps from eight numbers, of a network that says tanh(0.7 x + t / 1000). The plan and process are a folder's.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_jax.interop import pipelines

CHAIN = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
KARRAS = {"use_karras_sigmas": True}
EULER, DPM, UNI = "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
ENDS = [
    (EULER, {}, [-11.753482, -9.478891, -7.278929, -5.257787, -3.436887, -1.867284, -0.625601, 1.153466]),
    (EULER, {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
     [-0.552279, -0.475475, -0.399205, -0.321041, -0.238743, -0.150161, -0.053173, 0.054322]),
    (EULER, {"timestep_spacing": "leading", "steps_offset": 1},
     [-4.35328, -3.422408, -2.588041, -1.858884, -1.231634, -0.67003, -0.060918, 0.867997]),
    (DPM, {}, [-9.494361, -7.215317, -5.228663, -3.583679, -2.250769, -1.223226, -0.36741, 1.21725]),
    (DPM, KARRAS, [-7.464044, -5.25137, -3.504544, -2.189518, -1.233764, -0.601038, -0.063301, 1.27115]),
    (DPM, {"solver_order": 3}, [-10.173475, -7.865873, -5.753837, -3.902815, -2.370774, -1.233237, -0.350639, 1.2145]),
    (UNI, {}, [-9.001116, -6.752806, -4.866064, -3.354404, -2.137926, -1.174031, -0.337013, 1.225763]),
    (UNI, KARRAS, [-7.336694, -5.170496, -3.497173, -2.24817, -1.325444, -0.66496, -0.070028, 1.27644]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "end"), ENDS)
def test_a_scheduler_ends_where_the_published_one_ends(tmp_path, name, options, end):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(CHAIN | options | {"_class_name": name}))
    process, plan = pipelines.scheduler(tmp_path, 1.0, 7)
    view, grid = plan.prepare(process)

    def denoise(x, t):
        said = jnp.tanh(0.7 * view.network_input(x, t) + view.network_time(t)[:, None] / 1000)
        return view.predict(said, x, t)

    eps = jnp.linspace(-1, 1, 8)[None]
    start = view.start(eps, jnp.full(1, grid[0]))
    found = jax.jit(lambda x: plan.run(denoise, view, x, grid, jax.random.split(jax.random.key(0), 1)))(start)
    np.testing.assert_allclose(found[0], end, atol=3e-5 * np.abs(end).max())
