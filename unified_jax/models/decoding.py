r"""Generation with a Transfusion model: text token by token, everything else by denoising a span.

Past tokens are in a KV cache, so that a step computes only the new tokens. Sequences of a batch have their own lengths:
sequence i continues at `at[i]`, which bounds its key range. A span is denoised against the cache, begin token and
content together in each step; afterwards one pass at t = 0 writes its keys and values. Without its context (guidance)
the span's key range starts at its begin token, as in training.

    given      begin, content, end  of each, in the model's order
    through    as wanted, made first (`SamplingPlan.through`) and not returned
    wanted     begin, then text until its end token, or a span, then end

This is one compiled call: loops are scans, and a finished text waits for the others.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unified_jax.data.vocabulary import WRITTEN
from unified_jax.layers.attention import KvCache
from unified_jax.models import stages
from unified_jax.networks.transfusion import Spans, Tokens
from unified_jax.processes.targets import Prediction, Process, shown_clean
from unified_jax.samplers.guidance import classifier_free, clip_x0
from unified_jax.samplers.loop import START, Denoiser, normal_like
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Keys, Params


class Past(NamedTuple):
    """Sequences so far."""

    cache: KvCache
    """`[layers, b, m, ...]`."""
    at: Int[Array, "b"]
    """Number of tokens so far."""
    position: Int[Array, "b"]
    """Position of the next token (a span counts as one)."""


def generate(
    model: Any, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
) -> dict[str, Array]:
    """See `Transfusion.generate`."""
    places = {m.name: i for i, m in enumerate(model.modalities)}
    between = tuple(name for name in plan.through if name not in (*given, *wanted))
    content = [model.packer.content(m) for name, m in places.items() if name in (*given, *between, *wanted)]
    _, past = read_given(model, params, given, len(keys), 1 + sum(2 + k for k in content))
    made: dict[str, Array] = {}
    for name in between:  # of nothing, a greedy text would be the same for every key
        drawn = plan if given or plan.temperature else replace(plan, temperature=1.0)
        _, _, past = make_item(model, params, past, places[name], keys, drawn)
    for name in wanted:
        made[name], _, past = make_item(model, params, past, places[name], keys, plan)
    return made


def read_given(
    model: Any, params: Params, given: dict[str, Array], count: int, capacity: int
) -> tuple[Float[Array, "b v"], Past]:
    """(next-token logits, the sequences) after BOS and all conditions, in the model's order."""
    logits, past = _read(model, params, _empty(model, count, capacity), jnp.full((count, 1), model.vocabulary.bos))
    logits = logits[:, -1]
    for m, modality in enumerate(model.modalities):
        if modality.name not in given:
            continue
        value = jnp.asarray(given[modality.name])
        if isinstance(modality, WRITTEN):
            logits, past = _give_text(model, params, past, m, value.reshape(count, -1))
        else:
            logits, past = _give_span(model, params, past, m, model.stream(m).to_space(params, value))
    return logits, past


def make_item(
    model: Any, params: Params, past: Past, m: int, keys: Keys, plan: SamplingPlan
) -> tuple[Array, Float[Array, "b v"], Past]:
    """(item of modality m, next-token logits, the sequences after it)."""
    own = jax.vmap(lambda key: jax.random.fold_in(key, m))(keys)
    if isinstance(model.modalities[m], WRITTEN):
        return _write_text(model, params, past, m, own, plan)
    x = _denoise(model, params, past, m, own, plan)
    return model.stream(m).from_space(params, x), *_give_span(model, params, past, m, x)


def _empty(model: Any, count: int, tokens: int) -> Past:
    network = model.network
    heads = network.kv_heads or network.heads
    shape = (network.depth, count, tokens, heads, network.width // network.heads)
    blank = jnp.zeros(shape, jnp.dtype(network.dtype))
    zeros = jnp.zeros(count, jnp.int32)
    at = jnp.zeros((network.depth, count), jnp.int32)
    return Past(KvCache(blank, blank, at), zeros, zeros)


def _forward(
    model: Any, params: Params, past: Past, ids: Array, positions: Array, visible: Array, span: Spans | None = None,
    t: Array | None = None,
) -> tuple[Array, dict[str, Array], KvCache]:  # fmt: skip
    """(logits, outputs, cache) of further tokens; a span's content has the time t."""
    count = len(ids)
    written = jnp.broadcast_to(past.at, (model.network.depth, count))
    times = jnp.zeros((count, 2)) if t is None else jnp.stack([jnp.zeros(count), t], axis=1)
    tokens = Tokens(ids.astype(jnp.int32), positions, visible, (ids < 0).astype(jnp.int32))
    logits, outputs, cache = model.network.apply(
        {"params": stages.own(params)}, tokens, () if span is None else (span,), times, past.cache._replace(at=written),
        vocabulary=model.vocabulary.size,
    )  # fmt: skip
    return logits, outputs, cache


def _read(model: Any, params: Params, past: Past, ids: Int[Array, "b k"], lengths: Any = None) -> tuple[Array, Past]:
    """(logits, the sequences after these text tokens); only the first `lengths` of each are used."""
    steps = jnp.arange(ids.shape[1])
    positions = jnp.broadcast_to((past.position[:, None] + steps)[..., None], (*ids.shape, 3))
    stop = past.at[:, None] + steps + 1
    visible = jnp.stack([jnp.zeros_like(stop), stop], axis=-1)
    logits, _, cache = _forward(model, params, past, jnp.maximum(ids, 0), positions, visible)
    new = ids.shape[1] if lengths is None else lengths
    return logits, Past(cache, past.at + new, past.position + new)


def _give_text(
    model: Any, params: Params, past: Past, m: int, ids: Int[Array, "b k"]
) -> tuple[Float[Array, "b v"], Past]:
    count, words = len(ids), model.vocabulary
    _, past = _read(model, params, past, jnp.full((count, 1), words.begin(m)))
    _, past = _read(model, params, past, jnp.where(ids >= 0, ids + words.first[m], -1), jnp.sum(ids >= 0, axis=1))
    logits, past = _read(model, params, past, jnp.full((count, 1), words.end(m)))
    return logits[:, -1], past


def _span_block(
    model: Any, past: Past, m: int, alone: bool, ended: bool
) -> tuple[Int[Array, "b k"], Int[Array, "b k 3"], Int[Array, "b k 2"]]:
    """(ids, positions, visible) of begin token and content, and of the end token if `ended`."""
    packer, words = model.packer, model.vocabulary
    k, count = packer.content(m), len(past.at)
    places = np.concatenate([np.zeros((1, 3), np.int32), 1 + packer.positions(m), np.full((1, 3), 2)])
    inside = np.arange(k) + 2 if model.documents.causal else np.full(k, k + 1)
    stops = np.concatenate([[1], inside, [k + 2]])
    ids = np.concatenate([[words.begin(m)], np.full(k, -1), [words.end(m)]])
    kept = k + 2 if ended else k + 1
    stop = past.at[:, None] + stops[:kept]
    first = jnp.broadcast_to(past.at[:, None] if alone else jnp.zeros((count, 1), jnp.int32), stop.shape)
    positions = past.position[:, None, None] + places[:kept]
    return jnp.broadcast_to(ids[:kept], (count, kept)), positions, jnp.stack([first, stop], axis=-1)


def _give_span(model: Any, params: Params, past: Past, m: int, x0: Array) -> tuple[Float[Array, "b v"], Past]:
    """(next-token logits, the sequences) after a clean span."""
    stream = model.stream(m)
    one = jnp.ones((len(x0), 1), jnp.int32)
    seen, at = shown_clean(stream.process, x0)
    span = Spans(stream.form, seen[:, None], one, one)
    block = _span_block(model, past, m, alone=False, ended=True)
    logits, _, cache = _forward(model, params, past, *block, span, jnp.full(len(x0), at))
    return logits[:, -1], Past(cache, past.at + stream.form.tokens + 2, past.position + 3)


def _denoise(model: Any, params: Params, past: Past, m: int, keys: Keys, plan: SamplingPlan) -> Float[Array, "b ..."]:
    """A span where it is denoised: in model space, or latents."""
    stream = model.stream(m)
    process, grid = plan.prepare(stream.process)

    def denoiser(alone: bool) -> Denoiser:
        block = _span_block(model, past, m, alone, ended=False)

        def denoise(x_t: Array, t: Array) -> Prediction:
            output = _span_output(model, params, past, m, process, block, x_t, t)
            return process.predict(output, x_t, t)

        return denoise

    denoise = classifier_free(denoiser(False), denoiser(True), process, plan.guidance)
    if plan.clip:
        denoise = clip_x0(denoise, process)
    noise = normal_like(keys, START, jnp.zeros((len(keys), *stream.shape)))
    x = process.start(noise, jnp.full(len(keys), grid[0]))
    return plan.run(denoise, process, x, grid, keys)


def _span_output(
    model: Any, params: Params, past: Past, m: int, process: Process, block: tuple[Array, Array, Array], x_t: Array,
    t: Array,
) -> Array:  # fmt: skip
    form, one = model.stream(m).form, jnp.ones((len(x_t), 1), jnp.int32)
    span = Spans(form, process.network_input(x_t, t)[:, None], one, one)
    _, outputs, _ = _forward(model, params, past, *block, span, process.network_time(t))
    return outputs[form.name][:, 0]


def _write_text(
    model: Any, params: Params, past: Past, m: int, keys: Keys, plan: SamplingPlan
) -> tuple[Int[Array, "b k"], Float[Array, "b v"], Past]:
    """(ids of a text or label, next-token logits, the sequences after it and its end token)."""
    words, count, first = model.vocabulary, len(keys), model.vocabulary.first[m]
    allowed = np.zeros(words.size, bool)
    allowed[first : first + words.sizes[m]] = True
    # A label has exactly one token, so it cannot end before it.
    allowed[words.end(m)] = model.modalities[m].length > 1
    logits, past = _read(model, params, past, jnp.full((count, 1), words.begin(m)))

    def step(carry: tuple[Past, Array, Array], i: Array) -> tuple[tuple[Past, Array, Array], Array]:
        past, logits, going = carry
        own = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        chosen = choose_token(jnp.where(allowed, logits, -jnp.inf), own, plan.temperature, plan.top_p)
        going = going & (chosen != words.end(m))
        kept = jnp.where(going, chosen, -1)
        logits, past = _read(model, params, past, kept[:, None], going.astype(jnp.int32))
        return (past, logits[:, 0], going), jnp.where(going, chosen - first, -1)

    start = (past, logits[:, -1], jnp.ones(count, bool))
    (past, _, _), ids = jax.lax.scan(step, start, jnp.arange(model.modalities[m].length))
    logits, past = _read(model, params, past, jnp.full((count, 1), words.end(m)))
    return ids.T, logits[:, -1], past


def choose_token(logits: Float[Array, "b v"], keys: Keys, temperature: float, top_p: float) -> Int[Array, "b"]:
    """Greedy at temperature 0; else nucleus sampling with `top_p`."""
    if temperature == 0:
        return jnp.argmax(logits, axis=-1)
    logits = logits / temperature
    if top_p < 1:
        falling = jnp.sort(jax.nn.softmax(logits), axis=-1)[:, ::-1]
        before = jnp.cumsum(falling, axis=-1) - falling
        least = jnp.min(jnp.where(before < top_p, falling, jnp.inf), axis=-1)
        logits = jnp.where(jax.nn.softmax(logits) >= least[:, None], logits, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys, logits)
