"""certify serves the reference's class, not the stored file: other options of the same families, computed here in
NumPy, pass; a value moved by three tolerances fails; what is not served is named.
"""

import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from unified_jax.certify.files import certify, certify_file


def written(path, family, config, tensors):
    save_file(
        {name: np.array(value, order="C") for name, value in tensors.items()},
        path, metadata={"golden": json.dumps({"family": family, "cfg": config})},
    )  # fmt: skip
    return path


def verdicts(path, manifest=None):
    return {row.output: row.verdict for row in certify_file(path, manifest or {})}


def toy(x, t):
    return 0.5 * x * np.cos(2 * t) + 0.3 * np.sin(2 * x) - 0.2 * t


def slope(t, state, sign=1.0):
    """SiT's flow and the change of the log-density, whose divergence is a sum as the toy network mixes nothing."""
    x, _ = state
    rate = 0.5 * np.cos(2 * t) + 0.6 * np.cos(2 * x)
    return np.asarray([sign * toy(x, t), np.broadcast_to(rate, x.shape)])


def step(method, f, t, h, y):
    """torchdiffeq's fixed_grid.py and rk_common.py."""
    k1 = f(t, y)
    k2 = f(t + h / 3, y + h / 3 * k1)
    if method == "heun3":
        return y + h / 4 * (k1 + 3 * f(t + 2 * h / 3, y + 2 * h / 3 * k2))
    k3 = f(t + 2 * h / 3, y + h * (k2 - k1 / 3))
    return y + h / 8 * (k1 + 3 * (k2 + k3) + f(t + h, y + h * (k1 - k2 + k3)))


def test_fixed_step_solvers_run_as_named_and_an_unknown_one_is_named(tmp_path):
    rng, steps, methods = np.random.default_rng(0), 3, ("heun3",)
    z, out = rng.normal(size=(2, 1, 2, 2)), {}
    grid = np.linspace(0.0, 1.0, steps)
    for method in methods:
        states = [np.asarray([z, 0 * z])]
        for t, s in itertools.pairwise(grid):
            states.append(step(method, slope, t, s - t, states[-1]))
        out[f"out/ode.velocity.{method}"] = np.asarray(states)[:, 0]
    state = np.asarray([z, 0 * z])
    for t, s in itertools.pairwise(grid):
        state = step("rk4", lambda t, y: slope(1.0 - t, y, -1.0), t, s - t, state)
    noise, change = state
    prior = -0.5 * (noise**2).sum((1, 2, 3)) - 2.0 * np.log(2 * np.pi)
    out |= {"out/likelihood.z": noise, "out/likelihood.logp": prior - change.sum((1, 2, 3))}
    config = {"path": "Linear", "shape": [], "steps": steps, "predictions": ["velocity"], "likelihood": "rk4"}
    config["ode"] = [*methods, "fehlberg2"]
    out["out/ode.velocity.fehlberg2"] = out["out/ode.velocity.heun3"]
    inputs = {"in/z": z, "in/noise": z[None], "in/rademacher01": np.ones_like(z)}
    found = verdicts(written(tmp_path / "sit.safetensors", "sit_sampler", config, inputs | out))
    assert found.pop("ode.velocity.fehlberg2") == 'uncovered: option sampling_method = "fehlberg2" is not served'
    assert len(found) == 3
    assert set(found.values()) == {"pass"}


def mel_set(x, mode, top):
    """A power spectrum of frames of 16, 8 apart, three HTK bands to 4 kHz."""
    padded = np.pad(x, 8, mode=mode)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(16) / 16)
    frames = np.stack([padded[i : i + 16] * window for i in range(0, len(padded) - 15, 8)])
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 5) / 2595) - 1)
    hertz = np.arange(9)[:, None] * 500.0
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bank = np.maximum(0, np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
    mel = (np.abs(np.fft.rfft(frames)) ** 2 @ bank).T
    level = 10 * np.log10(np.maximum(mel, 1e-10))
    return mel, np.maximum(level, level.max() - top)


def test_mel_is_padded_and_cut_as_its_set_says(tmp_path):
    x, sets, out = np.random.default_rng(1).normal(size=80), [], {}
    x[20:60] = 1e-6
    for i, (name, mode, top) in enumerate((("constant", "constant", 30.0), ("replicate", "edge", 50.0))):
        sets.append({"n_fft": 16, "hop_length": 8, "n_mels": 3, "pad_mode": name, "top_db": top})
        mel, level = mel_set(x, mode, top)
        out |= {f"out/torchaudio.{i}.mel": mel, f"out/torchaudio.{i}.db": level}
        out |= {f"out/librosa.{i}.mel": mel.copy(), f"out/librosa.{i}.db_refmax": level - level.max()}
    sets.append(sets[0] | {"pad_mode": "symmetric"})
    out["out/librosa.2.mel"] = mel.copy()
    config, path = {"sr": 8000, "sets": sets}, tmp_path / "m.safetensors"
    rows = certify_file(written(path, "mel", config, out | {"in/x": x}), {})
    found = {row.output: row.verdict for row in rows}
    assert found.pop("librosa.2.mel") == 'uncovered: option pad_mode = "symmetric" is not served'
    assert set(found.values()) == {"pass"}
    for row in rows:  # the value nearest to zero, moved by three tolerances
        value = out[f"out/{row.output}"] = np.array(out[f"out/{row.output}"], order="C")
        flat = value.reshape(-1)
        flat[np.abs(flat).argmin()] += 3 * row.tolerance
    moved = verdicts(written(path, "mel", config, out | {"in/x": x}))
    assert {verdict for name, verdict in moved.items() if name in found} == {"fail"}


D, HEADS, KV, HIDDEN, WORDS, N = 8, 2, 1, 12, 11, 5


def llama(w, x, position, allowed):
    """Hugging Face's Llama of one layer: biased attention in groups, rotary halves, SwiGLU."""
    e = D // HEADS
    norm = lambda v, name: v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6) * w[name]  # noqa: E731
    linear = lambda v, name: v @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)  # noqa: E731
    angle = position[:, None] * 10000.0 ** (-np.arange(e // 2) * 2 / e)
    cos, sin = (np.concatenate([f(angle)] * 2, -1)[None, :, None] for f in (np.cos, np.sin))
    turn = lambda v: v * cos + np.concatenate([-v[..., e // 2 :], v[..., : e // 2]], -1) * sin  # noqa: E731
    at = "model.layers.0.self_attn."
    h = norm(x, "model.layers.0.input_layernorm.weight")
    q, k, v = (linear(h, f"{at}{p}_proj").reshape(len(x), N, -1, e) for p in "qkv")
    k, v = (np.repeat(a, HEADS // KV, 2) for a in (turn(k), v))
    score = np.where(allowed[:, None], np.einsum("bnhe,bmhe->bhnm", turn(q), k) / np.sqrt(e), -np.inf)
    share = np.exp(score - score.max(-1, keepdims=True))
    seen = np.einsum("bhnm,bmhe->bnhe", share / share.sum(-1, keepdims=True), v).reshape(x.shape)
    x = x + linear(seen, f"{at}o_proj")
    h = norm(x, "model.layers.0.post_attention_layernorm.weight")
    gate = linear(h, "model.layers.0.mlp.gate_proj")
    h = gate / (1 + np.exp(-gate)) * linear(h, "model.layers.0.mlp.up_proj")
    return norm(x + linear(h, "model.layers.0.mlp.down_proj"), "model.norm.weight")


def test_llama_with_biases_and_tied_embeddings(tmp_path):
    rng, e, w = np.random.default_rng(2), D // HEADS, {}
    layer = "model.layers.0."
    for name, rows in (("q", D), ("k", KV * e), ("v", KV * e), ("o", D)):
        w[f"{layer}self_attn.{name}_proj.weight"] = rng.normal(size=(rows, D)) / 2
        w[f"{layer}self_attn.{name}_proj.bias"] = rng.normal(size=rows)
    for name, shape in (("gate", (HIDDEN, D)), ("up", (HIDDEN, D)), ("down", (D, HIDDEN))):
        w[f"{layer}mlp.{name}_proj.weight"] = rng.normal(size=shape) / 3
    norms = (f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight", "model.norm.weight")
    w |= {name: 1 + 0.2 * rng.normal(size=D) for name in norms}
    table = w["model.embed_tokens.weight"] = rng.normal(size=(WORDS, D))
    ids, embeds = rng.integers(0, WORDS, (1, N)), rng.normal(size=(1, N, D))
    allowed = np.tril(np.ones((1, N, N), bool))
    allowed[:, 1:4, 1:4] = True
    hidden = llama(w, embeds, np.arange(N), allowed)
    out = {"out/causal.logits": llama(w, table[ids], np.arange(N), np.tril(np.ones((1, N, N), bool))) @ table.T}
    out |= {
        "out/mixed_embeds.hidden": hidden,
        "out/mixed.logits": llama(w, table[ids], np.arange(N), allowed) @ table.T,
    }
    inputs = {"in/ids": ids, "in/embeds": embeds, "in/allowed": allowed, "in/position_ids": np.arange(N)[None]}
    sizes = {"vocab_size": WORDS, "hidden_size": D, "intermediate_size": HIDDEN, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": HEADS, "num_key_value_heads": KV, "attention_bias": True}
    tensors = inputs | out | {f"param/{name}": value for name, value in w.items()}
    config = {"ctor": sizes | {"tie_word_embeddings": True}}
    assert set(verdicts(written(tmp_path / "l.safetensors", "llama", config, tensors)).values()) == {"pass"}


CASES = [
    ("scheduler", {"scheduler": "EulerDiscreteScheduler", "steps": 4, "ctor": {"use_flow_sigmas": True}}),
    ("scheduler", {"scheduler": "DDIMScheduler", "steps": 4, "ctor": {"timestep_spacing": "leading "}}),
    ("scheduler", {"scheduler": "DDIMScheduler", "steps": 4, "step": {"eta": "0.5"}}),
    ("scheduler", {"scheduler": "DEISMultistepScheduler", "steps": 4}),
    ("scheduler", {"scheduler": "PNDMScheduler", "steps": 4}),
    ("gaussian_diffusion", {"ctor": {"rescale_timesteps": True}}),
    ("llama", {"ctor": {"mlp_bias": True}}),
    ("llama", {"ctor": {"rope_parameters": {"rope_type": "llama3"}}}),
    ("dit", {"ctor": {"qk_norm": True}}),
    ("sit", {"ctor": {"learn_sigma": 1}}),
    ("sit_loss", {"path": "Linear", "t_dist": "logit_normal"}),
    ("sit_path", {"path": "Cosine"}),
    ("sit_sampler", {"path": "VP", "steps": 4, "predictions": ["x0"]}),
    ("lightning_transport", {"steps": 4, "shifts": [0.0], "method": "heun"}),
    ("lightningdit", {"ctor": {"use_qknorm": True}}),
    ("dpm_solver_pp", {"steps": [9], "order": 2}),
    ("beta_schedules", {"max_beta": 0.5}),
    ("frechet", {"eps": 1e-3}),
    ("fid_inception", {"normalize_input": False}),
    ("kid_pr_is", {"degree": 2}),
    ("ema", {"decay": 0.9, "bias_correction": True}),
    ("sd3_training_density", {"scheme": "sigma_cubed"}),
    ("pcgrad", {"reduction": "max"}),
    ("gradnorm_libmtl", {"tasks": 2, "norm": "l1"}),
    ("gradnorm_toy", {"steps": 1, "lr": 0.1}),
    ("transfusion_mask", {"n": 4, "types": 1, "window": 2}),
    ("mel", {"sr": 8000, "sets": [], "dither": 1.0}),
    ("r3gan", {"gamma": 1.0, "ctor": {"KernelSize": 2}}),
    ("min_snr", {"schedule": "linear", "steps": 4, "gamma": 5.0, "space": "v"}),
    ("transformers_model", {"cls": "CLIPTextModel", "ctor": {"hidden_act": "tanh"}}),
    ("uvit", {"ver": "v1", "ctor": {"qk_scale": 0.5}}),
    ("diffusers_model", {"cls": "PixArtTransformer2DModel", "ctor": {"attention_type": "gated"}}),
    ("diffusers_model", {"cls": "UniDiffuserModel", "ctor": {"pre_layer_norm": True}}),
    ("diffusers_model", {"cls": "UNet2DModel", "args": {"do_classifier_free_guidance": True}}),
    ("transformers_model", {"cls": "T5EncoderModel", "ctor": {"is_decoder": True}}),
    ("transformers_model", {"cls": "Dinov2Backbone"}),
    ("transformers_model", {"cls": "SiglipModel", "ctor": {"vision_config": {"use_rope": True}}}),
    ("diffusers_model", {"cls": "UNetMotionModel"}),
    ("diffusers_model", {"cls": "UNet2DConditionModel", "ctor": {"attention_type": "gated"}}),
    ("diffusers_model", {"cls": "UNet2DConditionModel", "ctor": {"down_block_types": ["KDownBlock2D"]}}),
    ("diffusers_model", {"cls": "UNet2DModel", "ctor": {"time_embedding_type": "fourier"}}),
    ("diffusers_model", {"cls": "SD3Transformer2DModel", "ctor": {"qk_norm": "layer_norm"}}),
    ("diffusers_model", {"cls": "FluxTransformer2DModel", "ctor": {"patch_size": 2}}),
    ("diffusers_model", {"cls": "ControlNetModel", "ctor": {"global_pool_conditions": True}}),
    ("diffusers_model", {"cls": "UNet2DModel", "args": {"guess_mode": True}}),
    ("controlnet_unet", {"unet": {}, "controlnet": {"controlnet_conditioning_channel_order": "bgr"}, "scale": 0.8}),
    ("lora_formats", {"cls": "UNet2DConditionModel", "lora": {"r": 3, "use_dora": True}}),
    ("adm_unet", {"cls": "UNetModel", "ctor": {"dims": 3}}),
    ("diffusers_vae", {"cls": "AutoencoderKLWan"}),
    ("vq_ema", {"ctor": {"dim": 4, "codebook_size": 8, "ema_update": False}}),
    ("fsq", {"ctor": {"levels": [5, 3], "noise_dropout": 0.5}}),
    ("lfq", {"ctor": {"codebook_size": 8, "cosine_sim_project_in": True}}),
    ("lpips", {"net": "squeeze", "seed": 0}),
    ("patchgan", {"ndf": 4, "n_layers": 1, "in_channels": 3, "loss": "wasserstein"}),
    ("vf_loss", {"variants": {"mean": {"reduction": "mean"}}}),
]


@pytest.mark.parametrize(("family", "config"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)])
def test_an_option_that_is_not_served_is_named(tmp_path, family, config):
    (said,) = verdicts(written(tmp_path / "o.safetensors", family, config, {"out/y": np.ones(2)})).values()
    assert said.startswith("uncovered: option ")
    assert said.endswith(" is not served")


def test_every_family_names_what_it_does_not_serve():
    from unified_jax.certify.files import runners

    assert set(runners()) - {"transfusion"} == {family for family, _ in CASES}


def test_values_near_zero_or_not_finite_are_compared(tmp_path):
    a = np.random.default_rng(3).normal(size=(20, 4))
    for i, (value, wanted) in enumerate(((1e-14, "pass"), (5e-10, "fail"), (np.inf, "fail"), (np.nan, "fail"))):
        tensors = {"in/a": a, "in/b": a, "out/fid_self": np.asarray(value)}
        written(tmp_path / f"f{i}.safetensors", "frechet", {}, tensors)
        (row,) = certify(tmp_path, f"f{i}")
        assert row.verdict.startswith(wanted)
        assert row.tolerance < 1e-9


def test_an_unknown_family_is_named(tmp_path):
    found = verdicts(written(tmp_path / "u.safetensors", "unheard_of", {}, {"out/y": np.ones(2)}))
    assert found == {"y": "uncovered: family unheard_of is not served"}
