r"""One modality denoised by one network, conditioned on labels: DDPM, improved DDPM, rectified flow, DiT.

Training draws, for the example in slot s of step k, from `fold_in(fold_in(fold_in(seed, k), s), purpose)`: its time,
its noise, which labels are dropped and whether it is flipped. Nothing depends on the device or the row an example sits
in.

Labels are dropped in two ways. All at once with probability `drop_all`, which trains the unconditional model that
classifier-free guidance needs; with probability `drop_some` each with one probability, which is drawn for the example,
so that as often one label is dropped as two or all but one: any subset of them may then be given.
"""

from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unified_jax.config import Open
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.base import Terms
from unified_jax.networks.dit import DiT
from unified_jax.precision import EXACT
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.processes.targets import Prediction, Process, diffuse
from unified_jax.samplers.guidance import classifier_free, clip_x0
from unified_jax.samplers.loop import START, Denoiser, normal_like
from unified_jax.samplers.plan import Plan
from unified_jax.sharding import constrain, logical_axes, unbox
from unified_jax.typing import Batch, Keys, Params

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
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: Plan
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
