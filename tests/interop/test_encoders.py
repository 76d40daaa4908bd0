"""Published text and image encoders from a folder: features, ids and preprocessing; what does not fit, by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as Pillow
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from unified_jax.errors import UserError
from unified_jax.interop import clip, dinov2, siglip, t5, table
from unified_jax.modalities.bpe import load_bpe
from unified_jax.modalities.clip_bpe import END, START
from unified_jax.modalities.image import Image
from unified_jax.modalities.text import Text
from unified_jax.models.clip_encoder import clip_encoder
from unified_jax.models.encoder_networks import t5_encoder, text_tower, vision_transformer
from unified_jax.models.image_encoder import image_encoder
from unified_jax.models.stages import Encoder, Published
from unified_jax.models.streams import Condition, Stage
from unified_jax.models.t5_encoder import t5_text_encoder
from unified_jax.sharding import unbox

LETTERS = [*"abder!", *(f"{letter}</w>" for letter in "abder!"), "re", "red</w>"]
KIND = {"clip": "clip_text_model", "umt5": "umt5", "siglip": "siglip", "dinov2": "dinov2_with_registers"}
encode = jax.jit(lambda encoder, params, x: encoder.encode(params, x), static_argnums=0)
apply = jax.jit(lambda network, params, x: network.apply({"params": params}, x), static_argnums=0)


@pytest.fixture(scope="module")
def goldens(request):
    """{name: (arrays, configuration)} of the reference."""
    found = {}
    for name in KIND:
        path = request.config.rootpath / "tests" / "goldens" / f"encoders_{name}.safetensors"
        with safe_open(path, "np") as opened:
            found[name] = load_file(path), json.loads(opened.metadata()["golden"])["cfg"]
    return found


def write_folder(folder, goldens, name, *, change=lambda held: held, extra=None, **config):
    """A folder as transformers writes it, with CLIP's two old files or T5's tokenizer.json."""
    arrays, cfg = goldens[name]
    folder.mkdir(parents=True, exist_ok=True)
    said = cfg["ctor"] | {"model_type": KIND[name], "architectures": [cfg["cls"]]} | config
    (folder / "config.json").write_text(json.dumps(said))
    held = {key[6:]: value for key, value in arrays.items() if key.startswith("param/")}
    save_file(change(held) | (extra or {}), folder / "model.safetensors")
    if name == "clip":
        words = [*LETTERS, *(f"<{i}>" for i in range(22 - len(LETTERS) - 1)), START, END]
        (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
        (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
        (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    if name == "umt5":
        (folder / "tokenizer.json").write_text(unigram())
    return folder


def unigram():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁red", "e", "r", "d", "▁a"]
    made = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.enable_padding(length=9)
    return made.to_str()


@pytest.fixture(scope="module")
def folders(goldens, tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {name: write_folder(root / name, goldens, name) for name in KIND}


def test_the_projection_of_two_towers_is_their_common_one():
    """As transformers' CLIPModel; the towers of some released files say its default of 512."""
    both = {"projection_dim": 1280, "text_config": {"projection_dim": 512}, "vision_config": {"hidden_size": 64}}
    assert clip.text_fields(both | {"model_type": "clip"}, "it", projected=True).projection == 1280
    assert clip.vision_fields(both, "it", projected=True).projection == 1280
    assert clip.text_fields({"projection_dim": 96}, "it", projected=True).projection == 96


def test_clips_features_are_the_references_at_any_block(goldens, folders):
    arrays = goldens["clip"][0]
    ids = arrays["in/input_ids"].astype(np.int32)
    encoder = clip_encoder(folders["clip"], norm=False, skip=1)
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, Published)
    assert encoder.finds(str(folders["clip"]))
    assert not encoder.finds(str(folders["umt5"]))
    params = encoder.read(str(folders["clip"]))
    found = encode(encoder, params, jnp.asarray(ids))
    np.testing.assert_allclose(found.pooled, arrays["out/text_embeds"], atol=1e-5)
    np.testing.assert_allclose(found.tokens[1], arrays["out/hidden_states.1"][1], atol=1e-5)
    assert found.length is None
    h = arrays["out/hidden_states.1"][1]
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    normed = encode(clip_encoder(folders["clip"], skip=1), params, jnp.asarray(ids)).tokens[1]
    np.testing.assert_allclose(normed, h * params["norm"]["gain"] + params["norm"]["bias"], atol=1e-4)
    last = clip_encoder(folders["clip"], projected=False)
    plain = encode(last, last.read(str(folders["clip"])), jnp.asarray(ids))
    np.testing.assert_allclose(plain.tokens[1], arrays["out/last_hidden_state"][1], atol=1e-5)
    np.testing.assert_allclose(plain.pooled[1], plain.tokens[1, 5], atol=1e-6)


def test_clips_prompts_are_filled_up_and_an_absent_one_is_empty_or_zero(folders):
    encoder = clip_encoder(folders["clip"])
    text = encoder.text
    assert (text.length, encoder.pad) == (8, LETTERS.index("!"))
    red, mark = LETTERS.index("red</w>"), LETTERS.index("!")
    assert text.prepare("  RED  be!!").tolist()[:4] == [21, red, LETTERS.index("b"), LETTERS.index("e</w>")]
    assert text.prepare("!").tolist()[:3] == [21, mark, 22]  # the pad token is that token wherever it stands
    long = text.prepare("red red red red red red red red red")
    assert long.tolist() == [21, *[red] * 6, 22]
    assert text.prepare("").tolist() == [21, 22, *[-1] * 6]
    params = encoder.read(str(folders["clip"]))
    rows = jnp.asarray([text.prepare("red"), text.prepare(""), text.blank()])
    one, two, three = (np.asarray(part) for part in encode(encoder, params, rows).tokens)
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_allclose(two, three, atol=1e-6)
    ids = jnp.asarray([[21, 22, *[encoder.pad] * 6]])
    np.testing.assert_allclose(apply(encoder.network, params, ids).tokens[0], two, atol=1e-6)
    zero = encode(clip_encoder(folders["clip"], empty="zero"), params, rows)
    np.testing.assert_allclose(zero.tokens[1], two, atol=1e-6)
    assert np.abs(zero.tokens[2]).max() == np.abs(zero.pooled[2]).max() == 0


def test_t5_reads_its_encoder_alone_and_masks_or_not(goldens, tmp_path):
    decoder = {"lm_head.weight": np.ones((23, 12), np.float32), "decoder.block.0.x": np.ones(3, np.float32)}
    copy = {"encoder.embed_tokens.weight": goldens["umt5"][0]["param/shared.weight"]}
    folder = write_folder(tmp_path, goldens, "umt5", extra=decoder | copy)
    encoder = t5_text_encoder(folder, 12)
    params = encoder.read(str(folder))
    arrays = goldens["umt5"][0]
    ids, length = arrays["in/input_ids"].astype(np.int32), arrays["in/attention_mask"].sum(1)
    there = np.arange(12) < length[:, None]
    found = encode(encoder, params, jnp.asarray(np.where(there, ids, -1)))
    assert found.length.tolist() == length.tolist()
    np.testing.assert_allclose(found.tokens[there], arrays["out/last_hidden_state"][there], atol=1e-5)
    open_ = encode(t5_text_encoder(folder, 12, mask=False), params, jnp.asarray(np.where(there, ids, -1)))
    assert open_.length is None
    assert np.abs(open_.tokens - found.tokens)[there].max() > 1e-2
    assert encoder.text.prepare("a red").tolist() == [8, 4, 1, *[-1] * 9]
    blank = encode(encoder, params, jnp.asarray([encoder.text.blank(), encoder.text.prepare("")]))
    assert blank.length.tolist() == [1, 1]
    np.testing.assert_array_equal(blank.tokens[0, 0], blank.tokens[1, 0])


def test_image_encoders_read_their_tower_and_map_their_patches(goldens, folders, tmp_path):
    arrays = goldens["dinov2"][0]
    encoder = image_encoder(folders["dinov2"], Image(14, 14, 3, 2))
    params = encoder.read(str(folders["dinov2"]))
    pixels = jnp.moveaxis(jnp.asarray(arrays["in/pixel_values"]), 1, -1)
    found = apply(encoder.network, params, pixels)
    np.testing.assert_allclose(found.pooled, arrays["out/pooler_output"], atol=1e-5)
    assert (encoder.preprocessing.resize, encoder.preprocessing.side, encoder.grid) == (256, 224, (74, 74))
    said = {"size": {"shortest_edge": 18}, "crop_size": {"height": 15, "width": 15}, "image_mean": [0.1, 0.2, 0.3]}
    (folders["dinov2"] / "preprocessor_config.json").write_text(json.dumps(said | {"image_std": [0.5, 0.6, 0.7]}))
    encoder = image_encoder(folders["dinov2"], Image(14, 14, 3, 2))
    assert encoder.grid == (5, 5)
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 3), np.uint8)
    planes = [
        np.asarray(Pillow.fromarray(images[0, ..., c].astype(np.float32)).resize((18, 27), Pillow.Resampling.BICUBIC))
        for c in range(3)
    ]
    want = np.clip(np.stack(planes, -1) / 255, 0, 1)[6:21, 1:16]
    x = encoder.prepare(jnp.asarray(images))
    np.testing.assert_allclose(x[0], (want - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7], atol=1e-4)
    again = encoder.prepare(jnp.asarray(images, jnp.float32) / 127.5 - 1)
    np.testing.assert_allclose(x, again, atol=1e-4)
    encoded = encode(encoder, params, jnp.asarray(images))
    assert (encoded.tokens.shape, encoded.map.shape, encoded.pooled.shape) == ((2, 25, 12), (2, 5, 5, 12), (2, 12))
    np.testing.assert_array_equal(encoded.map[:, 1, 2], encoded.tokens[:, 7])
    whole = apply(encoder.network, params, x)
    np.testing.assert_allclose(encoded.tokens, whole.tokens[:, 3:], atol=1e-6)
    assert [encoder.condition_form(part).kind for part in ("tokens", "map", "pooled")] == ["tokens", "map", "vector"]
    pair = goldens["siglip"][0]
    encoder = image_encoder(folders["siglip"])
    assert (encoder.preprocessing.resize, encoder.preprocessing.stretch, encoder.grid) == (15, True, (5, 5))
    pixels = jnp.moveaxis(jnp.asarray(pair["in/pixel_values"]), 1, -1)
    vector = apply(encoder.network, encoder.read(str(folders["siglip"])), pixels).pooled
    vector = vector / jnp.linalg.norm(vector, axis=1, keepdims=True)
    np.testing.assert_allclose(vector, pair["out/image_embeds"], atol=1e-5)


def test_writing_what_was_read_is_exact(goldens):
    for name, lines, expected in (
        ("clip", clip.text_table("text_model.", True), None),
        ("siglip", siglip.vision_table("vision_model.", True), None),
        ("umt5", t5.table(True, False), None),
        (
            "dinov2",
            dinov2.table(dinov2.fields(goldens["dinov2"][1]["ctor"] | {"model_type": KIND["dinov2"]}, "")),
            None,
        ),
    ):
        del expected
        held = {key[6:]: value for key, value in goldens[name][0].items() if key.startswith("param/")}
        held = dinov2.published(held) if name == "dinov2" else held
        names = {one.format(i=i) for line in lines for one in line.theirs for i in range(2)}
        held = {key: value for key, value in held.items() if key in names}
        shapes = _shapes(name, goldens)
        back = table.write(table.read(name, held, lines, shapes), lines)
        assert set(back) == set(held)
        assert all(back[key].tobytes() == np.ascontiguousarray(held[key]).tobytes() for key in held)


def _shapes(name, goldens):
    config = goldens[name][1]["ctor"] | {"model_type": KIND[name]}
    network, given = {
        "clip": lambda: (text_tower(clip.text_fields(config, "", True)), jnp.zeros((1, 1), jnp.int32)),
        "umt5": lambda: (t5_encoder(t5.fields(config, "")), jnp.zeros((1, 1), jnp.int32)),
        "siglip": lambda: (vision_transformer(siglip.vision_fields(config, "")), jnp.zeros((1, 15, 15, 3))),
        "dinov2": lambda: (vision_transformer(dinov2.fields(config, "")), jnp.zeros((1, 15, 15, 3))),
    }[name]()
    return unbox(jax.eval_shape(lambda: network.init(jax.random.key(0), given)))["params"]


def test_what_does_not_fit_is_listed_at_once(goldens, tmp_path):
    layer = "text_model.encoder.layers.1"

    def spoilt(held):
        held = dict(held)
        held[f"{layer}.mlp.fc3.weight"] = held.pop(f"{layer}.mlp.fc1.weight")
        held["text_projection.weight"] = held["text_projection.weight"][:5]
        del held[f"{layer}.layer_norm2.bias"]
        return held

    unused = {"vision_model.x": np.ones(2, np.float32), "text_model.embeddings.position_ids": np.arange(8)[None]}
    folder = write_folder(tmp_path / "one", goldens, "clip", change=spoilt, extra=unused)
    encoder = clip_encoder(folder)
    with pytest.raises(UserError) as said:
        encoder.read(str(folder))
    for word in (f"unmapped: {layer}.mlp.fc3.weight", "missing: ", "fc1.weight", "layer_norm2.bias", "[5, 12]"):
        assert word in str(said.value)
    assert "vision_model" not in str(said.value)
    index = {"weight_map": {"text_projection.weight": "model-00001-of-00001.safetensors", "lost": "m.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lists parts that are not there"):
        encoder.read(str(folder))


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("clip", {"hidden_act": "tanh"}, "hidden_act is 'tanh'; expected one of gelu"),
        ("clip", {"model_type": "bert"}, "model_type is 'bert'; this network is one with 'clip'"),
        ("clip", {"hidden_size": 13}, "width 13 is not divisible"),
        ("clip", {"vocab_size": 20}, "the tokenizer has 23 ids, the network 20"),
        ("umt5", {"feed_forward_proj": "gated-x-y"}, "feed_forward_proj is 'gated-x-y'"),
        ("umt5", {"d_model": "12"}, "d_model is '12'; expected a int"),
        ("dinov2", {"image_size": [15, 18]}, "expected the side of a square"),
    ],
)
def test_a_configuration_that_is_not_served_is_named(goldens, tmp_path, name, spoil, words):
    folder = write_folder(tmp_path, goldens, name, **spoil)
    make = {"clip": clip_encoder, "umt5": lambda path: t5_text_encoder(path, 8), "dinov2": image_encoder}[name]
    with pytest.raises(UserError, match=words):
        make(folder)


def test_missing_tokenizer_files_are_a_sentence(goldens, tmp_path):
    folder = write_folder(tmp_path / "text_encoder", goldens, "umt5")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer .*nor is one in .*tokenizer"):
        t5_text_encoder(folder, 8)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(b"")
    with pytest.raises(UserError, match=r"a sentencepiece model, which is not read here: write tokenizer\.json"):
        t5_text_encoder(folder, 8)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(unigram())
    assert t5_text_encoder(folder, 8).text.prepare("red").tolist()[:2] == [4, 1]
    clip_folder = write_folder(tmp_path / "other", goldens, "clip")
    (clip_folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"holds vocab\.json but no merges\.txt"):
        clip_encoder(clip_folder)


def test_a_stage_of_them_is_a_condition(folders):
    encoder = clip_encoder(folders["clip"])
    shown = Condition(encoder.text, encoder=Stage("clip", encoder, str(folders["clip"])), part="pooled", padding="keep")
    assert (shown.form.kind, shown.form.features, shown.form.null) == ("vector", 7, "learned")
    with pytest.raises(ValueError, match="has no map; its parts are tokens and pooled"):
        encoder.condition_form("map")
    assert Text(4, encoder.text.bpe, too_long="crop").prepare("red").tolist() == [21, LETTERS.index("red</w>"), 22, -1]
    assert load_bpe(encoder.text.bpe).after == (22,)
