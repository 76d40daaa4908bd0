"""Makes encoders_*.safetensors: outputs of transformers' text and image encoders with random weights.

    python tests/goldens/make_encoders.py          (torch, transformers 5.24)

The weights are normal numbers of a generator that is seeded by the array's name; gains are near 1.
"""

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
WORDS = {"vocab_size": 23, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 15, "patch_size": 3}
IDS = np.asarray([[5, 9, 22, 1, 1, 1], [7, 4, 3, 8, 6, 22], [22, 2, 22, 0, 0, 0]])


def filled(model, seed):
    with torch.no_grad():
        for name, p in model.named_parameters():
            draw = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(p.shape)
            near = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "lambda1")) else 0.0
            p.copy_(torch.tensor(near + 0.4 * draw, dtype=torch.float32).reshape(p.shape))
    return model.eval()


def outputs(found):
    for name, value in found.items():
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, tuple):
            yield from ((f"{name}.{i}", one) for i, one in enumerate(value))


def make(name, cls, config, ctor, inputs, hidden=True, **args):
    model = filled(getattr(transformers, cls)(getattr(transformers, config)(**ctor)), len(name))
    with torch.no_grad():
        call = {key: torch.tensor(value) for key, value in inputs.items()} | args
        found = model(**call, output_hidden_states=True) if hidden else model(**call)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = {f"param/{key}": value for key, value in load_file(Path(folder, "model.safetensors")).items()}
    tensors |= {f"in/{key}": value for key, value in inputs.items()}
    tensors |= {f"out/{key}": value.numpy() for key, value in outputs(found)}
    cfg = {"cls": cls, "config_cls": config, "ctor": ctor} | ({"args": args} if args else {})
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, HERE / f"encoders_{name}.safetensors",
        metadata={"golden": json.dumps({"family": "transformers_model", "cfg": cfg})},
    )  # fmt: skip


def main():
    rng = np.random.default_rng(0)

    def images(*shape):
        return rng.normal(size=shape).astype(np.float32)

    text = WORDS | {"max_position_embeddings": 8, "eos_token_id": 22, "projection_dim": 7, "hidden_act": "gelu"}
    mask = np.asarray([[1, 1, 1, 0, 0, 0], [1] * 6, [1, 1, 1, 1, 0, 0]])
    make("clip", "CLIPTextModelWithProjection", "CLIPTextConfig", text, {"input_ids": IDS, "attention_mask": mask})
    sizes = {"vocab_size": 23, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 3}
    near = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 5}
    inputs = {"input_ids": np.tile(IDS, 2), "attention_mask": np.pad(mask, ((0, 0), (6, 0)), constant_values=1)}
    make("umt5", "UMT5EncoderModel", "UMT5Config", sizes | near, inputs)
    vision = IMAGE | {"intermediate_size": 20}
    pair = {"text_config": WORDS | {"max_position_embeddings": 6}, "vision_config": vision}
    inputs = {"input_ids": IDS, "pixel_values": images(2, 3, 15, 15)}
    make("siglip", "SiglipModel", "SiglipConfig", pair, inputs, hidden=False)
    giant = IMAGE | {"mlp_ratio": 2, "use_swiglu_ffn": True, "num_register_tokens": 2}
    inputs = {"pixel_values": images(2, 3, 9, 21)}
    make("dinov2", "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", giant, inputs)


if __name__ == "__main__":
    main()
