"""The command: its mistakes, and a real run of every benchmark in tiny shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateloop import bench
from gateloop.benchmark.cell import Cell, What, joined, measured, plan
from gateloop.data.words import cores
from gateloop.errors import InputError, Interrupted
from tests.benchmark import small


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--what", "recurence"],
            "argument --what: invalid choice: 'recurence' (choose from",
        ),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--threads", "0"], f"--threads 0: must be 1 to {cores()}, the cores there are"),
        (["--threads", "100000"], f"--threads 100000: must be 1 to {cores()}"),
        (["--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
        (["--repeats", "x"], "argument --repeats: invalid int value: 'x'"),
        (["--text", "nowhere.txt"], "--text nowhere.txt: no such file or directory; give a UTF-8"),
        (["--gpt2", "nowhere"], "--gpt2 nowhere: no such folder"),
        (
            ["--from-records", "--quick"],
            "--from-records measures nothing; leave out --what and --quick",
        ),
        (["--from-records", "--out", "nowhere"], "--out nowhere: no record of a benchmark there"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        bench.check(bench.parse(arguments))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_quick_run_stays_out_of_the_measurements() -> None:
    assert bench.parse([]).out == bench.parse(["--from-records"]).out == Path("results/bench")
    assert bench.parse(["--quick"]).out == Path("quick")
    assert bench.parse(["--quick", "--out", "here"]).out == Path("here")


def test_an_interruption_says_what_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure", stopped)
    with pytest.raises(Interrupted, match="are kept, --what measures those that are left"):
        bench.main(["--out", str(tmp_path)])


def test_a_text_that_is_none_is_refused(tmp_path: Path) -> None:
    for name, content, why in (
        ("empty.txt", b" \n", "holds no text"),
        ("binary.txt", b"a\xff", "not UTF-8 at byte 1"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=why):
            bench.parse(["--text", str(tmp_path / name)])
    with pytest.raises(InputError, match="is a directory"):
        bench.parse(["--text", str(tmp_path)])


def test_a_page_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# My project\n")
    with pytest.raises(InputError, match=r"README\.md would be replaced, and is no page of this"):
        bench.main(["--what", "recurrence", "--quick", "--out", str(tmp_path)])
    assert [*tmp_path.iterdir()] == [page] and page.read_text() == "# My project\n"


def test_no_cuda_device_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no CUDA device; take --device cpu"):
        bench.check(bench.parse(["--device", "cuda"]))


def test_cells_survive_json() -> None:
    for what in What:
        for device in ("cpu", "cuda"):
            for cell in plan(what, device, 2, 3, False, {}):
                assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell


def test_the_full_plan_has_the_promised_shapes() -> None:
    cells = plan(What.recurrence, "cpu", 2, 3, False, {})
    shapes = {(c.kind, *c.sizes.values(), c.allocator) for c in cells}
    for kind in ("max_headed", "linear_scan"):
        for allocator in ("default", "untouched"):
            assert {
                (kind, 4, 1024, 512, allocator),
                (kind, 1, 16384, 256, allocator),
            } <= shapes
    lengths = [c.sizes["length"] for c in cells if c.kind == "by_length"]
    assert (lengths[0], lengths[-1]) == (512, 65536)
    steps = [c for c in plan(What.step, "cpu", 2, 3, False, {}) if c.kind == "by_length"]
    assert [step.sizes["length"] for step in steps] == lengths
    assert [step.sizes["batch"] for step in steps] == [8, 4, 2, 1, 1, 1, 1, 1]
    assert [step.settings.get("against") for step in steps] == [None] + [512] * 7


def test_a_cell_whose_process_ends_ill_says_why() -> None:
    failed = measured(
        Cell(What.recurrence, "max_headed", {"batch": -1, "length": 2, "channels": 2})
    )
    assert failed["failed"].startswith("crashed: RuntimeError: ")
    assert failed["cell"]["kind"] == "max_headed"


def test_processes_are_joined_round_after_round() -> None:
    def outcome(*seconds: float, peer: str | list[float], peak: float) -> dict[str, Any]:
        entries = [small.entry("ours", list(seconds), "ours"), small.entry("peer", peer)]
        alone = {"ours": [seconds[0] / 2]}
        found = small.outcome("outer", {"heads": 1}, small.part("forward", *entries, alone=alone))
        return {**found, "peak_MiB": peak}

    one, two = outcome(1, 2, peer=[3, 4], peak=9), outcome(5, 6, peer=[7, 8], peak=7)
    (part,) = joined([one, two])["parts"]
    assert [e["seconds"] for e in part["entries"]] == [[1, 2, 5, 6], [3, 4, 7, 8]]
    assert part["alone"] == {"ours": [0.5, 2.5]}
    assert joined([one, two])["peak_MiB"] == joined([two, one])["peak_MiB"] == 9
    assert joined([one]) is one

    left_out = outcome(5, 6, peer="out of memory", peak=7)
    (part,) = joined([one, left_out])["parts"]
    ours, peer = part["entries"]
    assert ours["seconds"] == [1, 2, 5, 6]
    assert peer["state"] == "out of memory" and "seconds" not in peer
    failed = {"cell": one["cell"], "failed": "killed by signal 9"}
    assert joined([one, failed, two]) is failed


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateloop.bench", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ,
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", [what.value for what in What])
def test_a_quick_run_gives_a_record_and_a_page(root: Path, tmp_path: Path, what: str) -> None:
    processes = 2 if what == "decode" else 1
    given = ["--what", what, "--quick", "--threads", "1", "--out", str(tmp_path)]
    given += ["--processes", str(processes)] if processes > 1 else []
    done = run(root, *given)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    content = json.loads((tmp_path / f"{what}_cpu.json").read_text(encoding="utf-8"))
    assert (content["quick"], content["threads"], content["repeats"]) == (True, 1, 2)
    shown = [tmp_path.name if argument == str(tmp_path) else argument for argument in given]
    assert content["command"] == ["python", "-m", "gateloop.bench", *shown]
    assert len(content["cells"]) == len(plan(What(what), "cpu", 1, 2, True, {}))
    for outcome in content["cells"]:
        assert "failed" not in outcome, outcome
        for part in outcome["parts"]:
            timed = [e for e in part["entries"] if "seconds" in e]
            assert timed and all(len(e["seconds"]) == 2 * processes for e in timed)
            # no contestant without a time is without a reason
            assert all(e["state"] != "measured" for e in part["entries"] if e not in timed)
            assert part["reference"] + ": " in done.stdout or part["reference"] == "linear_scan"
    assert " × " in done.stdout  # ratios, not only times
    page = (tmp_path / "README.md").read_bytes()
    assert b"**A quick run in tiny shapes" in page
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if what == "recurrence":
        assert {"time_against_length.png", "time_against_length.svg"} <= set(files)
    assert bench.main(["--from-records", "--out", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.slow
def test_a_mistake_exits_2_with_one_line(root: Path) -> None:
    done = run(root, "--what", "speed")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(
        "gateloop: argument --what"
    )
