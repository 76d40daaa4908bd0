r"""Fine-tuning: which parameters of a model are trained, and how; the rest is frozen.

With theta the initial parameters of a run and p the path of one of them,

    theta'_p = own_p                                  where `train` matches p
             = theta_p + alpha / rank * A_p B_p       where `lora` matches p and p is a kernel
             = theta_p                                elsewhere

(LoRA: Hu et al. 2021, arXiv 2106.09685). A kernel is a matrix from its input axes to its output axes: A is
[layers, inputs.., rank] and normal with variance 1 / inputs, B is [layers, rank, outputs..] and zero, so that training
starts at theta. The trained tree is {"own": ..., "lora": ...}. {"base": ...}, all of theta except `own`, is frozen: it
has no gradient, no moments and no EMA.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from unified_jax.errors import UserError
from unified_jax.interop.names import flatten, unflatten
from unified_jax.models.around import Around
from unified_jax.models.base import Model, Terms
from unified_jax.models.stages import beside
from unified_jax.precision import EXACT, seed_key
from unified_jax.samplers.plan import SamplingPlan
from unified_jax.typing import Batch, Keys, Params

EVERYTHING = ".*"
ONE_INPUT = ("qkv_kernel", "q_kernel", "kv_kernel")
"""Kernels with several output axes: the first axis is the input."""


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning. Patterns are regular expressions, searched in paths such as "blocks/mlp/fc1/kernel"."""

    train: tuple[str, ...] = (EVERYTHING,)
    """Parameters to train in full; default: all."""
    lora: tuple[str, ...] = ()
    """Kernels that get a low-rank update (LoRA), among those not trained in full."""
    rank: int = 8
    """Rank of the low-rank updates."""
    alpha: float = 8.0
    """Scale of the low-rank updates: they are multiplied by alpha / rank."""
    fresh: tuple[str, ...] = ()
    """Parameters to initialise anew instead of copying them from the other run."""
    like: tuple[tuple[str, str], ...] = ()
    """Pairs (new, old) of modalities: the new one starts from the old one's parameters."""

    def __post_init__(self) -> None:
        for pattern in (*self.train, *self.lora, *self.fresh):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"Tuning: {pattern!r} is not a regular expression: {error}.") from error
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"Tuning needs rank >= 1 and alpha > 0, found {self.rank} and {self.alpha}.")
        if not self.train and not self.lora:
            raise ValueError("Tuning trains nothing: name parameters in train, or kernels in lora.")
        if self.full and self.lora:
            raise ValueError(
                f"Tuning.train = ({EVERYTHING!r},) leaves no kernels for lora; name fewer, or () for LoRA only."
            )

    @property
    def full(self) -> bool:
        """Whether all parameters are trained in full."""
        return EVERYTHING in self.train


def matches(patterns: tuple[str, ...], path: str) -> bool:
    """Whether any of the patterns is found in the path."""
    return any(re.search(pattern, path) for pattern in patterns)


@dataclass(frozen=True)
class Tuned(Around):
    """A partly trained model; its parameters are those of the module docstring."""

    model: Any
    """The full model (`Model`)."""
    tuning: Tuning

    # ---- shared with the full model ----------------------------------------------------------------------

    @property
    def stages(self) -> tuple[Any, ...]:
        """See `Model`."""
        return self.model.stages

    @property
    def players(self) -> tuple[Any, ...]:
        """(): a tuned model has a single loss."""
        return ()

    @property
    def bits(self) -> Any:
        """None: use the full model."""
        return None

    @property
    def packer(self) -> Any:
        """See `Model`."""
        return self.model.packer

    def request(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See `Model`."""
        return self.model.request(given, wanted)

    def init_aux(self, params: Params) -> Any:
        """The model's. The base is unknown here: a run replaces this by what it starts from (`runs.start`)."""
        whole = flatten(self.model.init(seed_key(0))) | flatten(params["own"])
        return self.model.init_aux(unflatten(whole))

    def settle_aux(self, aux: Any, statistics: Any) -> Any:
        """See `Model`."""
        return self.model.settle_aux(aux, statistics)

    @property
    def terms(self) -> tuple[str, ...]:
        """See `Model`."""
        return self.model.terms

    def losses(self, params: Params, aux: Any, batch: Batch, key: Array) -> tuple[Terms, Any, Terms]:
        """See `Model`; the parameters are {"base", "own", "lora"}."""
        return self.model.losses(self.compose(params), aux, batch, key)

    def generate(
        self, params: Params, given: dict[str, Array], wanted: tuple[str, ...], keys: Keys, plan: SamplingPlan
    ) -> dict[str, Array]:
        """See `Model`; the parameters are {"base", "own", "lora"}."""
        return self.model.generate(self.compose(params), given, wanted, keys, plan)

    # ---- parameters -----------------------------------------------------------------------------------------------

    def init(self, key: Array) -> Params:
        """Fresh {"own", "lora"}. Raises UserError for patterns that match nothing."""
        whole, axes = flatten(self.model.init(key)), flatten(self.model.axes())
        adapted = {}
        for i, path in enumerate(sorted(self._adapted(whole))):
            shape, kernel = whole[path].shape, _Kernel.of(path, axes[path])
            a = jax.random.normal(jax.random.fold_in(key, i), (*shape[: kernel.split], self.tuning.rank))
            adapted[f"{path}/a"] = a / math.sqrt(math.prod(shape[kernel.lead : kernel.split]))
            adapted[f"{path}/b"] = jnp.zeros((*shape[: kernel.lead], self.tuning.rank, *shape[kernel.split :]))
        return {"own": self.own(unflatten(whole)), "lora": unflatten(adapted)}

    def axes(self) -> Params:
        """Logical axis names of {"own", "lora"}."""
        whole = flatten(self.model.axes())
        adapted = {}
        for path in self._adapted(whole):
            names, kernel = whole[path], _Kernel.of(path, whole[path])
            adapted[f"{path}/a"] = (*names[: kernel.split], None)
            adapted[f"{path}/b"] = (*names[: kernel.lead], None, *names[kernel.split :])
        return {"own": self.own(unflatten(whole)), "lora": unflatten(adapted)}

    def own(self, whole: Params) -> Params:
        """The part of a tree like the parameters that is trained in full."""
        return unflatten({path: leaf for path, leaf in flatten(whole).items() if matches(self.tuning.train, path)})

    def frozen(self, whole: Params) -> Params:
        """{"base": the part that is not trained in full}."""
        rest = {path: leaf for path, leaf in flatten(whole).items() if not matches(self.tuning.train, path)}
        return {"base": unflatten(rest)}

    def compose(self, params: Params) -> Params:
        """The model's parameters of {"base", "own", "lora"}; what is beside them is handed on."""
        base, own, lora = (flatten(params[name]) for name in ("base", "own", "lora"))
        scale, axes = self.tuning.alpha / self.tuning.rank, flatten(self.model.axes())
        for path in sorted({name.rpartition("/")[0] for name in lora}):
            kernel = _Kernel.of(path, axes[path])
            update = jnp.einsum(kernel.product, lora[f"{path}/a"], lora[f"{path}/b"], precision=EXACT)
            base[path] = base[path] + scale * update.astype(base[path].dtype)
        return {**unflatten(base | own), **beside(params)}

    def _adapted(self, whole: dict[str, Any]) -> list[str]:
        """Paths of the kernels with a low-rank update. Raises UserError for patterns that match nothing."""
        rest = [path for path in whole if not matches(self.tuning.train, path)]
        kernels = [path for path in rest if path.endswith("kernel")]
        idle = [p for p in self.tuning.train if not any(re.search(p, path) for path in whole)]
        idle += [p for p in self.tuning.lora if not any(re.search(p, path) for path in kernels)]
        if any(p.removeprefix("^").startswith("stages/") for p in (*self.tuning.train, *self.tuning.lora)):
            raise UserError("--tuning trains the model, not its stages: leave patterns that begin with stages/ out.")
        if idle:
            raise UserError(f"--tuning: {', '.join(map(repr, idle))} match(es) nothing; there are {', '.join(whole)}.")
        return [path for path in kernels if matches(self.tuning.lora, path)]


@dataclass(frozen=True)
class _Kernel:
    """How the axes of a kernel divide: `lead` of stacked blocks, inputs up to `split`, outputs."""

    lead: int
    split: int
    rank: int

    @classmethod
    def of(cls, path: str, names: tuple[str | None, ...]) -> "_Kernel":
        """By the kernel's logical axes: stacked blocks have `layers` in front, wherever the stack is."""
        lead = int(names[0] == "layers")
        one = path.rpartition("/")[2] in ONE_INPUT
        return cls(lead, lead + 1 if one else len(names) - 1, len(names))

    @property
    def product(self) -> str:
        """A [lead, in.., r] B [lead, r, out..] for einsum."""
        letters = "abcdefgh"[: self.rank]
        a, b = letters[: self.split] + "z", letters[: self.lead] + "z" + letters[self.split :]
        return f"{a},{b}->{letters}"


def whole_model(model: Any) -> Model:
    """The model behind a tuned one, or itself."""
    return model.model if isinstance(model, Tuned) else model
