"""Makes transformers_*.safetensors: outputs of diffusers' UniDiffuserModel and PixArtTransformer2DModel.

    python tests/goldens/make_transformers.py          (torch, diffusers 0.42)

The weights are normal numbers of a generator that is seeded by the array's name; gains are near 1.
"""

import json
import zlib
from pathlib import Path

import diffusers
import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).parent
UNI = {
    "text_dim": 6, "clip_img_dim": 5, "num_text_tokens": 4, "num_attention_heads": 2, "attention_head_dim": 8,
    "in_channels": 3, "out_channels": 3, "sample_size": 6, "patch_size": 2, "num_layers": 5, "norm_num_groups": 3,
    "activation_fn": "gelu", "use_data_type_embedding": True, "use_timestep_embedding": True, "attention_bias": True,
}  # fmt: skip
PIXART = {
    "num_attention_heads": 2, "attention_head_dim": 6, "in_channels": 4, "out_channels": 8, "num_layers": 2,
    "cross_attention_dim": 12, "caption_channels": 7, "sample_size": 8, "interpolation_scale": 2.0, "norm_eps": 1e-3,
    "use_additional_conditions": True, "norm_num_groups": 2,
}  # fmt: skip


def filled(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(p.shape)
            near = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.copy_(torch.tensor(near + 0.3 * draw, dtype=torch.float32).reshape(p.shape))
    return model.eval()


def make(name, cls, ctor, inputs):
    model, call = filled(getattr(diffusers, cls)(**ctor)), {}
    for key, value in inputs.items():
        first, _, second = key.partition(".")
        call |= {first: call.get(first, {}) | {second: torch.tensor(value)} if second else torch.tensor(value)}
    with torch.no_grad():
        found = model(**call)
    found = dict(enumerate(found)) if isinstance(found, tuple) else dict(found)
    tensors = {f"param/{key}": value.numpy() for key, value in model.state_dict().items()}
    tensors |= {f"in/{key}": value for key, value in inputs.items()}
    tensors |= {f"out/{key}": value.numpy() for key, value in found.items()}
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, HERE / f"transformers_{name}.safetensors",
        metadata={"golden": json.dumps({"family": "diffusers_model", "cfg": {"cls": cls, "ctor": ctor}})},
    )  # fmt: skip


def main():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    times = {"timestep_img": np.asarray([3, 700]), "timestep_text": np.asarray([900, 20])}
    streams = {"latent_image_embeds": draw(2, 3, 6, 6), "image_embeds": draw(2, 1, 5), "prompt_embeds": draw(2, 4, 6)}
    make("unidiffuser", "UniDiffuserModel", UNI, streams | times | {"data_type": np.asarray([1, 0])})
    inputs = {"hidden_states": draw(2, 4, 12, 4), "encoder_hidden_states": draw(2, 5, 7)}
    inputs |= {"timestep": np.asarray([3, 900]), "added_cond_kwargs.aspect_ratio": draw(2, 1)}
    inputs |= {"added_cond_kwargs.resolution": np.asarray([[512.0, 384.0], [300.0, 700.0]], np.float32)}
    mask = np.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.float32)
    make("pixart", "PixArtTransformer2DModel", PIXART, inputs | {"encoder_attention_mask": mask})


if __name__ == "__main__":
    main()
