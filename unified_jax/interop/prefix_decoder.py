r"""UniDiffuser's caption decoder as published (diffusers' class, and caption_decoder.pth) <-> our tree.

theirs                                              ours (`networks.prefix_decoder`)
encode_prefix, decode_prefix                        to_latents, to_prefix
transformer.transformer | gpt.transformer  wte, wpe tokens, positions
  .h.i.attn.c_attn, .c_proj                         blocks/attention/qkv_*, out_*    stored as [in, out]
  .h.i.mlp.c_fc, .c_proj                            blocks/mlp/fc1, fc2              stored as [in, out]
  .h.i.ln_1, ln_2, .ln_f                            blocks/attention/norm_*, blocks/mlp_norm, norm
lm_head                                             none: the table of tokens, again
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import files, parts, table
from unified_jax.interop.encoder_lines import Fused
from unified_jax.interop.names import Shape
from unified_jax.interop.table import BIAS, Form, Line, Table, linear, norm
from unified_jax.typing import Params

PREFIXES = ("transformer.transformer.", "gpt.transformer.", "transformer.")
"""Before the names of GPT-2: diffusers' class, the original file, transformers' GPT2LMHeadModel."""


class Straight(Form):
    """Ours is [*in, *out], theirs the matrix [in, out] (Conv1D of GPT-2); `inputs` leading axes are in."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        return super().theirs(shape)[::-1]

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        return parts[0].reshape(shape)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        return [ours.reshape(self.theirs(ours.shape))]


class StraightFused(Fused):
    """Ours is [d, h, 3, e], theirs [d, 3 h e]: queries first, then keys, then values."""

    def theirs(self, shape: Shape) -> Shape:
        """The shape of theirs."""
        return super().theirs(shape)[::-1]

    def read(self, parts: list[np.ndarray], shape: Shape) -> np.ndarray:
        """Ours."""
        return super().read([parts[0].T], shape)

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Theirs."""
        return [super().write(ours)[0].T]


GPT = ("wte", "wpe", "h", "ln_f")
"""First parts of GPT-2's names."""
BLOCK = "gpt.h.{i}"
TABLE: Table = (
    *linear("to_latents", "encode_prefix"),
    *linear("to_prefix", "decode_prefix"),
    Line("tokens", ("gpt.wte.weight",)),
    Line("positions", ("gpt.wpe.weight",)),
    *norm("norm", "gpt.ln_f"),
    Line("blocks/attention/norm_gain", (f"{BLOCK}.ln_1.weight",)),
    Line("blocks/attention/norm_bias", (f"{BLOCK}.ln_1.bias",)),
    Line("blocks/attention/qkv_kernel", (f"{BLOCK}.attn.c_attn.weight",), StraightFused()),
    Line("blocks/attention/qkv_bias", (f"{BLOCK}.attn.c_attn.bias",), Fused()),
    Line("blocks/attention/out_kernel", (f"{BLOCK}.attn.c_proj.weight",), Straight(inputs=2)),
    Line("blocks/attention/out_bias", (f"{BLOCK}.attn.c_proj.bias",), BIAS),
    *norm("blocks/mlp_norm", f"{BLOCK}.ln_2"),
    *(
        line
        for ours, theirs in (("fc1", "c_fc"), ("fc2", "c_proj"))
        for line in (
            Line(f"blocks/mlp/{ours}/kernel", (f"{BLOCK}.mlp.{theirs}.weight",), Straight(inputs=1)),
            Line(f"blocks/mlp/{ours}/bias", (f"{BLOCK}.mlp.{theirs}.bias",)),
        )
    ),
)
"""The names of GPT-2 begin with `gpt.` here: see `published`."""


def finds(source: str) -> bool:
    """Whether a source is one file with GPT-2 in a known layout (a torch file is not opened)."""
    path = Path(source)
    if not path.is_file() or path.suffix != parts.SAFETENSORS:
        return path.is_file() and path.suffix in parts.TORCH
    return any(f"{one}wte.weight" in files.names(path) for one in PREFIXES)


def read(path: Path, expected: Params) -> Params:
    """Our tree. Raises UserError for a file that does not fit, or whose head is not its table of tokens."""
    return table.read(f"The weights file {str(path)!r}", published(files.read(path)), TABLE, expected)


def published(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by the names of `TABLE`: without a layout's prefix (or with none), masks and the repeated table."""
    bare = {next((n.removeprefix(one) for one in PREFIXES if n.startswith(one)), n): a for n, a in tensors.items()}
    if "wte.weight" not in bare:
        raise UserError(f"No table of GPT-2 tokens: expected {' or '.join(f'{one}wte.weight' for one in PREFIXES)}.")
    found = {f"gpt.{n}" if n.split(".")[0] in GPT else n: a for n, a in bare.items()}
    for name in [n for n in found if n.endswith("lm_head.weight")]:
        if not np.array_equal(found.pop(name), found["gpt.wte.weight"]):
            raise UserError(f"{name} is not the table of tokens; this network reads and writes with one table.")
    return {n: a for n, a in found.items() if not n.endswith((".attn.bias", ".attn.masked_bias"))}


def write(params: Params) -> dict[str, np.ndarray]:
    """The arrays by the names of diffusers' class."""
    found = table.write(params, TABLE)
    return {(f"{PREFIXES[0]}{n[4:]}" if n.startswith("gpt.") else n): a for n, a in found.items()}
