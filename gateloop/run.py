"""One run: compose → build → fit → test → record.

python -m gateloop.run model=gateloop data=memory_horizon seed=0
"""

from __future__ import annotations

import os
import sys
from typing import Any

from gateloop.command import run_command
from gateloop.compose import compose
from gateloop.config import Config
from gateloop.data import fingerprint, locate
from gateloop.derived import tokens_per_step
from gateloop.errors import FINISHED, Diverged
from gateloop.help import information
from gateloop.identity import identity, run_id
from gateloop.registry import package_of
from gateloop.training.interruption import Interruption
from gateloop.training.provenance import current_commit
from gateloop.training.record import RunFolder


def main(argv: list[str]) -> int:
    """Returns 0; raises InputError, Interrupted and Diverged, each with its own exit code."""
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
        return reuse(config, folder)
    with Interruption() as interruption, folder.locked():
        if folder.finished() and not config.rerun:  # by another process, a moment ago
            return reuse(config, folder)
        described = identity(config, mark)
        folder.open(config, described, rerun=config.rerun)
        print(f"run {folder.path}", file=sys.stderr)
        summary = execute(config, described, folder, argv, interruption)
    print(report(summary))
    return FINISHED


def execute(
    config: Config,
    described: dict[str, Any],
    folder: RunFolder,
    argv: list[str],
    interruption: Interruption,
) -> dict[str, Any]:
    """Train and test in ``folder``, which is locked; returns what summary.json then holds.

    ``described``: the run's identity.
    """
    import torch

    from gateloop.data import open_source
    from gateloop.keys import plain, values
    from gateloop.models import build
    from gateloop.models.size import count
    from gateloop.training.fit import choose_device, device_name, fit
    from gateloop.training.memory import keep_freed_pages
    from gateloop.training.test import test
    from gateloop.training.tracking import close_tracker, open_tracker

    keep_freed_pages()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    device = choose_device(config)
    source = open_source(config.data)
    torch.manual_seed(config.seed)
    model = build(config.model, source.inputs, source.classes)
    hardware = device_name(device)
    package = package_of(config.model.name)
    folder.write_manifest(argv, described, source.info, device=hardware, model_package=package)
    if source.tokenizer is not None:
        (folder.path / "tokenizer").mkdir(exist_ok=True)
        source.tokenizer.save(folder.path / "tokenizer")
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
    tracker = open_tracker(config.tracker, folder.path, folder.id, settings)
    try:
        seconds = fit(config, model, source, device, folder, interruption, tracker)
    except Diverged as error:
        folder.write_summary({**summary, "status": "diverged", "reason": str(error)})
        raise
    tokens = config.trainer.max_steps * tokens_per_step(config)
    summary |= {
        "steps": config.trainer.max_steps,
        "tokens_seen": tokens,
        "train_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        **test(config, model, source, device, folder),
        "status": "finished",
    }
    folder.write_summary(summary)
    close_tracker(tracker, summary)
    return summary


def reuse(config: Config, folder: RunFolder) -> int:
    """Report a finished run; to W&B too where one of its agents asks, whose trial this is."""
    print(skipped(folder))
    if os.environ.get("WANDB_SWEEP_ID"):
        from gateloop.training.tracking import hand_over

        hand_over(config, folder)
    return FINISHED


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
    run_command(main)
