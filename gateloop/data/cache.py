"""The folder of what is costly to make again; everything in it can be deleted at any time."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gateloop.errors import InputError
from gateloop.files import clear_disk_errors

ABANDONED = 24 * 3600  # seconds after which a temporary file belongs to no living process


def cache_folder(cache_dir: str | None) -> Path:
    """``data.cache_dir``, else $GATELOOP_CACHE_DIR, else ~/.cache/gateloop."""
    chosen = cache_dir or os.environ.get("GATELOOP_CACHE_DIR")
    try:
        return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "gateloop"
    except RuntimeError as error:
        raise InputError(
            f"no home folder to keep a cache in ({error}); set data.cache_dir"
        ) from error


def digest(*parts: str) -> str:
    """A hash of some texts, told apart from each other."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@contextmanager
def writing(path: Path, what: str) -> Iterator[BinaryIO]:
    """A binary file that takes its name only once it is whole.

    InputError, and nothing left behind, where the disk is full or forbidden.
    """
    with clear_disk_errors(f"cannot write {what} to {path.parent} (data.cache_dir moves it)"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _sweep(path: Path) -> None:
    """Remove what processes that were killed have left of this file."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        try:
            if time.time() - leftover.stat().st_mtime > ABANDONED:
                leftover.unlink()
        except FileNotFoundError:
            pass


def keep(path: Path, content: Any, what: str) -> None:
    """Keep plain JSON content with its checksum."""
    text = json.dumps(content, ensure_ascii=False)
    record = {"crc32": zlib.crc32(text.encode()), "content": content}
    with writing(path, what) as file:
        file.write(json.dumps(record, ensure_ascii=False).encode())


def recall(path: Path, what: str) -> Any | None:
    """What ``keep`` kept; None where there is nothing, or nothing intact."""
    try:
        with clear_disk_errors(f"cannot read {what}"):
            if not path.exists():
                return None
            record = json.loads(path.read_bytes())
        text = json.dumps(record["content"], ensure_ascii=False)
        if zlib.crc32(text.encode()) == record["crc32"]:
            return record["content"]
    except (ValueError, KeyError, TypeError):
        pass
    warn(f"{what} kept in {path} is damaged; making it again")
    return None


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
