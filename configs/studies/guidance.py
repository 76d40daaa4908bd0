"""How strongly, and when, to guide (classifier-free guidance; the interval of arXiv 2404.07724). Trains once a seed.

    python -m unified_jax.cli.ablate guidance

The arms differ in sampling alone and share their trained models. Hardware: quickstart's, five times.
"""

from unified_jax.studies.study import Metric, Study, Variant


def study() -> Study:
    """Scales, and an interval in the middle; the base guides with scale 2 throughout."""
    scale, low, high = (f"preview.plan.guidance.{name}" for name in ("scale", "low", "high"))
    return Study(
        "quickstart",
        (
            *(Variant(f"scale {s:g}", {scale: s}) for s in (1.0, 1.5, 3.0, 5.0)),
            Variant("scale 2, 0.2 to 0.8", {low: 0.2, high: 0.8}),
            Variant("scale 3, 0.2 to 0.8", {scale: 3.0, low: 0.2, high: 0.8}),
        ),
        metrics=(Metric("attribute_accuracy"), Metric("frechet/pooled_pixels", "lower")),
        samples=512,
    )
