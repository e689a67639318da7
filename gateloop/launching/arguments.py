"""``--launcher`` and what belongs to it, for every command that starts runs."""

from __future__ import annotations

import argparse

from gateloop.errors import InputError
from gateloop.launching.seat import Seat, seats
from gateloop.launching.settings import Local, Slurm, load_settings


def add_launcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launcher",
        metavar="NAME",
        help="slurm: each run is a job of the cluster; local: the same on this machine; or a file",
    )
    parser.add_argument(
        "--launcher-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="launcher_options",
        help="over the launcher's file; again for more",
    )


def launcher_of(options: argparse.Namespace) -> Slurm | Local | None:
    """The launcher that the parsed ``options`` ask for; None: processes of this machine.

    Raises InputError with one line for the first mistake found.
    """
    if options.launcher is not None:
        return load_settings(options.launcher, options.launcher_options)
    if options.launcher_options:
        raise InputError("--launcher-option: there is no launcher; give --launcher slurm or local")
    return None


def places(
    launcher: Slurm | Local | None, workers: int | None, runs: int, devices: int
) -> list[Seat]:
    """A seat for each run at once; on a cluster, which has a queue, by default for all ``runs``.

    ``devices``: of a run, on one machine.

    Raises InputError where this machine has not that many.
    """
    if isinstance(launcher, Slurm):
        return [launcher.seat] * (workers or max(1, runs))
    return seats(workers, devices)


def overrides(launcher: Slurm | Local | None, place: Seat) -> list[str]:
    """What a run must be told of its place."""
    threads = [f"trainer.threads={len(place.cores)}"]
    return [*threads, *launcher.overrides] if isinstance(launcher, Slurm) else threads
