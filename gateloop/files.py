"""Writing files whole or not at all, and finding what is packed beside the code."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateloop.errors import InputError

_REASONS = {
    errno.ENOSPC: (
        "no space left on the device",
        "free some space and give the same command again",
    ),
    errno.EDQUOT: ("disk quota exceeded", "free some space and give the same command again"),
    errno.EFBIG: ("file too large for the file system or its limit", "raise the limit (ulimit -f)"),
    errno.EACCES: ("permission denied", "make it accessible to this user, or give another folder"),
    errno.EPERM: ("operation not permitted", "make it writable, or give another folder"),
    errno.EROFS: ("read-only file system", "give another folder"),
    errno.ENOENT: ("no such folder, and it cannot be made", "give another folder"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "remove it, or give another folder"),
    errno.EEXIST: ("a file stands where a folder is needed", "remove it, or give another folder"),
    errno.EISDIR: ("a folder stands where a file is needed", "remove it, or give another folder"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter path"),
    errno.EIO: ("the device reports an input/output error", "give a folder on another device"),
    errno.ENOLCK: ("the file system has no locks", "give a folder on a file system with locks"),
}


@contextmanager
def clear_disk_errors(what: object) -> Iterator[None]:
    """Turn a disk that is full, read-only or forbidden into one line that names ``what``.

    Raises InputError in place of an error that the user can remedy; other errors pass.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = errno.ENOSPC if _short_write(error) else getattr(error, "errno", None)
        if number not in _REASONS:
            raise
        reason, remedy = _REASONS[number]
        name = getattr(error, "filename", None)
        where = f" ({name})" if name and str(name) != str(what) else ""
        raise InputError(f"{what}{where}: {reason}; {remedy}") from error


def _short_write(error: Exception) -> bool:
    # A full disk comes without an error number from numpy ("N requested and M written") and from
    # torch.save (whose zip writer ends up elsewhere than it should).
    text = str(error)
    return ("requested and" in text and "written" in text) or (
        "inline_container" in text and ("unexpected pos" in text or "file write failed" in text)
    )


def read_text(path: Path) -> str:
    """The text of ``path``; "" where there is no such file. Raises InputError where it is no text
    in UTF-8, or cannot be read."""
    try:
        with clear_disk_errors(path):
            return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as UTF-8") from error


def check_own_page(path: Path, head: str) -> None:
    """Raise InputError where ``path`` is a page of somebody else's, that does not begin as ours."""
    text, first = read_text(path), head.partition("\n")[0]
    if text and text.partition("\n")[0] != first:
        raise InputError(
            f"{path} would be replaced, and is no page of this command's (they begin with "
            f"{first!r}); name another folder, or move it away"
        )


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, as write_bytes_atomic does."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Write to ``path``: afterwards the file is the old one or the new one, whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may only say so here
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomic(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON, as write_text_atomic does."""
    write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file ``path``; of itself too it says so."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def packed(name: str) -> Path:
    """The folder or file ``name`` (``conf``, …): at a checkout's root, else inside the package.

    A folder beside an installed package is somebody else's, so only a checkout's root counts.
    """
    package = Path(__file__).resolve().parent
    root = package.parent
    inside = package / name
    if (root / "pyproject.toml").is_file() or not inside.exists():
        return root / name
    return inside
