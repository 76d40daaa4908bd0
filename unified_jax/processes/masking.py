r"""Masked discrete diffusion: the absorbing state (Austin et al. 2021; Sahoo et al. 2024, MDLM; Shi et al. 2024, MD4).

Tokens are 0 .. V-1 and V is the mask. Each token is kept with probability alpha(t) and masked otherwise, t = 0 data, t
= 1 all masked. The network predicts the data given the visible tokens; with its log-probabilities,

    -log p(x0) <= int_0^1 w(t) E sum over masked positions of -log p(x0_i | x_t) d t,     w = -alpha' / (1 - alpha)

(MD4, eq. 5), the continuous limit of the variational bound, in nats per sequence. For the linear schedule w = 1 / t.
Going from t to s < t a masked token is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t), and a revealed
one never changes.

    linear      alpha = 1 - t
    cosine      alpha = 1 - cos(pi (1 - t) / 2): more tokens are masked early
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.config import check_finite
from unified_jax.typing import Keys

Tokens = Int[Array, "b n"]


@dataclass(frozen=True)
class Masking:
    """The absorbing process over a vocabulary."""

    vocabulary: int = 256
    """V; the mask is token V, so an embedding table needs V + 1 rows."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Noise schedule alpha(t)."""
    least_time: float = 1e-3
    """Training times are sampled from [least_time, 1): the weight is unbounded at 0."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.vocabulary < 1 or not 0 < self.least_time < 1:
            raise ValueError(
                f"Masking needs a vocabulary of at least 1 and least_time in (0, 1), found {self.vocabulary} and "
                f"{self.least_time}."
            )

    @property
    def mask(self) -> int:
        """The mask's token."""
        return self.vocabulary

    def alpha(self, t: Array) -> Array:
        """Probability that a token is not masked."""
        return 1.0 - t if self.schedule == "linear" else 1.0 - jnp.cos(0.5 * jnp.pi * (1.0 - t))

    def weight(self, t: Array) -> Array:
        """-alpha' / (1 - alpha)."""
        if self.schedule == "linear":
            return 1.0 / t
        return 0.5 * jnp.pi * jnp.tan(0.5 * jnp.pi * (1.0 - t))

    def draw_times(self, keys: Keys) -> Float[Array, "b"]:
        """One training time per example."""
        u = jax.vmap(lambda key: jax.random.uniform(key))(keys)
        return self.least_time + (1.0 - self.least_time) * u

    def corrupt(self, tokens: Tokens, t: Float[Array, "b"], keys: Keys) -> Tokens:
        """x_t: every token is masked independently."""
        u = jax.vmap(lambda key: jax.random.uniform(key, tokens.shape[1:]))(keys)
        return jnp.where(u < self.alpha(t)[:, None], tokens, self.mask)

    def losses(
        self, logits: Float[Array, "b n v"], tokens: Tokens, x_t: Tokens, t: Float[Array, "b"]
    ) -> dict[str, Float[Array, "b"]]:
        """{"nelbo": the bound's integrand, nats per token}; logits over the V real tokens."""
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        nll = -jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
        masked = x_t == self.mask
        return {"nelbo": self.weight(t) * jnp.sum(jnp.where(masked, nll, 0.0), axis=1) / tokens.shape[1]}

    def reveal(
        self, logits: Float[Array, "b n v"], x_t: Tokens, t: Array, s: Array, keys: Keys, temperature: float = 1.0
    ) -> Tokens:
        """x_s of x_t, s < t scalars. Temperature 0 is greedy."""
        alpha_t, alpha_s = self.alpha(t), self.alpha(s)
        chance = (alpha_s - alpha_t) / jnp.maximum(1.0 - alpha_t, 1e-12)

        def one(key: Array, logit: Array, old: Array) -> Array:
            which, when = jax.random.split(key)
            drawn = jnp.argmax(logit, -1)
            if temperature:
                drawn = jax.random.categorical(which, logit / temperature, axis=-1)
            shown = jax.random.uniform(when, old.shape) < chance
            return jnp.where((old == self.mask) & shown, drawn.astype(old.dtype), old)

        return jax.vmap(one)(keys, logits.astype(jnp.float32), x_t)
