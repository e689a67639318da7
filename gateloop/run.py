"""One run: compose → build → fit → test → record.

python -m gateloop.run model=gateloop data=memory_horizon seed=0
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, nullcontext, redirect_stdout
from typing import Any

from gateloop.command import run_command
from gateloop.compose import compose
from gateloop.config import Config
from gateloop.data import Source, fingerprint, locate
from gateloop.derived import devices, tokens_per_step
from gateloop.errors import FINISHED, WRONG_INPUT, Diverged, InputError, Lost
from gateloop.files import clear_disk_errors
from gateloop.help import information
from gateloop.identity import identity, run_id
from gateloop.registry import package_of
from gateloop.training.agent import tell_agent
from gateloop.training.interruption import Interruption
from gateloop.training.job import Job, leave
from gateloop.training.launch import PARENT, Place, find_place, launch, number_in
from gateloop.training.provenance import current_commit
from gateloop.training.record import RunFolder


def main(argv: list[str]) -> int:
    """Returns 0; raises InputError, Interrupted and Diverged, each with its own exit code.

    With more devices than one it starts a process for each, or is one of them.
    """
    first_here = number_in("LOCAL_RANK") == 0
    try:
        with nullcontext() if first_here else redirect_stdout(None):
            return run(argv)
    except InputError:
        if first_here:
            raise
        return WRONG_INPUT  # as the first process of this machine says
    except Lost as error:
        if PARENT not in os.environ:  # which says it
            print(f"gateloop: {error}", file=sys.stderr)
        return error.exit_code


def run(argv: list[str]) -> int:
    asked = information(argv)
    if asked is not None:
        print(asked)
        return FINISHED
    config = compose(argv)
    if config.dry_run:
        from gateloop.forecast import forecast

        print(forecast(config))
        return FINISHED
    mark = fingerprint(config.data)
    folder = RunFolder(config.runs_dir, run_id(config, mark, locate(config.data)))
    if folder.finished() and not config.rerun:
        print(skipped(folder))
        tell_agent(config, folder)
        return FINISHED
    place = find_place(config)
    if place is None and devices(config) > 1:
        return launch(config, argv)
    place = place or Place()
    with (
        Interruption(place.parent) as interruption,
        ExitStack() as lock,
        Job(place, lambda: device_type(config)) as job,
        interruption.agreed(job),
    ):
        job.from_first(lambda: lock.enter_context(folder.locked()))
        if job.from_first(folder.finished) and not config.rerun:  # by another process, just now
            print(skipped(folder))
            if job.first:
                tell_agent(config, folder)
            return FINISHED
        described = identity(config, mark)
        job.from_first(lambda: folder.open(config, described, rerun=config.rerun))
        if job.first:
            print(f"run {folder.path}", file=sys.stderr)
        summary = execute(config, described, folder, argv, interruption, job)
    if job.first:
        print(report(summary))
    return FINISHED


def execute(
    config: Config,
    described: dict[str, Any],
    folder: RunFolder,
    argv: list[str],
    interruption: Interruption,
    job: Job,
) -> dict[str, Any]:
    """Train and test in ``folder``, which is locked; returns what summary.json then holds.

    ``described``: the run's identity.
    """
    import torch

    from gateloop.data import open_source
    from gateloop.keys import plain, values
    from gateloop.models import build
    from gateloop.models.size import count
    from gateloop.recurrence.memory import keep_freed_pages
    from gateloop.training.device import choose_device, device_name
    from gateloop.training.fit import fit
    from gateloop.training.test import test
    from gateloop.training.tracking import close_tracker, open_tracker

    keep_freed_pages()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    device = choose_device(config, job.local_rank)
    source = job.in_turn(lambda: open_source(config.data))
    torch.manual_seed(config.seed)
    model = build(config.model, source.inputs, source.classes)
    hardware = device_name(device, job)
    job.from_first(lambda: describe(config, described, folder, argv, source, hardware))
    summary: dict[str, Any] = {
        "id": folder.id,
        "status": "running",
        "model": config.model.name,
        "data": source.name,
        "mode": config.mode.name.value,
        "seed": config.seed,
        "parameters": count(model),
        "device": hardware,
    }
    settings = {name: plain(value) for name, value in values(config).items()}
    trackers: list[Any] = []
    job.from_first(
        lambda: trackers.append(open_tracker(config.tracker, folder.path, folder.id, settings))
    )
    tracker = trackers[0] if trackers else None
    try:
        seconds = fit(config, model, source, device, folder, interruption, tracker, job)
        tested = test(config, model, source, device, folder, interruption, job)
    except Diverged as error:
        if job.first:
            folder.write_summary({**summary, "status": "diverged", "reason": str(error)})
        raise
    tokens = config.trainer.max_steps * tokens_per_step(config)
    summary |= {
        "steps": config.trainer.max_steps,
        "tokens_seen": tokens,
        "train_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        **tested,
        "status": "finished",
    }
    if job.first:
        folder.write_summary(summary)
        close_tracker(tracker, summary)
    return summary


def describe(
    config: Config,
    described: dict[str, Any],
    folder: RunFolder,
    argv: list[str],
    source: Source,
    hardware: str,
) -> None:
    """Write what stands in the run's folder before it trains."""
    package = package_of(config.model.name)
    settings = config.trainer
    folder.write_manifest(
        argv,
        described,
        source.info,
        device=hardware,
        devices=settings.devices,
        nodes=settings.nodes,
        strategy=settings.strategy.value,
        model_package=package,
    )
    if source.tokenizer is not None:
        with clear_disk_errors(folder.path):
            (folder.path / "tokenizer").mkdir(exist_ok=True)
            source.tokenizer.save(folder.path / "tokenizer")


def device_type(config: Config) -> str:
    from gateloop.training.device import choose_device

    return choose_device(config).type


def skipped(folder: RunFolder) -> str:
    """What to say of a finished run, with the commit that made it where that is another one."""
    by, here = folder.finished_by(), current_commit()
    other = f", by commit {by[:10]} (here: {here[:10]})" if by and here and by != here else ""
    return f"{folder.path} is finished{other}; rerun=true does it again\n" + report(
        folder.summary()
    )


def report(summary: dict[str, Any]) -> str:
    """The result for a reader: a line per metric, and whether the model may be ranked at all."""
    lines = [f"{summary['id']}: {summary['parameters']:,} parameters, {summary['steps']} steps"]
    for name, value in summary["metrics"].items():
        lines.append(f"  {name:<34} {value if value is not None else float('nan'):.6g}")
    if not summary["causal"]:
        lines.append("  NOT CAUSAL: predictions depend on what comes after them")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        run_command(main)
    except SystemExit as end:
        if "LOCAL_RANK" in os.environ and "torch" in sys.modules:
            leave(end.code)
        raise
