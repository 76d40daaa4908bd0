"""An autoencoder of your own pictures: a folder, a table, tars.

    unified-jax train image_autoencoder --data.path photos --size 64
    unified-jax train image_autoencoder --data.path photos --factor 8 --adversary      # a discriminator, late
    unified-jax sample --run runs/image_autoencoder --given.image @photo.png --count 1  # a reconstruction
    unified-jax evaluate --run runs/image_autoencoder

Pictures are cropped at random places and mirrored. Without LPIPS' weights the perceptual part compares random filters;
with them: `--lpips FOLDER` (torchvision's vgg16 and the lpips package's vgg in one folder). Hardware: two CPU cores for
ten minutes at 64 pixels; a GPU for more pixels, `--width 128` and the adversary.
"""

import unified_jax as uj

ae = uj.autoencoders


def experiment(
    size: int = 64, factor: int = 4, channels: int = 4, width: int = 16, adversary: bool = False, lpips: str = "",
    flip: bool = True,
) -> uj.Experiment:  # fmt: skip
    """KL; the sides of a latent are those of the picture over `factor`, a power of two."""
    count = factor.bit_length()
    if factor != 2 ** (count - 1):
        raise ValueError(f"--factor is a power of two, found {factor}.")
    widths = tuple(width * min(2**i, 4) for i in range(count))
    levels = ae.Levels(latents=channels, widths=widths, blocks=1, groups=max(2, width // 8), middle_attention=False)
    stage = uj.Stage("lpips", ae.LpipsDistance(), lpips) if lpips else None
    objective = [ae.Pixels("l1" if lpips else "l2"), ae.Perceptual(stage, 1.0 if lpips else 0.1), ae.Kl(1e-6)]
    steps = 1200
    if adversary:
        objective.append(ae.Adversary(ae.PatchGan(32), start=steps // 2, most=1e4 / (3 * size**2)))
    return uj.Experiment(
        model=uj.Autoencoder(
            uj.Autoencoding(ae.KlAutoencoder(levels), (size, size, 3)),
            uj.Image(size, size, fit="random_crop", flip=flip),
            tuple(objective),
            logvar=-6.0,
        ),
        data=uj.Files(),
        optimizer=uj.Optimization(
            uj.AdamW(b2=0.99),
            learning_rate=2e-3,
            warmup_steps=50,
            schedule="cosine",
            final_fraction=0.05,
            clip_norm=1.0,
        ),
        ema=(uj.Ema(decay=0.99),),
        steps=steps,
        batch_size=8,
        checkpoint=uj.Checkpointing(every=200),
        preview=uj.Previews(every=400, count=16),
        validation=uj.Validation(every=400, batches=4),
        evaluate=256,
    )
