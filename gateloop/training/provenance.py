"""What a result was made by and made on: commit, packages, machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "gateloop",
    "torch",
    "triton",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "tokenizers",
    "sentencepiece",
    "datasets",
    "wandb",
)
_MOST_DIFF = 1 << 20


_ROOT = Path(__file__).resolve().parents[2]


def current_commit() -> str | None:
    """The commit of the checkout that this code is in; None where it is installed."""
    found = commit(_ROOT)["commit"]
    return str(found) if found else None


def session() -> dict[str, Any]:
    """Plain facts about this start of a run."""
    return {
        **commit(_ROOT),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES if _version(name)},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": _cores(),
        "host": socket.gethostname(),
    }


def commit(root: Path) -> dict[str, Any]:
    """Commit, changed files and the diff against it, where ``root`` is a checkout of gateloop.

    An installed package inside somebody else's repository has no commit.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    ours = _git(root, "ls-files", "gateloop/__init__.py")
    if not top or not ours or Path(top.strip()).resolve() != root.resolve():
        return {"commit": None, "dirty": None}
    head = (_git(root, "rev-parse", "HEAD") or "").strip() or None
    status = _git(root, "status", "--porcelain") or ""
    facts: dict[str, Any] = {"commit": head, "dirty": bool(status.strip())}
    if facts["dirty"]:
        diff = _git(root, "diff", "HEAD") or ""
        facts["changed"] = status.splitlines()[:200]
        facts["diff"] = diff[:_MOST_DIFF]
        facts["diff_complete"] = len(diff) <= _MOST_DIFF
    return facts


def _git(root: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(name, None)  # set inside a git hook, and then about another repository
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            timeout=30,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int | None:
    """The cores this process may use, which a container or a scheduler may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
