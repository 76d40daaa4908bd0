r"""Generative adversarial networks: a generator and a discriminator, two players of one step (`training.players`).

    generator        min_G E[ L_G(D(x), D(G(z))) ]
    discriminator    min_D E[ L_D(D(x), D(G(z'))) + gamma / 2 (|grad_x D(x)|^2 + |grad_x D(G(z'))|^2) ]

z and z' are drawn anew for each player, from the keys of the row's slot; the discriminator plays after the generator,
against its new weights. The penalties R1 and R2 are taken at every step (R3GAN: Huang et al. 2024), gamma by the step's
schedule. A sample is one pass of the generator: a plan's sampler and steps have no effect.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unified_jax.config import Open, check_finite, check_open
from unified_jax.errors import UserError
from unified_jax.modalities.base import Continuous
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.base import Declared, Player, Terms
from unified_jax.models.checks import check_names
from unified_jax.models.gan_losses import Adversarial, Relativistic, judged
from unified_jax.samplers.guidance import Guidance
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.sharding import constrain, logical_axes, unbox
from unified_jax.typing import Batch, Keys, Params

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
"""Names of the players, their parameters and their loss terms."""
PURPOSES = {GENERATOR: 0, DISCRIMINATOR: 1}
"""Purposes of the noise of each player's samples."""
SAMPLE = 2
"""Purpose of the noise when sampling."""


@dataclass(frozen=True)
class Cosine:
    """A value that goes from `first` to `last` along half a cosine over `steps` steps, and stays there."""

    first: float = 1.0
    """Value of the first step."""
    last: float = 1.0
    """Value after `steps` steps."""
    steps: int = 0
    """Steps; 0: `last` from the start."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.steps < 0:
            raise ValueError(f"Cosine.steps must not be negative, found {self.steps}.")

    @property
    def zero(self) -> bool:
        """Whether it is 0 at every step."""
        return self.last == 0 and (self.first == 0 or self.steps == 0)

    def at(self, step: Any) -> Any:
        """The value of a step."""
        if not self.steps:
            return self.last
        share = 0.5 * (1.0 + jnp.cos(math.pi * jnp.minimum(step / self.steps, 1.0)))
        return self.last + (self.first - self.last) * share


@runtime_checkable
class Maker(Protocol):
    """A generator: a Linen module. Implementations: `networks.r3gan`."""

    @property
    def latent(self) -> int:
        """Numbers of noise."""
        ...

    @property
    def classes(self) -> int:
        """Length of the condition vector; 0: unconditional."""
        ...

    def __call__(self, z: Array, c: Array | None = None) -> Array:
        """`[b, latent]` and `[b, classes]`, or None, to samples `[b, *sizes, c]` in model space."""
        ...


@runtime_checkable
class Judge(Protocol):
    """A discriminator: a Linen module that keeps samples apart (no batch statistics)."""

    @property
    def classes(self) -> int:
        """Length of the condition vector; 0: unconditional."""
        ...

    def __call__(self, x: Array, c: Array | None = None) -> Array:
        """`[b, *sizes, c]` in model space and `[b, classes]`, or None, to logits `[b, ...]`."""
        ...


@dataclass(frozen=True)
class Gan(Declared):
    """A generator and its discriminator, of one modality, unconditional or by class."""

    generator: Open[Maker]
    """The generator."""
    discriminator: Open[Judge]
    """The discriminator."""
    modality: Continuous = Image()
    """The generated modality."""
    label: Label | None = None
    """The class that both read; None: unconditional."""
    loss: Open[Adversarial] = Relativistic()
    """The players' losses (`models.gan_losses`)."""
    gamma: Cosine = Cosine()
    """Strength of the penalties, by the step."""
    r1: bool = True
    """Whether the gradient at data is penalised."""
    r2: bool = True
    """Whether the gradient at samples is penalised."""

    def __post_init__(self) -> None:
        check_open(self)
        classes = self.label.classes if self.label else 0
        for name in (GENERATOR, DISCRIMINATOR):
            found = getattr(self, name).classes
            if found != classes:
                raise ValueError(f"Gan.{name} reads {found} classes, and its label has {classes}; set both alike.")
        if self.modality.pads:
            raise ValueError(f"A discriminator would judge the padding of {self.modality.name!r}; use another fit.")
        check_names("A Gan's modality and label", [one.name for one in self.modalities])
        if self.gamma.first < 0 or self.gamma.last < 0:
            raise ValueError(f"Gan.gamma must not be negative, found {self.gamma}.")

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The modality, then the label."""
        return (self.modality, self.label) if self.label else (self.modality,)

    @property
    def wantable(self) -> tuple[str, ...]:
        """The modality."""
        return (self.modality.name,)

    @property
    def givable(self) -> tuple[str, ...]:
        """The label."""
        return (self.label.name,) if self.label else ()

    @property
    def penalties(self) -> tuple[str, ...]:
        """The penalties that are taken: r1, r2, both or none."""
        return tuple(n for n, on in (("r1", self.r1), ("r2", self.r2)) if on and not self.gamma.zero)

    @property
    def players(self) -> tuple[Player, ...]:
        """The generator, then the discriminator with the penalties."""
        return (
            Player(GENERATOR, (f"^{GENERATOR}/",), (GENERATOR,)),
            Player(DISCRIMINATOR, (f"^{DISCRIMINATOR}/",), (DISCRIMINATOR, *self.penalties)),
        )

    def _boxed(self, key: Array) -> Params:
        c = jnp.zeros((1, self.label.classes)) if self.label else None
        make, judge = jax.random.split(key)
        return {
            GENERATOR: self._initial(self.generator, make, jnp.zeros((1, self.generator.latent)), c),
            DISCRIMINATOR: self._initial(self.discriminator, judge, jnp.zeros((1, *self.modality.shape)), c),
        }

    def _initial(self, network: Any, key: Array, x: Array, c: Array | None) -> Any:
        found = network.init(key, x, c)
        if kinds := sorted(set(found) - {"params"}):
            raise UserError(
                f"{type(network).__name__} keeps {', '.join(kinds)} beside its parameters: a Gan's gradient penalties "
                "and its microbatches need networks that keep samples apart."
            )
        return found["params"]

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters of both networks."""
        return unbox(self._boxed(key))

    def axes(self) -> Any:
        """Logical axis names of every parameter."""
        return logical_axes(jax.eval_shape(self._boxed, jax.random.key(0)))

    def _vector(self, batch: Batch) -> Float[Array, "b k"] | None:
        """The condition of each row: one-hot, zeros for the null row."""
        return jax.nn.one_hot(batch[self.label.name], self.label.classes) if self.label else None

    def make(self, params: Params, keys: Keys, c: Float[Array, "b k"] | None) -> Float[Array, "b ..."]:
        """Samples in model space, one per key."""
        z = jax.vmap(lambda key: jax.random.normal(key, (self.generator.latent,)))(keys)
        network: Any = self.generator
        x = network.apply({"params": params[GENERATOR]}, constrain(z, "batch", None), c)
        if x.shape[1:] != self.modality.shape:
            raise UserError(
                f"The generator makes {list(x.shape[1:])}, and {self.modality.name!r} is {list(self.modality.shape)}."
            )
        return x

    def judge(self, params: Params, x: Float[Array, "b ..."], c: Float[Array, "b k"] | None) -> Float[Array, "b ..."]:
        """Logits of examples in model space."""
        network: Any = self.discriminator
        return network.apply({"params": params[DISCRIMINATOR]}, x, c)

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The terms of both players; metrics hold how far apart logits of data and of samples are (`margin`)."""
        slots = jax.vmap(lambda slot: jax.random.fold_in(key, slot))(batch["slot"])
        x, c = self.modality.to_model(jnp.asarray(batch[self.modality.name])), self._vector(batch)
        made = {name: self.make(params, _folded(slots, PURPOSES[name]), c) for name in PURPOSES}
        real, fake = self.judge(params, x, c), self.judge(params, made[GENERATOR], c)
        ones = jnp.ones(len(x))
        terms = {GENERATOR: (_each(self.loss.generator(real, fake)), ones)}
        metrics = {"margin": (jnp.sum(_each(real - fake)), jnp.asarray(float(len(x))))}
        examples = {"r1": x, "r2": jax.lax.stop_gradient(made[DISCRIMINATOR])}
        logits = {}
        for name, one in examples.items():
            if name not in self.penalties:
                logits[name] = self.judge(params, one, c)
                continue
            logits[name], squares = judged(lambda x: self.judge(params, x, c), one)
            terms[name] = 0.5 * self.gamma.at(batch["step"]) * squares, ones
        terms[DISCRIMINATOR] = _each(self.loss.discriminator(logits["r1"], logits["r2"])), ones
        return terms, {}, metrics

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Model`; a label must be given, as there is no unconditional generator beside one of classes."""
        plain = given or wanted
        given, wanted = super().request(given, wanted)
        if self.label and plain and self.label.name not in given:
            raise UserError(f"This generator makes samples of a class: give {self.label.name!r}.")
        return given, wanted

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """One pass of the generator."""
        self.request(tuple(given), tuple(wanted))
        if plan.guidance != Guidance():
            raise UserError("A Gan samples in one pass, without guidance: leave it at 1.")
        return {self.modality.name: self.make(params, _folded(keys, SAMPLE), self._vector(given))}


def _folded(keys: Keys, purpose: int) -> Keys:
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)


def _each(values: Float[Array, "b ..."]) -> Float[Array, "b"]:
    """The mean of each row: of a discriminator with one logit per patch."""
    return jnp.mean(values.reshape(len(values), -1), axis=1)
