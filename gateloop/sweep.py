"""A sweep: trials of one file's parameters, on the W&B server or, with --local, on this machine.

python -m gateloop.sweep sweeps/gateloop_memory_horizon.yaml --local --count 20 --workers 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateloop.command import Parser, run_command, runs_folder
from gateloop.data import locate
from gateloop.errors import CRASHED, FINISHED, InputError
from gateloop.experiment.workers import seats
from gateloop.launching.arguments import add_launcher, launcher_of, overrides, places
from gateloop.launching.cluster import JOBS, Cluster
from gateloop.sweeping import server, summary
from gateloop.sweeping.file import Method, Sweep, load_sweep
from gateloop.sweeping.journal import Study, pruner
from gateloop.sweeping.local import Local
from gateloop.sweeping.outcome import Outcome, best, number, outcome
from gateloop.training.interruption import Interruption


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m gateloop.sweep", description=__doc__)
    parser.add_argument("sweep", nargs="?", help="a file, or the name of a shipped one")
    parser.add_argument("--count", type=int, help="trials in all (the file's run_cap)")
    parser.add_argument("--workers", type=int, help="trials at once (one for each GPU, else 1)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="fix a parameter over the file's; again for more",
    )
    parser.add_argument("--dry-run", action="store_true", help="check the file, and stop")
    parser.add_argument("--local", action="store_true", help="without a server, by Optuna")
    add_launcher(parser)
    parser.add_argument("--runs-dir", type=runs_folder, help="runs (--local; runs)")
    parser.add_argument("--results", type=Path, help="results (--local; results)")
    parser.add_argument("--project", help="W&B project (the file's, else gateloop)")
    parser.add_argument("--entity", help="W&B entity (the file's, else your default)")
    parser.add_argument(
        "--join", metavar="ENTITY/PROJECT/ID", help="start agents of a sweep that is there"
    )
    options = parser.parse_args(argv)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    for name in ("count", "workers"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise InputError(f"--{name} {given}: must be at least 1")
    if (options.sweep is None) == (options.join is None):
        raise InputError("give a sweep file, or --join ENTITY/PROJECT/ID")
    if options.join is not None:
        for name in ("local", "changes", "dry_run"):
            if getattr(options, name):
                shown = name.replace("changes", "set").replace("_", "-")
                raise InputError(f"--{shown}: a sweep that is joined has its file; leave it out")
    for name in ("runs_dir", "results"):
        if getattr(options, name) is not None and not options.local:
            shown = name.replace("_", "-")
            raise InputError(
                f"--{shown}: only with --local; agents of the server write where they are started"
            )
    if options.launcher is not None and not options.local:
        raise InputError(
            "--launcher: only with --local; on the server a job of yours starts `--join`"
        )
    for name in ("project", "entity"):
        if getattr(options, name) is not None and (options.local or options.join):
            raise InputError(f"--{name}: only where a sweep is created on the server; leave it out")


def main(argv: list[str]) -> int:
    """Returns 0; 1 where a trial failed. Raises InputError, and Interrupted with all saved."""
    options = parse(argv)
    if options.join is not None:
        server.check_path(options.join)
        own = seats(options.workers)
        server.check_login()
        return server.work(options.join, own, options.count)
    sweep = load_sweep(options.sweep, options.changes)
    count = options.count or sweep.file.run_cap
    if options.local:
        return local(sweep, options, count)
    own = seats(options.workers, devices(sweep))
    print(overview(sweep, count), flush=True)
    if options.dry_run:
        return FINISHED
    server.check_login()
    path = server.create(sweep, options.project, options.entity)
    return server.work(path, own, options.count)


def devices(sweep: Sweep) -> int:
    """Devices of a trial on one machine."""
    return sweep.first().trainer.devices


def overview(sweep: Sweep, count: int | None) -> str:
    """What is varied, and how; every value has been composed as a run by then."""
    lines = [f"{sweep.file.name or sweep.name} ({sweep.name})"]
    width = max(len(axis.key) for axis in sweep.varied)
    for axis in sweep.varied:
        shown = ", ".join(map(str, axis.choices))
        ends = f"{axis.kind.name}, {axis.low:g} to {axis.high:g}"
        lines.append(f"  {axis.key:<{width}}  {shown or ends}")
    stop = ", hyperband" if sweep.file.early_terminate else ""
    points = f", {len(sweep.points())} points" if sweep.file.method is Method.grid else ""
    trials = f"{count} trials" if count else "no number of trials"
    metric = f"{sweep.file.metric.goal.name} {sweep.file.metric.name}"
    lines.append(f"{sweep.file.method.name}{points}{stop}, {metric}, {trials}")
    return "\n".join(lines)


def local(sweep: Sweep, options: argparse.Namespace, count: int | None) -> int:
    """The sweep by Optuna, from where its study stands."""
    if count is None:
        if sweep.file.method is not Method.grid:
            raise InputError(f"--count: missing; {sweep.file.method.name} has no end, say how many")
        count = len(sweep.points())
    settings = launcher_of(options)
    learns = sweep.file.method is Method.bayes  # from what has ended before it proposes
    at_once = max(1, count // 5) if learns else count
    taken = places(settings, options.workers, at_once, devices(sweep))
    summary.check_packages("optuna")
    pruner(sweep)
    for axis in sweep.varied:
        axis.local()
    print(overview(sweep, count), flush=True)
    if options.dry_run:
        return FINISHED
    summary.check_packages()
    locate(sweep.first().data)
    results = options.results or Path("results")
    runs_dir = options.runs_dir or Path("runs")
    launcher = Cluster(settings, runs_dir / JOBS) if settings else None
    with Interruption() as interruption:
        study = Study(sweep, runs_dir)
        try:
            if study.ended():  # of an earlier start, which perhaps nobody wrote down
                summary.write(sweep, study.study, study.ended(), results)
            engine = Local(sweep, study, runs_dir, count)
            engine.run(taken, overrides(settings, taken[0]), launcher, interruption)
            trials = study.ended()
            folder = summary.write(sweep, study.study, trials, results)
        finally:
            study.close()
    print(f"{folder}: {summary.counts(trials)}")
    found = best(trials, sweep)
    if found is not None:
        print(f"best {sweep.file.metric.name} {number(found.value)}, trial {found.number}:")
        print(f"    {summary.command(sweep, found)}")
    failed = [trial for trial in trials if outcome(trial) is Outcome.failed]
    for trial in failed:
        print(
            f"\nfailed: trial {trial.number}, {summary.command(sweep, trial)}\n"
            f"{trial.user_attrs.get('log', '')}",
            file=sys.stderr,
        )
    return CRASHED if failed else FINISHED


if __name__ == "__main__":
    run_command(main)
