"""Any mesh trains like one device, in any number of microbatches; parameters lie as the tables under
tests/goldens/partitions say, and no large one is whole on every device by accident."""

import dataclasses
import functools
import json
import os

import jax
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, ROOT, experiment, first_steps
from unified_jax.data.packing import Documents
from unified_jax.data.world import World
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.modalities.label import Label
from unified_jax.modalities.points import Points
from unified_jax.modalities.text import Text
from unified_jax.models.diffusion import Diffusion
from unified_jax.models.transfusion import Stream, Transfusion
from unified_jax.networks import dit, transfusion
from unified_jax.networks.transfusion import Trunk
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.program import assemble

STREAMS = (Stream(Image(16, 16, 3, 8)), Stream(Points(64, 6, 16)))
UNIFIED = experiment(
    model=Transfusion(
        Trunk(depth=2, width=32, heads=4, remat="dots"), Text(110), STREAMS, 160, Documents(per_row=1)
    ),
    data=World(resolution=16, max_objects=1),
)  # fmt: skip
CROSS = dataclasses.replace(
    EXPERIMENT,
    model=dataclasses.replace(EXPERIMENT.model, network=EXPERIMENT.model.network.clone(conditioning="cross")),
)
EXPERIMENTS = {"dit": EXPERIMENT, "dit_cross": CROSS, "transfusion": UNIFIED}


@functools.cache
def losses(name, mesh, devices, parts=1):
    """Of the first steps on the first `devices` devices, each in so many microbatches."""
    return first_steps(dataclasses.replace(EXPERIMENTS[name], mesh=mesh, accumulate=parts), devices, 8)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mesh", "parts"),
    [
        pytest.param("dit", MeshShape(2, 1, 4), 4, marks=pytest.mark.nightly),  # in the suite: tests/hosts
        pytest.param("dit_cross", MeshShape(1, 2, 2, 2), 1, marks=pytest.mark.nightly),  # in the suite: U-Nets
        ("transfusion", MeshShape(1, 2, 2, 2), 1),
    ],
    ids=str,
)
def test_any_mesh_and_any_microbatches_train_like_one_device(name, mesh, parts):
    np.testing.assert_allclose(losses(name, mesh, 8, parts), losses(name, MeshShape(1), 1), rtol=1e-5)


def test_batches_that_do_not_make_whole_rows_are_refused():
    model = dataclasses.replace(UNIFIED.model, documents=Documents(per_row=8))
    for changes, whole in (({"batch_size": 24, "accumulate": 2}, 16), ({"batch_size": 64, "mesh": MeshShape(8)}, 64)):
        e = dataclasses.replace(UNIFIED, model=model, **({"mesh": MeshShape(1)} | changes))
        made = make_mesh(e.mesh, jax.devices()[: e.mesh.data])
        if e.batch_size % whole:
            with pytest.raises(UserError, match=f"as a multiple of {whole}"):
                assemble(e, made)
        else:
            assert assemble(e, made).rows == 8


LARGE = {
    **{
        f"dit_{conditioning}": Diffusion(
            network=dit.dit_preset("XL").clone(conditioning=conditioning), modality=Image(32, 32, 4, 2),
            conditions=(Label("label", 1000),),
        )
        for conditioning in ("adaln_zero", "adaln", "cross", "in_context")
    },
    "transfusion": Transfusion(transfusion.trunk_preset("0.76B"), Text(64), (Stream(Image(32, 32, 8, 2)),), 512),
    "transfusion_modulated": Transfusion(
        transfusion.trunk_preset("0.16B", modulated=True), Text(64),
        (Stream(Image(64, 64, 8, 2), embedder="unet"), Stream(Points(1024, 6, 16), embedder="pointnet")), 4096,
    ),
}  # fmt: skip


def partitions(model):
    """{path: [shape, logical axes, partition]} of a model's parameters."""
    axes = {jax.tree_util.keystr(p): a for p, a in jax.tree_util.tree_leaves_with_path(
        model.axes(), is_leaf=lambda x: isinstance(x, tuple))}  # fmt: skip
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return {
        (path := jax.tree_util.keystr(p)): [
            list(leaf.shape), list(axes[path]),
            [cut if cut is None or isinstance(cut, str) else "+".join(cut)
             for cut in EXPERIMENT.rules.parameter_spec(axes[path])],
        ]
        for p, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_parameters_lie_as_the_tables_say(name):
    path = ROOT / "tests" / "goldens" / "partitions" / f"{name}.json"
    found = partitions(LARGE[name])
    if os.environ.get("UNIFIED_JAX_WRITE_TABLES"):  # after a change that is meant; look at the difference
        path.parent.mkdir(exist_ok=True)
        path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "\n}\n")
    assert found == json.loads(path.read_text())


@pytest.mark.parametrize("name", LARGE)
def test_nothing_large_is_whole_on_every_device(name):
    """Under fsdp: no parameter, moment or average above 1 MiB."""
    e = dataclasses.replace(EXPERIMENT, model=LARGE[name], mesh=MeshShape(1, 8), batch_size=8)
    program = assemble(e, make_mesh(e.mesh))
    leaves = zip(
        jax.tree_util.tree_leaves_with_path(program.shapes), jax.tree.leaves(program.shardings), strict=True
    )  # fmt: skip
    whole = [
        f"{jax.tree_util.keystr(path)} {leaf.shape}"
        for (path, leaf), sharding in leaves
        if leaf.size * leaf.dtype.itemsize > 2**20 and sharding.is_fully_replicated
    ]
    assert not whole, whole
