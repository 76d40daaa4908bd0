"""The folder of a tiny pipeline, as diffusers saves it, from its reference file; the states of a sampler's loop."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

GOLDENS = Path(__file__).parents[1] / "goldens" / "arrays"


def unpack(name: str, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(the file's arrays, its request); the pipeline is written to `folder`."""
    tensors = load_file(GOLDENS / f"{name}.safetensors")
    with safe_open(GOLDENS / f"{name}.safetensors", "np") as opened:
        said = opened.metadata()
    for path, text in json.loads(said["files"]).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, value in tensors.items():
        if key.startswith("file/"):
            _, part, array = key.split("/", 2)
            parts.setdefault(part, {})[array] = value
    for part, arrays in parts.items():
        kind = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
        save_file(arrays, folder / part / f"{kind}.safetensors")
    return tensors, json.loads(said["request"])


def away(ours, theirs):
    """The largest difference, as a share of the largest number."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def latents_of(run, plan, eps, compiled=None, given=None, shown=False):
    """(what the denoiser was shown and the end, the compiled denoiser): every state of a sampler's loop.

    It begins at the process's start from noise of unit size. With `shown` states are as the network is shown them.
    """
    given = {"text": "a red star"} if given is None else given
    process, grid = plan.prepare(run.model.process)
    noise = process.start(eps, jnp.full(len(eps), grid[0]))
    if compiled is None:  # the texts are encoded in the same program

        def denoise(x, t):
            return run.sampling(given, count=len(eps), plan=plan)[0](x, t)

        compiled = jax.jit(denoise).lower(noise, jnp.full(len(eps), grid[0])).compile()
    seen = []

    def told(x, t):
        seen.append(process.network_input(x, t) if shown else x)
        with jax.disable_jit(False):
            return compiled(x, t)

    with jax.disable_jit():  # the loop runs as Python, so that all its states are seen
        end = plan.run(told, process, noise, grid, jax.random.split(jax.random.key(0), len(eps)))
    return [*seen[1:], end], compiled


def edited(folder, part, **changes):
    """Changes a file of JSON in place."""
    path = folder / part
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
