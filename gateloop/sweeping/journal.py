"""A sweep's study on disk, in Optuna's journal: trials that are claimed once, and none lost.

Optuna's journal tells nobody that a trial's process is gone. Every process that works on the study
therefore holds a lock of its own, which the kernel lets go of however the process ends, and every
trial names its process's. A trial that still runs by the journal, and whose lock is free, was
abandoned: its setting is put into the queue again, and it is failed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateloop.errors import InputError
from gateloop.files import clear_disk_errors, is_locked
from gateloop.sweeping.file import Method, Sweep

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

FOLDER = ".sweeps"  # in runs_dir: hidden, as what is no run's folder is there
WORKER, AGAIN = "worker", "again"  # a trial's attributes: whose it is, which one it takes up
OUTCOME = "outcome"  # how a trial ended, in the word that the table prints


class Study:
    """The study of ``sweep`` in ``runs_dir``, this process a worker on it.

    Raises InputError where the journal cannot be read, or is another sweep's of the same name.
    """

    def __init__(self, sweep: Sweep, runs_dir: Path) -> None:
        self.sweep = sweep
        self.folder = runs_dir / FOLDER / sweep.name
        self.path = self.folder / "journal.log"
        self.worker = uuid.uuid4().hex[:8]
        self.distributions = {axis.key: axis.local() for axis in sweep.varied}
        with clear_disk_errors(self.folder):
            (self.folder / "workers").mkdir(parents=True, exist_ok=True)
            # never let go of: the kernel does at this process's end
            self._alive = os.open(self._lock_of(self.worker), os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._alive, fcntl.LOCK_EX)
        with self.alone():
            self.study = self._open()

    def close(self) -> None:
        """End this process's work: a trial of its that still runs is abandoned."""
        self._lock_of(self.worker).unlink(missing_ok=True)
        os.close(self._alive)

    # -- trials --------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """Every trial that counts: not those that were abandoned, which others took up."""
        from optuna.trial import TrialState

        found = self.study.get_trials(deepcopy=False)
        taken_up = {trial.user_attrs.get(AGAIN) for trial in found}
        return [
            trial
            for trial in found
            if trial.number not in taken_up
            and (trial.state != TrialState.FAIL or OUTCOME in trial.user_attrs)
        ]

    def claim(self, number: int) -> Trial | None:
        """A trial for this process, while fewer than ``number`` are there; else None."""
        from optuna.trial import TrialState

        with self.alone():
            self._take_up()
            trials = self.trials()
            waiting = sum(trial.state == TrialState.WAITING for trial in trials)
            through = self.sweep.file.method is Method.grid and not waiting
            if through or len(trials) - waiting >= number:
                return None
            self.study.sampler = self._sampler(len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask(self.distributions)
            trial.set_user_attr(WORKER, self.worker)
            return trial

    def ended(self) -> list[FrozenTrial]:
        """The trials that count and have ended, in whatever way."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def is_done(self, number: int) -> bool:
        """Whether ``number`` trials have ended, or all there are of a grid."""
        ended, trials = len(self.ended()), len(self.trials())
        through = self.sweep.file.method is Method.grid and ended == trials
        return through or ended >= number

    def _take_up(self) -> None:
        """Put what was abandoned into the queue, each once, and fail it."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        taken_up = {trial.user_attrs.get(AGAIN) for trial in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING or self._is_held(trial.user_attrs.get(WORKER)):
                continue
            setting = trial.system_attrs.get("fixed_params") or trial.params
            if setting.keys() == self.distributions.keys() and trial.number not in taken_up:
                # before it is failed: killed in between, it is found again and not taken up twice
                self.study.enqueue_trial(setting, user_attrs={AGAIN: trial.number})
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _is_held(self, worker: str | None) -> bool:
        """Whether ``worker``, who is perhaps this process, still holds its lock."""
        if worker is None:  # it was killed between asking and signing
            return False
        if worker == self.worker:
            return True
        if is_locked(self._lock_of(worker)):
            return True
        with suppress(FileNotFoundError):
            self._lock_of(worker).unlink()
        return False

    def _lock_of(self, worker: str) -> Path:
        return self.folder / "workers" / worker

    # -- the journal ---------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Whatever is read and written inside, no other process of the study changes."""
        with clear_disk_errors(self.folder), open(self.folder / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _open(self) -> optuna.Study:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(logging.WARNING)
        with self._readable():
            lock: Any = JournalLock(self.path)
            storage = JournalStorage(JournalFileBackend(str(self.path), lock_obj=lock))
            study = optuna.create_study(
                storage=storage,
                study_name=self.sweep.name,
                direction="maximize" if self.sweep.maximize else "minimize",
                pruner=pruner(self.sweep),
                load_if_exists=True,
            )
            there = [t.system_attrs.get("fixed_params") for t in study.get_trials()]
        self._compare(study)
        if self.sweep.file.method is Method.grid:
            for point in map(self._enqueued, self.sweep.points()):
                if point not in there:
                    study.enqueue_trial(point)
        return study

    def _enqueued(self, point: dict[str, Any]) -> dict[str, Any]:
        """A grid's point as Optuna's distributions have it: choices as texts."""
        choices = {axis.key for axis in self.sweep.varied if axis.choices}
        return {key: str(value) if key in choices else value for key, value in point.items()}

    def _compare(self, study: optuna.Study) -> None:
        """Raise InputError where the study was made by a file that asked for something else."""
        here = self.sweep.definition()
        there = study.user_attrs.get("sweep")
        if there is None:
            study.set_user_attr("sweep", here)
            return
        if there == json.loads(json.dumps(here)):
            return
        name = next(name for name in here if there.get(name) != json.loads(json.dumps(here[name])))
        raise InputError(
            f"{self.folder} holds the trials of another sweep of this name: its {name} is not the "
            "file's; rename the file, or delete the folder (finished runs are found again)"
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """A journal that is none is one line."""
        try:
            yield
        except (ValueError, KeyError, AssertionError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{self.path}: no journal ({reason}); restore it, or delete {self.folder} to "
                "begin anew (finished runs are found again)"
            ) from error

    # -- Optuna's parts ------------------------------------------------------------------

    def _sampler(self, begun: int) -> Any:
        """Its seed is the number of trials begun, so that neither a second process nor a second
        start proposes the same again."""
        from optuna.samplers import RandomSampler, TPESampler

        if self.sweep.file.method is Method.bayes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # constant_liar is called experimental
                return TPESampler(seed=begun, constant_liar=True)
        return RandomSampler(seed=begun)


def pruner(sweep: Sweep) -> Any:
    """Optuna's part that ends trials early. Raises InputError where none could ever end so."""
    from optuna.pruners import HyperbandPruner, NopPruner

    stop = sweep.file.early_terminate
    if stop is None:
        return NopPruner()
    most = validations_of(sweep)
    if stop.max_iter is not None and stop.s is not None:
        most = stop.max_iter
        least = max(1, most // stop.eta**stop.s)
    else:
        least = stop.min_iter or 1
    if least >= most:
        raise InputError(
            f"{sweep.path}: early_terminate: the first comparison comes after {least} "
            f"validations, and a run has {most} of them; lower min_iter, or "
            "trainer.validate_every"
        )
    return HyperbandPruner(min_resource=least, max_resource=most, reduction_factor=stop.eta)


def validations_of(sweep: Sweep) -> int:
    """How many a run has: one before the first step, one at its end."""
    trainer = sweep.first().trainer
    return 1 + -(-trainer.max_steps // trainer.validate_every)


class JournalLock:
    """What Optuna holds while it writes; in place of its own, which outlives a killed process."""

    def __init__(self, journal: Path) -> None:
        self.journal, self._lock = journal, -1

    def acquire(self) -> bool:
        self._lock = os.open(self.journal.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._mend()
        return True

    def release(self) -> None:
        os.close(self._lock)

    def _mend(self) -> None:
        """Cut off a last line that a killed process left half written, before one is added."""
        with open(self.journal, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return
            file.seek(size - 1)
            if file.read(1) == b"\n":
                return
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
