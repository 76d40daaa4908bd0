"""Makes arrays/latents_small.safetensors: latents of the published DiT and SiT after every step, and their pictures.

    python tests/goldens/make_latents.py --dit CHECKOUT_OF_DIT --sit CHECKOUT_OF_SIT

Needs torch, timm, torchdiffeq and diffusers, and checkouts of facebookresearch/DiT (ed81ce2) and willisma/SiT
(947f95b). One tiny DiT and one tiny AutoencoderKL (f4) with random weights, which the published sample.py composes:
guidance of scale 4 by `forward_with_cfg`, that is on the first three channels, then vae.decode(z / 0.18215). All from
the same weights, labels, x_T and noise:

dit/latents     SpacedDiffusion.p_sample_loop_progressive, 10 of 1,000 linear steps, learned range, unclipped
ode/latents     SiT, Sampler.sample_ode, Euler over 11 times
sde/latents     SiT, Sampler.sample_sde, Euler-Maruyama, w = sigma, the last step of 0.04 to the mean, 10 steps
*/picture       the decoded array of the last latents, not clamped
"""

import argparse
import json

import diffusers
import numpy as np
import torch
from make_interop import HERE, load, randomised
from safetensors.numpy import save_file

CTOR = {"input_size": 6, "patch_size": 2, "in_channels": 4, "hidden_size": 16, "depth": 2, "num_heads": 2}
CTOR |= {"num_classes": 5, "learn_sigma": True}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3, "sample_size": 24,
    "block_out_channels": [8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
}  # fmt: skip
STEPS, BATCH, SCALE = 10, 2, 4.0


class Noise:
    """torch's noise: these draws in turn, the same for the guided and the unguided half."""

    def __init__(self, draws):
        self.draws = draws

    def __enter__(self):
        queue, self.before = list(self.draws), (torch.randn_like, torch.randn)
        torch.randn_like = lambda x: torch.cat([queue.pop(0)] * 2)
        torch.randn = lambda *size: torch.cat([queue.pop(0)] * 2)

    def __exit__(self, *_):
        torch.randn_like, torch.randn = self.before


def main(dit, sit):
    rng = np.random.default_rng(0)
    side, channels = CTOR["input_size"], CTOR["in_channels"]

    def draw(*shape):
        return torch.tensor(rng.normal(size=shape).astype(np.float32))

    start, noise = draw(BATCH, channels, side, side), draw(STEPS, BATCH, channels, side, side)
    y = torch.tensor([3, 1])
    both, labels = torch.cat([start, start]), torch.cat([y, torch.full_like(y, CTOR["num_classes"])])
    given, out = {"y": labels, "cfg_scale": SCALE}, {}
    vae = randomised(diffusers.AutoencoderKL(**VAE), 1)
    with torch.no_grad():
        models, diffusion = load(dit, "models", "diffusion")
        model, chain = randomised(models.DiT(**CTOR), 0), diffusion.create_diffusion(str(STEPS))
        weights = model.state_dict()
        with Noise(noise):
            steps = chain.p_sample_loop_progressive(
                model.forward_with_cfg, both.shape, both, clip_denoised=False, model_kwargs=given, device="cpu"
            )
            out["dit"] = [step["sample"] for step in steps]
        models, transport = load(sit, "models", "transport")
        model = models.SiT(**CTOR).eval()
        model.load_state_dict(weights)
        sampler = transport.Sampler(transport.create_transport())
        euler = sampler.sample_ode(sampling_method="euler", num_steps=STEPS + 1)
        out["ode"] = list(euler(both, model.forward_with_cfg, **given)[1:])
        with Noise(noise):
            out["sde"] = sampler.sample_sde(
                sampling_method="Euler", diffusion_form="sigma", last_step="Mean", last_step_size=0.04, num_steps=STEPS
            )(both, model.forward_with_cfg, **given)
        tensors = {f"{name}/latents": torch.stack([z[:BATCH] for z in states]) for name, states in out.items()}
        for name in out:
            tensors[f"{name}/picture"] = vae.decode(tensors[f"{name}/latents"][-1] / 0.18215).sample
    tensors |= {"in/start": start, "in/noise": noise, "in/y": y}
    tensors |= {f"model/{name}": value for name, value in weights.items()}
    tensors |= {f"vae/{name}": value for name, value in vae.state_dict().items()}
    save_file(
        {name: np.ascontiguousarray(value.numpy()) for name, value in tensors.items()},
        HERE / "arrays" / "latents_small.safetensors",
        metadata={
            "vae": json.dumps({k: v for k, v in vae.config.items() if v is not None} | {"_class_name": "AutoencoderKL"})
        },
    )
    for name in out:
        z = tensors[f"{name}/latents"]
        print(name, tuple(z.shape), float(z.abs().max()), float(tensors[f"{name}/picture"].abs().max()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dit", required=True)
    parser.add_argument("--sit", required=True)
    main(**vars(parser.parse_args()))
