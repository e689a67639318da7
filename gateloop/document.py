"""A YAML file as a dataclass: every mistake in it is one line that names the place and the remedy.

Loading builds plain values only; nothing that a file holds is ever run.
"""

from __future__ import annotations

import dataclasses
import types
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from gateloop.errors import InputError

Schema = TypeVar("Schema")

_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class _Loader(yaml.SafeLoader):
    """YAML's plain values, each key of a mapping once."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # 2024-13-45 has the form of a date and is none; !!bool x is no text of a bool's
        except (ValueError, KeyError, AttributeError, IndexError) as error:
            raise yaml.MarkedYAMLError(
                problem=f"{_shown(node.value)}: {error}", problem_mark=node.start_mark
            ) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key if isinstance(key, (str, int, float, bool)) else id(key_node))
        return super().construct_mapping(node, deep)


def load(schema: type[Schema], path: Path) -> Schema:
    """The dataclass ``schema`` from the YAML file ``path``.

    Raises InputError where the file is missing, no YAML, or not what the schema says.
    """
    tree = load_tree(path)
    try:
        return read(schema, tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def load_tree(path: Path) -> Any:
    """The plain values of the YAML file ``path``; InputError where it is missing or no YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{path}: {line}{error.problem}; correct the YAML") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as UTF-8") from error
    except (OSError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def read(schema: type[Schema], tree: Any, where: str = "") -> Schema:
    """``tree``, plain values as YAML gives them, as the dataclass ``schema``.

    Raises InputError with the dotted place of the first mistake: a key that is not there or not
    known, a value of another type. Fields without a default must be given.
    """
    if not isinstance(tree, dict):
        raise InputError(f"{where or 'the file'}: expected keys and values, found {_shown(tree)}")
    fields = {field.name: field for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    hints = get_type_hints(schema)
    for name in tree:
        if name not in fields:
            near = get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(fields)}"
            raise InputError(f"{_join(where, name)}: no such key; {hint}")
    found = {}
    for name, field in fields.items():
        place = _join(where, name)
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if name in tree:
            found[name] = _value(hints[name], tree[name], place)
        elif required:
            raise InputError(f"{place}: missing; expected {_expected(hints[name])}")
    return schema(**found)


def _value(hint: Any, value: Any, place: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if dataclasses.is_dataclass(hint):
        return read(hint, value, place)  # type: ignore[arg-type]
    if get_origin(hint) is list:
        if not isinstance(value, list):
            raise InputError(f"{place}: expected {_expected(hint)}, found {_shown(value)}")
        (inner,) = get_args(hint)
        return [_value(inner, part, f"{place}[{i}]") for i, part in enumerate(value)]
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise InputError(f"{place}: expected {_expected(hint)}, found {_shown(value)}")
        _, inner = get_args(hint)
        return {str(key): _value(inner, part, _join(place, key)) for key, part in value.items()}
    if isinstance(hint, type) and issubclass(hint, Enum):
        if not isinstance(value, str) or value not in hint.__members__:
            near = get_close_matches(str(value), hint.__members__, n=1)
            more = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{place}: {_shown(value)} is not {_expected(hint)}{more}")
        return hint[value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return value  # a whole number as it is: a key may take no other
    if hint is int and is_number and isinstance(value, int):
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    if hint is Any:
        return value
    raise InputError(f"{place}: expected {_expected(hint)}, found {_shown(value)}")


def _expected(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_expected(part) for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is list:
        return f"a list ([…]), each element {_expected(get_args(hint)[0])}"
    if dataclasses.is_dataclass(hint) or get_origin(hint) is dict:
        return "keys and values"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(hint.__members__)}"
    return _WORDS.get(hint, "a value")


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
