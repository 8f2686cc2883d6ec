"""What the device is and what it can do at most, measured in the same run as everything else."""
from __future__ import annotations

import platform
import subprocess
import time
from datetime import date

import torch

from common import Timer, median
from result_rows import Results

COPY_BYTES = 2 << 30
MATMUL = 8192


def nvidia_smi(fields: str) -> dict[str, str]:
    """Only asks: clocks, power and modes of the card stay as they are."""
    try:
        out = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields.split(","), (v.strip() for v in out.stdout.splitlines()[0].split(","))))


def clocks() -> dict[str, str]:
    return nvidia_smi("clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu")


def copy_bandwidth(timer: Timer, device: torch.device) -> float:
    """GB/s of a large copy on the device, bytes read and bytes written both counted."""
    size = COPY_BYTES if timer.cuda else 1 << 20
    a = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    timer.times(lambda: b.copy_(a), 3, False)
    return 2 * size / median(timer.times(lambda: b.copy_(a), 15, False)) / 1e6


def matmul_rate(timer: Timer, device: torch.device) -> float:
    """TFLOP/s of a large square product of random bf16 matrices."""
    n = MATMUL if timer.cuda else 256
    a = torch.randn((n, n), dtype=torch.bfloat16, device=device)
    b = torch.randn((n, n), dtype=torch.bfloat16, device=device)
    timer.times(lambda: a @ b, 5, False)
    return 2 * n**3 / median(timer.times(lambda: a @ b, 15, False)) / 1e9


def describe(results: Results, timer: Timer, device: torch.device) -> None:
    facts = nvidia_smi("driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit")
    if timer.cuda:
        p = torch.cuda.get_device_properties(device)
        own = {"device": p.name, "multiprocessors": p.multi_processor_count, "l2Bytes": getattr(p, "L2_cache_size", None), "memoryBytes": p.total_memory}
    else:
        own = {"device": f"{platform.processor() or 'CPU'} (rehearsal, no measurement)"}
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    before = clocks()
    started = time.monotonic()
    # The card raises its clocks under load only: measure the ceilings on a warm one.
    while timer.cuda and time.monotonic() - started < 1.0:
        matmul_rate(timer, device)
    results.add(
        "machine",
        date=date.today().isoformat(),
        **own,
        driver=facts.get("driver_version", "none"),
        limits=facts,
        torch=torch.__version__,
        triton=triton_version,
        clocksIdle=before,
        copyGBs=copy_bandwidth(timer, device),
        matmulTflops=matmul_rate(timer, device),
        clocksAfter=clocks(),
    )
