"""What is wrong with a sweep file is one line, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import IntDistribution

from gateloop.errors import InputError
from gateloop.sweeping.file import load_sweep, probes
from tests.sweeping.small import RATE, content, write

EXPONENTS = {"distribution": "log_uniform", "min": -7, "max": -1}
STEPS = {"distribution": "q_uniform", "min": 0.1, "max": 0.5}


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        ({"optimizer.lrr": RATE}, "optimizer.lrr=0.001: no such key; did you mean optimizer.lr?"),
        ({"optimizr.lr": RATE}, "optimizr.lr=0.001: no such key; did you mean optimizer.lr?"),
        (
            {"modle": {"values": ["s5", "lru"]}},
            "modle=s5: no such key or group; did you mean mode?",
        ),
        ({"model": {"values": ["gateloop", "s6"]}}, "model=s6: no such model; choose one of"),
        ({"optimizer.lr": {"values": [0.1, "fast"]}}, "optimizer.lr=fast: expected a number > 0"),
        ({"model.dropout": {"min": 0.0, "max": 1.5}}, "model.dropout=1.5: out of range"),
        ({"model.heads": {"values": [1, 3]}}, "model.heads=3 does not divide model.d_model=4"),
        ({"optimizer.lr": {"min": 0.1, "max": 0.1}}, "min 0.1 is not below max 0.1"),
        ({"optimizer.lr": {"min": 1, "max": 1.5}}, "one end is a whole number and the other"),
        ({"optimizer.lr": {"min": "1e-3", "max": 0.1}}, r"found '1e-3'; write 1.0e-3 for 1e-3"),
        ({"optimizer.lr": {"min": 0.1}}, "parameters.optimizer.lr.max: missing"),
        ({"optimizer.lr": {}}, "parameters.optimizer.lr: has no value; give one of value, values"),
        ({"optimizer.lr": {"value": 0.1, "min": 0.1}}, "has value beside min and max"),
        ({"optimizer.lr": {**RATE, "min": 0}}, "a logarithmic distribution needs one above 0"),
        ({"optimizer.lr": {**RATE, "distribution": "log"}}, "'log' is not one of .*log_uniform"),
        ({"optimizer.lr": {**RATE, "distribution": "normal"}}, "normal does not go with what is"),
        ({"optimizer.lr": {**STEPS, "q": 0}}, "optimizer.lr.q: 0; the distance of two values must"),
        ({"optimizer.lr": {**STEPS, "q": -0.1}}, "optimizer.lr.q: -0.1; the distance of two val"),
        ({"optimizer.lr": {**EXPONENTS, "max": 1000}}, "e.1000 is .*; take log_uniform_values"),
        ({"optimizer.lr": {**EXPONENTS, "min": -1e9}}, "e.-1e.09 is .*; take log_uniform_values"),
        ({"optimizer.lr": {"values": [0.1, 0.1]}}, "0.1 is there twice; remove one"),
        ({"model.heads": {"values": [1, None]}}, "null cannot be handed to a run"),
        ({"optimizer.lr": {"vlaues": [0.1]}}, "vlaues: no such key; did you mean values?"),
        ({"optimizer.lr": {"value": 0.1}}, "parameters: nothing is varied"),
        (
            {"model.layers": {"distribution": "uniform", "min": 1, "max": 4}},
            "model.layers=1.0: expected a whole number",
        ),
        ({"rerun": {"values": [True, False]}}, "rerun=True: not for a run that a command starts"),
    ],
)
def test_a_wrong_parameter(tmp_path: Path, varied: dict[str, Any], message: str) -> None:
    refused(write(tmp_path, varied=varied), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayse"}, "method: 'bayse' is not one of grid, random, bayes; did you mean"),
        (
            {"metric": {"name": "val/los"}},
            "metric.name: val/los is nothing .*did you mean val/loss",
        ),
        (
            {"metric": {"name": "val/bits_per_byte"}},
            "val/bits_per_byte is only measured of text, and data is memory_horizon; take one of",
        ),
        ({"metric": {"name": "test/loss"}}, "metric.name: test/loss is nothing that a validation"),
        (
            {"metric": {"name": "val/loss", "goal": "min"}},
            "metric.goal: 'min' is not one of minimiz",
        ),
        ({"command": ["python", "x.py"]}, r"command: a trial is a run; write command: \[.*no_hyph"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: give min_iter, or max_iter"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "early_terminate.s: missing"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 0}},
            "min_iter: 0; must be at least",
        ),
        ({"early_terminate": {"type": "envelope"}}, "type: 'envelope' is not one of hyperband"),
        ({"run_cap": 0}, "run_cap: 0; must be at least 1"),
        ({"parameter": {}}, "parameter: no such key; did you mean parameters?"),
    ],
)
def test_a_wrong_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refused(write(tmp_path, **changes), message)


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_sweep(str(path))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no such sweep; .*did you mean gateloop_wt2\?"):
        load_sweep("gatelop_wt2")
    with pytest.raises(InputError, match="no such sweep"):
        load_sweep("elsewhere/gateloop_wt2.yaml")


def test_its_name_names_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'My sweep' also names a folder of results"):
        load_sweep(str(write(tmp_path, "My sweep.yaml")))


def test_a_grid_is_every_point(tmp_path: Path) -> None:
    varied = {"optimizer.lr": {"values": [0.1, 0.2]}, "model.layers": {"min": 1, "max": 3}}
    sweep = load_sweep(str(write(tmp_path, method="grid", varied=varied)))
    points = sweep.points()
    assert len(points) == 6 and list(probes(sweep)) == points
    assert {"optimizer.lr": 0.2, "model.layers": 3} in points
    with pytest.raises(InputError, match="grid goes through values"):
        load_sweep(str(write(tmp_path, method="grid")))


def test_steps_of_a_whole_number_are_whole(tmp_path: Path) -> None:
    layers = {"model.layers": {"distribution": "q_uniform", "min": 1, "max": 5, "q": 2}}
    (axis,) = load_sweep(str(write(tmp_path, varied=layers))).varied
    found = axis.local()
    assert isinstance(found, IntDistribution) and (found.low, found.high, found.step) == (1, 5, 2)


def test_a_grid_beyond_all_numbers_is_one_line(tmp_path: Path) -> None:
    seeds = {"seed": {"min": 0, "max": 10**19}}
    with pytest.raises(InputError, match="the grid has inf points; take fewer values"):
        load_sweep(str(write(tmp_path, method="grid", varied=seeds)))


def test_a_change_of_what_is_run_makes_another_sweep(tmp_path: Path) -> None:
    path = str(write(tmp_path))
    assert load_sweep(path).name == load_sweep(path, ["tracker=none"]).name == "small"
    changed = load_sweep(path, ["data.length=16"])
    assert changed.name.startswith("small_") and "data.length=16" in changed.arguments(
        {"optimizer.lr": 0.1}
    )
    assert load_sweep(path, ["data.length=16"]).name == changed.name
    fixed = {"data": "text", "data.tokenizer": "byte"}
    text = write(tmp_path, "text.yaml", fixed={**fixed})
    content = yaml.safe_load(text.read_text())
    for key in [
        key for key in content["parameters"] if key.startswith("data.") and key not in fixed
    ]:
        del content["parameters"][key]
    text.write_text(yaml.safe_dump(content))
    names = {load_sweep(str(text), [f"data.path={name}.txt"]).name for name in "ab"}
    assert len(names) == 2 and all(name.startswith("text_") for name in names)
    with pytest.raises(InputError, match=r"data\.path=null"):
        load_sweep(str(text))
    with pytest.raises(InputError, match=r"did you mean data\.length\?"):
        load_sweep(path, ["data.lenght=16"])
    with pytest.raises(InputError, match=r"runs_dir=x: .*leave it out, or give --runs-dir"):
        load_sweep(path, ["runs_dir=x"])


def test_what_an_agent_hands_over_is_what_is_checked(tmp_path: Path) -> None:
    """The client makes a run's arguments of the same values in the same way."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {"optimizer.lr": 1e-5, "model.tied": False, "data.test_lengths": [8], "seed": 3}
    varied = {key: {"values": [value]} for key, value in values.items()}
    sweep = load_sweep(
        str(write(tmp_path, varied={**varied, "model.dropout": {"values": [0, 0.5]}}))
    )
    given = {axis.key: {"value": axis.choices[0]} for axis in sweep.axes}
    theirs = create_sweep_command_args({"args": given})["args_no_hyphens"]
    assert sweep.arguments({"model.dropout": 0}) == theirs
    assert sweep.config({"model.dropout": 0}).optimizer.lr == 1e-5


def test_the_file_is_plain_yaml(tmp_path: Path) -> None:
    assert yaml.safe_load(write(tmp_path).read_text()) == content()
