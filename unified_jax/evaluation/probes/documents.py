"""Documents for probes of a Transfusion model: given items in a given order, one document per row, clean spans."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from unified_jax.data.packing import Item
from unified_jax.data.vocabulary import WRITTEN
from unified_jax.models.transfusion import Transfusion
from unified_jax.processes.targets import shown_clean
from unified_jax.typing import Batch, Params

PER_TOKEN = ("ids", "position", "visible", "item", "text_weight")
MARKS = -1
"""Owner of tokens that belong to no item: BOS, EOS, begin and end."""


def lay_out(model: Transfusion, values: dict[str, np.ndarray]) -> Batch:
    """Rows as `Transfusion.forward` takes them: row i holds the i-th value of every modality, in the dict's order.

    `values` are what `prepare` gives, `[b, ...]`. All rows have the length of the longest.
    """
    count = len(next(iter(values.values())))
    places = {m.name: i for i, m in enumerate(model.modalities)}
    length = 2 + sum(2 + model.packer.content(m) for m in places.values())
    packer = replace(model.packer, length=length, policy=replace(model.documents, per_row=1))
    arrays = packer.empty(count)
    for row in range(count):
        items = []
        for name, value in values.items():
            m = places[name]
            if isinstance(model.modalities[m], WRITTEN):
                ids = np.atleast_1d(value[row])
                items.append(Item(m, tuple((packer.vocabulary.first[m] + ids[ids >= 0]).tolist())))
            else:
                items.append(Item(m, clean=True))
                arrays[name][row, 0] = value[row]
        arrays["used"][row] = packer.place(arrays, row, 0, items, 0)
    used = int(arrays["used"].max())
    return {name: value[:, :used] if name in PER_TOKEN else value for name, value in arrays.items()}


def clean_inputs(model: Transfusion, params: Params, batch: Batch) -> list[tuple[Array, Array]]:
    """The input `[rows, *sizes, c]` and time `[rows]` of every stream without noise, as `forward` takes them."""
    shown = []
    for stream in model.streams:
        raw = batch[stream.modality.name]
        x0 = stream.to_space(params, raw.reshape((-1, *raw.shape[2:])))
        seen, at = shown_clean(stream.process, x0)
        shown.append((seen, jnp.full(len(x0), at)))
    return shown


def owners(model: Transfusion, batch: Batch) -> Int[np.ndarray, "b n"]:
    """The modality of each content token, by its index in the model; MARKS for all others."""
    item = np.asarray(batch["item"])
    return np.where(item > 0, (item - 1) % len(model.modalities), MARKS)
