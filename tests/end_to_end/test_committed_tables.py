"""What is committed under ``results/`` is what its records give."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.processes import ROOT


def files(folder: Path) -> dict[str, bytes]:
    """The front page, and everything that tables are made of or make."""
    found = [folder / "README.md", *sorted((folder / "results").rglob("*"))]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.is_file()}


def test_every_committed_table_is_rebuilt_byte_for_byte(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "results", "README.md"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, tracked):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    before = files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "gateloop.tables"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    after = files(tmp_path)
    assert sorted(after) == sorted(before)
    assert not [name for name in before if after[name] != before[name]]
