"""Which text a run reads, and whether another run has read the same.

A WikiText is known by its counts: it is the same wherever it lies. Any other text, and a
sentencepiece model of the user's own, is only known where it is at hand.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from gateloop.config import DataConfig, TextConfig
from gateloop.data import fingerprint, locate
from gateloop.errors import InputError
from gateloop.names import TokenizerName

_KNOWN: dict[str, str | None] = {}


def own_paths(data: DataConfig) -> dict[str, str]:
    """The paths, by key, that make a run another one, whatever else it shares with it."""
    if not isinstance(data, TextConfig):
        return {}
    found = {"data.path": data.path if data.name == "text" else None}
    if data.tokenizer is TokenizerName.sentencepiece:
        found["data.tokenizer_path"] = data.tokenizer_path
    return {key: path for key, path in found.items() if path is not None}


def is_of(data: DataConfig, made_from: str | None, file: str | None = None) -> bool:
    """Whether a run was made from the text that ``data`` names.

    ``made_from``: the fingerprint in its identity; ``file``: its text's name. Where the text is
    not at hand the name decides, and where there is no name it may be.
    """
    if not own_paths(data):
        return True
    if made_from is not None:
        with suppress(InputError):  # it is not at hand
            return made_from == mark_of(data, fetch=False)
    path = own_paths(data).get("data.path")
    return file is None or path is None or file == Path(path).name


def is_whole(data: DataConfig) -> bool:
    """Whether a WikiText is at hand, and all of it."""
    try:
        return isinstance(data, TextConfig) and locate(data, fetch=False) == data.name
    except InputError:
        return False


def mark_of(data: DataConfig, *, fetch: bool = True) -> str | None:
    """``data``'s fingerprint, the same to the end of this process.

    What runs are named by is what they are told apart by, though somebody edits the text meanwhile.
    Raises InputError as ``fingerprint``.
    """
    described = repr(data)
    if described not in _KNOWN:
        _KNOWN[described] = fingerprint(data, fetch=fetch)
    return _KNOWN[described]
