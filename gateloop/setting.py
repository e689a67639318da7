"""A key of the configuration: its default, its one-line help and its range."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(
    default: Any,
    doc: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    identity: bool = True,
) -> Any:
    """A dataclass field with its one-line help and its range.

    ``least``/``most`` are inclusive bounds, ``above``/``below`` exclusive ones.
    ``identity=False`` marks a key that does not change a run's result, and so not its id.
    """
    metadata = {
        "doc": doc,
        "identity": identity,
        "range": {"least": least, "most": most, "above": above, "below": below},
    }
    if callable(default) or isinstance(default, list):
        factory = default if callable(default) else lambda: list(default)
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)
