r"""What lies between two images for a model of several streams (UniDiffuser, Bao et al. 2023, arXiv 2303.06555).

    y_a, y_b    what the model says of each image: the other streams, sampled given it
    n_a, n_b    the noises of both images, inverted under y_a and y_b without guidance
    sample      from slerp(n_a, n_b, u) under slerp(y_a, y_b, u)

All steps are DDIM's. y_a and y_b begin at one noise that no seed changes, so that every u has the same two ends.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from unified_jax.errors import UserError
from unified_jax.models import generation
from unified_jax.precision import seed_key
from unified_jax.processes.targets import Prediction
from unified_jax.samplers.choice import Ddim
from unified_jax.samplers.ddim import ddim
from unified_jax.samplers.editing import invert
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.loop import slerp
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Keys, Params

Spaces = dict[str, Array]
"""Arrays by the label of their stream, where it is denoised."""


def between(
    model: Any, params: Params, given: dict[str, Array], pair: tuple[Num[Array, "b ..."], Num[Array, "b ..."]],
    shares: Float[Array, "b"], keys: Keys, plan: SamplingPlan, iterations: int = 3,
) -> Spaces:  # fmt: skip
    """Every stream of the samples, the others' as they were mixed.

    given       conditions that are no streams
    pair        both images as `prepare` gives them, of the first stream's modality
    shares      u in [0, 1]: 0 is the first image, 1 the second
    iterations  calls of the network for each step of the inversion

    Raises UserError for a stream that is given: what is said of an image is read from it.
    """
    field = model.streams[0].modality.name
    others = tuple(name for name in model.wantable if name != field)
    if there := [name for name in (field, *others) if name in given]:
        raise UserError(f"Interpolation reads {there[0]!r} from the two images; leave it out.")
    if field not in model.givable or not others:
        raise UserError(f"Interpolation of several streams needs {field!r} and what is said of it.")
    plan = replace(plan, sampler=Ddim())
    one = jnp.broadcast_to(seed_key(0), (len(keys),))
    first, second = (_read(model, params, given, image, one, plan, iterations) for image in pair)
    mix = jax.vmap(lambda a, b, u: slerp(a[None], b[None], u)[0])
    noise, said = (
        {label: mix(value, theirs[label], shares) for label, value in ours.items()}
        for ours, theirs in zip(first, second, strict=True)
    )
    denoise, process, grid, _ = generation.sampling(model, params, given, (field,), keys, plan, said)
    return ddim(denoise, process, noise, grid, keys) | said


def _read(
    model: Any, params: Params, given: dict[str, Array], image: Array, keys: Keys, plan: SamplingPlan, iterations: int
) -> tuple[Spaces, Spaces]:
    """(the noises of an image's streams, what the model says of it)."""
    field = model.streams[0].modality.name
    others = tuple(name for name in model.wantable if name != field)
    denoise, process, grid, noise = generation.sampling(model, params, given | {field: image}, others, keys, plan)
    said = ddim(denoise, process, noise, grid, keys)
    plain = replace(plan, guidance=Guidance())
    denoise, process, grid, _ = generation.sampling(model, params, given, (field,), keys, plain, said)
    x0 = {s.label: s.to_space(params, image) for s in model.streams if s.label in process}
    return _inverted(denoise, process, x0, grid, keys, iterations), said


def _inverted(denoise: Any, process: Any, x0: Spaces, grid: Any, keys: Keys, iterations: int) -> Spaces:
    """`invert` of streams that share their times, side by side in one array."""
    labels, clock = list(x0), next(iter(x0))
    ends = [sum(x0[n][0].size for n in labels[: i + 1]) for i in range(len(labels) - 1)]

    def flat(parts: Spaces) -> Array:
        return jnp.concatenate([parts[n].reshape(len(keys), -1) for n in labels], axis=1)

    def back(x: Array) -> Spaces:
        return {n: part.reshape(x0[n].shape) for n, part in zip(labels, jnp.split(x, ends, axis=1), strict=True)}

    def told(x: Array, t: Array) -> Prediction:
        said = denoise(back(x), dict.fromkeys(labels, t))
        return Prediction(flat({n: said[n].x0 for n in labels}), flat({n: said[n].eps for n in labels}))

    return back(invert(told, process[clock], flat(x0), grid[clock], keys, iterations))
