"""A sweep on this machine: Optuna proposes, and every trial is a run in a process of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateloop.compose import quoted
from gateloop.data import locate
from gateloop.errors import FINISHED, InputError, Interrupted
from gateloop.experiment.board import Board, duration
from gateloop.experiment.corpus import mark_of
from gateloop.experiment.plan import Job, Setting, Stage, recipe_of
from gateloop.experiment.record import UNREADABLE, read_json
from gateloop.experiment.workers import Ended, Pool, Seat, Task
from gateloop.identity import identity, run_id
from gateloop.launching.launcher import Launcher
from gateloop.sweeping.file import Sweep
from gateloop.sweeping.journal import OUTCOME, Study, validations_of
from gateloop.sweeping.outcome import Outcome, best, number
from gateloop.training.interruption import Interruption

if TYPE_CHECKING:
    from optuna.trial import Trial

POLL = 0.5  # seconds
ASK_AGAIN = 5.0  # seconds until others' trials are looked at once more


@dataclass(eq=False)
class Open:
    """A trial on its way. ``seen``: its validations so far; ``stopped``: hyperband has ended it."""

    trial: Trial
    task: Task
    seen: list[float] = field(default_factory=list)
    stopped: bool = False


class Local:
    """``number`` trials of ``sweep``, with whatever other processes work on the same study."""

    def __init__(self, sweep: Sweep, study: Study, runs_dir: Path, number: int) -> None:
        self.sweep, self.study = sweep, study
        self.runs_dir, self.number = runs_dir, number
        self.open: dict[Task, Open] = {}
        self.next_look = 0.0

    def run(
        self,
        places: Sequence[Seat],
        told: Sequence[str],
        launcher: Launcher | None,
        interruption: Interruption,
    ) -> None:
        """Returns when all trials have ended. Raises Interrupted with every run saved.

        ``told``: what each run is told of its place. ``launcher``: None for processes.
        """
        extra = [quoted("runs_dir", str(self.runs_dir)), *told]
        with Board() as board, Pool(places, extra, launcher) as pool, interruption.deferred():
            while not (self.study.is_done(self.number) and not self.open):
                if interruption.requested:
                    raise Interrupted("interrupted; the same command again goes on")
                self._claim(len(places), board)
                pool.offer(list(self.open))
                pool.start()
                board.show(pool.running, self.headline() + pool.refusal)
                time.sleep(POLL)
                for running in pool.running:
                    opened = self.open[running.task]
                    if self._should_stop(opened) and not opened.stopped:
                        opened.stopped = True
                        running.process.terminate()
                for end in pool.ended():
                    self._note(end, board)

    def headline(self) -> str:
        """ "12 of 20 trials · best val/loss 2.31" """
        ended = self.study.ended()
        first = best(ended, self.sweep)
        shown = f" · best {self.sweep.file.metric.name} {number(first.value)}" if first else ""
        return f"{len(ended)} of {self.number} trials{shown}"

    # -- one trial -----------------------------------------------------------------------

    def _claim(self, places: int, board: Board) -> None:
        """Fill the free places; where nothing is left, look again later for what others leave."""
        if time.monotonic() < self.next_look:
            return
        while len(self.open) < places:
            trial = self.study.claim(self.number)
            if trial is None:
                self.next_look = time.monotonic() + ASK_AGAIN
                return
            try:
                task = self._task(trial)
            except InputError as error:  # two values that do not go together
                self._tell(trial, Outcome.failed, log=str(error))
                board.say(f"trial {trial.number}: {error}")
                continue
            self.open[task] = Open(trial, task)

    def _task(self, trial: Trial) -> Task:
        config = self.sweep.config(trial.params)
        arguments = self.sweep.arguments(trial.params)
        name = run_id(config, mark_of(config.data), locate(config.data))
        trial.set_user_attr("run", name)
        job = Job(
            panel="",
            row=f"trial {trial.number}",
            stage=Stage.trial,
            seed=config.seed,
            setting=Setting(label(trial.params)),
            arguments=tuple(arguments),
            config=config,
            recipe=recipe_of(identity(config)),
        )
        return Task(job, self.runs_dir / name)

    def _should_stop(self, opened: Open) -> bool:
        """Hand new validations on; whether hyperband would rather have another trial."""
        values = validations(opened.task.folder, self.sweep.file.metric.name)
        stops = False
        for place, value in enumerate(values[len(opened.seen) :], start=len(opened.seen) + 1):
            opened.seen.append(value)
            opened.trial.report(value, place)
            if self.sweep.file.early_terminate is not None:
                stops |= opened.trial.should_prune()  # at each: asking is what compares
        return stops and len(opened.seen) < validations_of(self.sweep)

    def _note(self, end: Ended, board: Board) -> None:
        opened = self.open[end.task]
        stopped = opened.stopped and end.code != FINISHED
        if end.again and not stopped:
            board.say(f"{end.task.job.title}: exit {end.code}, once more; log {end.task.log}")
            return
        self._should_stop(opened)  # validations since the last look
        del self.open[end.task]
        self.next_look = 0.0
        summary = {} if stopped else summary_of(opened.task.folder)
        outcome, value = self._outcome(opened, end, stopped, summary)
        # of all the run's processes, where it says so
        seconds = summary.get("train_seconds") or end.seconds
        self._tell(
            opened.trial,
            outcome,
            value,
            validations=len(opened.seen),
            seconds=round(seconds, 1),
            log=end.tail,
        )
        shown = f"{self.sweep.file.metric.name} {number(value)}" if value is not None else ""
        words = [shown or outcome.value, duration(seconds)]
        words += [f"log {end.task.log}"] if outcome is Outcome.failed else []
        board.say(f"{end.task.job.title}: {', '.join(words)}")

    def _outcome(
        self, opened: Open, end: Ended, stopped: bool, summary: dict[str, Any]
    ) -> tuple[Outcome, float | None]:
        """How the trial ended, and its value: the best of the validations after the first step."""
        if stopped:
            return Outcome.stopped, None
        if summary.get("status") == "diverged":
            return Outcome.diverged, None
        if end.code != FINISHED or summary.get("status") != "finished":
            return Outcome.failed, None
        finite = [value for value in opened.seen[1:] if abs(value) < float("inf")]
        if not finite:
            return Outcome.diverged, None
        if summary.get("causal") is False:
            return Outcome.not_causal, None
        return Outcome.measured, max(finite) if self.sweep.maximize else min(finite)

    def _tell(
        self, trial: Trial, outcome: Outcome, value: float | None = None, **facts: Any
    ) -> None:
        """Close the trial. What is no measurement counts for Optuna as pruned: it learns from it
        and never takes it for the best."""
        from optuna.trial import TrialState

        for name, fact in facts.items():
            if fact:
                trial.set_user_attr(name, fact)
        trial.set_user_attr(OUTCOME, outcome.value)
        if outcome is Outcome.measured:
            self.study.study.tell(trial, value)
        else:
            failed = outcome is Outcome.failed
            state = TrialState.FAIL if failed else TrialState.PRUNED
            self.study.study.tell(trial, state=state)


def summary_of(folder: Path) -> dict[str, Any]:
    """{} where a run has left none that can be read."""
    try:
        return read_json(folder / "summary.json")
    except UNREADABLE:
        return {}


def validations(folder: Path, metric: str) -> list[float]:
    """The metric's value at each of a run's validations so far; nan where it is not finite."""
    try:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    found, named = [], json.dumps(metric).encode()
    for line in lines:
        if not line.endswith(b"\n"):  # being written
            break
        if named not in line:  # most lines are of training
            continue
        row = json.loads(line)
        found.append(float("nan") if row[metric] is None else float(row[metric]))
    return found


def label(params: dict[str, Any]) -> str:
    """ "lr 0.0012, dropout 0.1" """
    parts = (f"{key.rpartition('.')[2]} {_short(value)}" for key, value in params.items())
    return ", ".join(parts)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
