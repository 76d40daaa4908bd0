"""Texts as latents: equal to GPT-2 behind a prefix, few vectors of many tokens, and a stream of a joint model."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import unified_jax as uj
from tests.helpers import keys_of, stirred
from unified_jax.errors import UserError
from unified_jax.interop import prefix_decoder as published
from unified_jax.interop.names import flatten
from unified_jax.models.latents import LatentModel
from unified_jax.models.stages import Stage
from unified_jax.models.streams import Stream
from unified_jax.networks.prefix_decoder import write_text
from unified_jax.sharding import unbox

GOLDEN = Path(__file__).parents[1] / "goldens" / "arrays" / "prefix_decoder.safetensors"
REFERENCE = uj.PrefixDecoder(23, length=20, width=16, depth=3, heads=2, hidden=64, latents=6)
TEXT = uj.Text(6, uj.learn_bpe(["a red ring"], 260))
ENCODER = uj.TextEncoder(uj.Bert(260, 6, width=12, depth=1, heads=2, hidden=16), TEXT, normalise=False)
STAGE = Stage("words", ENCODER, "words.safetensors")
NETWORK = uj.PrefixDecoder(261, length=12, width=12, depth=2, heads=2, hidden=16, latents=4, slots=3, normalise=True)
CODER = uj.TextCoding(NETWORK, STAGE, TEXT)
MODEL = uj.TextAutoencoder(CODER)
IMAGE = uj.Image(16, 16, 3, patch=8)
WORDS = ("a red", "ring", "a d", "red r")


@pytest.fixture(scope="module")
def golden():
    return {name: jnp.asarray(value) for name, value in load_file(GOLDEN).items()}


@pytest.fixture(scope="module")
def theirs(golden):
    return {
        name.removeprefix("param/"): np.asarray(value) for name, value in golden.items() if name.startswith("param/")
    }


def shapes_of(golden):
    made = jax.eval_shape(lambda: REFERENCE.init(jax.random.key(0), golden["in/features"], None, golden["in/texts"]))
    return unbox(made)["params"]


@pytest.fixture(scope="module")
def params():
    return {**stirred(MODEL.init, 0.4), "stages": {"words": stirred(ENCODER.init, 0.4)}}


@pytest.fixture(scope="module")
def batch():
    return {"caption": jnp.asarray([TEXT.prepare(one) for one in WORDS]), "slot": jnp.arange(4, dtype=jnp.int32)}


LOGITS = jax.jit(functools.partial(NETWORK.apply, method="logits"))


def after(params, z, seen):
    """The logits of the token behind these, which no later token may change: others stand there."""
    rest = np.random.default_rng(len(seen)).integers(0, 260, TEXT.length - len(seen))
    ids = jnp.asarray([*seen, *rest], jnp.int32)[None]
    return LOGITS({"params": uj.models.stages.own(params)}, z[None], ids)[0, len(seen)]


def test_published_weights_give_the_latents_logits_and_greedy_texts_of_gpt2(golden, theirs, tmp_path):
    save_file(theirs, tmp_path / "decoder.safetensors")
    assert published.finds(str(tmp_path / "decoder.safetensors")) and not published.finds(str(GOLDEN))
    ours = jax.tree.map(jnp.asarray, published.read(tmp_path / "decoder.safetensors", shapes_of(golden)))
    variables = {"params": ours}
    z = REFERENCE.apply(variables, golden["in/features"], None, method="encode")
    np.testing.assert_allclose(z, golden["out/z"], atol=1e-5)
    logits = REFERENCE.apply(variables, z, golden["in/texts"], method="logits")
    np.testing.assert_allclose(logits, golden["out/logits"], atol=2e-5 * np.abs(golden["out/logits"]).max())
    written, end = np.asarray(jax.jit(lambda p: write_text(REFERENCE, p, z, 10))(ours)), 22
    for made, expected in zip(written, np.asarray(golden["out/written"]), strict=True):
        stop = list(expected).index(end) if end in expected else len(expected)
        assert made.tolist() == [*expected[:stop], *[-1] * (len(expected) - stop)]
    again = published.write(ours)
    assert {n: v.tobytes() for n, v in again.items()} == {n: v.tobytes() for n, v in theirs.items()}


def test_weights_that_do_not_fit_are_named(theirs, tmp_path, golden):
    expected = shapes_of(golden)
    lost = {n: v for n, v in theirs.items() if n != "decode_prefix.bias"}
    other = theirs | {"transformer.lm_head.weight": theirs["transformer.transformer.wte.weight"] + 1}
    for arrays, words in ((lost, "decode_prefix.bias"), (other, "lm_head"), ({"x": np.zeros(1)}, "GPT-2")):
        save_file(arrays, tmp_path / "decoder.safetensors")
        with pytest.raises(UserError, match=words):
            published.read(tmp_path / "decoder.safetensors", expected)


def test_the_loss_is_the_cross_entropy_of_tokens_and_end_behind_their_own_latents(params, batch):
    key = jax.random.key(3)

    def loss(p):
        (term, _), metrics = MODEL.losses(p, {}, batch, key)[0]["text"], MODEL.losses(p, {}, batch, key)[2]
        return term.sum(), (term, metrics["accuracy"])

    slope, (term, accuracy) = jax.jit(jax.grad(loss, has_aux=True))(params)
    z = CODER.latents(params, batch["caption"])
    assert z.shape == (4, 3, 4)
    np.testing.assert_allclose(np.asarray(z).std(-1), 1.0, atol=1e-3)
    right = total = 0.0
    for i, row in enumerate(np.asarray(batch["caption"])):
        ids = [int(one) for one in row if one >= 0]
        told: list[float] = []
        for k, wanted in enumerate([*ids, 260]):
            logits = after(params, z[i], ids[:k])
            told.append(-float(jax.nn.log_softmax(logits)[wanted]))
            right, total = right + float(np.argmax(logits) == wanted), total + 1
        assert float(term[i]) == pytest.approx(np.mean(told), rel=1e-4)
    assert (float(accuracy[0]), float(accuracy[1])) == (right, total)
    slope = flatten(slope)
    assert max(float(jnp.abs(g).max()) for name, g in slope.items() if name.startswith("stages/")) == 0
    assert min(float(jnp.abs(g).max()) for name, g in slope.items() if not name.startswith("stages/")) > 0


def test_a_cached_text_is_the_text_without_a_cache_and_ends_at_its_end(params, batch):
    z = CODER.moments(params, batch["caption"]).mean
    made = np.asarray(jax.jit(CODER.decode)(params, z))
    for i in range(len(z)):
        ids: list[int] = []
        while len(ids) < TEXT.length:
            best = int(np.argmax(after(params, z[i], ids)))
            if best == 260:
                break
            ids.append(best)
        assert made[i].tolist() == [*ids, *[-1] * (TEXT.length - len(ids))]
    ending = dict(params) | {"tokens": params["tokens"].at[260].set(100.0 * params["norm"]["bias"])}
    assert CODER.decode(ending, z).max() < 260


def test_padding_is_not_read(params, batch):
    """The same text encoded with another encoder's padding: only the first `length` tokens count."""
    features = jax.random.normal(jax.random.key(0), (1, 6, 12))
    length, own = jnp.asarray([4]), {"params": uj.models.stages.own(params)}
    z = NETWORK.apply(own, features, length, method="encode")
    same = NETWORK.apply(own, features.at[:, 4:].set(9.0), length, method="encode")
    other = NETWORK.apply(own, features.at[:, 3].set(9.0), length, method="encode")
    np.testing.assert_array_equal(z, same)
    assert float(jnp.abs(z - other).max()) > 0.01


def test_a_text_is_a_stream_of_a_joint_model_beside_an_image_of_two_parts(params):
    vit = uj.Vit(16, 8, width=6, depth=1, heads=2, hidden=8, activation="gelu", patch_bias=True, first_norm=False)
    half = uj.Preprocessing(16, 16, False, "cubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    seen = uj.ImageEncoder(dataclasses.replace(vit, pool="class"), IMAGE, half)
    vision = uj.feature_token(Stage("vision", seen, "vision.safetensors"))
    captions = Stage("captions", CODER, "captions.safetensors")
    assert isinstance(CODER, LatentModel) and isinstance(vision.model, LatentModel)
    streams = (
        Stream(IMAGE),
        Stream(IMAGE, name="image_vector", time="image", latents=uj.Latents(vision, patch=1)),
        Stream(TEXT, latents=uj.Latents(captions, patch=1)),
    )
    model = uj.JointDiffusion(
        uj.UVit(depth=2, width=8, heads=2, norms="post", clocks=("image", "caption"), remat="none"), streams
    )
    assert (model.wantable, model.streams[2].shape, model.streams[1].shape) == (("image", "caption"), (3, 4), (1, 6))
    held = {"vision": stirred(seen.init), "captions": params}
    whole = {**stirred(model.init), "stages": held}
    rows = jnp.asarray([TEXT.prepare(one) for one in WORDS[:2]])
    images = jnp.zeros((2, 16, 16, 3), jnp.uint8)
    batch = {"caption": rows, "image": images, "slot": jnp.arange(2, dtype=jnp.int32)}
    terms, _, _ = jax.jit(lambda p: model.losses(p, {}, batch, jax.random.key(0)))(whole)
    assert set(terms) == {"image", "image_vector", "caption"}
    plan = uj.SamplingPlan(uj.Euler(), 2)
    chain = uj.GibbsChain(model, ("image", "caption"), 1)
    call = jax.jit(lambda p: chain.generate(p, {"caption": rows}, ("image", "caption"), keys_of(2), plan))
    made = call(whole)
    assert made["image"].shape == (2, 16, 16, 3) and made["caption"].shape == (2, 6)
    assert made["caption"].dtype == jnp.int32
    assert all(isinstance(text, str) for text in TEXT.from_model(made["caption"]).tolist())
    with pytest.raises(UserError, match="cannot be turned back"):
        vision.model.decode({}, jnp.zeros((1, 1, 6)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: uj.TextCoding(NETWORK, None, TEXT), "needs an encoder"),
        (lambda: uj.TextCoding(NETWORK, STAGE, uj.Text(5, TEXT.bpe)), "the same Text"),
        (lambda: uj.TextCoding(uj.PrefixDecoder(261, 8, 12, 1, 2, 8, slots=3), STAGE, TEXT), "9 positions"),
        (lambda: uj.TextCoding(uj.PrefixDecoder(100, 12, 12, 1, 2, 8, slots=3), STAGE, TEXT), "260 ids"),
        (lambda: uj.TextAutoencoder(CODER, noise=-1.0), "noise"),
        (lambda: uj.PrefixDecoder(width=10, heads=3), "heads"),
        (lambda: Stream(TEXT), "Continuous"),
    ],
    ids=["no encoder", "another text", "positions", "ids", "noise", "heads", "no latents"],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
