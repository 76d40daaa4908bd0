"""Makes arrays/pipeline_{pixart,sigma,sd3,sdxl,flux}.safetensors: tiny pipelines of diffusers, and their latents.

    python tests/goldens/make_pipeline_families.py [NAME ...]         (torch, diffusers 0.42, transformers 5)

The weights are those of the classes under one seed, with every array that starts at zero or one drawn near it. Each
pipeline is called as its users do, from given latents; a callback keeps the latents after every step. The arrays are
those of make_pipelines.py: file/PATH/NAME, in/latents, CASE/latents, CASE/decoded.
"""

import json
import sys
import tempfile
from pathlib import Path

import diffusers
import torch
from make_pipelines import HERE, shaken, tokenizer
from safetensors.numpy import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

PROMPT, SCALE, STEPS, SIDE = " A red Star", 3.0, 5, 16
LATENTS = 4
VAE = {
    "block_out_channels": [4, 8], "latent_channels": LATENTS, "norm_num_groups": 2, "sample_size": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
PLAIN_VAE = VAE | {"use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5, "shift_factor": 0.3}
UNET = {
    "sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 20, "attention_head_dim": [1, 2], "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 10 + 6 * 4,
}  # fmt: skip
PIXART = {
    "num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24, "caption_channels": 12,
    "num_layers": 2, "in_channels": LATENTS, "out_channels": 2 * LATENTS, "num_embeds_ada_norm": 10,
}  # fmt: skip
SD3 = {
    "sample_size": 8, "in_channels": LATENTS, "out_channels": LATENTS, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 24, "caption_projection_dim": 16, "pooled_projection_dim": 16,
    "pos_embed_max_size": 6, "dual_attention_layers": [0], "qk_norm": "rms_norm",
}  # fmt: skip
FLUX = {
    "in_channels": 4 * LATENTS, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 12,
    "num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 8, "guidance_embeds": True,
    "axes_dims_rope": [4, 4, 4],
}  # fmt: skip


def clip(folder, width, projection=0, pad="<|endoftext|>"):
    """(a text tower, its tokenizer), projected or not; OpenCLIP's tokenizers fill texts up with "!"."""
    folder.mkdir()
    _, rows = tokenizer(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text()) | {"pad_token": pad}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    config = CLIPTextConfig(
        vocab_size=rows, hidden_size=width, intermediate_size=2 * width, num_attention_heads=2, num_hidden_layers=2,
        max_position_embeddings=77, bos_token_id=rows - 2, eos_token_id=rows - 1, pad_token_id=rows - 1,
        projection_dim=projection or width, hidden_act="gelu" if pad == "!" else "quick_gelu",
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)
    return shaken(model), CLIPTokenizer.from_pretrained(folder)


def t5(width):
    """(an encoder, its tokenizer): a few words whole, letters of both cases."""
    words = ["▁red", "▁star", "▁a", "▁A", "▁", *(chr(c) for c in (*range(65, 91), *range(97, 123)))]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((w, -1.0 - 0.1 * i) for i, w in enumerate(words))]
    config = T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=6, d_ff=20, num_layers=2, num_heads=2, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", relative_attention_num_buckets=8, relative_attention_max_distance=20,
    )  # fmt: skip
    return shaken(T5EncoderModel(config)), T5Tokenizer(vocab=pieces, extra_ids=0)


def pixart(folder, cls=diffusers.PixArtAlphaPipeline, **options):
    encoder, words = t5(12)
    network = diffusers.PixArtTransformer2DModel(**PIXART, **options)
    vae, solver = diffusers.AutoencoderKL(**VAE), diffusers.DPMSolverMultistepScheduler()
    return cls(words, encoder, shaken(vae), shaken(network), solver), {"": {"clean_caption": False}}


def sigma(folder):
    return pixart(folder, diffusers.PixArtSigmaPipeline, sample_size=8, interpolation_scale=2)


def sd3(folder):
    first, second, third = clip(folder / "a", 8, 6), clip(folder / "b", 12, 10, "!"), t5(24)
    return diffusers.StableDiffusion3Pipeline(
        text_encoder=first[0], tokenizer=first[1], text_encoder_2=second[0], tokenizer_2=second[1],
        text_encoder_3=third[0], tokenizer_3=third[1], vae=shaken(diffusers.AutoencoderKL(**PLAIN_VAE)),
        transformer=shaken(diffusers.SD3Transformer2DModel(**SD3)),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ), {"": {}}  # fmt: skip


def sdxl(folder):
    first, second = clip(folder / "a", 8), clip(folder / "b", 12, 10, "!")
    chain = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    pipe = diffusers.StableDiffusionXLPipeline(
        text_encoder=first[0], tokenizer=first[1], text_encoder_2=second[0], tokenizer_2=second[1],
        unet=shaken(diffusers.UNet2DConditionModel(**UNET)),
        vae=shaken(diffusers.AutoencoderKL(**VAE | {"scaling_factor": 0.13025})), add_watermarker=False,
        scheduler=diffusers.EulerDiscreteScheduler(**chain, timestep_spacing="leading"),
    )  # fmt: skip
    told = {"original_size": (20, 24), "crops_coords_top_left": (1, 2), "negative_prompt": ""}
    return pipe, {"": {}, "told": told}


def flux(folder):
    first, second = clip(folder / "a", 8), t5(12)
    dynamic = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_image_seq_len=4)
    return diffusers.FluxPipeline(
        text_encoder=first[0], tokenizer=first[1], text_encoder_2=second[0], tokenizer_2=second[1],
        vae=shaken(diffusers.AutoencoderKL(**PLAIN_VAE)), transformer=shaken(diffusers.FluxTransformer2DModel(**FLUX)),
        scheduler=dynamic,
    ), {"": {}}  # fmt: skip


def called(pipe, latents, said):
    """(latents after every step, the decoded array) of the pipeline's own call."""
    found, packed = [], isinstance(pipe, diffusers.FluxPipeline)
    start = pipe._pack_latents(latents, *latents.shape) if packed else latents
    if isinstance(pipe, diffusers.PixArtAlphaPipeline | diffusers.PixArtSigmaPipeline):
        said = said | {"callback": lambda i, t, x: found.append(x), "use_resolution_binning": False}
    else:
        said = said | {"callback_on_step_end": lambda pipe, i, t, said: found.append(said["latents"]) or said}
    if not packed:
        said = said | {"guidance_scale": SCALE}
    pipe.set_progress_bar_config(disable=True)
    pipe(
        PROMPT, num_inference_steps=STEPS, num_images_per_prompt=len(latents), height=SIDE, width=SIDE,
        latents=start.clone(), output_type="latent", **said,
    )  # fmt: skip
    states = [pipe._unpack_latents(x, SIDE, SIDE, pipe.vae_scale_factor) if packed else x for x in found]
    z = states[-1] / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0.0)
    return torch.stack(states), pipe.vae.decode(z).sample.contiguous()


def make(name, build):
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pipe, cases = build(folder)
        pipe.save_pretrained(folder / "pipe")
        weights = {
            f"file/{path.parent.name}/{key}": value
            for path in (folder / "pipe").rglob("*.safetensors")
            for key, value in load_file(path).items()
        }
        texts = {str(path.relative_to(folder / "pipe")): path.read_text() for path in (folder / "pipe").rglob("*.json")}
    latents = torch.randn(2, LATENTS, 8, 8)
    tensors = weights | {"in/latents": latents.numpy()}
    with torch.no_grad():
        for case, said in cases.items():
            states, decoded = called(pipe, latents, said)
            tensors |= {f"{case or 'plain'}/latents": states.numpy(), f"{case or 'plain'}/decoded": decoded.numpy()}
    request = {"prompt": PROMPT, "scale": SCALE, "steps": STEPS, "size": SIDE}
    metadata = {"files": json.dumps(texts), "request": json.dumps(request)}
    save_file(tensors, HERE / f"pipeline_{name}.safetensors", metadata)
    print(name, (HERE / f"pipeline_{name}.safetensors").stat().st_size, sorted(texts))


MADE = {"pixart": pixart, "sigma": sigma, "sd3": sd3, "sdxl": sdxl, "flux": flux}

if __name__ == "__main__":
    for name in sys.argv[1:] or MADE:
        make(name, MADE[name])
