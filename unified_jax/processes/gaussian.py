r"""Discrete Gaussian diffusion: DDPM, with the learned variance of improved DDPM.

Ho et al. 2020; Nichol & Dhariwal 2021.

Steps are indexed t = 0 .. T-1 (the papers' 1 .. T); index -1 is the data itself, so there is always a step before.
With abar_t = prod_{i<=t} (1 - beta_i),

    q(x_t | x0) = N(sqrt(abar_t) x0, (1 - abar_t) I)                  alpha = sqrt(abar), sigma = sqrt(1 - abar)
    q(x_{t-1} | x_t, x0) = N(mu~, beta~ I)                                                              (DDPM eq. 6-7)
    mu~ = sqrt(abar_{t-1}) beta_t / (1 - abar_t) x0 + sqrt(1 - beta_t) (1 - abar_{t-1}) / (1 - abar_t) x_t
    beta~ = (1 - abar_{t-1}) / (1 - abar_t) beta_t

beta~_0 = 0; where its logarithm is needed slot 1 is copied into slot 0. The reverse variance is beta~ (fixed_small),
beta (fixed_large) or, learned, exp(v log beta + (1 - v) log beta~) with v = (output + 1) / 2 (improved DDPM, eq. 15).

Respacing: `timesteps` keeps a subsequence of the steps; beta'_i = 1 - abar_{S_i} / abar_{S_{i-1}} defines a shorter
process with the same marginals, whose network time remains that of the full one. All quantities below are those of
the respaced process.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unified_jax.config import check_finite
from unified_jax.processes.bound import bound_term
from unified_jax.processes.grids import GridRequest
from unified_jax.processes.levels import chain_grid
from unified_jax.processes.schedules import Schedule, make_betas, shift_betas, zero_terminal_snr
from unified_jax.processes.targets import Prediction, Process, Target, coefficients, expand, mean_per_example, solve
from unified_jax.processes.weights import loss_weight
from unified_jax.typing import Keys

Variance = Literal["fixed_small", "fixed_large", "learned_range"]
Objective = Literal["mse", "rescaled_mse", "kl", "rescaled_kl"]


@dataclass(frozen=True)
class DiscreteGaussian:
    """A discrete process of T Gaussian noising steps."""

    schedule: Schedule = "linear"
    """Noise schedule: the shape of beta over the steps."""
    steps: int = 1000
    """T, the number of training steps of the process."""
    beta_start: float = 1e-4
    """First beta (of schedules that have ends)."""
    beta_end: float = 0.02
    """Last beta."""
    table: tuple[float, ...] = ()
    """All betas explicitly, one per step, in place of a schedule."""
    rescale_betas: bool = True
    """Multiply both ends by 1000 / T, so that a process of any length ends in noise."""
    zero_snr: bool = False
    """Rescale so that abar_T = 0 (not with target 'eps')."""
    target: Target = "eps"
    """What the network predicts: 'eps', 'x0' or 'v' ('velocity' needs continuous time)."""
    variance: Variance = "fixed_small"
    """Variance of a reverse step; 'learned_range' doubles the output channels."""
    objective: Objective = "mse"
    """'mse': the simple loss, plus the variational term for a learned variance; 'kl': the variational bound."""
    weighting: Literal["target", "eps", "min_snr", "max_snr"] = "target"
    """Weight of the simple loss over time."""
    snr_gamma: float = 5.0
    """gamma of the weighting 'min_snr'."""
    timesteps: tuple[int, ...] = ()
    """Increasing indices of the kept steps (a shorter process); empty keeps all."""
    shift: float = 1.0
    """Resolution shift s: alpha / sigma of every step is divided by it (`schedules.shift_betas`)."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"DiscreteGaussian.steps must be at least 1, found {self.steps}.")
        if self.table and len(self.table) != self.steps:
            raise ValueError(
                f"DiscreteGaussian.table needs one beta per step: expected {self.steps}, found {len(self.table)}."
            )
        if self.target == "velocity":
            raise ValueError(
                "DiscreteGaussian has integer times and no d x_t / d t; choose target 'eps', 'x0' or 'v', "
                "or a process in continuous time such as RectifiedFlow."
            )
        check_finite(self)
        if self.shift <= 0:
            raise ValueError(f"DiscreteGaussian.shift must be positive, found {self.shift}.")
        if self.snr_gamma <= 0:
            raise ValueError(f"DiscreteGaussian.snr_gamma must be positive, found {self.snr_gamma}.")
        kept = self.timesteps
        if kept and (list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= self.steps):
            raise ValueError(f"DiscreteGaussian.timesteps must increase strictly within 0 .. {self.steps - 1}.")
        last = self.alphas_cumprod[-1]  # refuses a schedule that does not fit
        if last == 0 and self.target == "eps":
            raise ValueError(
                "The last step of this process has alpha = 0 (zero_snr, jsd, or a table that ends in 1), where the "
                "target 'eps' says nothing about x0; choose target 'v' or 'x0'."
            )

    # ---- tables, float64 ------------------------------------------------------------------------------------------

    @functools.cached_property
    def betas(self) -> Float[np.ndarray, "t"]:
        """beta of the (respaced) process."""
        scale = 1000.0 / self.steps if self.rescale_betas else 1.0
        betas = make_betas(self.schedule, self.steps, self.beta_start * scale, self.beta_end * scale)
        betas = np.asarray(self.table, np.float64) if self.table else betas
        if np.any(betas <= 0) or np.any(betas > 1):
            raise ValueError(
                f"The {self.schedule} schedule with {self.steps} steps leaves (0, 1] (largest beta {betas.max():.3g}); "
                "use more steps or smaller ends."
            )
        if self.zero_snr:
            betas = zero_terminal_snr(betas)
        if self.shift != 1.0:
            betas = shift_betas(betas, self.shift)
        if not self.timesteps:
            return betas
        abar = np.cumprod(1.0 - betas)[list(self.timesteps)]
        return 1.0 - abar / np.concatenate([[1.0], abar[:-1]])

    @property
    def alphas_cumprod(self) -> Float[np.ndarray, "t"]:
        """abar of the (respaced) process."""
        return np.cumprod(1.0 - self.betas)

    @functools.cached_property
    def posterior_variance(self) -> Float[np.ndarray, "t"]:
        """beta~; 0 at index 0."""
        before = np.concatenate([[1.0], self.alphas_cumprod[:-1]])
        return self.betas * (1.0 - before) / (1.0 - self.alphas_cumprod)

    @functools.cached_property
    def posterior_log_variance(self) -> Float[np.ndarray, "t"]:
        """log beta~ with slot 1 copied into slot 0 (a process of one step has no slot 1 and uses beta)."""
        second = self.posterior_variance[1] if len(self.betas) > 1 else self.betas[0]
        return np.log(np.concatenate([[second], self.posterior_variance[1:]]))

    @functools.cached_property
    def log_betas(self) -> Float[np.ndarray, "t"]:
        """log beta, the upper end of the learned range."""
        return np.log(self.betas)

    @functools.cached_property
    def fixed_log_variance(self) -> Float[np.ndarray, "t"]:
        """log variance of a reverse step where it is not learned."""
        if self.variance == "fixed_large":
            return np.concatenate([self.posterior_log_variance[:1], self.log_betas[1:]])
        return self.posterior_log_variance

    # ---- the process ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of steps of the (respaced) process."""
        return len(self.timesteps) or self.steps

    @property
    def channels_per_output(self) -> int:
        """2 where the variance is learned."""
        return 2 if self.variance == "learned_range" else 1

    @property
    def noise_time(self) -> int:
        """The last step."""
        return len(self) - 1

    def respaced(self, timesteps: tuple[int, ...]) -> "DiscreteGaussian":
        """The respaced process that keeps these indices of the full one, with the same marginals."""
        return dataclasses.replace(self, timesteps=timesteps)

    def alpha_sigma(self, t: Int[Array, "*s"]) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
        """(sqrt(abar_t), sqrt(1 - abar_t)) for indices -1 .. T-1; index -1 is data: (1, 0)."""
        abar = np.concatenate([[1.0], self.alphas_cumprod])
        return _take(np.sqrt(abar), t + 1), _take(np.sqrt(1.0 - abar), t + 1)

    def target_coefficients(self, t: Array) -> tuple[Array, Array]:
        """(p, q) of `target = p x0 + q eps`."""
        alpha, sigma = self.alpha_sigma(t)
        return coefficients(self.target, alpha, sigma, alpha, sigma)

    def draw_times(self, keys: Keys) -> Int[Array, "b"]:
        """Uniform over the steps."""
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, len(self)))(keys)

    def network_input(self, x_t: Array, t: Array) -> Array:
        """x_t itself."""
        del t
        return x_t

    def start(self, eps: Array, t: Array) -> Array:
        """Sampling begins at eps itself."""
        del t
        return eps

    def network_time(self, t: Array) -> Array:
        """The index in the full process, as float; the data (-1) counts as the first step (for inversion)."""
        kept = np.asarray(self.timesteps or range(self.steps), np.float64)
        return _take(kept, jnp.maximum(t, 0))

    def unit_time(self, t: Array) -> Array:
        """(index in the full process + 1) / T, in (0, 1]."""
        return (self.network_time(t) + 1) / self.steps

    def predict(self, output: Array, x_t: Array, t: Array) -> Prediction:
        """The 2 x 2 solve; with a learned variance the second half of the channels interpolates its range."""
        if self.variance != "learned_range":
            return solve(self, output, x_t, t)
        mean_output, place = jnp.split(output, 2, axis=-1)
        fraction = (place + 1.0) / 2.0
        low = expand(_take(self.posterior_log_variance, t), x_t)
        high = expand(_take(self.log_betas, t), x_t)
        return solve(self, mean_output, x_t, t)._replace(log_variance=fraction * high + (1.0 - fraction) * low)

    def posterior(self, x0: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
        """Mean `[b, ...]` and clipped log-variance `[b, 1, ...]` of q(x_{t-1} | x_t, x0)."""
        before = np.concatenate([[1.0], self.alphas_cumprod[:-1]])
        c0 = self.betas * np.sqrt(before) / (1.0 - self.alphas_cumprod)
        ct = (1.0 - before) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)
        mean = expand(_take(c0, t), x_t) * x0 + expand(_take(ct, t), x_t) * x_t
        return mean, expand(_take(self.posterior_log_variance, t), x_t)

    def reverse(self, prediction: Prediction, x_t: Array, t: Array) -> tuple[Array, Array]:
        """Mean and log-variance, both `[b, ...]`, of p(x_{t-1} | x_t)."""
        mean, _ = self.posterior(prediction.x0, x_t, t)
        if prediction.log_variance is not None:
            return mean, prediction.log_variance
        return mean, jnp.broadcast_to(expand(_take(self.fixed_log_variance, t), x_t), x_t.shape)

    def losses(self, output: Array, x0: Array, eps: Array, x_t: Array, t: Array) -> dict[str, Float[Array, "b"]]:
        """{"mse"}, {"mse", "vb"} (learned variance; improved DDPM's hybrid loss) or {"vb"} (objective kl).

        The variational term of the hybrid loss only trains the variance: the mean is held fixed in it.
        """
        if self.objective in ("kl", "rescaled_kl"):
            scale = len(self) if self.objective == "rescaled_kl" else 1.0
            return {"vb": scale * bound_term(self, self.predict(output, x_t, t), x0, x_t, t)}
        learned = self.variance == "learned_range"
        mean_output = jnp.split(output, 2, axis=-1)[0] if learned else output
        p, q = (expand(v, x0) for v in self.target_coefficients(t))
        alpha, sigma = self.alpha_sigma(t)
        weight = loss_weight(self.weighting, alpha, sigma, *self.target_coefficients(t), (alpha, sigma), self.snr_gamma)
        terms = {"mse": mean_per_example(expand(weight, x0) * (p * x0 + q * eps - mean_output) ** 2)}
        if learned:
            frozen = jnp.concatenate([jax.lax.stop_gradient(mean_output), jnp.split(output, 2, axis=-1)[1]], axis=-1)
            scale = len(self) / 1000.0 if self.objective == "rescaled_mse" else 1.0
            terms["vb"] = scale * bound_term(self, self.predict(frozen, x_t, t), x0, x_t, t)
        return terms

    def grid(self, request: GridRequest) -> tuple[Process, np.ndarray]:
        """The respaced process for discrete samplers, or its noise levels: see `levels.chain_grid`."""
        return chain_grid(self, request)


def _take(table: np.ndarray, t: Array) -> Array:
    """A float64 table at integer indices, in JAX's default precision."""
    return jnp.asarray(table, jnp.result_type(float))[t]
