"""Reference numbers of PCGrad and GradNorm.

PCGrad: WeiChengTseng's shuffles the same list again and again, so that its orders compose; it gives the mean. LibMTL's
shuffles anew and gives the sum. With heads of their own, WeiChengTseng's projects the heads along with the shared
parameters and counts them in |g_j|^2; the paper (and `training.projection`) excludes them.
GradNorm: LibMTL's weights are n softmax(scale), so its slope goes through the softmax.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unified_jax.certify import NotOurs
from unified_jax.certify.options import Check, anything, count, either, number, require
from unified_jax.training.balancing import gradnorm_loss
from unified_jax.training.projection import coefficients, project

PCGRAD: dict[str, Check] = dict.fromkeys(("seed", "tasks", "dim", "conflict"), anything)
PCGRAD |= {"reduction": either("mean", "sum")}
LIBMTL: dict[str, Check] = {"seed": anything, "din": anything, "dout": anything, "tasks": count, "steps": count}
LIBMTL |= {"alpha": number, "lr": number, "lr_w": number}
TOY: dict[str, Check] = dict.fromkeys(("seed", "d", "h", "k", "sigma"), anything)
TOY |= {"steps": count, "alpha": number}


def run_pcgrad(tensors: dict[str, np.ndarray], cfg: dict[str, Any]) -> dict[str, Any]:
    """Families pcgrad_*: the merged gradient, and the parameters after one step of SGD."""
    require(cfg, PCGRAD)
    gradients = jnp.asarray(tensors["in/grads"])
    perms = np.asarray(tensors["in/perms"])
    count = len(gradients)
    composed, order = [], np.arange(count)
    for perm in perms:
        order = order[perm]
        composed.append(order)
    theirs = project({"p": gradients}, jnp.asarray(np.stack(composed)))["p"]
    theirs = theirs / (count if cfg.get("reduction", "mean") == "mean" else 1)
    found: dict[str, Any] = {"weichengtseng.grad": theirs}
    found["libmtl.grad"] = project({"p": gradients}, jnp.asarray(perms))["p"]
    found["libmtl.batch_weight"] = jnp.sum(coefficients(gradients @ gradients.T, jnp.asarray(perms)), axis=0)
    found["weichengtseng.after_sgd"] = jnp.asarray(tensors["in/p0"]) - 0.1 * theirs  # the file's rate
    for name in [n for n in tensors if n.startswith("out/weichengtseng.multihead")]:
        found[name.removeprefix("out/")] = NotOurs(
            "projects each term's own head along with the shared parameters; the heads' gradients are not in the file"
        )
    return found


def run_gradnorm_libmtl(tensors: dict[str, np.ndarray], cfg: dict[str, Any]) -> dict[str, Any]:
    """Family gradnorm_libmtl: several steps of weights and parameter."""
    require(cfg, LIBMTL)
    x, y, first = (jnp.asarray(tensors[f"in/{name}"]) for name in ("X", "Y", "loss0"))
    w, scale = jnp.asarray(tensors["in/W"]), jnp.asarray(tensors["in/loss_scale"])
    count = cfg["tasks"]
    rows: dict[str, list[Any]] = {n: [] for n in ("losses", "weights", "grad_loss_scale", "grad_W", "W", "loss_scale")}

    def losses_of(w: Any) -> Any:
        return 0.5 * jnp.mean((x @ w - y) ** 2, axis=(1, 2))

    for _ in range(cfg["steps"]):
        losses, each = losses_of(w), jax.jacrev(losses_of)(w)
        norms = jnp.sqrt(jnp.sum(each**2, axis=(1, 2)))
        here = jnp.ones(count, bool)

        def of_scale(s: Any, norms: Any = norms, losses: Any = losses, here: Any = here) -> Any:
            return gradnorm_loss(count * jax.nn.softmax(s), norms, losses, first, here, cfg["alpha"])

        weights, slope = count * jax.nn.softmax(scale), jax.grad(of_scale)(scale)
        gradient = jnp.tensordot(weights, each, 1)
        w, scale = w - cfg["lr"] * gradient, scale - cfg["lr_w"] * slope
        for name, value in zip(rows, (losses, weights, slope, gradient, w, scale), strict=True):
            rows[name].append(value)
    return {name: jnp.stack(values) for name, values in rows.items()}


def run_gradnorm_toy(tensors: dict[str, np.ndarray], cfg: dict[str, Any]) -> dict[str, Any]:
    """Family gradnorm_toy: Adam on network and weights, the weights renormalised after each step."""
    require(cfg, TOY)
    net = {name.removeprefix("param/"): jnp.asarray(v) for name, v in tensors.items() if name.startswith("param/")}
    x, y = jnp.asarray(tensors["in/x"]), jnp.asarray(tensors["in/y"])
    count = y.shape[1]

    def losses_of(net: Any) -> Any:
        h = jax.nn.relu(x @ net["l1.weight"].T + net["l1.bias"])
        h = jax.nn.relu(h @ net["l4.weight"].T + net["l4.bias"])
        outs = [h @ net[f"task_{i}.weight"].T + net[f"task_{i}.bias"] for i in range(count)]
        return jnp.stack([jnp.mean((out - y[:, i]) ** 2) for i, out in enumerate(outs)])

    adam: Any = optax.adam(1e-4)
    weights: Any = jnp.ones(count)
    first = losses_of(net)
    state = adam.init((net, weights))
    rows: dict[str, list[Any]] = {
        n: [] for n in ("weights_before", "weights_grad", "l4_grad", "weights_after_step", "l4")
    }
    for _ in range(cfg["steps"]):
        losses, each = losses_of(net), jax.jacrev(losses_of)(net)
        norms = jnp.sqrt(jnp.sum(each["l4.weight"] ** 2, axis=(1, 2)))
        here = jnp.ones(count, bool)
        slope = jax.grad(gradnorm_loss)(weights, norms, losses, first, here, cfg["alpha"])
        gradient: Any = jax.tree.map(lambda g, w=weights: jnp.tensordot(w, g, 1), each)
        updates, state = adam.update((gradient, slope), state)
        before: Any = weights
        moved: Any = optax.apply_updates((net, weights), updates)
        net, weights = moved  # type: ignore[misc]
        for name, value in zip(rows, (before, slope, gradient["l4.weight"], weights, net["l4.weight"]), strict=True):
            rows[name].append(value)
        weights = weights * count / jnp.sum(weights)
    return {name: jnp.stack(values) for name, values in rows.items()} | {"weights_final": weights}
