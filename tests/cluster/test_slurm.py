"""An experiment on a real SLURM: signals, requeues, and what happens without ``reproduce``."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.end_to_end.processes import ROOT
from tests.end_to_end.test_reproduce import EXPERIMENT, Study, wait_for

pytestmark = pytest.mark.slow

LAUNCHER = ["--launcher", "slurm"]
for _option in ("partition=main", "cpus_per_task=1", "memory_gb=1", "poll_seconds=1"):
    LAUNCHER += ["--launcher-option", _option]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """The folder of a SLURM that runs."""
    if slurm.missing():
        pytest.skip(slurm.missing())
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short
    try:
        slurm.start(folder)
        yield folder
    except RuntimeError as error:
        pytest.skip(f"SLURM does not start here: {error}")
    finally:
        slurm.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


class ClusterStudy(Study):
    """A study whose runs are jobs of the SLURM in ``cluster``."""

    def __init__(self, folder: Path, cluster: Path, steps: int = 200) -> None:
        overrides = [
            *EXPERIMENT["overrides"],
            f"trainer.max_steps={steps}",
            "trainer.validate_every=100",
            "trainer.log_every=10",
        ]
        super().__init__(folder, overrides=overrides)
        self.environment = {**slurm.environment(cluster), "PYTHONPATH": str(ROOT)}
        self.first_job = len(self.jobs()) + 1

    def reproduce(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*LAUNCHER, "--workers", "2", *more),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def jobs(self) -> list[dict[str, str]]:
        """What SLURM knows of every job so far, waiting, running or ended."""
        lines = self.ask("scontrol", "--oneliner", "show", "jobs").splitlines()
        return [
            dict(part.split("=", 1) for part in line.split() if "=" in part)
            for line in lines
            if line.startswith("JobId=")
        ]

    def own_jobs(self) -> dict[str, dict[str, str]]:
        """This study's, by the run that each is for."""
        own = [job for job in self.jobs() if int(job["JobId"]) >= self.first_job]
        assert len({job["JobName"] for job in own}) == len(own), "a run was submitted twice"
        return {job["JobName"]: job for job in own}

    def training(self) -> list[str]:
        """The runs that are on their way, past their first steps."""
        found = []
        for metrics in self.folder.glob("runs/*/metrics.jsonl"):
            ended = (metrics.parent / "summary.json").exists()
            if not ended and '"step": 10,' in metrics.read_text(encoding="utf-8"):
                found.append(metrics.parent.name)
        return found

    def next_training(self, *but: str) -> str:
        wait_for(lambda: set(self.training()) - {*but})
        return (set(self.training()) - {*but}).pop()

    def sessions(self, run: str) -> int:
        manifest = json.loads((self.folder / "runs" / run / "manifest.json").read_text("utf-8"))
        return len(manifest["sessions"])

    def log(self, run: str) -> str:
        return (self.folder / "runs" / ".logs" / f"{run}.log").read_text(encoding="utf-8")


def test_signalled_jobs_are_requeued_once_and_go_on(cluster: Path, tmp_path: Path) -> None:
    """One job nears its time limit, another is requeued by others; the table is full."""
    study = ClusterStudy(tmp_path, cluster)
    process = study.reproduce()
    limited = study.next_training()
    study.ask("scancel", "--signal=USR2", study.own_jobs()[limited]["JobId"])
    preempted = study.next_training(limited)
    study.ask("scontrol", "requeue", study.own_jobs()[preempted]["JobId"])
    said, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors

    assert "4 of 4 runs measured" in said
    assert [row[-2] for row in study.results()] == ["measured"] * 4
    jobs = study.own_jobs()
    assert len(jobs) == 4
    for run, job in jobs.items():
        signalled = run in (limited, preempted)
        assert job["Restarts"] == str(int(signalled))
        assert study.sessions(run) == 1 + signalled
        assert ("going on from step " in study.log(run)) == signalled
        assert "going on from step 0" not in study.log(run)
    assert study.ask("squeue", "--noheader") == ""
    assert not (tmp_path / "runs" / ".launcher").exists()


def test_killed_it_takes_its_jobs_over_and_ctrl_c_ends_them_saved(
    cluster: Path, tmp_path: Path
) -> None:
    study = ClusterStudy(tmp_path, cluster, steps=100_000)
    first = study.reproduce()
    wait_for(lambda: len(study.training()) == 2)
    first.kill()
    first.communicate()
    left = study.own_jobs()
    assert study.ask("squeue", "--noheader", "--format=%t").split() == ["R", "R"]

    second = study.reproduce()
    assert second.stderr is not None
    for _ in left:
        line = second.stderr.readline()
        assert any(line == f"{run}: job {job['JobId']} goes on\n" for run, job in left.items())
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 75, errors
    assert study.ask("squeue", "--noheader") == ""
    jobs = study.own_jobs()
    assert jobs.keys() == left.keys() and {job["Restarts"] for job in jobs.values()} == {"0"}
    for run in jobs:
        assert "interrupted at step" in study.log(run)
        assert list((tmp_path / "runs" / run / "checkpoints").glob("step-*.ckpt"))


def test_what_slurm_refuses_is_one_line(cluster: Path, tmp_path: Path) -> None:
    study = ClusterStudy(tmp_path, cluster)
    process = study.reproduce("--launcher-option", "partition=gpu")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.splitlines() == [
        "gateloop: --launcher: sbatch: error: invalid partition specified: gpu; nothing was started"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]
    assert study.own_jobs() == {}


def test_its_folder_is_all_that_slurm_touches(cluster: Path) -> None:
    """Loopback only, and nothing of the system's own SLURM."""
    text = (cluster / "slurm.conf").read_text(encoding="utf-8")
    places = [line.split("=", 1)[1] for line in text.splitlines() if "/" in line.split("=")[-1]]
    assert places and all(str(cluster) in place or place in PLUGINS for place in places)


PLUGINS = ("auth/munge", "proctrack/linuxproc", "task/none", "select/cons_tres")

if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-v", "-s"]))
