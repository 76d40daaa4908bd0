"""Logical axes, the one table that maps them to a mesh, and the mesh itself.

Parameters and activations name their axes from a closed list. `Rules` says, once for parameters and once for
activations, the mesh axes that shard a logical axis; a name that is not in the list, or two logical axes of one
array on the same mesh axis, is an error (Linen would silently replicate). Mesh axes: `data` (batch), `fsdp` (batch,
and parameters gathered layer by layer), `tensor` (heads, mlp, vocab), `sequence` (tokens).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unified_jax.errors import UserError

Logical = Literal[
    "batch", "length", "embed", "heads", "head_dim", "mlp", "vocab", "layers", "patch", "channels", "codebook"
]
LOGICAL: tuple[str, ...] = get_args(Logical)
MESH_AXES = ("data", "fsdp", "tensor", "sequence")

Table = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Rules:
    """Logical axis -> mesh axes, for parameters and for activations. Axes without an entry are replicated."""

    parameters: Table = (("embed", ("fsdp",)), ("heads", ("tensor",)), ("mlp", ("tensor",)), ("vocab", ("tensor",)))
    """Sharding of parameters (and their optimizer state and EMA)."""
    activations: Table = (
        ("batch", ("data", "fsdp")),
        ("length", ("sequence",)),
        ("heads", ("tensor",)),
        ("mlp", ("tensor",)),
        ("vocab", ("tensor",)),
    )
    """Sharding of activations."""

    def __post_init__(self) -> None:
        for name, axes in self.parameters + self.activations:
            check_names((name,))
            unknown = sorted(set(axes) - set(MESH_AXES))
            if unknown:
                raise ValueError(f"Rules: {name} maps to unknown mesh axes {unknown}; the mesh has {MESH_AXES}.")

    def parameter_spec(self, names: tuple[str | None, ...]) -> PartitionSpec:
        """The partition of a parameter with these logical axes. Raises ValueError on a collision."""
        return _spec(self.parameters, names)

    def activation_spec(self, names: tuple[str | None, ...]) -> PartitionSpec:
        """The partition of an activation with these logical axes. Raises ValueError on a collision."""
        return _spec(self.activations, names)

    @contextmanager
    def active(self, mesh: Mesh) -> Iterator[None]:
        """Within it `constrain` uses this mesh and these rules; trace jitted functions inside."""
        table = [(name, axes) for name, axes in self.activations]
        with jax.set_mesh(mesh), nn.logical_axis_rules(table):
            yield


def check_names(names: tuple[str | None, ...]) -> None:
    """Raises UserError for a logical axis that is not in the closed list."""
    for name in names:
        if name is not None and name not in LOGICAL:
            raise UserError(f"Unknown logical axis {name!r}; the axes are {', '.join(LOGICAL)}.")


def _spec(table: Table, names: tuple[str | None, ...]) -> PartitionSpec:
    check_names(names)
    found = [dict(table).get(name, ()) if name else () for name in names]
    flat = [axis for axes in found for axis in axes]
    if len(flat) != len(set(flat)):
        raise ValueError(f"Logical axes {names} collide: more than one is mapped to the same mesh axis ({found}).")
    return PartitionSpec(*(axes if axes else None for axes in found))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """x, sharded by its logical axes within `Rules.active`; unchanged outside, or within `shard_map`.

    Raises ValueError on an unknown name.
    """
    check_names(names)
    if len(names) != x.ndim:
        raise ValueError(f"constrain: an array of shape {x.shape} needs {x.ndim} axis names, found {names}.")
    if _within_a_device():
        return x
    return nn.with_logical_constraint(x, names)  # pyright: ignore[reportPrivateImportUsage]


def parts_of(name: str) -> int:
    """Number of shards of this axis of activations by the active rules and mesh; 1 without them."""
    check_names((name,))
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = dict(nn.get_logical_axis_rules()).get(name) or ()
    return math.prod(sizes.get(axis, 1) for axis in ((axes,) if isinstance(axes, str) else axes))


def per_device(run: Callable[..., Any], arguments: tuple[Any, ...], results: Any) -> Callable[..., Any]:
    """`run` on each device's shard of its arguments, for kernels, which the compiler cannot shard.

    `arguments` and `results` name the logical axes of every array, as trees of tuples of names. Without an active mesh
    of several devices, or already within `shard_map`, it is `run` itself. Arguments may be None. An axis that its
    devices do not divide (few samples on many devices) is not sharded.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or _within_a_device():
        return run
    rules: Any = nn.get_logical_axis_rules()

    def cut(*given: Any) -> Any:
        pairs = [pair for names, value in zip(arguments, given, strict=True) for pair in _named(names, value)]
        uneven = {n for names, x in pairs for n, size in zip(names, x.shape, strict=True) if n and size % parts_of(n)}
        table = tuple((name, tuple(axes)) for name, axes in rules if name not in uneven)

        def specs(names: Any) -> Any:
            return jax.tree.map(lambda n: _spec(table, n), names, is_leaf=_is_names)

        # Specs of the present arguments only: None has no spec.
        there = [_like(spec, value) for spec, value in zip(map(specs, arguments), given, strict=True)]
        return jax.shard_map(run, in_specs=tuple(there), out_specs=specs(results), check_vma=False)(*given)

    return cut


def _within_a_device() -> bool:
    """Whether this is traced for one device's shard (`shard_map`), where nothing is left to shard."""
    return any(kind == AxisType.Manual for kind in jax.sharding.get_abstract_mesh().axis_types)


def _is_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(name is None or isinstance(name, str) for name in value)


def _named(names: Any, value: Any) -> list[tuple[tuple[str | None, ...], Any]]:
    """(names, array) of every array of a tree; a value of None has none."""
    if value is None:
        return []
    if _is_names(names):
        return [(names, value)]
    return [pair for n, v in zip(names, value, strict=True) for pair in _named(n, v)]


def _like(spec: Any, value: Any) -> Any:
    if value is None or isinstance(spec, PartitionSpec):
        return None if value is None else spec
    return type(spec)(*(_like(s, v) for s, v in zip(spec, value, strict=True)))


@dataclass(frozen=True)
class MeshShape:
    """Devices along each mesh axis; one of them may be -1, which takes the rest."""

    data: int = -1
    """Data parallelism: replicas of the parameters, each with its part of the batch."""
    fsdp: int = 1
    """Fully sharded data parallelism: parts of the batch that also shard the parameters."""
    tensor: int = 1
    """Tensor parallelism: parts of heads and MLP."""
    sequence: int = 1
    """Sequence parallelism: parts of the tokens."""

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor, self.sequence)
        if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"MeshShape needs positive sizes, at most one of them -1; found {sizes}.")

    def resolve(self, devices: int) -> tuple[int, int, int, int]:
        """The four sizes for this many devices. Raises UserError if they do not multiply to it."""
        sizes = [self.data, self.fsdp, self.tensor, self.sequence]
        known = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and devices % known == 0:
            sizes[sizes.index(-1)] = devices // known
        if math.prod(sizes) != devices:
            asked = " x ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
            raise UserError(
                f"The mesh {asked} does not fit {devices} device(s); its sizes must multiply to {devices} "
                "(one of them may be -1)."
            )
        return sizes[0], sizes[1], sizes[2], sizes[3]


def make_mesh(shape: MeshShape, devices: list[Any] | None = None) -> Mesh:
    """The mesh over these devices (default: all), with automatic axis types."""
    devices = jax.devices() if devices is None else devices
    sizes = shape.resolve(len(devices))
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        return Mesh(_over_slices(sizes, slices, devices), MESH_AXES, axis_types=kinds)
    try:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=kinds, devices=devices)
    except NotImplementedError:  # a TPU's torus has no axes of these sizes: they are parts of its axes
        placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(placed, MESH_AXES, axis_types=kinds)


def _over_slices(sizes: tuple[int, ...], slices: int, devices: list[Any]) -> Any:
    """Devices of several slices: `data` runs over them where it can, so that slow links carry only gradients."""
    data, *inner = sizes
    if data % slices == 0:
        within, between = (data // slices, *inner), (slices, 1, 1, 1)
        return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    in_order = sorted(devices, key=lambda device: (device.slice_index, device.id))
    return np.asarray(in_order).reshape(sizes)


def logical_axes(boxed: Any) -> Any:
    """The logical axis names `tuple[str | None, ...]` of each leaf of a tree of Linen's partitioned boxes."""

    def leaf(box: Any) -> tuple[str | None, ...]:
        names = box.names if isinstance(box, nn.Partitioned) else (None,) * box.ndim
        check_names(names)
        return tuple(names)

    return jax.tree.map(leaf, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def unbox(boxed: Any) -> Any:
    """The plain tree of arrays inside Linen's partitioned boxes."""
    return nn.unbox(boxed)


def parameter_shardings(mesh: Mesh, rules: Rules, axes: Any, shapes: Any) -> Any:
    """A NamedSharding for each parameter.

    Raises UserError naming a parameter whose axes do not suit it, or whose axis the mesh does not divide.
    """

    def leaf(path: Any, names: tuple[str | None, ...], shape: Any) -> NamedSharding:
        spec = _checked_spec(rules, _path(path), names, shape.shape)
        for size, name, cut in zip(shape.shape, names, spec, strict=True):
            over = (cut,) if isinstance(cut, str) else cut or ()
            parts = math.prod(mesh.shape[axis] for axis in over)
            if size % parts:
                raise UserError(
                    f"The mesh cuts axis {name!r} of parameter {jax.tree_util.keystr(path)} into {parts} parts, "
                    f"but its size is {size}; choose a mesh whose {' x '.join(over)} divides it."
                )
        return NamedSharding(mesh, spec)

    named = {_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(axes, is_leaf=_is_names)}
    if apart := sorted(named ^ {_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}):
        raise UserError(f"A model's axes() and init() need the same parameters; only one has {', '.join(apart)}.")
    return jax.tree_util.tree_map_with_path(leaf, axes, shapes, is_leaf=_is_names)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _checked_spec(rules: Rules, path: str, names: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    if len(names) != len(shape):
        raise UserError(f"The parameter {path!r} of shape {list(shape)} needs {len(shape)} axis names, found {names}.")
    try:
        return rules.parameter_spec(names)
    except ValueError as error:
        raise UserError(f"The parameter {path!r}: {error} Name one of them None, or another axis.") from error
