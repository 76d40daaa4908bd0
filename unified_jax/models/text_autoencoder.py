r"""Texts as latents: a frozen text encoder, few numbers of its tokens, and a decoder that writes the text again.

    z        encode_prefix(tokens of the encoder)                    `networks.prefix_decoder`
    loss     - mean over the text's tokens and its end of log p(token | z + sigma n, tokens before)
             sigma ~ U[0, noise] for each text,  n ~ N(0, 1)
    decode   the likeliest next token of (z - shift) * scale, until the end

UniDiffuser's caption decoder (Bao et al. 2023): CLIP's 77 tokens, 64 numbers each, GPT-2 behind them. The noise makes
the decoder read what a diffusion model draws. A finished run is the latent space of a text's stream:
`uj.Stream(text, latents=uj.Latents(uj.stage("text", RUN), patch=1))`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unified_jax.config import Open, lacking
from unified_jax.errors import UserError
from unified_jax.interop import prefix_decoder as published
from unified_jax.modalities.text import Text
from unified_jax.models.base import Declared, Terms
from unified_jax.models.boxed import Boxed, HoldsEncoder, Scaled
from unified_jax.models.feature_latents import Features
from unified_jax.models.stages import STAGES, Encoder, Published, Stage, check_stages, encode, own
from unified_jax.networks.prefix_decoder import PrefixDecoder, write_text
from unified_jax.precision import seed_key
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Batch, Keys, Params

DRAW = 7201
"""Purpose of the noise on an example's latent."""


@dataclass(frozen=True)
class TextCoding(HoldsEncoder, Scaled, Boxed):
    """Texts to latents and back: see `LatentModel`."""

    network: PrefixDecoder
    """From an encoder's tokens to latents, and from latents to texts."""
    encoder: Stage | None = None
    """The text encoder, whose tokens are read."""
    text: Open[Any] = Text(48)
    """The texts that are written, with their tokenizer (`Text`)."""
    scale: tuple[float, ...] = (1.0,)
    """Factor of the latents: one, or one for each number."""
    shift: tuple[float, ...] = (0.0,)
    """Taken from the latents before: one, or one for each number."""

    def __post_init__(self) -> None:
        if self.encoder is None or (words := lacking(type(self.encoder.model), Encoder)):
            raise ValueError(f"TextCoding needs an encoder: {'there is none' if self.encoder is None else words}.")
        self.check_scale(self.network.latents)
        if self.text.vocabulary > self.network.vocabulary:
            raise ValueError(
                f"TextCoding: the tokenizer has {self.text.vocabulary} ids, the network {self.network.vocabulary}; the "
                "last of the network's ends a text."
            )
        theirs: Any = self.encoder.model
        if getattr(getattr(theirs, "encoder", theirs), "text", self.text) != self.text:
            raise ValueError("TextCoding writes the texts of its encoder: give both the same Text.")
        total = self.latent_shape()[0] + self.text.length
        if total > self.network.length:
            raise ValueError(f"TextCoding needs {total} positions, the network has {self.network.length}.")

    # ---- parameters -----------------------------------------------------------------------------------------------

    def _boxed(self, key: Array) -> Params:
        f, m = self._tokens
        features, ids = jnp.zeros((1, m, f)), jnp.zeros((1, self.text.length), jnp.int32)
        variables: Any = self.network.init(key, features, jnp.ones(1, jnp.int32), ids)
        return variables["params"]

    @property
    def _tokens(self) -> tuple[int, int]:
        """(features, number) of the encoder's tokens."""
        stage: Any = self.encoder
        form = stage.model.condition_form("tokens")
        return form.features, form.length

    def of_run(self, params: Params) -> Params:
        """Its own of the parameters of a run that trained it, with the encoder's."""
        stage: Any = self.encoder
        held = {STAGES: {stage.name: params[STAGES][stage.name]}} if STAGES in params else {}
        return own(params) | held

    def finds(self, source: str) -> bool:
        """See `Published`: a file of UniDiffuser's caption decoder."""
        return published.finds(source)

    def read(self, source: str) -> Params:
        """See `Published`; the encoder's come from its own source, which must be published too."""
        stage: Any = self.encoder
        if not (isinstance(stage.model, Published) and stage.model.finds(stage.source)):
            raise UserError(
                f"The caption decoder {source!r} reads an encoder, and {stage.source!r} holds no published weights of "
                f"{type(stage.model).__name__}."
            )
        held = {STAGES: {stage.name: stage.model.read(stage.source)}}
        return {**published.read(Path(source), jax.eval_shape(self.init, seed_key(0))), **held}

    # ---- latents --------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a text: its token ids."""
        return (self.text.length,)

    def latent_shape(self) -> tuple[int, ...]:
        """The number of latents and of numbers in each."""
        return self.network.slots or self._tokens[1], self.network.latents

    def moments(self, params: Params, x: Int[Array, "b n"]) -> Features:
        """The latents of token ids (-1 behind a text), which are points."""
        return Features(self.latents(params, x), 0.0)

    def latents(self, params: Params, x: Int[Array, "b n"]) -> Float[Array, "b s k"]:
        """The same, before scale and shift, with the gradient of the network."""
        stage: Any = self.encoder
        found = encode(stage, params, x)
        made: Any = self.network.apply({"params": own(params)}, found.tokens, found.length, method="encode")
        return made

    def decode(self, params: Params, z: Float[Array, "b s k"]) -> Int[Array, "b n"]:
        """The likeliest tokens one after the other, -1 behind the end of each text."""
        return write_text(self.network, own(params), self.unscaled(z), self.text.length)


@dataclass(frozen=True)
class TextAutoencoder(Declared):
    """The training of a text's latents."""

    coder: TextCoding
    """Encoder, network and texts."""
    noise: float = 0.0
    """Largest sigma of the noise on a latent, in its numbers."""

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise ValueError(f"TextAutoencoder.noise must not be negative, found {self.noise}.")

    def serves(self) -> TextCoding:
        """The coder."""
        return self.coder

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The text."""
        return (self.coder.text,)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The encoder."""
        return check_stages(self.coder.stages, "TextAutoencoder")

    @property
    def givable(self) -> tuple[str, ...]:
        """What it writes again."""
        return (self.coder.text.name,)

    @property
    def wantable(self) -> tuple[str, ...]:
        """The text, written again."""
        return (self.coder.text.name,)

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Its text, given and wanted."""
        if unknown := sorted({*given, *wanted} - set(self.wantable)):
            raise UserError(f"This model writes {self.wantable[0]!r} again; found {unknown[0]!r}.")
        return self.givable, self.wantable

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters."""
        return self.coder.init(key)

    def axes(self) -> Any:
        """Logical axis names of every parameter."""
        return self.coder.axes()

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The cross-entropy of each text, a mean over its tokens and its end; metrics: the share that is right."""
        ids = jnp.asarray(batch[self.coder.text.name])
        keys = jax.vmap(lambda slot: jax.random.fold_in(jax.random.fold_in(key, slot), DRAW))(batch["slot"])
        z = Features(self.coder.latents(params, ids), self.noise).draw(keys)
        logits: Any = self.coder.network.apply({"params": own(params)}, z, ids, method="logits")
        length = jnp.sum(ids >= 0, axis=1)
        place = jnp.arange(ids.shape[1] + 1)
        target = jnp.pad(jnp.maximum(ids, 0), ((0, 0), (0, 1)))
        target = jnp.where(place == length[:, None], self.coder.network.vocabulary - 1, target)
        counts = (place <= length[:, None]).astype(jnp.float32)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
        right = (jnp.argmax(logits, axis=-1) == target) * counts
        each = jnp.sum(counts, axis=1)
        metrics = {"accuracy": (jnp.sum(right), jnp.sum(counts))}
        return {"text": (-jnp.sum(log_p * counts, axis=1) / each, jnp.ones(len(ids)))}, {}, metrics

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """The given texts as their latents say them."""
        del keys, plan
        name = self.coder.text.name
        if name not in given:
            raise UserError(f"A text autoencoder writes again what it reads: give it {name!r}.")
        z = self.coder.moments(params, jnp.asarray(given[name])).mean
        return {name: self.coder.decode(params, self.coder.normalised(z))}
