"""How sharp samples are: the energy of the upper third of frequencies, samples over true pictures of the same labels.

    python benchmarks/sharpness.py RUN [--count 512]          (a run of quickstart)

The true pictures are the first of the split test, the samples are drawn by the run's own plan from their labels. The
spectrum is that of `probe spectrum`, of the whole picture as one block. 1 is as sharp as the data; the interval is of
the ratio of two means (delta method). Writes benchmarks/results/sharpness.json.
"""

import numpy as np
from completed import open_asked
from turns import write

import unified_jax as uj
from unified_jax.data.pipeline import Pipeline
from unified_jax.evaluation.probes.spectrum import block_energies, upper_third


def ratio(made: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """(value, ends of the 95 % interval) of two sets of pictures `[n, h, w, c]`."""
    side = min(truth.shape[1:3])
    a, b = (block_energies(x, side)[:, upper_third(side)].sum(axis=1) for x in (made, truth))
    value = float(a.mean() / b.mean())
    error = value * np.sqrt(a.var(ddof=1) / len(a) / a.mean() ** 2 + b.var(ddof=1) / len(b) / b.mean() ** 2)
    return value, float(value - 1.96 * error), float(value + 1.96 * error)


def drawn(run: uj.Run, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(samples of the labels of true pictures, these pictures), of the split test."""
    batch = Pipeline(run.experiment.data, "test", run.model.modalities, count, 0).batch(0).arrays
    given = {m.name: batch[m.name].tolist() for m in run.model.modalities if m.name != "image"}
    return np.asarray(run.sample(given, count=count)["image"]), batch["image"]


def main() -> None:
    """Draws, measures, writes."""
    run, count = open_asked(str(__doc__))
    made, truth = drawn(run, count)
    value, low, high = ratio(made, truth)
    itself = ratio(truth[::2], truth[1::2])[0]
    print(f"sharpness {value:.3f} [{low:.3f}, {high:.3f}]; one half of the data against the other {itself:.3f}")
    write("sharpness", {"step": run.step, "count": count, "value": value, "low": low, "high": high})


if __name__ == "__main__":
    main()
