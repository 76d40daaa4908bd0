"""How strongly, and when, to guide (classifier-free guidance; the interval of arXiv 2404.07724). Trains once a seed.

    unified-jax ablate guidance

The arms differ in sampling alone and share their trained models. Hardware: quickstart's, five times.
"""

import unified_jax as uj


def study() -> uj.Study:
    """Scales, and an interval in the middle; the base guides with scale 2 throughout."""
    scale, low, high = (f"preview.plan.guidance.{name}" for name in ("scale", "low", "high"))
    return uj.Study(
        "quickstart",
        (
            *(uj.Variant(f"scale {s:g}", {scale: s}) for s in (1.0, 1.5, 3.0, 5.0)),
            uj.Variant("scale 2, 0.2 to 0.8", {low: 0.2, high: 0.8}),
            uj.Variant("scale 3, 0.2 to 0.8", {scale: 3.0, low: 0.2, high: 0.8}),
        ),
        metrics=(uj.Metric("attribute_accuracy"), uj.Metric("frechet/pooled_pixels", "lower")),
        samples=512,
    )
