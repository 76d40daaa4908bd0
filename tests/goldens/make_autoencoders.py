"""Makes arrays/autoencoders_small.safetensors: outputs of diffusers' autoencoders and of vector-quantize-pytorch's
quantisers with options that released configurations set, and of diffusers' tiles.

    python tests/goldens/make_autoencoders.py          (torch, diffusers 0.42.1, vector-quantize-pytorch 1.32.0)

The weights are not stored: they are normal numbers of a generator that is seeded by the array's name (`drawn`, also in
tests/certify/test_autoencoders.py).
"""

import json
import zlib
from pathlib import Path

import diffusers
import numpy as np
import torch
from safetensors.numpy import save_file
from vector_quantize_pytorch import FSQ, LFQ, VectorQuantize

D, A, U, B = "DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"
R, E = "ResBlock", "EfficientViTBlock"
KL = {
    "down_block_types": [D, A], "up_block_types": [B, U], "block_out_channels": [8, 12], "norm_num_groups": 4,
    "layers_per_block": 1, "latent_channels": 3, "mid_block_add_attention": False, "use_quant_conv": False,
    "latents_mean": [0.0, 1.0, 2.0], "latents_std": [1.0, 2.0, 3.0],
}  # fmt: skip
MOVQ = {
    "down_block_types": [D, A], "up_block_types": [B, U], "block_out_channels": [32, 32], "norm_type": "spatial",
    "layers_per_block": 1, "latent_channels": 4, "num_vq_embeddings": 20,
}  # fmt: skip
VQ = {
    "down_block_types": [D, D], "up_block_types": [U, U], "block_out_channels": [8, 16], "norm_num_groups": 8,
    "latent_channels": 6, "vq_embed_dim": 3, "num_vq_embeddings": 50, "mid_block_add_attention": False,
}  # fmt: skip
DEEP = {
    "latent_channels": 4, "attention_head_dim": 4, "encoder_block_types": [R, R, E], "decoder_block_types": [R, R, E],
    "encoder_block_out_channels": [8, 8, 16], "decoder_block_out_channels": [8, 8, 16],
    "encoder_layers_per_block": [0, 2, 1], "decoder_layers_per_block": [0, 1, 2],
    "encoder_qkv_multiscales": [[], [], []], "decoder_qkv_multiscales": [[], [], []],
    "decoder_norm_types": ["batch_norm", "batch_norm", "rms_norm"], "decoder_act_fns": ["relu", "relu", "silu"],
}  # fmt: skip
STRIDED = {
    "latent_channels": 8, "attention_head_dim": 8, "encoder_block_types": [R, E], "decoder_block_types": [R, E],
    "encoder_block_out_channels": [8, 16], "decoder_block_out_channels": [8, 16], "encoder_layers_per_block": [1, 2],
    "decoder_layers_per_block": [2, 1], "encoder_qkv_multiscales": [[], [3, 5]], "decoder_qkv_multiscales": [[], [5]],
    "downsample_block_type": "conv", "upsample_block_type": "interpolate", "decoder_conv_act_fn": "silu",
    "encoder_out_shortcut": False, "decoder_in_shortcut": False,
}  # fmt: skip
SOUND = {
    "encoder_hidden_size": 6, "downsampling_ratios": [2, 3], "channel_multiples": [1, 2], "decoder_channels": 5,
    "decoder_input_channels": 3, "audio_channels": 1,
}  # fmt: skip
NETWORKS = {
    "kl": ("AutoencoderKL", KL, (1, 3, 12, 8), (2, 3, 4, 6)),
    "movq": ("VQModel", MOVQ, (1, 3, 8, 8), (1, 4, 4, 2)),
    "vq": ("VQModel", VQ, (2, 3, 8, 8), (1, 3, 4, 6)),
    "deep": ("AutoencoderDC", DEEP, (1, 3, 16, 8), (1, 4, 2, 3)),
    "strided": ("AutoencoderDC", STRIDED, (1, 3, 12, 8), (1, 8, 2, 2)),
    "sound": ("AutoencoderOobleck", SOUND, (2, 1, 48), (1, 3, 7)),
}  # fmt: skip
TILED = {"down_block_types": [D, D, D], "up_block_types": [U, U, U], "block_out_channels": [4, 4, 8],
         "norm_num_groups": 2, "sample_size": 24}  # fmt: skip


def drawn(name: str, shape) -> np.ndarray:
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    last = name.rpartition(".")[2]
    if last == "running_var":
        return 1 + 0.2 * abs(x)
    if last in ("alpha", "beta", "bias", "running_mean"):
        return 0.1 * x
    if last == "weight_g" or (last == "weight" and len(shape) == 1):
        return 1 + 0.1 * x
    if name == "quantize.embedding.weight":
        return x
    return (x / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def filled(model):
    """The model with drawn weights, and their shapes."""
    shapes = {}
    with torch.no_grad():
        for name, p in model.state_dict().items():
            if p.is_floating_point():
                p.copy_(torch.tensor(drawn(name, tuple(p.shape))))
                shapes[name] = list(p.shape)
    return model.eval(), shapes


def numbers(name, shape):
    return torch.tensor(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32))


def network(case):
    cls, ctor, xs, zs = NETWORKS[case]
    model, shapes = filled(getattr(diffusers, cls)(**ctor))
    x, z = numbers(f"{case}.x", xs), numbers(f"{case}.z", zs)
    with torch.no_grad():
        if cls == "VQModel":
            h = model.encode(x).latents
            q, loss, (_, _, ids) = model.quantize(h)
            out = {"latents": h, "quantized": q, "commit_loss": loss, "indices": ids}
            out["decode_z_quantized"] = model.decode(z).sample
            out["decode_z_not_quantized"] = model.decode(z, force_not_quantize=True).sample
        elif cls == "AutoencoderDC":
            h = model.encode(x).latent
            out = {"latent": h, "decode_z": model.decode(z).sample, "reconstruction": model.decode(h).sample}
        else:
            found = model.encode(x).latent_dist
            out = {"moments": found.parameters, "mean": found.mean, "logvar": found.logvar, "std": found.std}
            out |= {"kl": found.kl(), "mode": found.mode(), "decode_z": model.decode(z).sample}
            out["reconstruction_mode"] = model.decode(found.mode()).sample
    return {"family": "diffusers_vae", "cfg": {"cls": cls, "ctor": ctor}, "params": shapes}, {"x": x, "z": z}, out


def tiled():
    model, shapes = filled(diffusers.AutoencoderKL(**TILED))
    model.enable_tiling()
    x, z = numbers("tiled.x", (1, 3, 18, 60)), numbers("tiled.z", (1, 4, 14, 6))
    with torch.no_grad():
        out = {"moments": model.encode(x).latent_dist.parameters, "decoded": model.decode(z).sample}
    return {"family": "tiles", "cfg": {"cls": "AutoencoderKL", "ctor": TILED}, "params": shapes}, {"x": x, "z": z}, out


def vector(case, ctor):
    model = VectorQuantize(**ctor).train()
    book = model._codebook
    held, shapes = {}, {}
    with torch.no_grad():
        rows = numbers(f"{case}.rows", tuple(book.embed.shape))
        rows = torch.nn.functional.normalize(rows, dim=-1) if ctor.get("use_cosine_sim") else rows
        book.cluster_size.copy_(1 + abs(numbers(f"{case}.size", tuple(book.cluster_size.shape))))
        book.embed.copy_(rows), book.embed_avg.copy_(rows * book.cluster_size[..., None]), book.initted.fill_(True)
        held = {f"_codebook.{n}": getattr(book, n).clone() for n in ("embed", "embed_avg", "cluster_size")}
        for name, p in model.named_parameters():
            p.copy_(torch.tensor(drawn(name, tuple(p.shape))))
            shapes[name] = list(p.shape)
    cotangent, out, given = numbers(f"{case}.c", (2, 6, ctor["dim"])), {}, {}
    for step in range(2):
        given[f"x.{step}"] = numbers(f"{case}.{step}", (2, 6, ctor["dim"]))
        x = given[f"x.{step}"].clone().requires_grad_()
        q, ids, loss = model(x)
        (slope,) = torch.autograd.grad((q * cotangent).sum() + loss.sum(), x)
        out |= {f"{step}.quantized": q, f"{step}.indices": ids, f"{step}.commit_loss": loss.reshape(())}
        out |= {f"{step}.grad_x": slope}
        out |= {f"{step}._codebook.{n}": getattr(book, n).clone() for n in ("embed", "embed_avg", "cluster_size")}
    meta = {"family": "vq_ema", "cfg": {"ctor": ctor, "steps": 2}, "params": shapes}
    return meta, given | {"cotangent": cotangent, **{f"held.{n}": v for n, v in held.items()}}, out


def scalar(case, cls, ctor, width):
    model, shapes = filled(cls(**ctor))
    model.train()
    x, cotangent = numbers(f"{case}.x", (2, 6, width)).requires_grad_(), numbers(f"{case}.c", (2, 6, width))
    ids = torch.arange(min(16, model.codebook_size))[None]
    ids = ids[..., None].expand(-1, -1, ctor.get("num_codebooks", 1)) if model.keep_num_codebooks_dim else ids
    if cls is FSQ:
        q, found = model(x)
        out, loss = {"codebook_size": np.asarray(model.codebook_size, np.int32)}, 0.0
        ids = torch.arange(min(64, model.codebook_size))[None]
        ids = ids[..., None].expand(-1, -1, ctor.get("num_codebooks", 1)) if model.keep_num_codebooks_dim else ids
    else:
        (q, found, loss), parts = model(x, return_loss_breakdown=True, inv_temperature=10.0)
        out = {"aux_loss": loss, "per_sample_entropy": parts[0], "batch_entropy": parts[1], "commitment": parts[2]}
    (slope,) = torch.autograd.grad((q * cotangent).sum() + loss, x)
    out |= {"quantized": q, "indices": found, "grad_x": slope, "codebook_head": model.indices_to_codes(ids)}
    family, more = ("fsq", {}) if cls is FSQ else ("lfq", {"inv_temperature": 10.0})
    return {"family": family, "cfg": {"ctor": ctor} | more, "params": shapes}, {"x": x, "cotangent": cotangent}, out


CASES = {name: lambda name=name: network(name) for name in NETWORKS} | {
    "tiled": tiled,
    "cosine": lambda: vector("cosine", {"dim": 5, "codebook_size": 8, "use_cosine_sim": True, "decay": 0.9}),
    "straight": lambda: vector("straight", {"dim": 5, "codebook_size": 8, "rotation_trick": False}),
    "projected": lambda: vector("projected", {"dim": 5, "codebook_size": 8, "codebook_dim": 3, "decay": 0.99}),
    "fsq_projected": lambda: scalar("fsq_projected", FSQ, {"levels": [5, 4, 3], "dim": 7}, 7),
    "fsq_two": lambda: scalar("fsq_two", FSQ, {"levels": [5, 4], "num_codebooks": 2, "bound_hard_clamp": True}, 4),
    "fsq_bits": lambda: scalar("fsq_bits", FSQ, {"levels": [2, 2, 6], "preserve_symmetry": True}, 3),
    "bsq": lambda: scalar("bsq", LFQ, {"dim": 5, "codebook_size": 32, "spherical": True}, 5),
    "lfq_two": lambda: scalar("lfq_two", LFQ, {
        "dim": 7, "codebook_size": 16, "num_codebooks": 2, "codebook_scale": 0.5, "soft_clamp_input_value": 2.0,
        "commitment_loss_weight": 0.25, "diversity_gamma": 2.0}, 7),
}  # fmt: skip

if __name__ == "__main__":
    tensors, metas = {}, {}
    for case, make in CASES.items():
        metas[case], given, out = make()
        for kind, values in (("in", given), ("out", out)):
            for name, value in values.items():
                array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
                tensors[f"{case}/{kind}/{name}"] = np.array(array, order="C")
    path = Path(__file__).parent / "arrays" / "autoencoders_small.safetensors"
    save_file(tensors, path, metadata={"cases": json.dumps(metas)})
