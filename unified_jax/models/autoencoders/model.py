r"""An autoencoder that is trained: a network between data and latents, and losses as values (Rombach et al. 2022).

    moments = encoder(x),   z ~ moments,   y = decoder(z)
    loss    = sum over the losses of w L(x, y, z, moments)                     `terms`

With an adversary there are two players: the autoencoder, then the discriminator (`adversary`,
`training.players`). A loss of weight 0 is left out: the run is that without it. The metric `loss/NAME` is
what is added, its weight within. A codebook of moving averages is kept in aux (`quantise`); it takes the place of the
network's table.

A finished run is the stage of a latent space: `uj.Latents(uj.stage("ae", RUN))` holds encoder and decoder, not the
losses' parameters. Sampling it reconstructs: it is given what it makes.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.config import Open, lacking
from unified_jax.errors import UserError
from unified_jax.interop.names import flatten, unflatten
from unified_jax.modalities.base import Continuous
from unified_jax.modalities.image import Image
from unified_jax.models.autoencoders.base import AutoencoderLoss, Outputs, Seen, kernel_at
from unified_jax.models.autoencoders.served import Served
from unified_jax.models.autoencoders.terms import Kl, Perceptual, Pixels, resized
from unified_jax.models.autoencoders.views import EqVae, transformed
from unified_jax.models.autoencoding import CODEBOOK, Autoencoding
from unified_jax.models.base import Declared, Player, Statistics, Terms
from unified_jax.models.checks import check_names
from unified_jax.models.stages import check_stages
from unified_jax.networks.autoencoders.quantise import EmaCodebook, perplexity
from unified_jax.precision import seed_key
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Batch, Keys, Params

DRAW, VIEW = 7101, 7102
"""Purposes of the latent of an example, and of the view of a batch."""
CODES = 7103
"""Seed of a codebook's first rows."""
AUTOENCODER = "autoencoder"
"""Name of the first player."""


def _quieter(params: Params, logvar: float) -> Params:
    """The parameters with a bias on log variances: the second half of the channels of the encoder's last layer."""
    flat = flatten(params)
    path = "quant_conv/bias" if "quant_conv/bias" in flat else "encoder/conv_out/bias"
    half = len(flat[path]) // 2
    return unflatten(flat | {path: flat[path].at[half:].add(logvar)})


@dataclass(frozen=True)
class Autoencoder(Served, Declared):
    """A trained autoencoder of one modality."""

    coder: Autoencoding
    """Network, shape, and scale and shift of the latents."""
    modality: Continuous = Image(256, 256)
    """What it encodes."""
    objective: Open[tuple[AutoencoderLoss, ...]] = (Pixels(), Perceptual(), Kl())
    """The losses."""
    codebook: EmaCodebook | None = None
    """A table that follows the vectors by moving averages, for a network with a table."""
    views: EqVae | None = None
    """Views of a batch in its place; None: the batch."""

    logvar: float = 0.0
    """Log variance that fresh Gaussians start from; -6 lets a short training see details behind less noise."""

    def __post_init__(self) -> None:
        shape, name = tuple(self.modality.shape), self.modality.name
        if shape != tuple(self.coder.shape) or name != self.coder.name:
            raise ValueError(
                f"Autoencoder: the modality {name!r} has the shape {list(shape)}, the coder encodes "
                f"{self.coder.name!r} of {list(self.coder.shape)}."
            )
        if self.modality.pads:
            raise ValueError(f"Autoencoder would encode the padding of {name!r}; use another fit.")
        for one in self.objective:
            if words := lacking(type(one), AutoencoderLoss):
                raise ValueError(f"{type(one).__name__} is no loss of an autoencoder: {words}.")
        for one in self.active:
            getattr(one, "check", lambda model: None)(self.coder)
        if self.views is not None:
            self.views.check(shape, self.coder.latent_shape())
        if self.logvar and self.coder.point:
            raise ValueError(f"Autoencoder.logvar is of Gaussians, and {type(self.coder.network).__name__} has none.")
        held, network = self.codebook, self.coder.network
        if held and (held.codes, held.width) != (getattr(network, "codes", 0), getattr(network, "width", 0)):
            raise ValueError(f"Autoencoder.codebook has {held.codes} x {held.width} numbers, the network's table not.")

    # ---- what it declares -----------------------------------------------------------------------------------------

    @functools.cached_property
    def active(self) -> tuple[Any, ...]:
        """The losses with a weight."""
        return tuple(one for one in self.objective if one.weight)

    def _said(self, name: str, default: Any = ()) -> list[Any]:
        return [found for one in self.active if (found := getattr(one, name, default))]

    @property
    def modalities(self) -> tuple[Any, ...]:
        """The one."""
        return (self.modality,)

    @property
    def stages(self) -> tuple[Any, ...]:
        """Those of the losses."""
        return check_stages(tuple(stage for found in self._said("stages") for stage in found), "Autoencoder")

    @property
    def players(self) -> tuple[Player, ...]:
        """The autoencoder and the players of its losses; () without any."""
        others = tuple(player for found in self._said("players") for player in found)
        theirs = {name for player in others for name in player.terms}
        if not others:
            return ()
        trains = "|".join(pattern.lstrip("^") for player in others for pattern in player.trains)
        return (Player(AUTOENCODER, (f"^(?!{trains})",), tuple(n for n in self.terms if n not in theirs)), *others)

    @property
    def opposed(self) -> tuple[str, ...]:
        """Terms of its losses against another player."""
        return tuple(name for found in self._said("opposed") for name in found)

    @property
    def whole_batch(self) -> str:
        """Why accumulation would change its numbers."""
        return next(iter(self._said("whole_batch", "")), "")

    @property
    def givable(self) -> tuple[str, ...]:
        """What it reconstructs."""
        return (self.modality.name,)

    @property
    def wantable(self) -> tuple[str, ...]:
        """The reconstruction."""
        return (self.modality.name,)

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Its modality, given and wanted."""
        if unknown := sorted({*given, *wanted} - set(self.wantable)):
            raise UserError(f"This autoencoder reconstructs {self.modality.name!r}; found {unknown[0]!r}.")
        return self.givable, self.wantable

    # ---- parameters -----------------------------------------------------------------------------------------------

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters: the network's, and those of losses that have some."""
        own = self.coder.init(key)
        own = {name: value for name, value in own.items() if self.codebook is None or name != "table"}
        own = _quieter(own, self.logvar) if self.logvar else own
        return own | {one.own: one.init(self.coder, jax.random.fold_in(key, i)) for i, one in self._owners()}

    def axes(self) -> Any:
        """Logical axis names of every parameter."""
        own = {n: v for n, v in self.coder.axes().items() if self.codebook is None or n != "table"}
        return own | {one.own: one.axes(self.coder) for _, one in self._owners()}

    def _owners(self) -> list[tuple[int, Any]]:
        return [(i, one) for i, one in enumerate(self.active, 1) if getattr(one, "own", "")]

    def init_aux(self, params: Params) -> Any:
        """The codebook's state."""
        if self.codebook is None:
            return {}
        return {CODEBOOK: self.codebook.init_aux(seed_key(CODES))}

    def settle_aux(self, aux: Any, statistics: Statistics) -> Any:
        """The codebook after a step."""
        return {CODEBOOK: self.codebook.settle_aux(aux[CODEBOOK], statistics[CODEBOOK])} if self.codebook else aux

    # ---- training -------------------------------------------------------------------------------------------------

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """The terms of every example, the codebook's sums, and metrics."""
        keys = jax.vmap(lambda slot: jax.random.fold_in(jax.random.fold_in(key, slot), DRAW))(batch["slot"])
        x = self.modality.to_model(jnp.asarray(batch[self.modality.name]))
        step = batch.get("step", jnp.zeros((), jnp.int32))

        def plain(turns: Array) -> Any:
            return self._losses(params, aux, x, keys, step)

        if self.views is None:
            return plain(step)
        views = [plain]
        for small in (False, True):
            for scale in self.views.scales:
                views.append(functools.partial(self._viewed, params, aux, x, keys, step, scale, small))
        branch, turns = self.views.draw(jax.random.fold_in(key, VIEW))
        return jax.lax.switch(branch, views, turns)

    def _viewed(
        self, params: Params, aux: Any, x: Array, keys: Keys, step: Array, scale: float, small: bool, turns: Array
    ) -> Any:
        if small:
            return self._losses(params, aux, resized(x, scale), keys, step)
        move = functools.partial(transformed, scale=scale, turns=turns)
        return self._losses(params, aux, x, keys, step, move)

    def _losses(self, params: Params, aux: Any, x: Array, keys: Keys, step: Array, move: Any = None) -> Any:
        params = {**params, "table": jax.lax.stop_gradient(aux[CODEBOOK].table)} if self.codebook else params
        watched = {at: kernel_at(params, at) for at in dict.fromkeys(p for ps in self._said("layers") for p in ps)}
        run = functools.partial(self._outputs, params, x, keys, move)
        # With adaptive weights the pass also gives the gradients of a few kernels; without, it is the plain one.
        out, pull = jax.vjp(run, watched) if watched else (run({}), None)
        seen = Seen(self.coder, params, x if move is None else move(x), out, step, self._main)
        seen = seen._replace(averages=self.codebook is not None)
        seen = seen if pull is None else seen._replace(pull=lambda slopes: pull(slopes)[0])
        terms, metrics = {}, {}
        for one in self.active:
            found = one.terms(seen)
            check_names("Loss terms", [*terms, *found])
            terms |= {name: (value, jnp.ones(len(x))) for name, value in found.items()}
            metrics |= {n: (value, jnp.ones(())) for n, value in getattr(one, "watch", lambda seen: {})(seen).items()}
        return terms, *self._codes(seen, metrics)

    def _outputs(self, params: Params, x: Array, keys: Keys, move: Any, watched: dict[str, Array]) -> Outputs:
        own = unflatten(flatten(self.coder.of_run(params)) | watched)
        moments = self.coder.moments(own, x)
        z = moments.draw(keys)
        z = z if move is None else move(z)
        network: Any = self.coder.network
        return Outputs(moments, z, network.apply({"params": own}, z, method="decode"))

    def _main(self, seen: Seen) -> Array:
        parts = [
            value for one in self.active if getattr(one, "reconstructs", False) for value in one.terms(seen).values()
        ]
        return jnp.mean(sum(parts, jnp.zeros(len(seen.x))))

    def _codes(self, seen: Seen, metrics: Terms) -> tuple[Statistics, Terms]:
        """(the codebook's sums, metrics with the use of its codes)."""
        if self.codebook is None:
            return {}, metrics
        z = seen.out.z
        sums = self.codebook.sums(z, seen.apply("quantise", z).ids)
        return {CODEBOOK: sums}, metrics | {"perplexity": (perplexity(sums.number), jnp.ones(()))}

    # ---- use ------------------------------------------------------------------------------------------------------

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """The reconstructions of what is given, from the means of their latents."""
        del keys, plan
        if not given:
            raise UserError(f"An autoencoder reconstructs: give it {self.modality.name!r}.")
        x = self.modality.to_model(jnp.asarray(given[self.modality.name]))
        return {self.modality.name: self.decode(params, self.normalised(self.moments(params, x).mean))}
