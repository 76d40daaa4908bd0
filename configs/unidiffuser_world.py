"""UniDiffuser on the world: one network for images, captions, one given the other, and both, by times alone.

    unified-jax train caption_encoder && unified-jax train caption_autoencoder
    unified-jax train world_encoder && unified-jax train world_autoencoder
    unified-jax data latents runs/world_autoencoder --each channel
    unified-jax train unidiffuser_world
    unified-jax sample --run runs/unidiffuser_world --given.caption "a red star at the top left"      # text to image
    unified-jax sample --run runs/unidiffuser_world --given.image @picture.png --generate caption       # image to text
    unified-jax sample --run runs/unidiffuser_world                                                   # both

As in Bao et al. 2023 an image is two things that share one time: the latent of an autoencoder and the vector of an
image encoder; a caption is the latents of a frozen text encoder, from which a decoder writes it again; the network is a
U-ViT with norms behind the branches, and guidance needs no training of its own.
Hardware: one CPU core, 75 minutes after the four others. Goals, set before the runs, on 512 samples of the
split test, seed 0: caption to image and image to caption at least 0.9, readable marginals at least 0.9, a round trip
keeps at least 0.9 of what its middle says, and the Gibbs chain's largest total variation lies at most 0.05 above its
floor.
"""

from typing import Any

import unified_jax as uj


def experiment(
    autoencoder: str = "runs/world_autoencoder",
    encoder: str = "runs/world_encoder",
    captions: str = "runs/caption_autoencoder",
) -> uj.Experiment:
    """Runs of the four recipes; until one is there, its recipe's network stands for it."""
    latent = uj.planned_stage("autoencoder", autoencoder, "world_autoencoder", statistics=True)
    vision = uj.feature_token(uj.planned_stage("vision", encoder, "world_encoder"))
    words = uj.planned_stage("captions", captions, "caption_autoencoder")
    process = uj.RectifiedFlow(target="x0", loss="velocity", times=uj.times.LogitNormalTimes(mean=0.8))
    image = uj.Image(32, 32)
    coder: Any = words.model
    network: Any = uj.UVit(depth=6, width=192, heads=6, norms="post", clocks=("image", "caption"), remat="none")
    plan = uj.SamplingPlan(uj.EulerAncestral(), steps=24, shift=3.0, guidance=uj.Guidance(2.0))
    return uj.Experiment(
        model=uj.JointDiffusion(
            network=network,
            streams=(
                uj.Stream(image, process, latents=uj.Latents(latent), ends=0.3),
                uj.Stream(
                    image, process, name="image_vector", time="image", latents=uj.Latents(vision, patch=1), ends=0.3
                ),
                uj.Stream(coder.text, process, latents=uj.Latents(words, patch=1), ends=0.6),
            ),
        ),
        data=uj.World(resolution=32, max_objects=1),
        optimizer=uj.Optimization(
            uj.Muon(b2=0.98), learning_rate=4e-3, warmup_steps=50, schedule="cosine", final_fraction=0.0, clip_norm=1.0
        ),
        ema=(uj.Ema(decay=0.998),),
        balance=uj.FixedBalance((("image", 3.0),)),
        dtype="auto",
        steps=8000,
        batch_size=64,
        checkpoint=uj.Checkpointing(every=1000),
        preview=uj.Previews(every=1000, count=16, plan=plan),
        validation=uj.Validation(every=500, batches=8),
        evaluate=512,
    )
