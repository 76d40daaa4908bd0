r"""Diffusion that is also trained on masked tokens (MDTv2, Gao et al. 2023): L = L_full + L_masked.

Both passes have the same x_t, t and conditions, and both predict all tokens; the masked one sees a part of them
(`networks.mdit`). Its share of hidden tokens is drawn for each step, uniform in [low, high]. Samples use the full pass.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
from jaxtyping import Array

from unified_jax.config import lacking
from unified_jax.models.base import Terms
from unified_jax.models.diffusion import Diffusion
from unified_jax.typing import Batch, Keys, Params

MASK = 9001
"""Purpose of the random masks."""


@runtime_checkable
class Masks(Protocol):
    """A backbone whose call takes `masked`, and that draws what it takes."""

    def masks(self, key: Array, rows: Keys, tokens: int, low: float, high: float) -> Any:
        """See `networks.mdit.draw_masked`."""
        ...


@dataclass(frozen=True)
class MaskedDiffusion(Diffusion):
    """A `Diffusion` with a second, masked pass in training."""

    low: float = 0.3
    """Smallest share of hidden tokens."""
    high: float = 0.5
    """Largest share of hidden tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if words := lacking(type(self.network), Masks):
            raise ValueError(f"MaskedDiffusion needs a network with masks, such as MaskedDiT: {words}.")
        if not 0 <= self.low <= self.high < 1:
            raise ValueError(f"MaskedDiffusion needs 0 <= low <= high < 1, found {self.low} and {self.high}.")

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The terms of the full pass, and as NAME_masked those of the masked one."""
        terms, statistics, metrics = super().losses(params, aux, batch, key)
        rows = jax.vmap(lambda slot: jax.random.fold_in(jax.random.fold_in(key, slot), MASK))(batch["slot"])
        network: Any = self.network
        tokens = self.streams[0].form.tokens
        masked = network.masks(jax.random.fold_in(key, MASK), rows, tokens, self.low, self.high)
        fields: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Diffusion)}
        fields["network"] = _Seeing(network, masked)
        partly = Diffusion(**fields)
        hidden, _, _ = partly.losses(params, aux, batch, key)
        return terms | {f"{name}_masked": value for name, value in hidden.items()}, statistics, metrics


@dataclass(frozen=True)
class _Seeing:
    """A network that sees a part of the tokens."""

    network: Any
    masked: Any
    streams: ClassVar[Any] = "one"

    @property
    def takes(self) -> Any:
        return self.network.takes

    @property
    def weighs(self) -> bool:
        return getattr(self.network, "weighs", False)

    def __call__(self, noisy: Any, conditions: Any = (), *, layout: Any = None, capture: Any = ()) -> Any:
        raise NotImplementedError("only applied")

    def apply(
        self, variables: Any, noisy: Any, conditions: Any, layout: Any = None, capture: tuple[str, ...] = ()
    ) -> Any:
        """See `nn.Module.apply`."""
        return self.network.apply(variables, noisy, conditions, layout=layout, capture=capture, masked=self.masked)
