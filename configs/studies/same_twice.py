"""A/A: the same recipe twice, with other seeds. Whatever it calls a difference is none.

    unified-jax ablate same_twice

Two CPU cores, about five minutes.
"""

import unified_jax as uj


def study() -> uj.Study:
    """The base, and itself with seeds 100 to 104."""
    return uj.Study(
        "world_tiny",
        (uj.Variant("the same, other seeds", seeds=(100, 101, 102, 103, 104)),),
        metrics=(
            uj.Metric("validation/loss", "lower"),
            uj.Metric("attribute_accuracy"),
            uj.Metric("frechet/pooled_pixels", "lower"),
        ),
        about="Two equal arms with disjoint seeds: how much results differ by chance alone.",
    )
