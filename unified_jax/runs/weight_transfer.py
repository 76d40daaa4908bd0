r"""Transfer of parameters from one model to a similar one.

A parameter of the new model is copied from the same path of the old one. If the old model lacks the path, or
`Tuning.fresh` names it, it keeps its initial value. With `Tuning.like` a modality that the old model lacks starts from
another one's, and a network that is built around another one (a ControlNet) names where its parameters were
(`layers.form.Grafted`), and gives them back to that one alone. Axes over a vocabulary are matched by the meaning of ids
(`data.vocabulary.token_names`), so that a model with further modalities keeps its texts. Tables over the places of a
grid are resampled where the grid is another one (an image of another resolution). Other differences in shape are
errors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from unified_jax.data.vocabulary import token_names
from unified_jax.errors import UserError
from unified_jax.interop.names import flatten, unflatten
from unified_jax.layers.form import Grafted, Positioned
from unified_jax.layers.resampling import resample
from unified_jax.models.tuned import Tuning, matches
from unified_jax.precision import seed_key
from unified_jax.typing import Params


@dataclass(frozen=True)
class Taken:
    """The source of a parameter."""

    path: str
    """Path in the old model."""
    axis: int = 0
    """Axis of the vocabulary."""
    rows: tuple[int, ...] | None = None
    """The old id of each new one, -1 for a new id; None: the full parameter."""
    grids: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Of a table over the places of a grid: the old and the new grid, where they differ."""

    @property
    def whole(self) -> bool:
        """Whether all of it is copied, or resampled."""
        return self.rows is None or min(self.rows) >= 0


@dataclass(frozen=True)
class Graft:
    """The transfer of all parameters."""

    taken: dict[str, Taken]
    fresh: tuple[str, ...]
    """Paths that are missing in the old model, or initialised anew."""
    left: tuple[str, ...]
    """Paths of the old model that are not used."""

    def apply(self, old: Params, new: Params) -> Params:
        """The new model's parameters."""
        source, target = flatten(old), flatten(new)
        for path, where in self.taken.items():
            value = source[where.path]
            if where.grids is not None:
                value = resampled(value, *where.grids)
            if where.rows is not None:
                rows = np.asarray(where.rows)
                shape = [1] * value.ndim
                shape[where.axis] = len(rows)
                moved = jnp.take(value, np.maximum(rows, 0), axis=where.axis)
                value = jnp.where((rows >= 0).reshape(shape), moved, target[path])
            target[path] = value
        return unflatten(target)

    def tell(self) -> str:
        """A summary sentence."""
        partly = sorted(path for path, where in self.taken.items() if not where.whole)
        said = f"{len(self.taken)} parameters are taken"
        said += f", of {', '.join(partly)} the rows that were there" if partly else ""
        moved = sorted(path for path, where in self.taken.items() if where.grids)
        said += f"; resampled: {', '.join(moved)}" if moved else ""
        said += f"; fresh: {', '.join(self.fresh)}" if self.fresh else ""
        return said + (f"; not used: {', '.join(self.left)}." if self.left else ".")


def plan_graft(old: Any, new: Any, tuning: Tuning) -> Graft:
    """How the parameters of the model `new` start from those of `old`.

    Raises UserError listing parameters of the same name and another shape, and if nothing can be copied.
    """
    key = seed_key(0)
    theirs, ours = flatten(jax.eval_shape(old.init, key)), flatten(jax.eval_shape(new.init, key))
    axes = flatten(new.axes())
    ids = _matching_ids(old, new, tuning)
    before, after, inner = position_grids(old), position_grids(new), _inner_names(old, theirs)
    taken, fresh, wrong = {}, [], []
    for path, shape in ours.items():
        source = path if path in theirs else _renamed(path, new, tuning)
        source = source if source in theirs else inner.get(source, source)
        if matches(tuning.fresh, path) or source not in theirs:
            fresh.append(path)
        elif ids is not None and "vocab" in axes[path]:
            axis = axes[path].index("vocab")
            taken[path] = Taken(source, axis, ids)
            sizes = [tuple(np.delete(s.shape, axis)) for s in (theirs[source], shape)]
            wrong += [] if sizes[0] == sizes[1] else [_differ(path, theirs[source].shape, shape.shape)]
        else:
            was, now = before.get(source), after.get(path)
            moves = (was, now) if was and now and was != now else None
            taken[path] = Taken(source, grids=moves)
            sizes = [np.delete(s.shape, -2) if moves else np.asarray(s.shape) for s in (theirs[source], shape)]
            same = np.array_equal(sizes[0], sizes[1])
            wrong += [] if same else [_differ(path, theirs[source].shape, shape.shape)]
    if wrong or not taken:
        what = f"these differ: {'; '.join(wrong)}" if wrong else "no parameter has the same name"
        raise UserError(
            f"--init-from: the run's model is not this one; {what}. Make the models alike, or name what starts anew "
            "with --tuning.fresh."
        )
    left = set(theirs) - {where.path for where in taken.values()}
    return Graft(taken, tuple(sorted(fresh)), tuple(sorted(left)))


def position_grids(model: Any) -> dict[str, tuple[int, int]]:
    """The tables of a model of streams over the places of a grid; {} of any other."""
    network: Any = getattr(model, "network", None)
    forms = tuple(stream.form for stream in getattr(model, "streams", ()))
    return network.position_grids(forms) if forms and isinstance(network, Positioned) else {}


def resampled(table: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """A table `[..., rows * columns + others, d]` over another grid, linearly; the other rows are kept."""
    places = old[0] * old[1]
    grid = table[..., :places, :].reshape(*table.shape[:-2], *old, table.shape[-1])
    moved = resample(grid, new, "linear").reshape(*table.shape[:-2], -1, table.shape[-1])
    return jnp.concatenate([moved.astype(table.dtype), table[..., places:, :]], axis=-2)


def _inner_names(old: Any, theirs: Iterable[str]) -> dict[str, str]:
    """{path in the network that the old one is built around: its path in the old one, the first of several}."""
    network: Any = getattr(old, "network", None)
    if not isinstance(network, Grafted):
        return {}
    return {network.begins_as(path): path for path in reversed(tuple(theirs))}


def _differ(path: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return f"{path} found {list(found)} expected {list(expected)}"


def _renamed(path: str, new: Any, tuning: Tuning) -> str:
    """The path of the network, or of the modality, from which this one starts."""
    network: Any = getattr(new, "network", None)
    path = network.begins_as(path) if isinstance(network, Grafted) else path
    first, slash, rest = path.partition("/")
    for new, old in tuning.like:
        if first.startswith(f"{new}_"):
            return old + first.removeprefix(new) + slash + rest
    return path


def _matching_ids(old: Any, new: Any, tuning: Tuning) -> tuple[int, ...] | None:
    """The old id of each new one; None for models without a vocabulary, or with the same."""
    if any(one.packer is None or getattr(one.packer, "mixed", False) for one in (old, new)):
        return None
    place = {name: i for i, name in enumerate(token_names(old.modalities))}
    alike = dict(tuning.like)
    names = token_names(new.modalities)
    ids = tuple(place.get(name, place.get((name[0], alike.get(name[1])), -1)) for name in names)
    return None if ids == tuple(range(len(place))) else ids
