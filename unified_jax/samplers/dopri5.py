r"""Dormand-Prince 5(4) with adaptive steps.

Dormand & Prince 1980; Hairer, Norsett & Wanner, "Solving ODEs I", II.4-II.6.

Every sample has its own step size, so that it does not depend on its batch. A step is accepted
where the root mean square of error / (atol + rtol max(|y0|, |y1|)) is at most 1; the next step is the last one times
0.9 ratio^(-1/5), within [0.2, 10] (at least 1 after an accepted step). Values inside a step come from the quartic
through both ends, both slopes and the middle (Shampine's coefficients), as in torchdiffeq and jax.experimental.ode.
Their batches share one step size, as does `joint`, which tests compare with them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from unified_jax.processes.targets import Process, expand, velocity
from unified_jax.samplers.ddim import ddim_step
from unified_jax.samplers.loop import Denoiser
from unified_jax.typing import Keys

Field = Callable[[Any, Float[Array, "b"]], Any]
"""(y, t) -> d y / d t; y a tree of `[b, ...]`, t `[b]`."""

NODES = np.asarray([1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0])
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (
    35 / 384 - 1951 / 21600, 0.0, 500 / 1113 - 22642 / 50085, 125 / 192 - 451 / 720, -2187 / 6784 + 12231 / 42400,
    11 / 84 - 649 / 6300, -1 / 60,
)  # fmt: skip
"""Fifth order minus Shampine's fourth (1986), which the other codes use too."""
MIDDLE = (
    6025192743 / 30085553152 / 2, 0.0, 51252292925 / 65400821598 / 2, -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2, -1776094331 / 19743644256 / 2, 11237099 / 235043384 / 2,
)  # fmt: skip
MOST_STEPS = 10_000


class Progress(NamedTuple):
    """A step from t0 to t1 that was accepted, the quartic inside it, and the next step's size."""

    y: Any
    slope: Any
    t0: Float[Array, "b"]
    t1: Float[Array, "b"]
    size: Float[Array, "b"]
    quartic: tuple[Any, ...]
    tries: Array


def integrate(
    field: Field, y: Any, times: Float[Array, "k"], rtol: float = 1e-3, atol: float = 1e-6, joint: bool = False,
    beyond: bool = False,
) -> Any:  # fmt: skip
    """y(times[0]) = y to the values at times[1:], a tree of `[k - 1, b, ...]`; times increase or decrease.

    joint    one step size for the batch
    beyond   let the last step reach past the last time, where the field must then be defined (as torchdiffeq does)

    A step below 1,000 rounding errors of the interval is accepted whatever its error; a sample that needs more
    than 10,000 steps becomes NaN.
    """
    times = jnp.asarray(times, jnp.result_type(float))
    batch = jax.tree.leaves(y)[0].shape[0]
    norm = _joint_norm if joint else _norm
    start = jnp.full((batch,), times[0])
    slope = field(y, start)
    size = _first_size(field, y, start, slope, times[-1] - times[0], rtol, atol, norm, beyond)
    state = Progress(y, slope, start, start, size, (y,) * 5, jnp.asarray(0))
    # Below this, rounding of the field dominates the error: such a step is accepted.
    least = 1e3 * jnp.finfo(times.dtype).eps * jnp.abs(times[-1] - times[0])

    def to_time(state: Progress, time: Array) -> tuple[Progress, Any]:
        late = lambda s: jnp.sign(time - times[0]) * (time - s.t1) > 0  # noqa: E731
        state = jax.lax.while_loop(
            lambda s: jnp.any(late(s)) & (s.tries < MOST_STEPS),
            lambda s: _step(field, s if beyond else _shortened(s, times[-1]), late(s), rtol, atol, norm, least),
            state,
        )
        place = (time - state.t0) / jnp.where(state.t1 == state.t0, 1.0, state.t1 - state.t0)
        value = jax.tree.map(lambda *c: _horner(c, place), *state.quartic)
        return state, jax.tree.map(lambda v: jnp.where(expand(late(state), v), jnp.nan, v), value)

    return jax.lax.scan(to_time, state, times[1:])[1]


def _shortened(s: Progress, end: Array) -> Progress:
    room = end - s.t1
    return s._replace(size=jnp.where(jnp.abs(s.size) > jnp.abs(room), room, s.size))


def _step(
    field: Field, s: Progress, wanted: Bool[Array, "b"], rtol: float, atol: float, norm: Any, least_size: Array
) -> Progress:
    """One trial step; samples that are finished, or whose error is too large, keep their state."""
    slopes = [s.slope]
    y = s.y
    for node, row in zip(NODES, STAGES, strict=True):
        y = _combine(s.y, s.size, row, slopes)
        slopes.append(field(y, s.t1 + node * s.size))
    error = _combine(jax.tree.map(jnp.zeros_like, y), s.size, ERROR, slopes)
    scale = jax.tree.map(lambda a, b: atol + rtol * jnp.maximum(jnp.abs(a), jnp.abs(b)), s.y, y)
    ratio = norm(jax.tree.map(lambda e, c: e / c, error, scale))
    ratio = jnp.where(jnp.isfinite(ratio), ratio, 1e6)
    accept = wanted & ((ratio <= 1.0) | (jnp.abs(s.size) <= least_size))
    least = jnp.where(ratio < 1.0, 1.0, 0.2)
    factor = jnp.minimum(10.0, jnp.maximum(0.9 / jnp.maximum(ratio, 1e-12) ** 0.2, least))
    grown = jnp.sign(s.size) * jnp.maximum(jnp.abs(s.size) * factor, least_size)
    middle = _combine(s.y, s.size, MIDDLE, slopes)
    quartic = _quartic(s.y, y, middle, slopes[0], slopes[-1], s.size)

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(expand(accept, a), a, b), new, old)

    return Progress(
        keep(y, s.y), keep(slopes[-1], s.slope), jnp.where(accept, s.t1, s.t0), jnp.where(accept, s.t1 + s.size, s.t1),
        jnp.where(wanted, grown, s.size), keep(quartic, s.quartic), s.tries + 1,
    )  # fmt: skip


def _combine(y: Any, size: Array, row: tuple[float, ...], slopes: list[Any]) -> Any:
    def leaf(value: Array, *k: Array) -> Array:
        return value + expand(size, value) * sum((c * v for c, v in zip(row, k, strict=True) if c), 0.0)

    return jax.tree.map(leaf, y, *slopes)


def _quartic(y0: Any, y1: Any, middle: Any, slope0: Any, slope1: Any, size: Array) -> tuple[Any, ...]:
    """Coefficients from the fourth power down to the constant, of the position in [0, 1] within the step."""

    def leaf(a: Array, b: Array, m: Array, f: Array, g: Array) -> tuple[Array, ...]:
        f, g = expand(size, a) * f, expand(size, a) * g
        return (
            2 * (g - f) - 8 * (b + a) + 16 * m,
            5 * f - 3 * g + 18 * a + 14 * b - 32 * m,
            g - 4 * f - 11 * a - 5 * b + 16 * m,
            f,
            a,
        )

    out = jax.tree.map(leaf, y0, y1, middle, slope0, slope1)
    return tuple(jax.tree.map(lambda _, c, i=i: c[i], y0, out) for i in range(5))


def _horner(coefficients: tuple[Array, ...], place: Array) -> Array:
    value = coefficients[0]
    for c in coefficients[1:]:
        value = value * expand(place, value) + c
    return value


def _first_size(
    field: Field, y: Any, t: Array, slope: Any, span: Array, rtol: float, atol: float, norm: Any, beyond: bool
) -> Float[Array, "b"]:
    """Hairer's starting step, of the sign of the span; its trial step stays within the span unless `beyond`."""
    direction = jnp.sign(span)
    scale = jax.tree.map(lambda v: atol + rtol * jnp.abs(v), y)
    d0 = norm(jax.tree.map(lambda v, c: v / c, y, scale))
    d1 = norm(jax.tree.map(lambda v, c: v / c, slope, scale))
    h0 = jnp.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / jnp.maximum(d1, 1e-30))
    h0 = h0 if beyond else jnp.minimum(h0, jnp.abs(span))
    y1 = jax.tree.map(lambda v, f: v + expand(direction * h0, v) * f, y, slope)
    slope1 = field(y1, t + direction * h0)
    d2 = norm(jax.tree.map(lambda a, b, c: (a - b) / c, slope1, slope, scale)) / h0
    most = jnp.maximum(d1, d2)
    h1 = jnp.where(most <= 1e-15, jnp.maximum(1e-6, h0 * 1e-3), (0.01 / jnp.maximum(most, 1e-30)) ** 0.2)
    return direction * jnp.minimum(100 * h0, h1)


def _norm(tree: Any) -> Float[Array, "b"]:
    """Root mean square over everything but the first axis."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.mean(jnp.concatenate(leaves, axis=1) ** 2, axis=1))


def _joint_norm(tree: Any) -> Float[Array, "b"]:
    """The largest over the leaves of their root mean squares, the same for all samples (torchdiffeq's for tuples)."""
    leaves = jax.tree.leaves(tree)
    most = jnp.max(jnp.stack([jnp.sqrt(jnp.mean(leaf**2)) for leaf in leaves]))
    return jnp.broadcast_to(most, leaves[0].shape[:1])


def dopri5(
    denoise: Denoiser, process: Any, x: Any, grid: Any, keys: Keys, rtol: float = 1e-3, atol: float = 1e-6
) -> Any:
    """The probability-flow ODE from the grid's first time to its last; steps between two ends are adaptive.

    With a grid of three times it reaches the second adaptively, and the third by a single DDIM step, as the slope may
    be singular at the data. Raises TypeError for a dict of processes, which would share one time.
    """
    del keys
    if not isinstance(process, Process):
        raise TypeError("dopri5 integrates a single process; choose another sampler for several modalities.")
    times = jnp.asarray(grid, jnp.result_type(float))

    def field(value: Array, t: Array) -> Array:
        return velocity(process, denoise(value, t), t)

    x = integrate(field, x, times[:2], rtol, atol)[-1]
    if len(times) == 2:
        return x
    said = denoise(x, jnp.full(x.shape[:1], times[1]))
    return ddim_step(process, said, x, times[1], times[2], x)
