"""Makes unets_*.safetensors: outputs of diffusers' U-Nets and transformers of two streams.

    python tests/goldens/make_unets.py          (torch, diffusers 0.42)

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
TEXT = {
    "sample_size": 6, "block_out_channels": [4, 8], "norm_num_groups": 2, "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "cross_attention_dim": 6, "attention_head_dim": [1, 2],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "transformer_layers_per_block": [2, 1],
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 13, "time_cond_proj_dim": 3, "flip_sin_to_cos": False,
    "mid_block_scale_factor": 1.4, "act_fn": "gelu", "norm_eps": 1e-3, "in_channels": 5, "conv_in_kernel": 5,
}  # fmt: skip
CLASS = {
    "sample_size": 6, "block_out_channels": [4, 8], "norm_num_groups": 2, "layers_per_block": 1,
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
    "attention_head_dim": 2, "downsample_type": "resnet", "upsample_type": "conv", "num_class_embeds": 5,
    "resnet_time_scale_shift": "scale_shift", "freq_shift": 1, "center_input_sample": True, "out_channels": 6,
}  # fmt: skip
SD3 = {
    "sample_size": 8, "in_channels": 3, "num_layers": 3, "attention_head_dim": 4, "num_attention_heads": 2,
    "joint_attention_dim": 5, "caption_projection_dim": 8, "pooled_projection_dim": 3, "out_channels": 4,
    "pos_embed_max_size": 6, "dual_attention_layers": [1], "qk_norm": "rms_norm",
}  # fmt: skip
FLUX = {
    "in_channels": 6, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 8, "num_attention_heads": 1,
    "joint_attention_dim": 5, "pooled_projection_dim": 3, "axes_dims_rope": [2, 4, 2], "out_channels": 4,
}  # fmt: skip


def filled(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(p.shape)
            near = 1.0 if "norm" in name and p.ndim == 1 and name.endswith("weight") else 0.0
            p.copy_(torch.tensor(near + 0.3 * draw, dtype=torch.float32).reshape(p.shape))
    return model.eval()


def make(name, cls, ctor, inputs):
    model, call = filled(getattr(diffusers, cls)(**ctor)), {}
    for key, value in inputs.items():
        first, _, second = key.partition(".")
        call |= {first: call.get(first, {}) | {second: torch.tensor(value)} if second else torch.tensor(value)}
    with torch.no_grad():
        found = model(**call).sample
    tensors = {f"param/{key}": value.numpy() for key, value in model.state_dict().items()}
    tensors |= {f"in/{key}": value for key, value in inputs.items()} | {"out/sample": found.numpy()}
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, HERE / f"unets_{name}.safetensors",
        metadata={"golden": json.dumps({"family": "diffusers_model", "cfg": {"cls": cls, "ctor": ctor}})},
    )  # fmt: skip


def main():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    times = np.asarray([3.0, 400.0], np.float32)
    given = {"sample": draw(2, 5, 7, 5), "timestep": times, "encoder_hidden_states": draw(2, 4, 6)}
    given |= {"added_cond_kwargs.text_embeds": draw(2, 5), "added_cond_kwargs.time_ids": 9 * draw(2, 2)}
    mask = np.asarray([[0, 1, 1, 0], [1, 1, 1, 1]], np.float32)
    make("text", "UNet2DConditionModel", TEXT, given | {"timestep_cond": draw(2, 3), "encoder_attention_mask": mask})
    given = {"sample": draw(2, 3, 6, 6), "timestep": times, "class_labels": np.asarray([0, 4])}
    make("class", "UNet2DModel", CLASS, given)
    text = {"encoder_hidden_states": draw(2, 4, 5), "pooled_projections": draw(2, 3)}
    make("sd3", "SD3Transformer2DModel", SD3, text | {"hidden_states": draw(2, 3, 8, 10), "timestep": times})
    places = np.stack(np.meshgrid([0], np.arange(2), np.arange(3), indexing="ij"), -1).reshape(-1, 3)
    given = text | {"hidden_states": draw(2, 6, 6), "timestep": times / 1000, "txt_ids": np.zeros((4, 3), np.float32)}
    make("flux", "FluxTransformer2DModel", FLUX, given | {"img_ids": places.astype(np.float32)})


if __name__ == "__main__":
    main()
