"""Which space makes diffusion easy: pixels, and the latents of three autoencoders, at equal tokens, world of 64 px.

    python -m unified_jax.cli.train world_encoder --no-labels --run-dir runs/world_masked
    for also in none vf scale; do
      python -m unified_jax.cli.train world_autoencoder --size 64 --also $also --run-dir runs/ae64_$also
      python -m unified_jax.cli.data latents runs/ae64_$also --each channel
    done
    unified-jax ablate latent_spaces

2.9e15 FLOPs of training (`--dry-run`), half a day on two CPU cores, after the autoencoders, whose cost is in their
`summary.json`. Fixed before the runs: three seeds, 512 decoded samples a cell, read by the world's readers; 64 tokens
everywhere; the steps are 250, 500, 1,000 and 2,000. A space needs the fewest of these steps at which the mean attribute
accuracy is at least 0.9. Claims to show or refute: latents need at most 0.6 of the steps of pixels; features of a
vision encoder (VF) save 30 % of the steps of plain latents. With three seeds intervals are printed and nothing is
called better.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import unified_jax as uj

STEPS = (250, 500, 1000, 2000)
SPACES = {"pixels": "", "kl": "runs/ae64_none", "kl, vf": "runs/ae64_vf", "kl, scale": "runs/ae64_scale"}
"""Name of an arm -> the run of its autoencoder."""
TRANSFORMER = uj.DiT(depth=4, width=192, heads=4, label_std=0.25, remat="none", unroll=4)
"""Without the convolutions behind it, which are for pixels."""
PROCESS = uj.RectifiedFlow(target="x0", loss="velocity", times=uj.times.LogitNormalTimes(mean=0.5))
"""Of every space (docs/decisions/0008)."""


def space(run: str, steps: int) -> Callable[[uj.Experiment], uj.Experiment]:
    """The quickstart's transformer at 64 px, in this space, for so many steps."""

    def change(experiment: uj.Experiment) -> uj.Experiment:
        model: Any = experiment.model
        model = replace(model, network=TRANSFORMER)
        image = uj.Image(64, 64, 3, patch=8)
        latents = None
        if run:
            latents = uj.Latents(uj.planned_stage("autoencoder", run, "world_autoencoder", flags=("--size", "64")))
        model = replace(model, process=PROCESS, modality=image, latents=latents)
        return replace(
            experiment,
            model=model,
            data=uj.World(resolution=64, max_objects=1),
            steps=steps,
            checkpoint=uj.Checkpointing(every=steps),
        )

    return change


def study() -> uj.Study:
    """The base is pixels for the most steps."""
    arms = [(name, n) for name in SPACES for n in STEPS if (name, n) != ("pixels", STEPS[-1])]
    return uj.Study(
        "quickstart",
        tuple(uj.Variant(f"{name}, {n}", space(SPACES[name], n)) for name, n in arms),
        common=space("", STEPS[-1]),
        metrics=(uj.Metric("attribute_accuracy"), uj.Metric("frechet/pooled_pixels", "lower")),
        seeds=3,
        samples=512,
        together="never",
    )
