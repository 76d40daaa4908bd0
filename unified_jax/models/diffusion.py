"""One modality denoised by one network under conditions: DDPM, improved DDPM, rectified flow, EDM, DiT, SiT.

The behaviour is that of `Denoising` (`models/denoising.py`), on packed rows that of `InRows` (`models/packed.py`). Loss
terms and metrics have the process's names.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from unified_jax.config import Open, check_open
from unified_jax.data.packed_rows import PackedRows
from unified_jax.errors import UserError
from unified_jax.layers.form import Backbone, ConditionInput, NoisyInput, check_backbone
from unified_jax.modalities.base import Continuous
from unified_jax.modalities.image import Image
from unified_jax.models.alignment import Alignment, active, check_alignment, projector_of
from unified_jax.models.checks import check_buckets, check_fields, check_names, cut_images
from unified_jax.models.controls import check_controls, controlled
from unified_jax.models.latents import Latents
from unified_jax.models.likelihood import bits_per_dim
from unified_jax.models.packed import InRows, check_rows
from unified_jax.models.stages import Stage, check_stages
from unified_jax.models.streams import Condition, ConditionSource, Stream, condition
from unified_jax.networks.dit import DiT
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction, Process
from unified_jax.samplers.loop import Denoiser
from unified_jax.typing import Batch, Keys, Params


@dataclass(frozen=True)
class Diffusion(InRows):
    """A conditional diffusion model of one modality."""

    network: Open[Backbone] = field(default_factory=DiT)
    """The backbone (DiT)."""
    process: Open[Process] = RectifiedFlow()
    """The noising process, and what the network predicts."""
    modality: Continuous = Image()
    """The generated modality."""
    conditions: Open[tuple[Condition | Open[ConditionSource], ...]] = ()
    """What the model is conditioned on; a bare modality is a condition with its name."""
    drop_all: float = 0.1
    """Probability of dropping all conditions of a training example (classifier-free guidance)."""
    drop_some: float = 0.0
    """Probability of keeping only a random subset of a training example's conditions."""
    flip: bool = False
    """Flip training examples horizontally with probability 1/2."""
    time_bins: int = 10
    """Number of time bins of the loss in the metrics."""
    latents: Latents | None = None
    """The latent space of a frozen autoencoder in which the modality is denoised; None: model space."""
    align: Alignment | None = None
    """Alignment of the network's tokens with the features of a frozen encoder; None: none."""
    rows: PackedRows | None = None
    """Training on packed rows, in which images of all `Image.buckets` lie side by side; None: a batch has one size."""

    def __post_init__(self) -> None:
        check_alignment(self.align, self.network, self.latents, "Diffusion")
        check_declared(self)
        check_rows(self)

    @functools.cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The single stream."""
        return (Stream(self.modality, self.process, latents=self.latents),)

    @functools.cached_property
    def reads(self) -> tuple[Condition, ...]:
        """The conditions."""
        return tuple(condition(one) for one in self.conditions)

    term_names = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The conditions' encoders, the autoencoder and the teacher."""
        align = active(self.align)
        return super().stages if align is None else check_stages((*super().stages, align.teacher), "Diffusion")

    def _boxed(self, key: Array) -> Params:
        return {**super()._boxed(key), **projector_of(self.align, self.network, key)}

    def apply(
        self, params: Params, process: Process, x_t: Array, t: Array, conditions: tuple[ConditionInput, ...],
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "b ..."], dict[str, Any]]:  # fmt: skip
        """(raw output `[b, *sizes, c * channels_per_output]` for x_t at time t of `process`, what was captured)."""
        form = self.streams[0].form
        noisy = (NoisyInput(form, process.network_input(x_t, t), process.network_time(t)),)
        conditions = controlled(self, conditions, lambda: process.unit_time(t))
        outputs, captured = self.call(params, noisy, conditions, capture)
        return outputs[form.name], captured

    def denoiser(self, params: Params, process: Process, conditions: tuple[ConditionInput, ...]) -> Denoiser:
        """(x_t, t) -> Prediction under these conditions."""

        def denoise(x_t: Array, t: Array) -> Prediction:
            return process.predict(self.apply(params, process, x_t, t, conditions)[0], x_t, t)

        return denoise

    def bits(self, params: Params, batch: Batch, keys: Keys, steps: int) -> Float[Array, "b"]:
        """Bits/dim of examples of 8-bit data: see `models.likelihood`."""
        if self.latents is not None:
            raise UserError("Bits per dimension are of data, and this model is one of latents.")
        if self.modality.blank().dtype != np.uint8:
            raise UserError(f"Bits per dimension need 8-bit data, and {self.modality.name!r} is not.")
        if self.modality.pads:
            raise UserError(f"Bits per dimension would count the padding of {self.modality.name!r}; use another fit.")
        x0 = self.modality.to_model(batch[self.modality.name])
        denoise = self.denoiser(params, self.process, self.conditions_of(params, batch, len(x0)))
        return bits_per_dim(denoise, self.process, x0, keys, steps)


def check_declared(model: Any) -> None:
    """Raises ValueError for a model of streams whose parts do not fit each other."""
    owner = type(model).__name__
    forms = tuple(one.form for one in model.reads)
    check_open(model)
    for name in ("drop_all", "drop_some"):
        if not 0.0 <= getattr(model, name) <= 1.0:
            raise ValueError(f"{owner}.{name} is a probability, found {getattr(model, name)}.")
    if model.time_bins < 1:
        raise ValueError(f"{owner}.time_bins must be at least 1, found {model.time_bins}.")
    if model.flip and not all(hasattr(s.modality, "width") for s in model.streams):
        raise ValueError(f"{owner}.flip mirrors what has a left and a right: a modality with a `width`.")
    check_stages(model.stages, owner)
    check_fields([*(s.modality for s in model.streams), *(one.source for one in model.reads), *cut_images(model)])
    names = [*(s.label for s in model.streams), *(form.name for form in forms)]
    check_names(f"{owner}'s streams and conditions", names)
    check_backbone(model.network, len(model.streams), forms, owner)
    check_controls(model, owner)
    check_buckets(model)
