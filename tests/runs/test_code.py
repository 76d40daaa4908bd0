"""Code of the user's own: imported by name, kept with its checksums, and found again in another process."""

import dataclasses
import json
import subprocess
import sys
import textwrap

import pytest

from unified_jax.config import from_plain, to_plain
from unified_jax.errors import UserError
from unified_jax.runs.code import admitted, changed_code, check_own_classes, import_file, keep_code, kept_code

OWN = """
import dataclasses
from own_parts.numbers import ONE

@dataclasses.dataclass(frozen=True)
class Thing:
    size: int = ONE
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a file and a package beside it; modules and path as before, afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "mine"
    (folder / "own_parts").mkdir(parents=True)
    (folder / "own_parts" / "__init__.py").write_text("")
    (folder / "own_parts" / "numbers.py").write_text("from . import more\nONE = more.ONE\n")
    (folder / "own_parts" / "more.py").write_text("ONE = 1\n")
    (folder / "own_parts" / "unused.py").write_text("")
    (folder / "own_thing.py").write_text(OWN)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            sys.modules.pop(name)


def test_a_run_keeps_what_its_classes_need_and_no_more(own, tmp_path):
    thing = import_file(own / "own_thing.py").Thing(3)
    run = tmp_path / "run"
    keep_code(run, thing, 0)
    kept = sorted(str(p.relative_to(run / "code")) for p in (run / "code").rglob("*.py"))
    assert kept == ["own_parts/__init__.py", "own_parts/more.py", "own_parts/numbers.py", "own_thing.py"]
    assert not changed_code(run, thing)
    assert from_plain(to_plain(thing), admitted(run, trust=False)) == thing  # these very bytes are loaded
    script = f"""
        from pathlib import Path
        from unified_jax.config import from_plain
        from unified_jax.errors import UserError
        from unified_jax.runs.code import admitted
        plain = {json.dumps(to_plain(thing))}
        try:
            from_plain(plain, admitted(Path("run"), False))
        except UserError as error:
            print(error)
        print(from_plain(plain, admitted(Path("run"), True)))
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert "pass --trust if you wrote it" in found.stdout and "Thing(size=3)" in found.stdout, found.stderr


def test_changed_code_is_seen_recorded_and_the_old_one_kept(own, tmp_path):
    thing = import_file(own / "own_thing.py").Thing()
    keep_code(tmp_path / "run", thing, 0)
    (own / "own_thing.py").write_text(OWN + "\nMORE = 2\n")
    again = import_file(own / "own_thing.py").Thing()
    with pytest.raises(UserError, match="its file has changed"):
        check_own_classes(thing)
    assert changed_code(tmp_path / "run", again) == ["own_thing"]
    keep_code(tmp_path / "run", again, 120)
    assert [c["step"] for c in kept_code(tmp_path / "run")["changes"]] == [120]
    assert (tmp_path / "run" / "code" / "before_step_120" / "own_thing.py").read_text() == OWN
    assert not changed_code(tmp_path / "run", again)


def test_another_module_of_the_name_is_never_taken_for_it(own, tmp_path):
    run = tmp_path / "run"
    keep_code(run, import_file(own / "own_thing.py").Thing(), 0)
    (own / "own_thing.py").write_text(OWN + "\n")
    other = import_file(own / "own_thing.py").Thing()
    with pytest.raises(UserError, match="keeps another 'own_thing'"):
        from_plain(to_plain(other), admitted(run, trust=True))
    (run / "code" / "own_thing.py").write_text("")
    sys.modules.pop("own_thing")
    with pytest.raises(UserError, match="is not the file that the run kept"):
        from_plain(to_plain(other), admitted(run, trust=True))


@pytest.mark.parametrize("name", ["random", "jax", "unified_jax", "flax"])
def test_a_file_named_like_another_module_is_refused(own, name):
    (own / f"{name}.py").write_text("")
    with pytest.raises(UserError, match="rename the file"):
        import_file(own / f"{name}.py")


def test_a_module_that_hides_the_one_beside_a_file_is_named(own):
    (own / "textwrap.py").write_text("")
    (own / "own_thing.py").write_text("import textwrap\n")
    with pytest.raises(UserError, match=r"imports 'textwrap', and got .* rename the latter"):
        import_file(own / "own_thing.py")


def test_classes_that_no_path_finds_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Local:
        pass

    with pytest.raises(UserError, match="cannot be found by its path"):
        check_own_classes((Local(),))
