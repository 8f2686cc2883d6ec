"""What the GPU scripts share: the clock, and tensors on disk."""
from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int32: "I32"}
BY_NAME = {name: dtype for dtype, name in DTYPES.items()}

FLUSH_BYTES = 256 << 20
"""Written between timed decode calls: several times the L2 of any device."""


class Deadline:
    """Seconds left of a stage's box."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 == 1 else (ordered[middle - 1] + ordered[middle]) / 2


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class Timer:
    """Milliseconds of single calls: CUDA events on a GPU, the host's clock where a CPU rehearses the scripts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"
        self.flush_buffer = torch.empty(FLUSH_BYTES if self.cuda else 1, dtype=torch.uint8, device=device)

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def times(self, call: Callable[[], object], runs: int, flush: bool) -> list[float]:
        """One time a call. With `flush` the L2 is overwritten before each, outside of the events; that write is long
        enough for the host to have queued the call by the time it ends."""
        if not self.cuda:
            return [self._host(call) for _ in range(runs)]
        begin = [torch.cuda.Event(enable_timing=True) for _ in range(runs)]
        end = [torch.cuda.Event(enable_timing=True) for _ in range(runs)]
        for i in range(runs):
            if flush:
                self.flush_buffer.zero_()
            begin[i].record()
            call()
            end[i].record()
        torch.cuda.synchronize()
        return [b.elapsed_time(e) for b, e in zip(begin, end)]

    @staticmethod
    def _host(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1000

    def captured(self, call: Callable[[], object]) -> tuple[Callable[[], object], str]:
        """The call as a replayed CUDA graph where it can be captured, else as it is; and which of the two."""
        for _ in range(3):
            call()
        self.sync()
        if not self.cuda:
            return call, "eager"
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            graph.replay()
            torch.cuda.synchronize()
            return graph.replay, "graph"
        except Exception as error:  # noqa: BLE001 - a call that waits for the device cannot be captured, and says so in many ways
            torch.cuda.synchronize()
            print(f"  not captured, timed as it is: {first_line(error)}")
            return call, "eager"


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Streams tensors to a file, one at a time, so that no second copy of all of them is ever held."""
    header: dict[str, object] = {}
    at = 0
    for name, t in tensors.items():
        size = t.numel() * t.element_size()
        header[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as f:
        f.write(len(text).to_bytes(8, "little"))
        f.write(text)
        for t in tensors.values():
            # By the first axis: a bank of experts is copied to the host expert by expert.
            rows = t.contiguous().view(t.shape[0], -1)
            step = max(1, (256 << 20) // max(1, rows[0].numel() * rows.element_size()))
            for first in range(0, rows.shape[0], step):
                f.write(rows[first : first + step].view(torch.uint8).cpu().numpy())


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(length))
        data = bytearray(f.read())
    out: dict[str, torch.Tensor] = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        flat = torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=begin)
        out[name] = flat.view(BY_NAME[info["dtype"]]).view(info["shape"])
    return out


SCRATCH_BYTES = 28 << 30
"""The weights of the largest layer, and its rows."""


def scratch_directory() -> Path:
    """In memory that looks like a file system where there is enough of it, else in the temporary directory."""
    memory = Path("/dev/shm")
    large = memory.is_dir() and shutil.disk_usage(memory).free >= SCRATCH_BYTES
    base = os.environ.get("MOEC_SCRATCH") or (memory if large else tempfile.gettempdir())
    return Path(tempfile.mkdtemp(prefix="moec-bench-", dir=base))
