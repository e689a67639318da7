"""The state transitions that a trained GateLoop has learned, as pictures, arrays and numbers.

python -m gateloop.inspect runs/<id> --text "…"     a run on text
python -m gateloop.inspect runs/<id> --sample 0     a run on Memory Horizon
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from gateloop.command import Parser, run_command
from gateloop.config import Config, MemoryHorizonConfig, TextConfig
from gateloop.errors import FINISHED, InputError
from gateloop.files import clear_disk_errors, write_bytes_atomic
from gateloop.generate import is_text
from gateloop.names import Task

if TYPE_CHECKING:
    from gateloop.data import Evaluation
    from gateloop.inspection.channels import Channel
    from gateloop.inspection.interventions import Effect
    from gateloop.inspection.subject import Subject
    from gateloop.inspection.transitions import Layer

ROWS = 24  # channels in the printed table, over all layers
PICTURES = ("transitions", "by_token", "memory", "attention")
FILES = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
FILES += ["arrays.npz", "channels.md", "interventions.json", "interventions.md"]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m gateloop.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the run's folder, runs/<id>")
    parser.add_argument("--text", help="text to look at; of a run on text")
    parser.add_argument("--sample", type=int, help="test sample to look at; of Memory Horizon (0)")
    parser.add_argument("--out", type=Path, help="folder to write into (<run>/inspection)")
    parser.add_argument(
        "--sequences",
        type=int,
        default=256,
        help="test sequences for the interventions; 0: none (256)",
    )
    options = parser.parse_args(argv)
    if options.sequences < 0:
        raise InputError(f"--sequences {options.sequences}: must be 0 or more")
    if options.text is not None and not is_text(options.text):
        raise InputError(f"--text {options.text!r}: must be UTF-8, and not empty")
    return options


def check(options: argparse.Namespace) -> Config:
    """The run's config. Raises InputError for what cannot be inspected, without torch."""
    from gateloop.training.record import load_config

    config = load_config(options.run)
    if config.model.name != "gateloop":
        raise InputError(
            f"{options.run} holds model={config.model.name}; only a run of model=gateloop can be "
            "inspected"
        )
    if isinstance(config.data, MemoryHorizonConfig):
        if options.text is not None:
            raise InputError(
                f"--text: {options.run} was trained on memory_horizon, which is no text; give "
                "--sample"
            )
        samples, index = config.data.test_samples, options.sample or 0
        if not 0 <= index < samples:
            raise InputError(f"--sample {index}: the run's test has samples 0 to {samples - 1}")
    elif options.sample is not None:
        raise InputError(f"--sample: {options.run} was trained on text; give --text")
    elif options.text is None:
        raise InputError(f"{options.run} was trained on text; give some with --text")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the pictures need matplotlib; pip install matplotlib")
    return config


def open_tests(options: argparse.Namespace, config: Config) -> list[Evaluation]:
    """The tests of the run's own data. Raises InputError where they are not those any more."""
    from gateloop.data import fingerprint, open_source
    from gateloop.training.record import RunFolder

    run = options.run.resolve()
    made_from = RunFolder(run.parent, run.name).manifest().get("identity", {}).get("fingerprint")
    try:
        if made_from is not None and fingerprint(config.data) != made_from:
            assert isinstance(config.data, TextConfig)
            raise InputError(
                f"{config.data.path or config.data.name} is no longer the text that {options.run} "
                "was trained on; put that back"
            )
        return open_source(config.data).evaluations("test")
    except InputError as error:
        raise InputError(f"{error}; or give --sequences 0 for the pictures alone") from error


def describe(layers: list[Layer], subject: Subject) -> list[Channel]:
    """The channels of each layer that remember longest, ROWS in all."""
    from gateloop.inspection.channels import channel, longest

    each = max(2, ROWS // len(layers))
    return [
        channel(number, layer, index, subject)
        for number, layer in enumerate(layers)
        for index in longest(layer, subject.counted_BL, each)
    ]


def files(
    run: str,
    layers: list[Layer],
    subject: Subject,
    channels: list[Channel],
    found: list[Effect],
) -> dict[str, bytes]:
    """Everything that is written, by file name."""
    from gateloop.inspection import pictures, report

    resets_L = ~subject.counted_BL[0]
    content = {
        **pictures.over_time(layers, subject.counted_BL, subject.labels, resets_L),
        **pictures.memories(layers, subject.counted_BL),
        **pictures.attention(layers, subject.counted_BL, resets_L),
        "arrays.npz": report.arrays(layers, subject.tokens_BL[0], resets_L),
        "channels.md": report.channel_table(channels, subject.modulus).encode(),
    }
    if subject.modulus is not None:
        content |= pictures.by_token(layers, subject)
    if found:
        content["interventions.json"] = report.effects_json(run, found)
        content["interventions.md"] = report.effects_page(run, found).encode()
    return content


def write(out: Path, content: dict[str, bytes]) -> None:
    """Each file whole; those of an earlier inspection that this one has not are removed."""
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, part in content.items():
            write_bytes_atomic(out / name, part)
        for name in FILES:
            if name not in content:
                (out / name).unlink(missing_ok=True)


def main(argv: list[str]) -> int:
    options = parse(argv)
    config = check(options)
    from gateloop.inspection import subject as subjects
    from gateloop.inspection.interventions import effects
    from gateloop.inspection.report import channel_table, effects_table, scope
    from gateloop.inspection.transitions import observe
    from gateloop.loading import load

    model, tokenizer, _ = load(options.run)
    tests = open_tests(options, config) if tokenizer is None or options.sequences else []
    if tokenizer is None:
        subject = subjects.sample(tests[0], options.sample or 0)
    else:
        assert isinstance(config.data, TextConfig)
        subject = subjects.text(tokenizer, options.text, config.data.line_end)
    layers = observe(model, subject.tokens_BL)
    channels = describe(layers, subject)
    found: list[Effect] = []
    if options.sequences:
        modulus = subject.modulus if counts(config) else None
        found = effects(
            model,
            tests,
            options.sequences,
            mode=config.mode.name,
            reset=subject.reset,
            modulus=modulus,
        )
    run = options.run.resolve().name
    out = options.out or options.run / "inspection"
    write(out, files(run, layers, subject, channels, found))
    print(f"{run}: the channels of each layer that remember longest\n")
    print(channel_table(channels, subject.modulus))
    if found:
        print(f"interventions; {scope(found)}\n")
        print(effects_table(found))
    print(f"written to {out}")
    return FINISHED


def counts(config: Config) -> bool:
    """Whether the run's task is a sum modulo M."""
    if not isinstance(config.data, MemoryHorizonConfig):
        return False
    return config.data.task in (Task.modsum, Task.modsum_noreset)


if __name__ == "__main__":
    run_command(main)
