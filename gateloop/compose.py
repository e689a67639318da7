"""From a command line to a validated config.

Hydra reads the arguments and puts the groups of ``conf/`` together; the values then go through
the typed schemas, so that every mistake is one line. Neither torch nor Lightning is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gateloop.config import Config
from gateloop.draft import Draft, choose, did_you_mean, leaves, nearest_key, shorten
from gateloop.errors import InputError
from gateloop.files import packed
from gateloop.keys import Key
from gateloop.registry import declared, model_entry, model_names
from gateloop.validation import check, check_packages

GROUPS = ("model", "size", "data", "mode", "trainer", "optimizer", "tracker")
# a group's choice says these, and with them which schema the other keys have
NAMED_BY_GROUP = ("model", "data", "mode", "optimizer", "tracker")

_PREFIXES = {"+": "a key cannot be added", "~": "a key cannot be removed"}


@dataclass(frozen=True)
class Override:
    """One argument ``key=value``: its value as Hydra reads it, and as it was written."""

    key: str
    value: Any
    text: str


def compose(argv: list[str]) -> Config:
    """The config that the arguments ask for, complete and checked.

    Raises InputError with one line for the first mistake found.
    """
    overrides = [parse(argument) for argument in argv]
    _refuse_duplicates(overrides)
    groups = {o.key: _choice(o) for o in overrides if o.key in GROUPS}
    settings = [o for o in overrides if o.key not in GROUPS]

    draft = _chosen(groups)
    given = {o.key for o in settings}
    if "data.batch_tokens" in given and "data.batch_size" not in given:
        draft.set("data.batch_size", None)  # the group's batch gives way to the user's
    for override in settings:
        _set(draft, override)

    config = draft.config()
    check(config)
    check_packages(config)
    return config


# What the command that starts runs decides for all of them: it looks for a run where it put it,
# and takes one that ended for one that was run.
_OF_THE_COMMAND = {
    "runs_dir": "give --runs-dir to the command",
    "dry_run": "give --dry-run to the command",
    "rerun": "delete a run's folder to do it again",
}


def compose_started(argv: list[str]) -> Config:
    """The config of a run that another command starts, which says itself where and whether it runs.

    Raises InputError where an argument says so too, and as ``compose`` does.
    """
    for argument in argv:
        key, _, text = argument.partition("=")
        if key in _OF_THE_COMMAND:
            raise InputError(
                f"{key}={shorten(text)}: not for a run that a command starts; leave it out, or "
                f"{_OF_THE_COMMAND[key]}"
            )
    return compose(argv)


# -- groups ------------------------------------------------------------------------------


def choices(group: str) -> list[str]:
    """The names that ``group=`` takes; models of other packages, which have no file, come last."""
    files = _files(group)
    return files + [name for name in model_names() if group == "model" and name not in files]


def _files(group: str) -> list[str]:
    return sorted(file.stem for file in (packed("conf") / group).glob("*.yaml"))


def default_choices() -> dict[str, str]:
    """The choice of each group that an empty command line has."""
    return dict(_default_choices(packed("conf")))


@cache
def _default_choices(conf: Path) -> dict[str, str]:
    listed = OmegaConf.load(conf / "config.yaml").defaults
    return {
        group: choice for entry in listed if entry != "_self_" for group, choice in entry.items()
    }


def _chosen(groups: dict[str, str]) -> Draft:
    """The draft that the groups make: their files go through the schemas as arguments do."""
    found = dict(_cached_group_values(packed("conf"), tuple(groups.items())))
    choice = {**default_choices(), **groups}
    model = found.pop("model.name", choice["model"])
    data = found.pop("data.name", choice["data"])
    if model in declared():
        model_entry(model)  # another package's mistake is none of conf's
    try:
        draft = Draft(str(model), str(data))
        for name, value in found.items():
            draft.set(name, value)
    except InputError as error:
        raise InputError(f"{packed('conf')}: {error}") from error
    return draft


@cache
def _cached_group_values(conf: Path, groups: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """An experiment composes hundreds of runs of a few choices."""
    return group_values(dict(groups))


def group_values(groups: dict[str, str]) -> dict[str, Any]:
    """What the chosen groups set, by dotted key; groups that are not chosen have their default.

    A choice without a file, another package's model, sets nothing.
    """
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(packed("conf"))):
            overrides = [
                f"{group}={choice}" if choice in _files(group) else f"~{group}"
                for group, choice in groups.items()
            ]
            composed = hydra_compose("config", overrides=overrides)
            tree = OmegaConf.to_container(composed, resolve=False)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise InputError(f"{packed('conf')}: cannot be composed: {_first_line(error)}") from error
    assert isinstance(tree, dict)
    return leaves(tree)


def _choice(override: Override) -> str:
    group, known = override.key, choices(override.key)
    if isinstance(override.value, list):
        raise InputError(
            f"{group}={shorten(override.text)}: a list of choices is refused; give one of "
            f"{', '.join(known)}, and start one command for each"
        )
    if override.text not in known and override.value not in known:
        raise InputError(
            f"{group}={shorten(override.text)}: no such {group}; {choose(override.text, known)}"
        )
    return override.text if override.text in known else str(override.value)


# -- arguments ---------------------------------------------------------------------------


def parse(argument: str) -> Override:
    """Read one argument with Hydra's own grammar.

    Raises InputError for everything that is not a plain ``key=value``.
    """
    key, equals, text = argument.partition("=")
    shown = shorten(argument)
    if not argument.strip():
        raise InputError("an empty argument; give group=choice or key=value, or nothing")
    if key in ("--multirun", "-m"):
        raise InputError(f"{shown}: multirun is refused; start one command for each run")
    if key.startswith("-"):
        raise InputError(f"{shown}: no such flag; there are --help and --cfg")
    if key[:1] in _PREFIXES:
        raise InputError(
            f"{shown}: {_PREFIXES[key[0]]} ({key[: len(key) - len(key.lstrip('+~'))]} is refused); "
            f"write {key.lstrip('+~') or 'key'}={text or 'value'}, or null to unset it"
        )
    if not equals:
        groups = [f"{group}={key}" for group in GROUPS if key in choices(group)]
        raise InputError(f"{shown}: not of the form key=value{did_you_mean(groups)}")
    if key.split(".")[0].split("/")[0] == "hydra":
        raise InputError(f"{shown}: hydra's own settings are refused; leave it out")
    if "/" in key or "@" in key:
        raise InputError(
            f"{shown}: groups have no paths or packages; the groups are {', '.join(GROUPS)}"
        )
    if not all(part.isidentifier() for part in key.split(".")):
        raise InputError(f"{shown}: {key!r} is no key; a key is names joined by dots, no spaces")
    if "${" in text:
        raise InputError(f"{shown}: references are refused; write the value itself")
    return Override(key, _value(argument, key, text), text)


def quoted(key: str, text: str) -> str:
    """The argument that sets ``key`` to ``text``, whatever Hydra's grammar makes of its letters."""
    inside = re.sub(r'(\\*)("|\Z)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), text)
    return f'{key}="{inside}"'


@cache
def _value(argument: str, key: str, text: str) -> Any:
    """What Hydra's grammar reads in the argument; not to be changed."""
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except (HydraException, ValueError) as error:
        home = " (and $HOME for ~)" if text.startswith("~") else ""
        raise InputError(
            f"{shorten(argument)}: the value cannot be read; put quotes round it{home}: "
            f"{key}='\"…\"'"
        ) from error
    if parsed.type is not OverrideType.CHANGE or parsed.is_sweep_override():
        raise InputError(
            f"{shorten(argument)}: a sweep is refused; give one value (a list is [1, 2]) and "
            "start one command for each"
        )
    value = parsed.value()
    if isinstance(value, dict):
        raise InputError(
            f"{shorten(argument)}: a mapping is refused; set its keys one by one, {key}.…=value"
        )
    return value


def _refuse_duplicates(overrides: list[Override]) -> None:
    seen: dict[str, Override] = {}
    for override in overrides:
        if override.key in seen:
            first = shorten(seen[override.key].text, 30)
            raise InputError(
                f"{override.key} is given twice ({first} and {shorten(override.text, 30)}); "
                "keep one"
            )
        seen[override.key] = override


def _set(draft: Draft, override: Override) -> None:
    group, dot, last = override.key.rpartition(".")
    if last == "name" and group in NAMED_BY_GROUP:
        raise InputError(
            f"{override.key}={shorten(override.text)}: the name comes with the group; "
            f"write {group}={shorten(override.text)}"
        )
    if not dot and override.key not in draft.keys:
        near = get_close_matches(override.key, GROUPS, n=1) or _prefix_group(override.key)
        near = near or nearest_key(override.key, draft.settable())
        raise InputError(
            f"{override.key}={shorten(override.text)}: no such key or group"
            f"{did_you_mean(near)}; --help lists all"
        )
    value = override.value
    if _takes_text(draft.keys.get(override.key)) and not _is_text_or_null(value):
        value = override.text  # runs_dir=1e5 is a folder of that name, not 100000.0
    draft.set(override.key, value, override.text)


def _prefix_group(name: str) -> list[str]:
    """The group that ``name`` spells out longer: dataset for data."""
    return [group for group in GROUPS if name.startswith(group)]


def _takes_text(key: Key | None) -> bool:
    return key is not None and key.kind is str and not key.many


def _is_text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, (str, QuotedString))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
