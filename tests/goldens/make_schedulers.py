"""Makes schedulers_pndm_*.safetensors: diffusers' PNDM over a network in closed form, with options of each spacing.

python tests/goldens/make_schedulers.py            (an environment with torch and diffusers; 0.42.1 was used)
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import PNDMScheduler
from safetensors.numpy import save_file

HERE = Path(__file__).parent
CASES = {
    "even": {"prediction_type": "v_prediction", "set_alpha_to_one": True},
    "uneven": {"timestep_spacing": "linspace", "beta_schedule": "linear", "num_train_timesteps": 500},
}


def toy(x, t):
    """The network of the other files of this family."""
    return 0.6 * x * np.cos(t / 1000) + 0.25 * torch.sin(2 * x) - 0.1 * t / 1000


for name, more in CASES.items():
    ctor = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True} | more
    scheduler = PNDMScheduler(**ctor)
    scheduler.set_timesteps(7)
    first = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    x, states = torch.tensor(first), []
    for t in scheduler.timesteps:
        x = scheduler.step(toy(x, float(t)), t, x).prev_sample
        states.append(x.numpy())
    tensors = {"in/x": first, "in/noise": np.zeros((1, *first.shape)), "out/trajectory": np.stack(states)}
    tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
    tensors["out/timesteps"] = scheduler.timesteps.numpy().astype(np.float32)
    meta = {"family": "scheduler", "cfg": {"scheduler": "PNDMScheduler", "steps": 7, "ctor": ctor}}
    save_file(tensors, HERE / f"schedulers_pndm_{name}.safetensors", metadata={"golden": json.dumps(meta)})
