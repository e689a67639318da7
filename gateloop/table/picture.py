"""A picture as PNG and SVG: the same bytes each time, and left alone where nothing changed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLOURS = ("#1f6fb4", "#c8553d", "#2a9d6f", "#8a5fbf", "#c99700", "#5b6770", "#d4588c", "#3aa6b9")
LARGEST = 60.0  # inches of a side: a browser shows no larger picture well


def blank(width: float, height: float) -> Any:
    """An empty figure of so many inches, LARGEST at most."""
    from matplotlib.figure import Figure

    return Figure(
        figsize=(min(width, LARGEST), min(height, LARGEST)), dpi=110, layout="constrained"
    )


def files(
    name: str, shown: list[Any], draw: Callable[[], Any], folder: Path, source: Path
) -> dict[str, bytes]:
    """``draw``'s figure as PNG and SVG by file name, each with a digest of what it shows and how.

    ``shown``: every number in it; ``source``: the file of the code that draws. Where both forms in
    ``folder`` have that digest they are left as they are, since another version of matplotlib
    draws the same numbers with other bytes.
    """
    how = source.read_bytes() + Path(__file__).read_bytes()
    digest = hashlib.sha256(how + json.dumps(shown).encode()).hexdigest()
    there = {form: folder / f"{name}.{form}" for form in ("png", "svg")}
    old = {form: path.read_bytes() for form, path in there.items() if path.is_file()}
    if len(old) == len(there) and all(digest.encode() in content for content in old.values()):
        return {there[form].name: content for form, content in old.items()}
    from matplotlib import style

    own = {"svg.hashsalt": name, "svg.fonttype": "path", "savefig.dpi": "figure"}
    with style.context(["default", own]):  # whatever the user's matplotlibrc says
        figure = draw()
        figure.get_layout_engine().execute(figure)  # once for both forms
        figure.set_layout_engine("none")
        for form, none in (("png", "Software"), ("svg", "Date")):
            file = io.BytesIO()
            metadata = {none: None, "Description": digest}
            figure.savefig(file, format=form, metadata=metadata)
            old[form] = file.getvalue()
    return {there[form].name: content for form, content in old.items()}
