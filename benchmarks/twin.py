"""The same network, training step and sampler in PyTorch, written as its users write them; imports no jax.

`Twin` is DiT with adaLN-Zero over images `[b, h, w, c]` (as `unified_jax.networks.dit`, sizes from `Shape`), `load`
copies a parameter tree of ours into it. `Trainer` is one step of AdamW (the fused one, PyTorch's fastest) with the
average of the weights and the norms that ours reports. `sample` is Euler's method with classifier-free guidance, both
halves in one batch as in the published DiT code.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shape(NamedTuple):
    """Sizes of the network and of its images."""

    depth: int
    width: int
    heads: int
    side: int
    channels: int
    patch: int
    classes: int

    @property
    def grid(self) -> int:
        """Patches in a row."""
        return self.side // self.patch


def position_table(grid: int, width: int) -> Tensor:
    """The fixed sin-cos table `[grid^2, width]`: the column's features first, then the row's."""
    frequencies = 10000.0 ** (-torch.arange(width // 4) / (width // 4))
    angles = torch.arange(grid)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1)
    columns, rows = axis[None].expand(grid, -1, -1), axis[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=-1).reshape(grid * grid, width)


class Block(nn.Module):
    """One adaLN-Zero block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        b, n, d = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c))[:, None].chunk(6, dim=-1)
        h = F.layer_norm(x, (d,), eps=1e-6) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + gate1 * self.out(a)
        h = F.layer_norm(x, (d,), eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class Twin(nn.Module):
    """DiT over images; the output is the velocity."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width, features = shape, shape.width, shape.patch**2 * shape.channels
        self.time1, self.time2 = nn.Linear(256, width), nn.Linear(width, width)
        self.label = nn.Embedding(shape.classes + 1, width)
        self.patch, self.final = nn.Linear(features, width), nn.Linear(width, features)
        self.blocks = nn.ModuleList([Block(width, shape.heads) for _ in range(shape.depth)])
        self.final_modulation = nn.Linear(width, 2 * width)
        self.register_buffer("positions", position_table(shape.grid, width))
        self.register_buffer("frequencies", torch.exp(-math.log(10000.0) * torch.arange(128) / 128))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The velocity at x `[b, h, w, c]`, time t `[b]` in [0, 1] and class y `[b]` (the last row is null)."""
        b, grid, patch, width = len(x), self.shape.grid, self.shape.patch, self.shape.width
        angles = 1000.0 * t[:, None] * self.frequencies
        time = self.time2(F.silu(self.time1(torch.cat([angles.cos(), angles.sin()], dim=-1))))
        c = time + self.label(y)
        tokens = x.reshape(b, grid, patch, grid, patch, -1).transpose(2, 3).reshape(b, grid * grid, -1)
        h = self.patch(tokens) + self.positions
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.final_modulation(F.silu(c))[:, None].chunk(2, dim=-1)
        out = self.final(F.layer_norm(h, (width,), eps=1e-6) * (1 + scale) + shift).float()
        return out.reshape(b, grid, grid, patch, patch, -1).transpose(2, 3).reshape(x.shape)


def load(shape: Shape, params: dict[str, Any]) -> Twin:
    """A twin with our parameters: kernels turned, the layers' leading axis cut, heads' [q, k, v] put side by side."""
    net, blocks = Twin(shape), params["blocks"]
    d, heads = shape.width, shape.heads

    def fill(linear: nn.Linear, kernel: np.ndarray, bias: np.ndarray) -> None:
        linear.weight.copy_(torch.tensor(kernel).T)
        linear.bias.copy_(torch.tensor(bias))

    def dense(linear: nn.Linear, layer: dict[str, np.ndarray], i: int | None = None) -> None:
        fill(linear, *(layer[name] if i is None else layer[name][i] for name in ("kernel", "bias")))

    with torch.no_grad():
        dense(net.time1, params["time"]["fc1"])
        dense(net.time2, params["time"]["fc2"])
        dense(net.patch, params["patch"])
        dense(net.final, params["final"])
        dense(net.final_modulation, params["final_modulation"]["linear"])
        net.label.weight.copy_(torch.tensor(params["label_0"]["table"]))
        for i, block in enumerate(net.blocks):
            attention = blocks["attention"]
            dense(block.modulation, blocks["modulation"]["linear"], i)
            kernel, bias = attention["qkv_kernel"][i], attention["qkv_bias"][i]
            fill(block.qkv, kernel.transpose(0, 2, 1, 3).reshape(d, 3 * d), bias.transpose(1, 0, 2).reshape(3 * d))
            fill(block.out, attention["out_kernel"][i].reshape(heads * (d // heads), d), attention["out_bias"][i])
            dense(block.fc1, blocks["mlp"]["fc1"], i)
            dense(block.fc2, blocks["mlp"]["fc2"], i)
    return net


def matmul(shape: tuple[int, int, int]) -> Callable[[], None]:
    """A call that multiplies `[m, k]` by `[k, n]` (its second operand stored as a Linear's is), float32."""
    m, k, n = shape
    x, w = torch.ones(m, k), torch.ones(n, k)

    def call() -> None:
        x @ w.T

    return call


class Trainer:
    """One training step: rectified flow, AdamW, the average of the weights, the norms of gradient and weights."""

    def __init__(self, net: Twin, compiled: bool = False, bfloat16: bool = False) -> None:
        self.net, self.bfloat16 = net, bfloat16
        self.forward = torch.compile(net) if compiled else net
        self.params = list(net.parameters())
        self.average = [p.detach().clone() for p in self.params]
        self.optimizer = torch.optim.AdamW(self.params, 1e-4, weight_decay=0.0, fused=True)
        self.generator = torch.Generator(self.params[0].device).manual_seed(0)
        self.steps = 0

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean square error of the velocity for uint8 images; a tenth of the labels are dropped."""
        x0 = images.float() / 127.5 - 1.0
        t = torch.rand(len(x0), generator=self.generator)
        eps = torch.randn(x0.shape, generator=self.generator)
        dropped = torch.rand(len(x0), generator=self.generator) < 0.1
        y = torch.where(dropped, self.net.shape.classes, labels)
        part = t[:, None, None, None]
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.bfloat16):
            output = self.forward((1 - part) * x0 + part * eps, t, y)
        return ((output - (eps - x0)) ** 2).mean()

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Updates the weights and their average; returns the metrics."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(images, labels)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.params if p.grad is not None])
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.optimizer.step()
            share = min(0.9999, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.params, 1 - share)
        self.steps += 1
        size = torch.nn.utils.get_total_norm([p.detach() for p in self.params])
        return {"loss": loss.item(), "grad_norm": norm.item(), "param_norm": size.item()}


@torch.no_grad()
def sample(
    net: nn.Module, noise: Tensor, labels: Tensor, null: int, steps: int, scale: float, bfloat16: bool
) -> Tensor:
    """Euler's method from t = 1 to 0 with classifier-free guidance, one call of twice the batch a step."""
    x, both = noise, torch.cat([labels, torch.full_like(labels, null)])
    grid = torch.linspace(1.0, 0.0, steps + 1)
    for t, s in pairwise(grid):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            given, free = net(torch.cat([x, x]), t.expand(len(both)), both).chunk(2)
        x = x + (s - t) * (free + scale * (given - free))
    return x
