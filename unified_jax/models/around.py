"""A model around another one: tuned, edited, or sampled in another way."""

from typing import Any

from unified_jax.models.base import check_plan
from unified_jax.samplers.plan import SamplingPlan


class Around:
    """What a model that holds another says of it: its modalities, processes, and what it can be asked."""

    model: Any
    """The other model (`Model`)."""

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The other model's."""
        return self.model.modalities

    @property
    def processes(self) -> tuple[Any, ...]:
        """The other model's."""
        return self.model.processes

    @property
    def givable(self) -> tuple[str, ...]:
        """The other model's."""
        return self.model.givable

    @property
    def wantable(self) -> tuple[str, ...]:
        """The other model's."""
        return self.model.wantable

    def check_plan(self, plan: SamplingPlan) -> None:
        """The other model's."""
        check_plan(self.model, plan)
