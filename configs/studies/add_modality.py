"""A sixth modality for a trained model: what the new pairs gain and the old ones lose, by how the trunk is tuned.

    unified-jax ablate add_modality --init-from runs/transfusion_world

For an accelerator; 15 cells. The base freezes the trunk (`world_with_action`).
"""

import unified_jax as uj

NEW = (("action", "image"), ("image", "action"), ("action", "caption"))
OLD = (("caption", "image"), ("image", "caption"), ("caption", "audio"), ("audio", "caption"))


def study() -> uj.Study:
    """Three ways of tuning, five seeds each, all from one run."""
    lora = {"tuning.lora": ("blocks/(attention|mlp)",), "tuning.rank": 16, "tuning.alpha": 16.0}
    return uj.Study(
        "world_with_action",
        (uj.Variant("LoRA, rank 16", lora), uj.Variant("all trained", {"tuning.train": (".*",)})),
        init_from="runs/transfusion_world",
        metrics=tuple(uj.Metric("attribute_accuracy", given=(a,), wanted=(b,)) for a, b in (*NEW, *OLD)),
        samples=64,
        about="A sixth modality is added to a trained model; the first pairs are new to it, the others it knew.",
    )
