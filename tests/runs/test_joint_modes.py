"""Marginals, round trips and chains of an evaluation, with samplers that are known: exact ones, and one that stays."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import unified_jax as uj
from tests.helpers import EXPERIMENT, MODEL
from unified_jax.evaluation.joint_modes import excess
from unified_jax.models.gibbs import GibbsChain
from unified_jax.runs.bench import Bench
from unified_jax.runs.joint_modes import Truth, count_of, mode_rows
from unified_jax.samplers.guidance import Guidance

IMAGE, TEXT = uj.Image(32, 32), uj.Text(160)
FIELDS = {"image": IMAGE, "caption": TEXT}


class Two(uj.Diffusion):
    """Any model; its modalities alone are read here."""

    modalities = (IMAGE, TEXT)


@dataclass(frozen=True)
class Known(Bench):
    """A bench whose samples are renderings of scenes: the given ones, or in a chain fresh ones, or the first again."""

    raw: Any = None
    fresh: Any = None
    stays: bool = False
    asked: list[Any] = field(default_factory=list)

    def draw(self, given, wanted, report, plan=None):
        self.asked.append((tuple(given), wanted, (plan or self.plan).guidance.scale))
        chain = isinstance(self.experiment.model, GibbsChain)
        rows = self.fresh if chain or not given else self.raw
        rows = {n: np.repeat(v[:1], len(v), 0) for n, v in rows.items()} if chain and self.stays else rows
        report(self.count)
        return {name: np.asarray(FIELDS[name].to_model(jnp.asarray(rows[name]))) for name in wanted}


@pytest.fixture(scope="module")
def renders():
    def of(split, count):
        source = uj.World(resolution=32, max_objects=1).source(split, ("image", "caption"))
        found = [source[i] for i in range(count)]
        return {
            "image": np.stack([one["image"] for one in found]),
            "caption": np.stack([TEXT.prepare(str(one["caption"])) for one in found]),
        }, [source.scene(i) for i in range(count)]

    return of("test", 400), of("train", 400)[0]


@pytest.mark.parametrize("stays", [False, True])
def test_exact_samplers_reach_every_goal_and_a_chain_that_stays_does_not(renders, stays):
    (raw, scenes), fresh = renders
    model = Two(MODEL.network, MODEL.process, MODEL.modality)
    done: list[int] = []
    experiment: Any = replace(EXPERIMENT, model=model)
    plan = uj.SamplingPlan(guidance=Guidance(2.0))
    bench = Known(experiment, {}, 400, 64, 0, plan, show=False, raw=raw, fresh=fresh, stays=stays)
    rows = mode_rows(bench, "test", Truth(scenes, raw), done.append)
    by = {(row["metric"], *row["given"], *row["wanted"]): row["value"] for row in rows}
    assert min(by["readable", "image"], by["readable", "caption"]) > 0.98
    assert min(by["kept", "image", "image"], by["kept", "caption", "caption"]) > 0.97
    assert excess(rows, "tv/") < 0.05
    assert (excess(rows, "gibbs_tv") > 0.4) == stays and (excess(rows, "gibbs_tv") < 0.05) != stays
    assert len(done) == count_of(model) and "evaluation_test_gibbs.png" in bench.pictures
    assert [one for one in bench.asked if len(one[1]) == 2] == [(("caption",), ("image", "caption"), 1.0)]
