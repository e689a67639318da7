"""Real runs in real processes, watched through the files they write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VOLATILE = ("seconds", "per_second", "time", "host")  # what may differ between equal runs


class Run:
    """``python -m gateloop.run`` with ``arguments`` in ``folder``; its output in files there.

    ``packages``: a folder with more packages than are installed.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        module: str = "gateloop.run",
        packages: Path | None = None,
    ) -> None:
        self.folder = folder
        path = os.pathsep.join(map(str, filter(None, (ROOT, packages))))
        self.environment = {"PYTHONPATH": path}
        folder.mkdir(parents=True, exist_ok=True)
        self.command = [sys.executable, "-m", module, *arguments]

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment}
        with (self.folder / "out").open("ab") as out, (self.folder / "err").open("ab") as err:
            return subprocess.Popen(
                self.command, cwd=self.folder, env=environment, stdout=out, stderr=err
            )

    def finish(self) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            self.command, cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def kill_when(self, ready: Callable[[], bool], number: signal.Signals = signal.SIGKILL) -> int:
        """Start, wait until ``ready()``, send the signal, and return the exit code."""
        process = self.start()
        try:
            while not ready():
                assert process.poll() is None, f"ended early:\n{(self.folder / 'err').read_text()}"
                time.sleep(0.002)
            process.send_signal(number)
            return process.wait(timeout=60)
        finally:
            process.kill()  # a test that fails leaves nothing running

    @property
    def path(self) -> Path:
        """The one run folder under ``folder/runs``."""
        (found,) = (p for p in (self.folder / "runs").iterdir() if not p.name.startswith("."))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl."""
        try:
            text = (self.path / "metrics.jsonl").read_text()
        except (FileNotFoundError, ValueError):
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def has(self, step: int, name: str) -> bool:
        return any(row["step"] == step and name in row for row in self.rows())

    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return content

    def checkpoints(self, kind: str = "step") -> list[Path]:
        try:
            return sorted((self.path / "checkpoints").glob(f"{kind}-*.ckpt"))
        except (FileNotFoundError, ValueError):
            return []


def stable(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what differs between two equal runs: times, throughput, hosts."""
    kept = {}
    for name, value in record.items():
        if not any(word in name for word in VOLATILE):
            kept[name] = stable(value) if isinstance(value, dict) else value
    return kept
