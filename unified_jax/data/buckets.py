r"""Aspect buckets: pictures of several proportions in one training, each batch of one size (`Image.buckets`).

A record goes to the size whose proportions are nearest: the least |log (h / w) - log (H / W)|. The batch of step k is a
function of (seed, k), without state: batch i of bucket j, which holds n_j of n records, is due at

    (i + u_j) n / n_j        u_j in [0, 1) from the seed

and batches are made in the order of these times (in integers; ties by bucket). So after any number of steps each bucket
has had its share to within a batch, however small it is, and batch i of a bucket takes places [i B, (i + 1) B) of its
own infinite shuffled list. Each size is compiled once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from unified_jax.data.base import Derived
from unified_jax.errors import UserError

UNIT = 1 << 16
"""Fractions of u_j."""


def bucketed(modalities: tuple[Any, ...]) -> Any:
    """The image that has buckets, or None. Raises UserError for other modalities that would have to follow its size."""
    found = [m for m in modalities if getattr(m, "buckets", ())]
    others = [m.name for m in modalities if hasattr(m, "width") and m not in found]
    if len(found) > 1 or (found and others):
        named = ", ".join([*(m.name for m in found[1:]), *others])
        raise UserError(f"Only one image has buckets, and nothing else follows its sizes; found also {named}.")
    return found[0] if found else None


def sized(modalities: tuple[Any, ...], image: Any, sizes: tuple[int, int]) -> tuple[Any, ...]:
    """The modalities with the image of another size, and its cut with it."""
    own = image.sized(*sizes)

    def view(one: Any) -> Any:
        follows = isinstance(one, Derived) and one.image == image
        changed: Any = one
        return own if one == image else replace(changed, image=own) if follows else one

    return tuple(view(one) for one in modalities)


def nearest(size: tuple[int, int], sizes: tuple[tuple[int, int], ...]) -> int:
    """Which of the sizes has the proportions nearest to a picture's (height, width)."""
    apart = [abs(math.log(size[0] / size[1]) - math.log(height / width)) for height, width in sizes]
    return apart.index(min(apart))


@dataclass(frozen=True, eq=False)
class Buckets:
    """The order of batches of records that are divided into buckets."""

    places: tuple[Int[np.ndarray, "_"], ...]
    """The records of each bucket; an empty one has no batch."""
    batch: int
    seed: int

    @cached_property
    def counts(self) -> list[int]:
        """Records of each bucket."""
        return [len(places) for places in self.places]

    @cached_property
    def _starts(self) -> list[int]:
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, UNIT], np.uint64)))
        return rng.integers(0, UNIT, len(self.places)).tolist()

    @cached_property
    def _shared(self) -> int:
        return math.lcm(*(count for count in self.counts if count))

    @cached_property
    def _orders(self) -> list[Any]:
        return [
            grain.MapDataset.range(len(places)).seed(self.seed + j).shuffle().repeat() if len(places) else None
            for j, places in enumerate(self.places)
        ]

    def turn(self, step: int) -> tuple[int, int]:
        """(bucket, how many batches it had before) of a step."""
        done = self.done(step)
        return self._next(done), done[self._next(done)]

    def done(self, steps: int) -> dict[int, int]:
        """Batches of each bucket in the first steps; empty buckets are left out."""
        live = [j for j, count in enumerate(self.counts) if count]
        past = max(0, steps - len(live))  # no more batches than steps are due before this time
        found = {j: self._due(j, past) for j in live}
        for _ in range(steps - sum(found.values())):
            found[self._next(found)] += 1
        return found

    def _next(self, done: dict[int, int]) -> int:
        return min(done, key=lambda j: (self._time(j, done[j]), j))

    def _due(self, j: int, time: int) -> int:
        """Batches i of a bucket with (i + u_j) n / n_j < time."""
        total = sum(self.counts)
        return max(0, -(-(time * self.counts[j] * UNIT - self._starts[j] * total) // (UNIT * total)))

    def _time(self, j: int, i: int) -> int:
        """(i + u_j) n / n_j in a unit that all buckets share."""
        return (i * UNIT + self._starts[j]) * (self._shared // self.counts[j])

    def records(self, step: int) -> tuple[int, Int[np.ndarray, "b"]]:
        """(the bucket of a step, the places of its batch's records)."""
        bucket, before = self.turn(step)
        order = self._orders[bucket]
        return bucket, self.places[bucket][[int(order[before * self.batch + slot]) for slot in range(self.batch)]]

    def shares(self, step: int, count: int) -> list[tuple[int, int]]:
        """(bucket, how many it had before) of each example of a step of `count`, of all buckets; `batch` is 1.

        A step has the share of every bucket to within an example (`data.packed_rows`).
        """
        done, found = self.done(step * count), []
        for _ in range(count):
            bucket = self._next(done)
            found.append((bucket, done[bucket]))
            done[bucket] += 1
        return found

    def mixed(self, step: int, count: int) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
        """(the buckets of such a step's examples, the places of their records)."""
        found = self.shares(step, count)
        places = [self.places[j][int(self._orders[j][i])] for j, i in found]
        return np.asarray([j for j, _ in found], np.int64), np.asarray(places, np.int64)

    def imbalance(self, steps: int = 0) -> float:
        """Share of the examples of these steps that are too many or too few; 0: of an epoch.

        Each record should be seen as often as any other.
        """
        total = sum(self.counts)
        steps = steps or max(1, round(total / self.batch))
        return sum(abs(n - self.counts[j] * steps / total) for j, n in self.done(steps).items()) / steps


def divide(
    sizes: Callable[[int], tuple[int, int]], count: int, image: Any, choose: Callable[[Any, Any], int] = nearest
) -> tuple[Int[np.ndarray, "_"], ...]:
    """The records of each bucket, of `count` whose (height, width) a function says."""
    bucket = np.asarray([choose(sizes(i), image.sizes) for i in range(count)], np.int64)
    return tuple(np.flatnonzero(bucket == j) for j in range(len(image.sizes)))
