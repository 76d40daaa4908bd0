"""A/A: the same recipe twice, with other seeds. Whatever it calls a difference is none.

    python -m unified_jax.cli.ablate same_twice

Two CPU cores, about five minutes.
"""

from unified_jax.studies.study import Metric, Study, Variant


def study() -> Study:
    """The base, and itself with seeds 100 to 104."""
    return Study(
        "world_tiny",
        (Variant("the same, other seeds", seeds=(100, 101, 102, 103, 104)),),
        metrics=(
            Metric("validation/loss", "lower"),
            Metric("attribute_accuracy"),
            Metric("frechet/pooled_pixels", "lower"),
        ),
        about="Two equal arms with disjoint seeds: how much results differ by chance alone.",
    )
