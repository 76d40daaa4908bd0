"""Packed rows have the losses and gradients of their pictures one by one, on one device and on a mesh of eight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import stirred
from tests.models.test_encoded import STAGE, TEXT, whole_of
from unified_jax.data.packed_rows import PackedRows
from unified_jax.data.pipeline import Pipeline
from unified_jax.modalities.crop import Crop
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.features import encodings
from unified_jax.models.sizes import of_size
from unified_jax.models.streams import Condition
from unified_jax.models.terms import blank_batch
from unified_jax.networks.dit import DiT
from unified_jax.networks.pixart import PixArt
from unified_jax.networks.uvit import UVit
from unified_jax.processes.gaussian import DiscreteGaussian
from unified_jax.processes.interpolant import RectifiedFlow
from unified_jax.sharding import MeshShape, Rules, make_mesh, parameter_shardings

IMAGE = Image(12, 16, 3, 4, fit="center_crop", buckets=((4, 8),))
KEY = jax.random.key(5)
LABELS = (Label("shape", 6), Label("colour", 8))
ROWS = PackedRows(length=14, per_row=2, items=5)

PLAIN = Diffusion(
    DiT(1, 32, 4, remat="none"), RectifiedFlow(direction_weight=0.5), IMAGE, LABELS, drop_some=0.5, rows=ROWS
)
LIGHTNING = Diffusion(
    DiT(1, 32, 4, remat="none", qk_norm=True, norm="rms", mlp="swiglu", rotary=True, shift=False, grid=(4, 4)),
    DiscreteGaussian(variance="learned_range"),
    IMAGE,
    (
        Condition(TEXT, encoder=STAGE, drop=0.5),
        Condition(TEXT, "vector", encoder=STAGE, part="pooled", drop=0.5),
        Condition(Crop(IMAGE), control=2.0),
    ),
    rows=ROWS,
)
"""LightningDiT's options, twice the channels, a caption as tokens and as a vector, nulls, a control condition."""


@dataclasses.dataclass(frozen=True)
class Album:
    """Small and large pictures; three of four are small."""

    name = "album"

    def parts(self, split, fields):
        return ((1.0, "album", self),)

    def __len__(self):
        return 96

    def __getitem__(self, index):
        shown = np.random.default_rng(index).integers(0, 256, (5, 9, 3) if index % 4 else (14, 16, 3), np.uint8)
        caption = " ".join(["a", "red", "big", "o"][: 1 + index % 4])
        return {"image": shown, "shape": index % 6, "colour": index % 8, "caption": caption}


def losses(model, params, batch):
    """(sum of all terms, ({term: (sums, weights)}, metrics))."""
    terms, _, metrics = model.losses(params, {}, batch, KEY)
    return sum(value.sum() for value, _ in terms.values()), (terms, metrics)


forward = jax.jit(losses, static_argnums=0)
backward = jax.jit(jax.grad(losses, argnums=1, has_aux=True), static_argnums=0)


@functools.cache
def packed(model):
    """(parameters, batch of a step, its arrays on a device, the size of each slot) over the album."""
    pipeline = Pipeline(Album(), "train", model.modalities, 16, 0, packer=model.packer, vary=True)
    batch, params = pipeline.batch(2), whole_of(model) if model.stages else stirred(model.init)
    encoded = jax.jit(encodings, static_argnums=0)(model.reads, params, batch.arrays) if model.stages else {}
    sizes, _ = pipeline.buckets.mixed(2, 16)
    return params, batch, jax.device_put(batch.arrays) | encoded, sizes


def alone(run, model, view):
    """(value or gradient, {slot: {term: loss}}) of the pictures of a size, by the ordinary model of it."""
    params, batch, arrays, sizes = packed(model)
    slots = np.flatnonzero(sizes == view)
    where = [
        tuple(np.argwhere((batch.arrays["slot"] == s) & (batch.arrays["rows.grid"][..., 0] > 0))[0]) for s in slots
    ]
    rows, places = np.asarray(where).T
    fields = {n: a[rows, places] for n, a in arrays.items() if not n.startswith("rows.") and n != "image"}
    one = of_size(dataclasses.replace(model, rows=None), IMAGE.sizes[view])
    tokens, item = (np.asarray(arrays[name])[rows] for name in ("image", "rows.item"))
    patches = np.stack([a[i == place].reshape(-1, 48) for a, i, place in zip(tokens, item, places, strict=True)])
    images = one.streams[0].form.unpatch(jnp.asarray(patches, jnp.float32)).astype(jnp.uint8)
    value, (terms, _) = run(one, params, fields | {"image": images})
    return value, {int(s): {n: float(v[i]) for n, (v, _) in terms.items()} for i, s in enumerate(slots)}


def check_rows(terms, batch, single):
    """The losses of the rows whose pictures are known are the sums of these."""
    rows = [row for row in range(8) if {int(s) for s in np.flatnonzero(batch.rows == row)} <= single.keys()]
    for name, (value, weight) in terms.items():
        by_row = [sum(single[int(s)][name] for s in np.flatnonzero(batch.rows == row)) for row in rows]
        np.testing.assert_allclose(value[np.asarray(rows)], by_row, rtol=1e-5)
        np.testing.assert_array_equal(weight, np.bincount(batch.rows))
    return len(rows)


@functools.cache
def on_eight():
    """(program, parameters, how rows are laid out) of the plain model's gradient on a mesh of eight devices."""
    mesh, rules = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), Rules()
    params = jax.device_put(packed(PLAIN)[0], parameter_shardings(mesh, rules, PLAIN.axes(), packed(PLAIN)[0]))
    rows = jax.NamedSharding(mesh, rules.activation_spec(("batch",)))

    def program(arrays):
        with rules.active(mesh):
            return backward(PLAIN, params, jax.device_put(arrays, rows))

    return program


def test_rows_on_eight_devices_have_the_losses_and_gradients_of_single_pictures():
    _, batch, arrays, _ = packed(PLAIN)
    gradient, (terms, metrics) = on_eight()(arrays)
    assert len(terms["mse"][0].sharding.device_set) == 8
    (one, small), (other, large) = (alone(backward, PLAIN, view) for view in (0, 1))
    single = small | large
    assert len(single) == 16 and {np.sum(batch.rows == row) for row in range(8)} == {1, 3}
    assert check_rows(terms, batch, single) == 8 and sorted(terms) == ["direction", "mse"]
    mean = np.mean([loss["mse"] for loss in single.values()])
    assert float(terms["mse"][0].sum() / terms["mse"][1].sum()) == pytest.approx(mean, rel=1e-5)
    for path, found in jax.tree.leaves_with_path(gradient):
        expected = np.asarray(one_leaf(one, path)) + np.asarray(one_leaf(other, path))
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5, err_msg=jax.tree_util.keystr(path))
    assert float(metrics["tokens/used"][0]) == pytest.approx(72 / 8 / 14)
    assert float(metrics["loss_by_time"][1].sum()) == 16
    assert [float(x) for x in metrics["examples/dropped"]] == [0, 16]


def one_leaf(tree, path):
    return functools.reduce(lambda branch, key: branch[key.key], path, tree)


@pytest.mark.nightly
def test_options_conditions_and_learned_variances_are_those_of_single_pictures():
    params, batch, arrays, _ = packed(LIGHTNING)
    assert arrays["caption.text.tokens"].shape == (8, 5, 12, 16) and arrays["caption.text.length"].shape == (8, 5)
    _, (terms, _) = forward(LIGHTNING, params, arrays)
    _, single = alone(forward, LIGHTNING, 1)
    assert check_rows(terms, batch, single) == 4 and sorted(terms) == ["mse", "vb"]


def test_rows_without_pictures_have_no_loss():
    empty = {name: jnp.stack([one] * n) for name, (n, one) in blank_batch(PLAIN, 16).items()}
    gradient, (terms, _) = on_eight()(empty)
    assert set(PLAIN.terms) == {"mse", "direction"} and [value.shape for value in terms["mse"]] == [(8,), (8,)]
    assert [float(x.sum()) for x in terms["mse"]] == [0, 0]
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_a_model_of_rows_samples_at_each_size():
    """By the model of that size, which is the ordinary one."""
    for size in IMAGE.sizes:
        one = of_size(LIGHTNING, size)
        assert dataclasses.replace(one, rows=None) == of_size(dataclasses.replace(LIGHTNING, rows=None), size)
        assert one.modality.shape == (*size, 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": UVit(2, 16, 2, grid=(2, 2))}, "Diffusion.rows: UVit reads arrays of one size here"),
        ({"network": PixArt(2, 32, 4)}, "PixArt reads arrays of one size here; choose a network that takes a layout"),
        ({"network": DiT(2, 32, 4, conditioning="cross")}, "such as DiT with adaLN"),
        ({"flip": True}, "mirror the records, flip of the modality 'image'"),
        ({"rows": PackedRows(8, 2, 4)}, "has up to 12 tokens, and a row 8"),
        ({"modality": dataclasses.replace(IMAGE, buckets=((6, 9),))}, "6 x 9 is not divisible into patches of 4"),
        ({"modality": Image(8, 8, fit="pad")}, "an Image that is not padded"),
    ],
)
def test_what_cannot_be_packed_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(PLAIN, process=RectifiedFlow(), conditions=LABELS[:1], **fields)
