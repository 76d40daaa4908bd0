"""A recipe is one frozen `Experiment`: the object graph itself is the configuration."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from unified_jax.config import Open, check_open
from unified_jax.data.base import DataSet
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.evaluation.scores import Score
from unified_jax.models.base import Model, check_plan
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.tuned import Tuned, Tuning
from unified_jax.precision import same_numbers
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import MeshShape, Rules
from unified_jax.training.balancing import Balance, FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization


@dataclass(frozen=True)
class Previews:
    """Sample previews during training, from fixed noise and fixed conditions."""

    every: int = 1000
    """Steps between previews; 0: never."""
    count: int = 16
    """Samples per preview."""
    plan: SamplingPlan = SamplingPlan()
    """Sampler settings of the previews."""


@dataclass(frozen=True)
class Validation:
    """The loss of the first EMA on fixed batches and fixed noise; the lowest is kept as the best checkpoint."""

    every: int = 0
    """Steps between validations; 0: never."""
    batches: int = 4
    """Batches per validation."""
    split: str = "test"
    """Split of the data set."""


HIGHER = {"accuracy", "precision", "recall", "density", "coverage", "score", "psnr", "ssim", "binding", "readable"}
HIGHER |= {"kept", "consistency", "near", "modes"}
"""Words in the names of metrics of which a larger value is better."""
LOWER = {
    "fid",
    "sfid",
    "kid",
    "frechet",
    "kernel",
    "loss",
    "mse",
    "error",
    "distance",
    "perceptual",
    "tv",
    "kl",
    "bits",
}
"""Words in the names of those of which a smaller value is."""


@dataclass(frozen=True)
class Best:
    """A metric of samples of the first EMA; the checkpoint of its best value is kept as the best one."""

    metric: str = ""
    """fid, sfid, kid, inception_score, precision, recall (of Inception), frechet, kernel (of pooled pixels), or one of
    a score, such as attribute_accuracy; empty: the validation loss decides."""
    every: int = 0
    """Steps between measurements."""
    count: int = 2048
    """Samples per measurement; numbers of different counts are not comparable."""
    against: str = "train"
    """What distances are measured against: a split of the data set, a folder, or an .npz."""
    inception: str = ""
    """File of Inception's weights."""
    preprocessing: Literal["adm", "torch_fidelity", "pytorch_fid", "clean"] = "adm"
    """Resizing of Inception's input."""
    patience: int = 0
    """Stop after this many measurements without a better one; 0: never."""
    better: Literal["", "higher", "lower"] = ""
    """Which value is better; "": as the metric's name says."""
    places: ClassVar[tuple[str, ...]] = ("inception",)
    """Fields that may differ on a resume."""

    def __post_init__(self) -> None:
        if bool(self.metric) != bool(self.every) or min(self.every, self.patience) < 0 or self.count < 2:
            raise ValueError(
                "checkpoint.best needs both a metric and every >= 1, count at least 2 and patience not negative; found "
                f"{self}."
            )
        if self.metric and not self.better and not self._words & (HIGHER | LOWER):
            raise ValueError(
                f"checkpoint.best.metric {self.metric!r}: its name does not say which value is better; set "
                "checkpoint.best.better to 'higher' or 'lower'."
            )

    @property
    def _words(self) -> set[str]:
        return set(re.split(r"[^a-z0-9]+", self.metric.lower()))

    @property
    def higher(self) -> bool:
        """Whether a larger value is better: of distances and losses a smaller one is."""
        return self.better == "higher" if self.better else bool(self._words & HIGHER)


@dataclass(frozen=True)
class Checkpointing:
    """When checkpoints are written and how many are kept."""

    every: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Rolling checkpoints kept."""
    keep_every: int = 0
    """Checkpoints of every multiple of this many steps are kept for good; 0: none. A multiple of `every`."""
    best: Best = Best()
    """Which checkpoint is the best: that of the lowest validation loss, or of a metric of samples."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"checkpoint.every and checkpoint.keep must be at least 1, found {self}.")
        if self.keep_every < 0 or self.keep_every % self.every:
            raise ValueError(
                f"checkpoint.keep_every must be a multiple of checkpoint.every = {self.every}, found {self.keep_every}."
            )


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a run computes."""

    model: Open[Model] = Diffusion()
    """Network, process and modalities."""
    data: Open[DataSet] = World()
    """The data set."""
    split: str = "train"
    """Training split."""
    tuning: Tuning = Tuning()
    """Fine-tuning: which parameters of a run started with --init-from are trained, and how."""
    optimizer: Optimization = Optimization()
    """Optimizer, learning-rate schedule, clipping, parameter groups."""
    ema: tuple[Ema, ...] = (Ema(),)
    """EMAs of the parameters; the first is sampled and validated."""
    balance: Open[Balance] = FixedBalance()
    """Weights of the loss terms."""
    mesh: MeshShape = MeshShape()
    """Device mesh: sizes of the axes data, fsdp, tensor and sequence."""
    dtype: Literal["network", "auto"] = "network"
    """Compute dtype: as the network says; or auto, bfloat16 on accelerators and on processors with instructions for it,
    else float32. The choice is made where a run begins, and kept as the network's."""
    rules: Rules = Rules()
    """Sharding rules: the mesh axes that shard parameters and activations."""
    steps: int = 10_000
    """Training steps."""
    batch_size: int = 64
    """Global batch size, over all devices and processes."""
    accumulate: int = 1
    """Gradient accumulation: microbatches per step."""
    reduction: Literal["fast", "strict"] = "fast"
    """Gradient reduction: fast, or bitwise identical on any number of devices."""
    virtual_shards: int = 8
    """Shards of a batch in the strict reduction: the most devices it can use."""
    seed: int = 0
    """Seed of parameters, data order and noise."""
    non_finite: Literal["stop", "skip"] = "stop"
    """At a step with a non-finite loss or gradient: stop the run, or skip the update."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    gradients_every: int = 0
    """Steps between measurements of every loss term's gradient norm and their pairwise cosines; 0: never."""
    checkpoint: Checkpointing = Checkpointing()
    """When to write checkpoints."""
    preview: Previews = Previews()
    """Sample previews during training."""
    validation: Validation = Validation()
    """Validation loss during training."""
    evaluate: int = 0
    """Samples of the evaluation after the last step; 0: none."""
    scores: Open[tuple[Open[Score], ...]] = ()
    """What an evaluation of images measures; (): all scores of the house that suit (`evaluation.scores`)."""

    def __post_init__(self) -> None:
        check_open(self)
        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, found {self.steps}.")
        if self.batch_size < 1 or self.accumulate < 1:
            raise UserError(
                f"--batch-size and --accumulate must be at least 1, found {self.batch_size} and {self.accumulate}."
            )
        if self.batch_size % self.accumulate:
            raise UserError(
                f"The batch of {self.batch_size} is not divisible into {self.accumulate} microbatches; "
                "choose --accumulate that divides --batch-size."
            )
        if self.log_every < 1:
            raise UserError(f"--log-every must be at least 1, found {self.log_every}.")
        if not self.ema:
            raise UserError("An experiment needs at least one EMA; use ema=(Ema(decay=0.0),) for none.")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must lie in 0 .. 2^31 - 1, found {self.seed}.")
        counts = (self.preview.every, self.validation.every, self.evaluate, self.gradients_every)
        if min(counts) < 0 or self.preview.count < 1 or self.evaluate == 1:
            raise UserError(
                "preview.every, validation.every, gradients_every and evaluate must not be negative; preview.count "
                "not 0, and evaluate not 1: intervals need two samples."
            )
        if self.preview.every or self.evaluate:  # an unsuitable plan is refused before compilation
            with same_numbers():
                check_plan(self.model, self.preview.plan)

    @property
    def trained(self) -> Model:
        """The model of the train step: itself, or with a part frozen."""
        return self.model if self.tuning.full else Tuned(self.model, self.tuning)
