"""Makes lightningdit_*.safetensors: outputs of the published LightningDiT with options that no released model has.

    TORCHDYNAMO_DISABLE=1 python tests/goldens/make_lightningdit.py CHECKOUT          (torch, timm, einops)

CHECKOUT is hustvl/LightningDiT (commit 2725fed). The weights are normal numbers of a generator that is seeded by the
array's name; gains are near 1.
"""

import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).parent
SIZES = {"input_size": 6, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "depth": 2, "num_heads": 3}
SIZES |= {"num_classes": 5}
CASES = {
    "plain": SIZES | {"learn_sigma": True, "mlp_ratio": 2.5, "class_dropout_prob": 0.0},
    "mixed": SIZES | {"use_rmsnorm": True, "use_rope": True, "wo_shift": True, "patch_size": 3, "num_heads": 2},
    "gated": SIZES | {"use_swiglu": True, "mlp_ratio": 3.0, "use_checkpoint": False},
}


def filled(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "pos_embed":
                continue
            draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(p.shape)
            near = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.copy_(torch.tensor(near + 0.3 * draw, dtype=torch.float32).reshape(p.shape))
    return model.eval()


def main(checkout):
    for name in ("fairscale", "fairscale.nn", "fairscale.nn.model_parallel"):  # only other classes of its file need it
        sys.modules[name] = types.ModuleType(name)
    for name, needed in (
        ("initialize", ()),
        ("layers", ("ColumnParallelLinear", "ParallelEmbedding", "RowParallelLinear")),
    ):
        module = types.ModuleType(f"fairscale.nn.model_parallel.{name}")
        for one in needed:
            setattr(module, one, None)
        sys.modules[module.__name__] = module
        setattr(sys.modules["fairscale.nn.model_parallel"], name, module)
    sys.path.insert(0, checkout)
    from models.lightningdit import LightningDiT

    for name, ctor in CASES.items():
        model, rng, rows = filled(LightningDiT(**ctor)), np.random.default_rng(0), 4
        x = rng.normal(size=(rows, ctor["in_channels"], ctor["input_size"], ctor["input_size"])).astype(np.float32)
        t = np.asarray([0.2, 0.6, 0.9, 0.0], np.float32)
        null = ctor["num_classes"] if ctor.get("class_dropout_prob", 0.1) else 0
        y, both = np.asarray([1, 3, 0, 4]), np.asarray([1, 3, null, null])
        cfg = {"ctor": ctor, "cfg_scale": 2.5, "intervals": [None, 0.25]}
        inputs = {"x": x, "t": t, "y": y, "cfg_t": np.full(rows, 0.2, np.float32), "cfg_y": both}
        with torch.no_grad():
            found = {"y": model(torch.tensor(x), torch.tensor(t), torch.tensor(y))}
            given = (torch.tensor(x), torch.tensor(inputs["cfg_t"]), torch.tensor(both), cfg["cfg_scale"])
            found["cfg.None"] = model.forward_with_cfg(*given)
            found["cfg.0.25"] = model.forward_with_cfg(*given, cfg_interval=True, cfg_interval_start=0.25)
        tensors = {f"param/{key}": value.numpy() for key, value in model.state_dict().items()}
        tensors |= {f"in/{key}": value for key, value in inputs.items()}
        tensors |= {f"out/{key}": value.numpy() for key, value in found.items()}
        save_file(
            {key: np.ascontiguousarray(value) for key, value in tensors.items()},
            HERE / f"lightningdit_{name}.safetensors",
            metadata={"golden": json.dumps({"family": "lightningdit", "cfg": cfg})},
        )


if __name__ == "__main__":
    main(sys.argv[1])
