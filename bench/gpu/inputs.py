"""Shapes of layers, their random weights, inputs with a chosen routing, and the reference they are held to."""
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
BF16 = torch.bfloat16

GROUPS, KEPT_GROUPS, SCALE = 8, 4, 2.5
"""Of the router `sigmoid-groups`, DeepSeek-V3's."""


@dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    width: int
    """Of one routed expert."""
    experts: int
    active: int
    shared: int
    """Width of the shared experts together; 0: none."""
    router: str

    @property
    def activated(self) -> int:
        """Width that one token passes through."""
        return self.active * self.width + self.shared

    @property
    def weight_bytes(self) -> int:
        """Of the bf16 matrices of all experts, shared ones and the router."""
        return 2 * self.hidden * (3 * (self.experts * self.width + self.shared) + self.experts)

    def flops(self, tokens: int) -> int:
        """Two per multiply-add in the three matrices of every activated expert, shared ones too; the router is not counted."""
        return 6 * tokens * self.hidden * self.activated

    def bytes(self, tokens: int, touched: int) -> int:
        """Least traffic: weights of the experts that any token uses, once, and bf16 rows in and out."""
        return 2 * self.hidden * (3 * (touched * self.width + self.shared) + self.experts + 2 * tokens)


def shapes() -> dict[str, Shape]:
    return {s["name"]: Shape(**s) for s in json.loads((HERE / "shapes.json").read_text())}


@dataclass(frozen=True)
class Layer:
    shape: Shape
    gate: torch.Tensor
    """[E, H]"""
    w13: torch.Tensor
    """[E, 2I, H]: gate rows, then up rows."""
    w2: torch.Tensor
    """[E, H, I]"""
    shared: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None
    """gate [S, H], up [S, H], down [H, S]"""

    def checkpoint(self) -> dict[str, torch.Tensor]:
        """Under names that a layer package reads."""
        out = {"gate.weight": self.gate, "input_linear.weight": self.w13, "output_linear.weight": self.w2}
        if self.shape.router == "sigmoid-groups":
            out["gate.e_score_correction_bias"] = torch.zeros(self.shape.experts, dtype=torch.float32)
        if self.shared is not None:
            for name, t in zip(("gate_proj", "up_proj", "down_proj"), self.shared):
                out[f"shared.{name}"] = t
        return out


def _normal(rows: tuple[int, ...], fan_in: int, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, dtype=BF16, device=device, generator=generator).mul_(1 / math.sqrt(fan_in))


def random_layer(shape: Shape, device: torch.device, seed: int = 1) -> Layer:
    g = torch.Generator(device=device).manual_seed(seed)
    h, i, e, s = shape.hidden, shape.width, shape.experts, shape.shared
    shared = None
    if s > 0:
        shared = (_normal((s, h), h, device, g), _normal((s, h), h, device, g), _normal((h, s), s, device, g))
    return Layer(shape, _normal((e, h), h, device, g), _normal((e, 2 * i, h), h, device, g), _normal((e, h, i), i, device, g), shared)


def random_dense(shape: Shape, device: torch.device, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The dense layer of equal activated size: gate [A, H], up [A, H], down [H, A]."""
    g = torch.Generator(device=device).manual_seed(seed)
    h, a = shape.hidden, shape.activated
    return _normal((a, h), h, device, g), _normal((a, h), h, device, g), _normal((h, a), a, device, g)


def zipf(experts: int, exponent: float) -> torch.Tensor:
    p = torch.arange(1, experts + 1, dtype=torch.float64) ** -exponent
    return p / p.sum()


def routed_rows(layer: Layer, tokens: int, routing: str, seed: int) -> torch.Tensor:
    """Rows [T, H] in bf16 whose router logits are log p + Gumbel noise: the best k are then a sample from p without repetition.
    Rows are random normal but for the few directions that the router looks at. `routing`: `uniform`, or `zipf` with exponent 1.2."""
    shape, device = layer.shape, layer.gate.device
    g = torch.Generator(device=device).manual_seed(seed)
    p = zipf(shape.experts, 1.2 if routing == "zipf" else 0.0)
    # Which experts are popular is drawn too, so that they do not lie side by side in memory or in one group.
    p = p[torch.randperm(shape.experts, generator=torch.Generator().manual_seed(7))].to(device)
    rows = torch.randn((tokens, shape.hidden), dtype=torch.float64, device=device, generator=g)
    noise = torch.rand((tokens, shape.experts), dtype=torch.float64, device=device, generator=g).clamp_min(1e-12)
    wanted = torch.log(p) - torch.log(-torch.log(noise))
    gate = layer.gate.double()
    steps = torch.linalg.solve(gate @ gate.T, (wanted - rows @ gate.T).T).T
    return (rows + steps @ gate).to(BF16)


def choose(shape: Shape, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The router's rule on logits [T, E]: expert ids [T, K] (int32) and their weights [T, K] (f32)."""
    if shape.router == "sigmoid-groups":
        scores = torch.sigmoid(logits)
        grouped = scores.view(-1, GROUPS, shape.experts // GROUPS)
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(KEPT_GROUPS, dim=-1).indices
        kept = torch.zeros(grouped.shape[:2], dtype=torch.bool, device=logits.device).scatter_(1, best, True)
        masked = grouped.masked_fill(~kept[..., None], float("-inf")).flatten(1)
        ids = masked.topk(shape.active, dim=-1).indices
        weights = scores.gather(1, ids)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * SCALE
    else:
        weights, ids = torch.softmax(logits, dim=-1).topk(shape.active, dim=-1)
        if shape.router == "softmax-renormalize":
            weights = weights / weights.sum(-1, keepdim=True)
    return ids.to(torch.int32), weights.float()


@dataclass(frozen=True)
class Case:
    """One call: rows, the router's choice for them, and what the layer makes of them."""

    tokens: int
    routing: str
    x: torch.Tensor
    """[T, H] bf16"""
    ids: torch.Tensor
    """[T, K] int32"""
    weights: torch.Tensor
    """[T, K] f32"""
    y: torch.Tensor
    """[T, H] f32: products in f32 of the bf16 weights, nothing rounded between."""
    experts: int

    @property
    def touched(self) -> int:
        """Experts that some token uses."""
        return int(self.ids.unique().numel())

    @property
    def imbalance(self) -> float:
        """Rows of the fullest expert over the mean."""
        counts = torch.bincount(self.ids.flatten().long())
        return float(counts.max()) * self.experts / self.ids.numel()


def swiglu(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """In f32."""
    return (F.silu(x @ gate.float().T) * (x @ up.float().T)) @ down.float().T


def reference(layer: Layer, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    rows = x.float()
    out = torch.zeros_like(rows) if layer.shared is None else swiglu(rows, *layer.shared)
    i = layer.shape.width
    for expert in range(layer.shape.experts):
        token, slot = (ids == expert).nonzero(as_tuple=True)
        if token.numel() == 0:
            continue
        y = swiglu(rows[token], layer.w13[expert, :i], layer.w13[expert, i:], layer.w2[expert])
        # A token has an expert at most once, so no row is added to twice.
        out[token] += y * weights[token, slot, None]
    return out


def make_case(layer: Layer, tokens: int, routing: str, seed: int) -> Case:
    x = routed_rows(layer, tokens, routing, seed)
    ids, weights = choose(layer.shape, x.double() @ layer.gate.double().T)
    return Case(tokens, routing, x, ids, weights, reference(layer, x, ids, weights), layer.shape.experts)


@dataclass(frozen=True)
class Error:
    """Of an output against the reference."""

    relative: float
    """Norm of the difference over the norm of the reference."""
    worst_row: float
    """The same for the worst row."""

    @property
    def ok(self) -> bool:
        """bf16 operands and bf16 intermediates leave a few parts in a thousand; NaN compares false."""
        return self.relative <= 2e-2 and self.worst_row <= 1e-1


def error_of(out: torch.Tensor, expected: torch.Tensor) -> Error:
    difference = (out.float() - expected).double()
    rows = difference.norm(dim=1) / expected.double().norm(dim=1).clamp_min(1e-30)
    return Error(float(difference.norm() / expected.double().norm()), float(rows.max()))
