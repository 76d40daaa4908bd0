"""The world in two stages: pictures of 16 pixels, then of 32, where training begins with what the first has learnt.

    unified-jax train world_stages --stages
    unified-jax sample --run runs/world_stages/stage_2

Both stages have the same parameters: patches are of 4 pixels, and 8 x 8 patches have their positions between those of
4 x 4 (`DiT.grid`). Twice the side means twice the shift: the same noise hides less of a larger picture.
Hardware: two CPU cores.
"""

import dataclasses
from typing import Any

import unified_jax as uj

SMALL, LARGE = 16, 32


def stages() -> tuple[uj.Experiment, ...]:
    """Most steps at 16 pixels, where a step costs a quarter; then 32."""
    return experiment(SMALL, 1500), experiment(LARGE, 500)


def experiment(resolution: int = LARGE, length: int = 500) -> uj.Experiment:
    """One stage."""
    base = uj.recipe("quickstart")
    was: Any = base.model
    shift = resolution / SMALL
    plan = uj.SamplingPlan(uj.Euler(), steps=25, shift=shift, guidance=uj.Guidance(2.0))
    model = dataclasses.replace(
        was,
        network=uj.DiT(depth=4, width=192, heads=4, label_std=0.25, remat="none", unroll=4, grid=(4, 4)),
        process=uj.RectifiedFlow(target="x0", times=uj.times.UniformTimes(shift=shift)),
        modality=uj.Image(resolution, resolution, 3, patch=4),
    )
    return dataclasses.replace(
        base,
        model=model,
        data=uj.World(resolution=resolution, max_objects=1),
        steps=length,
        preview=uj.Previews(every=500, count=16, plan=plan),
        validation=uj.Validation(every=250, batches=4),
    )
