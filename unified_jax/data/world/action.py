r"""The action: an agent's trajectory to the first object, which may move: float32 [16, 2], (x, y) in [0, 1].

It starts at the middle of the lower edge and meets the object in the last frame, with the time course of a reaching
hand,

    path_k = START + m(k / 15) (object_k - START),     m(s) = 10 s^3 - 15 s^4 + 6 s^5      (Flash & Hogan 1985)

so it bends with the object's motion. x points right and y down, as on the canvas.
"""

import numpy as np
from jaxtyping import Float

from unified_jax.data.world.scene import FRAMES, Scene, trajectory

START = (0.5, 1.0)


def progress(frames: int = FRAMES) -> Float[np.ndarray, " frames"]:
    """m of the module docstring."""
    s = np.arange(frames) / (frames - 1)
    return s**3 * (10 - 15 * s + 6 * s**2)


def render_action(scene: Scene) -> Float[np.ndarray, "16 2"]:
    """The trajectory."""
    start = np.array(START)
    return (start + progress()[:, None] * (trajectory(scene.objects[0]) - start)).astype(np.float32)
