"""Preview image grids and the validation loss: the samples and metrics of a run in training.

Fixed examples, fixed noise, EMA parameters. Every process takes part in the computation; process 0 writes.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import RunError
from unified_jax.hosts import writes
from unified_jax.modalities.sheets import show_samples
from unified_jax.models.sampling import sample_keys
from unified_jax.models.terms import trained_on
from unified_jax.precision import seed_key
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params

PREVIEW_SEED = 1_000_003
"""Seed of preview and validation noise, separate from any run's."""


def held_out_pipeline(experiment: Experiment, batch_size: int, packed: bool) -> Pipeline:
    """Batches of the validation split in a fixed order; `packed` as the model trains on them."""
    model = experiment.model
    packer = model.packer if packed else None
    split = experiment.validation.split
    modalities = trained_on(model) if packed else model.modalities
    return Pipeline(experiment.data, split, modalities, batch_size, PREVIEW_SEED, packer=packer)


class Previewer:
    """Samples the same requests repeatedly. The jitted sampler compiles at the first preview."""

    def __init__(self, experiment: Experiment) -> None:
        model, config = experiment.trained, experiment.preview
        self.model, self.plan, self.count = model, config.plan, config.count
        given, self.wanted = model.request((), ())
        examples = held_out_pipeline(experiment, config.count, packed=False).batch(0).arrays
        self.given = {name: examples[name] for name in given}
        self.generate = jax.jit(self._generate, out_shardings=PartitionSpec())

    def _generate(self, params: Params) -> dict[str, jax.Array]:
        given = {name: jnp.asarray(value) for name, value in self.given.items()}
        keys = sample_keys(PREVIEW_SEED, 0, self.count)
        return self.model.generate(params, given, self.wanted, keys, self.plan)

    def write(self, params: Params, path: Path) -> None:
        """A PNG image grid: each sample over its conditions."""
        by_name: dict[str, Any] = {m.name: m for m in self.model.modalities}
        made = self.generate(params)
        if not writes():
            return
        drawn = {name: by_name[name].from_model(made[name]) for name in self.wanted}
        try:
            show_samples(self.model.modalities, self.given, drawn).save(path)
        except OSError as error:
            raise RunError(f"The preview {path} cannot be written: {error}; the last checkpoint is intact.") from error


class Validator:
    """The loss on fixed batches of the validation split with fixed noise."""

    def __init__(self, experiment: Experiment) -> None:
        pipeline = held_out_pipeline(experiment, experiment.batch_size, packed=True)
        self.batches = [pipeline.batch(i).arrays for i in range(experiment.validation.batches)]
        self.model = experiment.trained
        self.weights = getattr(experiment.balance, "weights", ())
        others = {name for player in self.model.players[1:] for name in player.terms}
        self.left_out = others | set(getattr(self.model, "opposed", ()))
        self.losses = jax.jit(self._losses, out_shardings=PartitionSpec())

    def _losses(self, params: Params, aux: Any, step: Any, batch: Any, index: Any) -> dict[str, tuple[Any, Any]]:
        key = jax.random.fold_in(seed_key(PREVIEW_SEED), index)
        terms, _, _ = self.model.losses(params, aux, batch | {"step": step}, key)
        return jax.tree.map(jnp.sum, terms)

    def loss(self, params: Params, aux: Any, step: Any) -> float:
        """Sum of the terms, each divided once, by constant weights: learned ones would change the measure.

        A term that no example of these batches has counts as 0.

        Of several players it is the first one's, without what it plays against the others: that begins at some step,
        and says nothing by itself.
        """
        found = [self.losses(params, aux, step, batch, i) for i, batch in enumerate(self.batches)]
        weights = FixedBalance(self.weights).weigh({}, tuple(found[0]))
        measured = [name for name in found[0] if name not in self.left_out]
        sums = {k: (sum(f[k][0] for f in found), sum(f[k][1] for f in found)) for k in measured}
        return float(sum(weights[k] * total / count for k, (total, count) in sums.items() if count))
