"""What a person sees of many runs: lines in a log, a table on a terminal."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateloop.experiment.board import LINES_EVERY, Board, duration
from gateloop.experiment.plan import plan
from gateloop.experiment.schema import load_experiment
from gateloop.experiment.workers import Running, Seat, Task

HEADLINE = "3 of 9 runs · about 5 min left"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(3, "3 s"), (100, "2 min"), (6000, "1.7 h"), (4e5, "4.6 days"), (8e9, "253.5 years")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.fixture
def running(tmp_path: Path) -> Running:
    """The first run of a shipped experiment, at step 40, beside a process that has ended."""
    job = plan(load_experiment("length"), lambda _: None)[0].final[0]
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [{"step": 30, "tokens_per_second": 1234.5}, {"step": 40, "val/loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Running(Task(job, folder), Seat((0,)), process)


def test_a_log_gets_a_line_a_minute(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    with Board(live=False) as board:
        board.show([running], HEADLINE)
        assert capsys.readouterr().err == ""
        board.last_line = time.monotonic() - LINES_EVERY
        board.show([running], HEADLINE)
        board.show([running], HEADLINE)
    assert capsys.readouterr().err == f"{HEADLINE}: GateLoop · seed 0 40/1500, 1,234 tok/s\n"


def test_a_terminal_gets_a_table(running: Running) -> None:
    with Board(live=True) as board:
        board.show([running], HEADLINE)
        with board.console.capture() as shown:
            board.console.print(board.live.renderable)
    lines = shown.get().splitlines()
    assert lines[0].strip() == HEADLINE
    assert all(part in lines[1] for part in ("GateLoop · seed 0", "40/1500", "1,234 tok/s"))
