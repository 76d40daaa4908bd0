r"""Training on packed rows: pictures of several sizes side by side (`data.packed_rows`; NaViT, Dehghani et al. 2023).

Every picture has the draws of its slot, as where it is alone: its time, its noise in the order of its pixels, its
dropped conditions. Each of its tokens is an example of one patch to the process, whose losses are means over places
(`inside`), and

    loss = mean over pictures of the mean over a picture's tokens of L(output of the token, time of the picture)

A picture counts the same, however large, and the loss is that of the same pictures one by one, each by the model of its
size (`sizes.of_size`), by which samples are made too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unified_jax.data.packed_rows import DROPPED, GRID, ITEM, POSITION, PackedRows, RowPacker
from unified_jax.layers.form import ConditionInput, Layout, NoisyInput
from unified_jax.layers.packed import of_tokens
from unified_jax.models.base import Terms
from unified_jax.models.controls import controlled
from unified_jax.models.denoising import NOISE, TIME, Denoising
from unified_jax.models.inside import settled
from unified_jax.models.streams import Stream
from unified_jax.precision import EXACT
from unified_jax.processes.targets import diffuse
from unified_jax.typing import Batch, Keys, Params, Times


class Patches(NamedTuple):
    """The tokens of a batch of rows, every one an example `[b n, *patch, c]`, at the times of their pictures."""

    x0: Array
    eps: Array
    x_t: Array
    t: Times


class InRows(Denoising):
    """A mixin without fields: a model of one image whose batches may be packed rows; it declares `rows`."""

    rows: PackedRows | None

    @property
    def packer(self) -> RowPacker | None:
        """How a step's pictures become rows; None: they are stacked."""
        return None if self.rows is None else RowPacker(self.modalities, self.streams[0].modality, self.rows)

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """As `Denoising`; terms of packed rows are (sum, weight) of each row, and metrics say how full rows are."""
        if self.rows is None or ITEM not in batch:
            return super().losses(params, aux, batch, key)
        stream, layout, shape = self.streams[0], layout_of(batch), batch["slot"].shape
        slots = jax.vmap(lambda slot: jax.random.fold_in(key, slot))(batch["slot"].reshape(-1))
        t = stream.process.draw_times(_folded(slots, TIME))
        drawn = self._patches(stream, batch, layout, slots, t)
        noisy = NoisyInput(
            stream.form,
            stream.process.network_input(drawn.x_t, drawn.t).reshape(*layout.item.shape, -1),
            stream.process.network_time(t).reshape(shape),
        )
        conditions = self._row_conditions(params, batch, slots, t)
        output = self.call(params, (noisy,), conditions, layout=layout)[0][stream.label]
        each = _item_losses(stream, output, drawn, layout)
        there = layout.grid[..., 0] > 0
        count = jnp.sum(there, axis=1, dtype=jnp.float32)
        terms = {self._term(stream, name): (jnp.sum(value, axis=1), count) for name, value in each.items()}
        total: Any = sum(each.values())
        metrics: Terms = {
            "loss_by_time": self._by_time(stream.process, t, total.reshape(-1), ~there.reshape(-1)),
            "tokens/used": (jnp.mean(layout.item >= 0), jnp.ones(())),
            "examples/dropped": (jnp.sum(batch[DROPPED]), jnp.asarray(len(there) * self.rows.per_row, jnp.float32)),
        }
        return terms, {}, metrics

    def _row_conditions(self, params: Params, batch: Batch, slots: Keys, t: Times) -> tuple[ConditionInput, ...]:
        """The conditions of every picture, `[b, k, ...]`."""
        shape = batch["slot"].shape
        own = {"slot", "step", ITEM, POSITION, GRID, DROPPED, self.streams[0].modality.name}
        given = {name: value.reshape(-1, *value.shape[2:]) for name, value in batch.items() if name not in own}
        conditions = self._dropped(self.conditions_of(params, given, len(slots), slots), slots, None, params)
        conditions = controlled(self, conditions, lambda: self.streams[0].process.unit_time(t))
        return tuple(jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), one) for one in conditions)

    def _patches(self, stream: Stream, batch: Batch, layout: Layout, slots: Keys, t: Times) -> Patches:
        modality: Any = stream.modality
        raw = batch[modality.name]
        x0 = modality.to_model(raw.reshape(-1, *raw.shape[2:]))
        most = max(height * width for height, width in modality.sizes) * modality.channels
        eps = token_noise(_folded(slots, NOISE), layout, modality.cut, modality.channels, most)
        times = of_tokens(t.reshape(batch["slot"].shape), layout).reshape(-1)
        return Patches(x0, eps, diffuse(stream.process, x0, eps, times), times)


def layout_of(batch: Batch) -> Layout:
    """The layout of packed rows: pictures lie one after the other, and each token sees its own."""
    layout = Layout(batch[ITEM], batch[POSITION], jnp.zeros((*batch[ITEM].shape, 2), jnp.int32), batch[GRID])
    tokens = jnp.prod(layout.grid, axis=-1)
    stop = jnp.cumsum(tokens, axis=1)
    ranges = of_tokens(jnp.stack([stop - tokens, stop], axis=-1), layout)
    return layout._replace(visible=jnp.where(layout.item[..., None] < 0, 0, ranges))


def token_noise(keys: Keys, layout: Layout, cut: tuple[int, int], channels: int, most: int) -> Float[Array, "t *cut c"]:
    """The noise of every token: that of its picture alone, drawn by its key as `[h, w, c]`, at most `most` numbers."""
    shape = layout.grid.shape[:2]
    # Number i of a draw depends on the key and on i alone (`precision.FIXED`): a longer draw begins alike.
    drawn = jax.vmap(lambda key: jax.random.normal(key, (most,)))(keys).reshape(shape[0], -1)
    inside = np.meshgrid(*(np.arange(size) for size in (*cut, channels)), indexing="ij")
    y = layout.position[..., 0, None, None, None] * cut[0] + inside[0]
    x = layout.position[..., 1, None, None, None] * cut[1] + inside[1]
    width = of_tokens(layout.grid[..., 1], layout)[..., None, None, None] * cut[1]
    place = (y * width + x) * channels + inside[2] + most * jnp.maximum(layout.item, 0)[..., None, None, None]
    found = jnp.take_along_axis(drawn, place.reshape(shape[0], -1), axis=1)
    return found.reshape(-1, *cut, channels)


def _item_losses(stream: Stream, output: Array, drawn: Patches, layout: Layout) -> dict[str, Float[Array, "b k"]]:
    """The process's losses of every picture: means over its tokens; 0 of one that is not there."""
    output = output.reshape(*drawn.x0.shape[:-1], -1)
    inside = (layout.item >= 0).reshape(-1, *(1,) * (drawn.x0.ndim - 1))
    arrays = settled(stream.process, output, drawn.x0, drawn.eps, drawn.x_t, drawn.t, inside)
    found = stream.process.losses(*arrays, drawn.t)
    share = jax.nn.one_hot(layout.item, layout.grid.shape[1]) / jnp.maximum(jnp.prod(layout.grid, -1), 1)[:, None]
    rows = layout.item.shape
    return {n: jnp.einsum("bn,bnk->bk", v.reshape(rows), share, precision=EXACT) for n, v in found.items()}


def check_rows(model: Any) -> None:
    """Raises ValueError for packed rows of what cannot be packed, or a network that takes none."""
    if model.rows is None:
        return
    name, stream = type(model.network).__name__, model.streams[0]
    if not getattr(model.network, "packs", False):
        raise ValueError(
            f"Diffusion.rows: {name} reads arrays of one size here; choose a network that takes a layout, such as DiT "
            "with adaLN (it says so by packs = True)."
        )
    if not hasattr(stream.modality, "sizes") or stream.modality.pads:
        raise ValueError(f"Diffusion.rows packs an Image that is not padded; {stream.label!r} is none.")
    if stream.latents is not None or model.align is not None:
        raise ValueError("Diffusion.rows packs pictures in model space, without latents and without alignment.")
    if model.flip:
        raise ValueError(f"Diffusion.rows: mirror the records, flip of the modality {stream.label!r}, not the model's.")
    _ = model.packer  # its checks


def _folded(keys: Keys, purpose: int) -> Keys:
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)
