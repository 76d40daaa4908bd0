"""Loss against compute over sizes and patches of DiT (DiT, section 5, figures 6 to 8), with a fitted power law.

    unified-jax ablate dit_scaling

For an accelerator: the world at 64 px. Steps are equal, so that FLOPs differ by size and patch, as in the paper.
"""

import unified_jax as uj


def study() -> uj.Study:
    """Sizes by depth and width, patches of 4 and 8; the base is the smallest with patches of 8."""
    sizes = {"S": (4, 128), "M": (8, 256), "L": (12, 512), "XL": (16, 768)}
    arms = [
        uj.Variant(
            f"{name}, patch {patch}",
            {
                "model.network.depth": depth,
                "model.network.width": width,
                "model.network.unroll": 1,
                "model.modality": uj.Image(64, 64, 3, patch=patch),
            },
        )
        for patch in (8, 4)
        for name, (depth, width) in sizes.items()
    ]
    return uj.Study(
        "quickstart",
        tuple(arms),
        common={
            "model.network": uj.DiT(depth=4, width=192, heads=4, label_std=0.25, remat="none", unroll=4),
            "data.resolution": 64,
            "model.modality": uj.Image(64, 64, 3, patch=16),
            "steps": 20_000,
            "evaluate": 0,
        },
        metrics=(uj.Metric("validation/loss", "lower"),),
        power_law=True,
    )
