"""Which times to train at (SD3, arXiv 2403.03206, section 3.1).

    python -m unified_jax.cli.ablate time_sampling --set data.data_dir=/sets

For an accelerator: SiT on Fashion-MNIST, all its steps.
"""

from unified_jax.processes.times import CosMapTimes, LogitNormalTimes, ModeTimes, UniformTimes
from unified_jax.studies.study import Metric, Study, Variant


def study() -> Study:
    """Uniform times (the base) against logit-normal, mode, cosine map, and a shift towards noise."""
    times = {
        "logit-normal (0, 1)": LogitNormalTimes(),
        "logit-normal (0.5, 1)": LogitNormalTimes(mean=0.5),
        "mode 1.29": ModeTimes(),
        "cosine map": CosMapTimes(),
        "uniform, shift 3": UniformTimes(shift=3.0),
    }
    return Study(
        "flow_fashion_mnist",
        tuple(Variant(name, {"model.process.times": one}) for name, one in times.items()),
        common={"model.process.times": UniformTimes()},
        metrics=(Metric("frechet/pooled_pixels", "lower"),),
        samples=2048,
    )
