"""The compiled layers' side of a benchmark: a process of node (moec.ts) that holds packages on the same device and is asked in lines of JSON."""
from __future__ import annotations

import json
import queue
import subprocess
import threading
from pathlib import Path


class MoecError(RuntimeError):
    pass


class Moec:
    def __init__(self, node: str, script: Path) -> None:
        self._process = subprocess.Popen([node, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, request: dict[str, object], timeout: float = 300) -> dict[str, object]:
        """@raise MoecError where the process says so, ends, or is silent for `timeout` seconds; then it is ended"""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self.end()
            raise MoecError(f"no answer to {request.get('do')} within {timeout:.0f} s: ended") from None
        except OSError as error:
            raise MoecError(f"the process is gone: {error}") from error
        if line == "":
            raise MoecError(f"the process ended (exit status {self._process.wait()}) at {request.get('do')}")
        answer = json.loads(line)
        if answer.get("error") is not None:
            raise MoecError(str(answer["error"]))
        return answer

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        if self.alive:
            self._process.kill()
        self._process.wait()


class CompiledLayer:
    """One package on the device."""

    def __init__(self, process: Moec, name: str, directory: Path, weights: Path, timeout: float) -> None:
        self.process = process
        self.name = name
        self.opened = process.ask({"do": "open", "name": name, "directory": str(directory), "weights": str(weights)}, timeout)

    def run(self, rows: Path, out: Path) -> dict[str, object]:
        """Reads `x`, writes `y` and, where there is a router, `topk_indices`; the call's commands are kept for `times`."""
        return self.process.ask({"do": "run", "name": self.name, "input": str(rows), "output": str(out)})

    def times(self, runs: int, flush: bool) -> list[float]:
        answer = self.process.ask({"do": "time", "name": self.name, "runs": runs, "flush": flush})
        milliseconds = answer["ms"]
        assert isinstance(milliseconds, list)
        return milliseconds

    def close(self) -> None:
        if self.process.alive:
            self.process.ask({"do": "close", "name": self.name})
