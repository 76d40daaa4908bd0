"""Writes interop_small.safetensors: samples drawn by the published code itself from one tiny model with random weights.

    python tests/goldens/make_interop.py --dit CHECKOUT_OF_DIT --sit CHECKOUT_OF_SIT

Needs torch, timm, torchdiffeq and diffusers, and checkouts of facebookresearch/DiT (ed81ce2) and willisma/SiT
(947f95b). The model has width 16, two blocks, patch 2 on 4 x 4 x 4 latents, learned sigma, five classes and the null
row. All from the same weights, x_T and noise:

sample/dit.ddpm, dit.ddpm.cfg   DiT, SpacedDiffusion.p_sample_loop over 10 of 1,000 steps, unclipped; guided by its own
                                forward_with_cfg (scale 2, first three channels)
sample/dit.ddim                 DiT, ddim_sample_loop over 10 steps, eta 0
sample/sit.euler                SiT, transport.Sampler.sample_ode, Euler, 11 grid points (10 steps)
sample/diffusers                diffusers' DiTTransformer2DModel as it comes, stepped with DDIM's equation over the same
                                10 steps
sample/diffusers.published      the same with the two constants set to the published ones: time frequencies
                                10000^(-i/128), norm_eps 1e-6
"""

import argparse
import contextlib
import importlib
import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).parent
CTOR = {"input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 16, "depth": 2, "num_heads": 2}
CTOR |= {"num_classes": 5, "learn_sigma": True}
STEPS, BATCH, SCALE = 10, 3, 2.0


def load(folder, *names):
    """Modules of a checkout, without leaving it on the path: both projects have a `models`."""
    for name in ("models", "diffusion", "transport"):
        for key in [k for k in sys.modules if k.split(".")[0] == name]:
            del sys.modules[key]
    sys.path.insert(0, str(folder))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))


def randomised(model, seed):
    """Every trained weight drawn so that all parts of the network matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if name != "pos_embed":
            std = 0.1 if name.endswith("bias") else 0.7 / value.shape[-1] ** 0.5
            value.data = std * torch.randn(value.shape, generator=generator)
    return model.eval()


@contextlib.contextmanager
def noise_of(draws):
    """torch.randn_like hands out these draws in turn."""
    queue, before = list(draws), torch.randn_like
    torch.randn_like = lambda x: torch.cat([queue.pop(0)] * (len(x) // BATCH))
    try:
        yield
    finally:
        torch.randn_like = before


def sample_dit(folder, x, y, draws):
    """(state dict, {output: samples}) of the published DiT and its diffusion."""
    models, diffusion = load(folder, "models", "diffusion")
    model = randomised(models.DiT(**CTOR), 0)
    chain = diffusion.create_diffusion(str(STEPS))
    options = {"clip_denoised": False, "device": "cpu"}
    out = {}
    with noise_of(draws):
        out["dit.ddpm"] = chain.p_sample_loop(model.forward, x.shape, x, model_kwargs={"y": y}, **options)
    both, labels = torch.cat([x, x]), torch.cat([y, torch.full_like(y, CTOR["num_classes"])])
    given = {"y": labels, "cfg_scale": SCALE}
    with noise_of(draws):
        made = chain.p_sample_loop(model.forward_with_cfg, both.shape, both, model_kwargs=given, **options)
    out["dit.ddpm.cfg"] = made[:BATCH]
    out["dit.ddim"] = chain.ddim_sample_loop(model.forward, x.shape, x, model_kwargs={"y": y}, eta=0.0, **options)
    return model.state_dict(), out, chain.timestep_map


def sample_sit(folder, weights, x, y):
    """SiT's Euler samples from the same weights."""
    models, transport = load(folder, "models", "transport")
    model = models.SiT(**CTOR).eval()
    model.load_state_dict(weights)
    draw = transport.Sampler(transport.create_transport()).sample_ode(sampling_method="euler", num_steps=STEPS + 1)
    return draw(x, model.forward, y=y)[-1]


def diffusers_weights(weights):
    """The steps of diffusers' scripts/convert_dit_to_diffusers.py, for any depth."""
    renamed = {}
    for kind in ("weight", "bias"):
        renamed[f"pos_embed.proj.{kind}"] = weights[f"x_embedder.proj.{kind}"]
        renamed[f"proj_out_1.{kind}"] = weights[f"final_layer.adaLN_modulation.1.{kind}"]
        renamed[f"proj_out_2.{kind}"] = weights[f"final_layer.linear.{kind}"]
        for i in range(CTOR["depth"]):
            ours, theirs = f"transformer_blocks.{i}", f"blocks.{i}"
            for j, part in enumerate(torch.chunk(weights[f"{theirs}.attn.qkv.{kind}"], 3)):
                renamed[f"{ours}.attn1.to_{'qkv'[j]}.{kind}"] = part
            renamed[f"{ours}.attn1.to_out.0.{kind}"] = weights[f"{theirs}.attn.proj.{kind}"]
            renamed[f"{ours}.ff.net.0.proj.{kind}"] = weights[f"{theirs}.mlp.fc1.{kind}"]
            renamed[f"{ours}.ff.net.2.{kind}"] = weights[f"{theirs}.mlp.fc2.{kind}"]
            renamed[f"{ours}.norm1.linear.{kind}"] = weights[f"{theirs}.adaLN_modulation.1.{kind}"]
            embedder = f"{ours}.norm1.emb.timestep_embedder"
            renamed[f"{embedder}.linear_1.{kind}"] = weights[f"t_embedder.mlp.0.{kind}"]
            renamed[f"{embedder}.linear_2.{kind}"] = weights[f"t_embedder.mlp.2.{kind}"]
            table = f"{ours}.norm1.emb.class_embedder.embedding_table.weight"
            renamed[table] = weights["y_embedder.embedding_table.weight"]
    return renamed


def sample_diffusers(weights, x, y, steps, published):
    """DDIM (eta 0) over `steps`, rising, with diffusers' network; the equation is written out."""
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=CTOR["num_heads"], attention_head_dim=CTOR["hidden_size"] // CTOR["num_heads"],
        in_channels=CTOR["in_channels"], out_channels=2 * CTOR["in_channels"], num_layers=CTOR["depth"],
        sample_size=CTOR["input_size"], patch_size=CTOR["patch_size"], num_embeds_ada_norm=CTOR["num_classes"],
        **({"norm_eps": 1e-6} if published else {}),
    )  # fmt: skip
    model.load_state_dict(weights)
    for block in model.transformer_blocks if published else ():
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for here, there in zip(steps[::-1], [*steps[:-1][::-1], None], strict=True):
        t = torch.full((len(x),), here)
        eps = model.eval()(x, timestep=t, class_labels=y).sample[:, : x.shape[1]]
        after = 1.0 if there is None else abar[there]
        x0 = (x - np.sqrt(1 - abar[here]) * eps) / np.sqrt(abar[here])
        x = np.sqrt(after) * x0 + np.sqrt(1 - after) * eps
    return x.float()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dit", type=Path, required=True)
    parser.add_argument("--sit", type=Path, required=True)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(1)
    shape = (BATCH, CTOR["in_channels"], CTOR["input_size"], CTOR["input_size"])
    x = torch.randn(shape, generator=generator)
    draws = torch.randn((STEPS, *shape), generator=generator)
    y = torch.tensor([0, 3, 5])
    weights, out, steps = sample_dit(arguments.dit, x, y, draws)
    out["sit.euler"] = sample_sit(arguments.sit, weights, x, y)
    renamed = diffusers_weights(weights)
    out["diffusers"] = sample_diffusers(renamed, x, y, list(steps), published=False)
    out["diffusers.published"] = sample_diffusers(renamed, x, y, list(steps), published=True)
    tensors = {f"param/{name}": value for name, value in weights.items()} | {f"sample/{k}": v for k, v in out.items()}
    tensors |= {"in/x": x, "in/noise": draws, "in/y": y}
    arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in tensors.items()}
    config = {"ctor": CTOR, "steps": STEPS, "cfg_scale": SCALE, "timesteps": list(steps)}
    golden = {"family": "interop", "cfg": config, "source": "tests/goldens/make_interop.py"}
    path = HERE / "interop_small.safetensors"
    save_file(arrays, path, metadata={"golden": json.dumps(golden)})
    path.chmod(0o644)


if __name__ == "__main__":
    main()
