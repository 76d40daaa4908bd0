r"""Reading actions: the position of the agent's goal in the first frame, and its motion.

The trajectory is START + m_k (object_k - START) (`action`). For every motion (and, where walls may turn it, radius) the
object's path is known except for its start. The start across the motion is a linear least-squares problem, the start
along it is searched on a grid and then refined. The hypothesis of least squared error wins.
"""

import numpy as np
from jaxtyping import Num

from unified_jax.data.world.action import START, progress
from unified_jax.data.world.read import Reading, make_reading, place_at
from unified_jax.data.world.scene import FRAMES, MOTIONS, RADII, SPEED, VELOCITIES, fold

STEPS = 121
"""Number of tried starts along the motion, from wall to wall."""


def read_action(paths: Num[np.ndarray, "..."]) -> Reading:
    """Reads trajectories [b, 16, 2]: place (in the first frame) and motion of the object that they lead to."""
    if paths.ndim != 3 or paths.shape[1:] != (FRAMES, 2):
        raise ValueError(f"Actions to be read must have the shape [b, {FRAMES}, 2]; found {list(paths.shape)}.")
    paths = np.clip(np.nan_to_num(paths.astype(np.float64), nan=0.5), -1, 2)
    m, start = progress(), np.array(START)
    moved = paths - start * (1 - m[:, None])  # m_k object_k
    fixed = np.einsum("bka,k->ba", moved, m) / np.square(m).sum()  # the best constant per axis
    resting = np.square(moved - m[:, None] * fixed[:, None]).sum(1)  # its squared error per axis
    best = [(resting.sum(1), fixed, 0)]
    for motion in range(1, len(MOTIONS)):
        axis = 0 if VELOCITIES[motion][0] else 1
        for radius in RADII[::-1]:
            speed = SPEED * VELOCITIES[motion][axis]
            found, error = _start_along(moved[..., axis], m, radius, speed)
            centre = fixed.copy()
            centre[:, axis] = found
            best.append((error + resting[:, 1 - axis], centre, motion))
    errors = np.stack([error for error, _, _ in best], 1)
    # Where two radii explain the path equally well (an object that starts SPEED from its wall), the larger one is used.
    which = (errors + 1e-10 * np.arange(errors.shape[1])).argmin(1)
    centre = np.stack([centre for _, centre, _ in best], 1)[np.arange(len(paths)), which]
    motion = np.asarray([motion for _, _, motion in best])[which]
    residual = np.sqrt(errors.min(1) / (2 * FRAMES))
    pair = np.stack([centre, centre], 1)
    fit = np.clip(1 - 10 * residual, 0, 1)
    count = np.ones(len(paths), np.int32)
    return make_reading(
        count, pair, np.stack([fit, fit], 1), residual, place=place_at(pair), motion=np.stack([motion, motion], 1)
    )


def _start_along(moved: np.ndarray, m: np.ndarray, radius: float, speed: float) -> tuple[np.ndarray, np.ndarray]:
    """(start, squared error) of the best path of this speed along one axis, for `moved` [b, k] = m_k object_k."""
    low, high = radius + SPEED, 1 - radius - SPEED  # no object starts closer to a wall
    tried = np.linspace(low, high, STEPS)

    def lines(start: np.ndarray) -> np.ndarray:
        return m * fold(start, np.full_like(start, speed), np.full_like(start, radius), FRAMES)

    errors = np.square(moved[:, None] - lines(tried)).sum(2)
    start = tried[errors.argmin(1)]
    # The path is piecewise linear in its start: with the right pieces one step of Gauss and Newton ends at the optimum.
    for _ in range(3):
        here = lines(start)
        slope = (lines(start + 1e-6) - here) / 1e-6
        change = (slope * (moved - here)).sum(1) / np.square(slope).sum(1)
        after = np.clip(start + change, low, high)
        better = np.square(moved - lines(after)).sum(1) < np.square(moved - here).sum(1)
        start = np.where(better, after, start)
    return start, np.square(moved - lines(start)).sum(1)
