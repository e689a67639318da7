"""One parameter of a sweep: what a file says of it, and the values it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from gateloop.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Distribution(Enum):
    """W&B's names. Those that ``Axis.local`` refuses are the server's alone."""

    constant = "constant"
    categorical = "categorical"
    categorical_w_probabilities = "categorical_w_probabilities"
    int_uniform = "int_uniform"
    uniform = "uniform"
    q_uniform = "q_uniform"
    log_uniform = "log_uniform"
    log_uniform_values = "log_uniform_values"
    q_log_uniform_values = "q_log_uniform_values"
    inv_log_uniform_values = "inv_log_uniform_values"
    normal = "normal"
    q_normal = "q_normal"
    log_normal = "log_normal"
    q_log_normal = "q_log_normal"


_CHOICES = {Distribution.categorical, Distribution.categorical_w_probabilities}
_BELLS = {
    Distribution.normal,
    Distribution.q_normal,
    Distribution.log_normal,
    Distribution.q_log_normal,
}
_LOGARITHMIC = {
    Distribution.log_uniform_values,
    Distribution.q_log_uniform_values,
    Distribution.inv_log_uniform_values,
}
_LOCAL = {
    Distribution.constant,
    Distribution.categorical,
    Distribution.int_uniform,
    Distribution.uniform,
    Distribution.q_uniform,
    Distribution.log_uniform,
    Distribution.log_uniform_values,
}
LARGEST_EXPONENT = 700  # e^709 is the last that is a number, e^-708 that is a precise one


@dataclass
class Parameter:
    """A parameter as the file has it: ``value``, or ``values``, or ``min`` and ``max``, or
    ``mu`` and ``sigma``."""

    value: Any = None
    values: list[Any] | None = None
    min: Any = None
    max: Any = None
    q: Any = None
    mu: Any = None
    sigma: Any = None
    distribution: Distribution | None = None
    probabilities: list[float] | None = None


@dataclass(frozen=True)
class Axis:
    """A parameter that holds together. ``low``, ``high``: its ends, or the middle of a bell."""

    key: str
    kind: Distribution
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None

    @property
    def fixed(self) -> bool:
        return len(self.choices) == 1

    @property
    def corners(self) -> list[Any]:
        """Every choice, or both ends: what must compose as a run."""
        return list(self.choices or dict.fromkeys((self.low, self.high)))

    def grid(self) -> Sequence[Any]:
        """Every value. Raises InputError where there are too many to go through."""
        if self.choices:
            return list(self.choices)
        if self.kind is Distribution.int_uniform:
            return range(int(self.low), int(self.high) + 1)
        raise InputError(
            f"parameters.{self.key}: method grid goes through values, and between two numbers "
            "there is no end of them; give values, or whole numbers as min and max"
        )

    def argument(self, value: Any) -> str:
        """As a W&B agent writes it on a run's command line."""
        return f"{self.key}={value}"

    def local(self) -> BaseDistribution:
        """The same for Optuna; choices are texts. Raises InputError where Optuna has none."""
        from optuna import distributions as known

        if self.kind not in _LOCAL:
            raise InputError(
                f"parameters.{self.key}.distribution: --local has no {self.kind.name}; take one "
                f"of {', '.join(sorted(kind.name for kind in _LOCAL))}, or run it on the server"
            )
        if self.choices:
            return known.CategoricalDistribution([str(choice) for choice in self.choices])
        ends = self.low, self.high, 1 if self.step is None else self.step
        if all(isinstance(end, int) for end in ends):
            return known.IntDistribution(int(self.low), int(self.high), step=int(ends[2]))
        logarithmic = self.kind in (Distribution.log_uniform, Distribution.log_uniform_values)
        return known.FloatDistribution(self.low, self.high, log=logarithmic, step=self.step)


def as_axis(key: str, given: Parameter) -> Axis:
    """The parameter ``key``. Raises InputError for what W&B's schema does not admit."""
    place = f"parameters.{key}"
    forms = {
        "value": given.value is not None,
        "values": given.values is not None,
        "min and max": given.min is not None or given.max is not None,
        "mu and sigma": given.mu is not None or given.sigma is not None,
    }
    there = [name for name, is_there in forms.items() if is_there]
    if len(there) != 1:
        found = f"has {' beside '.join(there)}" if there else "has no value"
        raise InputError(f"{place}: {found}; give one of {', '.join(forms)}")
    kind = given.distribution
    if there[0] in ("value", "values"):
        return _choices(place, key, given, kind)
    if there[0] == "mu and sigma":
        low = high = _number(place, "mu", given.mu)
        _number(place, "sigma", given.sigma)
        _needs(place, kind, _BELLS)
    else:
        low, high = _number(place, "min", given.min), _number(place, "max", given.max)
        kind = kind or _kind_of(place, low, high)
        _needs(place, kind, set(Distribution) - _BELLS - _CHOICES - {Distribution.constant})
        if low >= high:
            raise InputError(f"{place}: min {low:g} is not below max {high:g}; swap or change them")
        if kind in _LOGARITHMIC and low <= 0:
            raise InputError(f"{place}.min: {low:g}; a logarithmic distribution needs one above 0")
        if kind is Distribution.int_uniform and not (low % 1 == high % 1 == 0):
            raise InputError(f"{place}: int_uniform needs whole numbers; take uniform")
        if kind is Distribution.log_uniform:
            low, high = _exponential(place, low), _exponential(place, high)
        if kind is Distribution.int_uniform:
            low, high = int(low), int(high)
        elif not kind.name.startswith("q_"):
            low, high = float(low), float(high)  # as every value between them
    assert kind is not None
    step = _number(place, "q", given.q) if kind.name.startswith("q_") else None
    if step is not None and step <= 0:
        raise InputError(f"{place}.q: {step:g}; the distance of two values must be above 0")
    return Axis(key, kind, low=low, high=high, step=step)


def _choices(place: str, key: str, given: Parameter, kind: Distribution | None) -> Axis:
    single = given.values is None
    _needs(place, kind, {None, Distribution.constant} if single else {None, *_CHOICES})
    choices = [given.value] if given.values is None else given.values
    if not choices:
        raise InputError(f"{place}.values: empty; give values to try")
    for choice in choices:
        if choice is None or isinstance(choice, dict):
            raise InputError(
                f"{place}: {'null' if choice is None else 'a mapping'} cannot be handed to a run "
                "by an agent; give values, and for a key's default leave the key out"
            )
    twice = [choice for i, choice in enumerate(choices) if choice in choices[:i]]
    if twice:
        raise InputError(f"{place}.values: {twice[0]!r} is there twice; remove one")
    if given.probabilities is not None:
        if len(given.probabilities) != len(choices):
            raise InputError(f"{place}.probabilities: give one for each of {len(choices)} values")
        kind = Distribution.categorical_w_probabilities
    plain = Distribution.constant if single else Distribution.categorical
    return Axis(key, kind or plain, tuple(choices))


def _exponential(place: str, end: float) -> float:
    """Of an end of W&B's log_uniform, which is the natural logarithm of a value."""
    if abs(end) > LARGEST_EXPONENT:
        raise InputError(
            f"{place}: log_uniform takes the logarithms of min and max, and e^{end:g} is too "
            "large or too small for a number; take log_uniform_values, whose min and max are the "
            "values themselves"
        )
    return math.exp(end)


def _needs(place: str, kind: Distribution | None, known: set[Any]) -> None:
    if kind not in known:
        names = ", ".join(sorted(k.name for k in known if k is not None))
        shown = f"{kind.name} does not go with what is given" if kind else "missing"
        raise InputError(f"{place}.distribution: {shown}; take one of {names}")


def _kind_of(place: str, low: float, high: float) -> Distribution:
    """What W&B makes of two ends without a distribution."""
    whole = [isinstance(end, int) for end in (low, high)]
    if any(whole) != all(whole):
        raise InputError(
            f"{place}: one end is a whole number and the other is not; write both as whole "
            "numbers, or both with a point"
        )
    return Distribution.int_uniform if all(whole) else Distribution.uniform


def _number(place: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        shown = "missing" if value is None else f"expected a number, found {value!r}"
        # YAML 1.1 reads 1e-3 as a text
        hint = "; write 1.0e-3 for 1e-3" if isinstance(value, str) and "e" in value else ""
        raise InputError(f"{place}.{name}: {shown}{hint}")
    return value
