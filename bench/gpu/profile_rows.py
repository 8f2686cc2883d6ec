"""From ncu's CSV to result lines: of each kernel the first launch, and of its metrics those that say what bounds it."""
from __future__ import annotations

import csv
import sys
from pathlib import Path

from result_rows import Results

KEPT = {
    "Duration": "time",
    "Compute (SM) Throughput": "SM",
    "Memory Throughput": "memory",
    "DRAM Throughput": "DRAM",
    "L2 Hit Rate": "L2 hits",
    "Registers Per Thread": "registers",
    "Dynamic Shared Memory Per Block": "shared",
    "Grid Size": "blocks",
    "Waves Per SM": "waves",
    "Achieved Occupancy": "occupancy",
    "Executed Ipc Active": "IPC",
    "No Eligible": "no eligible warp",
}


def main(source: Path, target: Path) -> None:
    # ncu writes lines of its own before the table.
    lines = [line for line in source.read_text().splitlines() if line.startswith('"')]
    kernels: dict[str, dict[str, str]] = {}
    launches: dict[str, set[str]] = {}
    for entry in csv.DictReader(lines):
        kernel, launch, metric = entry["Kernel Name"], entry["ID"], entry["Metric Name"]
        launches.setdefault(kernel, set()).add(launch)
        if metric not in KEPT or len(launches[kernel]) > 1:
            continue
        # The same name stands in several sections (a rate and a share): the first, of SpeedOfLight, counts.
        kernels.setdefault(kernel, {}).setdefault(KEPT[metric], f"{entry['Metric Value']} {entry['Metric Unit']}".strip())
    results = Results(target, "bench/gpu/run.sh profile")
    for kernel, metrics in kernels.items():
        results.add("profile", kernel=kernel.split("(")[0], metrics={**metrics, "launches": str(len(launches[kernel]))})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
