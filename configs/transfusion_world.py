"""Transfusion on the world: captions, pictures, films, sounds and clouds of points, any of them from any others.

    unified-jax train transfusion_world

A picture becomes a film by way of a caption (`SamplingPlan.through`): what all five share is written down first. So
all documents hold their caption, most of them first. A processor with instructions for bfloat16 computes in it.

Goals, set before the run, on the split test: caption to image at least 0.95, everything to caption 0.97, image to video
0.6, the mean of the twenty pairs 0.70, all five made together 0.65.
Hardware: two CPU cores, 45 minutes. Measured figures are in docs/measurements.md.
"""

import unified_jax as uj

WORLD = uj.World(resolution=32, max_objects=1, jitter=False)


def experiment() -> uj.Experiment:
    """Five modalities of one object, any subset a document; the long film less often than caption and image."""
    captions = WORLD.source("train", ("caption",))
    # What a scene is like is decided at high noise, so training and sampling spend their time there.
    process = uj.RectifiedFlow(target="x0", times=uj.times.UniformTimes(shift=3.0))
    modalities = (
        uj.Image(32, 32, 3, patch=8),
        uj.Video(8, 32, 32, 3, (4, 8, 8)),
        uj.Audio(patch=(11, 16)),
        uj.Points(256, 6, 16),
    )
    return uj.Experiment(
        model=uj.Transfusion(
            network=uj.Trunk(depth=6, width=192, heads=4, remat="none", unroll=6),
            text=uj.Text(40, uj.learn_bpe((str(captions[i]["caption"]) for i in range(2000)), 384)),
            streams=tuple(uj.Stream(modality, process) for modality in modalities),
            length=320,
            documents=uj.Documents(
                text_first=0.55,
                text_last=0.2,
                keep=0.5,
                whole=0.12,
                keep_of=(("caption", 1.0), ("image", 0.7)),
                clean=0.25,
                alone=0.1,
                noise_limit=0.5,
                per_row=5,
            ),
        ),
        data=WORLD,
        optimizer=uj.Optimization(
            uj.Muon(b2=0.98),
            learning_rate=5e-3,
            warmup_steps=100,
            schedule="cosine",
            final_fraction=0.05,
            clip_norm=1.0,
        ),
        ema=(uj.Ema(decay=0.995),),
        # The errors of x0 are small beside the text's cross-entropy.
        balance=uj.FixedBalance((("text", 2.0), ("image", 60.0), ("video", 45.0), ("audio", 10.0), ("points", 20.0))),
        dtype="auto",
        steps=3600,
        batch_size=60,
        log_every=40,
        checkpoint=uj.Checkpointing(every=600),
        preview=uj.Previews(
            every=1200,
            count=8,
            plan=uj.SamplingPlan(uj.Euler(), steps=25, guidance=uj.Guidance(2.5), shift=3.0, through=("caption",)),
        ),
        validation=uj.Validation(every=600, batches=4),
        evaluate=128,
    )
