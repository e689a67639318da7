"""W&B that cannot be had: a line and offline under ``auto``, an error under ``wandb``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import WandbLogger

from gateloop.errors import InputError
from gateloop.training.tracking import open_tracker
from tests.sweeping.wandb_server import Server
from tests.training.small import config


class Refusing(Server):
    """Knows the account, and makes no run."""

    def __init__(self) -> None:
        super().__init__([])
        self.http.handle_error = lambda *_: None  # a client that is torn down says no goodbye

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        answer = super().answer(path, body)
        if b"UpsertBucket" in body:
            return {"errors": [{"message": "no such project"}], "data": None}
        return answer


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """That of a process which W&B has not been imported into."""
    import wandb

    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    yield monkeypatch
    wandb.teardown()


def opened(tracker: str, folder: Path) -> WandbLogger:
    found = open_tracker(config(f"tracker={tracker}").tracker, folder, "some-id", {})
    assert isinstance(found, WandbLogger)
    found.experiment.finish()
    return found


def offline_with_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``tracker=auto`` says before it goes on offline."""
    opened("auto", folder)
    (session,) = (folder / "wandb").glob("offline-run-*")
    assert session.name.endswith("some-id")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gateloop: W&B: ") and line.endswith("; going on offline")
    return str(line)


def test_credentials_that_are_none(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("WANDB_API_KEY", "abc")
    with pytest.raises(InputError, match=r"^tracker=wandb: WANDB_API_KEY invalid.*tracker=auto$"):
        opened("wandb", tmp_path)
    assert capsys.readouterr().err == ""
    assert "WANDB_API_KEY invalid" in offline_with_one_line(tmp_path, capsys)


def test_a_server_that_refuses_the_run(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Refusing() as server:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        assert "no such project" in offline_with_one_line(tmp_path, capsys)
        assert {"Viewer", "UpsertBucket"} <= set(server.calls)


def test_online_without_credentials(
    tmp_path: Path, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("WANDB_MODE", "online")
    assert "no credentials; run `wandb login`" in offline_with_one_line(tmp_path, capsys)


@pytest.mark.parametrize("mode", ["foo", ""])
@pytest.mark.parametrize("tracker", ["auto", "wandb"])
def test_a_mode_that_wandb_does_not_know(
    mode: str, tracker: str, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("WANDB_MODE", mode)
    with pytest.raises(InputError, match=f"^WANDB_MODE={mode}: choose one of online.*unset it$"):
        opened(tracker, tmp_path)
