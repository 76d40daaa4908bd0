"""Modes of any image model (`samplers.editing`): what is given is changed, filled, continued, inverted or mixed.

    image, vary      the given image, noised to a share of the steps, and denoised under the conditions
    inpaint          new content where a mask is 1
    outpaint         a smaller image in its place, and new content around it
    invert           the noise of the image, found without guidance, denoised under other conditions
    interpolate      what lies between two images: their noises, mixed on their sphere

They work on one denoised stream, in data or in latents, interpolation on several (`models.between`); the model is not
changed. What is known stays exactly as given, also where the latents of an autoencoder would change it.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.config import check_finite
from unified_jax.errors import UserError
from unified_jax.models.around import Around
from unified_jax.models.base import Declared, Terms
from unified_jax.models.between import between
from unified_jax.samplers.choice import Ddim
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.editing import image_to_image, inpaint, invert
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.loop import slerp
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Batch, Keys, Params

Mode = Literal["image", "vary", "inpaint", "outpaint", "invert", "interpolate"]
IMAGE, FILL, OTHER, SHARE, SOURCE = "edit.image", "edit.fill", "edit.other", "edit.share", "edit.source."
"""Fields of a request beside the model's: the image, where it is filled, a second one, the share of it, and the
conditions of the image itself."""


@dataclass(frozen=True)
class Edit:
    """An edit, and how far it goes."""

    mode: Mode = "image"
    """What is done."""
    strength: float = 0.6
    """Share of the steps that are made: 0 returns the image, 1 keeps nothing of it (of what is filled: 1 is usual)."""
    repeats: int = 1
    """Times that each step of filling is made (RePaint); more than one fits the filled part better to the known one."""
    iterations: int = 3
    """Calls of the network for each step of an inversion; 0: one, as DDIM's first inversion."""

    def __post_init__(self) -> None:
        check_finite(self)
        if not 0 <= self.strength <= 1 or self.repeats < 1 or self.iterations < 0:
            raise ValueError(
                "An edit needs strength in [0, 1], repeats of at least 1 and iterations not negative; found "
                f"{self.strength}, {self.repeats} and {self.iterations}."
            )

    @property
    def fills(self) -> bool:
        """Whether it has a part to fill."""
        return self.mode in ("inpaint", "outpaint")

    @property
    def inverts(self) -> bool:
        """Whether it looks for the noise of an image."""
        return self.mode in ("invert", "interpolate")


@dataclass(frozen=True)
class Edited(Around, Declared):
    """A model whose samples are edits of what a request gives as `edit.image`."""

    model: Any
    """The model, which is not changed."""
    edit: Edit
    """What is done."""

    @property
    def terms(self) -> tuple[str, ...]:
        """None: edits are not trained."""
        return ()

    def init(self, key: Array) -> Params:
        """The model's."""
        return self.model.init(key)

    def axes(self) -> Any:
        """The model's."""
        return self.model.axes()

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """Raises UserError: edits are not trained."""
        raise UserError("Edits are drawn, not trained; train their model.")

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Float[Array, "b ..."]]:
        """See `Model`. Conditions of the image itself, for its inversion, are `edit.source.FIELD`."""
        own = {name: value for name, value in given.items() if not name.startswith("edit.")}
        of_image = {n.removeprefix(SOURCE): value for n, value in given.items() if n.startswith(SOURCE)}
        if len(self.model.streams) > 1:
            return self._between(params, own | of_image, given, wanted, keys, plan)
        (stream,) = self.model.streams
        whole = jnp.asarray(given[IMAGE])
        x0, edit = stream.to_space(params, whole), self.edit
        if edit.inverts:
            made = self._from_noise(params, own, of_image, x0, given, wanted, keys, plan)
            return {wanted[0]: stream.from_space(params, made)}
        denoise, process, grid, _ = self.model.sampling(params, own, wanted, keys, plan)
        if not edit.fills:
            made = image_to_image(plan.run, denoise, process, x0, grid, keys, edit.strength)
            return {wanted[0]: stream.from_space(params, made)}
        fill = jnp.asarray(given[FILL])
        made = inpaint(
            plan.run, denoise, process, x0, covering(fill, x0.shape), grid, keys, edit.strength, edit.repeats
        )
        known = stream.modality.to_model(whole)
        return {wanted[0]: jnp.where(fill > 0, stream.from_space(params, made), known)}

    def _between(
        self, params: Params, own: dict[str, Array], given: dict[str, Array], wanted: tuple[str, ...], keys: Keys,
        plan: SamplingPlan,
    ) -> dict[str, Float[Array, "b ..."]]:  # fmt: skip
        """What lies between two images, and what is said of it."""
        pair, shares = (jnp.asarray(given[IMAGE]), jnp.asarray(given[OTHER])), jnp.asarray(given[SHARE])
        made = between(self.model, params, own, pair, shares, keys, plan, self.edit.iterations)
        by_field = {stream.modality.name: stream for stream in self.model.streams[::-1]}
        return {name: by_field[name].from_space(params, made[by_field[name].label]) for name in wanted}

    def _from_noise(
        self, params: Params, own: dict[str, Array], of_image: dict[str, Array], x0: Array, given: dict[str, Array],
        wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan,
    ) -> Array:  # fmt: skip
        """A deterministic sample from the noise of x0, or from one between two noises."""
        plan = replace(plan, sampler=Ddim())
        denoise, process, grid, _ = self.model.sampling(params, own, wanted, keys, plan)
        plain = replace(plan, guidance=Guidance())
        unguided = self.model.sampling(params, of_image, wanted, keys, plain).denoise
        noise = invert(unguided, process, x0, grid, keys, self.edit.iterations)
        if self.edit.mode == "interpolate":
            other = self.model.streams[0].to_space(params, jnp.asarray(given[OTHER]))
            other = invert(unguided, process, other, grid, keys, self.edit.iterations)
            noise = jax.vmap(lambda a, b, u: slerp(a[None], b[None], u)[0])(noise, other, jnp.asarray(given[SHARE]))
        return ddim(denoise, process, noise, grid, keys)


def covering(fill: Float[Array, "b h w 1"], shape: tuple[int, ...]) -> Float[Array, "b r s 1"]:
    """The mask on a map of another size: a place is filled if any of its pixels is."""
    b, h, w, _ = fill.shape
    r, s = shape[1:3]
    return fill.reshape(b, r, h // r, s, w // s, 1).max((2, 4))
