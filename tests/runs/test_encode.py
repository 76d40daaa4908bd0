"""Features that are computed once: whole after any interruption; training from them is the training that encodes."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, stirred
from unified_jax.data.cached import CachedFeatures
from unified_jax.data.pipeline import Pipeline
from unified_jax.errors import RunError, UserError
from unified_jax.hosts import lay_rows, local_rows, make_key
from unified_jax.interop import files
from unified_jax.interop.names import flatten
from unified_jax.modalities.text import Text
from unified_jax.models.stages import STAGES, Stage
from unified_jax.models.streams import Condition
from unified_jax.models.text_encoder import TextEncoder
from unified_jax.networks.bert import Bert
from unified_jax.networks.dit import DiT
from unified_jax.runs.encode import Request, encode
from unified_jax.runs.features import check_features
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import read_stage
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.algorithms import AdamW
from unified_jax.training.optimizer import Optimization
from unified_jax.training.program import assemble, encoder_program
from unified_jax.training.step import init_state

TEXT = Text(16, too_long="crop")
ENCODER = TextEncoder(Bert(vocabulary=256, length=16, width=8, depth=1, heads=2, hidden=8), TEXT)
DATA = dataclasses.replace(EXPERIMENT.data, examples=21)
RECORDS = 21
SMALL = dataclasses.replace(EXPERIMENT, ema=EXPERIMENT.ema[:1], optimizer=Optimization(AdamW(), learning_rate=1e-3))


def one_device():
    return make_mesh(MeshShape(), jax.devices()[:1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "text.safetensors"
    files.write(path, flatten(jax.device_get(stirred(ENCODER.init))), {})
    return path


def recipe(weights, folder=None, **changes):
    """Pictures from texts, whose features are in `folder` where there is one."""
    stage = Stage("text", ENCODER, str(weights), rows=4)
    cached = folder is not None
    conditions = (
        Condition(TEXT, encoder=stage, cached=cached),
        Condition(TEXT, "vector", encoder=stage, part="pooled", cached=cached),
    )
    model = dataclasses.replace(EXPERIMENT.model, network=DiT(depth=1, width=8, heads=1), conditions=conditions)
    data = CachedFeatures(DATA, str(folder)) if cached else DATA
    return dataclasses.replace(SMALL, model=model, data=data, **changes)


def written(experiment, folder, batch=4, **changes):
    return encode(experiment, Request(folder, ("train",), batch, shard=8, quiet=True, **changes), one_device())


@pytest.fixture(scope="module")
def features(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "world"
    written(recipe(weights, folder), folder)
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trained(experiment, devices, steps=3):
    """(losses, state) of the first steps with the stages of the model."""
    mesh = make_mesh(experiment.mesh, jax.devices()[:devices])
    program = assemble(experiment, mesh)
    cut, held = program.batch_sharding, local_rows(program.batch_sharding, program.rows)
    pipeline = Pipeline(experiment.data, "train", experiment.model.modalities, experiment.batch_size, 0, held)
    make = functools.partial(init_state, experiment.model, program.optimizer, experiment.balance)
    losses = []
    with experiment.rules.active(mesh):
        how, key = loading(mesh, experiment.rules), make_key(0, mesh)
        frozen = {STAGES: {one.name: read_stage(one, experiment.model, how)[0] for one in experiment.model.stages}}
        state = jax.jit(make, out_shardings=program.shardings)(key)
        for step in range(steps):
            rows = {n: lay_rows(a, held, program.rows, cut) for n, a in pipeline.batch(step).arrays.items()}
            state, metrics = program.step(state, frozen, rows, key)
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state)


def test_a_training_from_features_is_the_training_that_encodes(weights, features):
    losses, state = trained(recipe(weights, accumulate=2), 2)
    others, other = trained(recipe(weights, features, accumulate=2), 2)
    assert losses == others
    jax.tree.map(np.testing.assert_array_equal, state, other)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_program_before_a_step_gives_what_the_folder_holds_whatever_the_devices(weights, features, devices):
    experiment = recipe(weights, features)
    conditions, rules = experiment.model.conditions, experiment.rules
    mesh = make_mesh(MeshShape(), jax.devices()[:devices])
    with rules.active(mesh):
        params = {STAGES: {"text": read_stage(conditions[0].encoder, None, loading(mesh, rules))[0]}}
        batch = Pipeline(experiment.data, "train", experiment.model.modalities, 8, 0).batch(1).arrays
        found = encoder_program(conditions, mesh, rules)(params, {"caption": batch["caption"]})
    assert len(found) == 3 and len(found["caption.text.length"].sharding.device_set) == devices
    for name, value in found.items():
        np.testing.assert_array_equal(value, batch[name], name)


def test_what_an_interrupted_process_leaves_is_finished_to_the_same_bytes(weights, features, tmp_path):
    folder, experiment = tmp_path / "world", recipe(weights, tmp_path / "world")

    def stop(done):
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(experiment, folder, report=stop)
    (folder / ".partial-1/features").mkdir(parents=True)  # what kill -9 leaves of a shard
    (folder / ".partial-1/features/caption.text.length.npy").write_bytes(b"half")
    assert (folder / "train-0/000000").is_dir() and not (folder / "train-0/000001").exists()
    assert not (folder / "cache.json").exists()
    with pytest.raises(UserError, match=r"are not finished: the same command goes on"):
        experiment.data.parts("train", ("caption.text.length",))
    seen = []
    written(experiment, folder, report=seen.append)
    assert min(seen) > 8 and seen[-1] == RECORDS
    assert content(folder) == content(features)
    written(experiment, folder, report=seen.clear)  # is only checked
    assert content(folder) == content(features) and seen


def test_the_size_of_a_batch_does_not_matter_where_a_stage_encodes_rows_in_groups(weights, features, tmp_path):
    folder = tmp_path / "world"
    written(recipe(weights, folder), folder, batch=3)
    name = "train-0/000001/features/caption.text.tokens.npy"
    assert (folder / name).read_bytes() == (features / name).read_bytes()


def test_a_damaged_shard_and_a_full_disk_name_the_file(weights, features, tmp_path, monkeypatch):
    folder, experiment = tmp_path / "world", recipe(weights, tmp_path / "world")

    def full(file, value):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(RunError, match=r"000000/features/caption.text.*npy' cannot be written: No space left"):
            written(experiment, folder)
    assert not list(folder.glob(".partial*")) and not list(folder.glob("train-0/*"))
    written(experiment, folder)
    path = folder / "train-0/000002/features/caption.text.pooled.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(
        RunError, match=r"train-0/000002' of features is damaged: the file features/caption.text.pooled"
    ):
        written(experiment, folder)


def test_other_features_are_refused(weights, features, tmp_path):
    experiment = recipe(weights, features)
    with pytest.raises(UserError, match=r"of another data set: configuration.seed \(default there, 1 here\)"):
        other = dataclasses.replace(experiment.data, data=dataclasses.replace(DATA, seed=1))
        written(dataclasses.replace(experiment, data=other), features)
    with pytest.raises(UserError, match=r"of another split 'train': 0.count \(21 there, 5 here\)"):
        written(experiment, features, limit=5)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes.txt' and no features"):
        written(experiment, tmp_path)
    with pytest.raises(UserError, match=r"no cached condition"):
        written(recipe(weights), features)
    with pytest.raises(UserError, match=r"names no features: data=uj.CachedFeatures"):
        written(dataclasses.replace(experiment, data=DATA), features)


def test_a_training_with_another_stage_is_refused(weights, features):
    experiment = recipe(weights, features)
    checksum = json.loads((features / "cache.json").read_text())["stages"]["text"]["checksum"]
    check_features(experiment, lambda one: checksum)
    with pytest.raises(UserError, match=rf"another stage 'text': the checksum .* is {checksum[:12]} there, 0123 in"):
        check_features(experiment, lambda one: "0123")

    def changed(**fields):
        conditions = tuple(
            dataclasses.replace(one, encoder=dataclasses.replace(one.encoder, **fields))
            for one in experiment.model.conditions
        )
        return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, conditions=conditions))

    with pytest.raises(UserError, match=r"of another stage 'text': pool \(default there, cls here\)"):
        check_features(changed(model=dataclasses.replace(ENCODER, pool="cls")))
    with pytest.raises(UserError, match=r"stage 'text' in float32; the run holds it in bfloat16"):
        check_features(changed(dtype="bfloat16"))
    with pytest.raises(UserError, match=r"are of the stage text, the run has other"):
        check_features(changed(name="other"))


def test_a_request_never_asks_for_features(weights, features):
    model = recipe(weights, features).model
    names = [one.name for one in model.modalities]
    assert names[2:] == ["caption.text.tokens", "caption.text.length", "caption.text.pooled"]
    assert model.request((), ()) == (("caption",), ("image",)) and model.givable == ("caption",)
    params = {**stirred(model.init), STAGES: {"text": stirred(ENCODER.init)}}
    ids = np.stack([TEXT.prepare("a red star")])
    tokens, vector = jax.jit(lambda p, x: model.conditions_of(p, {"caption": x}, 1))(params, ids)
    assert bool(tokens.present[0]) and bool(vector.present[0]) and int(tokens.length[0]) == 10
    given = {one.name: one.blank()[None] for one in model.modalities[1:]}
    assert not np.asarray(model.conditions_of({}, given, 1)[0].value).any()  # read as they are: without a stage
