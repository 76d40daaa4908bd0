"""What every command takes and refuses before it opens anything: numbers, seeds, help, misspelt words."""

import dataclasses
import errno
import math
import runpy
import sys
import types
import typing
from pathlib import Path

import jax
import pytest

from tests.helpers import EXPERIMENT, ROOT
from unified_jax.cli import (
    ablate,
    certify,
    convert,
    data,
    distance,
    evaluate,
    heap,
    link,
    plan,
    probe,
    runs,
    sample,
    train,
)
from unified_jax.cli.datasets import build, check, show, world
from unified_jax.cli.entry import run_command, use_compilation_cache
from unified_jax.cli.probing import attention, loss, noise, similarity
from unified_jax.errors import UserError, meant
from unified_jax.runs.flags import parse, real, whole

COMMANDS = (ablate, certify, convert, data, distance, evaluate, link, plan, probe, runs, sample, train)
FLAGS = {
    distance.DistanceCommand: (), sample.SampleCommand: ("--run", "x"), evaluate.EvaluateCommand: ("--run", "x"),
    attention.AttentionCommand: ("--run", "x"), loss.LossCommand: ("--run", "x"), noise.NoiseCommand: ("--run", "x"),
    similarity.SimilarityCommand: ("--run", "x"), world.WorldCommand: ("unified_world",),
    build.BuildCommand: (), show.ShowCommand: (), build.BuildRecipe: (), show.ShowRecipe: (), check.CheckCommand: (),
}  # fmt: skip


def numbers_of(kind):
    """(field, type) of the fields that hold one number, or none."""
    for name, hint in typing.get_type_hints(kind).items():
        inner = [one for one in typing.get_args(hint) if one is not type(None)]
        hint = inner[0] if isinstance(hint, types.UnionType) and len(inner) == 1 else hint
        if hint is int or hint is float:
            yield name, hint


def read(kind, *words, default=None, infinite=False):
    """What a command line gives, or the exit code."""
    try:
        return parse(kind, "test", list(words), default, infinite)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("-7", -7), ("1_000", 1000), ("1e4", 10000), ("1.5E3", 1500)])
def test_whole_numbers_as_people_write_them(text, value):
    assert whole(text) == value and type(whole(text)) is int


@pytest.mark.parametrize(
    "text", ["1.5e0", "1.0", "1e-1", "1e400", "1e", "e4", "", "nan", "inf", "0x10", "9" * 5000, "1e19", "1__0"]
)
def test_what_is_no_whole_number(text):
    with pytest.raises(ValueError, match="expected a whole number"):
        whole(text)


@pytest.mark.parametrize("text", ["nan", "-NaN", "1e400", "-1e999", "", "1,5", "1e4e"])
def test_what_is_no_finite_number(text):
    for infinite in (False, True):
        with pytest.raises(ValueError, match="expected a finite number"):
            real(text, infinite)
    assert (real("1e3"), real("-Inf", infinite=True)) == (1000.0, -math.inf)
    with pytest.raises(ValueError, match="expected a finite number"):
        real("inf")


def test_every_number_of_every_command_is_read_alike(capsys):
    """Whole ones take 1e1, which int() does not; the others refuse nan, which float() takes."""
    count = 0
    for kind, needed in FLAGS.items():
        found = dict(numbers_of(kind))
        words = [word for name in found for word in (f"--{name.replace('_', '-')}", "1e1")]
        made = read(kind, *needed, *words)
        assert all(getattr(made, name) == 10 for name in found), kind
        count += len(found)
        for name in (name for name, hint in found.items() if hint is float):
            assert read(kind, *needed, f"--{name.replace('_', '-')}", "nan") == 2, (kind, name)
            assert "expected a finite number, found 'nan'" in capsys.readouterr().err
    assert count > 30


def test_numbers_of_an_experiment_are_read_alike(capsys):
    default = train.TrainCommand(EXPERIMENT)
    words = ("--steps", "1e4", "--optimizer.learning-rate", "1e-4", "--ema.1.decay", "0.5")
    found = read(train.TrainCommand, *words, default=default, infinite=True).experiment
    assert (found.steps, found.optimizer.learning_rate, found.ema[1].decay) == (10000, 1e-4, 0.5)
    assert read(train.TrainCommand, "--optimizer.learning-rate", "1e400", default=default, infinite=True) == 2
    assert "expected a finite number, found '1e400'" in " ".join(capsys.readouterr().err.replace("│", " ").split())


@dataclasses.dataclass(frozen=True)
class Worded:
    """A text."""

    text: str = "long " * 100


def test_help_cuts_long_texts_and_the_command_keeps_them(capsys):
    default = Worded("words " * 900)
    with pytest.raises(SystemExit):
        parse(Worded, "test", ["--help"], default)
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(5400 characters)" in out and len(out) < 1000
    assert read(Worded, default=default) == default and read(Worded, "--text", "a b", default=default).text == "a b"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two numbers or none."""

    pair: tuple[float, float] | None = None

    def __post_init__(self):
        if self.pair:
            1 / self.pair[1]


def test_two_numbers_or_none_and_a_constructor_that_trips(capsys):
    assert read(Pair, "--pair", "None").pair is None and read(Pair, "--pair", "1", "2e0").pair == (1.0, 2.0)
    assert read(Pair, "--pair", "nan", "1") == read(Pair, "--pair", "1") == read(Pair, "--pair", "1", "2", "3") == 2
    assert "expected 2 numbers, found 3" in capsys.readouterr().err
    assert run_command(lambda words: print(parse(Pair, "test", words)), ["--pair", "1", "0"]) == 2
    assert "test: these flags cannot be: float division by zero" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "2147483648"])
def test_a_seed_has_one_range_in_every_command(seed, capsys):
    train_like = (train, "quickstart"), (sample, "--run", "x"), (evaluate, "--run", "x")
    probes = tuple((probe, name, "--run", "x") for name in ("attention", "loss", "noise", "similarity"))
    for command, *words in (*train_like, *probes):
        assert run_command(command.main, [*words, "--seed", seed]) == 2
        assert f"--seed must lie in 0 .. 2^31 - 1, found {seed}." in capsys.readouterr().err


def test_help_is_help(capsys):
    for command in COMMANDS:
        for flag in ("-h", "--help"):
            with pytest.raises(SystemExit) as stop:
                command.main([flag])
            out, err = capsys.readouterr()
            assert (stop.value.code, err) == (0, "") and "usage: unified-jax " in out  # what an installed one is called


def test_every_command_runs_as_a_module(monkeypatch, capsys):
    """Each file of cli with a `main` ends with a code when it is run; none is silent."""
    monkeypatch.setattr(heap, "keep_heap", lambda: False)
    monkeypatch.setattr(sys, "argv", ["it", "--nonsense"])
    files = [path for path in (ROOT / "unified_jax" / "cli").glob("*.py") if "\ndef main(" in path.read_text()]
    assert {path.stem for path in files} == {command.__name__.rpartition(".")[2] for command in COMMANDS}
    for path in files:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(path), run_name="__main__")
        assert stop.value.code == 2 and capsys.readouterr().err, path


@pytest.mark.parametrize(
    ("word", "known", "answer"),
    [("Heun", ["heun", "euler"], "; did you mean heun?"), ("dpm-solver", ["dpm_solver"], "; did you mean dpm_solver?"),
     ("color", ["shape", "colour"], "; did you mean colour?"), ("x", ["heun"], "."), ("", ["heun"], ".")],
)  # fmt: skip
def test_what_was_meant(word, known, answer):
    assert meant(word, known) == answer


def test_misspelt_words_are_answered_with_the_right_one(capsys):
    for command, words, answer in (
        (train, ["quikstart"], "did you mean quickstart?"),
        (plan, ["dit_conditionning"], "Recipes: "),
        (ablate, ["dit_conditionning"], "did you mean dit_conditioning?"),
        (probe, ["atention"], "did you mean attention?"),
        (sample, ["--run", "x", "--formats", "sheets"], "did you mean sheet?"),
    ):
        assert run_command(command.main, words) == 2
        assert answer in capsys.readouterr().err


def test_a_misspelt_parameter_of_a_recipe_is_answered_with_the_right_one(capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["world_text", "--bakbone", "dit"])
    assert "parameters of its own: --bakbone; did you mean --backbone?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        train.main(["world_text", "--stepps", "3"])  # a flag of all recipes: the parser's own answer
    assert "parameters of its own" not in capsys.readouterr().err


def test_a_word_that_is_no_source_of_data_is_told_what_would_be(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "empty"
    folder.mkdir()
    (tmp_path / "mine.py").write_text("")
    for words, told in (
        (["show", "mine"], "no file, folder or recipe 'mine'; did you mean mine.py?"),
        (["encode", "mine"], "Unknown recipe 'mine'; did you mean mine.py? Recipes: caption"),
        (["latents", "mine"], "no run directory or recipe 'mine'; did you mean mine.py?"),
        (["show", "nothere"], "There is no file, folder or recipe 'nothere'. Usage: unified-jax data show PATH or REC"),
        (["build", "quikstart"], "no file, folder or recipe 'quikstart'; did you mean quickstart?"),
        (["check", str(folder)], f"unified-jax data check images --data.path {folder}"),
        (["show", str(folder)], "holds no files with data; expected pictures, sounds, films, tables or tars"),
        (["check", "images", "--data.path", str(folder)], "has no image files (.png, .jpg,"),
    ):
        assert run_command(data.main, words) == 2
        assert told in capsys.readouterr().err


def test_without_a_home_commands_go_on_without_a_cache(monkeypatch, tmp_path, capsys):
    """Also where the folder that was asked for cannot be written: JAX is then told to leave it alone."""
    told = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: told.update({name: value}))
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    use_compilation_cache()
    assert not told
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    use_compilation_cache()
    assert told["jax_compilation_cache_dir"] == str(tmp_path / "cache")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file"))
    use_compilation_cache()
    assert told["jax_compilation_cache_dir"] is None
    assert "Compiled programs are not kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "A file of the run cannot be written: No space left"),
        (OSError(errno.EROFS, "Read-only file system", "/out/x"), "/out/x cannot be written: Read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/x"), "/runs/x cannot be used: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "xxx"), "xxx cannot be used: File name too long"),
        (MemoryError("Unable to allocate 7 GiB"), "The memory of this machine does not suffice: Unable to allocate"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "try a smaller batch or model"),
    ],
)  # fmt: skip
def test_what_the_machine_refuses_is_a_sentence(error, words, capsys):
    def refused(arguments):
        raise error

    assert run_command(refused, []) == 1
    assert words in capsys.readouterr().err


def test_what_is_not_the_machines_doing_is_not_hidden():
    def broken(arguments):
        raise ConnectionError("no file at all")

    with pytest.raises(ConnectionError):
        run_command(broken, [])


def test_a_list_given_twice_is_refused_and_not_half_read():
    words = ["--run", "x", "--axes", "shape=3", "--axes", "colour=2"]
    with pytest.raises(UserError, match="--axes is given twice; write all its values behind one --axes"):
        parse(sample.SampleCommand, "sample", words)
    assert parse(sample.SampleCommand, "sample", [*words[:3], "shape=3", "colour=2"]).axes == ("shape=3", "colour=2")
    assert parse(sample.SampleCommand, "sample", ["--run", "x", "--seed", "1", "--seed", "2"]).seed == 2


@pytest.mark.parametrize(("words", "value"), [((), None), (("--complete",), True), (("--no-complete",), False)])
def test_what_is_left_open_may_be_switched_by_a_word(words, value):
    command = parse(sample.SampleCommand, "sample", [*words, "--run", "x", *words])
    assert command.complete is value and command.run == "x"
    assert parse(sample.SampleCommand, "sample", ["--run", "x", "--complete", "True"]).complete is True
