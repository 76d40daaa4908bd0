"""Transfusion on the moving world: captions, films of 16 frames, their depth and their sound.

    unified-jax train world_4d

Hardware: one GPU. Not measured yet.
"""

import unified_jax as uj

WORLD = uj.World(resolution=32, max_objects=1, frames=16)


def experiment() -> uj.Experiment:
    """Every document holds all four, in random order."""
    captions = WORLD.source("train", ("caption",))
    process = uj.RectifiedFlow(target="x0")
    modalities = (uj.Video(16, 32, 32, 3, (4, 8, 8)), uj.Depth(16, 32, 32, (4, 8, 8)), uj.Audio(patch=(11, 16)))
    return uj.Experiment(
        model=uj.Transfusion(
            network=uj.Trunk(depth=8, width=256, heads=4),
            text=uj.Text(32, uj.learn_bpe((str(captions[i]["caption"]) for i in range(2000)), 384)),
            streams=tuple(uj.Stream(modality, process) for modality in modalities),
            length=192,
            documents=uj.Documents(order="random"),
        ),
        data=WORLD,
        optimizer=uj.Optimization(
            uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=100, schedule="cosine", clip_norm=1.0
        ),
        ema=(uj.Ema(decay=0.999),),
        balance=uj.FixedBalance((("video", 20.0), ("depth", 20.0), ("audio", 10.0))),
        steps=20_000,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=500),
        preview=uj.Previews(every=1000, count=8, plan=uj.SamplingPlan(uj.Euler(), steps=50, guidance=uj.Guidance(2.0))),
        validation=uj.Validation(every=1000, batches=2),
        evaluate=128,
    )
