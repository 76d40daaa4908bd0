"""Attention over runs in float64, dense, with its gradient written out: what the kernels are compared with."""

import numpy as np


def dense(q, k, v, visible, do, dlse):
    """(out, lse, dq, dk, dv) in float64 for `[b, n, h, e]` and the cotangents of out and lse."""
    q, k, v, do, dlse = (np.asarray(x, np.float64) for x in (q, k, v, do, dlse))
    repeats = q.shape[2] // k.shape[2]
    many_k, many_v = np.repeat(k, repeats, axis=2), np.repeat(v, repeats, axis=2)
    scores = np.einsum("bnhe,bmhe->bhnm", q, many_k) / np.sqrt(q.shape[-1])
    place = np.arange(k.shape[1])
    mask = ((place >= visible[..., :1]) & (place < visible[..., 1:]))[:, None]
    top = np.max(np.where(mask, scores, -np.inf), axis=-1, keepdims=True, initial=-1e300)
    raised = np.where(mask, np.exp(np.where(mask, scores - top, 0)), 0)
    total = raised.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = np.moveaxis(np.where(total > 0, top + np.log(total), -np.inf)[..., 0], 1, 2)
    p = raised / np.where(total > 0, total, 1)
    out = np.einsum("bhnm,bmhe->bnhe", p, many_v)
    dp = np.einsum("bnhe,bmhe->bhnm", do, many_v)
    d = np.sum(do * out, axis=-1) - dlse
    ds = p * (dp - np.moveaxis(d, 1, 2)[..., None]) / np.sqrt(q.shape[-1])
    dq = np.einsum("bhnm,bmhe->bnhe", ds, many_k)
    by_group = lambda x: x.reshape(*x.shape[:2], k.shape[2], repeats, -1).sum(3)  # noqa: E731
    dk = by_group(np.einsum("bhnm,bnhe->bmhe", ds, q))
    dv = by_group(np.einsum("bhnm,bnhe->bmhe", p, do))
    return out, lse, dq, dk, dv


def runs(kind, b, n, m, rng):
    """int32 `[b, n, 2]` of a kind."""
    i = np.arange(n)
    if kind == "full":
        start, stop = np.zeros(n), np.full(n, m)
    elif kind == "causal":
        start, stop = np.zeros(n), np.minimum(i + 1, m)
    elif kind == "window":
        start, stop = np.maximum(i - 20, 0), np.minimum(i + 21, m)
    elif kind == "random":  # some empty, some beyond their neighbours' blocks
        start = rng.integers(0, m + 1, (b, n))
        stop = np.minimum(start + rng.integers(0, m + 1, (b, n)) * (rng.random((b, n)) < 0.8), m)
        return np.stack([start, stop], axis=-1).astype(np.int32)
    elif kind == "packed":  # documents of text with a span each, as Transfusion packs them
        starts, stops = np.zeros((b, n)), np.zeros((b, n))
        for row in range(b):
            first = 0
            while first < n:
                last = min(n, first + int(rng.integers(1, max(2, n // 2) + 1)))
                span = sorted(rng.integers(first, last + 1, 2))
                own = np.arange(first, last)
                starts[row, first:last] = first
                stops[row, first:last] = np.where((own >= span[0]) & (own < span[1]), span[1], own + 1)
                first = last
        return np.stack([starts, np.minimum(stops, m)], axis=-1).astype(np.int32)
    else:
        raise ValueError(kind)
    return np.broadcast_to(np.stack([start, stop], axis=-1), (b, n, 2)).astype(np.int32)


def dense_tangent(given, along, step=1e-5):
    """The tangents of `dense` for (q, k, v, do, dlse) `given`, by central differences in float64: within 1e-8."""
    q, k, v, visible, do, dlse = given
    sides = []
    for sign in (1, -1):
        moved = [np.asarray(x, np.float64) + sign * step * t for x, t in zip((q, k, v, do, dlse), along, strict=True)]
        sides.append(dense(*moved[:3], visible, *moved[3:]))
    finite = [[np.where(np.isfinite(x), x, 0) for x in side] for side in sides]
    return [(a - b) / (2 * step) for a, b in zip(*finite, strict=True)]
