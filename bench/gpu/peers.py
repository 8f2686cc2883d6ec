"""Other ways to run the same layer, all given the same rows, weights and router choice."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from inputs import Case, Layer, choose

Call = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Peer:
    """Named contestants for one case. `make` gives candidates that compute the same: the fastest of them is timed."""

    name: str
    make: Callable[[Layer, Case], list[tuple[str, Call]]]
    graph: bool = True
    """Whether it may be captured into a CUDA graph."""


def router_cost(layer: Layer, case: Case) -> Call:
    """A router in torch: its time counts, its choice does not (everyone uses the case's, so that nobody gets other rows)."""
    return lambda: choose(layer.shape, F.linear(case.x, layer.gate).float())[1]


def shared_out(layer: Layer, x: torch.Tensor) -> torch.Tensor | None:
    if layer.shared is None:
        return None
    gate, up, down = layer.shared
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def whole_layer(layer: Layer, case: Case, experts: Call) -> Call:
    """Router, routed experts, shared experts, sum: what moec's layer does."""
    router = router_cost(layer, case)

    def call() -> torch.Tensor:
        router()
        out = experts()
        extra = shared_out(layer, case.x)
        return out if extra is None else out + extra

    return call


GROUPED_MM = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def grouped_mm(layer: Layer, case: Case) -> list[tuple[str, Call]]:
    """torch's grouped product on rows sorted by expert; two ways to bring the rows back."""
    if GROUPED_MM is None:
        raise RuntimeError("this torch has no grouped_mm")
    i, k = layer.shape.width, layer.shape.active
    w13, w2 = layer.w13.transpose(1, 2), layer.w2.transpose(1, 2)
    ones = torch.ones(case.ids.numel(), dtype=torch.int32, device=case.x.device)
    places = torch.arange(case.ids.numel(), device=case.x.device)

    def products() -> tuple[torch.Tensor, torch.Tensor]:
        flat = case.ids.flatten().long()
        order = torch.argsort(flat, stable=True)
        counts = torch.zeros(layer.shape.experts, dtype=torch.int32, device=flat.device).scatter_add_(0, flat, ones)
        ends = counts.cumsum(0, dtype=torch.int32)
        h = GROUPED_MM(case.x.index_select(0, order // k), w13, offs=ends)
        return order, GROUPED_MM(F.silu(h[:, :i]) * h[:, i:], w2, offs=ends)

    def by_gather() -> torch.Tensor:
        order, y = products()
        back = torch.empty_like(order).scatter_(0, order, places)
        rows = y.index_select(0, back).view(case.tokens, k, -1)
        return torch.bmm(case.weights.to(y.dtype)[:, None, :], rows)[:, 0]

    def by_index_add() -> torch.Tensor:
        order, y = products()
        scaled = y * case.weights.flatten()[order, None].to(y.dtype)
        return torch.zeros_like(case.x).index_add_(0, order // k, scaled)

    return [("gather", whole_layer(layer, case, by_gather)), ("index_add", whole_layer(layer, case, by_index_add))]


def cublas_dense(dense: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Peer:
    """The two matrix products of the dense layer of equal activated size, without activation, routing or combine: a ceiling.
    What it computes is no layer, so it is never compared."""
    gate, up, down = dense
    both = torch.cat([gate, up])

    def make(layer: Layer, case: Case) -> list[tuple[str, Call]]:
        h = torch.randn((case.tokens, down.shape[1]), dtype=case.x.dtype, device=case.x.device)

        def call() -> torch.Tensor:
            torch.matmul(case.x, both.T)
            return torch.matmul(h, down.T)

        return [("matmul", call)]

    return Peer("cublas-dense", make)


ROUTER = Peer("torch-router", lambda layer, case: [("", router_cost(layer, case))])
"""Alone, to subtract from the peers where only the experts' time is wanted."""

TORCH_PEERS = (Peer("grouped_mm", grouped_mm),)
