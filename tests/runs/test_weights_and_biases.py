"""Weights & Biases beside the files of a run: one record, resumed; a refusal is reported once and stops nothing."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image as Pillow

from tests.helpers import EXPERIMENT
from unified_jax.cli import train
from unified_jax.cli.entry import run_command
from unified_jax.runs.metrics import MetricsWriter, read_lines
from unified_jax.runs.weights_and_biases import RECORD


class Service:
    """What the client does, kept; `broken` names a call that raises."""

    def __init__(self, broken=""):
        self.begun, self.logged, self.settings, self.ended, self.broken = [], [], {}, 0, broken
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.settings.update(values))

    def init(self, **options):
        if self.broken == "init":
            raise RuntimeError("no such project")
        self.begun.append(options)
        return self

    def log(self, values):
        if self.broken == "log":
            raise ConnectionError("the service is away")
        self.logged.append(values)

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def finish(self):
        self.ended += 1

    def module(self):
        return SimpleNamespace(init=self.init, Image=lambda path: ("image", path), Settings=SimpleNamespace)


def test_a_record_has_scalars_images_and_configuration_and_is_resumed(tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service.module())
    for first in (0, 2):
        writer = MetricsWriter(tmp_path, first, project="mine")
        writer.describe(EXPERIMENT)
        writer.write(first + 1, {"loss": 1.5, "examples": [1, 2, 3]})
        Pillow.new("RGB", (4, 4)).save(tmp_path / "a.png")
        writer.image(first + 1, "preview", tmp_path / "a.png")
        writer.close()
    one, two = service.begun
    assert one.pop("settings").silent
    assert two.pop("settings").silent
    assert one == two
    assert (one["project"], one["resume"]) == ("mine", "allow")
    assert one["id"] == json.loads((tmp_path / RECORD).read_text())["id"]
    image = ("image", str(tmp_path / "a.png"))
    shown = [[{"step": step, "loss": 1.5}, {"step": step, "preview": image}] for step in (1, 3)]
    assert service.logged == shown[0] + shown[1]
    assert service.settings["batch_size"] == EXPERIMENT.batch_size
    assert service.settings["config"]["model"]["network"]["depth"] == 2
    assert service.ended == 2


@pytest.mark.parametrize("broken", ["init", "log"])
def test_what_the_service_refuses_is_reported_once_and_missed(tmp_path, monkeypatch, capfd, broken):
    monkeypatch.setitem(sys.modules, "wandb", Service(broken).module())
    writer = MetricsWriter(tmp_path, 0, project="mine")
    writer.describe(EXPERIMENT)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 1.0})
    writer.close()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert " ".join(capfd.readouterr().err.split()).count("Weights & Biases gets no more of this run") == 1


def test_without_the_package_the_flag_is_refused_before_anything_is_made(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "wandb", None)
    flags = ["quickstart", "--wandb", "mine", "--run-dir", str(tmp_path / "run")]
    assert run_command(train.main, flags) == 2
    assert "pip install 'unified_jax[wandb]'" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_client_itself_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="not verified: wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    writer = MetricsWriter(tmp_path, 0, project="mine")
    writer.describe(dataclasses.replace(EXPERIMENT, steps=3))
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
