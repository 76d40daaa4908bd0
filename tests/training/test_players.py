"""Players in one step, and statistics that become aux: by hand, over accumulation, meshes, strict, and stops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import EXPERIMENT, first_steps
from unified_jax.errors import UserError
from unified_jax.modalities.image import Image
from unified_jax.models.base import Declared, Player
from unified_jax.precision import seed_key
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.loop import train
from unified_jax.runs.start import Start
from unified_jax.sharding import MeshShape, make_mesh
from unified_jax.training.algorithms import AdamW
from unified_jax.training.balancing import FixedBalance, PcGrad
from unified_jax.training.ema import Ema
from unified_jax.training.experiment import Checkpointing
from unified_jax.training.optimizer import Optimization
from unified_jax.training.players import play
from unified_jax.training.program import assemble
from unified_jax.training.step import Optimizer, init_state

SGD = Optimization(AdamW(b1=0.0, b2=0.0), learning_rate=0.1)  # its step is the sign of the gradient


@dataclasses.dataclass(frozen=True)
class Duel(Declared):
    """A line through the mean brightness, and a critic that wants the opposite; both see each other."""

    modality: Image = Image(16, 16, 3, patch=8)
    players: tuple[Player, ...] = (
        Player("maker", ("^make/",), ("close", "fooled")),
        Player("critic", ("^judge/",), ("seen",), SGD, start=1, every=2),
    )

    @property
    def modalities(self):
        return (self.modality,)

    def init(self, key):
        return {"make": {"kernel": jnp.full((3,), 0.5)}, "judge": {"kernel": jnp.full((3,), -0.2)}}

    def axes(self):
        return {"make": {"kernel": (None,)}, "judge": {"kernel": (None,)}}

    def losses(self, params, aux, batch, key):
        x = self.modality.to_model(jnp.asarray(batch["image"])).mean((1, 2))
        made = x * params["make"]["kernel"]
        judged = jnp.tanh(made @ params["judge"]["kernel"])
        ones = jnp.ones(len(x))
        terms = {
            "close": (((made - 1) ** 2).sum(1), ones),
            "fooled": (judged + 0.0 * batch["step"], ones),
            "seen": (-judged, ones),
        }
        return terms, {}, {}


@dataclasses.dataclass(frozen=True)
class Codebook(Declared):
    """Two words that follow the mean colours nearest to them (van den Oord et al. 2017, appendix A.1)."""

    modality: Image = Image(16, 16, 3, patch=8)
    decay: float = 0.8

    @property
    def modalities(self):
        return (self.modality,)

    def init(self, key):
        return {"shift": {"kernel": jnp.zeros(3)}}

    def axes(self):
        return {"shift": {"kernel": (None,)}}

    def init_aux(self, params):
        return {"words": jnp.asarray([[-0.5, -0.5, -0.5], [0.1, 0.1, 0.1]]), "count": jnp.ones(2)}

    def losses(self, params, aux, batch, key):
        x = self.modality.to_model(jnp.asarray(batch["image"])).mean((1, 2)) + params["shift"]["kernel"]
        distance = ((x[:, None] - aux["words"]) ** 2).sum(-1)
        chosen = jax.nn.one_hot(distance.argmin(1), 2)
        statistics = {"sum": chosen.T @ jax.lax.stop_gradient(x), "count": chosen.sum(0)}
        return {"near": (distance.min(1), jnp.ones(len(x)))}, statistics, {}

    def settle_aux(self, aux, statistics):
        share = self.decay
        count = share * aux["count"] + (1 - share) * statistics["count"]
        total = share * aux["words"] * aux["count"][:, None] + (1 - share) * statistics["sum"]
        return {"words": total / count[:, None], "count": count}


def experiment(model, **fields):
    plain = {"tuning": EXPERIMENT.tuning, "preview": dataclasses.replace(EXPERIMENT.preview, every=0)}
    optimizer = Optimization(AdamW(), learning_rate=1e-2)
    return dataclasses.replace(EXPERIMENT, model=model, optimizer=optimizer, ema=(Ema(0.9),), **plain, **fields)


def learned(state):
    return jax.tree.leaves((state.params, state.aux))


def test_each_player_sees_what_the_others_have_become():
    model, optimizer = Duel(), Optimizer(SGD, (Ema(0.0),), 10)
    state = init_state(model, optimizer, FixedBalance(), seed_key(0))
    batch = {"image": np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8), "slot": np.arange(4)}

    def loss(params, names):
        terms = model.losses(params, {}, batch | {"step": 0}, None)[0]
        return sum(terms[name][0].mean() for name in names)

    params, step = state.params, jax.jit(functools.partial(play, model, optimizer, FixedBalance()))
    for i in range(4):
        state, metrics = step(state, {}, batch, seed_key(0))
        for player in model.players:
            if i >= player.start and (i - player.start) % player.every == 0:
                part = "make" if player.name == "maker" else "judge"
                slope = jax.grad(lambda p, names=player.terms: loss(p, names))(params)[part]["kernel"]
                moved = params[part]["kernel"] - 0.1 * jnp.sign(slope)
                params = params | {part: {"kernel": moved}}
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        assert set(metrics) >= {"loss/close", "loss/seen", "lr/critic", "grad_norm/maker", "finite"}
    assert set(state.opt_state) == {"maker", "critic"}


def test_one_finite_decision_for_all():
    model, optimizer = Duel(), Optimizer(SGD, (Ema(0.0),), 10)
    state = init_state(model, optimizer, FixedBalance(), seed_key(0))
    broken = dataclasses.replace(
        state, params=state.params | {"judge": {"kernel": jnp.full(3, jnp.nan)}}, step=jnp.asarray(1)
    )
    batch = {"image": np.zeros((4, 16, 16, 3), np.uint8), "slot": np.arange(4)}
    after, metrics = jax.jit(functools.partial(play, model, optimizer, FixedBalance()))(broken, {}, batch, seed_key(0))
    assert not metrics["finite"] and int(after.step) == 2
    np.testing.assert_array_equal(after.params["make"]["kernel"], state.params["make"]["kernel"])


@functools.cache
def steps_of(model, steps=4):
    """(losses, state) on one device."""
    return first_steps(experiment(model), 1, steps)


@pytest.mark.parametrize("model", [Duel(), Codebook()], ids=["players", "codebook"])
def test_accumulation_and_meshes_change_nothing(model):
    one, state = steps_of(model)
    assert one[-1] < one[0] or isinstance(model, Duel)
    losses, other = first_steps(experiment(model, accumulate=2, mesh=MeshShape(2, 2)), 4, 4)
    np.testing.assert_allclose(losses, one, rtol=1e-5, atol=3e-6)
    for a, b in zip(learned(state), learned(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_codebook_moves_as_its_equation_says_and_under_strict():
    model = Codebook()
    _, state = first_steps(experiment(model, reduction="strict", virtual_shards=8), 1, 4)
    _, eight = first_steps(experiment(model, reduction="strict", virtual_shards=8, mesh=MeshShape(data=8)), 8, 4)
    for a, b in zip(learned(state), learned(eight), strict=True):
        np.testing.assert_array_equal(a, b)
    _, fast = steps_of(model)
    np.testing.assert_allclose(state.aux["words"], fast.aux["words"], rtol=1e-5)
    assert np.abs(np.asarray(fast.aux["words"]) - np.asarray(model.init_aux({})["words"])).max() > 0.01


@pytest.mark.parametrize(
    ("players", "fields", "words"),
    [
        ((Player("a", ("nothing",), ("close",)),), {}, "'a' trains nothing"),
        ((Player("a", (".*",), ("closer",)),), {}, r"names the terms \['closer'\]"),
        ((Player("a", (".*",), ("close",)), Player("b", ("judge",), ("seen",))), {}, "trained by two players"),
        ((Player("a", ("make",), ("close", "fooled", "seen")),), {}, "No player trains judge/kernel"),
        ((Player("a", (".*",), ("close", "fooled", "seen"), start=3),), {}, "must play every step"),
        (Duel().players, {"balance": PcGrad()}, "constant weights"),
        (Duel().players, {"reduction": "strict"}, "--reduction fast"),
    ],
)
def test_what_cannot_be_played_is_a_sentence_before_anything_is_compiled(players, fields, words):
    e = experiment(Duel(players=players), **fields)
    with pytest.raises(UserError, match=words):
        assemble(e, make_mesh(MeshShape(), jax.devices()[:1]))


@pytest.mark.parametrize("model", [Duel(), Codebook()], ids=["players", "codebook"])
def test_they_go_on_after_a_stop_as_if_there_was_none(model, tmp_path, one_device):
    e = experiment(model, steps=6, checkpoint=Checkpointing(every=3))
    e = dataclasses.replace(e, validation=dataclasses.replace(e.validation, every=0), log_every=1)
    train(e, Start(tmp_path / "whole", quiet=True))
    train(dataclasses.replace(e, steps=3), Start(tmp_path / "parts", quiet=True))
    train(e, Start(tmp_path / "parts", quiet=True))
    program = assemble(e, make_mesh(MeshShape(), jax.devices()[:1]))
    states = [Checkpoints(tmp_path / n, write=False).restore(program.abstract_state()) for n in ("whole", "parts")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
