r"""Optimization algorithms: frozen dataclasses that build an optax transformation for a learning rate.

AdamW       Loshchilov & Hutter 2019
Lion        Chen et al. 2023: the sign of an interpolated momentum; use a third to a tenth of Adam's learning rate and
            three to ten times its weight decay
Adafactor   Shazeer & Stern 2018: second moments as row and column sums
Muon        Jordan et al. 2024: the momentum of a matrix, orthogonalised by Newton-Schulz, scaled to the root mean
            square of Adam's steps (Liu et al. 2025, eq. 4), so that Adam's learning rates apply; parameters that are
            not a matrix inside a block (embeddings, biases, gains, modulation, first and last layers) use Adam; kernels
            of convolutions and others outside stacks are matrices `[inputs, features]` where `Muon.also` names them
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from unified_jax.models.tuned import matches
from unified_jax.training import newton_schulz
from unified_jax.typing import Params

Rate = Callable[[Any], Any]
Stacked = tuple[str, ...]
"""Paths of the parameters in stacks of layers (their first logical axis is `layers`)."""


@runtime_checkable
class Rule(Protocol):
    """An optimization algorithm."""

    def transform(self, rate: Rate, decay: float, stacked: Stacked) -> optax.GradientTransformation:
        """The optax transformation for a learning rate (step -> rate).

        decay    a factor on the weight decay
        stacked  paths of the parameters in stacks of layers
        """
        ...


def _check_decays(name: str, *decays: float) -> None:
    if not all(0 <= decay < 1 for decay in decays):
        raise ValueError(f"{name}: b1 and b2 must lie in [0, 1), found {decays}.")


def check_pattern(name: str, pattern: str) -> None:
    """Raises ValueError for what is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name} {pattern!r} is not a regular expression: {error}.") from error


def _check_weight_decay(name: str, weight_decay: float) -> None:
    if weight_decay < 0:
        raise ValueError(f"{name}.weight_decay must not be negative, found {weight_decay}.")


@dataclass(frozen=True)
class AdamW:
    """AdamW: the optimizer of the published diffusion recipes."""

    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Epsilon, added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the kernels."""
    b2_end: float = 0.0
    """Decay of the second moment after `b2_steps`."""
    b2_steps: int = 0
    """Steps over which b2 goes to b2_end along half a cosine (R3GAN: 0.9 to 0.99); 0: it is constant."""

    def __post_init__(self) -> None:
        _check_decays("AdamW", self.b1, self.b2, self.b2_end)
        _check_weight_decay("AdamW", self.weight_decay)
        if self.b2_steps < 0:
            raise ValueError(f"AdamW.b2_steps must not be negative, found {self.b2_steps}.")

    def transform(self, rate: Rate, decay: float, stacked: Stacked) -> optax.GradientTransformation:
        """See `Rule`."""
        del stacked
        if self.b2_steps:
            return optax.chain(
                self._moments(),
                optax.add_decayed_weights(decay * self.weight_decay, decay_mask),
                optax.scale_by_learning_rate(rate),
            )
        return optax.adamw(rate, self.b1, self.b2, self.eps, weight_decay=decay * self.weight_decay, mask=decay_mask)

    def _moments(self) -> optax.GradientTransformation:
        """Adam's moments, b2 by the step; their bias corrections use the b2 of the step, as torch's do."""
        share = optax.cosine_decay_schedule(1.0, self.b2_steps)
        plain = optax.scale_by_adam(self.b1, self.b2, self.eps)

        def init(params: Any) -> Any:
            return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), plain.init(params)

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            clock, moments = state
            b2: Any = self.b2_end + (self.b2 - self.b2_end) * share(clock.count)
            updates, moments = optax.scale_by_adam(self.b1, b2, self.eps).update(updates, moments, params)
            return updates, (optax.ScaleByScheduleState(clock.count + 1), moments)

        return optax.GradientTransformation(init, update)


@dataclass(frozen=True)
class Lion:
    """Lion: sign momentum."""

    b1: float = 0.9
    """Share of the momentum in the update direction."""
    b2: float = 0.99
    """Decay of the momentum."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the kernels."""

    def __post_init__(self) -> None:
        _check_decays("Lion", self.b1, self.b2)
        _check_weight_decay("Lion", self.weight_decay)

    def transform(self, rate: Rate, decay: float, stacked: Stacked) -> optax.GradientTransformation:
        """See `Rule`."""
        del stacked
        return optax.lion(rate, self.b1, self.b2, weight_decay=decay * self.weight_decay, mask=decay_mask)


@dataclass(frozen=True)
class Adafactor:
    """Adafactor: factored second moments, with relative step sizes."""

    relative: bool = True
    """Multiply the step by the root mean square of the parameter."""
    momentum: float = 0.0
    """Decay of the first moment; 0: none."""
    clipping: float = 1.0
    """Root mean square above which an update is scaled down."""
    weight_decay: float = 0.0
    """Weight decay of the kernels per step (not multiplied by the learning rate)."""

    def __post_init__(self) -> None:
        _check_decays("Adafactor", self.momentum)
        _check_weight_decay("Adafactor", self.weight_decay)
        if self.clipping <= 0:
            raise ValueError(f"Adafactor.clipping must be positive, found {self.clipping}.")

    def transform(self, rate: Rate, decay: float, stacked: Stacked) -> optax.GradientTransformation:
        """See `Rule`."""
        del stacked
        return optax.adafactor(
            rate,
            multiply_by_parameter_scale=self.relative,
            clipping_threshold=self.clipping,
            momentum=self.momentum or None,
            weight_decay_rate=decay * self.weight_decay or None,
            weight_decay_mask=decay_mask,
        )


@dataclass(frozen=True)
class Muon:
    """Muon: orthogonalised momentum for the matrices of the blocks, Adam for the rest."""

    beta: float = 0.95
    """Decay of the momentum."""
    iterations: int = 5
    """Newton-Schulz iterations."""
    rms: float = 0.2
    """Root mean square of an update at learning rate 1."""
    b1: float = 0.9
    """Decay of Adam's first moment."""
    b2: float = 0.999
    """Decay of Adam's second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the kernels."""
    also: tuple[str, ...] = ()
    """Patterns of kernels outside stacks, found in their paths, to orthogonalise too (a U-Net's convolutions)."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Operands of the iterations' products: bfloat16, with float32 sums, is a small part of the time on an accelerator,
    as Jordan et al. compute, and half of it on a processor with instructions for it (`Experiment.dtype="auto"`)."""

    def __post_init__(self) -> None:
        _check_decays("Muon", self.beta, self.b1, self.b2)
        _check_weight_decay("Muon", self.weight_decay)
        if self.iterations < 1 or self.rms <= 0:
            raise ValueError(f"Muon needs iterations >= 1 and rms > 0, found {self.iterations} and {self.rms}.")
        for pattern in self.also:
            check_pattern("Muon.also", pattern)

    def transform(self, rate: Rate, decay: float, stacked: Stacked) -> optax.GradientTransformation:
        """See `Rule`."""
        # A function, which the annotation does not say.
        axes: Any = functools.partial(matrices, stacked=stacked, also=self.also)
        if self.products == "bfloat16":
            muon = newton_schulz.muon(
                rate, axes, iterations=self.iterations, beta=self.beta, rms=self.rms, b1=self.b1, b2=self.b2,
                weight_decay=decay * self.weight_decay, mask=decay_mask,
            )  # fmt: skip
        else:
            muon = optax.contrib.muon(
                rate,
                ns_steps=self.iterations,
                beta=self.beta,
                weight_decay=decay * self.weight_decay,
                weight_decay_mask=decay_mask,
                adam_b1=self.b1,
                adam_b2=self.b2,
                adam_weight_decay=decay * self.weight_decay,
                muon_weight_dimension_numbers=axes,
                consistent_rms=self.rms,
            )

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            # As in `precision.py`: optax leaves it to the device.
            with jax.default_matmul_precision("highest"):
                return muon.update(updates, state, params)

        return optax.GradientTransformation(muon.init, update)


def matrices(params: Any, stacked: Stacked, also: tuple[str, ...] = ()) -> Any:
    """Which axes of a parameter are the rows and columns of a matrix; None for parameters that use Adam.

    The leading axis of stacked blocks and the queries, keys and values of one kernel are separate matrices. A kernel
    outside stacks that `also` names has its features last, and all else are its inputs.
    """
    numbers = optax.contrib.MuonDimensionNumbers

    def leaf(path: Any, value: Any) -> Any:
        name = path_of(path)
        if name not in stacked and name.endswith("kernel") and matches(also, name):
            return numbers(reduction_axis=tuple(range(value.ndim - 1)), output_axis=(value.ndim - 1,))
        if name not in stacked or "modulation" in name or not name.endswith("kernel"):
            return None
        match name.rsplit("/", 1)[-1]:
            case "qkv_kernel":  # [layers, d, g, r + 2, e]
                return numbers(reduction_axis=(1,), output_axis=(2, 4))
            case "q_kernel":  # [layers, d, h, e]
                return numbers(reduction_axis=(1,), output_axis=(2, 3))
            case "kv_kernel":  # [layers, d, h, 2, e]
                return numbers(reduction_axis=(1,), output_axis=(2, 4))
            case "out_kernel":  # [layers, h, e, d]
                return numbers(reduction_axis=(1, 2), output_axis=(3,))
            case _:
                return numbers(reduction_axis=(value.ndim - 2,), output_axis=(value.ndim - 1,))

    return jax.tree_util.tree_map_with_path(leaf, params)


def decay_mask(params: Params) -> Any:
    """True for kernels."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_of(path).endswith("kernel"), params)


def path_of(path: Any) -> str:
    """A key path as "blocks/mlp/fc1/kernel"."""
    return "/".join(str(getattr(part, "key", part)) for part in path)
