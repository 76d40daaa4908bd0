"""Fine-tuning: what is frozen stays, updates have their rank, a run starts as the other one ended, and opens alone."""

import dataclasses
import functools
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT
from unified_jax.errors import UserError
from unified_jax.interop.names import flatten
from unified_jax.modalities.label import Label
from unified_jax.models.tuned import Tuned, Tuning
from unified_jax.runs import loop
from unified_jax.runs.loop import train
from unified_jax.runs.metrics import read_lines
from unified_jax.runs.opened import open_run
from unified_jax.runs.replay import replay
from unified_jax.runs.saved import Which, base_layout, keep_base, load_base
from unified_jax.runs.start import Start
from unified_jax.runs.weight_transfer import plan_graft
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.algorithms import AdamW
from unified_jax.training.experiment import Previews, Validation

pytestmark = pytest.mark.usefixtures("one_device")
BASE = dataclasses.replace(EXPERIMENT, steps=3, preview=Previews(every=0), validation=Validation())
WHOLE = ("final/", "label_", "blocks/mlp/fc1")
LORA = Tuning(
    train=("^final/", "label_", "blocks/mlp/fc1"), lora=("blocks/(?!mlp/fc1).*", "^patch"), rank=2, alpha=4.0
)  # fmt: skip
CONSTANT = dataclasses.replace(BASE.optimizer, rule=AdamW(), warmup_steps=0, learning_rate=1e-2)


def tuned(tuning, **changes):
    return dataclasses.replace(BASE, tuning=tuning, optimizer=CONSTANT, **changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "base"
    train(BASE, Start(run, quiet=True))
    return run


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "adapted"
    train(tuned(LORA, steps=4), Start(run, init_from=base, quiet=True))
    return run


@functools.cache
def leaves(run, ema="none"):
    """{path: array} of a run that trains no more."""
    return {path: np.asarray(leaf) for path, leaf in flatten(open_run(run, Which(ema))[1]).items()}


def test_training_starts_at_the_other_run(base):
    whole = open_run(base)[1]
    model = Tuned(BASE.model, LORA)
    params = {**jax.jit(model.init)(jax.random.key(5)), **model.frozen(whole), "own": model.own(whole)}
    jax.tree.map(np.testing.assert_array_equal, model.compose(params), whole)


def test_updates_have_the_rank_and_the_rest_stays(base, adapted):
    before, after = leaves(base, "0"), leaves(adapted)
    for path, value in after.items():
        change = value - before[path]
        if path.startswith(WHOLE):
            assert np.abs(change).max() > 0, path
        elif path.endswith("kernel") and path.startswith(("blocks/", "patch/")):
            rows = {"qkv_kernel": 1, "out_kernel": 2}.get(path.rpartition("/")[2], 1)
            stack = change if path.startswith("blocks/") else change[None]
            for one in stack:
                matrix = one.reshape(int(np.prod(one.shape[:rows])), -1)
                values = np.linalg.svd(matrix, compute_uv=False)
                assert values[1] > 0, path
                assert values[2] < 1e-5 * values[0], path
        else:
            np.testing.assert_array_equal(value, before[path], err_msg=path)


def test_what_is_frozen_has_no_moments_and_no_average(base, adapted):
    from unified_jax.runs.loop import prepare

    program = prepare(tuned(LORA)).program
    trained = sum(leaf.size for leaf in jax.tree.leaves(program.shapes.params))
    assert program.parameters == trained < 0.4 * sum(leaf.size for leaf in leaves(base).values())
    moments = sum(leaf.size for leaf in jax.tree.leaves(program.shapes.opt_state) if leaf.ndim)
    assert moments == 2 * trained
    assert sum(leaf.size for leaf in jax.tree.leaves(program.shapes.ema)) == 2 * trained
    assert (adapted / "base" / "checkpoints").is_dir()


def test_a_compose_is_written_out(base):
    """Against A and B multiplied by hand as matrices."""
    model, whole = Tuned(BASE.model, LORA), open_run(base)[1]
    fresh = jax.jit(model.init)(jax.random.key(0))
    fresh["lora"] = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), fresh["lora"])
    found = flatten(model.compose({**fresh, **model.frozen(whole), "own": model.own(whole)}))
    lora, flat = flatten(fresh["lora"]), flatten(whole)
    for path in ("blocks/attention/qkv_kernel", "blocks/attention/out_kernel", "blocks/mlp/fc2/kernel"):
        a, b, kernel = (np.asarray(x, np.float64) for x in (lora[f"{path}/a"], lora[f"{path}/b"], flat[path]))
        by_hand = np.stack([x.reshape(-1, 2) @ y.reshape(2, -1) for x, y in zip(a, b, strict=True)])
        np.testing.assert_allclose(found[path], kernel + 2.0 * by_hand.reshape(kernel.shape), atol=1e-6)


def test_a_run_goes_on_and_opens_without_its_base_and_a_start_that_ended_early_leaves_no_stale_one(
    base, adapted, tmp_path
):
    """Begun from another run and killed before its first checkpoint, begun again, stopped, gone on: the run at once."""
    source, run = tmp_path / "source", tmp_path / "run"
    layout = base_layout(tuned(LORA).trained, make_mesh(MeshShape(), jax.devices()[:1]), BASE.rules)
    shutil.copytree(adapted, run)
    shutil.rmtree(run / "checkpoints")
    keep_base(run, jax.tree.map(lambda x: x + 1, load_base(run, layout)))
    shutil.copytree(base, source)
    train(tuned(LORA, steps=2), Start(run, init_from=source, quiet=True))
    shutil.rmtree(source)
    train(tuned(LORA, steps=4), Start(run, resume="must", quiet=True))
    for ema in ("none", "1"):
        jax.tree.map(np.testing.assert_array_equal, leaves(run, ema), leaves(adapted, ema))


def test_a_run_that_has_ended_is_left_as_it_is(base, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(base, run)

    def files():
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}

    before = files()
    summary = train(BASE, Start(run, quiet=True))
    assert files() == before
    assert summary == json.loads((run / "summary.json").read_text())
    (run / "summary.json").unlink()  # killed after the last save
    again = train(BASE, Start(run, quiet=True))
    assert {name: again[name] for name in ("step", "finished", "loss", "skipped", "parameters")} == {
        name: summary[name] for name in ("step", "finished", "loss", "skipped", "parameters")
    }
    assert files().keys() == before.keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"reduction": "strict", "mesh": MeshShape(1, 2)},  # what is frozen is sharded too
        pytest.param({"mesh": MeshShape(1, 2, 2)}, marks=pytest.mark.nightly),  # in the suite: untuned, test_meshes
    ],
    ids=["strict_fsdp", "fsdp_tensor"],
)
def test_on_a_mesh_and_strictly_it_is_the_same(base, adapted, tmp_path, monkeypatch, changes):
    devices = jax.devices()[: changes["mesh"].fsdp * changes["mesh"].tensor]
    monkeypatch.setattr(loop, "make_mesh", lambda shape: make_mesh(shape, devices))
    train(tuned(LORA, steps=4, **changes), Start(tmp_path, init_from=base, quiet=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), leaves(adapted), leaves(tmp_path))


def test_another_table_starts_anew_where_that_is_said(base, tmp_path):
    model = dataclasses.replace(BASE.model, conditions=(Label("count", 3),))
    with pytest.raises(UserError, match=r"label_0/table found \[7, 32\] expected \[4, 32\].*--tuning.fresh"):
        train(dataclasses.replace(BASE, model=model), Start(tmp_path / "refused", init_from=base, quiet=True))
    graft = plan_graft(BASE.model, model, Tuning(fresh=("label_",)))
    assert graft.fresh == ("label_0/table",)
    assert graft.left == ("label_0/table", "label_1/table")
    assert len(graft.taken) == len(leaves(base)) - 2


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        (Tuning(train=("blocks/mpl",)), "'blocks/mpl' match.*nothing; there are blocks/attention"),
        (Tuning(train=(), lora=("bias",)), "'bias' match.*nothing"),
        (Tuning(train=("blocks",), fresh=("label_",)), "freezes label_0/table, label_1/table, which the other run"),
    ],
    ids=["unknown", "no_kernel", "fresh_and_frozen"],
)
def test_what_cannot_be_tuned_is_refused(base, tmp_path, tuning, words):
    with pytest.raises(UserError, match=words):
        train(tuned(tuning), Start(tmp_path / "run", init_from=base, quiet=True))


def test_a_frozen_part_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="say which run it starts from, with --init-from RUN"):
        train(tuned(LORA), Start(tmp_path / "run", quiet=True))
    wrongs: list[dict[str, Any]] = [*({"rank": 0}, {"train": ()}, {"lora": ("x",)}, {"train": ("(",)})]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="Tuning"):
            Tuning(**wrong)


def test_a_damaged_base_is_named(adapted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapted, run)
    victim = max((run / "base").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    victim.write_bytes(victim.read_bytes()[:-9] + b"corrupted")
    with pytest.raises(UserError, match=r"base.* cannot be read"):
        open_run(run)
    assert jnp.isfinite(sum(float(np.abs(x).sum()) for x in leaves(adapted).values()))


def test_a_step_before_the_first_checkpoint_is_replayed_from_the_run_it_began_from(base, adapted):
    experiment = tuned(LORA, steps=4)
    first = next(line for line in read_lines(adapted / "metrics.jsonl") if line["step"] == 1)
    found = replay(experiment, Start(adapted, init_from=base), 1)
    assert f"step 1: loss {first['loss']:.6g}, gradient norm {first['grad_norm']:.6g}" in found
    with pytest.raises(UserError, match=r"no checkpoint lies before it.*began from 'base'.*--init-from RUN"):
        replay(experiment, Start(adapted), 1)
    with pytest.raises(UserError, match=r"did not begin from .* as it is now"):
        replay(experiment, Start(adapted, init_from=adapted), 1)
