"""Features of each modality on its own in the trunk of a Transfusion model.

A document holds one item, clean; the feature of a scene at a depth is the mean of the residual stream over the item's
content tokens (not its begin and end tokens, which are equal for all scenes). Depth 0 is the input of the first block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.evaluation.probes.documents import clean_inputs, lay_out
from unified_jax.models.transfusion import Transfusion
from unified_jax.precision import EXACT
from unified_jax.typing import Batch, Params


def trunk_features(
    model: Transfusion,
    params: Params,
    values: dict[str, np.ndarray],
    batch: int = 32,
    report: Callable[[int], Any] = lambda done: None,
) -> Float[np.ndarray, "depth m n d"]:
    """Features of every modality in `values` (`prepare`'s arrays, a row per scene), after every block.

    `report(k)` after k more scenes of a modality.
    """
    found = []
    for name, value in values.items():
        rows, parts = lay_out(model, {name: value}), []
        count = len(value)
        for first in range(0, count, batch):
            # The last batch is padded with the last scene, so that one program serves all.
            take = np.minimum(np.arange(first, first + min(batch, count)), count - 1)
            some = {field: array[take] for field, array in rows.items()}
            kept = min(batch, count - first)
            parts.append(np.asarray(_pooled(model, params, some))[:, :kept])
            report(kept)
        found.append(np.concatenate(parts, axis=1))
    return np.stack(found, axis=1)


@partial(jax.jit, static_argnames="model")
def _pooled(model: Transfusion, params: Params, batch: Batch) -> Float[Array, "depth b d"]:
    _, _, captured = model.forward(params, batch, tuple(clean_inputs(model, params, batch)), capture=True)
    assert captured is not None
    content = (batch["item"] > 0).astype(jnp.float32)
    total = jnp.einsum("lbnd,bn->lbd", captured.hidden.astype(jnp.float32), content, precision=EXACT)
    return total / jnp.sum(content, axis=1)[:, None]
