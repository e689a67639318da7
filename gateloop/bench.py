"""Times our modes and models beside the memory's limit and installed peers, and writes a page.

python -m gateloop.bench                          everything, on the CPU
python -m gateloop.bench --what recurrence        one benchmark; again for more
python -m gateloop.bench --from-records           the page and the plot anew, nothing measured
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from gateloop.benchmark import record as records
from gateloop.benchmark.cell import Cell, What, joined, measured, plan, readable_text
from gateloop.benchmark.page import HEAD, median, number, page
from gateloop.benchmark.picture import panels, pictures
from gateloop.benchmark.ratio import ratio
from gateloop.benchmark.record import DEVICES, seconds_by_label
from gateloop.command import Parser, run_command
from gateloop.data.progress import Progress
from gateloop.data.words import cores
from gateloop.errors import CRASHED, FINISHED, InputError, Interrupted
from gateloop.files import check_own_page, clear_disk_errors, write_bytes_atomic

REPEATS, QUICK_REPEATS = 15, 2


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m gateloop.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--what", action="append", choices=[what.value for what in What],
        help="this benchmark; again for more (all)",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to compute (cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads, and cores to run on (all)")
    parser.add_argument("--repeats", type=int, help=f"rounds of a measurement ({REPEATS})")
    parser.add_argument(
        "--processes", type=int, default=1, help="that measure each cell, one after another (1)"
    )
    parser.add_argument("--text", type=Path, help="what to tokenise (a generated text)")
    parser.add_argument("--gpt2", type=Path, help="folder with GPT-2's tokeniser (the cache's)")
    parser.add_argument("--out", type=Path, help="results/bench; with --quick: quick")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that all works")
    parser.add_argument("--from-records", action="store_true", help="measure nothing, only draw")
    options = parser.parse_args(argv)
    if options.out is None:  # what a quick run times is nothing to keep among measurements
        options.out = Path("quick" if options.quick else "results/bench")
    most = cores()
    if options.threads is not None and not 1 <= options.threads <= most:
        raise InputError(f"--threads {options.threads}: must be 1 to {most}, the cores there are")
    if options.repeats is not None and options.repeats < 1:
        raise InputError(f"--repeats {options.repeats}: must be at least 1")
    if options.processes < 1:
        raise InputError(f"--processes {options.processes}: must be at least 1")
    if options.text is not None and (why := readable_text(options.text)):
        raise InputError(f"--text {options.text}: {why}; give a UTF-8 text file")
    if options.gpt2 is not None and not options.gpt2.is_dir():
        raise InputError(f"--gpt2 {options.gpt2}: no such folder")
    if options.from_records and (options.what or options.quick):
        raise InputError("--from-records measures nothing; leave out --what and --quick")
    return options


def check(options: argparse.Namespace) -> None:
    """Raise InputError for what cannot be measured or drawn here."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the plot needs the package matplotlib; pip install matplotlib")
    check_own_page(options.out / "README.md", HEAD)
    found = readable(options.out)  # also before measuring: the page is of all of them
    if options.from_records and not found:
        raise InputError(f"--out {options.out}: no record of a benchmark there; measure first")
    if options.device == "cuda" and not options.from_records:
        import torch

        if not torch.cuda.is_available():
            raise InputError("--device cuda: torch finds no CUDA device; take --device cpu")


def main(argv: list[str]) -> int:
    """Returns 0, or 1 where a cell's process ended ill. Raises InputError."""
    options = parse(argv)
    check(options)
    failures = 0
    if not options.from_records:
        with clear_disk_errors(options.out):  # before minutes of measuring
            options.out.mkdir(parents=True, exist_ok=True)
        try:
            failures = measure(options, ["python", "-m", "gateloop.bench", *argv])
        except KeyboardInterrupt:
            raise Interrupted(
                "interrupted; finished benchmarks are kept, --what measures those that are left"
            ) from None
    write(options.out)
    print(f"written to {options.out}")
    return CRASHED if failures else FINISHED


def measure(options: argparse.Namespace, command: list[str]) -> int:
    """Write a record for each benchmark; how many of their cells failed."""
    threads = options.threads or cores()
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    given = {
        name: str(value.absolute())
        for name, value in (("text", options.text), ("gpt2", options.gpt2))
        if value is not None
    }
    failures = 0
    for what in [What(name) for name in dict.fromkeys(options.what or [w.value for w in What])]:
        device = "cpu" if what is What.tokenize else options.device
        cells = plan(what, device, threads, repeats, options.quick, given)
        found: list[list[dict[str, Any]]] = [[] for _ in cells]
        with Progress(f"measuring {what.value}", len(cells) * options.processes) as progress:
            # all cells once, then all again: a slow minute is not all of a cell's
            for _ in range(options.processes):
                for cell, so_far in zip(cells, found, strict=True):
                    so_far.append(measured(cell))
                    progress.advance(1)
                    for line in summary(cell, so_far[-1]):
                        print(line, flush=True)
        outcomes = [joined(each) for each in found]
        failures += sum("failed" in outcome for outcome in outcomes)
        done = records.make(
            what, device, outcomes, command, threads=threads, repeats=repeats,
            processes=options.processes, quick=options.quick,
        )  # fmt: skip
        records.write(options.out, done)
    return failures


def summary(cell: Cell, outcome: dict[str, Any]) -> list[str]:
    """What was found, a line for each contestant of each part."""
    title = f"{cell.what.value}, {cell.title}, {cell.device}"
    if "failed" in outcome:
        return [f"{title}: {outcome['failed']}"]
    lines = []
    for part in outcome["parts"]:
        lines.append(f"{title}, allocator {cell.allocator}: {part['title']}")
        seconds = seconds_by_label(part)
        for entry in part["entries"]:
            line = f"  {entry['label']}: "
            times = seconds.get(entry["label"])
            if times is None:
                lines.append(line + entry["state"])
                continue
            line += f"{median(times)} ms"
            for name in ("reference", "limit"):
                against = seconds.get(part.get(name, ""))
                found = ratio(times, against) if against else None
                if found is not None and part[name] != entry["label"]:
                    line += f", {number(found)} × {part[name]}"
            lines.append(line)
    return lines


def readable(out: Path) -> dict[tuple[What, str], records.Record]:
    """The records in ``out``. Raises InputError for one of which no page can be made."""
    found = records.load(out)
    for (what, device), record in found.items():
        alone = {(what, device): record}
        try:
            page(alone, [])
            panels(alone)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise records.damaged(records.path(out, what, device), error) from error
    return found


def write(out: Path) -> None:
    """The page and the plot from all records in ``out``."""
    found = readable(out)
    drawn = pictures(found, out)
    shown = [name for name in drawn if name.endswith(".png")]
    with clear_disk_errors(out):
        for name, content in {"README.md": page(found, shown).encode(), **drawn}.items():
            write_bytes_atomic(out / name, content)


if __name__ == "__main__":
    run_command(main)
