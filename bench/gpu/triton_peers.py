"""Fused Triton kernels of other projects, run from their own unmodified files. None of those files is part of this repository:
README.md says which they are; MOEC_TRITON_PEER names where they lie (files or directories, separated by `:`)."""
from __future__ import annotations

import ast
import functools
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import torch
import triton
import triton.language as tl

from inputs import Case, Layer
from peers import Call, Peer, whole_layer


def _module(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- Liger-Kernel

FULL_TUNING = os.environ.get("MOEC_PEER_TUNING") == "full"


def _ensure_contiguous(fn: Callable[..., object]) -> Callable[..., object]:
    """The only other thing the two files import of their project."""

    @functools.wraps(fn)
    def wrapper(ctx: object, *args: object) -> object:
        return fn(ctx, *(a.contiguous() if isinstance(a, torch.Tensor) else a for a in args))

    return wrapper


def _trim(kernel: object, keep: Callable[[dict[str, int], int, int], bool]) -> None:
    """Leaves of an autotuner's configurations those worth a minute of GPU time: `keep(block sizes, warps, stages)`."""
    configs = getattr(kernel, "configs", None)
    if FULL_TUNING or configs is None or len(configs) < 2:
        return
    kept = [c for c in configs if keep(c.kwargs, c.num_warps, c.num_stages)]
    if kept:
        kernel.configs = kept
    # And the time it takes over each, by default an eighth of a second.
    kernel._do_bench = lambda call, quantiles: triton.testing.do_bench(call, warmup=5, rep=30, quantiles=quantiles)


def liger(path: Path) -> Peer:
    """@param path ops/fused_moe.py, with fused_moe_kernels.py beside it"""
    for name in ("liger_kernel", "liger_kernel.ops", "liger_kernel.ops.utils"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["liger_kernel.ops.utils"].ensure_contiguous = _ensure_contiguous
    kernels = _module("liger_kernel.ops.fused_moe_kernels", path.with_name("fused_moe_kernels.py"))
    ops = _module("liger_kernel.ops.fused_moe", path)
    products = (kernels._fused_up_proj_swiglu_kernel, kernels._fused_down_proj_kernel)
    gather = kernels._token_gather_weighted_sum_kernel
    for kernel in products:
        _trim(kernel, lambda blocks, warps, stages: blocks["BLOCK_K"] == 64 and stages in (3, 4))
    _trim(gather, lambda blocks, warps, stages: warps == 4 and blocks["BLOCK_K"] in (4, 8) and blocks["BLOCK_H"] >= 256)

    def make(layer: Layer, case: Case) -> list[tuple[str, Call]]:
        for kernel in (*products, gather):
            # Its tuner's key does not hold the number of tokens: let it tune for this one.
            if hasattr(kernel, "cache"):
                kernel.cache.clear()
        weights = case.weights

        def experts() -> torch.Tensor:
            with torch.no_grad():
                return ops.LigerFusedMoEFunction.apply(case.x, layer.w13, layer.w2, case.ids, weights)

        return [("", whole_layer(layer, case, experts))]

    # It reads the number of tiles back from the device, so it cannot be captured.
    return Peer("liger", make, graph=False)


# ---------------------------------------------------------------- vLLM

@triton.jit
def _silu_and_mul(h_ptr, out_ptr, width, BLOCK: tl.constexpr):
    """Row of [gate | up] to silu(gate) * up; stands for vLLM's CUDA kernel of that name."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    gate = tl.load(h_ptr + row * 2 * width + columns, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(h_ptr + row * 2 * width + width + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + columns, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=mask)


COMPUTE = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def _config(m: int, n: int, k: int, group: int, warps: int, stages: int) -> dict[str, int]:
    return {"BLOCK_SIZE_M": m, "BLOCK_SIZE_N": n, "BLOCK_SIZE_K": k, "GROUP_SIZE_M": group, "num_warps": warps, "num_stages": stages}


FEW = (_config(16, 32, 64, 1, 4, 3), _config(16, 64, 128, 1, 4, 4), _config(16, 128, 64, 1, 4, 4), _config(16, 128, 128, 1, 8, 4))
SOME = (_config(16, 128, 64, 1, 4, 4), _config(32, 128, 64, 8, 4, 4), _config(64, 64, 32, 8, 4, 3), _config(64, 128, 64, 8, 4, 4))
MANY = (_config(64, 64, 32, 8, 4, 3), _config(64, 128, 64, 16, 4, 4), _config(128, 128, 64, 16, 8, 4), _config(128, 256, 64, 16, 8, 4))
"""What vLLM's defaults and its tuned tables for H100 in bf16 mostly hold."""


def _cut(path: Path, wanted: str) -> types.ModuleType:
    """The jit function `wanted` of a file, with those it calls, as a module: the rest of the file imports its whole project."""
    text = path.read_text()
    functions = {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    needed: list[str] = []

    def add(name: str) -> None:
        if name in needed or name not in functions:
            return
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                add(node.func.id)
        needed.append(name)

    add(wanted)
    lines = text.splitlines()
    parts = []
    for name in needed:
        node = functions[name]
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    if wanted not in needed:
        raise ImportError(f"{path} has no function {wanted}")
    out = Path(tempfile.mkdtemp(prefix="moec-peer-")) / "cut_kernel.py"
    out.write_text("import torch\nimport triton\nimport triton.language as tl\n\n\n" + "\n\n\n".join(parts) + "\n")
    return _module("moec_cut_kernel", out)


def _fill(names: list[str], given: dict[str, object]) -> dict[str, object]:
    """Arguments by name, whatever this version of the kernel takes beside the ones that matter: quantisation, all of it off."""
    out: dict[str, object] = {}
    for name in names:
        if name in given:
            out[name] = given[name]
        elif name.endswith("_ptr"):
            out[name] = None
        elif name.startswith(("stride_", "group_")):
            out[name] = 0
        elif name.lower().startswith(("use_", "per_", "has_", "naive_", "swap_", "filter_")):
            out[name] = False
        elif name == "SPLIT_K":
            out[name] = 1
        else:
            raise TypeError(f"this version of the kernel takes {name}, which nobody here knows")
    return out


def align(ids: torch.Tensor, experts: int, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slots sorted by expert, each expert padded to whole blocks with the number of slots; the expert of each block; padded count."""
    flat = ids.flatten().long()
    n = flat.numel()
    order = torch.argsort(flat, stable=True)
    counts = torch.bincount(flat, minlength=experts)
    padded = (counts + block - 1) // block * block
    ends = padded.cumsum(0)
    most = n + experts * (block - 1)
    place = (ends - padded)[flat[order]] + torch.arange(n, device=flat.device) - (counts.cumsum(0) - counts)[flat[order]]
    slots = torch.full((most,), n, dtype=torch.int32, device=flat.device)
    slots[place] = order.to(torch.int32)
    starts = torch.arange((most + block - 1) // block, device=flat.device) * block
    owner = torch.searchsorted(ends, starts, right=True).clamp_max(experts - 1).to(torch.int32)
    return slots, owner, ends[-1:].to(torch.int32)


def vllm(path: Path) -> Peer:
    """@param path vllm/model_executor/layers/fused_moe/fused_moe.py, any version whose kernel still has these names"""
    kernel = _cut(path, "fused_moe_kernel").fused_moe_kernel
    names = list(kernel.arg_names)

    def product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, case: Case, aligned: tuple[torch.Tensor, ...], config: dict[str, int], top_k: int) -> None:
        slots, owner, padded = aligned
        block = config["BLOCK_SIZE_M"]
        rows = slots.shape[0]
        if case.tokens < block:
            # A token has an expert at most once, so no expert fills more than one block.
            rows = min(rows, case.ids.numel() * block)
        options = {k: config[k] for k in ("num_warps", "num_stages")}
        blocks = {k: v for k, v in config.items() if k not in options}
        grid = (triton.cdiv(rows, block) * triton.cdiv(b.shape[1], config["BLOCK_SIZE_N"]),)
        arguments = _fill(names, {
            "a_ptr": a, "b_ptr": b, "c_ptr": c, "topk_weights_ptr": case.weights,
            "sorted_token_ids_ptr": slots, "expert_ids_ptr": owner, "num_tokens_post_padded_ptr": padded,
            "N": b.shape[1], "K": b.shape[2], "EM": rows, "num_valid_tokens": case.ids.numel(),
            "stride_am": a.stride(0), "stride_ak": a.stride(1),
            "stride_be": b.stride(0), "stride_bk": b.stride(2), "stride_bn": b.stride(1),
            "stride_cm": c.stride(0), "stride_cn": c.stride(1),
            "MUL_ROUTED_WEIGHT": top_k == 1, "top_k": top_k, "compute_type": COMPUTE[c.dtype],
            **blocks,
        })
        kernel[grid](**arguments, **options)

    def make(layer: Layer, case: Case) -> list[tuple[str, Call]]:
        shape = layer.shape
        n, device, dtype = case.ids.numel(), case.x.device, case.x.dtype
        h = torch.empty((n, 2 * shape.width), dtype=dtype, device=device)
        a = torch.empty((n, shape.width), dtype=dtype, device=device)
        y = torch.empty((n, shape.hidden), dtype=dtype, device=device)

        def candidate(config: dict[str, int]) -> Call:
            # Sorted beforehand, not timed: upstream does it in one CUDA kernel that is not carried. This favours the peer.
            aligned = align(case.ids, shape.experts, config["BLOCK_SIZE_M"])

            def experts() -> torch.Tensor:
                product(case.x, layer.w13, h, case, aligned, config, shape.active)
                _silu_and_mul[(n, triton.cdiv(shape.width, 1024))](h, a, shape.width, BLOCK=1024)
                product(a, layer.w2, y, case, aligned, config, 1)
                return y.view(case.tokens, shape.active, shape.hidden).sum(1)

            return whole_layer(layer, case, experts)

        configs = FEW if case.tokens <= 16 else SOME if case.tokens <= 1024 else MANY
        return [("x".join(str(v) for v in c.values()), candidate(c)) for c in configs]

    return Peer("vllm", make)


# ---------------------------------------------------------------- what MOEC_TRITON_PEER names

def load(paths: str) -> tuple[list[Peer], list[str]]:
    """Peers found, and why others were not."""
    peers: list[Peer] = []
    problems: list[str] = []
    files: list[Path] = []
    for text in filter(None, paths.split(":")):
        path = Path(text)
        files += sorted(path.glob("*.py")) if path.is_dir() else [path]
    for file in files:
        try:
            text = file.read_text()
            if "class LigerFusedMoEFunction" in text:
                peers.append(liger(file))
            elif "def fused_moe_kernel(" in text:
                peers.append(vllm(file))
            elif file.name != "fused_moe_kernels.py":
                problems.append(f"{file}: no kernel that is known here")
        except Exception as error:  # noqa: BLE001 - a peer that does not load must not stop the others
            problems.append(f"{file}: {type(error).__name__}: {error}")
    return peers, problems
