"""The interface of a discrete process that the variational bound (`bound`) and noise levels (`levels`) use."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float

from unified_jax.processes.targets import Prediction, Process, Target


@runtime_checkable
class Chain(Process, Protocol):
    """T Gaussian noising steps, t = 0 .. T-1; index -1 is the data."""

    @property
    def steps(self) -> int:
        """T, the number of training steps."""
        ...

    @property
    def target(self) -> Target:
        """What the network predicts."""
        ...

    @property
    def zero_snr(self) -> bool:
        """Whether abar_T = 0."""
        ...

    @property
    def alphas_cumprod(self) -> Float[np.ndarray, "t"]:
        """abar of every step."""
        ...

    def __len__(self) -> int:
        """Number of steps of the (respaced) process."""
        ...

    def respaced(self, timesteps: tuple[int, ...]) -> "Chain":
        """The respaced process that keeps these indices of the full one; () keeps all."""
        ...

    def posterior(self, x0: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
        """Mean and log-variance of q(x_{t-1} | x_t, x0)."""
        ...

    def reverse(self, prediction: Prediction, x_t: Array, t: Array) -> tuple[Array, Array]:
        """Mean and log-variance of p(x_{t-1} | x_t)."""
        ...
