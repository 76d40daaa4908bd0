"""What a person may type after --given and --sampler ends in a sentence. See cases.py for running more."""

import contextlib
import dataclasses
import math

import numpy as np
from hypothesis import example, given, strategies as st

from tests.fuzz.cases import cases, complaint
from unified_jax.config import fits
from unified_jax.data.world.scene import COLOURS, SHAPES
from unified_jax.modalities.label import Label
from unified_jax.models.diffusion import Diffusion
from unified_jax.runs.flags import real, whole
from unified_jax.runs.given import read_given, split_arguments
from unified_jax.runs.sampling_flags import parse_sampler, sampler_names
from unified_jax.samplers.karras import Churn

LABELS = (Label("shape", 6, SHAPES), Label("colour", 8, COLOURS), Label("size", 3))
MODEL = Diffusion(conditions=LABELS)
WORDS = [
    *SHAPES,
    *COLOURS,
    "a",
    "and",
    "two",
    "small",
    "large",
    "top",
    "left",
    "moving",
    "1",
    "-1",
    "6",
    "9" * 40,
    "",
    "²",
    "٣",
]
VALUE = st.one_of(
    st.text(max_size=12),
    st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join),
    st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), max_size=5).map(",".join),
    st.sampled_from(["@", "@.", "@/", "@\0", "@/dev/null", "@/dev/zero", "@" + "x" * 5000, "@~", "@@"]),
)
NAME = st.one_of(st.sampled_from(["shape", "colour", "size", "caption", "", "class", "SHAPE"]), st.text(max_size=5))
FIELDS = sorted(
    {f.name for c in (*sampler_names().values(), Churn) for f in dataclasses.fields(c)} | {"kind", "__class__"}
)
NUMBER = st.one_of(
    st.sampled_from(
        ["1", "2", "0.5", "inf", "-inf", "nan", "1e400", "true", "False", "1_0", "0x3", "", "٣", "bh2", "None"]
    ),
    st.floats().map(str),
    st.integers().map(str),
    st.text(max_size=4),
)
OPTION = st.one_of(st.builds("{}={}".format, st.sampled_from(FIELDS), NUMBER), st.text(max_size=6))
SAMPLER = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(sorted(sampler_names())), st.lists(OPTION, max_size=3).map(",".join)),
    st.text(max_size=20),
)


@cases(270)
@given(name=NAME, value=VALUE, count=st.integers(1, 5))
@example(name="shape", value="@/dev/zero", count=1)
def test_given(name, value, count):
    columns = {}
    said = complaint(lambda: columns.update(read_given({name: value}, MODEL, count)))
    if said:
        assert "--given" in said
        return
    for label in LABELS:
        column = columns[label.name]
        assert column.shape == (count,) and column.dtype == np.int32
        assert ((column >= 0) & (column <= label.null)).all()


@cases(170)
@given(
    words=st.lists(st.one_of(st.text(max_size=6), NAME.map("--given.{}".format), st.just("--given.a=b")), max_size=5)
)
def test_splitting_a_command_line_loses_nothing(words):
    if said := complaint(lambda: split_arguments(words)):
        assert "needs a value" in said or "is given twice" in said
        return
    found, rest = split_arguments(words)
    assert len(words) - len(found) <= len(found) + len(rest) <= len(words)
    assert all(not word.startswith("--given.") for word in rest)


@cases(340)
@given(text=NUMBER, flag=st.booleans())
@example(text="1e400", flag=True)
@example(text="9e18", flag=False)
def test_numbers(text, flag):
    """Read or refused; what is read is finite, and of 64 bits where it is whole."""
    for kind, read in ((int, whole), (float, lambda text: real(text, flag))):
        value: int | float | None = None
        with contextlib.suppress(ValueError):
            value = read(text)
        if value is None:
            continue
        assert type(value) is kind
        assert -(2**63) <= value < 2**63 if kind is int else math.isfinite(value) or (flag and "inf" in text.lower())


@cases(340)
@given(text=SAMPLER)
@example(text="dpm_solver:order=inf")
@example(text="dpm_solver:order=1.5")
@example(text="karras:churn=nan")
@example(text="karras:churn=inf")
@example(text="karras:high=1e400")
@example(text="karras:low=3,high=2")
def test_sampler(text):
    if said := complaint(lambda: parse_sampler(text)):
        assert "sampler" in said
        return
    made = parse_sampler(text)
    assert type(made) in sampler_names().values()
    for field in dataclasses.fields(made):
        assert fits(getattr(made, field.name), field.type)
        numbers = dataclasses.astuple(made.churn) if field.name == "churn" else (getattr(made, field.name),)
        assert all(math.isfinite(n) or n == math.inf == Churn().high for n in numbers if isinstance(n, float))
