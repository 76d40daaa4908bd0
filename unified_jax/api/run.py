"""A trained run, opened: `run = load("runs/quickstart")`, `run.sample({"shape": "star"}, count=8)`."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unified_jax.api.samples import Samples, opened
from unified_jax.config import Open
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import UserError, meant
from unified_jax.evaluation.finite import check_samples
from unified_jax.modalities.features import Features
from unified_jax.modalities.label import named
from unified_jax.models.base import check_plan
from unified_jax.models.document_checks import FREE
from unified_jax.models.edited import SOURCE, Edit, Edited, Mode
from unified_jax.models.generation import Sampling
from unified_jax.models.sampling import generate_many, sample_keys
from unified_jax.models.sizes import of_size
from unified_jax.models.stages import BUFFERS
from unified_jax.precision import check_seed, same_numbers, seed_key
from unified_jax.runs.completed import completed
from unified_jax.runs.directory import read_names
from unified_jax.runs.given import field_rows, given_rows, several
from unified_jax.runs.image_edits import check_edit, edit_of, edit_rows
from unified_jax.runs.opened import open_run
from unified_jax.runs.saved import Which
from unified_jax.samplers.choice import Sampler
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.training.balancing import FixedBalance
from unified_jax.training.experiment import Experiment
from unified_jax.typing import Params

Given = Mapping[str, Any]
"""Conditions by field: one value, or one per sample (`runs.given.given_rows`)."""


@dataclass(frozen=True)
class Run:
    """A trained model: its experiment and parameters."""

    folder: Path
    experiment: Experiment
    params: Params
    step: int
    """Step of the checkpoint that the parameters come from."""

    @property
    def model(self) -> Any:
        """The experiment's model."""
        return self.experiment.model

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The model's; labels have the names that the data set gives their classes."""
        return named(self.model.modalities, read_names(self.folder))

    def sized(self, height: int, width: int) -> "Run":
        """The run with its image of another size, one of `Image.buckets`. Raises UserError for any other."""
        return replace(self, experiment=replace(self.experiment, model=of_size(self.model, (height, width))))

    def plan(
        self, sampler: Open[Sampler] | None = None, *, steps: int | None = None, guidance: float | None = None
    ) -> SamplingPlan:
        """The sampler settings of this run's previews, with every argument that is not None replaced.

        guidance   scale s of classifier-free guidance, 1 + w; 1 is no guidance
        """
        plan = self.experiment.preview.plan.with_steps(steps, guidance)
        return plan if sampler is None else replace(plan, sampler=sampler)

    def sample(
        self, given: Given | None = None, *, generate: str | tuple[str, ...] = (), count: int | None = None,
        seed: int = 0, first: int = 0, plan: SamplingPlan | None = None, batch: int = 64,
        report: Callable[[int], Any] = lambda done: None,
    ) -> Samples:  # fmt: skip
        """Samples the model. Sample i of a seed is always the same, for any `count` and `batch`.

        given      conditions by field: a class name or number, a text, a file path, an array; or a list with one per
                   sample, which repeats. Other conditions are dropped, or labels drawn (`SamplingPlan.complete`)
        generate   fields to generate, in this order; default: all that are not given. ("free",): the model chooses
        count      number of samples; default: the length of the longest list in `given`, or 1
        first      index of the first sample: `first=17, count=1` is only sample 17
        plan       sampler settings; default: those of the previews, which `run.plan(steps=50)` changes
        batch      samples per compiled call
        report     called with the number of samples of each finished batch

        Raises UserError for a field, a value or a plan that does not suit the model, RunError for samples that are not
        finite.
        """
        given, model, plan = given or {}, self.model, plan or self.plan()
        check_seed(seed)
        count = self._count(given) if count is None else count
        if count < 1 or batch < 1 or first < 0:
            raise UserError(f"count and batch must be at least 1, first at least 0; found {count}, {batch}, {first}.")
        rows = given_rows(given, model, count, first=first, modalities=self.modalities)
        _, wanted = model.request(tuple(rows), wanted_of(generate, rows, model))
        return self.sample_rows(rows, wanted, (first, count), seed, plan, batch, report)

    @same_numbers()
    def sample_rows(
        self, rows: dict[str, np.ndarray], wanted: tuple[str, ...], which: tuple[int, int], seed: int,
        plan: SamplingPlan, batch: int, report: Callable[[int], Any], edit: Edit | None = None,
    ) -> Samples:  # fmt: skip
        """`sample` of prepared rows, for a resolved request; `which` is (first, count). With `edit`, edits."""
        (first, count), model = which, self.model if edit is None else Edited(self.model, edit)
        plan = plan if edit is None else replace(plan, complete=False)  # an image says the rest
        if plan.complete:
            rows = completed(self.model, rows, count, first, seed)
        check_plan(self.model, plan)
        rules = self.experiment.rules
        made = generate_many(model, self.params, rows, wanted, count, seed, plan, batch, rules, report, first)
        check_samples(made)
        return opened(self.modalities, rows, made)

    def edit(
        self, image: Any, given: Given | None = None, *, mode: Mode = "image", strength: float | None = None,
        mask: Any = None, other: Any = None, at: tuple[int, int] | None = None, source: Given | None = None,
        repeats: int = 1, iterations: int = 3, count: int | None = None, seed: int = 0,
        plan: SamplingPlan | None = None, batch: int = 64,
    ) -> Samples:  # fmt: skip
        """Edits of an image, or of a list of them, under the conditions `given` (docs/editing.md).

        mode        "image", "vary": noised and denoised; "inpaint", "outpaint"; "invert"; "interpolate"
        strength    share of the steps that are made; None: 0.6, for filling 1
        mask        inpainting: `[h, w]` or a file, 1 (white) is filled
        other       interpolation: the second image
        at          outpainting: row and column of the smaller image; None: the middle
        source      inversion: conditions of the image itself; None: nothing is said of it
        repeats     filling: times that each step is made (RePaint)
        iterations  inversion: calls of the network a step

        Raises UserError for what does not suit the model.
        """
        given, source, model, plan = given or {}, source or {}, self.model, plan or self.plan()
        edit = edit_of(mode, strength, repeats, iterations)
        check_edit(edit, model, plan)
        images = several(image, model.streams[0].modality)
        count = max(len(images), self._count(given)) if count is None else count
        rows = given_rows(given, model, count, modalities=self.modalities)
        rows |= edit_rows(edit, model, range(count), images, mask, other, at)
        if source and not edit.inverts:
            raise UserError(f"source has no use in the edit {mode!r}; leave it out.")
        of_image = given_rows(source, model, count, modalities=self.modalities)
        rows |= {SOURCE + name: row for name, row in of_image.items()}
        return self.sample_rows(rows, model.wantable, (0, count), seed, plan, batch, lambda done: None, edit)

    def sampling(
        self, given: Given | None = None, *, generate: tuple[str, ...] = (), count: int | None = None, seed: int = 0,
        plan: SamplingPlan | None = None,
    ) -> Sampling:  # fmt: skip
        """The guided denoiser with its process, grid and noise, for a custom sampler.

        `denoise(x_t, t)`, with x_t `[count, ...]` and t `[count]`, predicts x0 and eps. For a model of several streams
        these are dicts by stream. Raises UserError for a model that also generates text (Transfusion).
        """
        given, model = given or {}, self.model
        count = self._count(given) if count is None else count
        rows = given_rows(given, model, count, modalities=self.modalities)
        _, wanted = model.request(tuple(rows), wanted_of(generate, rows, model))
        arrays = {name: jax.numpy.asarray(row) for name, row in rows.items()}
        return model.sampling(self.params, arrays, wanted, sample_keys(seed, 0, count), plan or self.plan())

    def denoiser(
        self, given: Given | None = None, *, count: int | None = None, plan: SamplingPlan | None = None
    ) -> Any:
        """The denoiser of `sampling(...)`: (x_t `[count, ...]`, t `[count]`) -> Prediction(x0, eps)."""
        return self.sampling(given, count=count, plan=plan).denoise

    def batch(self, step: int = 0, split: str = "") -> dict[str, np.ndarray]:
        """The examples of a training step, or of another split, as arguments of `loss`."""
        e = self.experiment
        pipeline = Pipeline(
            e.data, split or e.split, e.model.modalities, e.batch_size, e.seed, packer=e.model.packer, vary=True
        )
        return pipeline.batch(step).arrays

    @same_numbers()
    def loss(self, batch: Mapping[str, Any], *, seed: int = 0) -> dict[str, float]:
        """The terms of the loss on a batch, and "loss", their sum with the weights of a constant balance.

        batch   arrays as from `run.batch()` or `run.encode(...)`; `slot`, the row numbers, is optional
        """
        model = self.model
        arrays = {name: jax.numpy.asarray(value) for name, value in batch.items()}
        arrays = {"slot": jax.numpy.arange(len(next(iter(arrays.values()))), dtype="int32")} | arrays
        plain = [m.name for m in model.modalities if not isinstance(m, Features)]  # features are computed if absent
        needed = plain if model.packer is None else list(model.packer.empty(1))
        if missing := [name for name in needed if name not in arrays]:
            raise UserError(f"The batch lacks {', '.join(missing)}; run.batch() has what a step takes.")
        aux = self.params[BUFFERS] if BUFFERS in self.params else model.init_aux(self.params)
        terms, _, _ = _losses(model)(self.params, aux, arrays, seed_key(seed))
        found = {
            name: float(value.sum() / jax.numpy.maximum(weight.sum(), 1)) for name, (value, weight) in terms.items()
        }
        weights = FixedBalance(getattr(self.experiment.balance, "weights", ())).weigh({}, tuple(found))
        return {"loss": sum(float(weights[name]) * value for name, value in found.items()), **found}

    def encode(self, values: Given) -> dict[str, np.ndarray]:
        """The values as prepared arrays by field, as arguments of `loss`."""
        by_name = {m.name: m for m in self.modalities}
        if unknown := [name for name in values if name not in by_name]:
            near = meant(unknown[0], by_name)
            raise UserError(f"{unknown[0]!r} is no field of this model{near} It has {', '.join(by_name)}.")
        which = range(self._count(values))
        return {name: field_rows(by_name[name], value, which) for name, value in values.items()}

    def _count(self, given: Given) -> int:
        by_name = {m.name: m for m in self.model.modalities}
        texts = {name: value for name, value in given.items() if name not in by_name}
        lists = [len(several(value, by_name[name])) for name, value in given.items() if name in by_name]
        return max([1, *lists, *(len(v) for v in texts.values() if isinstance(v, list | tuple))])


@functools.lru_cache(maxsize=8)
def _losses(model: Any) -> Any:
    return jax.jit(model.losses)


def load(
    run_dir: str | Path, *, ema: int | str | None = 0, best: bool = False, step: int | None = None, trust: bool = False,
    stages: Mapping[str, str | Path] | None = None, fsdp: int = 0,
) -> Run:  # fmt: skip
    """Opens a run directory.

    ema     index of the EMA; None (or "none"): the trained parameters
    best    the checkpoint of the lowest validation loss instead of the newest
    step    the checkpoint of this step, if it is kept
    trust   import the custom code that the run keeps
    stages  where a stage is that is not in the run's folder: {name: a file or a run}
    fsdp    devices over which the parameters are sharded; 0: as in training, if that mesh fits the devices

    Raises UserError if there is no run, no finished checkpoint, or no such EMA.
    """
    places = {name: Path(path) for name, path in (stages or {}).items()}
    which = Which("none" if ema is None else str(ema), best, step)
    experiment, params, found = open_run(Path(run_dir), which, trust, places, fsdp)
    return Run(Path(run_dir), experiment, params, found)


def wanted_of(
    generate: str | tuple[str, ...], given: Mapping[str, Any], model: Any, flag: str = "generate"
) -> tuple[str, ...]:
    """The generated fields: the named ones, or all that are not given. Raises UserError for an unknown one."""
    generate = (generate,) if isinstance(generate, str) else tuple(generate)
    wanted = generate or tuple(name for name in model.wantable if name not in given)
    unknown = [name for name in wanted if name not in (*model.wantable, FREE)]
    if unknown and model.wantable:
        near = meant(unknown[0], model.wantable)
        raise UserError(f"{flag} {unknown[0]!r} is unknown{near} This model generates {', '.join(model.wantable)}.")
    if len(set(wanted)) != len(wanted):
        raise UserError(f"{flag} names each modality at most once; found {', '.join(wanted)!r}.")
    return wanted
