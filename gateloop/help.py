"""What ``--help`` and ``--cfg`` print."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from gateloop.compose import GROUPS, NAMED_BY_GROUP, choices, compose, default_choices
from gateloop.config import DATA, Config, DataConfig
from gateloop.errors import InputError
from gateloop.keys import Key, config_yaml, keys, node_keys, shown
from gateloop.model_config import ModelConfig
from gateloop.registry import MODELS, declared, model_entry

_HEAD = """\
usage: python -m gateloop.run [GROUP=CHOICE | KEY=VALUE]…
       python -m gateloop.run [GROUP=CHOICE | KEY=VALUE]… --cfg
       python -m gateloop.run [model=NAME] --help

Trains and tests one model on one data source, and keeps the record in runs/<id>/. The same
command again resumes an unfinished run and skips a finished one. Without arguments: GateLoop on
Memory Horizon, minutes on a CPU.

  --cfg   print the whole config that the arguments give, and stop
  --help  print this, and stop; model=NAME adds the keys of a model of another package

A list is written [1, 2], nothing is written null, a text with spaces or signs '"in quotes"'.
Exit codes: 0 finished, 1 crashed, 2 wrong input, 75 interrupted (the same command goes on).
"""


def information(argv: list[str]) -> str | None:
    """The text that the command line asks for in place of a run, or None.

    Raises InputError where ``--cfg`` stands beside overrides that do not compose.
    """
    if "--help" in argv or "-h" in argv:
        return help_text(_models(argv))
    if "--cfg" not in argv:
        return None
    rest = [argument for argument in argv if argument != "--cfg"]
    if "job" in rest:
        raise InputError("job: --cfg takes no word after it; write --cfg alone")
    return config_yaml(compose(rest)).rstrip()


def _models(argv: list[str]) -> list[str]:
    """The models of other packages that the command line names."""
    named = [argument.partition("=")[2] for argument in argv if argument.startswith("model=")]
    return [name for name in dict.fromkeys(named) if name in declared()]


def help_text(others: Sequence[str] = ()) -> str:
    """Usage, the groups with their choices, and every key with default, range and meaning.

    Models of other packages are listed by name; ``others`` are those whose keys are shown too.
    Raises InputError where one of them is none.
    """
    defaults = default_choices()
    lines = [_HEAD, "Groups (* is the default)"]
    for group in GROUPS:
        names = [f"{name}*" if name == defaults[group] else name for name in choices(group)]
        first, next_ = f"  {group:<10} ", " " * 13
        lines.append(
            textwrap.fill("  ".join(names), 98, initial_indent=first, subsequent_indent=next_)
        )
    lines += [
        "",
        "Keys: the schema's default, what is allowed, the meaning. Groups set some keys to other",
        "values (--cfg prints them); a key on the command line overrules every group.",
    ]
    for title, section in sections(others).items():
        lines += ["", title]
        for key in section:
            lines.append(f"  {key.name} = {shown(key.default)}")
            about = f"{key.expected}. {key.doc}"
            lines.append(
                textwrap.fill(about, 98, initial_indent=" " * 6, subsequent_indent=" " * 6)
            )
    return "\n".join(lines)


def sections(others: Sequence[str] = ()) -> dict[str, list[Key]]:
    """Every key of every schema under a title; what a model or source adds stands under its own.

    ``others``: models of other packages whose keys are wanted besides. The names that come with a
    group's choice (``model.name``, …) are left out.
    """
    general = list(keys(Config()).values())
    parts = {"the run": [key for key in general if "." not in key.name]}
    entries = {**MODELS, **{name: model_entry(name) for name in others}}
    registries: list[tuple[str, type, dict[str, type]]] = [
        ("model", ModelConfig, {name: entry.config for name, entry in entries.items()}),
        ("data", DataConfig, dict(DATA)),
    ]
    for node, base, registry in registries:
        common = node_keys(base, node)
        parts[f"every {node}"] = list(common.values())
        for schema in dict.fromkeys(registry.values()):
            names = [f"{node}={name}" for name, other in registry.items() if other is schema]
            own = node_keys(schema, node)
            parts[", ".join(names)] = [key for key in own.values() if common.get(key.name) != key]
    for node in ("trainer", "optimizer", "tracker"):
        parts[node] = [key for key in general if key.name.startswith(f"{node}.")]
    named = {f"{group}.name" for group in NAMED_BY_GROUP}
    return {title: [key for key in part if key.name not in named] for title, part in parts.items()}
