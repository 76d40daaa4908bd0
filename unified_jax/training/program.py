"""The compiled part of training: a step's arguments, their shardings on a mesh, and the jitted step.

`runs.loop` runs it; `planning` compiles it ahead of time, without the hardware.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unified_jax.errors import UserError
from unified_jax.interop.names import flatten
from unified_jax.models.features import encodings, to_encode
from unified_jax.models.latent_features import awake
from unified_jax.models.stages import STAGES
from unified_jax.models.streams import conditions_of
from unified_jax.models.terms import blank_batch
from unified_jax.models.tuned import Tuned, whole_model
from unified_jax.precision import seed_key
from unified_jax.sharding import Rules, parameter_shardings
from unified_jax.training.balancing import GradNorm, PcGrad
from unified_jax.training.compute import fastest, settled
from unified_jax.training.experiment import Experiment
from unified_jax.training.players import check_players, step_of
from unified_jax.training.state import State, state_shardings
from unified_jax.training.step import Optimizer, init_state
from unified_jax.training.strict import StrictStep, check_strict
from unified_jax.typing import Params


@dataclass(frozen=True)
class Program:
    """A train step on a mesh."""

    experiment: Experiment
    mesh: Mesh
    optimizer: Optimizer
    shapes: State
    shardings: State
    step: Callable[..., Any]
    """(state, frozen, batch, key) -> (state, metrics), compiled; the state is donated."""
    fast: Any
    """The step as one jitted program: `step` itself, unless it is strict or encoders run before it."""

    @property
    def rows(self) -> int:
        """Rows of a global batch."""
        packer = self.experiment.model.packer
        return self.experiment.batch_size // (packer.policy.per_row if packer else 1)

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes.params))

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of a replicated array."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_sharding(self) -> NamedSharding:
        """The sharding of a batch: rows over the batch axes."""
        return NamedSharding(self.mesh, self.experiment.rules.activation_spec(("batch",)))

    def abstract_state(self) -> State:
        """The state's shapes with their shardings."""
        return jax.tree.map(
            lambda shape, cut: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=cut),
            self.shapes, self.shardings,
        )  # fmt: skip

    def abstract_frozen(self) -> Params:
        """The same for the frozen parameters; {} if all are trained."""
        return frozen_layout(self.experiment.trained, self.mesh, self.experiment.rules)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a global batch with their shardings, from the modalities, without reading data."""
        return {
            name: jax.ShapeDtypeStruct((rows, *one.shape), one.dtype, sharding=self.batch_sharding)
            for name, (rows, one) in blank_batch(self.experiment.model, self.experiment.batch_size).items()
        }


def check_batch(experiment: Experiment, mesh: Mesh) -> None:
    """Raises UserError if the mesh does not divide a microbatch."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    packer = experiment.model.packer
    whole = parts * experiment.accumulate * (packer.policy.per_row if packer else 1)
    if experiment.batch_size % whole:
        raise UserError(
            f"A batch of {experiment.batch_size} in {experiment.accumulate} microbatch(es) is not divisible over the "
            f"{parts} devices of data x fsdp; choose --batch-size as a multiple of {whole}."
        )
    why = getattr(experiment.model, "whole_batch", "")
    if why and (experiment.accumulate > 1 or experiment.reduction == "strict"):
        raise UserError(f"--accumulate 1 and --reduction fast: {why}, and a microbatch would give other numbers.")
    rows = experiment.batch_size // whole * parts
    if experiment.reduction == "strict":
        check_strict(mesh, rows * experiment.accumulate, experiment.virtual_shards)
        if isinstance(experiment.balance, GradNorm | PcGrad):
            raise UserError(
                "--reduction strict works with balances of losses only, not of gradients; "
                "choose another balance or --reduction fast."
            )


def check_trains(experiment: Experiment) -> None:
    """Raises UserError for a model without a loss."""
    if not experiment.model.terms:
        raise UserError(
            f"{type(experiment.model).__name__} trains nothing: it has no loss. unified-jax link writes the run "
            "directory of a chain of trained models."
        )


def assemble(experiment: Experiment, mesh: Mesh) -> Program:
    """The program of an experiment.

    Raises UserError for a model without a loss, or a batch or a parameter that the mesh does not divide.
    """
    experiment = settled(experiment, fastest(mesh.devices.flat[0].platform))
    check_batch(experiment, mesh)
    check_trains(experiment)
    model = experiment.trained
    stacked = stacked_paths(model.axes()) if experiment.tuning.full else ()
    optimizer = Optimizer(experiment.optimizer, experiment.ema, experiment.steps, experiment.accumulate, stacked)
    make = functools.partial(init_state, model, optimizer, experiment.balance)
    shapes = jax.eval_shape(make, seed_key(experiment.seed))
    if experiment.model.players:
        if not experiment.tuning.full:
            raise UserError("A model with players trains all its parameters; leave --tuning at its default.")
        check_players(experiment.model, experiment.balance, shapes.params, experiment.reduction == "strict")
    shardings = state_shardings(mesh, experiment.rules, model.axes(), shapes)
    fast: Any = jax.jit(
        functools.partial(step_of(model), model, optimizer, experiment.balance),
        out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )
    step = _after_encoders(experiment, mesh, fast)
    if experiment.reduction == "strict":
        shards = experiment.virtual_shards
        step = StrictStep(model, optimizer, experiment.balance, shards, mesh, shardings)
    return Program(experiment, mesh, optimizer, shapes, shardings, step, fast)


def encoder_program(conditions: tuple[Any, ...], mesh: Mesh, rules: Rules) -> Callable[..., Any]:
    """({"stages": parameters}, sources by field) -> the encodings by field: before a step, and for `data.cached`."""
    return jax.jit(
        functools.partial(encodings, conditions), out_shardings=NamedSharding(mesh, rules.activation_spec(("batch",)))
    )


def _after_encoders(experiment: Experiment, mesh: Mesh, step: Any) -> Any:
    """The step, given the encodings of its batch by a program of their own."""
    conditions = to_encode(conditions_of(experiment.model))
    if not conditions:
        return step
    program = encoder_program(conditions, mesh, experiment.rules)

    def run(state: State, frozen: Params, batch: Any, key: Any) -> Any:
        sources = {one.source.name: batch[one.source.name] for one in conditions}
        return step(state, frozen, {**batch, **program({STAGES: frozen[STAGES]}, sources)}, key)

    return run


def laid_out(mesh: Mesh, rules: Rules, axes: Any, shapes: Any) -> Any:
    """Shapes with the shardings of parameters."""
    cut = parameter_shardings(mesh, rules, axes, shapes)
    return jax.tree.map(lambda s, c: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=c), shapes, cut)


def base_layout(model: Any, mesh: Mesh, rules: Rules) -> Params:
    """Shapes and shardings of what a tuned model does not train; {} if all of the model is trained."""
    if not isinstance(model, Tuned):
        return {}
    shapes = jax.eval_shape(model.model.init, seed_key(0))
    return laid_out(mesh, rules, model.frozen(model.model.axes()), model.frozen(shapes))


def frozen_layout(model: Any, mesh: Mesh, rules: Rules) -> Params:
    """Shapes and shardings of the frozen parameters, those of stages too; {} if there are none."""
    whole = whole_model(model)
    stages = {one.name: laid_out(mesh, rules, one.axes(whole), one.shapes(whole)) for one in whole.stages}
    return awake(whole, base_layout(model, mesh, rules) | ({STAGES: stages} if stages else {}))


def stacked_paths(axes: Any) -> tuple[str, ...]:
    """Paths of the parameters in stacks: their first logical axis is `layers`."""
    return tuple(path for path, names in flatten(axes).items() if names[:1] == ("layers",))
