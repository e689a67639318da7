"""The C kernels, built where there is a compiler at the first use and kept for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from gateloop.recurrence.memory import keep_freed_pages

HERE = Path(__file__).parent
SOURCES = ("gate_loop.c", "linear_scan.c", "outer_product.c", "cauchy.c")
HEADERS = ("blocks.h", "gates.h", "streams.h", "vectors.h")
REALS = {torch.float32: "float", torch.float64: "double"}

# Not -ffast-math: it would also change how the whole process treats subnormal numbers. Threaded
# jumps are what GCC makes of two bounds in a row, so that a vector takes both ways.
FLAGS = (
    "-std=c11 -O3 -fno-math-errno -fno-trapping-math -fno-thread-jumps -ffp-contract=fast "
    "-shared -fPIC -Wno-unknown-pragmas"
).split()
# Each of these may be more than a compiler knows; it is asked with the first ones it takes.
CHOICES = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-fopenmp",),
    ("-march=native",),
    (),
)


class CannotBuild(Exception):
    """No compiler, or one that fails; the text says which."""


@cache
def library(real: torch.dtype) -> ctypes.CDLL | None:
    """The kernels for float32 or float64, built if need be; None, said once, where they cannot be.

    GATELOOP_KERNELS=off leaves them out. Safe with several processes at once. What is loaded tells
    the allocator to keep freed pages, for else they would cost more than the kernels.
    """
    if os.environ.get("GATELOOP_KERNELS") == "off":
        return None
    try:
        kernels = loaded(REALS[real])
        keep_freed_pages()
        return kernels
    except (CannotBuild, OSError) as error:
        print(
            f"gateloop: no C kernels ({error}); the recurrence runs in PyTorch, which is slower",
            file=sys.stderr,
        )
        return None


def loaded(real: str) -> ctypes.CDLL:
    """The shared library, from the cache or into it; its build's log lies beside it."""
    compiler = find_compiler()
    try:
        folder = cache_folder() / "kernels" / key(compiler, real)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return ctypes.CDLL(str(kept(folder) or build(compiler, real, folder)))
    except (OSError, RuntimeError):  # no place to keep it, or no home: for this process alone
        folder = Path(tempfile.mkdtemp(prefix="gateloop-"))
        kernels = ctypes.CDLL(str(build(compiler, real, folder)))
        shutil.rmtree(folder, ignore_errors=True)
        return kernels


def kept(folder: Path) -> Path | None:
    """A library built earlier that is whole: to load half of one ends the process."""
    return next((path for path in folder.glob("*.so") if path.name == name_of(path)), None)


def name_of(library: Path) -> str:
    return f"{hashlib.sha256(library.read_bytes()).hexdigest()[:24]}.so"


def find_compiler() -> list[str]:
    """$CC with its arguments, else the first of cc, gcc and clang."""
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise CannotBuild(f"$CC is no command: {error}") from None
    for candidate in [given] if given else [["cc"], ["gcc"], ["clang"]]:
        if found := shutil.which(candidate[0]):
            return [found, *candidate[1:]]
    raise CannotBuild(f"{given[0]} of $CC is not there" if given else "no C compiler")


def cache_folder() -> Path:
    chosen = os.environ.get("GATELOOP_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "gateloop"


def key(compiler: list[str], real: str) -> str:
    """A hash of all that the result depends on: a home may be shared by several processors."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout
    texts = [(HERE / name).read_bytes() for name in (*SOURCES, *HEADERS)]
    facts = [*compiler, real, *FLAGS, str(CHOICES), platform.machine(), processor()]
    return hashlib.sha256(b"\0".join([*texts, version, *map(str.encode, facts)])).hexdigest()[:24]


def processor() -> str:
    """What the processor can do, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def build(compiler: list[str], real: str, folder: Path) -> Path:
    """Compile to a name of its own, then give it the name of what it holds."""
    log = folder / "build.log"
    handle, name = tempfile.mkstemp(suffix=".tmp", dir=folder)
    os.close(handle)
    temporary = Path(name)
    sources = [str(HERE / name) for name in SOURCES]
    told = ""
    try:
        for choice in CHOICES:
            command = [*compiler, *FLAGS, *choice, f"-DREAL={real}", "-o", name, *sources, "-lm"]
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", check=False
            )
            told += f"{shlex.join(command)}\n{done.stdout}{done.stderr}exit {done.returncode}\n"
            log.write_text(told, encoding="utf-8")
            if done.returncode == 0:
                return temporary.replace(folder / name_of(temporary))
    finally:
        temporary.unlink(missing_ok=True)
    raise CannotBuild(f"{compiler[0]} fails, see {log}")
