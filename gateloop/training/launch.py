"""One run as several processes: which of them this one is, and starting them on this machine.

Nothing here imports torch: the process that starts the others only watches them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType

from gateloop.config import Config
from gateloop.derived import devices
from gateloop.errors import CRASHED, FINISHED, INTERRUPTED, InputError

PARENT = "GATELOOP_PARENT"  # the process that started this one, where that was ours
NUMBERS = (  # which torchrun, srun and ``launch`` set
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", PARENT),
    *("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID", "SLURM_LOCALID"),
)
GRACE = 10.0  # seconds that the others have to end by themselves; then they are asked, then made to


@dataclass(frozen=True)
class Place:
    """Which process of a job this is; ``parent``: ours that started it, which it must not outlive.

    rank: among all ``size``. local_rank: among those of its machine, and so its device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node: int = 0
    parent: int | None = None


def find_place(config: Config) -> Place | None:
    """The place that torchrun, srun or ``launch`` has given this process; None: nobody has.

    Raises InputError where they have started another number of processes than the config has
    devices, and where a variable of theirs is no number: Lightning reads some of them too.
    """
    given = {name: number_in(name) for name in NUMBERS if name in os.environ}
    if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= given.keys():
        by, size = "torchrun", given["WORLD_SIZE"]
        node, local_rank = given.get("GROUP_RANK", 0), given["LOCAL_RANK"]
    elif devices(config) > 1 and given.get("SLURM_STEP_NUM_TASKS", 1) > 1:
        by, size = "srun", given["SLURM_STEP_NUM_TASKS"]
        node, local_rank = given["SLURM_NODEID"], given["SLURM_LOCALID"]
    else:
        return None
    if size != devices(config) or local_rank >= config.trainer.devices:
        raise InputError(
            f"{by} has started {size} processes, this one as number {local_rank} on machine "
            f"{node}: trainer.devices={config.trainer.devices} × trainer.nodes="
            f"{config.trainer.nodes} asks for {devices(config)}; make them the same"
        )
    rank = node * config.trainer.devices + local_rank
    return Place(rank, size, local_rank, node, given.get(PARENT))


def number_in(name: str) -> int:
    """The environment variable, 0 where it is not set. Raises InputError where it is no number."""
    value = os.environ.get(name, "0")
    if not value.isdecimal():
        raise InputError(
            f"{name}={value}: expected a whole number, as torchrun and srun set it; unset it"
        )
    return int(value)


def launch(config: Config, argv: list[str]) -> int:
    """Run the same command once for each device of this machine; returns the exit code of all.

    That is the code of the first process that ended with another than 0; a process that was
    killed counts as a crash. Signals are passed on, and the processes agree among themselves where
    to stop. Raises InputError where the run needs more machines than this one.
    """
    if config.trainer.nodes > 1:
        raise InputError(
            f"trainer.nodes={config.trainer.nodes}: start the same command on every machine with "
            "torchrun or srun (docs/devices.md)"
        )
    with Family() as family:
        family.start([sys.executable, "-m", "gateloop.run", *argv], config.trainer.devices)
        return family.wait()


class Family:
    """The processes of one machine, which live and end together."""

    def __init__(self) -> None:
        self.members: list[subprocess.Popen[bytes]] = []
        self.signals = 0
        self.ending: float | None = None  # since when they should all be ending

    def __enter__(self) -> Family:
        self.previous = {n: signal.signal(n, self.pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            if member.poll() is None:
                member.kill()
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def start(self, command: list[str], number: int) -> None:
        common = {**os.environ, **meeting_point(), "WORLD_SIZE": str(number)}
        common |= {PARENT: str(os.getpid()), "OMP_NUM_THREADS": str(threads(number))}
        for rank in range(number):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # In a session of its own: a terminal's Ctrl-C reaches it once, through this process.
            member = subprocess.Popen(command, env={**common, **own}, start_new_session=True)
            self.members.append(member)

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals > 1:  # somebody is in a hurry
            self.ending = self.ending or time.monotonic()
        self.send(signal.Signals(number) if self.signals > 1 else signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        for member in self.members:
            member.send_signal(number)  # does nothing where it has ended

    def wait(self) -> int:
        """Wait for every member; returns the first code that is not 0, as a command's."""
        failed: dict[int, int] = {}  # code by rank, in the order in which they ended
        asked = False
        while None in (codes := [member.poll() for member in self.members]):
            failed |= {rank: code for rank, code in enumerate(codes) if code}
            if failed:
                self.ending = self.ending or time.monotonic()
            late = time.monotonic() - self.ending if self.ending else 0.0
            if late > 2 * GRACE:
                self.send(signal.SIGKILL)
            elif late > GRACE and not asked:
                asked = True
                self.send(signal.SIGTERM)
            time.sleep(0.05)
        failed |= {rank: code for rank, code in enumerate(codes) if code}
        return self.code_of(*next(iter(failed.items()))) if failed else FINISHED

    def code_of(self, rank: int, code: int) -> int:
        if code > 0:
            return code
        if self.signals:  # before it could take the signal itself
            print("gateloop: interrupted; the same command again goes on", file=sys.stderr)
            return INTERRUPTED
        print(
            f"gateloop: process {rank} of {len(self.members)} was killed by "
            f"{signal.Signals(-code).name}, and the others were ended; the last checkpoint stands, "
            "and the same command goes on from it",
            file=sys.stderr,
        )
        return CRASHED


def meeting_point() -> dict[str, str]:
    """Where the processes of one machine find each other: a free port of its own interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def threads(processes: int) -> int:
    """CPU threads for each of ``processes`` on this machine: never more than there are cores."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    share = max(1, cores // processes)
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(given), share) if given.isdigit() and int(given) else share
