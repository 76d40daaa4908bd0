"""How to weigh five modalities: by hand, by magnitude, by uncertainty, GradNorm, PCGrad (`training/balancing.py`).

    python -m unified_jax.cli.ablate balancing

For an accelerator: transfusion_world, five seeds an arm. Equal seconds, because GradNorm and PCGrad cost more a step.
"""

from unified_jax.studies.study import Budget, Metric, Study, Variant
from unified_jax.training.balancing import FixedBalance, GradNorm, MagnitudeBalance, PcGrad, Uncertainty


def study() -> Study:
    """The base has the recipe's weights."""
    methods = {
        "all 1": FixedBalance(),
        "magnitude": MagnitudeBalance(),
        "uncertainty": Uncertainty(),
        "GradNorm": GradNorm(),
        "PCGrad": PcGrad(),
    }
    pairs = (
        ("caption", "image"),
        ("image", "caption"),
        ("caption", "audio"),
        ("caption", "video"),
        ("caption", "points"),
    )
    return Study(
        "transfusion_world",
        tuple(Variant(name, {"balance": method}) for name, method in methods.items()),
        budget=Budget("seconds"),
        metrics=tuple(Metric("attribute_accuracy", given=(a,), wanted=(b,)) for a, b in pairs),
        samples=512,
    )
