"""Which times to train at (SD3, arXiv 2403.03206, section 3.1).

    unified-jax ablate time_sampling --set data.data_dir=/sets

For an accelerator: SiT on Fashion-MNIST, all its steps.
"""

import unified_jax as uj


def study() -> uj.Study:
    """Uniform times (the base) against logit-normal, mode, cosine map, and a shift towards noise."""
    times = {
        "logit-normal (0, 1)": uj.times.LogitNormalTimes(),
        "logit-normal (0.5, 1)": uj.times.LogitNormalTimes(mean=0.5),
        "mode 1.29": uj.times.ModeTimes(),
        "cosine map": uj.times.CosMapTimes(),
        "uniform, shift 3": uj.times.UniformTimes(shift=3.0),
    }
    return uj.Study(
        "flow_fashion_mnist",
        tuple(uj.Variant(name, {"model.process.times": one}) for name, one in times.items()),
        common={"model.process.times": uj.times.UniformTimes()},
        metrics=(uj.Metric("frechet/pooled_pixels", "lower"),),
        samples=2048,
    )
