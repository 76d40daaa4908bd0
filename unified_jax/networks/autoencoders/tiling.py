r"""Large pictures in tiles, in memory bounded by the tile.

exact    equals the untiled result. Tiles carry a margin as wide as the layers reach, and a group norm takes its
         statistics over the whole picture. They are found norm by norm: a pass over the tiles with the statistics
         of all norms before gives those of the next. The part with attention runs whole, at its low resolution, with
         queries in chunks. The cost is about that of as many decodings as the largest level has norms, or twice that.
blended  each tile by itself, neighbours faded into each other over their overlap: diffusers' tiles. Fast, but norms and
         attention see one tile, so that its brightness and texture may differ from its neighbour's.

Sizes of tiles are in positions of the latent. On a mesh the tiles of a pass are spread over the devices as a batch is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.networks.autoencoders.blend import blended
from unified_jax.networks.autoencoders.blocks import STATISTICS, SUMS
from unified_jax.networks.autoencoders.coder import Levels
from unified_jax.networks.autoencoders.kl import KlAutoencoder
from unified_jax.networks.autoencoders.moments import Moments, moments
from unified_jax.networks.autoencoders.window import Window, pooled
from unified_jax.sharding import constrain, parts_of
from unified_jax.typing import Params


@dataclass(frozen=True)
class Tiling:
    """How a picture larger than a tile is computed."""

    kind: Literal["exact", "blended"] = "exact"
    """See the module."""
    tile: int = 64
    """Positions of the latent along a side of a tile."""
    overlap: float = 0.25
    """Share of a tile that is faded into its neighbour (blended)."""

    def __post_init__(self) -> None:
        if self.tile < 1 or not 0 <= self.overlap < 1 or int(self.tile * (1 - self.overlap)) < 1:
            raise ValueError(
                f"Tiling: tile must be at least 1 and overlap in [0, 1), found {self.tile}, {self.overlap}."
            )


def decode(network: KlAutoencoder, params: Params, z: Float[Array, "b h w z"], tiling: Tiling) -> Array:
    """`network.decode` in tiles."""
    if max(z.shape[1:3]) <= tiling.tile:
        return _apply(network, params, z, lambda n, z: n.decode(z))
    if tiling.kind == "blended":
        run = jax.jit(lambda part: _apply(network, params, part, lambda n, z: n.decode(z)))
        return blended(run, z, tiling.tile, tiling.overlap, float(network.levels.factor))
    return _exact_decode(network, params, z, tiling.tile)


def encode(network: KlAutoencoder, params: Params, x: Float[Array, "b h w c"], tiling: Tiling) -> Moments:
    """`network.encode` in tiles."""
    factor = network.levels.factor
    if max(x.shape[1:3]) <= tiling.tile * factor:
        return _apply(network, params, x, lambda n, x: n.encode(x))
    if tiling.kind == "blended":
        run = jax.jit(lambda part: _apply(network, params, part, lambda n, x: n.between(n.encoder(x))))
        return moments(blended(run, x, tiling.tile * factor, tiling.overlap, 1 / factor))
    return _exact_encode(network, params, x, tiling.tile)


def _apply(network: KlAutoencoder, params: Params, x: Array, method: Callable[..., Any]) -> Any:
    return network.apply({"params": params}, x, method=method)


class Grid(NamedTuple):
    """Tiles of an array: cores side by side, each with a margin around."""

    size: tuple[int, int]
    """Sizes of the array."""
    core: int
    """Side of a core."""
    margin: int
    together: int
    """Tiles that are computed at once."""

    @property
    def counts(self) -> tuple[int, int]:
        """Tiles along each axis."""
        return -(-self.size[0] // self.core), -(-self.size[1] // self.core)

    def groups(self) -> Array:
        """Row and column of each tile, `[groups, together, 2]`; those beyond the last lie outside the array."""
        rows, columns = self.counts
        places = [(i, j) for i in range(rows) for j in range(columns)]
        places += [(rows, columns)] * (-len(places) % self.together)
        return jnp.asarray(places).reshape(-1, self.together, 2) * self.core

    def cut(self, padded: Array, at: Array) -> tuple[Array, Window]:
        """The tiles that start at these places, one after the other as a batch, and their windows."""
        side, b = self.core + 2 * self.margin, len(padded)

        def one(place: Array) -> Array:
            return jax.lax.dynamic_slice(padded, (0, place[0], place[1], 0), (b, side, side, padded.shape[-1]))

        tiles = jax.vmap(one)(at).reshape(-1, side, side, padded.shape[-1])
        top, left = (jnp.repeat(at[:, axis] - self.margin, b) for axis in (0, 1))
        return constrain(tiles, "batch", None, None, None), Window(top, left, self.size, self.margin)

    def padded(self, x: Array) -> Array:
        """The array with room for every tile, also those outside."""
        beyond = [(n + 1) * self.core - size + self.margin for n, size in zip(self.counts, self.size, strict=True)]
        return jnp.pad(x, ((0, 0), (self.margin, beyond[0]), (self.margin, beyond[1]), (0, 0)))

    def joined(self, cores: Float[Array, "g tb h w c"], rows: int, size: tuple[int, int]) -> Float[Array, "b m n c"]:
        """The cores of all tiles as one array, cropped to a size; `rows` is that of the batch."""
        side = cores.shape[2]
        flat = cores.reshape(-1, rows, *cores.shape[2:])[: self.counts[0] * self.counts[1]]
        grid = flat.reshape(*self.counts, *flat.shape[1:]).transpose(2, 0, 3, 1, 4, 5)
        whole = grid.reshape(rows, self.counts[0] * side, self.counts[1] * side, -1)
        return whole[:, : size[0], : size[1]]


Run = Callable[[Any, Array, Window], Array]
"""A part of the network on tiles."""


def _tiled(network: KlAutoencoder, params: Params, x: Array, grid: Grid, run: Run, statistics: Params | None) -> Any:
    """(the run's output for each group of tiles, what the tiles add to each norm: `[tiles, b, groups, 3]`)."""
    padded, b = grid.padded(x), len(x)
    held = (
        {}
        if statistics is None
        else {STATISTICS: jax.tree.map(lambda s: jnp.tile(s, (grid.together, 1, 1)), statistics)}
    )

    def group(_: None, at: Array) -> Any:
        tiles, window = grid.cut(padded, at)
        out, new = network.apply(
            {"params": params, **held}, tiles, window, method=run, mutable=[SUMS]
        )  # fmt: skip
        return None, (out, new[SUMS])

    _, (out, added) = jax.lax.scan(group, None, grid.groups())
    return out, jax.tree.map(lambda s: s.reshape(-1, b, *s.shape[2:]), added)


def _settled(network: KlAutoencoder, params: Params, x: Array, grid: Grid, runs: list[Run]) -> Params:
    """The statistics of all norms of the last run; each run has one level more than the one before."""
    known: dict[str, Any] = {}
    for run in runs:

        def found(statistics: Params | None, run: Run = run) -> Params:
            return jax.tree.map(pooled, _tiled(network, params, x, grid, run, statistics)[1])

        start = jax.tree.map(lambda s: jnp.zeros(s.shape).at[..., 1].set(1.0), jax.eval_shape(lambda: found(None)))
        new = len(jax.tree.leaves(start)) - len(jax.tree.leaves(known))
        known = jax.lax.fori_loop(0, new, lambda _, held, found=found: found(held), _over(start, known))
    return known


def _over(below: Any, above: Any) -> Any:
    """The tree below, with the leaves that the one above has."""
    if not isinstance(below, dict):
        return above
    return {name: _over(value, above[name]) if name in above else value for name, value in below.items()}


def _grid(x: Array, core: int, margin: int) -> Grid:
    parts = parts_of("batch")
    return Grid((x.shape[1], x.shape[2]), core, margin, 1 if len(x) % parts == 0 else parts)


def _inner(y: Array, margin: int) -> Array:
    """Tiles without their margins."""
    return y[:, margin : y.shape[1] - margin, margin : y.shape[2] - margin]


def _exact_decode(network: KlAutoencoder, params: Params, z: Array, tile: int) -> Array:
    s = network.levels
    count, attends = len(s.widths), s.attends(True)[::-1]
    start = max((i + 1 for i in range(count) if attends[i]), default=0)
    h = _apply(network, params, z, lambda n, z: n.decoder.head(n.before(z), start))
    if start == count:
        return _apply(network, params, h, lambda n, h: n.decoder.tail(h, start, start))
    grown, more = 2**start, 2 ** (count - 1 - start)
    grid = _grid(h, tile * grown, _reach(s, start))
    runs = [_decoding(start, stop) for stop in range(start + 1, count + 1)]
    statistics = _settled(network, params, h, grid, runs)
    last = runs[-1]
    cores, _ = _tiled(network, params, h, grid, lambda n, x, w: _inner(last(n, x, w), grid.margin * more), statistics)
    return grid.joined(cores, len(z), (h.shape[1] * more, h.shape[2] * more))


def _decoding(start: int, stop: int) -> Run:
    return lambda n, tiles, window: n.decoder.tail(tiles, start, stop, None, window)


def _encoding(stop: int) -> Run:
    return lambda n, tiles, window: n.encoder.head(tiles, stop, window)


def _reach(sizes: Levels, start: int) -> int:
    """Positions after `start` levels of the decoder on which an output depends, on either side."""
    convs = 2 * (sizes.blocks + 1)
    reach = convs + 1
    for _ in range(start, len(sizes.widths) - 1):
        reach = -(-(reach + 1) // 2) + convs
    return reach


def _exact_encode(network: KlAutoencoder, params: Params, x: Array, tile: int) -> Moments:
    s = network.levels
    last, attends = len(s.widths) - 1, s.attends(False)
    stop = min([i for i in range(last) if attends[i]], default=last)

    def rest(n: Any, h: Array) -> Moments:
        return moments(n.between(n.encoder.tail(h, stop)))

    if stop == 0:
        return _apply(network, params, x, lambda n, x: rest(n, n.encoder.head(x, 0)))
    shrunk, reach = 2**stop, 0
    for _ in range(stop):
        reach = 2 * reach + 2 + 2 * s.blocks
    margin = -(-(reach + 1) // shrunk) * shrunk
    grid = _grid(x, tile * s.factor, margin)
    statistics = _settled(network, params, x, grid, [_encoding(i + 1) for i in range(stop)])
    run = _encoding(stop)
    cores, _ = _tiled(network, params, x, grid, lambda n, x, w: _inner(run(n, x, w), margin // shrunk), statistics)
    h = grid.joined(cores, len(x), (x.shape[1] // shrunk, x.shape[2] // shrunk))
    return _apply(network, params, h, rest)
