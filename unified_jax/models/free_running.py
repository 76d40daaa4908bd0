r"""Free running: the model chooses what comes next, until it ends the document (Zhou et al. 2024, section 3.3).

After each item the next token is sampled among EOS and the begin tokens of absent modalities, with the plan's
temperature and top_p. A text's begin token is followed by text, any other by a span. Samples of a batch choose
independently: each round generates every modality once for all samples that chose it, and skips it if none did. This is
one compiled call.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from unified_jax.data.vocabulary import WRITTEN
from unified_jax.models.decoding import Past, choose_token, make_item, read_given
from unified_jax.models.document_checks import ORDER
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Keys, Params


def run_freely(model: Any, params: Params, given: dict[str, Array], keys: Keys, plan: SamplingPlan) -> dict[str, Array]:
    """{name: samples} for everything that is not given, and `order`: `[b, k]` indices of `modalities`, then -1.

    Modalities that a sample did not choose are -1 in a text and 0 elsewhere.
    """
    count, words = len(keys), model.vocabulary
    contents = [model.packer.content(m) for m in range(len(model.modalities))]
    # A sample that is inactive in a round is overwritten beyond its end, which needs room.
    capacity = 1 + sum(2 + k for k in contents) + max(contents) + 2
    free = [m for m, modality in enumerate(model.modalities) if modality.name not in given]
    logits, past = read_given(model, params, given, count, capacity)
    made = tuple(_blank(model, m, count) for m in free)
    begins = np.zeros((len(free), words.size), bool)
    begins[np.arange(len(free)), [words.begin(m) for m in free]] = True
    ends = np.zeros(words.size, bool)
    ends[words.eos] = True

    def choose(carry: Any, i: Array) -> tuple[Any, Array]:
        logits, past, made, done, going = carry
        # A document holds at least one item.
        allowed = jnp.any(~done[..., None] & begins, axis=1) | (ends & ((i > 0) | bool(given)))
        own = jax.vmap(lambda key: jax.random.fold_in(key, len(contents) + i))(keys)
        token = choose_token(jnp.where(allowed, logits, -jnp.inf), own, plan.temperature, plan.top_p)
        going = going & (token != words.eos)
        place = jnp.full(count, -1)
        kept = []
        for j, m in enumerate(free):
            active = going & (token == words.begin(m))
            place = jnp.where(active, m, place)
            done = done.at[:, j].set(done[:, j] | active)
            value, logits, past = _made_where(model, params, active, made[j], logits, past, m, keys, plan)
            kept.append(value)
        return (logits, past, tuple(kept), done, going), place

    start = (logits, past, made, jnp.zeros((count, len(free)), bool), jnp.ones(count, bool))
    (_, _, made, _, _), order = jax.lax.scan(choose, start, jnp.arange(len(free)))
    return {model.modalities[m].name: value for m, value in zip(free, made, strict=True)} | {ORDER: order.T}


def _blank(model: Any, m: int, count: int) -> Array:
    modality = model.modalities[m]
    if isinstance(modality, WRITTEN):
        return jnp.full((count, modality.length), -1)
    return jnp.zeros((count, *modality.shape))


def _made_where(
    model: Any,
    params: Params,
    active: Array,
    before: Array,
    logits: Array,
    past: Past,
    m: int,
    keys: Keys,
    plan: SamplingPlan,
) -> tuple[Array, Array, Past]:
    """(item, logits, sequences), changed for the active samples only. The cache beyond a sample's end is masked."""

    def make() -> tuple[Array, Array, Past]:
        value, after, longer = make_item(model, params, past, m, keys, plan)
        value = jnp.where(active.reshape(-1, *(1,) * (value.ndim - 1)), value, before)
        at = jnp.where(active, longer.at, past.at)
        position = jnp.where(active, longer.position, past.position)
        return value, jnp.where(active[:, None], after, logits), Past(longer.cache, at, position)

    return jax.lax.cond(jnp.any(active), make, lambda: (before, logits, past))
