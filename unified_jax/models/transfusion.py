r"""Transfusion: one model of text and any set of continuous modalities (Zhou et al. 2024, arXiv 2408.11039).

A batch is rows of packed documents (`data.packing`). With V_i the next-token weight of token i and, for each noised
span j, a time t_j and the process of its modality m,

    loss = lambda_text sum_i V_i CE(logits_i, id_{i+1}) / sum_i V_i  +  sum_m lambda_m / count_m sum_j L_m(output_j,
    t_j)

(the lambdas are the experiment's balance; the paper has 5 for images). Every span has one time. A clean condition is a
span at t = 0 without loss: so the model learns to be conditioned on it. The optional z-loss, z log^2 of the softmax
denominator, keeps logits from drifting.

A stream may be denoised in the latent space of a frozen autoencoder (`Stream.latents`, as the paper's images): its span
has a token per patch of the latent, and samples are data.

Random numbers of the document in slot s: fold_in(fold_in(key of the step, s), 2 m) its time of modality m, 2 m + 1 its
noise; its latent has a key of its own.
"""

from dataclasses import dataclass, field
from typing import Any, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.data.packing import Documents, Packer
from unified_jax.data.vocabulary import Vocabulary, vocabulary_of
from unified_jax.errors import UserError
from unified_jax.modalities.label import Label
from unified_jax.modalities.text import Text
from unified_jax.models import decoding, free_running
from unified_jax.models.base import Declared, Terms
from unified_jax.models.document_checks import FREE, check_document_plan, check_documents
from unified_jax.models.stages import check_stages, own
from unified_jax.models.streams import Stream
from unified_jax.networks.transfusion import Captured, Spans, Tokens, Trunk
from unified_jax.processes.targets import diffuse, expand, shown_clean
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import logical_axes, unbox
from unified_jax.typing import Batch, Keys, Params

LATENT = 7201
"""Purpose of the latents' draws."""


@dataclass(frozen=True)
class Transfusion(Declared):
    """A Transfusion model of text and streams."""

    network: nn.Module = field(default_factory=Trunk)
    """The transformer."""
    text: Text = Text()
    """The text modality."""
    streams: tuple[Stream, ...] = (Stream(),)
    """Everything that is denoised."""
    length: int = 256
    """Tokens per packed row."""
    documents: Documents = Documents()
    """How a record becomes a document, and how many documents share a row."""
    written: tuple[Text | Label, ...] = ()
    """Further text and label modalities."""
    z_loss: float = 0.0
    """Weight of the z-loss (1e-4 is usual)."""
    time_bins: int = 10
    """Number of time bins of the loss in the metrics."""

    def __post_init__(self) -> None:
        check_documents(self)
        _ = self.packer, self.stages  # their checks

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The text, further texts and labels, then the streams' modalities."""
        return (self.text, *self.written, *(stream.modality for stream in self.streams))

    def stream(self, m: int) -> Stream:
        """The stream of modality m."""
        return self.streams[m - 1 - len(self.written)]

    @property
    def givable(self) -> tuple[str, ...]:
        """All modalities."""
        return tuple(m.name for m in self.modalities)

    @property
    def wantable(self) -> tuple[str, ...]:
        """All modalities."""
        return self.givable

    @property
    def processes(self) -> tuple[Any, ...]:
        """The streams' processes."""
        return tuple(stream.process for stream in self.streams)

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """As `Declared`; by default the streams given the text; with `("free",)` wanted the model chooses."""
        if not given and not wanted and not self.streams:
            return (), (self.text.name,)
        if not given and not wanted:
            return (self.text.name,), tuple(stream.modality.name for stream in self.streams)
        if wanted == (FREE,):
            left = [name for name in self.wantable if name not in given]
            return super().request(given, tuple(left[:1]))[0], ()  # its checks; what is made, the model chooses
        return super().request(given, wanted)

    def check_plan(self, plan: SamplingPlan) -> None:
        """See `ChecksPlan`."""
        check_document_plan(self, plan)

    def sampling(self, *_: Any) -> NoReturn:
        """Raises UserError: it writes texts too."""
        raise UserError("Transfusion has no single denoiser, as it writes texts too: use sample.")

    @property
    def packer(self) -> Packer:
        """How a step's records become its batch."""
        latents = tuple((s.modality.name, s.form) for s in self.streams if s.latents)
        return Packer(self.modalities, self.length, self.documents, latents)

    @property
    def stages(self) -> tuple[Any, ...]:
        """The autoencoders of streams that are denoised as latents."""
        return check_stages(tuple(s.latents.stage for s in self.streams if s.latents), "Transfusion")

    @property
    def vocabulary(self) -> Vocabulary:
        """The token ids."""
        return vocabulary_of(self.modalities)

    # ---- parameters -----------------------------------------------------------------------------------------------

    def _boxed(self, key: Array) -> Params:
        row = self.packer.empty(1)
        tokens = Tokens(*(jnp.asarray(row[name]) for name in ("ids", "position", "visible", "item")))
        nowhere = jnp.full((1, 1), -1)
        spans = tuple(
            Spans(s.form, jnp.zeros((1, 1, *s.shape)), nowhere, jnp.zeros_like(nowhere)) for s in self.streams
        )
        times = jnp.zeros((1, 1 + len(self.modalities)))
        variables: Any = self.network.init(key, tokens, spans, times, vocabulary=self.vocabulary.size)
        return variables["params"]

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters."""
        return unbox(self._boxed(key))

    def axes(self) -> Params:
        """Logical axis names of every parameter."""
        return logical_axes(jax.eval_shape(self._boxed, jax.random.key(0)))

    def forward(
        self, params: Params, batch: Batch, shown: tuple[tuple[Array, Array], ...], capture: bool = False
    ) -> tuple[Array, dict[str, Array], Captured | None]:
        """(logits, outputs by stream, with `capture` the captured values) of packed rows.

        shown   for each stream the network inputs `[rows * places, *sizes, c]` and the network times `[rows * places]`
                of its span slots; a clean span has time 0, absent spans are ignored
        """
        rows, places = batch["slot"].shape
        count = len(self.modalities)
        # Row 0 of the time table belongs to text; document d of modality m has row 1 + d count + m.
        times, spans = [jnp.zeros((rows, places))] * (1 + len(self.written)), []
        for m, (stream, (seen, time)) in enumerate(zip(self.streams, shown, strict=True), start=1 + len(self.written)):
            times.append(time.reshape(rows, places))
            item = jnp.broadcast_to(1 + count * jnp.arange(places) + m, (rows, places))
            spans.append(Spans(stream.form, seen.reshape(rows, places, *seen.shape[1:]), batch["start"][:, :, m], item))
        table = jnp.stack(times, axis=-1).reshape(rows, places * count)
        table = jnp.concatenate([jnp.zeros((rows, 1)), table], axis=1)
        tokens = Tokens(batch["ids"], batch["position"], batch["visible"], batch["item"])
        found: Any = self.network.apply(
            {"params": own(params)}, tokens, tuple(spans), table, vocabulary=self.vocabulary.size, capture=capture
        )
        return found

    # ---- training -------------------------------------------------------------------------------------------------

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """Loss terms per row: 'text' and the streams' names; metrics count tokens and packing."""
        rows, places = batch["slot"].shape
        slots = jax.vmap(lambda slot: jax.random.fold_in(key, slot))(batch["slot"].reshape(-1))
        count = len(self.modalities)
        noised, shown = [], []  # m counts all modalities, texts and labels first, as in the packed batch
        for m, stream in enumerate(self.streams, start=1 + len(self.written)):
            x0, eps, t, x_t, clean = self._noised(params, stream, m, batch, slots)
            # A clean span is shown as such, not as x_t at t = 0: the model knows it as a condition.
            whole, at = shown_clean(stream.process, x0)
            time = jnp.where(clean, at, stream.process.network_time(t))
            seen = jnp.where(expand(clean, x0), whole, stream.process.network_input(x_t, t))
            shown.append((seen, time))
            noised.append((x0, eps, t, x_t, clean))
        logits, outputs, _ = self.forward(params, batch, tuple(shown))
        terms: Terms = {"text": next_token_loss(logits, batch["ids"], batch["text_weight"], self.z_loss)}
        metrics: Terms = {"tokens/used": (jnp.mean(batch["used"] / self.length), jnp.ones(()))}
        # Inverse of item = 1 + d count + m; begin, end and padding tokens have item 0.
        owner = jnp.where(batch["item"] > 0, (batch["item"] - 1) % count, -1)
        for m, modality in enumerate(self.modalities):
            metrics[f"tokens/{modality.name}"] = (jnp.mean(jnp.sum(owner == m, axis=1)), jnp.ones(()))
        metrics["documents/dropped"] = (jnp.sum(batch["dropped"]), jnp.asarray(rows * places, jnp.float32))
        for m, (stream, parts) in enumerate(zip(self.streams, noised, strict=True), start=1 + len(self.written)):
            name = stream.modality.name
            terms |= self._span_loss(stream, outputs[name], parts, batch["start"][:, :, m])
        return terms, {}, metrics

    def _noised(
        self, params: Params, stream: Stream, m: int, batch: Batch, slots: Keys
    ) -> tuple[Array, Array, Array, Array, Array]:
        """(x0, eps, t, x_t, clean) of a stream's span slots, `[rows * places, ...]`."""
        raw = batch[stream.modality.name]
        draws = jax.vmap(lambda k: jax.random.fold_in(jax.random.fold_in(k, LATENT), m))(slots)
        x0 = stream.to_space(params, raw.reshape((-1,) + raw.shape[2:]), draws)
        t = stream.process.draw_times(jax.vmap(lambda k: jax.random.fold_in(k, 2 * m))(slots))
        limit = batch["limit"][:, :, m].reshape(-1)
        t = (t * limit).astype(t.dtype)  # a span before a text is trained at low noise only (noise_limit)
        keys = jax.vmap(lambda k: jax.random.fold_in(k, 2 * m + 1))(slots)
        eps = jax.vmap(lambda k: jax.random.normal(k, x0.shape[1:]))(keys)
        return x0, eps, t, diffuse(stream.process, x0, eps, t), batch["clean"][:, :, m].reshape(-1)

    def _span_loss(self, stream: Stream, output: Array, parts: tuple[Array, ...], start: Array) -> Terms:
        """(sum, weight) per row of each term of the process over the noised spans."""
        x0, eps, t, x_t, clean = parts
        output = output.reshape((-1,) + output.shape[2:])
        weight = ((start.reshape(-1) >= 0) & ~clean).astype(jnp.float32)
        found: Terms = {}
        for name, value in stream.process.losses(output, x0, eps, x_t, t).items():
            label = stream.modality.name if name == "mse" else f"{stream.modality.name}_{name}"
            total = jnp.where(weight > 0, value, 0.0).reshape(start.shape)  # no loss of absent or clean spans
            found[label] = (jnp.sum(total, axis=1), jnp.sum(weight.reshape(start.shape), axis=1))
        return found

    # ---- sampling -------------------------------------------------------------------------------------------------

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """The wanted modalities, in order, given the conditions; texts as ids `[b, length]`, -1 after their end.

        With `wanted` empty the model chooses the modalities (`free_running`), whatever `plan.through` says, and `order`
        lists its choice. `given` holds prepared arrays, one row per sample. Raises UserError for an unknown modality.
        """
        self.request(tuple(given), tuple(wanted) or (FREE,))
        self.check_plan(plan)
        if not wanted:
            return free_running.run_freely(self, params, given, keys, plan)
        return decoding.generate(self, params, given, wanted, keys, plan)


def next_token_loss(
    logits: Float[Array, "b n v"], ids: Int[Array, "b n"], weight: Float[Array, "b n"], z_loss: float = 0.0
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """(sum, weight) per row of the cross-entropy of token i + 1 by the logits at token i, weighted by token i."""
    weight, target = weight[:, :-1], jnp.maximum(ids[:, 1:], 0)
    total = jax.nn.logsumexp(logits[:, :-1], axis=-1)
    chosen = jnp.take_along_axis(logits[:, :-1], target[..., None], axis=-1)[..., 0]
    loss = total - chosen + z_loss * total**2
    return jnp.sum(loss * weight, axis=1), jnp.sum(weight, axis=1)
