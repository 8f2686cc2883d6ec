"""The file of results. Needs nothing but Python."""
from __future__ import annotations

import json
from pathlib import Path


class Results:
    """Appends one JSON object a line, at once: what was measured survives whatever comes after."""

    def __init__(self, path: Path, command: str) -> None:
        self.path = path
        self.command = command

    def add(self, kind: str, **row: object) -> None:
        line = {"kind": kind, **row, "command": self.command}
        with self.path.open("a") as f:
            f.write(json.dumps(line) + "\n")
