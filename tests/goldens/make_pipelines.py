"""Makes arrays/pipeline_sd*.safetensors: a tiny Stable Diffusion as diffusers saves it, and its latents step by step.

    python tests/goldens/make_pipelines.py          (torch, diffusers 0.42, transformers 5)

The weights are those of the classes under one seed, with every array that starts at zero or one drawn near it. The
loop is written out: the text and the empty text encoded, guidance, the scheduler's step, the decoder. The arrays are
file/PATH/NAME (weights of the folder), in/latents, SCHEDULER/latents (after every step) and SCHEDULER/decoded; the
JSON files of the folder, and the request, are in the metadata.
"""

import json
import tempfile
from pathlib import Path

import diffusers
import torch
from safetensors.numpy import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).parent / "arrays"
PROMPT, SCALE, STEPS = "a red star", 3.0, 7
WORDS = ["red", "star", "a", "blue", "circle"]
CHAIN = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
UNET = {
    "sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
}  # fmt: skip
VAE = {
    "block_out_channels": [4, 8], "latent_channels": 4, "norm_num_groups": 2, "sample_size": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
TEXT = {
    "hidden_size": 12, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2,
    "max_position_embeddings": 77,
}  # fmt: skip


def tokenizer(folder):
    """CLIP's kind of tokenizer over letters, with a few words whole."""
    units = [chr(c) for c in range(33, 127)]
    vocab, merges = units + [unit + "</w>" for unit in units], []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[-2], parts[-1])
            if pair not in merges:
                merges.append(pair)
                vocab.append("".join(pair))
            parts[-2:] = ["".join(pair)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges))
    words = {"model_max_length": 77, "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    words |= {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return CLIPTokenizer.from_pretrained(folder), len(ids)


def shaken(model):
    """Arrays that start at zero or one, drawn near it."""
    with torch.no_grad():
        for p in model.parameters():
            if p.std() == 0 or p.numel() == 1:
                p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def sampled(pipe, scheduler, latents):
    """(latents after every step, the decoded array)."""
    ids = [
        pipe.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        for text in ("", PROMPT)
    ]
    tokens = pipe.text_encoder(torch.cat(ids))[0]
    scheduler.set_timesteps(STEPS)
    x, found = latents * scheduler.init_noise_sigma, []
    for t in scheduler.timesteps:
        said = pipe.unet(scheduler.scale_model_input(torch.cat([x, x]), t), t, tokens.repeat_interleave(len(x), 0))
        without, given = said.sample.chunk(2)
        x = scheduler.step(without + SCALE * (given - without), t, x).prev_sample
        found.append(x)
    return torch.stack(found), pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.contiguous()


def make(name, head, target):
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        words, rows = tokenizer(folder)
        ends = {"bos_token_id": rows - 2, "eos_token_id": rows - 1, "pad_token_id": rows - 1}
        pipe = diffusers.StableDiffusionPipeline(
            vae=shaken(diffusers.AutoencoderKL(**VAE)),
            text_encoder=shaken(CLIPTextModel(CLIPTextConfig(vocab_size=rows, **TEXT, **ends))), tokenizer=words,
            unet=shaken(diffusers.UNet2DConditionModel(**UNET, **head)),
            scheduler=diffusers.PNDMScheduler(
                **CHAIN, skip_prk_steps=True, set_alpha_to_one=False, prediction_type=target
            ),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipe.save_pretrained(folder / "sd")
        (folder / "sd/other").mkdir()
        ddim = diffusers.DDIMScheduler(**CHAIN, set_alpha_to_one=False, clip_sample=False, prediction_type=target)
        ddim.save_pretrained(folder / "sd/other")
        weights = {
            f"file/{path.parent.name}/{key}": value
            for path in (folder / "sd").rglob("*.safetensors")
            for key, value in load_file(path).items()
        }
        texts = {str(path.relative_to(folder / "sd")): path.read_text() for path in (folder / "sd").rglob("*.json")}
    latents = torch.randn(2, 4, 8, 8)
    tensors = weights | {"in/latents": latents.numpy()}
    with torch.no_grad():
        for scheduler in (pipe.scheduler, ddim):
            kind = "pndm" if scheduler is pipe.scheduler else "ddim"
            states, decoded = sampled(pipe, scheduler, latents)
            tensors |= {f"{kind}/latents": states.numpy(), f"{kind}/decoded": decoded.numpy()}
    request = {"prompt": PROMPT, "scale": SCALE, "steps": STEPS}
    metadata = {"files": json.dumps(texts), "request": json.dumps(request)}
    save_file(tensors, HERE / f"{name}.safetensors", metadata)
    print(name, (HERE / f"{name}.safetensors").stat().st_size, sorted(texts))


if __name__ == "__main__":
    make("pipeline_sd1", {"attention_head_dim": 2}, "epsilon")
    make("pipeline_sd2", {"attention_head_dim": [1, 2], "use_linear_projection": True}, "v_prediction")
