"""A recipe is one frozen `Experiment`: the object graph itself is the configuration."""

from dataclasses import dataclass
from typing import Literal

from unified_jax.config import Open
from unified_jax.data.base import DataSet
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.models.base import Model
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.tuned import Tuned, Tuning
from unified_jax.precision import same_numbers
from unified_jax.samplers.plan import Plan
from unified_jax.sharding import MeshShape, Rules
from unified_jax.training.balancing import Balance, FixedBalance
from unified_jax.training.ema import Ema
from unified_jax.training.optimizer import Optimization


@dataclass(frozen=True)
class Previews:
    """Pictures of the model as it learns, from fixed noise and fixed conditions."""

    every: int = 1000
    """Steps between sheets; 0 draws none."""
    count: int = 16
    """Samples on a sheet."""
    plan: Plan = Plan()
    """How they are drawn."""


@dataclass(frozen=True)
class Validation:
    """The loss of the first EMA on fixed batches and fixed noise; the lowest is kept as the best checkpoint."""

    every: int = 0
    """Steps between validations; 0 never validates."""
    batches: int = 4
    """Batches of the split."""
    split: str = "test"
    """Split of the data set."""


@dataclass(frozen=True)
class Checkpointing:
    """When checkpoints are written and how many are kept."""

    every: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Rolling checkpoints kept."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"checkpoint.every and checkpoint.keep must be at least 1, found {self}.")


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a run computes."""

    model: Open[Model] = Diffusion()
    """Network, process and modalities."""
    data: Open[DataSet] = World()
    """Where examples come from."""
    split: str = "train"
    """Split that is trained on."""
    tuning: Tuning = Tuning()
    """What of the model is trained, and how, in a run that starts from another one (--init-from)."""
    optimizer: Optimization = Optimization()
    """Gradient to update."""
    ema: tuple[Ema, ...] = (Ema(),)
    """Averages of the parameters; the first is what is sampled and validated."""
    balance: Open[Balance] = FixedBalance()
    """Weights of the loss terms."""
    mesh: MeshShape = MeshShape()
    """Devices along data, fsdp, tensor, sequence."""
    rules: Rules = Rules()
    """Which mesh axes parameters and activations are cut over."""
    steps: int = 10_000
    """Training steps."""
    batch_size: int = 64
    """Examples a step, over all devices and processes."""
    accumulate: int = 1
    """Microbatches a step."""
    reduction: Literal["fast", "strict"] = "fast"
    """How gradients are added up: as the compiler likes, or the same to the bit on any number of devices."""
    virtual_shards: int = 8
    """Parts of a batch whose gradients the strict reduction adds up: the most devices it can use."""
    seed: int = 0
    """Seed of parameters, data order and noise."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What happens at a step whose loss or gradient is not finite."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    gradients_every: int = 0
    """Steps between measurements of every loss term's gradient norm and of the cosines between them; 0 never."""
    checkpoint: Checkpointing = Checkpointing()
    """When checkpoints are written."""
    preview: Previews = Previews()
    """Sheets of samples while training."""
    validation: Validation = Validation()
    """Loss on held-out examples while training."""
    evaluate: int = 0
    """Samples drawn for the evaluation after the last step; 0 skips it."""

    def __post_init__(self) -> None:
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
        if min(counts) < 0 or self.preview.count < 1:
            raise UserError(
                "preview.every, validation.every, gradients_every and evaluate must not be negative; preview.count "
                "not 0."
            )
        if self.preview.every or self.evaluate:  # a plan that does not fit is refused before anything is compiled
            with same_numbers():
                for process in self.model.processes:
                    self.preview.plan.prepare(process)

    @property
    def trained(self) -> Model:
        """The model as the train step sees it: itself, or with a part of it frozen."""
        return self.model if self.tuning.full else Tuned(self.model, self.tuning)
