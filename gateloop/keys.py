"""Every key of a run by its dotted name: type, default, range and help, read off the schemas."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from gateloop.config import Config

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_BOUNDS = {"least": "≥ {}", "above": "> {}", "most": "≤ {}", "below": "< {}"}


@dataclass(frozen=True)
class Key:
    """One value of the configuration.

    ``kind`` is int, float, bool, str or an Enum class; ``many`` marks a list of them.
    """

    name: str
    kind: type
    many: bool
    optional: bool
    default: Any
    doc: str
    identity: bool
    bounds: dict[str, float]

    @property
    def choices(self) -> list[str]:
        return [member.name for member in self.kind] if issubclass(self.kind, Enum) else []

    @property
    def range(self) -> str:
        """The bounds in words: "≥ 0 and < 1", or ""."""
        parts = [_BOUNDS[side].format(f"{bound:.12g}") for side, bound in self.bounds.items()]
        return " and ".join(parts)

    @property
    def expected(self) -> str:
        """What the key takes, for a message: "a whole number ≥ 1, or null"."""
        words = f"one of {', '.join(self.choices)}" if self.choices else _KINDS[self.kind]
        if self.many:
            words = f"a list such as [1, 2], each element {words}"
        return words + (f" {self.range}" if self.range else "") + (", or null" * self.optional)

    def in_range(self, value: float) -> bool:
        least, most = self.bounds.get("least"), self.bounds.get("most")
        above, below = self.bounds.get("above"), self.bounds.get("below")
        return (
            (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )


def keys(config: Config) -> dict[str, Key]:
    """Every key of ``config``'s own schemas, in their order."""
    found: dict[str, Key] = {}
    for name in (field.name for field in dataclasses.fields(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            found.update(node_keys(type(value), name))
    found.update({k: v for k, v in node_keys(Config, "").items() if "." not in k})
    return found


def node_keys(schema: Any, prefix: str) -> dict[str, Key]:
    """Every key under one dataclass, its names beginning with ``prefix``."""
    return dict(_node_keys(schema, prefix))


@cache
def _node_keys(schema: Any, prefix: str) -> dict[str, Key]:
    hints = get_type_hints(schema)
    defaults = schema()
    found: dict[str, Key] = {}
    for field in dataclasses.fields(schema):
        name = f"{prefix}.{field.name}" if prefix else field.name
        default = getattr(defaults, field.name)
        if dataclasses.is_dataclass(default):
            found.update(node_keys(type(default), name))
            continue
        kind, many, optional = _plain(hints[field.name])
        bounds = field.metadata.get("range", {})
        found[name] = Key(
            name=name,
            kind=kind,
            many=many,
            optional=optional,
            default=default,
            doc=field.metadata.get("doc", ""),
            identity=field.metadata.get("identity", True),
            bounds={side: bounds[side] for side in _BOUNDS if bounds.get(side) is not None},
        )
    return found


def _plain(hint: Any) -> tuple[type, bool, bool]:
    """Split a type hint into (kind, is a list, may be null)."""
    optional = get_origin(hint) in (Union, types.UnionType)
    if optional:
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    many = get_origin(hint) is list
    return (get_args(hint)[0] if many else hint), many, optional


def values(config: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config dataclass by dotted name, Enums as members."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name = f"{prefix}.{field.name}" if prefix else field.name
        value = getattr(config, field.name)
        found.update(values(value, name) if dataclasses.is_dataclass(value) else {name: value})
    return found


def plain(value: Any) -> Any:
    """A value as YAML and JSON hold it: an Enum by its name."""
    if isinstance(value, Enum):
        return value.name
    return [plain(element) for element in value] if isinstance(value, (list, tuple)) else value


def shown(value: Any) -> str:
    """A value as one writes it on the command line."""
    value = plain(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(shown(element) for element in value)}]"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def config_yaml(config: Config) -> str:
    """The whole config as YAML: what ``--cfg`` prints and ``config.yaml`` holds."""

    def nested(node: Any) -> dict[str, Any]:
        return {
            field.name: nested(value) if dataclasses.is_dataclass(value) else plain(value)
            for field in dataclasses.fields(node)
            for value in [getattr(node, field.name)]
        }

    return yaml.safe_dump(nested(config), sort_keys=False, allow_unicode=True)
