"""Makes arrays/prefix_decoder.safetensors: transformers' GPT2LMHeadModel behind a prefix, as in UniDiffuser.

    python tests/goldens/make_prefix_decoder.py          (torch, transformers 5)

The weights are normal numbers of a generator that is seeded by the array's name; gains are near 1. `ids` are what
greedy decoding writes, the last id ends a text.
"""

import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent
SIZES = GPT2Config(vocab_size=23, n_positions=20, n_embd=16, n_layer=3, n_head=2)


def main():
    gpt = GPT2LMHeadModel(SIZES)
    parts = torch.nn.ModuleDict(
        {"encode_prefix": torch.nn.Linear(12, 6), "decode_prefix": torch.nn.Linear(6, 16), "transformer": gpt}
    ).eval()
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(3, 5, 12)), dtype=torch.float32)
    texts = torch.tensor(rng.integers(0, 22, (3, 7)))
    with torch.no_grad():
        for name, p in parts.named_parameters():
            draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(p.shape)
            near = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            p.copy_(torch.tensor(near + 0.4 * draw, dtype=torch.float32).reshape(p.shape))
        z = parts["encode_prefix"](features)
        prefix = parts["decode_prefix"](z)
        words = gpt.transformer.wte(texts)
        logits = gpt(inputs_embeds=torch.cat([prefix, words], dim=1)).logits[:, 4:]
        written, x = [], prefix
        for _ in range(10):
            ids = gpt(inputs_embeds=x).logits[:, -1].argmax(-1)
            written.append(ids)
            x = torch.cat([x, gpt.transformer.wte(ids)[:, None]], dim=1)
    tensors = {f"param/{name}": p.detach().numpy() for name, p in parts.named_parameters()}
    tensors |= {"in/features": features.numpy(), "in/texts": texts.numpy().astype(np.int32), "out/z": z.numpy()}
    tensors |= {"out/logits": logits.numpy(), "out/written": torch.stack(written, dim=1).numpy().astype(np.int32)}
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        HERE / "arrays" / "prefix_decoder.safetensors",
    )


if __name__ == "__main__":
    main()
