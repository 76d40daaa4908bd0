"""AdamW with warm-up, decay, clipping and a decay mask; exponential moving averages of the parameters.

Weight decay acts on kernels (parameters whose name ends in `kernel`), not on biases, gains and embedding tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from unified_jax.typing import Params


@dataclass(frozen=True)
class AdamW:
    """The optimizer of the published diffusion recipes."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine to final_fraction at the last step."""
    final_fraction: float = 0.0
    """Learning rate at the end of the cosine, as a share of the peak."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the kernels."""
    clip_norm: float = 0.0
    """Global gradient norm above which gradients are scaled down; 0 never clips."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"The learning rate must be positive, found {self.learning_rate}.")
        if min(self.warmup_steps, self.weight_decay, self.clip_norm) < 0:
            raise ValueError("warmup_steps, weight_decay and clip_norm must not be negative.")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1 and 0 <= self.final_fraction <= 1):
            raise ValueError("b1 and b2 must lie in [0, 1) and final_fraction in [0, 1].")

    def rate(self, steps: int) -> Callable[[Any], Any]:
        """step -> learning rate for a run of `steps` steps."""
        peak, warm = self.learning_rate, self.warmup_steps
        if self.schedule == "cosine":
            after = optax.cosine_decay_schedule(peak, max(1, steps - warm), self.final_fraction)
        else:
            after = optax.constant_schedule(peak)
        if warm == 0:
            return after
        # Step 0 already moves: the ramp is peak / warm, 2 peak / warm, ..., peak.
        ramp = optax.linear_schedule(peak / warm, peak, max(1, warm - 1))
        return optax.join_schedules([ramp, after], [warm])

    def transform(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation."""
        adam = optax.adamw(
            self.rate(steps), self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=decay_mask
        )
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adam) if self.clip_norm else adam


def decay_mask(params: Params) -> Any:
    """True for kernels."""
    return jax.tree_util.tree_map_with_path(lambda path, _: str(path[-1].key).endswith("kernel"), params)


@dataclass(frozen=True)
class Ema:
    """An exponential moving average of the parameters."""

    decay: float = 0.9999
    """Share of the average that is kept each step."""
    warmup: bool = True
    """Early on keep only (1 + step) / (10 + step), so that a short run's average is not its initial value."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"The decay of an EMA lies in [0, 1), found {self.decay}.")

    def update(self, average: Params, params: Params, step: Array) -> Params:
        """The average after the step that produced `params`; `step` counts from 0."""
        decay = jnp.minimum(self.decay, (1.0 + step) / (10.0 + step)) if self.warmup else self.decay
        return jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, average, params)
