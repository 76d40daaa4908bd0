"""`probe similarity`: similarity of all modalities of a scene by CKA after every block."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified_jax.cli.probing.opened import need_documents, open_for_probe
from unified_jax.errors import UserError


@dataclass(frozen=True)
class SimilarityCommand:
    """Linear CKA between the features of every two modalities after every block of a Transfusion model's trunk."""

    run: str
    """Run directory."""
    examples: int = 256
    """Number of scenes."""
    split: str = "test"
    """Split of the data set."""
    batch: int = 32
    """Scenes per forward pass."""
    shuffles: int = 20
    """Permutations of the scenes for the null distribution."""
    seed: int = 0
    """Seed of the order of the scenes, the permutations and the untrained model."""
    trust: bool = False
    """Import the custom code that the run keeps."""
    step: int | None = None
    """The checkpoint of this step, of those that are kept; default the newest."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a stage of the model is, if it is not in the run's folder (a run or a file)."""


def similarity(command: SimilarityCommand) -> None:
    """Writes the figure, the numbers and the table."""
    import jax
    from tqdm import tqdm

    from unified_jax.data.pipeline import Pipeline
    from unified_jax.evaluation.probes.features import trunk_features
    from unified_jax.evaluation.probes.figures import draw_similarity
    from unified_jax.evaluation.probes.similarity import compare
    from unified_jax.runs.directory import provenance, write_json

    if command.examples < 8 or command.batch < 1 or command.shuffles < 1:
        raise UserError(
            f"The probe of similarity needs at least 8 examples, and a batch and shuffles of at least 1; found "
            f"{command.examples}, {command.batch} and {command.shuffles}."
        )
    experiment, params, folder, _ = open_for_probe(command.run, command.trust, command.step, command.stage)
    model = experiment.model
    need_documents(model)
    names = [m.name for m in model.modalities]
    pipeline = Pipeline(experiment.data, command.split, model.modalities, command.examples, command.seed)
    arrays = pipeline.batch(0).arrays
    values = {name: arrays[name] for name in names}
    with tqdm(total=2 * len(names) * command.examples, unit="example", dynamic_ncols=True) as bar:
        trained = trunk_features(model, params, values, command.batch, bar.update)
        init = jax.jit(model.init, out_shardings=jax.tree.map(lambda p: p.sharding, params))
        fresh = init(jax.random.key(command.seed))
        untrained = trunk_features(model, fresh, values, command.batch, bar.update)
    found = compare(trained, command.seed, command.shuffles)
    before = compare(untrained, command.seed, 1).cka
    low, high = np.quantile(found.shuffled, (0.025, 0.975), axis=0)
    plain = {"modalities": names, "examples": command.examples, "split": command.split, "shuffles": command.shuffles}
    plain |= {"cka": _plain(found.cka), "untrained": _plain(before), "biased": _plain(found.biased)}
    plain |= {"shuffled_mean": _plain(found.shuffled.mean(axis=0))}
    plain |= {"shuffled_low": _plain(low), "shuffled_high": _plain(high), "sampling_seed": command.seed}
    write_json(folder / "similarity.json", plain | provenance(experiment))
    draw_similarity(found, before, names, folder / "similarity.png")
    _print_table(found, before, names)
    print(folder / "similarity.png")


def _plain(values: np.ndarray) -> Any:
    """Lists with None for nan, which JSON does not have."""
    rounded = values.round(5).astype(object)
    rounded[np.isnan(values)] = None
    return rounded.tolist()


def _print_table(found: Any, untrained: np.ndarray, names: list[str]) -> None:
    depth = len(found.cka)
    print("CKA of every two modalities on what enters the trunk (in) and after block 0, 1, ...; in brackets untrained")
    print(" " * 20 + "".join(f"{'in' if i == 0 else i - 1:>14}" for i in range(depth)))
    for i, j in itertools.combinations(range(len(names)), 2):
        cells = (f"{found.cka[k, i, j]:6.2f} ({untrained[k, i, j]:5.2f})" for k in range(depth))
        print(f"{names[i] + ' - ' + names[j]:20.20s}" + "".join(cells))
    apart = found.shuffled[..., *np.triu_indices(len(names), 1)]
    low, high = np.nanquantile(apart, (0.025, 0.975))
    print(f"scenes shuffled: mean {np.nanmean(apart):.3f}, 95 % of them in [{low:.3f}, {high:.3f}]")
