"""Says where the time of our training step goes: whole, then a block's parts, each forward and with its gradient.

    python benchmarks/profile_step.py [--tokens 64 256] [--rounds 7] [--remat dots]

Seconds are processor seconds of this process (user and system, all threads), the least of the rounds, so that other
users of the machine count little; on idle cores the wall clock takes about that over the number of threads. The parts
are compiled one by one and a block's are multiplied by the depth: their sum need not be the whole step, which fuses
across them, moves parameters through the scan and recomputes what the policy of rematerialisation says.

Writes benchmarks/results/profile_step.json, and the tables that benchmarks/profile.md quotes to the screen.
"""

import argparse
import resource
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ours
import sides
from turns import write

from unified_jax.kernels import xla
from unified_jax.kernels.inputs import Modulation, OutWeights, QkvWeights
from unified_jax.layers.modulation import modulated_norm
from unified_jax.training.flops import count_flops

D, HEADS, DEPTH = 384, 6, 12


def processor_ms(call: Callable[[], Any], rounds: int) -> float:
    """Least processor time of a call that ends when its results are there."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    jax.block_until_ready(call())
    taken = []
    for _ in range(rounds):
        start = used()
        jax.block_until_ready(call())
        taken.append(used() - start)
    return 1e3 * min(taken)


def whole(tokens: int, remat: str, rounds: int) -> list[dict[str, Any]]:
    """Forward, gradient, update and the step itself."""
    given = sides.inputs(tokens)
    model = ours.make_model(sides.SIDES[tokens], sides.CHANNELS, sides.PATCH, sides.CLASSES, {"remat": remat})
    params = ours.make_params(model)
    trainer = ours.Trainer(model, params, given["images"], given["labels"])

    def loss(params: Any) -> jax.Array:
        terms, _, _ = model.losses(params, {}, trainer.batch, trainer.key)
        return sum(jnp.mean(total) for total, _ in terms.values())  # type: ignore[return-value]

    forward, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
    rows = [
        {"part": "forward and loss", "ms": processor_ms(lambda: forward(params), rounds)},
        {"part": "gradient (forward and backward)", "ms": processor_ms(lambda: gradient(params), rounds)},
        {"part": "step", "ms": processor_ms(trainer.step, rounds)},
    ]
    rows.append({"part": "update (step - gradient)", "ms": rows[2]["ms"] - rows[1]["ms"]})
    backward = count_flops(jax.grad(loss), params)
    work = {rows[0]["part"]: count_flops(loss, params), rows[1]["part"]: backward, "step": backward}
    return [row | {"gflops": work.get(row["part"], 0.0) / 1e9} for row in rows]


def parts(tokens: int) -> dict[str, tuple[Callable[..., jax.Array], tuple[jax.Array, ...]]]:
    """The parts of a block: a function of arrays, and arguments."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32) * 0.05)

    b, head = sides.ROWS, D // HEADS
    x, rows, a = draw(b, tokens, D), [draw(b, 1, D) for _ in range(6)], draw(b, tokens, HEADS, head)

    def qkv(x: jax.Array, shift: jax.Array, scale: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.stack(xla.modulated_qkv(x, Modulation(shift, scale, scale), QkvWeights(kernel, bias)))

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return xla.attend(q, k, v)[0]

    def out(x: jax.Array, a: jax.Array, gate: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return xla.gated_out(x, a, OutWeights(kernel, bias), gate)

    def mlp(h: jax.Array, w1: jax.Array, b1: jax.Array, w2: jax.Array, b2: jax.Array) -> jax.Array:
        hidden = jax.nn.gelu(xla.rows_of(h) @ w1 + b1, approximate=True)
        return (hidden @ w2 + b2).reshape(h.shape)

    return {
        "modulation rows (linear of c)": (lambda c, w: jax.nn.silu(c) @ w, (draw(b, D), draw(D, 6 * D))),
        "norm, modulate, qkv": (qkv, (x, *rows[:2], draw(D, HEADS, 3, head), draw(HEADS, 3, head))),
        "attention proper": (attend, (a, a + 1, a - 1)),
        "out, gate, add": (out, (x, a, rows[2], draw(HEADS, head, D), draw(D))),
        "norm, modulate (of the mlp)": (modulated_norm, (x, rows[3], rows[4])),
        "mlp": (mlp, (x, draw(D, 4 * D), draw(4 * D), draw(4 * D, D), draw(D))),
        "gate, add (of the mlp)": (lambda x, gate, h: x + gate * h, (x, rows[5], x + 1)),
    }


def block(tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Each part of a block times the depth: forward, and forward with the gradient by every argument."""
    found = []
    for name, (function, arguments) in parts(tokens).items():
        indices = tuple(range(len(arguments)))
        forward = jax.jit(function)
        weight = jnp.ones(jax.eval_shape(function, *arguments).shape) * 0.3

        def both(weight: jax.Array, *values: jax.Array, f: Any = function, i: Any = indices) -> Any:
            return jax.value_and_grad(lambda *v: jnp.vdot(weight, f(*v)), i)(*values)

        gradient = jax.jit(both)
        found.append(
            {
                "part": name,
                "forward_ms": DEPTH * processor_ms(lambda f=forward, a=arguments: f(*a), rounds),
                "gradient_ms": DEPTH * processor_ms(lambda f=gradient, w=weight, a=arguments: f(w, *a), rounds),
                "forward_gflops": DEPTH * count_flops(function, *arguments) / 1e9,
            }
        )
    return found


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256], choices=[64, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--remat", default="full", choices=["none", "full", "dots"])
    options = parser.parse_args()
    result: dict[str, Any] = {"remat": options.remat, "rounds": options.rounds, "rows": sides.ROWS}
    for tokens in options.tokens:
        rows, inner = whole(tokens, options.remat, options.rounds), block(tokens, options.rounds)
        print(f"\n{tokens} tokens, batch {sides.ROWS}\n| whole | processor ms | GFLOP |\n|---|---|---|")
        print("\n".join(f"| {r['part']} | {r['ms']:.0f} | {r['gflops']:.1f} |" for r in rows))
        print("\n| part, all blocks | forward ms | with gradient ms | GFLOP forward |\n|---|---|---|---|")
        for r in inner:
            print(f"| {r['part']} | {r['forward_ms']:.0f} | {r['gradient_ms']:.0f} | {r['forward_gflops']:.1f} |")
        result[str(tokens)] = {"whole": rows, "block": inner}
    write("profile_step", result)


if __name__ == "__main__":
    main()
