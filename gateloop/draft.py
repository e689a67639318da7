"""A config in the making: values are set one by one, and each mistake has its own line."""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gateloop.config import DATA, Config
from gateloop.errors import InputError
from gateloop.files import packed
from gateloop.keys import Key, keys, node_keys, shown
from gateloop.registry import MODELS, model_entry


class Draft:
    """The typed config of one model and one data source, at its defaults until set.

    Raises InputError where a name is in no registry, and where another package's model is none.
    """

    def __init__(self, model: str, data: str) -> None:
        schema: Any = model_entry(model).config
        if data not in DATA:
            raise InputError(f"data.name={data}: no such data; {choose(data, list(DATA))}")
        self.model, self.data = model, data
        self.keys, blank = _blank(schema, model, data)
        self._tree = copy.deepcopy(blank)

    def set(self, name: str, value: Any, text: str | None = None) -> None:
        """Set one key; ``text`` is what the user wrote, where that is known.

        Raises InputError: no such key, wrong type, null, out of range, not finite.
        """
        text = shorten(shown(value) if text is None else text)
        if name not in self.keys:
            raise InputError(f"{name}={text}: {self._unknown(name)}")
        key = self.keys[name]
        _refuse_references(name, value, text)
        if value is None and not key.optional:
            raise InputError(f"{name}={text}: null is not allowed; expected {key.expected}")
        if value == "" and key.kind is str:
            instead = "give a text, or null" if key.optional else "give a text"
            raise InputError(f"{name}= has no value; {instead}")
        try:
            OmegaConf.update(self._tree, name, value, merge=False)
        except (OmegaConfBaseException, ValueError) as error:
            raise InputError(
                f"{name}={text}: expected {key.expected}{_hint(key, value)}"
            ) from error
        self._check_range(key, text)

    def config(self) -> Config:
        """The dataclasses, at the values set so far."""
        config = OmegaConf.to_object(self._tree)
        assert isinstance(config, Config)
        return config

    def settable(self) -> list[str]:
        """The keys that a command line may set: a group's choice brings the names."""
        return [name for name in self.keys if not name.endswith(".name")]

    def _check_range(self, key: Key, text: str) -> None:
        value = OmegaConf.select(self._tree, key.name)
        for number in value if key.many else [value]:
            if number is None or not isinstance(number, (int, float)):
                continue
            if not math.isfinite(number):
                raise InputError(f"{key.name}={text}: not finite; expected {key.expected}")
            if isinstance(number, int) and abs(number) >= 2**63:
                raise InputError(f"{key.name}={text}: more than 64 bits hold; {key.expected}")
            if not key.in_range(number):
                raise InputError(f"{key.name}={text}: out of range; expected {key.expected}")

    def _unknown(self, name: str) -> str:
        inside = [key[len(name) + 1 :] for key in self.keys if key.startswith(f"{name}.")]
        if inside:
            parts = dict.fromkeys(key.split(".")[0] for key in inside)
            return f"not a value but a group of keys: {', '.join(parts)}; set {name}.{inside[0]}=…"
        outside = [key for key in self.keys if name.startswith(f"{key}.")]
        if outside:
            return f"{outside[0]} is a single value and has no keys; set {outside[0]}=…"
        models = [m for m, entry in MODELS.items() if name in node_keys(entry.config, "model")]
        sources = [d for d, schema in DATA.items() if name in node_keys(schema, "data")]
        if models:
            return f"a key of model={' and model='.join(models)}; this run has model={self.model}"
        if sources:
            return f"a key of data={' and data='.join(sources)}; this run has data={self.data}"
        return f"no such key{did_you_mean(nearest_key(name, self.settable()))}; --help lists all"


@cache
def _blank(schema: Any, model: str, data: str) -> tuple[dict[str, Key], Any]:
    """Keys and tree of a config at its defaults, not to be changed: making them takes a while."""
    config = Config(model=schema(name=model), data=DATA[data](name=data))
    return keys(config), OmegaConf.structured(config)


def leaves(tree: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted key; lists are values."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        found.update(leaves(value, f"{key}.") if isinstance(value, dict) else {key: value})
    return found


def _refuse_references(name: str, value: Any, text: str) -> None:
    for element in value if isinstance(value, list) else [value]:
        if isinstance(element, str) and ("${" in element or element == "???"):
            raise InputError(f"{name}={text}: references are refused; write the value itself")


def _hint(key: Key, value: Any) -> str:
    if key.kind is int and isinstance(value, float) and math.isfinite(value) and value % 1 == 0:
        return f"; write {int(value)}"
    return did_you_mean(get_close_matches(str(value), key.choices, n=1)) if key.choices else ""


def nearest_key(name: str, known: list[str]) -> list[str]:
    """The known keys nearest to ``name``: by their last part first, then as a whole."""
    last = name.rsplit(".")[-1]
    same = [key for key in known if key.rsplit(".")[-1] == last]
    if same:
        return get_close_matches(name, same, n=1 if "." in name else 3, cutoff=0.0)
    whole = get_close_matches(name, known, n=1)
    if whole or "." in name:
        return whole
    tails = {key.rsplit(".")[-1]: key for key in reversed(known)}
    return [tails[tail] for tail in get_close_matches(last, list(tails), n=1, cutoff=0.7)]


def did_you_mean(names: list[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""


def choose(name: str, choices: list[str]) -> str:
    """ "choose one of a, b; did you mean a?" """
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"choose one of {', '.join(choices)}{did_you_mean(near)}"


def shipped_file(given: str, folder: str, kind: str) -> Path:
    """The file that ``given`` names: a path, or a name in the packed ``folder``.

    Raises InputError where there is no such ``kind``.
    """
    here = Path(given)
    with suppress(OSError):  # a name too long is none
        if here.is_file():
            return here
    shipped = {path.stem: path for path in sorted(packed(folder).glob("*.yaml"))}
    if here.stem in shipped and here.parent in (Path(), Path(folder)):
        return shipped[here.stem]
    raise InputError(f"{given}: no such {kind}; {choose(here.stem, list(shipped))}")


def shorten(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
