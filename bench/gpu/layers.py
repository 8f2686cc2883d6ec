"""Stage `bench`: generated layers beside the peers, in interleaved rounds on one device. README.md says what is measured and how."""
from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common import Deadline, Timer, first_line, median, quantile, read_safetensors, scratch_directory, write_safetensors
from inputs import Case, Layer, Shape, error_of, make_case, random_dense, random_layer, shapes, swiglu
from machine import clocks, describe
from moec_client import CompiledLayer, Moec
from peers import ROUTER, TORCH_PEERS, Peer, cublas_dense
from result_rows import Results

DECODE_TOKENS = 64
"""Calls of at most so many tokens begin with a cold L2."""
ROUND_MS = 30
"""About as long as one contestant runs in one round."""
SHAPES = "deepseekmoe-16b,olmoe,qwen3-30b-a3b,mixtral-8x7b,deepseek-v3"
TOKENS = "4096,1,8,64,512,16384"


@dataclass
class Contestant:
    name: str
    detail: str
    """Configuration, and whether a graph was replayed."""
    sample: Callable[[int, bool], list[float]]
    error: tuple[float, float] | None = None
    times: list[float] = field(default_factory=list)


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.timer = Timer(self.device)
        self.results = Results(Path(options.results), "bench/gpu/run.sh bench")
        self.deadline = Deadline(options.seconds)
        self.scratch = scratch_directory()
        self.packages = Path(options.packages)
        self.moec: Moec | None = None
        self.peers: list[Peer] = list(TORCH_PEERS)

    # ------------------------------------------------------------ what is not measured, and why

    def skip(self, shape: str, what: str, reason: str, tokens: int | None = None, routing: str | None = None) -> None:
        print(f"  skipped {what}: {reason}", flush=True)
        self.results.add("skip", shape=shape, what=what, tokens=tokens, routing=routing, reason=reason)

    def load_peers(self) -> None:
        paths = os.environ.get("MOEC_TRITON_PEER", "")
        if paths == "":
            self.skip("all", "Triton peers", "MOEC_TRITON_PEER is not set")
            return
        try:
            import triton_peers
        except ImportError as error:
            self.skip("all", "Triton peers", first_line(error))
            return
        found, problems = triton_peers.load(paths)
        self.peers += found
        for problem in problems:
            self.skip("all", "Triton peer", problem)

    # ------------------------------------------------------------ contestants

    def of_peer(self, peer: Peer, layer: Layer, case: Case, compare: bool) -> Contestant | None:
        """The fastest of the peer's candidates that compute the layer."""
        best: tuple[float, Contestant] | None = None
        for name, call in peer.make(layer, case):
            error = error_of(call(), case.y) if compare else None
            if error is not None and not error.ok:
                what = f"{peer.name} {name}".strip()
                self.skip(layer.shape.name, what, f"wrong: error {error.relative:.1e}, worst row {error.worst_row:.1e}", case.tokens, case.routing)
                continue
            run, mode = self.timer.captured(call) if peer.graph else (call, "eager")
            time = median(self.timer.times(run, 5, case.tokens <= DECODE_TOKENS))
            if best is None or time < best[0]:
                pair = None if error is None else (error.relative, error.worst_row)
                best = (time, Contestant(peer.name, f"{name} {mode}".strip(), lambda runs, flush, run=run: self.timer.times(run, runs, flush), pair))
        return None if best is None else best[1]

    def of_compiled(self, layer: CompiledLayer, case: Case, expected: torch.Tensor) -> Contestant | None:
        rows, out = self.scratch / "x.safetensors", self.scratch / "y.safetensors"
        write_safetensors(rows, {"x": case.x.float()})
        facts = layer.run(rows, out)
        tensors = read_safetensors(out)
        y, good = tensors["y"].to(self.device), torch.ones(case.tokens, dtype=torch.bool, device=self.device)
        if "topk_indices" in tensors:
            own = tensors["topk_indices"].to(self.device).sort(dim=1).values
            good = (own == case.ids.sort(dim=1).values).all(dim=1)
        # Rows where two logits are so close that f32 and f64 choose differently have another result, and say nothing about the products.
        differ = case.tokens - int(good.sum())
        error = error_of(y[good], expected[good]) if differ < case.tokens else None
        if error is None or not error.ok or differ > max(1, case.tokens // 500):
            text = "no row has the reference's experts" if error is None else f"error {error.relative:.1e}, worst row {error.worst_row:.1e}, {differ} rows with other experts"
            self.skip(layer.name, layer.name, f"wrong: {text}", case.tokens, case.routing)
            return None
        detail = f"graph, {facts['dispatches']} dispatches" + (f", {differ} rows routed otherwise" if differ > 0 else "")
        return Contestant(layer.name, detail, layer.times, (error.relative, error.worst_row))

    # ------------------------------------------------------------ one case

    def measure(self, shape: Shape, case: Case, contestants: list[Contestant]) -> None:
        flush = case.tokens <= DECODE_TOKENS
        counts = {}
        for c in contestants:
            first = median(c.sample(3, flush))
            counts[c.name] = max(3, min(50, int(ROUND_MS / max(first, 1e-3))))
        for round_ in range(self.options.rounds):
            # Another one begins each round, so that nobody always runs on the warmest or the coolest chip.
            turn = round_ % len(contestants)
            for c in contestants[turn:] + contestants[:turn]:
                c.times += c.sample(counts[c.name], flush)
        for c in contestants:
            ms = median(c.times)
            print(f"    {c.name:24} {ms:9.4f} ms  {shape.flops(case.tokens) / ms / 1e9:7.1f} TFLOP/s  {shape.bytes(case.tokens, case.touched) / ms / 1e6:7.0f} GB/s  {c.detail}", flush=True)
            self.results.add(
                "layer", shape=shape.name, tokens=case.tokens, routing=case.routing, what=c.name, detail=c.detail,
                medianMs=ms, p10Ms=quantile(c.times, 0.1), p90Ms=quantile(c.times, 0.9), samples=len(c.times), rounds=self.options.rounds, coldL2=flush,
                error=None if c.error is None else c.error[0], worstRow=None if c.error is None else c.error[1],
                flops=shape.flops(case.tokens), bytes=shape.bytes(case.tokens, case.touched), touched=case.touched, imbalance=case.imbalance,
            )

    def case(self, layer: Layer, dense: tuple[torch.Tensor, torch.Tensor, torch.Tensor], compiled: list[CompiledLayer], tokens: int, routing: str) -> None:
        shape = layer.shape
        print(f"  T = {tokens}, {routing}", flush=True)
        case = make_case(layer, tokens, routing, seed=100 + tokens)
        contestants: list[Contestant] = []

        def attempt(what: str, make: Callable[[], Contestant | None]) -> None:
            if self.deadline.left() < 5:
                self.skip(shape.name, what, "the time of this stage is up", tokens, routing)
                return
            try:
                made = make()
                if made is not None:
                    contestants.append(made)
            except Exception as error:  # noqa: BLE001 - one contestant's failure is a line of the report
                self.skip(shape.name, what, first_line(error), tokens, routing)

        for package in compiled:
            expected = case.y if not package.name.endswith("dense") else swiglu(case.x.float(), *dense)
            attempt(package.name, lambda p=package, e=expected: self.of_compiled(p, case, e))
        for peer in self.peers:
            attempt(peer.name, lambda p=peer: self.of_peer(p, layer, case, True))
        ceiling = cublas_dense(dense)
        attempt(ceiling.name, lambda: self.of_peer(ceiling, layer, case, False))
        attempt(ROUTER.name, lambda: self.of_peer(ROUTER, layer, case, False))
        if contestants:
            self.measure(shape, case, contestants)

    # ------------------------------------------------------------ one shape

    def fits(self, shape: Shape) -> str | None:
        """Why not, or None."""
        # Twice, for the peers' process and the compiled layer's; and room for activations.
        need = 2 * shape.weight_bytes + (8 << 30)
        if self.timer.cuda:
            free, _ = torch.cuda.mem_get_info()
            if need > free:
                return f"needs {need / 1e9:.0f} GB of device memory, {free / 1e9:.0f} are free"
        room = shutil.disk_usage(self.scratch).free
        if 1.1 * shape.weight_bytes > room:
            return f"its weights take {shape.weight_bytes / 1e9:.0f} GB on the way, {self.scratch} has {room / 1e9:.0f} free"
        seconds = 15 + shape.weight_bytes / 0.4e9
        if self.deadline.left() < seconds:
            return f"making and loading its weights takes about {seconds:.0f} s, {self.deadline.left():.0f} are left"
        return None

    def open_packages(self, shape: Shape, layer: Layer, dense: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> list[CompiledLayer]:
        weights, dense_weights = self.scratch / "weights.safetensors", self.scratch / "dense.safetensors"
        write_safetensors(weights, layer.checkpoint())
        write_safetensors(dense_weights, dict(zip(("gate_proj", "up_proj", "down_proj"), dense)))
        opened: list[CompiledLayer] = []
        for directory in sorted(self.packages.glob(f"{shape.name}-sm_*")) + sorted(self.packages.glob(f"{shape.name}.dense-sm_*")):
            is_dense = ".dense-" in directory.name
            arch = directory.name.rsplit("-", 1)[1]
            name = f"moec {arch}{' dense' if is_dense else ''}"
            try:
                if self.moec is None or not self.moec.alive:
                    self.moec = Moec(self.options.node, Path(self.options.script))
                    opened.clear()
                package = CompiledLayer(self.moec, name, directory, dense_weights if is_dense else weights, max(30.0, self.deadline.left()))
                opened.append(package)
                self.results.add("load", shape=shape.name, what=name, **package.opened)
            except Exception as error:  # noqa: BLE001
                self.skip(shape.name, name, first_line(error))
        weights.unlink()
        dense_weights.unlink()
        return opened

    def shape(self, shape: Shape) -> None:
        print(f"{shape.name}: hidden {shape.hidden}, {shape.experts} experts of {shape.width}, {shape.active} active, shared {shape.shared}", flush=True)
        why = self.fits(shape)
        if why is not None:
            self.skip(shape.name, "the shape", why)
            return
        layer, dense = random_layer(shape, self.device), random_dense(shape, self.device)
        compiled = self.open_packages(shape, layer, dense)
        try:
            for routing in self.options.routings:
                for tokens in self.options.tokens:
                    # One token has one choice of experts: skewed or not is the same.
                    if routing != "uniform" and tokens < DECODE_TOKENS:
                        continue
                    if self.deadline.left() < 15:
                        self.skip(shape.name, "all", "the time of this stage is up", tokens, routing)
                        continue
                    try:
                        self.case(layer, dense, [p for p in compiled if p.process.alive], tokens, routing)
                    except Exception as error:  # noqa: BLE001 - such as memory that one more size does not find
                        self.skip(shape.name, "all", first_line(error), tokens, routing)
                    gc.collect()
                    if self.timer.cuda:
                        torch.cuda.empty_cache()
        finally:
            for package in compiled:
                package.close()
        self.results.add("clocks", shape=shape.name, **clocks())

    def broken(self) -> bool:
        """Whether a kernel of this process failed in such a way that nothing runs in it any more."""
        try:
            if self.timer.cuda:
                gc.collect()
                torch.cuda.empty_cache()
                torch.zeros(1, device=self.device).item()
            return False
        except RuntimeError:
            return True

    def run(self) -> list[str]:
        """@return shapes left for a new process, because this one's device is broken"""
        try:
            if not self.options.again:
                describe(self.results, self.timer, self.device)
            self.load_peers()
            known = shapes()
            names = list(self.options.shapes)
            while names:
                name = names.pop(0)
                try:
                    self.shape(known[name])
                except Exception as error:  # noqa: BLE001
                    self.skip(name, "the shape", first_line(error))
                if self.broken():
                    self.skip(name, "the rest of the shape", "a kernel broke the device's context")
                    return names
            return []
        finally:
            if self.moec is not None:
                self.moec.end()
            shutil.rmtree(self.scratch, ignore_errors=True)


def main() -> None:
    words = lambda text: [w for w in text.split(",") if w != ""]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True, help="file that lines of JSON are appended to")
    parser.add_argument("--packages", required=True, help="directory of compiled packages, named SHAPE-ARCH and SHAPE.dense-ARCH")
    parser.add_argument("--node", default="node")
    parser.add_argument("--script", required=True, help="moec.js")
    parser.add_argument("--shapes", type=words, default=words(os.environ.get("MOEC_SHAPES", SHAPES)))
    parser.add_argument("--tokens", type=lambda t: [int(w) for w in words(t)], default=[int(w) for w in words(os.environ.get("MOEC_TOKENS", TOKENS))])
    parser.add_argument("--routings", type=words, default=["uniform", "zipf"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--again", action="store_true", help="go on for a process whose device was broken")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("layers.py: torch sees no CUDA device")
    bench = Bench(options)
    left = bench.run()
    if left:
        # Options that come later win.
        rest = ["--shapes", ",".join(left), "--seconds", str(bench.deadline.left()), "--again"]
        os.execv(sys.executable, [sys.executable, "-u", *sys.argv, *rest])


if __name__ == "__main__":
    main()
