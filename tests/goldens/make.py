"""Writes the small golden files of this folder: NumPy in float64, written from the papers, sharing nothing with the
library.

    python tests/goldens/make.py

gd_small.safetensors    DDPM posterior, learned-range variance, ancestral and DDIM loops over a linear chain of 50 steps
min_snr_small.safetensors   min-SNR weights of eps, x0 and v at every step of the linear chain
dit_small.safetensors   one forward pass of a DiT of two blocks with random weights, torch layouts
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def write(name, family, config, tensors):
    """One file with `golden` metadata, float32."""
    arrays = {key: np.ascontiguousarray(value, np.float32) for key, value in tensors.items()}
    for key in ("in/t", "in/y"):
        if family == "gaussian_diffusion" and key == "in/t":
            arrays[key] = tensors[key].astype(np.int64)
        if key == "in/y" and key in tensors:
            arrays[key] = tensors[key].astype(np.int64)
    meta = {"golden": json.dumps({"family": family, "cfg": config, "source": "tests/goldens/make.py"})}
    save_file(arrays, HERE / f"{name}.safetensors", metadata=meta)


def gaussian_diffusion(dtype=np.float64):
    """The toy network: eps = 0.7 x cos(t / 1000) + 0.2 sin 3x - 0.1, v = tanh(x) (0.3 + t / 2000)."""
    rng, steps = np.random.default_rng(0), 50
    betas = np.linspace(1e-4, 0.02, steps) * 1000 / steps
    abar = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], abar[:-1]])
    tilde = betas * (1 - before) / (1 - abar)
    log_tilde = np.log(np.concatenate([tilde[1:2], tilde[1:]]))
    shape = (2, 3, 4, 4)
    x0 = np.clip(rng.normal(size=shape), -1, 1)
    x_t, noise, x_T = (rng.normal(size=shape) for _ in range(3))
    loop = rng.normal(size=(steps, *shape))
    t = np.asarray([0, 13])
    arrays = (betas, abar, before, log_tilde, x0, x_t, noise, x_T, loop)
    betas, abar, before, log_tilde, x0, x_t, noise, x_T, loop = (v.astype(dtype) for v in arrays)

    def reverse(x, i, clip):
        eps = 0.7 * x * np.cos(0.001 * i) + 0.2 * np.sin(3 * x) - 0.1
        fraction = (np.tanh(x) * (0.3 + 0.0005 * i) + 1) / 2
        guess = (x - np.sqrt(1 - abar[i]) * eps) / np.sqrt(abar[i])
        guess = np.clip(guess, -1, 1) if clip else guess
        mean = np.sqrt(before[i]) * betas[i] / (1 - abar[i]) * guess
        mean = mean + np.sqrt(1 - betas[i]) * (1 - before[i]) / (1 - abar[i]) * x
        return guess, eps, mean, fraction * np.log(betas[i]) + (1 - fraction) * log_tilde[i]

    states, x, y = [], x_T, x_T
    for k, i in enumerate(range(steps - 1, -1, -1)):
        _, _, mean, log_variance = reverse(x, i, True)
        x = mean + (i > 0) * np.exp(0.5 * log_variance) * loop[k]
        states.append(x)
        guess, eps, _, _ = reverse(y, i, False)
        y = np.sqrt(before[i]) * guess + np.sqrt(1 - before[i]) * eps
    a, s = (v[:, None, None, None] for v in (np.sqrt(abar[t]), np.sqrt(1 - abar[t])))
    rows = [reverse(x_t[j], i, True) for j, i in enumerate(t)]
    tensors = {"in/x_start": x0, "in/x_t": x_t, "in/noise": noise, "in/x_T": x_T, "in/loop_noise": loop, "in/t": t}
    tensors |= {"out/table.betas": betas, "out/table.posterior_variance": tilde, "out/q_sample": a * x0 + s * noise}
    tensors |= {"out/p_mean_variance.clip1.mean": np.stack([r[2] for r in rows])}
    tensors |= {"out/p_mean_variance.clip1.log_variance": np.stack([r[3] for r in rows])}
    tensors |= {"out/p_sample_loop.all": np.stack(states), "out/ddim_sample_loop.eta0": y}
    config = {"ctor": {"diffusion_steps": steps, "timestep_respacing": "", "noise_schedule": "linear"}}
    return "gd_small", "gaussian_diffusion", config, tensors


def dit():
    """DiT, equation by equation."""
    rng = np.random.default_rng(1)
    depth, width, heads, size, patch, channels, classes, batch = 2, 16, 2, 4, 2, 3, 5, 2
    w = {}

    def linear(name, rows, columns):
        w[f"{name}.weight"] = rng.normal(size=(rows, columns)) / np.sqrt(columns)
        w[f"{name}.bias"] = 0.1 * rng.normal(size=rows)

    for i in range(depth):
        for part, rows, columns in (
            *(("attn.qkv", 3 * width, width), ("attn.proj", width, width), ("mlp.fc1", 4 * width, width)),
            *(("mlp.fc2", width, 4 * width), ("adaLN_modulation.1", 6 * width, width)),
        ):
            linear(f"blocks.{i}.{part}", rows, columns)
    linear("t_embedder.mlp.0", width, 256)
    linear("t_embedder.mlp.2", width, width)
    linear("final_layer.adaLN_modulation.1", 2 * width, width)
    linear("final_layer.linear", patch**2 * channels, width)
    w["x_embedder.proj.weight"] = rng.normal(size=(width, channels, patch, patch)) / 3
    w["x_embedder.proj.bias"] = 0.1 * rng.normal(size=width)
    w["y_embedder.embedding_table.weight"] = rng.normal(size=(classes + 1, width))
    side = size // patch
    omega = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    part = lambda place: np.concatenate([np.sin(place * omega), np.cos(place * omega)])  # noqa: E731
    table = [np.concatenate([part(c), part(r)]) for r in range(side) for c in range(side)]
    w["pos_embed"] = np.stack(table)[None]
    x, t, y = rng.normal(size=(batch, channels, size, size)), np.asarray([3.0, 700.0]), np.asarray([2, 5])
    tensors = {"in/x": x, "in/t": t, "in/y": y, "out/y": dit_forward(w, x, t, y, depth, heads, patch, channels)}
    config = {"input_size": size, "patch_size": patch, "in_channels": channels, "hidden_size": width, "depth": depth}
    config |= {"num_heads": heads, "num_classes": classes, "class_dropout_prob": 0.1, "learn_sigma": False}
    write("dit_small", "dit", {"ctor": config}, tensors | {f"param/{name}": value for name, value in w.items()})


def dit_forward(w, x, t, y, depth, heads, patch, channels):
    """[b, c, h, w] to [b, c, h, w]."""
    side, width = x.shape[-1] // patch, w["pos_embed"].shape[-1]
    f = lambda name, v: v @ w[f"{name}.weight"].T + w[f"{name}.bias"]  # noqa: E731
    silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731
    gelu = lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))  # noqa: E731

    def norm(v):
        v = v - v.mean(-1, keepdims=True)
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6)

    angle = t[:, None] * np.exp(-np.log(10000) * np.arange(128) / 128)
    c = f("t_embedder.mlp.2", silu(f("t_embedder.mlp.0", np.concatenate([np.cos(angle), np.sin(angle)], -1))))
    c = silu(c + w["y_embedder.embedding_table.weight"][y])
    tokens = (
        x.reshape(len(x), channels, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5).reshape(len(x), side**2, -1)
    )
    h = tokens @ w["x_embedder.proj.weight"].reshape(width, -1).T + w["x_embedder.proj.bias"] + w["pos_embed"]
    for i in range(depth):
        rows = np.split(f(f"blocks.{i}.adaLN_modulation.1", c)[:, None], 6, -1)
        qkv = f(f"blocks.{i}.attn.qkv", norm(h) * (1 + rows[1]) + rows[0])
        q, k, v = np.moveaxis(qkv.reshape(len(x), side**2, 3, heads, -1), (2, 3), (0, 2))
        score = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        score = np.exp(score - score.max(-1, keepdims=True))
        a = (score / score.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(h.shape)
        h = h + rows[2] * f(f"blocks.{i}.attn.proj", a)
        inner = gelu(f(f"blocks.{i}.mlp.fc1", norm(h) * (1 + rows[4]) + rows[3]))
        h = h + rows[5] * f(f"blocks.{i}.mlp.fc2", inner)
    shift, scale = np.split(f("final_layer.adaLN_modulation.1", c)[:, None], 2, -1)
    out = f("final_layer.linear", norm(h) * (1 + scale) + shift)
    return out.reshape(len(x), side, side, patch, patch, channels).transpose(0, 5, 1, 3, 2, 4).reshape(x.shape)


def min_snr():
    """Hang et al. 2023: min(SNR, gamma) of x0's mean square, over SNR of eps's, over SNR + 1 of v's; 1,000 steps."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    snr = abar / (1 - abar)
    bounded = np.minimum(snr, 5.0)
    out = {"out/x0": bounded, "out/eps": bounded / snr, "out/v": bounded / (snr + 1)}
    write("min_snr_small", "min_snr", {"schedule": "linear", "steps": 1000, "gamma": 5.0}, out)


if __name__ == "__main__":
    name, family, config, exact = gaussian_diffusion()
    write(name, family, config, exact)
    rough = gaussian_diffusion(np.float32)[3]
    own = {key: float(np.abs(exact[key] - rough[key]).max()) for key in exact if key.startswith("out/")}
    outputs = {key: {"f32_minus_f64_maxabs": error} for key, error in own.items()}
    (HERE / "manifest.json").write_text(json.dumps({name: {"outputs": outputs}}, indent=1) + "\n")
    dit()
    min_snr()
