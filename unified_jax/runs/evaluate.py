"""The evaluation of a run: accuracy, distances, an image grid of samples next to true examples."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from unified_jax.errors import UserError
from unified_jax.evaluation.finite import check_figures
from unified_jax.hosts import Hosts, together, writes
from unified_jax.precision import check_seed, same_numbers
from unified_jax.runs.distance_flags import DistanceFlags
from unified_jax.runs.flags import check_room, check_steps
from unified_jax.runs.folders import make_folder

if TYPE_CHECKING:
    from unified_jax.runs.bench import Bench
    from unified_jax.samplers.plan import SamplingPlan
    from unified_jax.training.experiment import Experiment


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a run; writes evaluation.json and evaluation.png into it and prints the main number last."""

    run: str
    """Run directory."""
    out: str = ""
    """Output folder; default: the run directory."""
    count: int = 512
    """Samples per split."""
    splits: tuple[str, ...] = ()
    """Splits that provide the conditions; default: test, and on the world also held_out."""
    batch: int = 64
    """Samples per compiled call."""
    seed: int = 0
    """Seed of the samples' noise."""
    steps: int | None = None
    """Sampling steps; default: as in the run's previews."""
    guidance: float | None = None
    """Guidance scale; default: as in the run's previews."""
    trust: bool = False
    """Import the custom code that the run keeps."""
    hosts: Hosts = Hosts()
    """Evaluate with several processes (docs/launch.md)."""
    only: tuple[str, ...] = ()
    """Give these conditions alone, of models that make one thing; default: all."""
    bits: int = 0
    """Also score this many examples per split in bits/dim (models of one image only); 0: none."""
    step: int | None = None
    """Use the checkpoint of this step, if it is kept; default: the newest."""
    stage: tuple[str, ...] = ()
    """NAME=PATH: where a stage of the model is, if it is not in the run's folder (a run or a file)."""
    against: str = ""
    """Instead FID and its relatives: against a split of the run's data, a folder, an .npz of images or statistics."""
    conditions: Literal["data", "balanced"] = "data"
    """With --against: conditions of the split's examples, or every class in turn (balanced)."""
    distance: Annotated[DistanceFlags, tyro.conf.arg(name="")] = DistanceFlags()
    """With --against: extractors and metrics."""


@same_numbers()
def evaluate_run(
    command: EvaluateCommand, plan: "SamplingPlan | None" = None, bars: bool = True, data: Any = None
) -> list[dict[str, Any]]:
    """Evaluates, writes evaluation.json and an image grid per split, and returns the rows.

    `plan` and `data`, a data set, replace the run's own; without `bars` nothing is printed.
    """
    _check(command)
    from unified_jax.evaluation.evaluate import splits_for
    from unified_jax.runs.bench import Bench
    from unified_jax.runs.opened import open_run
    from unified_jax.runs.saved import Which
    from unified_jax.runs.stages import parse_places

    out = Path(command.out or command.run)
    places = parse_places(command.stage)
    experiment, params, step = open_run(Path(command.run), Which(step=command.step), command.trust, places)
    experiment = experiment if data is None else replace(experiment, data=data)
    if command.against:
        from unified_jax.runs.against import evaluate_against

        chosen = (plan or experiment.preview.plan).with_steps(command.steps, command.guidance)
        return evaluate_against(command, experiment, params, step, chosen, bars)
    evaluate, fields = _evaluation_of(experiment.model, command, experiment.scores)
    if command.only and not fields:
        raise UserError("--only is of models that make one thing; this one is evaluated in all its modes.")
    check_room("--count", command.count, experiment.model.modalities)
    check_room("--bits", command.bits, experiment.model.modalities)
    together(lambda: make_folder(out), by="first")
    plan = (plan or experiment.preview.plan).with_steps(command.steps, command.guidance)
    bench = Bench(experiment, params, command.count, command.batch, command.seed, plan, bars)
    splits = splits_for(experiment.data, command.splits)
    _check_splits(experiment, fields, splits)
    rows = evaluate(bench, splits)
    check_figures(rows)
    if writes():
        bench.write(out, rows, step, command.only)
    return rows


def check_evaluation(experiment: "Experiment") -> None:
    """Raises UserError where the evaluation at the end of this training could not be made."""
    if experiment.evaluate:
        from unified_jax.evaluation.evaluate import scores_for, splits_for

        model, scores = experiment.model, experiment.scores
        _, fields = _evaluation_of(model, EvaluateCommand("", count=experiment.evaluate), scores)
        if scores:
            scores_for(scores, experiment.data, model)
        try:
            _check_splits(experiment, fields, splits_for(experiment.data, ()))
        except UserError as error:
            raise UserError(f"The evaluation after training: {error} --evaluate 0 trains without it.") from error


def _check_splits(experiment: "Experiment", fields: tuple[str, ...], splits: tuple[str, ...]) -> None:
    """Raises UserError for a split that is unknown or empty, or lacks one of the fields."""
    from unified_jax.data.pipeline import Pipeline
    from unified_jax.runs.bench import fields_of

    for split in splits:
        Pipeline(experiment.data, split, fields_of(experiment.model, fields), 1, 0)


def _check(command: EvaluateCommand) -> None:
    count, batch, bits = command.count, command.batch, command.bits
    if count < 2 or batch < 1 or bits < 0:
        raise UserError(
            f"--count must be at least 2, --batch at least 1 and --bits not negative; found {count}, {batch}, {bits}."
        )
    if command.only and command.against:
        raise UserError("--only restricts scores of samples; --against compares sets under all conditions.")
    if command.bits and command.against:
        raise UserError("--bits scores examples; --against compares sets of samples: two commands.")
    if not command.against and (command.conditions != "data" or command.distance != DistanceFlags()):
        raise UserError(
            "--conditions and the flags of distances (--inception, --encoder, --metrics, ...) need --against."
        )
    check_seed(command.seed)
    check_steps(command.steps)


def _evaluation_of(
    model: Any, command: EvaluateCommand, scores: tuple[Any, ...] = ()
) -> "tuple[Callable[[Bench, tuple[str, ...]], list[dict[str, Any]]], tuple[str, ...]]":
    """(the kind of evaluation of a model, the fields that it reads, () for all). Raises UserError if there is none."""
    from unified_jax.config import lacking
    from unified_jax.evaluation.bits import check_bits
    from unified_jax.evaluation.evaluate import Classifies
    from unified_jax.modalities.image import Image
    from unified_jax.modalities.text import Text
    from unified_jax.runs.edits import edits_images, evaluate_edits
    from unified_jax.runs.matrix import evaluate_matrix

    if command.bits:
        check_bits(model)
    made = [m for m in model.modalities if m.name in model.wantable]
    if edits_images(model):
        return evaluate_edits, ()
    if not lacking(type(model), Classifies):
        return _evaluate_labels, ()
    if len(made) > 1 and any(isinstance(m, Text) for m in made):
        return evaluate_matrix, ()
    given, wanted = model.request((), ()) if made else ((), ())
    if strange := [name for name in command.only if name not in given]:
        raise UserError(f"--only {strange[0]}: expected conditions of the model ({', '.join(given) or 'it has none'}).")
    if len(wanted) == 1 and (scores or all(isinstance(m, Image) for m in made if m.name in wanted)):
        return functools.partial(_evaluate_one, bits=command.bits, only=command.only), (*given, *wanted)
    what = ", ".join(f"{m.name} ({type(m).__name__})" for m in made) or "nothing"
    raise UserError(
        "Evaluated are models that make one image, that edit one, or that read and write text among other modalities; "
        f"this one makes {what}. Scores of your own (Experiment.scores) evaluate whatever else makes one thing."
    )


def _evaluate_one(bench: "Bench", splits: tuple[str, ...], bits: int, only: tuple[str, ...]) -> list[dict[str, Any]]:
    """The part for models that make one thing: the rows, and an image grid per split in the bench's images."""
    from unified_jax.evaluation import evaluate as ev
    from unified_jax.evaluation.bits import bits_per_dim
    from unified_jax.modalities.image import Image, sheet
    from unified_jax.modalities.sheets import show_samples
    from unified_jax.runs.completed import completed

    data, count = bench.experiment.data, bench.count
    model: Any = bench.experiment.model
    fields, (name,) = model.request((), ())
    modality = next(m for m in model.modalities if m.name == name)
    scores = ev.scores_for(bench.experiment.scores, data, model)
    rows: list[dict[str, Any]] = []
    for split in splits:
        examples = bench.examples(split, (*fields, name)).arrays
        given = {field: examples[field] for field in only or fields}
        with bench.bar(split, count) as bar:
            rows_given = completed(model, given, count, 0, bench.seed) if bench.plan.complete else given
            made = bench.draw(rows_given, (name,), bar.update)[name]
        samples = ev.Samples(split, model, given, name, examples[name], modality.from_model(made))
        rows += ev.rows_of(samples, scores)
        if bits:
            scored = bench.of_size(bits, split)
            with bench.bar(f"{split} bits/dim", scored, "example") as bar:
                found = bits_per_dim(
                    model, bench.params, data, split, scored, bench.seed, batch=bench.batch, report=bar.update
                )
            rows.append(ev.bits_row(found, model, split))
        if not isinstance(modality, Image):
            bench.pictures[f"evaluation_{split}.png"] = show_samples(model.modalities, given, {name: samples.made}, 16)
            continue
        shown = min(16, count)
        pairs = [image for i in range(shown) for image in (samples.truth[i], samples.made[i])]
        titles = [text for i in range(shown) for text in (samples.titles()[i], "sampled")]
        bench.pictures[f"evaluation_{split}.png"] = sheet(np.stack(pairs), columns=8, titles=titles)
    if bench.show and writes():
        _print_rows(rows)
    return rows


def _evaluate_labels(bench: "Bench", splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """The part for models that predict labels."""
    from unified_jax.evaluation.evaluate import label_rows

    model, rows = bench.experiment.model, []
    for split in splits:
        examples = replace(bench, count=bench.of_size(bench.count, split)).examples(split).arrays
        rows += label_rows(model, bench.params, examples, split, bench.batch)
    if bench.show and writes():
        _print_rows(rows)
    return rows


def _print_rows(rows: list[dict[str, Any]]) -> None:
    main = [row for row in rows if row["metric"] in ("attribute_accuracy", "label_accuracy")]
    for row in [row for row in rows if row not in main and row["value"] is not None] + main[::-1]:
        interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
        where = "" if row is (main[0] if main else None) else f"{row['split']} "
        print(f"{where}{row['metric'].replace('_', ' ')} {row['value']:.3f}{interval}")
