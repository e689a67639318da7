"""The processes that train one run together: what they know of each other, and agree on."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from gateloop.errors import Diverged, InputError, Interrupted, Lost
from gateloop.training.launch import Place

if TYPE_CHECKING:  # a finished or locked run is recognised without torch
    from torch import Tensor

T = TypeVar("T")

# The first process may have to tokenise a corpus while the others wait. It is not how a process
# that ended is noticed: its connections break at once, and whatever started it ends the others.
PATIENCE = timedelta(minutes=60)


class Job:
    """One process, or several that call the same methods in the same order.

    device: "cpu" or "cuda". Entered, they have found each other; left in good order, they have
    waited for each other.
    """

    def __init__(self, place: Place | None = None, device: Callable[[], str] = lambda: "cpu"):
        self.place = place or Place()
        self.rank, self.size = self.place.rank, self.place.size
        self.local_rank = self.place.local_rank
        self.device = device
        self.told = False  # an error of the first process is known to all

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def __enter__(self) -> Job:
        if self.size > 1:
            import torch.distributed as dist

            name_meeting_point(self.place)
            # gloo carries what is agreed on, in the CPU's memory; NCCL the gradients of GPUs
            backend = "gloo" if self.device() == "cpu" else "cpu:gloo,cuda:nccl"
            dist.init_process_group(backend, timeout=PATIENCE, rank=self.rank, world_size=self.size)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: object) -> None:
        if self.size == 1:
            return
        import torch.distributed as dist

        if kind is None or self.told or issubclass(kind, (Interrupted, Diverged)):
            with contextlib.suppress(RuntimeError):  # it ended after all was done
                self.all(None)  # nobody leaves before the first has written everything
                dist.destroy_process_group()
            if isinstance(error, (Interrupted, Diverged)) and not self.first:
                sys.exit(error.exit_code)  # the first says why
        elif is_lost(error):
            raise Lost(
                "another process of this run has ended; the last checkpoint stands, and the same "
                "command goes on from it"
            ) from None
        elif isinstance(error, InputError) and not self.first:
            print(f"gateloop: process {self.rank}: {error}", file=sys.stderr)
            sys.exit(error.exit_code)

    def all(self, mine: T) -> list[T]:
        """What every process has given, by rank."""
        if self.size == 1:
            return [mine]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag if self.size == 1 else any(self.all(flag))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, the same on each; ``values`` in the CPU's memory."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(values)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make()`` returns on the first process, on all of them.

        Where it raises one of this project's errors there, the others exit with that error's code
        and say nothing.
        """
        if self.size == 1:
            return make()
        import torch.distributed as dist

        answer: list[Any] = [None, 0]
        error: InputError | Interrupted | Diverged | None = None
        if self.first:
            try:
                answer[0] = make()
            except (InputError, Interrupted, Diverged) as raised:
                error, answer[1] = raised, raised.exit_code
        dist.broadcast_object_list(answer, 0)
        self.told = bool(answer[1])
        if error is not None:
            raise error
        if self.told:
            sys.exit(answer[1])
        return answer[0]

    def in_turn(self, make: Callable[[], T]) -> T:
        """``make()`` on every process, after the first has: what that caches, the others find."""
        made: list[T] = []
        self.from_first(lambda: made.append(make()))
        return made[0] if made else make()


ALONE = Job()


def leave(code: object) -> NoReturn:
    """End this process of several, without the end of torch's threads.

    About one in twenty otherwise aborts there ("terminate called without an active exception"),
    after all was done: a finished run would count as a crash.
    """
    atexit._run_exitfuncs()  # a tracker's, which may still have to send something
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process of the job cannot be reached."""
    import torch.distributed as dist

    if isinstance(error, (dist.DistNetworkError, dist.DistBackendError, dist.DistStoreError)):
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and ("gloo" in words or "onnection closed" in words)


def name_meeting_point(place: Place) -> None:
    """Say to torch and Lightning what srun says in words of its own; one machine needs no name."""
    given = os.environ
    if "SLURM_STEP_NUM_TASKS" in given and "MASTER_PORT" not in given:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        step = int(given["SLURM_JOB_ID"]) * 7 + int(given.get("SLURM_STEP_ID", 0))
        nodes = given.get("SLURM_STEP_NODELIST", given["SLURM_NODELIST"])
        one = int(given.get("SLURM_STEP_NUM_NODES", 0)) == 1
        given["MASTER_ADDR"] = (
            "127.0.0.1" if one else SLURMEnvironment.resolve_root_node_address(nodes)
        )
        given["MASTER_PORT"] = str(15000 + step % 15000)
    given["LOCAL_RANK"], given["NODE_RANK"] = str(place.local_rank), str(place.node)
    if given["MASTER_ADDR"] in ("127.0.0.1", "localhost") and sys.platform == "linux":
        given.setdefault("GLOO_SOCKET_IFNAME", "lo")
