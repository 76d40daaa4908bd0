"""Pictures of your own: a folder, a table, tars, with classes or without.

    unified-jax train images --data.path photos --size 64
    unified-jax train images --data.path photos --size 64 --classes 9     # class folders, or a column label
    unified-jax train images --data.path photos --size 64 --mixed         # proportions kept, small pictures stay small
    unified-jax sample --run runs/images --given.label cat --count 16

Pictures of every size and mode are cropped to squares as papers do, at random places in training, and mirrored (not
with --no-flip). With --mixed: to six shapes of about as many pixels or a quarter, side by side in packed
rows, and `sample --size 48 80` draws any shape. `unified-jax data show photos` shows what is there, `data check images
--data.path photos` names what cannot be read. Hardware: two CPU cores for a first look in ten minutes at 32 or 64
pixels, for which the network is small; a GPU for more (`--model.network.depth 12 --model.network.width 384
--model.network.heads 6`). Measured figures are in docs/measurements.md.
"""

import unified_jax as uj


def experiment(size: int = 64, classes: int = 0, flip: bool = True, mixed: bool = False) -> uj.Experiment:
    """DiT that predicts x0 with the velocity's loss: 64 tokens up to 64 pixels, patches of at most 16 pixels."""
    small, patch = size <= 64, max(2, min(16, size // 8))
    grids = ((6, 10), (10, 6), (4, 4), (3, 5), (5, 3)) if mixed else ()
    unit = patch * max(1, size // 8 // patch)  # sizes are whole patches
    buckets = tuple((h * unit, w * unit) for h, w in grids)
    # Room for four pictures of the largest size in a row of tokens.
    rows = uj.PackedRows(length=4 * (size // patch) ** 2, per_row=4, items=16) if mixed else None
    plan = uj.SamplingPlan(uj.Euler(), steps=32, guidance=uj.Guidance(2.0 if classes else 1.0))
    return uj.Experiment(
        model=uj.Diffusion(
            network=uj.DiT(
                depth=4 if small else 12, width=192 if small else 384, heads=4 if small else 6, label_std=0.25,
                remat="none" if small else "dots",
            ),
            process=uj.RectifiedFlow(target="x0", loss="velocity", times=uj.times.LogitNormalTimes(mean=0.5)),
            modality=uj.Image(size, size, 3, patch=patch, fit="random_crop", flip=flip, buckets=buckets),
            conditions=(uj.Label("label", classes),) if classes else (),
            rows=rows,
        ),
        data=uj.Files(),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.995),),
        steps=20_000,
        batch_size=32,
        checkpoint=uj.Checkpointing(every=200),
        preview=uj.Previews(every=500, count=16, plan=plan),
        validation=uj.Validation(every=500, batches=2),
        evaluate=256,
    )  # fmt: skip
