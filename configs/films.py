"""Films of your own: GIFs, MP4s (extra `film`), with classes or without.

    unified-jax train films --data.path clips --size 32 --frames 8
    unified-jax train films --data.path clips --classes 3      # class folders, or a column label
    unified-jax sample --run runs/films --count 8

Films are read at `--rate` frames per second, from a random frame on where they are longer, and cropped to squares.
Hardware: two CPU cores for a first look in ten minutes at 32 pixels; a GPU for more. Measured figures are in
docs/measurements.md.
"""

import unified_jax as uj


def experiment(size: int = 32, frames: int = 8, rate: float = 8.0, classes: int = 0) -> uj.Experiment:
    """DiT over tubelets of two frames and an eighth of a side."""
    patch = (2, max(2, size // 8), max(2, size // 8))
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.DiT(depth=4, width=192, heads=4, label_std=0.25, remat="none"),
            process=uj.RectifiedFlow(target="x0", loss="velocity", times=uj.times.LogitNormalTimes(mean=0.5)),
            modality=uj.Video(frames, size, size, 3, patch, rate, fit="random_crop", flip=False, start="random"),
            conditions=(uj.Label("label", classes),) if classes else (),
        ),
        data=uj.Files(),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.995),),
        steps=20_000,
        batch_size=16,
        checkpoint=uj.Checkpointing(every=200),
        preview=uj.Previews(
            every=500,
            count=8,
            plan=uj.SamplingPlan(uj.Euler(), steps=32, guidance=uj.Guidance(2.0 if classes else 1.0)),
        ),
        validation=uj.Validation(every=500, batches=2),
        evaluate=64,
    )
