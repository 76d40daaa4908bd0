r"""Transfusion on turning fruit: a caption and a first frame become a film.

    unified-jax data get turntable
    unified-jax train transfusion_turntable
    unified-jax sample --run runs/transfusion_turntable --given.caption "a tomato, rotating on a white background" \
        --given.image @tomato.png --generate video

Hardware: one GPU. Not measured yet. Needs a TFDS set uj_turntable with the features caption and video (16 frames, 64
px).
"""

import unified_jax as uj


def experiment() -> uj.Experiment:
    """Caption, first frame, film, in this order; the frame is mostly given clean, the film never."""
    process = uj.RectifiedFlow(target="x0")
    return uj.Experiment(
        model=uj.Transfusion(
            network=uj.Trunk(depth=8, width=256, heads=4),
            text=uj.Text(64),
            streams=(
                uj.Stream(uj.Image(64, 64, 3, patch=8), process),
                uj.Stream(uj.Video(16, 64, 64, 3, (4, 8, 8)), process),
            ),
            length=400,
            documents=uj.Documents(order="given", clean_of=(("image", 0.8), ("video", 0.0))),
        ),
        data=uj.Tfds("uj_turntable", rename=(("image", "video"),)),
        optimizer=uj.Optimization(uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, clip_norm=1.0),
        ema=(uj.Ema(decay=0.999),),
        balance=uj.FixedBalance((("image", 5.0), ("video", 5.0))),
        steps=10_000,
        batch_size=16,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=500, count=6, plan=uj.SamplingPlan(uj.Euler(), steps=50, guidance=uj.Guidance(2.0))),
        validation=uj.Validation(every=1000, batches=1),
    )
