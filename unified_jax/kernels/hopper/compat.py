"""Differences between releases of Pallas Mosaic GPU, and between a GPU and its interpreter.

The interpreter (0.11 and later) runs wgmma on two shared-memory operands into a scoped accumulator. It knows neither
wgmma with its left operand in registers nor an accumulator that starts from a value (`run_state`), so there both
are a plain `dot` on shared memory. Sums and reads are the same, and so it reports the same races.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

ACC = plgpu.ACC  # pyright: ignore[reportPrivateImportUsage]
"""An accumulator of wgmma."""

Ref = Any
"""A reference into global or shared memory: Pallas has no public type for it."""


def interpreter(races: bool = True) -> Any:
    """Parameters that run a kernel on the CPU, with barriers, copies and races simulated; public from 0.11 on."""
    return plgpu.InterpretGPUParams(detect_races=races)  # pyright: ignore[reportAttributeAccessIssue]


def missing() -> str | None:
    """Why this version of JAX cannot run the kernels, or None."""
    if tuple(int(part) for part in jax.__version__.split(".")[:2]) < (0, 11):
        return f"the Hopper kernels need JAX 0.11 or later, this is {jax.__version__}."
    return None


def launch(
    body: Callable[..., None],
    *,
    out: Sequence[jax.ShapeDtypeStruct],
    scratch: Sequence[Any],
    grid: tuple[int, ...],
    axes: tuple[str, ...],
    warpgroups: int,
    interpret: bool,
) -> Callable[..., Sequence[Array]]:
    """A kernel over `grid` whose programs are `warpgroups` warpgroups, indexed by the axis "wg"."""
    named = inspect.signature(plgpu.kernel).parameters
    kernel = plgpu.kernel(
        body,
        grid=grid,
        grid_names=axes,
        num_threads=warpgroups,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpreter() if interpret else None,
        **{
            "out_type" if "out_type" in named else "out_shape": list(out),
            "scratch_types" if "scratch_types" in named else "scratch_shapes": list(scratch),
        },
    )
    return lambda *operands: [as_varying(x, operands[0]) for x in kernel(*operands)]


def as_varying(x: Array, like: Array) -> Array:
    """x, typed as varying over the mesh axes that `like` varies over: inside `shard_map` kernels drop that."""
    axes = getattr(jax.typeof(like), "manual_axis_type", None)
    return x if axes is None or not axes.varying else lax.pcast(x, tuple(axes.varying), to="varying")


def tiled(shape: tuple[int, ...], dtype: jnp.dtype, widest: int = 128) -> Any:
    """Shared memory in the swizzled tiles that wgmma reads: the widest swizzle that divides the last axis.

    A product sums over at least as many rows of its right operand as a tile is wide: `widest`, in bytes, is for fewer.
    """
    width = next(w for w in (128, 64, 32) if w <= widest and shape[-1] * jnp.dtype(dtype).itemsize % w == 0)
    tile = plgpu.TilingTransform((8, width // jnp.dtype(dtype).itemsize))
    return plgpu.SMEM(shape, dtype, transforms=(tile, plgpu.SwizzleTransform(width)))


def product(a: Ref, b: Ref, issued: Callable[[], None] | None = None) -> Array:
    """a b in float32, both in shared memory; `issued` runs while the matrix unit works."""

    def body(acc: Ref) -> Array:
        plgpu.wgmma(acc, a, b)
        if issued is not None:
            issued()
        return acc[...]

    return pl.run_scoped(body, ACC((a.shape[0], b.shape[1]), jnp.float32))


def sum_of_products(*pairs: tuple[Ref, Ref]) -> Array:
    """The sum of a b over pairs in shared memory, in float32."""

    def body(acc: Ref) -> Array:
        for a, b in pairs:
            plgpu.wgmma(acc, a, b)
        return acc[...]

    return pl.run_scoped(body, ACC((pairs[0][0].shape[0], pairs[0][1].shape[1]), jnp.float32))


def products(first: tuple[Ref, Ref], second: tuple[Ref, Ref], then: Callable[[Array], Array]) -> tuple[Array, Array]:
    """(then(a b), c d) for two pairs in shared memory; `then` runs while the second product is under way."""
    shapes = [(a.shape[0], b.shape[1]) for a, b in (first, second)]

    def body(one: Ref, two: Ref) -> tuple[Array, Array]:
        plgpu.wgmma(one, *first)
        plgpu.wgmma(two, *second)
        return then(plgpu.wgmma_accumulator_load(one, wait_n=1)), two[...]

    return pl.run_scoped(body, *[ACC(shape, jnp.float32) for shape in shapes])


Term = tuple[Array, Array, Ref]
"""(acc, a, b) of acc + a b, with acc and a in registers and b in shared memory."""


def add_products(*terms: Term, interpret: bool, issued: Callable[[], None] | None = None) -> tuple[Array, ...]:
    """acc + a b for each term; `issued` runs while the matrix unit works."""

    def body(refs: tuple[Ref, ...]) -> None:
        for ref, (_, a, b) in zip(refs, terms, strict=True):
            plgpu.wgmma(ref, a, b)
        if issued is not None:
            issued()

    if not interpret:
        found: Any = pl.run_state(body)(tuple(ACC.init(acc) for acc, _, _ in terms))
        return found
    rights = [b[...] for _, _, b in terms]
    # wgmma reads through the async proxy, as TMA writes; these reads do not, so they need a fence before the next copy.
    plgpu.commit_smem()
    if issued is not None:
        issued()
    pairs = zip(terms, rights, strict=True)
    return tuple(acc + jnp.dot(a, right, preferred_element_type=jnp.float32) for (acc, a, _), right in pairs)


def product_of_chunks(
    shape: tuple[int, int],
    chunks: int,
    ready: Callable[[Array], None],
    pair: Callable[[Array], tuple[Ref, Ref]],
    release: Callable[[Array], None],
) -> Array:
    """The sum over chunks of a b in float32, both in shared memory; one product is under way as the next is issued."""

    def body(acc: Ref) -> Array:
        @pl.loop(0, chunks)
        def _(step: Array) -> None:
            ready(step)
            plgpu.wgmma(acc, *pair(step))
            plgpu.wgmma_wait(1)

            @pl.when(step > 0)
            def _() -> None:
                release(step - 1)

        return acc[...]

    total = pl.run_scoped(body, ACC(shape, jnp.float32))
    release(jnp.int32(chunks - 1))
    return total


def filled(shape: tuple[int, ...], value: float) -> Array:
    """A constant in the layout of a wgmma accumulator, or of its rows."""
    layout = plgpu.Layout.WGMMA if len(shape) == 2 else plgpu.Layout.WGMMA.reduce(1)
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def load(ref: Ref, layout: Any, *, optimized: bool = True) -> Array:
    """All of a reference, in registers; before 0.11 this needs an index."""
    index = inspect.signature(plgpu.load).parameters.get("idx")
    beside = ((),) if index is not None and index.default is inspect.Parameter.empty else ()
    return plgpu.load(ref, *beside, layout=layout, optimized=optimized)


def load_tile(ref: Ref) -> Array:
    """A matrix in shared memory, in the layout of an accumulator."""
    return load(ref, plgpu.Layout.WGMMA)


def load_rows(ref: Ref) -> Array:
    """A vector with one value for each row of an accumulator."""
    return load(ref, plgpu.Layout.WGMMA.reduce(1), optimized=False)


def load_columns(ref: Ref) -> Array:
    """A vector with one value for each column of an accumulator."""
    return load(ref, plgpu.Layout.WGMMA.reduce(0), optimized=False)


def positions(shape: tuple[int, ...], axis: int) -> Array:
    """The index along `axis` of each entry of an accumulator."""
    return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)


def along_rows(x: Array, shape: tuple[int, ...]) -> Array:
    """x[i] at (i, j)."""
    return lax.broadcast_in_dim(x, shape, (0,))


def along_columns(x: Array, shape: tuple[int, ...]) -> Array:
    """x[j] at (i, j)."""
    return lax.broadcast_in_dim(x, shape, (1,))
