"""The network call as it was before `NoisyInput`: DiT and Diffusion, unchanged; the present ones equal them bitwise."""

from dataclasses import dataclass, field
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unified_jax.config import Open
from unified_jax.errors import UserError
from unified_jax.kernels.choice import Attention, check_attention
from unified_jax.kernels.inputs import Modulation, Visible
from unified_jax.kernels.xla import pick_rows
from unified_jax.layers.attention import AttentionHalf, CrossAttentionHalf
from unified_jax.layers.embeddings import LabelEmbedding, TimeEmbedding, sincos_positions
from unified_jax.layers.init import zeros
from unified_jax.layers.mlp import Dense, Mlp
from unified_jax.layers.modulation import AffineNorm, ModulationRows, modulated_norm
from unified_jax.layers.remat import Remat, computed_once, rematerialised
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.base import Terms
from unified_jax.precision import EXACT
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction, Process, diffuse
from unified_jax.samplers.guidance import classifier_free, clip_x0
from unified_jax.samplers.loop import START, Denoiser, normal_like
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import constrain, logical_axes, unbox
from unified_jax.typing import Batch, Keys, Params

Conditioning = Literal["adaln_zero", "adaln", "cross", "in_context"]

SIZES: dict[str, tuple[int, int, int]] = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
"""(depth, width, heads) of the published models."""


class Block(nn.Module):
    """One block."""

    conditioning: Conditioning
    heads: int
    mlp_ratio: float
    qk_norm: bool
    dtype: jnp.dtype
    attention: Attention

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], c: Float[Array, "b k d"], visible: Visible | None, capture: bool
    ) -> tuple[Float[Array, "b n d"], dict[str, Array]]:
        """(x, captured); c is one row an example (adaLN) or the tokens of the condition (cross)."""
        d = x.shape[-1]
        first, second = self._rows(c, d)
        half = AttentionHalf(
            self.heads, affine=first is None, qk_norm=self.qk_norm, dtype=self.dtype, attention=self.attention,
            name="attention",
        )  # fmt: skip
        x, captured = half(x, first, visible, None, capture)
        x = computed_once(x)
        if self.conditioning == "cross":
            x = CrossAttentionHalf(self.heads, dtype=self.dtype, attention=self.attention, name="cross")(x, c)
        h = AffineNorm(name="norm")(x) if second is None else modulated_norm(x, second.shift, second.scale)
        h = Mlp(int(d * self.mlp_ratio), self.dtype, name="mlp")(h)
        if second is not None and second.gate is not None:
            h = pick_rows(second.gate, None) * h
        return computed_once(constrain(x + h.astype(x.dtype), "batch", "length", "embed")), captured

    def _rows(self, c: Array, d: int) -> tuple[Modulation | None, Modulation | None]:
        """Modulation of the attention and of the MLP half."""
        if self.conditioning in ("cross", "in_context"):
            return None, None
        if self.conditioning == "adaln":
            shift1, scale1, shift2, scale2 = ModulationRows(4, d, name="modulation")(c)
            return Modulation(shift1, scale1), Modulation(shift2, scale2)
        shift1, scale1, gate1, shift2, scale2, gate2 = ModulationRows(6, d, name="modulation")(c)
        return Modulation(shift1, scale1, gate1), Modulation(shift2, scale2, gate2)


class DiT(nn.Module):
    """A diffusion transformer over one sequence of tokens."""

    depth: int = 12
    """Number of blocks."""
    width: int = 384
    """Features of the residual stream."""
    heads: int = 6
    """Attention heads; divides width."""
    mlp_ratio: float = 4.0
    """Hidden features of the MLP over width."""
    conditioning: Conditioning = "adaln_zero"
    """How time and labels enter: 'adaln_zero', 'adaln', 'cross' or 'in_context'."""
    qk_norm: bool = False
    """RMS norm of queries and keys."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters, norms, softmax and modulation stay float32."""
    label_std: float = 0.02
    """Standard deviation of the label tables at the start; the paper's 0.02 learns a few labels slowly."""
    frequency_shift: float = 0.0
    """Time frequencies are 10000^(-i / (128 - frequency_shift)); models trained in diffusers' class have 1."""
    attention: Attention = "auto"
    """Implementation of attention."""
    remat: Remat = "dots"
    """What the backward pass keeps of a block (`layers.remat`)."""
    unroll: int = 1
    """Blocks per step of the scan; more compile longer and may run faster."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"DiT.width {self.width} is not divisible by its {self.heads} heads.")
        if self.width % 4:
            raise ValueError(f"DiT.width {self.width} must be divisible by 4 (sin-cos positions of two axes).")
        if self.depth < 1:
            raise ValueError(f"DiT.depth must be at least 1, found {self.depth}.")
        if self.unroll < 1:
            raise ValueError(f"DiT.unroll must be at least 1, found {self.unroll}.")
        check_attention(self.attention)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n p"],
        positions: Int[Array, "n a"],
        t: Float[Array, "b"],
        labels: Int[Array, "b l"],
        visible: Visible | None = None,
        *,
        label_rows: tuple[int, ...],
        out_features: int,
        capture: bool = False,
    ) -> tuple[Float[Array, "b n q"], dict[str, Array]]:
        """Tokens to tokens.

        tokens      patches of x_t
        positions   integer positions, the same for every example (rows then columns for an image)
        t           `Process.network_time`
        labels      one column a label, in 0 .. label_rows[i] - 1, the last row being null
        label_rows  rows of each label's table
        Returns (output float32 `[b, n, out_features]`, captured): with `capture`, captured["attention"] is
        `[layers, b, h, n, n]`.
        """
        dtype = jnp.dtype(self.dtype)
        parts = [TimeEmbedding(self.width, self.frequency_shift, name="time")(t)]
        for i, rows in enumerate(label_rows):
            parts.append(LabelEmbedding(rows, self.width, self.label_std, name=f"label_{i}")(labels[:, i]))
        one_row = self.conditioning in ("adaln_zero", "adaln")
        tokens_of_c = jnp.stack(parts, axis=1)
        c = jnp.sum(tokens_of_c, axis=1, keepdims=True) if one_row else tokens_of_c
        x = Dense(self.width, ("patch", "embed"), dtype=dtype, name="patch")(tokens)
        x = x + sincos_positions(positions, self.width).astype(dtype)
        if self.conditioning == "in_context":
            if visible is not None:
                raise ValueError("DiT with in_context conditioning has one run for all tokens: visible must be None.")
            x = jnp.concatenate([x, c.astype(dtype)], axis=1)
        x = constrain(x, "batch", "length", "embed")
        x, captured = self._blocks(x, c, visible, capture)
        x = x[:, : tokens.shape[1]]
        if one_row:
            shift, scale = ModulationRows(2, self.width, name="final_modulation")(c)
            h = modulated_norm(x, shift, scale)
        else:
            h = AffineNorm(name="final_norm")(x)
        out = Dense(out_features, ("embed", "patch"), zeros, name="final")(h)
        return out.astype(jnp.float32), captured

    def _blocks(self, x: Array, c: Array, visible: Visible | None, capture: bool) -> tuple[Array, dict[str, Array]]:
        block = rematerialised(Block, self.remat, static=(4,))
        broadcast: Any = (nn.broadcast,) * 3
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=broadcast,
            length=self.depth,
            unroll=min(self.unroll, self.depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        dtype = jnp.dtype(self.dtype)
        blocks = stack(
            self.conditioning, self.heads, self.mlp_ratio, self.qk_norm, dtype, self.attention, name="blocks"
        )
        return blocks(x, c, visible, capture)


def preset(size: Literal["S", "B", "L", "XL"], dtype: Literal["float32", "bfloat16"] = "float32") -> DiT:
    """A published size."""
    depth, width, heads = SIZES[size]
    return DiT(depth=depth, width=width, heads=heads, dtype=dtype)


NOISE, TIME, DROP_ALL, DROP_SOME, FLIP = range(5)
"""Purposes of a training draw."""


@dataclass(frozen=True)
class Diffusion:
    """A conditional diffusion model of one modality."""

    network: nn.Module = field(default_factory=DiT)
    """The backbone (DiT)."""
    process: Open[Process] = RectifiedFlow()
    """The noising process and what the network predicts."""
    modality: Image = Image()
    """What is generated."""
    conditions: tuple[Label, ...] = ()
    """Labels the model is conditioned on, each with a null row."""
    drop_all: float = 0.1
    """Probability of dropping all labels of an example in training."""
    drop_some: float = 0.0
    """Probability of leaving an example a random subset of its labels."""
    flip: bool = False
    """Flip examples left to right with probability one half."""
    time_bins: int = 10
    """Bins of the loss over time in the metrics."""

    def __post_init__(self) -> None:
        for name in ("drop_all", "drop_some"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"Diffusion.{name} is a probability, found {getattr(self, name)}.")
        names = [m.name for m in self.modalities]
        if len(set(names)) != len(names):
            raise ValueError(f"Diffusion needs distinct modality names, found {names}.")

    @property
    def modalities(self) -> tuple[Image | Label, ...]:
        """The denoised one and the labels."""
        return (self.modality, *self.conditions)

    @property
    def processes(self) -> tuple[Any, ...]:
        """The one process."""
        return (self.process,)

    @property
    def packer(self) -> None:
        """Examples are stacked, not packed."""
        return None

    @property
    def terms(self) -> tuple[str, ...]:
        """Those of the process."""
        *sizes, channels = self.modality.shape
        x = jax.ShapeDtypeStruct((1, *sizes, channels), jnp.float32)
        output = jax.ShapeDtypeStruct((1, *sizes, channels * self.process.channels_per_output), jnp.float32)
        t = jax.eval_shape(lambda: self.process.draw_times(jax.random.split(jax.random.key(0), 1)))
        return tuple(jax.eval_shape(self.process.losses, output, x, x, x, t))

    @property
    def usual_request(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(given, wanted) of previews: every label, the modality."""
        return tuple(c.name for c in self.conditions), (self.modality.name,)

    # ---- parameters -----------------------------------------------------------------------------------------------

    def _boxed(self, key: Array) -> Params:
        one = jnp.zeros((1, self.modality.tokens, self.modality.patch_features))
        labels = jnp.zeros((1, len(self.conditions)), jnp.int32)
        variables: Any = self.network.init(
            key, one, jnp.asarray(self.modality.positions()), jnp.zeros((1,)), labels,
            label_rows=self._label_rows, out_features=self._out_features,
        )  # fmt: skip
        return variables["params"]

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters."""
        return unbox(self._boxed(key))

    def axes(self) -> Params:
        """Logical axis names of every parameter."""
        return logical_axes(jax.eval_shape(self._boxed, jax.random.key(0)))

    @property
    def _label_rows(self) -> tuple[int, ...]:
        return tuple(label.classes + 1 for label in self.conditions)

    @property
    def _out_features(self) -> int:
        return self.modality.patch_features * self.process.channels_per_output

    def apply(self, params: Params, process: Process, x_t: Array, t: Array, labels: Int[Array, "b l"]) -> Array:
        """The raw network output `[b, h, w, c * channels_per_output]` for x_t at time t of `process`."""
        return self._run(params, process, x_t, t, labels, capture=False)[0]

    def capture(
        self, params: Params, process: Process, x_t: Array, t: Array, labels: Int[Array, "b l"]
    ) -> tuple[Array, Float[Array, "layers b h n n"]]:
        """(the output of `apply`, attention of every block; rows are queries)."""
        output, captured = self._run(params, process, x_t, t, labels, capture=True)
        return output, captured["attention"]

    def _run(
        self, params: Params, process: Process, x_t: Array, t: Array, labels: Array, capture: bool
    ) -> tuple[Array, dict[str, Array]]:
        tokens = constrain(self.modality.patches(process.network_input(x_t, t)), "batch", "length", "patch")
        found: Any = self.network.apply(
            {"params": params}, tokens, jnp.asarray(self.modality.positions()), process.network_time(t), labels,
            label_rows=self._label_rows, out_features=self._out_features, capture=capture,
        )  # fmt: skip
        return self.modality.unpatch(found[0]), found[1]

    # ---- training -------------------------------------------------------------------------------------------------

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """Loss terms an example; metrics hold the loss by bins of time (`loss_by_time`, sums and weights `[bins]`)."""
        x0 = self.modality.to_model(jnp.asarray(batch[self.modality.name]))
        slots = jax.vmap(lambda slot: jax.random.fold_in(key, slot))(batch["slot"])
        keys = [jax.vmap(lambda k, p=purpose: jax.random.fold_in(k, p))(slots) for purpose in range(5)]
        if self.flip:
            turned = jax.vmap(lambda k: jax.random.bernoulli(k))(keys[FLIP])
            x0 = jnp.where(turned[:, None, None, None], x0[:, :, ::-1], x0)
        labels = self._drop(self.pack_labels(batch, len(x0)), keys[DROP_ALL], keys[DROP_SOME])
        t = self.process.draw_times(keys[TIME])
        eps = jax.vmap(lambda k: jax.random.normal(k, x0.shape[1:]))(keys[NOISE])
        x_t = diffuse(self.process, x0, eps, t)
        output = self.apply(params, self.process, x_t, t, labels)
        terms = self.process.losses(output, x0, eps, x_t, t)
        ones = jnp.ones(len(x0))
        total = sum(terms.values())
        bins = jnp.clip((self.process.unit_time(t) * self.time_bins).astype(jnp.int32), 0, self.time_bins - 1)
        one_hot = jax.nn.one_hot(bins, self.time_bins)
        metrics = {"loss_by_time": (jnp.matmul(total, one_hot, precision=EXACT), one_hot.sum(0))}
        return {name: (value, ones) for name, value in terms.items()}, aux, metrics

    def pack_labels(self, given: dict[str, Any], count: int) -> Int[Array, "b l"]:
        """One column a condition; a condition that is not there is the null row."""
        columns = [given.get(c.name, jnp.full((count,), c.null)) for c in self.conditions]
        if not columns:
            return jnp.zeros((count, 0), jnp.int32)
        return jnp.stack([jnp.asarray(column, jnp.int32) for column in columns], axis=1)

    def _drop(self, labels: Int[Array, "b l"], keys_all: Keys, keys_some: Keys) -> Int[Array, "b l"]:
        if not self.conditions:
            return labels
        every = jax.vmap(lambda k: jax.random.bernoulli(k, self.drop_all))(keys_all)
        some: Bool[Array, "b l"] = jax.vmap(self._random_subset)(keys_some)
        null = jnp.asarray([c.null for c in self.conditions], jnp.int32)
        return jnp.where(every[:, None] | some, null, labels)

    def _random_subset(self, key: Array) -> Bool[Array, "l"]:
        """Which labels one example loses: each with the same probability u, u uniform, so that all sizes are equal."""
        chosen, share, each = jax.random.split(key, 3)
        dropped = jax.random.uniform(each, (len(self.conditions),)) < jax.random.uniform(share)
        return jax.random.bernoulli(chosen, self.drop_some) & dropped

    # ---- sampling -------------------------------------------------------------------------------------------------

    def denoiser(self, params: Params, process: Process, labels: Int[Array, "b l"]) -> Denoiser:
        """(x_t, t) -> Prediction for these labels."""

        def denoise(x_t: Array, t: Array) -> Prediction:
            return process.predict(self.apply(params, process, x_t, t, labels), x_t, t)

        return denoise

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Float[Array, "b h w c"]]:
        """{modality: samples in [-1, 1]}, one a key; labels that are not given are null."""
        if tuple(wanted) != (self.modality.name,):
            raise UserError(f"This model generates {self.modality.name!r} only; asked for {list(wanted)}.")
        unknown = sorted(set(given) - {c.name for c in self.conditions})
        if unknown:
            raise UserError(f"This model is conditioned on {[c.name for c in self.conditions]}; given {unknown}.")
        process, grid = plan.prepare(self.process)
        labels = self.pack_labels(given, len(keys))
        conditional = self.denoiser(params, process, labels)
        unconditional = self.denoiser(params, process, self.pack_labels({}, len(keys)))
        denoise = conditional
        if self.conditions:
            denoise = classifier_free(conditional, unconditional, process, plan.guidance)
        if plan.clip:
            denoise = clip_x0(denoise, process)
        noise = normal_like(keys, START, jnp.zeros((len(keys), *self.modality.shape)))
        noise = constrain(noise, "batch", None, None, "channels")
        x = process.start(noise, jnp.full(len(keys), grid[0]))
        return {self.modality.name: plan.run(denoise, process, x, grid, keys)}
