r"""LoRA files (Hu et al. 2021) in the layouts of peft, diffusers and kohya <-> low-rank updates by module.

    W' = W + s B A,     s = alpha / r (rsLoRA: alpha / sqrt r),     A [r, in(, k, k)],     B [out, r(, 1, 1)]

    peft         base_model.model.MODULE.lora_A.weight, .lora_B.weight; alpha in adapter_config.json
    diffusers    unet.MODULE.lora_A.weight, transformer.MODULE. ...; also MODULE.lora.down.weight, .lora.up.weight and
                 MODULE.processor.to_q_lora.down.weight; alpha in the header, else it is r
    kohya        lora_unet_MODULE.lora_down.weight, .lora_up.weight, .alpha, with _ for every dot of the module

A module is one of the base model's own: a flattened name is looked up among them, never taken apart. What is left over
is refused by name, so nothing of a file is passed over in silence.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from unified_jax.errors import UserError

LoraLayout = Literal["peft", "diffusers", "kohya"]
PREFIXES = ("base_model.model.", "unet.", "transformer.")
FLAT = ("lora_unet_", "lora_transformer_")
TEXTS = ("text_encoder", "lora_te", "te1.", "te2.")
PATTERNS = (
    (re.compile(r"(.+)\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight"), "{0}.{1}"),
    (re.compile(r"(.+)\.lora\.(down|up)\.weight"), "{0}"),
    (re.compile(r"(.+)\.lora_(A|B|down|up)(?:\.[^.]+)?\.weight"), "{0}"),
)
"""Name of an array -> (module, which factor); the last group is the factor."""
FACTORS = {"A": "down", "B": "up", "down": "down", "up": "up"}


class Update(NamedTuple):
    """A low-rank update of one weight."""

    down: Float[np.ndarray, "r ..."]
    """A."""
    up: Float[np.ndarray, "o ..."]
    """B."""
    alpha: float
    """Numerator of the scale."""

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    def delta(self, root: bool = False) -> Float[np.ndarray, "..."]:
        """s B A, in the shape of the weight; `root`: rsLoRA's scale."""
        scale = self.alpha / (math.sqrt(self.rank) if root else self.rank)
        flat = self.up.reshape(len(self.up), self.rank) @ self.down.reshape(self.rank, -1)
        return (scale * flat).reshape(len(self.up), *self.down.shape[1:])


def read(
    what: str, tensors: Mapping[str, np.ndarray], weights: Mapping[str, tuple[int, ...]], alpha: float | None = None
) -> dict[str, Update]:
    """{module: update} of the arrays of a file in any of the layouts.

    weights   the shape of every weight of the base, "MODULE.weight"
    alpha     where the file has none; None: the rank

    Raises UserError that lists all arrays of no module, factors without the other, and wrong shapes.
    """
    modules = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    flat = {module.replace(".", "_"): module for module in modules}
    known = set(modules)
    factors: dict[str, dict[str, np.ndarray]] = {}
    alphas: dict[str, float] = {}
    strange = []
    for name, value in tensors.items():
        raw, factor = parsed(name)
        module = _resolved(raw, known, flat)
        if module is None or not factor:
            strange.append(name)
            continue
        if value.size != 1 if factor == "alpha" else value.ndim < 2 or 0 in value.shape:
            raise UserError(f"{what}: {name} is {list(value.shape)}, which is no factor and no alpha.")
        if module in alphas if factor == "alpha" else factor in factors.get(module, ()):
            raise UserError(f"{what} holds two updates of {module}; give each a file of its own.")
        if factor == "alpha":
            alphas[module] = float(value.reshape(()))
        else:
            factors.setdefault(module, {})[factor] = value
    if strange:
        raise UserError(f"{what} {_why(strange)}: {', '.join(sorted(strange)[:20])}.")
    if lone := sorted({*alphas, *(m for m, both in factors.items() if len(both) < 2)} - _whole(factors)):
        raise UserError(f"{what} holds one factor of {', '.join(lone)} and not the other.")
    found = {}
    for module, both in factors.items():
        rank = both["down"].shape[0]
        found[module] = Update(both["down"], both["up"], alphas.get(module, rank if alpha is None else alpha))
    if wrong := [text for m, update in found.items() if (text := _misfit(m, update, weights[f"{m}.weight"]))]:
        raise UserError(f"{what} does not fit the model: {'; '.join(wrong)}.")
    if not found:
        raise UserError(f"{what} holds no low-rank update.")
    return found


def parsed(name: str) -> tuple[str, str]:
    """(module as the file writes it, "down", "up" or "alpha") of an array's name; ("", "") for another array."""
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    for pattern, place in PATTERNS:
        if found := pattern.fullmatch(name):
            *parts, factor = found.groups()
            module = place.format(*parts)
            return (f"{module}.0" if module.endswith(".to_out") else module), FACTORS[factor]
    return "", ""


def _resolved(raw: str, known: set[str], flat: Mapping[str, str]) -> str | None:
    for prefix in PREFIXES:
        raw = raw.removeprefix(prefix)
    if raw in known:
        return raw
    for prefix in FLAT:
        if raw.startswith(prefix):
            return flat.get(raw.removeprefix(prefix))
    return None


def _why(strange: list[str]) -> str:
    if any("dora_scale" in name or "magnitude_vector" in name for name in strange):
        return "is a DoRA, which also scales the rows of a weight and is not served"
    if any(name.startswith(TEXTS) for name in strange):
        return "also changes a text encoder, which is a stage and stays as it is; take a file of the network alone"
    return "holds arrays of no module of this model"


def _whole(factors: Mapping[str, Mapping[str, np.ndarray]]) -> set[str]:
    return {module for module, both in factors.items() if len(both) == 2}


def _misfit(module: str, update: Update, shape: tuple[int, ...]) -> str:
    """Why an update is none of a weight of this shape; "" where it is. A matrix may be a convolution of size 1."""
    made = (update.up.shape[0], *update.down.shape[1:])
    ranks = update.up.shape[1] == update.rank and math.prod(update.up.shape[2:]) == 1
    if not ranks:
        return f"{module} has factors of the ranks {update.rank} and {update.up.shape[1]}"
    plain = [tuple(axes[:2]) if all(a == 1 for a in axes[2:]) else tuple(axes) for axes in (made, shape)]
    return "" if plain[0] == plain[1] else f"{module} is {list(shape)}, the update {list(made)}"


def write(updates: Mapping[str, Update], layout: LoraLayout, part: str = "unet") -> dict[str, np.ndarray]:
    """The arrays of a file: the inverse of `read`. `part` is the network's name in a pipeline: unet, transformer."""
    found: dict[str, np.ndarray] = {}
    for module, update in updates.items():
        match layout:
            case "peft":
                names = (f"base_model.model.{module}.lora_A.weight", f"base_model.model.{module}.lora_B.weight")
            case "kohya":
                place = f"lora_{part}_{module.replace('.', '_')}"
                names = (f"{place}.lora_down.weight", f"{place}.lora_up.weight")
                found[f"{place}.alpha"] = np.asarray(update.alpha, np.float32)
            case _:
                names = _diffusers(module, part)
        found |= zip(names, (update.down, update.up), strict=True)
    return found


def _diffusers(module: str, part: str) -> tuple[str, str]:
    """diffusers writes the attention of U-Nets by its older names."""
    old = part == "unet" and re.search(r"\.to_(?:[qkv]|out\.0)$", module)
    ends = ("lora.down", "lora.up") if old else ("lora_A", "lora_B")
    first, second = (f"{part}.{module}.{end}.weight" for end in ends)
    return first, second


def adapter_config(updates: Mapping[str, Update]) -> dict[str, object]:
    """peft's adapter_config.json. Raises UserError for updates of different ranks or scales."""
    kinds = {(update.rank, update.alpha) for update in updates.values()}
    if len(kinds) != 1:
        raise UserError("peft's file has one rank and one alpha here, and these updates differ; choose kohya.")
    (rank, alpha) = kinds.pop()
    modules = sorted(updates)
    return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": modules, "bias": "none"}


def merged(
    weights: Mapping[str, np.ndarray], updates: Mapping[str, Update], scale: float = 1.0, root: bool = False
) -> dict[str, np.ndarray]:
    """The weights with the updates added, in float64 and rounded once."""
    found = dict(weights)
    for module, update in updates.items():
        weight = found[f"{module}.weight"]
        wide = Update(update.down.astype(np.float64), update.up.astype(np.float64), update.alpha)
        found[f"{module}.weight"] = (weight + scale * wide.delta(root).reshape(weight.shape)).astype(weight.dtype)
    return found


def rank_of(deltas: Mapping[str, np.ndarray], names: Iterable[str]) -> int:
    """The largest rank among changes of weights, up to rounding; at least 1."""
    ranks = [1]
    for name in names:
        s = np.linalg.svd(deltas[name].reshape(len(deltas[name]), -1).astype(np.float64), compute_uv=False)
        ranks.append(int((s > 1e-6 * s[0]).sum()) if s[0] > 0 else 1)
    return max(ranks)


def factored(deltas: Mapping[str, np.ndarray], names: Iterable[str], rank: int) -> dict[str, Update]:
    """Updates of `rank` from whole changes of weights, by singular values: exact where the rank suffices."""
    found = {}
    for name in names:
        delta = deltas[name]
        u, s, v = np.linalg.svd(delta.reshape(len(delta), -1).astype(np.float64), full_matrices=False)
        s = np.pad(s, (0, max(0, rank - len(s))))[:rank]
        root, u, v = np.sqrt(s), _padded(u, 1, rank), _padded(v, 0, rank)
        ones = (1,) * (delta.ndim - 2)
        down = (root[:, None] * v).reshape(-1, *delta.shape[1:]).astype(np.float32)
        up = (u * root).reshape(len(delta), -1, *ones).astype(np.float32)
        found[name.removesuffix(".weight")] = Update(down, up, float(len(down)))
    return found


def _padded(x: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The first `size` rows or columns, filled up with zeros."""
    x = x[:size] if axis == 0 else x[:, :size]
    pads = [(0, 0), (0, 0)]
    pads[axis] = (0, size - x.shape[axis])
    return np.pad(x, pads)
