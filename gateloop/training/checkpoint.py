"""Checkpoints on disk: written whole or not at all, verified by their own names."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from gateloop.errors import InputError
from gateloop.files import clear_disk_errors

STEP, BEST = "step", "best"
KEPT = {STEP: 2, BEST: 1}


@dataclass(frozen=True)
class Checkpoint:
    """``<kind>-00000300-<digest>.ckpt``: the name carries the content's digest, so that one rename
    publishes both, and a file cut short or changed is known before it is opened."""

    path: Path

    @property
    def step(self) -> int:
        return int(self.path.name.split("-")[1])

    def load(self) -> dict[str, Any]:
        """The content, as tensors and plain values; nothing in it is executed.

        Raises InputError where the file is cut short or changed, or holds anything else.
        """
        if self.path.stem.split("-")[2] != digest(self.path):
            raise InputError(f"{self.path} is damaged")
        try:
            content: dict[str, Any] = torch.load(
                self.path, map_location="cpu", weights_only=True, mmap=True
            )
        except (RuntimeError, UnpicklingError) as error:
            raise InputError(f"{self.path} is damaged: it holds more than tensors") from error
        return content


def digest(path: Path) -> str:
    state = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def save(folder: Path, kind: str, step: int, write: Callable[[Path], None]) -> Checkpoint:
    """Publish what ``write`` puts into the path it is given, then drop the oldest of its kind.

    Raises InputError, with nothing half-written left, where the disk refuses.
    """
    temporary = folder / f".{kind}-{step:08d}.{os.getpid()}.tmp"
    with clear_disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            final = folder / f"{kind}-{step:08d}-{digest(temporary)}.ckpt"
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
    kept = Checkpoint(final)
    others = [old for old in listing(folder, kind) if old != kept]
    for old in others[: len(others) + 1 - KEPT[kind]]:
        old.path.unlink()
    return kept


def remove_half_written(folder: Path) -> None:
    """Remove what a process that was killed while it saved has left. Only under the run's lock:
    another process's save looks the same while it lasts."""
    with clear_disk_errors(folder):
        for path in folder.glob(".*.tmp"):
            path.unlink()


def listing(folder: Path, kind: str) -> list[Checkpoint]:
    """Every checkpoint of a kind in ``folder``, oldest step first."""
    ours = re.compile(rf"{kind}-\d+-[0-9a-f]+\.ckpt")  # others may stand beside them
    found = (Checkpoint(path) for path in folder.glob("*.ckpt") if ours.fullmatch(path.name))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_intact(folder: Path, *, remove: bool = False) -> Checkpoint | None:
    """The last step's checkpoint that is whole; damaged ones are named on stderr.

    With ``remove``, for a run that goes on from there, they are deleted.
    """
    there = listing(folder, STEP)
    for checkpoint in reversed(there):
        try:
            checkpoint.load()
            return checkpoint
        except InputError as error:
            then = "taking the one before" if checkpoint != there[0] else "there is none before it"
            print(f"gateloop: warning: {error}; {then}", file=sys.stderr)
            if remove:
                checkpoint.path.unlink()
    return None


def warn_of_lost_best(run: Path) -> None:
    """Say at once, on stderr, what would else stand in the way after all of the training."""
    if listing(run / "checkpoints", BEST):
        try:
            best_weights(run)
        except InputError as error:
            print(
                f"gateloop: warning: {error}, or go on: a later validation may be better",
                file=sys.stderr,
            )


def best_weights(run: Path) -> tuple[dict[str, Tensor], str]:
    """The best validation's weights, and the file they came from.

    Where that file is damaged, they are in the checkpoint of the same step, if that is still kept.
    An unfinished run that has validated nothing yet gives its last checkpoint's.
    Raises InputError where there are none.
    """
    folder = run / "checkpoints"
    best = listing(folder, BEST)
    if not best:
        last = newest_intact(folder)
        if last is None:
            raise InputError(f"{run} holds no checkpoint; let the run reach its first one")
        return _weights_of(last), last.path.name
    try:
        return best[-1].load()["model"], best[-1].path.name
    except InputError as error:
        for checkpoint in listing(folder, STEP):
            if checkpoint.step == best[-1].step:
                with suppress(InputError):
                    return _weights_of(checkpoint), checkpoint.path.name
        raise InputError(f"{error}; delete the run's folder and train it again") from error


def _weights_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    content = checkpoint.load()["state_dict"]
    return {name.removeprefix("model."): part for name, part in content.items()}
