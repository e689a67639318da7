"""A real SLURM of one node, in a folder of its own.

python tests/cluster/slurm.py start FOLDER
SLURM_CONF=FOLDER/slurm.conf sinfo
python tests/cluster/slurm.py stop FOLDER

munged, slurmctld and slurmd with their own configuration, key, socket and ports, on the loopback
address; whatever SLURM the machine has otherwise is neither read nor touched.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

# Debian keeps daemons where a user's PATH may not look.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PARTITION = "main"
PATIENCE = 30.0  # seconds until a daemon is up, or down

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
# cred_expire is also how long a requeued job waits
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=1,sched_min_interval=100000
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no SLURM here, or nothing."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return f"no {', '.join(absent)} here" if absent else ""


def start(folder: Path) -> None:
    """Start the daemons; returns when the node takes jobs. ``folder`` is new.

    Raises RuntimeError with the logs' last lines where one does not come up.
    """
    for name in ("", "state", "spool"):
        (folder / name).mkdir(mode=0o755, exist_ok=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            partition=PARTITION,
            ports=free_ports(2),
        ),
        encoding="utf-8",
    )
    # --force: the folder's parents may be closed to others, who are not to come in
    munge = ["--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--{kind}-file={folder}/munged.{kind}" for kind in ("pid", "log", "seed")]
    try:
        _run("munged", *munge, folder=folder)
        _run("slurmctld", folder=folder)
        _run("slurmd", folder=folder)
        _wait(folder, "idle")
    except BaseException:
        stop(folder)
        raise


def stop(folder: Path) -> None:
    """Cancel all jobs and end the daemons, those that came up."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        user = ["scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}"]
        subprocess.run(user, env=environment(folder), timeout=10, capture_output=True, check=False)
    for name in ("slurmd", "slurmctld", "munged"):
        _end(folder / f"{name}.pid", name)


def environment(folder: Path) -> dict[str, str]:
    """What a process needs to talk to this SLURM."""
    return {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _run(*command: str, folder: Path) -> None:
    """Run a daemon, which leaves for the background."""
    done = subprocess.run(
        command, env=environment(folder), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()}\n{logs(folder)}")


def _wait(folder: Path, state: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        shown = subprocess.run(
            ["sinfo", "--noheader", "--format=%t"],
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
        if shown.stdout.strip() == state:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the node is not {state} after {PATIENCE:g} s\n{logs(folder)}")


def logs(folder: Path) -> str:
    """The last lines of every daemon's log."""
    texts = [path.read_text(errors="replace") for path in sorted(folder.glob("*.log"))]
    return "\n".join(line for text in texts for line in text.splitlines()[-15:])


def _end(pid_file: Path, name: str) -> None:
    try:
        pid = int(pid_file.read_text())
        running = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return
    if running != name:  # the number is somebody else's by now
        return
    for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, 1.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + patience
        while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
            time.sleep(0.05)


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]](Path(sys.argv[2]).resolve())
