"""Which text a run reads, and whether another run has read the same.

A WikiText is known by its counts: it is the same wherever it lies. Any other text, and a
sentencepiece model of the user's own, is only known where it is at hand.
"""

from __future__ import annotations

from pathlib import Path

from gateloop.config import DataConfig, TextConfig
from gateloop.data import fingerprint, locate
from gateloop.errors import InputError
from gateloop.names import TokenizerName

_KNOWN: dict[str, str] = {}


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
    if made_from is None or not own_paths(data):
        return True
    known = _fingerprint(data)
    if known is not None:
        return made_from == known
    path = data.path if isinstance(data, TextConfig) else None
    return file is None or path is None or file == Path(path).name


def is_whole(data: DataConfig) -> bool:
    """Whether a WikiText is at hand, and all of it."""
    try:
        return isinstance(data, TextConfig) and locate(data, fetch=False) == data.name
    except InputError:
        return False


def _fingerprint(data: DataConfig) -> str | None:
    """None where the text is not at hand, which it may be later."""
    described = repr(data)
    if described not in _KNOWN:
        try:
            _KNOWN[described] = fingerprint(data, fetch=False) or ""
        except InputError:
            return None
    return _KNOWN[described]
