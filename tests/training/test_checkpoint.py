"""Checkpoints: whole or not there, verified, and data only."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from gateloop.errors import InputError
from gateloop.training import checkpoint
from gateloop.training.checkpoint import BEST, STEP, Checkpoint
from tests.training.small import config, model_of, train


def save(folder: Path, step: int, kind: str = STEP, value: float = 1.0) -> Checkpoint:
    content = {"state_dict": {"model.w": torch.full((300,), value)}, "step": step}
    if kind == BEST:
        content = {"model": {"w": torch.full((300,), value)}, "step": step}
    return checkpoint.save(folder, kind, step, lambda path: torch.save(content, path))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_saved_and_loaded(tmp_path: Path) -> None:
    kept = save(tmp_path / "new" / "folder", 7, value=3.0)
    assert kept.step == 7 and kept.path.name.startswith("step-00000007-")
    assert kept.load()["state_dict"]["model.w"].eq(3).all()
    assert checkpoint.newest_intact(kept.path.parent) == kept


def test_the_oldest_are_dropped(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
        save(tmp_path, step, BEST)
    assert [c.step for c in checkpoint.listing(tmp_path, STEP)] == [30, 40]
    assert [c.step for c in checkpoint.listing(tmp_path, BEST)] == [40]
    save(tmp_path, 5)  # after a rerun from an earlier step the one just saved stays
    assert [c.step for c in checkpoint.listing(tmp_path, STEP)] == [5, 40]


@pytest.mark.parametrize("kind", [STEP, BEST])
def test_files_of_others_are_left_alone(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    others = [f"{kind}-foo-bar.ckpt", f"{kind}-1-old-copy.ckpt", f"my-{kind}-1-ab.ckpt"]
    for name in others:
        (folder / name).write_text("mine")
    kept = [save(folder, step, kind) for step in (1, 2, 3)]
    assert checkpoint.listing(folder, kind) == kept[-checkpoint.KEPT[kind] :]
    assert checkpoint.best_weights(tmp_path)[1] == kept[-1].path.name
    assert set(others) <= set(names(folder))


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = names(tmp_path)

    def breaks(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, STEP, 2, breaks)
    assert names(tmp_path) == before


def test_what_a_kill_left_half_written_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    settings = config()
    train(settings, tmp_path)
    folder = tmp_path / "run/checkpoints"
    before = names(folder)
    for name in (".step-00000003.4242.tmp", ".best-00000003.4242.tmp"):
        (folder / name).write_bytes(b"half")
    assert checkpoint.newest_intact(folder) is not None
    assert len(names(folder)) == len(before) + 2, "who only reads may do so while another writes"
    train(settings, tmp_path)
    assert names(folder) == before


def test_the_same_checkpoint_twice(tmp_path: Path) -> None:
    assert save(tmp_path, 1) == save(tmp_path, 1)
    assert len(names(tmp_path)) == 1


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "one bit"])
def test_damage_is_seen_and_the_one_before_taken(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    damage(second.path, how)
    with pytest.raises(InputError, match="damaged"):
        second.load()
    assert checkpoint.newest_intact(tmp_path) == first
    warning = capsys.readouterr().err
    assert second.path.name in warning and "warning" in warning and warning.count("\n") == 1
    damage(first.path, how)
    assert checkpoint.newest_intact(tmp_path) is None


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_code_in_a_checkpoint_is_not_run(form: str, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    content = {"state_dict": {"model.w": torch.ones(3)}, "more": Bomb(trace)}

    def write(path: Path) -> None:
        if form == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "torch")

    kept = checkpoint.save(tmp_path, STEP, 1, write)
    with pytest.raises(InputError, match="more than tensors"):
        kept.load()
    assert not trace.exists()
    assert checkpoint.newest_intact(tmp_path) is None and not trace.exists()
    torch.load(shutil.copy(save(tmp_path, 1).path, tmp_path / "x"), weights_only=True)
    if form == "torch":  # the trap does work
        path = tmp_path / "trap"
        write(path)
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_best_weights(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint.best_weights(tmp_path)
    last = save(folder, 9, value=9.0)
    weights, name = checkpoint.best_weights(tmp_path)
    assert name == last.path.name and weights.keys() == {"w"} and weights["w"].eq(9).all()
    best = save(folder, 5, BEST, value=5.0)
    weights, name = checkpoint.best_weights(tmp_path)
    assert name == best.path.name and weights["w"].eq(5).all()


def test_a_damaged_best_is_found_again_in_the_checkpoint_of_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints"
    best, same = save(folder, 5, BEST, value=5.0), save(folder, 5, value=5.0)
    best.path.write_bytes(best.path.read_bytes()[:-1])
    weights, name = checkpoint.best_weights(tmp_path)
    assert name == same.path.name and weights["w"].eq(5).all()
    checkpoint.warn_of_lost_best(tmp_path)
    assert capsys.readouterr().err == ""
    save(folder, 6, value=6.0)
    same.path.unlink()
    with pytest.raises(InputError, match=r"best-00000005-.* is damaged; delete the run's folder"):
        checkpoint.best_weights(tmp_path)
    checkpoint.warn_of_lost_best(tmp_path)
    said = capsys.readouterr().err
    assert "is damaged" in said and "a later validation may be better" in said


def test_checkpoints_go_nowhere_else_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not through $TMPDIR, which may be small."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    train(config("trainer.max_steps=2", "trainer.checkpoint_every=1"), tmp_path)
    assert checkpoint.listing(tmp_path / "run" / "checkpoints", STEP)


def test_a_real_run_has_both_and_either_loads(tmp_path: Path) -> None:
    settings = config("trainer.max_steps=4", "trainer.checkpoint_every=1")
    train(settings, tmp_path)
    run = tmp_path / "run"
    steps = [c.step for c in checkpoint.listing(run / "checkpoints", STEP)]
    assert steps == [3, 4]
    weights, name = checkpoint.best_weights(run)
    assert name.startswith("best-00000004-")
    for best in checkpoint.listing(run / "checkpoints", BEST):
        best.path.unlink()
    other, name = checkpoint.best_weights(run)
    assert name.startswith("step-00000004-")
    model_of(settings).load_state_dict(other)  # strict: nothing missing, nothing more
    assert all(torch.equal(weights[key], other[key]) for key in weights)
