"""A run's folder: its lock, its config, where it came from, its curves and its summary.

Nothing here imports torch: a finished run is recognised in a fraction of a second.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from gateloop.config import Config
from gateloop.draft import Draft, leaves
from gateloop.errors import InputError, Interrupted
from gateloop.files import clear_disk_errors, write_json_atomic, write_text_atomic
from gateloop.identity import identity as identity_of
from gateloop.keys import config_yaml
from gateloop.training.provenance import session
from gateloop.validation import check

FINISHED = "finished"
ASIDE = ".replaced"


class RunFolder:
    """``runs_dir/id``. Reading needs no lock; whatever writes is called inside ``locked()``.

    Every method raises InputError where the disk is full, read-only or forbidden.
    """

    def __init__(self, runs_dir: str | os.PathLike[str], id: str) -> None:
        self.runs_dir, self.id = Path(runs_dir), id
        self.path = self.runs_dir / id
        self._lock: int | None = None

    # -- the lock ------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go of it however the process ends.

        Raises Interrupted where another process holds it, having changed nothing.
        """
        try:
            self._acquire()
            yield
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _acquire(self) -> None:
        path = self.path / "lock"
        with clear_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            while True:
                lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.read(lock, 300).decode(errors="replace").strip()
                    os.close(lock)
                    raise Interrupted(
                        f"{self.path} is being run by {holder or 'another process'}; wait for it, "
                        "or end it and give the same command again"
                    ) from None
                if _is_file(lock, path):
                    break
                os.close(lock)  # a rerun moved the folder away between opening and locking
                path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock
            os.ftruncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        # A forked worker that outlives this process must not keep the run locked.
        os.register_at_fork(after_in_child=self._forget_lock)

    def _forget_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- the config ----------------------------------------------------------------------

    def open(self, config: Config, identity: dict[str, Any], *, rerun: bool = False) -> None:
        """Write config.yaml, or see that the one there is this run's.

        ``rerun`` first moves a finished run to ``runs_dir/.replaced/id``, in place of the one that
        was there before, by a single rename: the old run is there whole, or here whole. An
        unfinished one is left to be resumed, so that an interrupted rerun goes on.
        Raises InputError where the folder holds something else.
        """
        path = self.path / "config.yaml"
        with clear_disk_errors(self.path):
            if rerun and self.finished():
                self._move_aside()
            if path.exists():
                self._compare(path, identity)
                return
            strangers = sorted(p.name for p in self.path.iterdir() if p.name != "lock")
            strangers = [name for name in strangers if not name.startswith(".")]
            if strangers:
                raise InputError(
                    f"{self.path} holds {strangers[0]} but no config.yaml, so it is not this run; "
                    "rename or delete it, or give another runs_dir"
                )
            write_text_atomic(path, config_yaml(config))

    def _move_aside(self) -> None:
        aside = self.runs_dir / ASIDE / self.id
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        os.rename(self.path, aside)
        held = self._lock
        self._acquire()
        if held is not None:
            os.close(held)

    def _compare(self, path: Path, identity: dict[str, Any]) -> None:
        remedy = "rename or delete the folder, or give another runs_dir"
        try:
            there = identity_of(load_config(self.path), identity.get("fingerprint"))
        except InputError as error:
            raise InputError(f"{error}; {remedy}") from error
        if there != identity:
            name = min(k for k in {*there, *identity} if there.get(k) != identity.get(k))
            raise InputError(
                f"{path} is another run's: {name} is {there.get(name, 'at its default')} there and "
                f"{identity.get(name, 'at its default')} here; {remedy}"
            )

    # -- where it came from --------------------------------------------------------------

    def write_manifest(
        self, command: list[str], identity: dict[str, Any], data: dict[str, Any], **facts: Any
    ) -> None:
        """Add this session to manifest.json: code, command, packages, machine, and ``facts``.

        ``identity`` is the run's, ``data`` the source's plain facts. A resumed run has one session
        for each start.
        """
        sessions = self.manifest().get("sessions", [])
        entry = {"time": _now(), "command": command, **session(), **facts}
        content = {
            "id": self.id,
            "identity": identity,
            "data": data,
            "sessions": [*sessions, entry],
        }
        with clear_disk_errors(self.path):
            write_json_atomic(self.path / "manifest.json", content)

    def manifest(self) -> dict[str, Any]:
        """What manifest.json holds, or nothing."""
        return self._read("manifest.json")

    # -- the result ----------------------------------------------------------------------

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json whole; numbers that are not finite become null."""
        with clear_disk_errors(self.path):
            write_json_atomic(self.path / "summary.json", _finite(summary))

    def write_test(self, places: dict[str, Any]) -> None:
        """Write test.json whole: scores by position and by distance."""
        with clear_disk_errors(self.path):
            write_json_atomic(self.path / "test.json", places)

    def summary(self) -> dict[str, Any]:
        """What summary.json holds, or nothing."""
        return self._read("summary.json")

    def finished(self) -> bool:
        return self.summary().get("status") == FINISHED

    def finished_by(self) -> str | None:
        """The commit that ended the run, or None where it is not known."""
        sessions = self.manifest().get("sessions") or [{}]
        commit = sessions[-1].get("commit")
        return str(commit) if commit else None

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            with clear_disk_errors(path):
                content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it to run again") from error
        return content if isinstance(content, dict) else {}

    # -- the curves ----------------------------------------------------------------------

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl, handed to the system at once."""
        path = self.path / "metrics.jsonl"
        with clear_disk_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row), allow_nan=False) + "\n")

    def cut_back(self, step: int, *, redo: str | None = None) -> None:
        """Cut metrics.jsonl off at its first line that is after ``step`` or half written.

        With ``redo`` also at a line of ``step`` itself that holds this metric. The file is cut in
        place, so that a full disk does not stand in the way.
        """
        path = self.path / "metrics.jsonl"
        with clear_disk_errors(path):
            if not path.exists():
                return
            lines = path.read_bytes().splitlines(keepends=True)
            kept = takewhile(lambda line: _is_row_until(line, step, redo), lines)
            os.truncate(path, sum(map(len, kept)))


def load_config(folder: str | os.PathLike[str]) -> Config:
    """The config that ``folder/config.yaml`` holds, through the same typed schemas.

    Runs nothing that the file holds. Keys that it lacks are newer than the run and have their
    defaults. Raises InputError where the file is missing, malformed, or holds anything else.
    """
    path = Path(folder) / "config.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a run's folder: it has no config.yaml") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise InputError(f"{path}: cannot be read ({reason})") from error
    try:
        return _typed(tree)
    except RecursionError:
        raise InputError(f"{path}: a value contains itself") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _typed(tree: Any) -> Config:
    nodes = [tree.get(node) for node in ("model", "data")] if isinstance(tree, dict) else []
    names = [node.get("name") for node in nodes if isinstance(node, dict)]
    if len(names) != 2:
        raise InputError("is no run's config: model.name and data.name are missing")
    draft = Draft(str(names[0]), str(names[1]))
    for name, value in leaves(tree).items():
        draft.set(name, value)
    config = draft.config()
    check(config)
    return config


def _is_row_until(line: bytes, step: int, redo: str | None) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    if not line.endswith(b"\n") or not isinstance(row, dict) or row.get("step", 0) > step:
        return False
    return not (row.get("step") == step and redo in row)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: both become null."""
    if isinstance(value, dict):
        return {name: _finite(element) for name, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(element) for element in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
