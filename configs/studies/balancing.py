"""How to weigh five modalities: by hand, by magnitude, by uncertainty, GradNorm, PCGrad (`training/balancing.py`).

    unified-jax ablate balancing

For an accelerator: transfusion_world, five seeds an arm. Equal seconds, because GradNorm and PCGrad cost more a step.
"""

import unified_jax as uj


def study() -> uj.Study:
    """The base has the recipe's weights."""
    methods = {
        "all 1": uj.FixedBalance(),
        "magnitude": uj.MagnitudeBalance(),
        "uncertainty": uj.Uncertainty(),
        "GradNorm": uj.GradNorm(),
        "PCGrad": uj.PcGrad(),
    }
    pairs = (
        ("caption", "image"),
        ("image", "caption"),
        ("caption", "audio"),
        ("caption", "video"),
        ("caption", "points"),
    )
    return uj.Study(
        "transfusion_world",
        tuple(uj.Variant(name, {"balance": method}) for name, method in methods.items()),
        budget=uj.Budget("seconds"),
        metrics=tuple(uj.Metric("attribute_accuracy", given=(a,), wanted=(b,)) for a, b in pairs),
        samples=512,
    )
