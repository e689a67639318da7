"""gateloop: honest, fast, reproducible comparison of linear recurrent sequence models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateloop.loading import load as load
    from gateloop.models.gateloop import GateLoop as GateLoop

__version__ = "0.1.0"
__all__ = ["GateLoop", "load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: the command line is checked without it.
    if name == "load":
        from gateloop.loading import load

        return load
    if name == "GateLoop":
        from gateloop.models.gateloop import GateLoop

        return GateLoop
    raise AttributeError(f"module 'gateloop' has no attribute {name!r}")
