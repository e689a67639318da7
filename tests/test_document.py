"""YAML files as dataclasses: what a mistake in one says."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from gateloop.document import load, read
from gateloop.errors import InputError


class Colour(Enum):
    red = "red"
    green = "green"


@dataclass
class Part:
    label: str
    sizes: list[int] = field(default_factory=list)
    named: dict[str, list[str]] = field(default_factory=dict)
    colour: Colour = Colour.red


@dataclass
class Whole:
    title: str
    parts: list[Part]
    share: float = 0.5
    note: str | None = None
    other: Part | None = None


GOOD = {"title": "t", "parts": [{"label": "a"}]}


def test_values_and_defaults() -> None:
    tree = {
        "title": "t",
        "parts": [{"label": "a", "sizes": [1, 2], "named": {"x": ["y"]}, "colour": "green"}],
        "share": 1,
        "other": {"label": "b"},
    }
    assert read(Whole, tree) == Whole(
        "t", [Part("a", [1, 2], {"x": ["y"]}, Colour.green)], 1.0, None, Part("b")
    )
    assert read(Whole, {**GOOD, "note": None}) == Whole("t", [Part("a")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": 1}, "titel: no such key; did you mean title?"),
        ({"zzz": 1}, "zzz: no such key; there are title, parts, share, note, other"),
        ({"title": None}, "title: expected a text, found null"),
        ({"title": 3}, "title: expected a text, found 3"),
        ({"share": "much"}, "share: expected a number, found 'much'"),
        ({"share": True}, "share: expected a number, found True"),
        ({"parts": {}}, r"parts: expected a list \(\[…\]\), each element keys and values"),
        ({"parts": [3]}, r"parts\[0\]: expected keys and values, found 3"),
        ({"parts": [{}]}, r"parts\[0\]\.label: missing; expected a text"),
        ({"parts": [{"label": "a", "size": [1]}]}, r"parts\[0\]\.size: .* did you mean sizes\?"),
        ({"parts": [{"label": "a", "sizes": [1.5]}]}, r"parts\[0\]\.sizes\[0\]: .*whole number"),
        ({"parts": [{"label": "a", "named": {"x": "y"}}]}, r"named\.x: expected a list"),
        ({"parts": [{"label": "a", "colour": "gren"}]}, "did you mean green"),
        ({"other": {"label": 1}}, "other.label: expected a text, found 1"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read(Whole, {**GOOD, **change})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: [", "line 1: .*; correct the YAML"),
        ("title: a\ntitle: b\nparts: []", "line 2: title is given twice"),
        ("- a", "the file: expected keys and values"),
        ("", "the file: expected keys and values, found null"),
        ("title: a\nparts: [2024-13-45]", "line 2: '2024-13-45': month .*; correct the YAML"),
        ("title: !!int a", "line 1: 'a': .*; correct the YAML"),
        ("title: !!int ''", "line 1: '': .*; correct the YAML"),
        ("title: !!bool a", "line 1: 'a': .*; correct the YAML"),
        ("title: !!timestamp a", "line 1: 'a': .*; correct the YAML"),
        ("title: !!python/object/apply:os.system [touch executed]", "could not determine"),
        ("title: &a [*a]", "title: expected a text, found"),
    ],
)
def test_a_malformed_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        load(Whole, path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)
    assert not (tmp_path / "executed").exists()


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load(Whole, tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary.yaml is not UTF-8; save it as UTF-8"):
        load(Whole, tmp_path / "binary.yaml")
