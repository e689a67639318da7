"""Several processes are one: the same losses, weights and scores as a single process has."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gateloop.compose import compose
from gateloop.data import IGNORE, open_source
from gateloop.derived import accumulation, micro_batch
from gateloop.errors import InputError
from gateloop.training.cross_entropy import token_losses
from gateloop.training.device import choose_device
from gateloop.training.interruption import Interruption
from gateloop.training.job import ALONE
from gateloop.training.launch import Family, Place, find_place, launch, threads
from tests.training.small import config, model_of
from tests.training.test_evaluation import TEST
from tests.training.together import Cases, Holes, work

MODELS = ("gateloop", "s5", "transformer")
COMMON = (
    "data.batch_size=12 trainer.max_steps=4 trainer.validate_every=2 trainer.checkpoint_every=2 "
    "trainer.log_every=1 data.test_samples=70 data.validation_samples=70 data.test_batch_size=16 "
    "optimizer.warmup_steps=1"
).split()
TOLERANCE = {"float64": 1e-10, "float32": 2e-5}


def training(name: str, *overrides: str, **more: Any) -> dict[str, Any]:
    return {"kind": "train", "name": name, "overrides": [*COMMON, *overrides], **more}


def trainings() -> Cases:
    """Every case but its number of devices."""
    cases = [
        training(f"{model}-{precision}", f"model={model}", f"trainer.precision={precision}")
        for model in MODELS
        for precision in TOLERANCE
    ]
    float64, micro = "trainer.precision=float64", "data.micro_batch_size=2"
    resumed = training("resumed-float64", float64, "model=s5")
    return [*cases, resumed, training("holes-float64", float64, micro, holes=True)]


def on_two(strategy: str, case: dict[str, Any]) -> dict[str, Any]:
    more = ("trainer.devices=2", f"trainer.strategy={strategy}")
    return {**case, "name": f"{strategy}-{case['name']}", "overrides": [*case["overrides"], *more]}


def start(folder: Path, cases: Cases, processes: int) -> None:
    """``cases`` by so many processes, which must all end well."""
    command = [sys.executable, "-m", "tests.training.together"]
    with Family() as family:
        family.start([*command, str(folder), json.dumps(cases), str(processes)], processes)
        assert family.wait() == 0


TEST_CASE = {"kind": "test", "name": "test", "run": "gateloop-float32", "overrides": COMMON}
SCORES: Cases = [TEST_CASE, {"kind": "text", "name": "text"}]


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, root: Path, monkeypatch_module: pytest.MonkeyPatch
) -> dict[str, Path]:
    """The same cases by one process and by several: scores by two and three, trainings by two.

    Those of float64 they do twice, and in the second with shares of the weights.
    """
    monkeypatch_module.setenv("PYTHONPATH", str(root))
    found = {name: tmp_path_factory.mktemp(name) for name in ("one", "several")}
    for folder in found.values():
        for split, text in (("train", TEST * 2), ("valid", "kurz, aber da\n"), ("test", TEST)):
            (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    work([*trainings(), *SCORES], found["one"], ALONE)
    shutil.copytree(found["one"] / "gateloop-float32", found["several"] / "tested")
    for strategy in ("ddp", "fsdp"):  # one process has brought it to step 2
        copy = found["several"] / f"{strategy}-resumed-float64"
        ignored = shutil.ignore_patterns("step-00000004-*")
        shutil.copytree(found["one"] / "resumed-float64", copy, ignore=ignored)
    scores = [{**case, "run": "tested"} for case in SCORES]  # of the same weights
    cases = [on_two("ddp", case) for case in trainings()]
    cases += [on_two("fsdp", case) for case in trainings() if case["name"].endswith("float64")]
    start(found["several"], [*cases, *scores], 2)
    start(found["several"], scores, 3)
    return found


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def rows(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def last_checkpoint(run: Path) -> dict[str, Any]:
    (path,) = (run / "checkpoints").glob("step-00000004-*")
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def same(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape, what
    assert (found - expected).abs().max() <= tolerance * expected.abs().max(), what


EQUAL = [("ddp", case["name"]) for case in trainings()]
EQUAL += [("fsdp", name) for _, name in EQUAL if name.endswith("float64")]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "name"), EQUAL)
def test_two_processes_train_as_one(strategy: str, name: str, folders: dict[str, Path]) -> None:
    """Losses, gradient norms, weights and the optimiser's moments; a checkpoint is the same."""
    one, two = folders["one"] / name, folders["several"] / f"{strategy}-{name}"
    tolerance = TOLERANCE[name.split("-")[1]]
    for here, there in zip(rows(two), rows(one), strict=True):
        assert here.keys() == there.keys()
        for key in here.keys() & {"train/loss", "train/gradient_norm", "val/loss", "lr"}:
            assert here[key] == pytest.approx(there[key], rel=tolerance), (key, here["step"])
    assert sum("train/loss" in row for row in rows(two)) == 4
    speeds = [row.get("tokens_per_second") for run in (one, two) for row in rows(run)[1:3]]
    assert (speeds[:2] == speeds[2:]) == name.startswith("resumed")
    found, expected = last_checkpoint(two), last_checkpoint(one)
    assert found.keys() == expected.keys()
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for key, part in expected["state_dict"].items():
        same(found["state_dict"][key], part, tolerance, key)
    (moments,), (others,) = found["optimizer_states"], expected["optimizer_states"]
    assert moments["param_groups"] == others["param_groups"]
    for number, state in others["state"].items():
        for key in ("exp_avg", "exp_avg_sq"):
            same(moments["state"][number][key], state[key], 10 * tolerance, f"{key} {number}")


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """At step 3, with two micro-batches for each step where it was one on each device."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    options = ("trainer.precision=float64", "data.micro_batch_size=6", "trainer.checkpoint_every=1")
    case = training("run", *options)
    start(tmp_path, [{**on_two("ddp", case), "name": "run"}], 2)
    (last,) = (tmp_path / "run/checkpoints").glob("step-00000004-*")
    last.unlink()
    work([case], tmp_path, ALONE)
    whole = rows(folders["one"] / "gateloop-float64")
    for here, there in zip(rows(tmp_path / "run"), whole, strict=True):
        for key in here.keys() & {"train/loss", "train/gradient_norm", "val/loss"}:
            assert here[key] == pytest.approx(there[key], rel=1e-10), (key, here["step"])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_scores_are_the_same_to_the_last_bit(processes: int, folders: dict[str, Path]) -> None:
    """A test of five batches, and texts of a number of windows that nothing divides."""
    for case in SCORES:
        name = case["name"]
        here = json.loads((folders["several"] / f"{name}-{processes}.json").read_text())
        assert here == json.loads((folders["one"] / f"{name}-1.json").read_text())
    assert here["independent"]["tokens"] == len(TEST.encode()) - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one/", "several/ddp-", "several/fsdp-"])
def test_the_loss_is_the_mean_over_scored_targets(name: str, folders: dict[str, Path]) -> None:
    """Of the whole step, although micro-batches and processes score different numbers of them."""
    settings = config(*COMMON)
    model = model_of(settings).double()
    batch = Holes(open_source(settings.data)).samples(settings.seed, 0, 12)
    losses = token_losses(
        model.head,
        model.features(torch.from_numpy(batch.inputs_BL))[0],
        torch.from_numpy(batch.targets_BL),
    )
    scored = int((batch.targets_BL != IGNORE).sum())
    assert scored == 12 * 12 - 21 - 10
    (losses.sum() / scored).backward()
    gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    where, prefix = name.split("/")
    first = rows(folders[where] / f"{prefix}holes-float64")[1]
    assert first["train/loss"] == pytest.approx(float(losses.sum()) / scored, rel=1e-6)
    norm = float(torch.stack(gradients).norm())
    assert first["train/gradient_norm"] == pytest.approx(norm, rel=1e-6)


# -- who is who --------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_process_of_its_own_has_no_place(started: pytest.MonkeyPatch) -> None:
    assert find_place(config()) is None
    started.setenv("SLURM_NTASKS", "2")  # of the allocation: nobody has started two of this
    assert find_place(config("trainer.devices=2")) is None


def test_torchrun_and_srun_give_places(started: pytest.MonkeyPatch) -> None:
    settings = config("trainer.devices=2", "trainer.nodes=2")
    for name, value in (("RANK", 3), ("LOCAL_RANK", 1), ("WORLD_SIZE", 4), ("GROUP_RANK", 1)):
        started.setenv(name, str(value))
    assert find_place(settings) == Place(rank=3, size=4, local_rank=1, node=1)
    started.delenv("RANK")
    for name, value in (("STEP_NUM_TASKS", 4), ("PROCID", 2), ("LOCALID", 0), ("NODEID", 1)):
        started.setenv(f"SLURM_{name}", str(value))
    assert find_place(settings) == Place(rank=2, size=4, local_rank=0, node=1)
    assert find_place(config()) is None  # tasks that do something of their own


def test_another_number_of_processes_is_refused(started: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 4)):
        started.setenv(name, str(value))
    with pytest.raises(InputError, match=r"torchrun has started 4 .* asks for 2;"):
        find_place(config("trainer.devices=2"))


def test_several_machines_are_not_started_from_one(started: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"trainer.nodes=2: start .* torchrun or srun"):
        launch(config("trainer.nodes=2"), [])


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    for given, expected in (("", 4), ("16", 4), ("3", 3), ("0", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert threads(2) == expected
    assert threads(20) == 1


# -- configuration -----------------------------------------------------------------------


def test_machines_count_in_the_batch() -> None:
    settings = compose(["trainer.devices=2", "trainer.nodes=2", "data.micro_batch_size=4"])
    assert (micro_batch(settings), accumulation(settings)) == (4, 2)
    assert micro_batch(compose(["trainer.devices=2", "trainer.nodes=2"])) == 8
    with pytest.raises(InputError, match=r"trainer.devices × trainer.nodes=6; nearest: 30"):
        compose(["trainer.devices=3", "trainer.nodes=2"])


def test_shares_are_not_compiled() -> None:
    with pytest.raises(InputError, match=r"trainer.strategy=fsdp: .*trainer.compile=false"):
        compose(["trainer=fsdp", "trainer.compile=true"])


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    settings = config("trainer.devices=2", "trainer.device=auto")
    with pytest.raises(InputError, match=r"trainer.devices=2: there are 1 GPUs here"):
        choose_device(settings)
    assert choose_device(config("trainer.devices=2")).type == "cpu"


# -- interruption ------------------------------------------------------------------------


def test_what_has_lost_its_parent_is_to_stop() -> None:
    assert not Interruption().requested
    assert not Interruption(parent=os.getppid()).requested
    assert Interruption(parent=os.getpid()).requested
