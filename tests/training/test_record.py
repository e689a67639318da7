import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gateloop.compose import compose
from gateloop.errors import InputError, Interrupted
from gateloop.files import clear_disk_errors, write_json_atomic, write_text_atomic
from gateloop.identity import identity, run_id
from gateloop.training.provenance import commit
from gateloop.training.record import RunFolder, load_config

ROOT = Path(__file__).resolve().parents[2]


def process(code: str, *argv: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino,
                                        path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs", run_id(compose([])))


def start(folder: RunFolder, *argv: str, rerun: bool = False) -> None:
    config = compose(list(argv))
    folder.open(config, identity(config), rerun=rerun)


# -- the lock ----------------------------------------------------------------------------

HOLD = """
import os, sys, time
from gateloop.training.record import RunFolder
with RunFolder(sys.argv[1], "id").locked():
    if sys.argv[2] == "fork" and os.fork() == 0:
        os.close(1), os.close(2)  # or the test would wait for the end of the output
        time.sleep(10)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""
TAKE = """
import sys
from gateloop.command import run_command
from gateloop.training.record import RunFolder
def main(argv):
    with RunFolder(argv[0], "id").locked():
        return 0
run_command(main)
"""


@pytest.fixture
def holder(tmp_path: Path, request):
    holding = process(HOLD, tmp_path, getattr(request, "param", "alone"))
    assert holding.stdout.readline() == "held\n"
    yield holding
    holding.kill()
    holding.communicate()


def test_a_second_process_leaves_with_75_and_changes_nothing(tmp_path, holder):
    before = snapshot(tmp_path)
    second = process(TAKE, tmp_path)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 75
    assert f"is being run by process {holder.pid} on {os.uname().nodename}; " in err
    assert err.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("holder", ["alone", "fork"], indirect=True)
def test_a_killed_process_leaves_no_lock_behind(tmp_path, holder):
    """Not even where a worker that it forked lives on."""
    holder.kill()
    holder.wait()
    second = process(TAKE, tmp_path)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 0, err


def test_the_lock_is_free_after_the_block(folder):
    for _ in range(2):
        with folder.locked():
            pass


def test_the_lock_is_held_through_a_rerun(folder):
    with folder.locked():
        start(folder)
        folder.write_summary({"status": "finished"})
        start(folder, rerun=True)
        with pytest.raises(Interrupted), RunFolder(folder.runs_dir, folder.id).locked():
            pass
    with RunFolder(folder.runs_dir, folder.id).locked():
        pass


# -- config.yaml -------------------------------------------------------------------------


def test_the_config_comes_back_from_its_yaml(folder):
    argv = ["data.test_lengths=[64,32]", "mode=scan", "optimizer.lr=1e-5", "runs_dir=1e5",
            "model.transition.domain=real", "tracker.group='yes: #no'"]  # fmt: skip
    config = compose(argv)
    with folder.locked():
        folder.open(config, identity(config))
    assert load_config(folder.path) == config


def test_a_resumed_run_keeps_the_first_config(folder):
    with folder.locked():
        start(folder)
        before = (folder.path / "config.yaml").read_bytes()
        start(folder, "trainer.log_every=1", "tracker=csv")
        assert (folder.path / "config.yaml").read_bytes() == before


def test_a_config_of_an_older_version_has_the_defaults_of_newer_keys(folder):
    with folder.locked():
        start(folder)
        path = folder.path / "config.yaml"
        tree = yaml.safe_load(path.read_text())
        del tree["optimizer"]["eps"], tree["model"]["transition"]["ring"]
        path.write_text(yaml.safe_dump(tree))
        assert load_config(folder.path) == compose([])
        start(folder)


def test_a_batch_in_tokens_is_the_same_run(folder):
    with folder.locked():
        start(folder, "data.batch_tokens=4096")
        start(folder)


def test_another_runs_config_is_refused(folder):
    with folder.locked():
        start(folder, "optimizer.lr=0.5")
        before = snapshot(folder.path)
        with pytest.raises(InputError, match=r"optimizer\.lr is 0\.5 there and 0\.0025 here; "):
            start(folder)
        assert snapshot(folder.path) == before


HARMFUL = {
    "apply": "model: !!python/object/apply:os.system ['touch TRACE']\n",
    "whole": "!!python/object/apply:os.system ['touch TRACE']\n",
    "new": "seed: !!python/object/new:os.system ['touch TRACE']\n",
    "name": "seed: !!python/name:os.system\n",
    "path": "seed: !!python/object/apply:pathlib.Path ['TRACE']\n",
    "own tag": "seed: !seed 3\n",
    "resolver": "GOODrun: x\nruns_dir: ${oc.env:HOME}\n",
    "target": "GOOD_target_: os.system\n",
    "unknown key": "GOODlauncher: {name: slurm}\n",
    "wrong type": "GOODseed: abc\n",
    "null": "GOODseed: null\n",
    "out of range": "GOODseed: -1\n",
    "date": "GOODseed: 2020-01-01\n",
    "set": "GOODseed: !!set {1, 2}\n",
    "unknown model": "model: {name: os}\ndata: {name: wt2}\n",
    "unknown data": "model: {name: gateloop}\ndata: {name: '../x'}\n",
    "contradiction": "GOODtrainer: {devices: 3}\n",
    "no names": "seed: 3\n",
    "list": "[1, 2]\n",
    "text": "abc\n",
    "empty": "",
    "broken": "model: [\n",
    "own alias": "GOODseed: &a [*a]\n",
    "own node": "GOODtrainer: &a {x: *a}\n",
}
GOOD = "model: {name: gateloop}\ndata: {name: memory_horizon, batch_size: 32}\n"


@pytest.mark.parametrize("content", HARMFUL.values(), ids=list(HARMFUL))
def test_a_config_that_is_anything_else_is_refused_and_nothing_in_it_runs(content, tmp_path):
    trace = tmp_path / "trace"
    content = content.replace("TRACE", str(trace)).replace("GOOD", GOOD)
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(InputError, match=r"config\.yaml: "):
        load_config(tmp_path)
    assert not trace.exists()


def test_the_harmful_configs_would_harm_an_unsafe_loader(tmp_path):
    trace = tmp_path / "trace"
    yaml.unsafe_load(HARMFUL["whole"].replace("TRACE", str(trace)))
    assert trace.exists()


def test_the_good_part_of_those_configs_is_good(tmp_path):
    (tmp_path / "config.yaml").write_text(GOOD)
    assert load_config(tmp_path).data.batch_size == 32


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"model: \x00"])
def test_a_config_that_is_no_text_is_refused(content, tmp_path):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(InputError, match="not a run's folder"):
        load_config(tmp_path)
    with pytest.raises(InputError, match="not a run's folder"):
        load_config(tmp_path / "absent")


# -- rerun -------------------------------------------------------------------------------


def test_a_rerun_moves_the_finished_run_aside_whole(folder):
    with folder.locked():
        start(folder)
        folder.append_metrics({"step": 1})
        folder.write_summary({"status": "finished", "metrics": {"test/accuracy": 1.0}})
        (folder.path / "checkpoints").mkdir()
        (folder.path / "checkpoints" / "x.ckpt").write_bytes(b"x")
        old = set(snapshot(folder.path))
        start(folder, rerun=True)
        assert sorted(p.name for p in folder.path.iterdir()) == ["config.yaml", "lock"]
        assert not folder.finished()
    aside = folder.runs_dir / ".replaced" / folder.id
    assert set(snapshot(aside)) == old
    assert list(folder.runs_dir.glob("*/summary.json")) == [], "no table finds the old run"


def test_an_unfinished_rerun_is_resumed_by_the_same_command(folder):
    with folder.locked():
        start(folder)
        folder.append_metrics({"step": 1})
        start(folder, rerun=True)
        assert (folder.path / "metrics.jsonl").exists()


def test_only_the_last_replaced_run_is_kept(folder):
    for number in range(3):
        with folder.locked():
            start(folder, rerun=True)
            folder.write_summary({"status": "finished", "number": number})
    aside = RunFolder(folder.runs_dir / ".replaced", folder.id)
    assert (aside.summary()["number"], folder.summary()["number"]) == (1, 2)


# -- metrics.jsonl -----------------------------------------------------------------------


def rows(folder: RunFolder) -> list[dict]:
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_metrics_are_cut_back_to_a_step(folder):
    with folder.locked():
        for step in (0, 1, 2, 2, 3):
            folder.append_metrics({"step": step, "loss": step / 2})
        folder.cut_back(2)
        assert [row["step"] for row in rows(folder)] == [0, 1, 2, 2]
        folder.append_metrics({"step": 3, "loss": 9.0})
        assert rows(folder)[-1] == {"step": 3, "loss": 9.0}
        folder.cut_back(-1)
        assert rows(folder) == []


def test_a_metric_of_the_step_itself_can_be_made_up(folder):
    with folder.locked():
        for row in (
            {"step": 1, "val/loss": 1.0},
            {"step": 2, "lr": 1.0},
            {"step": 2, "val/loss": 2},
        ):
            folder.append_metrics(row)
        folder.cut_back(2, redo="val/loss")
    assert rows(folder) == [{"step": 1, "val/loss": 1.0}, {"step": 2, "lr": 1.0}]


@pytest.mark.parametrize(
    "half", [b'{"step": 2, "lo', b'{"step": 2}', b'{"step"\xce', b"\n\n", b"3\n"]
)
def test_a_line_that_was_half_written_is_dropped(half, folder):
    with folder.locked():
        folder.append_metrics({"step": 1})
        with (folder.path / "metrics.jsonl").open("ab") as file:
            file.write(half)
        folder.cut_back(5)
        folder.append_metrics({"step": 3})
    assert rows(folder) == [{"step": 1}, {"step": 3}]


def test_cutting_back_what_is_not_there(folder):
    with folder.locked():
        folder.cut_back(3)
    assert not (folder.path / "metrics.jsonl").exists()


def test_a_number_that_is_not_finite_is_null(folder):
    with folder.locked():
        folder.append_metrics({"step": 1, "loss": float("nan"), "all": [float("inf"), 1.0]})
        folder.write_summary({"metrics": {"test/loss": float("-inf")}})
    assert rows(folder) == [{"step": 1, "loss": None, "all": [None, 1.0]}]
    assert folder.summary() == {"metrics": {"test/loss": None}}


# -- summary and manifest ----------------------------------------------------------------


def test_a_run_is_finished_when_its_summary_says_so(folder):
    assert not folder.finished()
    with folder.locked():
        folder.write_summary({"status": "interrupted"})
        assert not folder.finished()
        folder.write_summary({"status": "finished"})
    assert folder.finished()


def test_a_summary_that_cannot_be_read_is_named(folder):
    with folder.locked():
        (folder.path / "summary.json").write_text('{"status": "fin')
    with pytest.raises(InputError, match=r"summary\.json: cannot be read .*; delete it"):
        folder.finished()


def test_the_manifest_has_one_session_for_each_start(folder):
    assert folder.finished_by() is None
    with folder.locked():
        for argv in (["seed=0"], ["seed=0", "trainer.log_every=1"]):
            folder.write_manifest(argv, {"seed": 7}, {"tokens": 3}, device="cpu")
    manifest = folder.manifest()
    assert manifest["id"] == folder.id
    assert (manifest["identity"], manifest["data"]) == ({"seed": 7}, {"tokens": 3})
    assert [s["command"] for s in manifest["sessions"]] == [
        ["seed=0"],
        ["seed=0", "trainer.log_every=1"],
    ]
    for session in manifest["sessions"]:
        assert session["device"] == "cpu"
        assert session["packages"]["hydra-core"]
        assert session["cores"] >= 1
        assert {"time", "commit", "dirty", "python", "platform", "processor", "host"} <= {*session}
    assert folder.finished_by() == manifest["sessions"][-1]["commit"]


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if not shutil.which("git"):
        pytest.skip("no git")
    (tmp_path / "gateloop").mkdir()
    (tmp_path / "gateloop" / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_commit_and_diff_of_a_checkout(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout) == {"commit": head, "dirty": False}
    (checkout / "gateloop" / "__init__.py").write_text("changed = True\n")
    (checkout / "new.py").write_text("")
    facts = commit(checkout)
    assert (facts["commit"], facts["dirty"], facts["diff_complete"]) == (head, True, True)
    assert "+changed = True" in facts["diff"]
    assert facts["changed"] == [" M gateloop/__init__.py", "?? new.py"]


def test_code_installed_in_somebody_elses_repository_has_no_commit(checkout):
    (checkout / ".venv" / "gateloop").mkdir(parents=True)
    (checkout / ".venv" / "gateloop" / "__init__.py").write_text("")
    assert commit(checkout / ".venv") == {"commit": None, "dirty": None}
    git(checkout, "add", "-f", ".venv")  # not even where that repository keeps a copy of it
    assert commit(checkout / ".venv") == {"commit": None, "dirty": None}


# -- the disk ----------------------------------------------------------------------------


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomic(path, {"a": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "\ud800")
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    assert os.listdir(tmp_path) == ["x.json"]


def test_an_error_that_is_no_disks_passes(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), clear_disk_errors("x"):
        raise RuntimeError("mine")


ON_A_FULL_DISK = """
import json, os, sys
from pathlib import Path
import numpy as np
from gateloop.compose import compose
from gateloop.errors import InputError
from gateloop.files import clear_disk_errors, write_text_atomic
from gateloop.identity import identity
from gateloop.training.record import RunFolder

disk = Path(sys.argv[1])
config = compose([])
folder = RunFolder(disk / "runs", "id")

def content():
    files = (path for path in disk.rglob("*") if path.is_file() and path.name != "metrics.jsonl")
    return {path: path.read_bytes() for path in files}

def refused(what, action):
    before = content()
    try:
        action()
    except InputError as error:
        assert "\\n" not in str(error) and "no space left" in str(error), error
        assert str(disk) in str(error), error
    else:
        raise SystemExit(f"{what}: not refused")
    after = content()
    assert after == before, (what, set(after) ^ set(before))
    print(what)

def numpy_file():
    path = disk / "array"
    try:
        with clear_disk_errors(path):
            np.zeros(100_000).tofile(path)
    finally:
        path.unlink()

with folder.locked():
    folder.open(config, identity(config))
    folder.append_metrics({"step": 1})
    folder.write_summary({"status": "running"})
    refused("summary", lambda: folder.write_summary({"status": "finished", "x": "x" * 200_000}))
    refused("test", lambda: folder.write_test({"x": "x" * 200_000}))
    refused("array", numpy_file)
    refused("manifest", lambda: folder.write_manifest(["x" * 200_000], {}, {}))
    row = {"step": 2, "x": "x" * 999}
    refused("metrics", lambda: [folder.append_metrics(row) for _ in range(999)])
    folder.cut_back(1)
    assert (folder.path / "metrics.jsonl").read_text() == '{"step": 1}\\n'

with open(disk / "filler", "wb", buffering=0) as filler:
    try:
        while filler.write(b"x" * 512):
            pass
    except OSError:
        pass
other = RunFolder(disk / "runs", "other")
def begin():
    with other.locked():
        other.open(config, identity(config))
try:
    begin()
except InputError as error:
    assert "no space left" in str(error), error
    print("new run")
left = sorted(p.name for p in (disk / "runs" / "other").iterdir())
assert left in ([], ["lock"]), left
"""


def on_a_small_disk(tmp_path: Path, code: str, *argv: object) -> subprocess.CompletedProcess[str]:
    """``code`` on a real file system of 128 KiB, which is mounted for its process alone."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=128k tmpfs "$1" && shift && exec "$@"'
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(disk)]
    permitted = shutil.which("unshare") and not subprocess.run([*mount, "true"]).returncode
    if not permitted:
        pytest.skip("mounting a file system is not permitted here")
    return subprocess.run(
        [*mount, sys.executable, "-c", code, str(disk), *map(str, argv)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    done = on_a_small_disk(tmp_path, ON_A_FULL_DISK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [
        *("summary", "test", "array"),
        "manifest",
        "metrics",
        "new run",
    ]


AFTER_A_TOKENIZER = """
import sys
from pathlib import Path
from gateloop.command import run_command
from gateloop.compose import compose
from gateloop.data import open_source
from gateloop.run import describe
from gateloop.training.record import RunFolder

text = Path(sys.argv[2])
text.write_text("\\n".join(f"word{number}" for number in range(20_000)))
given = [f"data.path={text}", f"data.cache_dir={text.parent}/cache"]
config = compose(["data=text", "data.tokenizer=word", *given])
source = open_source(config.data)
folder = RunFolder(Path(sys.argv[1]) / "runs", "id")

def main(argv):
    with folder.locked():
        describe(config, {}, folder, [], source, "cpu")
    return 0

run_command(main)
"""


def test_a_disk_that_is_full_after_half_a_tokenizer_is_one_line(tmp_path):
    done = on_a_small_disk(tmp_path, AFTER_A_TOKENIZER, tmp_path / "text.txt")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "no space left" in done.stderr.splitlines()[-1]
    assert f"{tmp_path}/disk/runs/id" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission denied; "), RunFolder(tmp_path, "id").locked():
        pass


def test_a_process_killed_while_writing_leaves_the_old_summary(folder, tmp_path):
    code = (
        "import sys; from gateloop.training.record import RunFolder\n"
        "folder = RunFolder(sys.argv[1], 'id')\n"
        "with folder.locked():\n"
        "    number = 0\n"
        "    while True:\n"
        "        folder.write_summary({'number': number, 'x': 'x' * 100_000})\n"
        "        number += 1\n"
    )
    writer = process(code, tmp_path)
    deadline = time.monotonic() + 30
    while not RunFolder(tmp_path, "id").summary() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert len(RunFolder(tmp_path, "id").summary()["x"]) == 100_000
