"""Runs the conformance program and makes a result line of each of its own: `NAME  N values  deviation D  limit L  ok|FAIL`."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from result_rows import Results

LINE = re.compile(r"^(?P<name>\S.*?)\s+(?P<count>\d+) values\s+(?P<detail>.*?)\s+(?P<verdict>ok|FAIL)$")


def main(binary: str, target: Path, seconds: float) -> int:
    results = Results(target, "bench/gpu/run.sh conformance")

    def add(name: str, ok: bool, detail: str) -> None:
        results.add("check", stage="conformance", name=name, ok=ok, detail=detail)

    try:
        done = subprocess.run([binary], capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        add("the program", False, str(error))
        return 1
    last = ""
    for line in done.stdout.splitlines():
        print(line)
        found = LINE.match(line)
        if found:
            add(found["name"], found["verdict"] == "ok", f"{found['count']} values, {found['detail']}")
        else:
            last = line
    if done.returncode != 0:
        add("the program", False, f"exit status {done.returncode}: {last} {done.stderr.strip()[-300:]}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
