"""Linking: a chain of trained models becomes a run directory that every command opens, and that nothing trains."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import EXPERIMENT
from tests.models.small import Small, weights
from unified_jax.cli import main
from unified_jax.data.world.scene import SHAPES
from unified_jax.interop import files
from unified_jax.interop.names import flatten
from unified_jax.runs import link as linking
from unified_jax.runs.dry_run import dry_run
from unified_jax.runs.evaluate import EvaluateCommand, evaluate_run
from unified_jax.runs.listing import describe
from unified_jax.runs.loop import train
from unified_jax.runs.start import Start
from unified_jax.training.program import assemble

pytestmark = pytest.mark.usefixtures("one_device")
SHAPE = uj.Label("shape", 6, SHAPES)
BASE = uj.Diffusion(Small(), modality=uj.Image(8, 8, 3, patch=8), conditions=(SHAPE,))
UP = uj.Diffusion(Small(), modality=uj.Image(16, 16, 3, patch=8), conditions=(uj.Image(8, 8, 3, name="low"),))
PLAN = uj.SamplingPlan(uj.Euler(), steps=1)


def linked(folder, **changes):
    """The experiment of a chain whose weights are files in a folder."""
    base, up = (
        uj.Stage("base", BASE, str(folder / "base.safetensors")),
        uj.Stage("up", UP, str(folder / "up.safetensors")),
    )
    chain = uj.Chain((uj.Link(base, takes=(("low", "image"),)), uj.Link(up)))
    return dataclasses.replace(EXPERIMENT, model=chain, preview=uj.Previews(plan=PLAN), **changes)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for name, model in (("base", BASE), ("up", UP)):
        files.write(folder / f"{name}.safetensors", flatten(jax.device_get(weights(model))), {})
    return folder


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "chain"
    recipe = folder.with_name("cascade.py")
    recipe.write_text(
        f"from pathlib import Path\n\nfrom tests.runs.test_link import linked\n\n\n"
        f"def experiment():\n    return linked(Path({str(sources)!r}))\n"
    )
    assert main.run(["link", str(recipe), "--run", str(folder), "--batch-size", "4"]) == 0
    return folder


def test_a_linked_run_opens_without_checkpoints_and_sources(run, sources):
    assert {path.name for path in run.iterdir() if path.is_file()} >= {
        "config.json",
        "environment.json",
        "summary.json",
    }
    assert not (run / "checkpoints").exists()
    opened = uj.load(run)
    assert (opened.step, opened.model, opened.experiment.batch_size) == (0, linked(sources).model, 4)
    for name, model in (("base", BASE), ("up", UP)):
        jax.tree.map(np.testing.assert_array_equal, opened.params["stages"][name], weights(model))
    row = describe(run)
    assert (row["state"], row["step"], row["network"]) == ("linked", "-", "Chain")
    assert row["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(opened.params))
    with pytest.raises(uj.UserError, match="was linked, not trained: it has no checkpoints"):
        uj.load(run, best=True)


def test_samples_do_not_depend_on_the_batch_and_a_file_may_stand_for_a_link(run, tmp_path):
    opened = uj.load(run)
    given = {"shape": ["disc" if "disc" in SHAPES else SHAPES[0], SHAPES[1], SHAPES[2]]}
    whole, parts = (opened.sample(given, count=5, batch=batch) for batch in (5, 2))
    assert set(whole) == {"low", "image"}
    for name in whole:
        assert np.abs(whole[name].astype(int) - parts[name]).max() <= 1, name
    uj.show(whole["low"][:1])
    later = opened.sample(given | {"low": whole["low"]}, count=5, batch=5)
    assert list(later) == ["image"]
    np.testing.assert_array_equal(later["image"], whole["image"])
    picture = tmp_path / "low.png"
    opened.model.fields["low"].save(picture, whole["low"][2])
    one = opened.sample({"low": picture}, first=2, count=1)
    assert np.abs(one["image"][0].astype(int) - whole["image"][2]).max() <= 1


def test_commands_open_it(run, capsys):
    words = ["--given.shape", SHAPES[1], "--count", "2", "--steps", "1", "--formats", "sheet,npz"]
    assert main.run(["sample", "--run", str(run), *words]) == 0, capsys.readouterr().err
    assert np.load(run / "samples" / "samples.npz")["image"].shape == (2, 16, 16, 3)
    rows = evaluate_run(EvaluateCommand(str(run), count=4, batch=4, splits=("test",)), bars=False)
    assert {row["metric"] for row in rows} >= {"attribute_accuracy", "frechet/pooled_pixels"}
    assert rows[0]["wanted"] == ["image"]
    for words, why in (
        (("loss",), "This probe is for class-conditional models (Diffusion), not for Chain."),
        (("attention",), "This probe is for class-conditional models (Diffusion), not for Chain."),
        (("similarity",), "This probe is for models of many modalities (Transfusion), not for Chain."),
        (("noise",), "Chain trains nothing: it has no loss"),
    ):
        assert main.run(["probe", *words, "--run", str(run)]) == 2
        assert why in capsys.readouterr().err
    assert main.run(["evaluate", "--run", str(run), "--bits", "4"]) == 2


def test_a_chain_of_linked_runs_holds_their_stages(run, sources, tmp_path):
    last = uj.Diffusion(Small(), modality=uj.Image(4, 4, 1, patch=4, name="mask"), conditions=(UP.modality,))
    files.write(tmp_path / "last.safetensors", flatten(jax.device_get(weights(last))), {})
    stage = uj.Stage("last", last, str(tmp_path / "last.safetensors"))
    chain = uj.Chain((uj.Link(uj.stage("pictures", run)), uj.Link(stage, PLAN)))
    outer = uj.link(dataclasses.replace(linked(sources), model=chain), tmp_path / "outer")
    inner = uj.load(run).params
    jax.tree.map(np.testing.assert_array_equal, outer.params["stages"]["pictures"], inner)
    assert outer.model.wantable == ("low", "image", "mask")


def test_a_stage_is_found_elsewhere(run, sources, tmp_path):
    moved = shutil.copytree(sources, tmp_path / "moved")
    e = linked(tmp_path / "nowhere")
    with pytest.raises(uj.UserError, match=r"The stage 'base' comes from '.*nowhere.* with --stage base=PATH"):
        uj.link(e, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    places = {name: moved / f"{name}.safetensors" for name in ("base", "up")}
    found = uj.link(e, tmp_path / "b", stages=places)
    jax.tree.map(np.testing.assert_array_equal, found.params, uj.load(run).params)
    (tmp_path / "b" / "stages" / "up.safetensors").unlink()
    with pytest.raises(uj.UserError, match=r"The stage 'up' of this run is not at .* with --stage up=PATH"):
        uj.load(tmp_path / "b")
    assert uj.load(tmp_path / "b", stages={"up": places["up"]}).step == 0


def test_what_is_interrupted_does_not_open(sources, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    for name in ("begin_stages", "keep_code"):
        with monkeypatch.context() as patch:
            patch.setattr(linking, name, stop)
            with pytest.raises(KeyboardInterrupt):
                uj.link(linked(sources), tmp_path / "run")
        with pytest.raises(uj.UserError, match=r"is no run directory: it has no config\.json"):
            uj.load(tmp_path / "run")
    wrong = {"up": sources / "base.safetensors"}
    with pytest.raises(uj.UserError, match=r"The stage 'up' from 'base.safetensors'"):
        uj.link(linked(sources), tmp_path / "run", stages=wrong)
    assert uj.link(linked(sources), tmp_path / "run").step == 0
    with pytest.raises(uj.UserError, match="already holds a run"):
        uj.link(linked(sources), tmp_path / "run")


def test_a_chain_is_not_trained_and_a_trained_model_is_not_linked(sources, tmp_path):
    e, told = linked(sources), "Chain trains nothing: it has no loss"
    with pytest.raises(uj.UserError, match=told):
        train(e, Start(tmp_path / "run", quiet=True))
    with pytest.raises(uj.UserError, match=told):
        dry_run(e, tmp_path / "run")
    with pytest.raises(uj.UserError, match=told):
        assemble(e, uj.runs.opened.mesh_for(e))  # what plan and ablate begin with
    assert not list(tmp_path.iterdir())
    with pytest.raises(uj.UserError, match=r"for models of trained links .*; Diffusion has parameters of its own"):
        uj.link(EXPERIMENT, tmp_path / "run")
    assert not list(tmp_path.iterdir())
