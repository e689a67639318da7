"""The page and the plot, from records made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateloop import bench
from gateloop.benchmark import record
from gateloop.benchmark.cell import What
from gateloop.benchmark.page import number, page
from gateloop.benchmark.picture import NAME, pictures
from gateloop.errors import InputError
from tests.benchmark import small

GOLDEN = Path(__file__).with_name("golden") / "README.md"


def test_the_page_is_the_golden_one() -> None:
    assert page(small.records(), [f"{NAME}.png"]) == GOLDEN.read_text(encoding="utf-8")


def test_what_nobody_measured_says_so() -> None:
    empty = page({}, [])
    lines = [line for line in empty.splitlines() if line.startswith("| ") and "time" not in line]
    assert lines and all(line.endswith("| not measured |") for line in lines)
    assert empty.count("### GPU") == empty.count("### CPU") == 4


def test_a_quick_run_says_what_it_is() -> None:
    found = small.records()
    assert "quick run" not in page(found, [])
    found[What.decode, "cpu"]["quick"] = True
    assert page(found, []).count("**A quick run in tiny shapes") == 1


def test_several_processes_are_told() -> None:
    found = small.records()
    assert page(found, []).count("; 3 rounds; ") == 4
    found[What.decode, "cpu"]["processes"] = 5
    assert page(found, []).count("; 3 rounds in each of 5 processes; ") == 1


def test_a_share_that_noise_makes_negative_is_less_than_one_percent() -> None:
    found = small.records()
    assert "Head and loss take 25% of GateLoop's step." in page(found, [])
    headless = found[What.step, "cpu"]["cells"][0]["parts"][0]["entries"][1]
    headless["seconds"] = [1.01, 2.02]
    assert "Head and loss take less than 1% of GateLoop's step." in page(found, [])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0123456, "0.0123"), (1.0, "1.00"), (45.67, "45.7"), (98765.4, "98,765"), (0.0, "0")],
)
def test_three_digits_count(value: float, shown: str) -> None:
    assert number(value) == shown


def test_pictures_are_drawn_anew_where_a_number_changed_only(tmp_path: Path) -> None:
    drawn = pictures(small.records(), tmp_path)
    assert set(drawn) == {f"{NAME}.png", f"{NAME}.svg"}
    for name, content in drawn.items():
        (tmp_path / name).write_bytes(content)
    assert pictures(small.records(), tmp_path) == drawn
    changed = small.records()
    changed[What.recurrence, "cpu"]["cells"][1]["parts"][0]["entries"][0]["seconds"] = [0.5]
    assert pictures(changed, tmp_path) != drawn
    assert pictures({}, tmp_path) == {}


def test_a_record_says_its_medians_and_ratios_and_no_folder(tmp_path: Path) -> None:
    (cell, *_) = small.records()[What.recurrence, "cpu"]["cells"]
    cell["cell"]["settings"] = {"text": "/some/folder/of/mine/text.txt"}
    command = ["python", "--text", "/some/folder/of/mine/text.txt", "--out", "out/here"]
    made = record.make(What.recurrence, "cpu", [cell], command, threads=1, repeats=3, quick=True)
    assert made["command"] == ["python", "--text", "text.txt", "--out", "out/here"]
    ours, peer, tired, gone, _ = made["cells"][0]["parts"][0]["entries"]
    assert (ours["median"], ours["ratio_to_limit"]) == (0.002, 2.0)
    assert (peer["ratio_to_reference"], peer["ratio_to_limit"]) == pytest.approx((15.0, 30.0))
    assert tired["quartiles"] == [0.1, 0.1] and tired["ratio_to_reference"] == pytest.approx(100)
    assert gone["state"] == "not installed" and "median" not in gone
    assert made["cells"][0]["cell"]["settings"] == {"text": "text.txt"}
    assert made["packages"]["torch"] and "host" not in made and "diff" not in made
    record.write(tmp_path, made)
    assert record.load(tmp_path) == {(What.recurrence, "cpu"): json.loads(json.dumps(made))}


def lacking_facts() -> str:
    found = small.records()[What.step, "cpu"]
    del found["cells"][0]["parts"][0]["entries"][0]["facts"]
    return json.dumps(found)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"benchmark": "step", "device": "cpu"}',
        '{"benchmark": "step", "device": "cpu", "cells": []}',
        lacking_facts(),
    ],
)
def test_a_damaged_record_is_one_line(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is measured beside it."""
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "step_cpu.json").write_text(content, encoding="utf-8")
    for given in (["--from-records"], ["--what", "tokenize"]):
        with pytest.raises(InputError, match=r"step_cpu\.json is no record of a ben") as caught:
            bench.main([*given, "--out", str(tmp_path)])
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_cpu.json"]
