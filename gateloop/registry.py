"""The models by name: those of this package, and those that other installed packages declare.

Another package joins by an entry point (docs/add-a-model.md):

    [project.entry-points."gateloop.models"]
    mymodel = "my_package:ENTRY"

where ENTRY is a ModelEntry. The name is read off the installed packages' metadata; only asking
for ``mymodel`` imports ``my_package``. Nothing here imports torch.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from operator import attrgetter
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from gateloop.baseline_config import (
    GLAConfig,
    GPT2Config,
    GRUConfig,
    HGRN2Config,
    LinearAttentionConfig,
    LRUConfig,
    LSTMConfig,
    MinGRUConfig,
    RetNetConfig,
    RGLRUConfig,
    S4Config,
    S4DConfig,
    S5Config,
    TransformerConfig,
)
from gateloop.errors import InputError
from gateloop.keys import node_keys
from gateloop.model_config import GateLoopConfig, ModelConfig
from gateloop.names import ModeName

GROUP = "gateloop.models"

RECURRENCE_MODES = (ModeName.recurrent, ModeName.scan, ModeName.chunkwise, ModeName.attention)
FIXED_MODES = (*RECURRENCE_MODES, ModeName.convolution)


@dataclass(frozen=True)
class ModelEntry:
    """A model by name: its schema, and where its time mixer is ("module:Class"), unimported.

    ``modes``: the execution modes it admits; ``resets``: whether its state can be set to zero
    within a sequence; ``transition_lr_factor``: how much slower than the rest its paper trains
    what makes the transitions.
    """

    config: type[ModelConfig]
    mixer: str
    modes: tuple[ModeName, ...] = RECURRENCE_MODES
    resets: bool = True
    transition_lr_factor: float = 1.0


_RECURRENT = (ModeName.recurrent,)
_ATTENTION = (ModeName.attention,)
_DENSE = (ModeName.recurrent, ModeName.convolution)

MODELS: dict[str, ModelEntry] = {
    "gateloop": ModelEntry(GateLoopConfig, "gateloop.models.gateloop:GateLoop", RECURRENCE_MODES),
    "s4": ModelEntry(S4Config, "gateloop.models.s4:S4", _DENSE),
    "s4d": ModelEntry(S4DConfig, "gateloop.models.s4d:S4D", FIXED_MODES),
    # In the published runs the rest learns 2 to 5 times as fast; 4 is the median of the eight and
    # what the one causal task has (lindermanlab/S5, bin/run_experiments: lr_factor).
    "s5": ModelEntry(S5Config, "gateloop.models.s5:S5", FIXED_MODES, transition_lr_factor=0.25),
    "lru": ModelEntry(LRUConfig, "gateloop.models.lru:LRU", FIXED_MODES, transition_lr_factor=0.5),
    "retnet": ModelEntry(RetNetConfig, "gateloop.models.retnet:Retention", RECURRENCE_MODES),
    "linear_attention": ModelEntry(
        LinearAttentionConfig, "gateloop.models.linear_attention:LinearAttention", RECURRENCE_MODES
    ),
    "gla": ModelEntry(GLAConfig, "gateloop.models.gla:GLA", RECURRENCE_MODES),
    "hgrn2": ModelEntry(HGRN2Config, "gateloop.models.hgrn2:HGRN2", RECURRENCE_MODES),
    "rglru": ModelEntry(RGLRUConfig, "gateloop.models.rglru:RGLRU", RECURRENCE_MODES),
    "mingru": ModelEntry(MinGRUConfig, "gateloop.models.mingru:MinGRU", RECURRENCE_MODES),
    "transformer": ModelEntry(
        TransformerConfig, "gateloop.models.transformer:Attention", _ATTENTION
    ),
    "gpt2": ModelEntry(GPT2Config, "gateloop.models.transformer:Attention", _ATTENTION),
    "lstm": ModelEntry(LSTMConfig, "gateloop.models.rnn:LSTM", _RECURRENT, resets=False),
    "gru": ModelEntry(GRUConfig, "gateloop.models.rnn:GRU", _RECURRENT, resets=False),
}


def model_names() -> list[str]:
    """Every name that ``model=`` takes: this package's, then others'. Imports no package."""
    return [*MODELS, *sorted(declared().keys() - MODELS.keys())]


def model_entry(name: str) -> ModelEntry:
    """The model called ``name``. Where another package declares it, that package is imported.

    Raises InputError where nobody declares it or two do, and where what is declared cannot be
    imported or is no model.
    """
    found = declared().get(name, [])
    if name in MODELS:
        if found:
            raise fault(name, "has the name of one of gateloop's own models; rename it")
        return MODELS[name]
    if not found:
        raise InputError(
            f"model={name}: no such model, and no installed package declares it; install the "
            f"package that does, or choose one of {', '.join(model_names())}"
        )
    if len(found) > 1:
        raise fault(name, f"has the same name as {found[1]}; rename one")
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise fault(name, "has a name that no run can have; take letters, digits and underscores")
    return _checked(name, imported(name, found[0].value))


def imported(model: str, where: str) -> Any:
    """What ``where`` ("module:Name"), named by ``model``'s entry, holds.

    Raises InputError where that is another package's and cannot be imported.
    """
    module, _, name = where.partition(":")
    try:
        return attrgetter(name)(import_module(module))
    except (Exception, SystemExit) as error:  # another package's module may raise anything
        if model in MODELS:
            raise
        raise fault(
            model,
            f"cannot import {where} ({_first_line(error)}); repair the package "
            f'(python -c "import {module}" shows more)',
        ) from error


def fault(model: str, what: str) -> InputError:
    """That another package's ``model`` has a fault: ``what`` it is, and what to do about it."""
    declaration = declared()[model][0]
    return InputError(f"model={model}: {declaration} {what}, or {declaration.removal}")


def package_of(model: str) -> str | None:
    """The package that declares ``model``, with its version; None for a model of this package."""
    found = declared().get(model)
    return f"{found[0].package} {found[0].version}" if found and model not in MODELS else None


def _checked(name: str, entry: Any) -> ModelEntry:
    if not isinstance(entry, ModelEntry):
        kind = type(entry).__name__
        raise fault(name, f"is of type {kind}; make it a gateloop.registry.ModelEntry")
    schema = entry.config
    title = f"names the config {getattr(schema, '__name__', schema)}, which"
    if not (isinstance(schema, type) and issubclass(schema, ModelConfig)):
        raise fault(name, f"{title} is not derived from ModelConfig; derive it")
    if "__dataclass_fields__" not in vars(schema):  # it would have its base's keys and no others
        raise fault(name, f"{title} is no dataclass; write @dataclass above it")
    try:
        for key in node_keys(schema, "model").values():
            _ = key.expected
        OmegaConf.structured(schema(name=name))
    except Exception as error:
        raise fault(
            name,
            f"{title} has a key that cannot be set ({_first_line(error)}); give each a default "
            "and the type int, float, bool, str, an Enum, or a list or Optional of one",
        ) from error
    if not (isinstance(entry.mixer, str) and ":" in entry.mixer):
        raise fault(name, f'has mixer={entry.mixer!r}; write it as a text, "module:Class"')
    modes = entry.modes
    if not (isinstance(modes, tuple) and modes and set(modes) <= set(FIXED_MODES)):
        known = ", ".join(mode.name for mode in FIXED_MODES)
        raise fault(name, f"has modes={modes!r}; make it a tuple of ModeName ({known})")
    return entry


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n")[0]


# -- other packages ----------------------------------------------------------------------


class Declaration(NamedTuple):
    """An entry point of another package: ``value`` is "module:ENTRY"."""

    name: str
    value: str
    package: str
    version: str

    @property
    def removal(self) -> str:
        return f"pip uninstall {self.package}"

    def __str__(self) -> str:
        return f"the entry point {self.name} = {self.value} of the package {self.package}"


def declared() -> dict[str, list[Declaration]]:
    """The models that installed packages declare, by name. Imports none of them."""
    return _declared_on(tuple(sys.path))


@cache
def _declared_on(path: tuple[str, ...]) -> dict[str, list[Declaration]]:
    found: dict[str, list[Declaration]] = {}
    seen = set()
    for package in metadata.distributions(path=list(path)):
        try:
            if GROUP not in (package.read_text("entry_points.txt") or ""):
                continue  # nearly all, and of these nothing else is read
            points = package.entry_points.select(group=GROUP)
            kind = re.sub(r"[-_.]+", "-", package.name).lower()
        except Exception:  # damaged metadata: nothing installs such a package, somebody edited it
            continue
        if kind in seen:
            continue  # once more further down the path, where no import finds it
        seen.add(kind)
        for point in points:
            value = point.value.partition("[")[0].strip()
            declaration = Declaration(point.name, value, package.name, package.version)
            found.setdefault(point.name, []).append(declaration)
    return found
