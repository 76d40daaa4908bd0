"""What trainer, sampler and evaluator know of a model."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array

from unified_jax.modalities.base import Modality
from unified_jax.samplers.plan import Plan
from unified_jax.typing import Batch, Keys, Params

Terms = dict[str, tuple[Array, Array]]
"""Named (sum, weight) pairs; what is reported is sum / weight, divided once after everything was added up."""


@runtime_checkable
class Model(Protocol):
    """A generative model: frozen, hashable, pure."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Everything a batch must hold for it."""
        ...

    @property
    def conditions(self) -> tuple[Any, ...]:
        """The modalities that may be given when sampling."""
        ...

    @property
    def packer(self) -> Any:
        """How a step's examples become rows (`data.packing.Packer`), or None where they are stacked."""
        ...

    @property
    def usual_request(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(given, wanted) of previews."""
        ...

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        ...

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters, a plain nested dict."""
        ...

    def axes(self) -> Any:
        """The same tree with a tuple of logical axis names a parameter."""
        ...

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """({name: (sum [b], weight [b])}, aux, metrics {name: (sums, weights)}); key is that of the step."""
        ...

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: Plan
    ) -> dict[str, Array]:
        """The wanted modalities in model space, one sample a key. What is not given is unconditional."""
        ...
