"""What ``auto`` takes is what docs/recurrence.md says it takes."""

import re
from pathlib import Path

import pytest
import torch

from gateloop.recurrence import gated_linear_recurrence, kernels, operator

PAGE = Path(__file__).resolve().parents[2] / "docs/recurrence.md"


def taken(monkeypatch: pytest.MonkeyPatch, length: int, d_key: int, d_value: int) -> str:
    """The mode that runs for this shape, by its own function being called."""
    called: list[str] = []
    for name in operator.FIXED_MODES:
        mode = getattr(operator, name)

        def watched(*given: object, mode: object = mode, name: str = name, **named: object):  # type: ignore[no-untyped-def]
            called.append(name)
            return mode(*given, **named)  # type: ignore[operator]

        monkeypatch.setattr(operator, name, watched)
    q, k = torch.randn(2, 1, length, 2, d_key).unbind(0)
    v, gate = torch.randn(1, length, 2, d_value), -torch.rand(1, length, 2, d_key)
    gated_linear_recurrence(q, k, v, gate, None, mode="auto")
    return called[0] if called else "a kernel"


def test_auto_takes_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = re.findall(r"fewer than (\d+) numbers \(d_key · d_value\)", PAGE.read_text("utf-8"))
    keys = 8
    assert int(said) % keys == 0
    with kernels.without():
        assert taken(monkeypatch, 40, keys, int(said) // keys - 1) == "scan"
        assert taken(monkeypatch, 40, keys, int(said) // keys) == "chunkwise"
    if kernels.available("cpu", torch.float32):
        assert taken(monkeypatch, 40, keys, int(said) // keys) == "a kernel"
    assert taken(monkeypatch, 1, keys, int(said) // keys) == "recurrent"
