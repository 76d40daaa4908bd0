"""Writes bert_small.safetensors: outputs of transformers' BertModel with random weights, and ids of its WordPiece.

    python tests/goldens/make_bert.py

Needs torch and transformers (5.24). The model has width 32, two blocks, four heads and 24 positions. From the same
weights and texts of 2 to 16 tokens, for each of VARIANTS (an activation, with an eps that shows in the output):

tokens/NAME                 last_hidden_state, zeros after the length of a text
pooled/NAME.mean, .cls      as sentence-transformers pools: the mean of the tokens that are there, the first token;
                            both of length 1

The metadata holds the vocabulary, odd texts, and their ids by the tokenizer in plain Python (BertTokenizerLegacy),
lowercase and not. (Of texts with case it first composes letters and accents; published tokenizer.json files do not.)
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import BertConfig, BertModel
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

HERE = Path(__file__).parent
CTOR = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CTOR |= {"max_position_embeddings": 24, "type_vocab_size": 2}
VARIANTS = {
    "gelu": {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "gelu_new": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 0.05},
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["red", "Red", "ring", "blue", "square", "##ing", "un", "##aff", "##able", "cafe", "café", "naive"]
SIGNS = [".", ",", "!", "'", "#", "[", "]", "(", ")", "中", "文", "é", "##é", "½", "$", "—"]
VOCABULARY = [
    *SPECIAL,
    *WORDS,
    *SIGNS,
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
]
TEXTS = [
    *("A red ring.", "Red RINGS, blue squares!", "unaffable", "", "\u200b", "a" * 101, "a" * 100, "don't", " x \t y\n"),
    *("café CAFÉ", "cafe\u0301", "na\u00efve", "中文字 red中文", "\U0001f600 red", "re\x00d \x07ring\ufffd"),
    *("red\u00a0ring\u3000x", "\u2028red\u2029x", "re\u00add", "İx ß ǅ", "(red)[blue]$x—½", "##ing #ing ##"),
    *("[MASK] red [SEP] [CLS]", "[mask] [UNK] [PAD]", "[ CLS ] [CLS", "red [UNK] x"),
]  # fmt: skip


def randomised(model):
    """Every weight drawn so that all parts of the network matter."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        std = 0.3 if name.endswith("bias") or "LayerNorm" in name else 1.0 / value.shape[-1] ** 0.5
        value.data = ("LayerNorm.weight" in name) + std * torch.randn(value.shape, generator=generator)
    return model.eval()


def encoded(texts, lowercase):
    """Ids by the tokenizer in plain Python."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
        tokenizer = BertTokenizerLegacy(str(path), do_lower_case=lowercase)
    pieces = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in texts]
    return [[VOCABULARY.index("[CLS]"), *ids, VOCABULARY.index("[SEP]")] for ids in pieces]


@torch.no_grad()
def main():
    rng = np.random.default_rng(0)
    length = np.array([16, 2, 9, 5])
    ids = rng.integers(5, len(VOCABULARY), (len(length), 16))
    mask = np.arange(16) < length[:, None]
    there = torch.tensor(mask, dtype=torch.float32)[..., None]
    weights, arrays = None, {"in/ids": np.where(mask, ids, -1).astype(np.int32)}
    for name, variant in VARIANTS.items():
        model = BertModel(BertConfig(vocab_size=len(VOCABULARY), **CTOR, **variant))
        if weights is None:
            weights = randomised(model).state_dict()
        model.load_state_dict(weights)
        given = {"input_ids": torch.tensor(np.where(mask, ids, 0)), "attention_mask": torch.tensor(mask.astype(int))}
        tokens = model.eval()(**given).last_hidden_state
        pools = {"mean": (tokens * there).sum(1) / there.sum(1), "cls": tokens[:, 0]}
        arrays[f"tokens/{name}"] = (tokens * there).numpy()
        arrays |= {f"pooled/{name}.{k}": torch.nn.functional.normalize(v, dim=1).numpy() for k, v in pools.items()}
    arrays |= {f"param/{name}": value.numpy() for name, value in weights.items()}
    texts = {"texts": TEXTS, "lowercase": encoded(TEXTS, True), "cased": encoded(TEXTS, False)}
    config = {"ctor": CTOR | {"vocab_size": len(VOCABULARY), "model_type": "bert"}, "variants": VARIANTS}
    config |= {"vocabulary": VOCABULARY} | texts
    golden = {"family": "bert", "cfg": config, "source": "tests/goldens/make_bert.py"}
    path = HERE / "bert_small.safetensors"
    save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, path, metadata={"golden": json.dumps(golden)})
    path.chmod(0o644)


if __name__ == "__main__":
    main()
