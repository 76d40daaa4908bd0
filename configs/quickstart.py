"""A first model in a few minutes: draw a shape of a given colour, size and place (the world, 32 px, rectified flow).

    unified-jax train quickstart
    unified-jax train quickstart --no-sharp       the transformer alone: softer edges, a cheaper step

Hardware: two CPU cores. Measured figures are in docs/measurements.md.
"""

from dataclasses import replace

import unified_jax as uj


def experiment(sharp: bool = True) -> uj.Experiment:
    """Attribute-conditional DiT on the world: one object, anywhere in its cell, so that no picture is seen twice.

    sharp   convolutions behind it for the last tenth of the noise; above that they would change shapes, for they know
            no label (docs/decisions/0004)
    """
    shown = tuple(uj.Label(name, len(values), values) for name, values in uj.ATTRIBUTES if name != "motion")
    network = uj.DiT(depth=4, width=192, heads=4, label_std=0.25, remat="none", unroll=4)
    # Asked for a shape and a colour alone, the model would draw pieces in several places (docs/decisions/0004).
    plan = uj.SamplingPlan(uj.Euler(), steps=25, guidance=uj.Guidance(2.0), complete=True)
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.Refined(network) if sharp else network,
            process=uj.RectifiedFlow(target="x0"),
            modality=uj.Image(32, 32, 3, patch=8),
            conditions=shown,
            drop_all=0.1,
            drop_some=0.1,
        ),
        data=uj.World(resolution=32, max_objects=1),
        # Muon: at this length it reaches with 1,000 steps what Adam does not with 2,000 (docs/decisions/0004).
        optimizer=uj.Optimization(
            uj.Muon(b2=0.98), learning_rate=5e-3, warmup_steps=50, schedule="cosine", final_fraction=0.05, clip_norm=1.0
        ),
        ema=(uj.Ema(decay=0.995),),
        steps=1500,
        batch_size=64,
        log_every=20,
        checkpoint=uj.Checkpointing(every=500),
        # Half of the steps lie below t = 1/3, so that some are left for edges.
        preview=uj.Previews(every=500, count=16, plan=replace(plan, shift=0.5) if sharp else plan),
        validation=uj.Validation(every=750, batches=4),
        evaluate=512,
    )
