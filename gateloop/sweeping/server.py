"""A sweep on the W&B server: creating it, and agents that take trials from it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml

from gateloop.compose import parse
from gateloop.errors import CRASHED, FINISHED, InputError, Interrupted
from gateloop.experiment.workers import Seat
from gateloop.sweeping.file import Sweep
from gateloop.training.interruption import Interruption

PROJECT = "gateloop"
POLL = 0.5  # seconds


def check_path(path: str) -> None:
    """Raise InputError where ``path`` is not entity/project/id."""
    if not re.fullmatch(r"[^/\s]+/[^/\s]+/[^/\s]+", path):
        raise InputError(f"--join {path}: expected ENTITY/PROJECT/ID, as `wandb sweep` shows it")


def check_login() -> None:
    """Raise InputError where wandb or credentials for its server are missing. Never asks."""
    if not find_spec("wandb"):
        raise InputError(
            "a sweep on the server needs the package wandb; pip install wandb, or take --local"
        )
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        raise InputError(
            f"WANDB_MODE={os.environ['WANDB_MODE']}: a sweep on the server is online; unset it, "
            "or take --local, which needs no server"
        )
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        there = wandb.login(prompt=False)
    except Exception as error:  # whatever the client makes of a server that it cannot reach
        raise InputError(f"W&B: {_first_line(error)}; or take --local") from error
    if not there:
        raise InputError(
            "no W&B credentials; run `wandb login` or set WANDB_API_KEY, or take --local, which "
            "needs no account"
        )


def create(sweep: Sweep, project: str | None, entity: str | None) -> str:
    """Create ``sweep`` on the server; its path, entity/project/id."""
    import wandb

    tree = yaml.safe_load(sweep.path.read_text(encoding="utf-8"))
    for change in sweep.changes:
        override = parse(change)
        if override.value is None:
            raise InputError(f"--set {change}: an agent cannot hand null to a run; leave it out")
        # the agent writes what it is given: a number where that is the same letters again, and
        # else the text, of which YAML would make another one
        same = isinstance(override.value, (int, float)) and str(override.value) == override.text
        value = override.value if same else override.text
        tree["parameters"][override.key] = {"value": value}
    project = project or sweep.file.project or PROJECT
    try:
        found = wandb.sweep(tree, project=project, entity=entity or sweep.file.entity)
    except Exception as error:
        raise InputError(f"W&B: {_first_line(error)}; or take --local") from error
    # what the server answered, which wandb keeps for the agents of its own process
    owner, project = os.environ.get("WANDB_ENTITY"), os.environ.get("WANDB_PROJECT", project)
    path = "/".join(part for part in (owner, project, found) if part)
    print(f"sweep {path}; from another machine: python -m gateloop.sweep --join {path}")
    return path


def work(path: str, places: Sequence[Seat], count: int | None) -> int:
    """Run one agent on each seat until the server has no more trials, or ``count`` are done.

    Every agent runs one trial at a time, each a process of its own. Returns 0; 1 where an agent
    failed. Raises Interrupted once every run has saved.
    """
    shares = _shares(count, len(places))
    agents = []
    with Interruption() as interruption, interruption.deferred():
        for seat, share in zip(places, shares, strict=True):
            if share != 0:
                agents.append(_start(path, seat, share))
        while any(agent.poll() is None for agent in agents):
            if interruption.requested:
                for agent in agents:
                    agent.send_signal(signal.SIGTERM)
                for agent in agents:
                    agent.wait()
                raise Interrupted(f"interrupted; --join {path} goes on")
            time.sleep(POLL)
    failed = [agent.returncode for agent in agents if agent.returncode]
    if failed:
        print(f"gateloop: an agent ended with exit {failed[0]}", file=sys.stderr)
    return CRASHED if failed else FINISHED


def _shares(count: int | None, agents: int) -> list[int | None]:
    """How many trials each agent takes; None: as many as the server has."""
    if count is None:
        return [None] * agents
    return [count // agents + (place < count % agents) for place in range(agents)]


def _start(path: str, seat: Seat, count: int | None) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(len(seat.cores)),
        # the file's command says python: this one, wherever the agent was started
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        # a trial that hyperband stops exits 75; the agent must not take that for a fault
        "WANDB_AGENT_DISABLE_FLAPPING": "true",
        "WANDB_AGENT_MAX_INITIAL_FAILURES": "1000000",
    }
    if seat.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = seat.gpu
    limit = [] if count is None else [f"--count={count}"]
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, seat.cores)  # a child has its parent's
        return subprocess.Popen(
            [sys.executable, "-m", "wandb", "agent", "--forward-signals", *limit, path],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )
    finally:
        os.sched_setaffinity(0, before)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
