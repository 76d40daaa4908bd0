"""Optimization: an algorithm (AdamW, Lion, Adafactor, Muon), a learning-rate schedule, clipping, parameter groups.

Weight decay acts on kernels (parameters whose name ends in `kernel`), not on biases, gains and embedding tables. A
group selects parameters by a regular expression on their path, such as "label_" or "blocks/mlp", and scales their
learning rate and weight decay, or freezes them; the first matching group applies.
"""

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from unified_jax.config import Open, check_finite
from unified_jax.errors import UserError
from unified_jax.training.algorithms import AdamW, Rule, Stacked, check_pattern, path_of
from unified_jax.typing import Params


@dataclass(frozen=True)
class Group:
    """A parameter group with its own learning rate and weight decay."""

    pattern: str = ""
    """Regular expression, searched in the parameter's path ("blocks/attention/qkv_kernel")."""
    rate: float = 1.0
    """Factor on the learning rate; 0 freezes."""
    decay: float = 1.0
    """Factor on the weight decay."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_pattern("Group.pattern", self.pattern)
        if self.rate < 0 or self.decay < 0:
            raise ValueError(f"Group.rate and decay must not be negative, found {self.rate} and {self.decay}.")


@dataclass(frozen=True)
class Optimization:
    """Optimizer, learning-rate schedule, clipping, parameter groups."""

    rule: Open[Rule] = AdamW()
    """Optimization algorithm."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Learning rate after the warm-up: constant, or decaying to final_fraction of the peak."""
    final_fraction: float = 0.0
    """Final learning rate, as a share of the peak."""
    clip_norm: float = 0.0
    """Largest global gradient norm; larger gradients are scaled down. 0: no clipping."""
    groups: tuple[Group, ...] = ()
    """Parameter groups with their own learning rate or weight decay."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.learning_rate <= 0:
            raise ValueError(f"The learning rate must be positive, found {self.learning_rate}.")
        if min(self.warmup_steps, self.clip_norm) < 0:
            raise ValueError("warmup_steps and clip_norm must not be negative.")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction must lie in [0, 1], found {self.final_fraction}.")

    def rate(self, steps: int) -> Callable[[Any], Any]:
        """step -> learning rate for a run of `steps` steps, of the step with index `step` = 0 .. steps - 1.

        With w steps of warm-up, step i < w has (i + 1) / w of the peak, and step w + j is j / (steps - w) along the
        decay: the two steps w - 1 and w have the peak, and the decay ends at index `steps`, so that the last step still
        changes the parameters.
        """
        peak, warm = self.learning_rate, self.warmup_steps
        left = max(1, steps - warm)
        match self.schedule:
            case "cosine":
                after = optax.cosine_decay_schedule(peak, left, self.final_fraction)
            case "linear":
                after = optax.linear_schedule(peak, peak * self.final_fraction, left)
            case "constant":
                after = optax.constant_schedule(peak)
        if warm == 0:
            return after
        # Step 0 already has a rate: the ramp is peak / warm, 2 peak / warm, ..., peak.
        ramp = optax.linear_schedule(peak / warm, peak, max(1, warm - 1))
        return optax.join_schedules([ramp, after], [warm])

    def transform(self, steps: int, stacked: Stacked = ()) -> optax.GradientTransformation:
        """The optax transformation; `stacked` are the paths of parameters in stacks of layers (see `Rule`)."""
        rate = self.rate(steps)
        step = self.rule.transform(rate, 1.0, stacked)
        if self.groups:
            rules: dict[Hashable, optax.GradientTransformation] = {
                str(i): _of_group(self.rule, group, rate, stacked) for i, group in enumerate(self.groups)
            }
            step = optax.multi_transform(rules | {"rest": step}, self.labels)
        return optax.chain(self._clip(), step) if self.clip_norm else step

    def _clip(self) -> optax.GradientTransformation:
        """Clipping by the norm of all gradients but those of frozen groups."""
        clip = optax.clip_by_global_norm(self.clip_norm)
        frozen = {str(i) for i, group in enumerate(self.groups) if group.rate == 0}
        if not frozen:
            return clip

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            names = self.labels(updates)
            alone = jax.tree.map(lambda g, name: jnp.zeros_like(g) if name in frozen else g, updates, names)
            return clip.update(alone, state, params)

        return optax.GradientTransformation(clip.init, update)

    def labels(self, params: Params) -> Any:
        """The index of each parameter's group, as text, or "rest". UserError for a group that matches nothing."""

        def label(path: Any, _: Any) -> str:
            name = path_of(path)
            return next((str(i) for i, g in enumerate(self.groups) if re.search(g.pattern, name)), "rest")

        found = jax.tree_util.tree_map_with_path(label, params)
        empty = [g.pattern for i, g in enumerate(self.groups) if str(i) not in jax.tree.leaves(found)]
        if empty:
            names = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise UserError(f"No parameter matches the group(s) {', '.join(empty)}; there are {', '.join(names)}.")
        return found


def at_step(opt_state: Any, step: Any) -> Any:
    """The state of an optimizer whose schedules are at this step; they count updates, and skipped steps have none."""

    def leaf(part: Any) -> Any:
        return part._replace(count=step) if isinstance(part, optax.ScaleByScheduleState) else part

    return jax.tree.map(leaf, opt_state, is_leaf=lambda part: isinstance(part, optax.ScaleByScheduleState))


def _of_group(rule: Rule, group: Group, rate: Callable[[Any], Any], stacked: Stacked) -> optax.GradientTransformation:
    if group.rate == 0:
        return optax.set_to_zero()
    return rule.transform(lambda step: group.rate * rate(step), group.decay, stacked)
