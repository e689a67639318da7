"""The sweep files of this folder: every model on every data set, from the tables below.

    python sweeps/make.py

They differ in few places, so they are written from one. A test holds them to it.
"""

from __future__ import annotations

from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
COMMAND = ["${env}", "python", "-m", "gateloop.run", "${args_no_hyphens}"]


def between(low: float, high: float) -> dict[str, object]:
    return {"distribution": "log_uniform_values", "min": low, "max": high}


def one_of(*values: object) -> dict[str, object]:
    return {"values": list(values)}


# A trial's budget. Hyperband counts validations, the one before the first step among them.
DATA = {
    "memory_horizon": {
        "trials": 60,
        "hyperband": {"type": "hyperband", "min_iter": 3, "eta": 2},
        "fixed": {
            "model.parameters": 91520,
            "trainer.max_steps": 1500,
            "trainer.validate_every": 150,
        },
        "varied": {
            "optimizer.lr": between(0.0005, 0.08),
            "optimizer.weight_decay": one_of(0.0, 0.01, 0.05, 0.1),
            "optimizer.warmup_steps": one_of(0, 75, 150, 300),
            "model.dropout": one_of(0.0, 0.05, 0.1),
        },
        "heads": (1, 2, 4, 8),
        "width": 64,
        "longest": 512,
    },
    "wt2": {
        "trials": 60,
        "hyperband": {"type": "hyperband", "min_iter": 3, "eta": 2},
        "fixed": {"trainer.max_steps": 2000, "trainer.validate_every": 200},
        "varied": {
            "optimizer.lr": between(0.0005, 0.02),
            "optimizer.weight_decay": one_of(0.0, 0.05, 0.1, 0.25),
            "optimizer.warmup_steps": one_of(0, 100, 200, 400),
            "model.dropout": one_of(0.0, 0.05, 0.1, 0.2),
        },
        "heads": (1, 2, 4, 8),
        "width": 128,
        "longest": 128,
    },
    "wt103": {
        "trials": 40,
        "hyperband": {"type": "hyperband", "min_iter": 4, "eta": 3},
        "fixed": {"trainer.max_steps": 40000, "trainer.validate_every": 1000},
        "varied": {
            "optimizer.lr": between(0.0001, 0.005),
            "optimizer.weight_decay": one_of(0.0, 0.05, 0.1, 0.25),
            "optimizer.warmup_steps": one_of(500, 2000, 4000, 8000),
            "model.dropout": one_of(0.0, 0.1, 0.2),
        },
        "heads": (2, 4, 8, 16),
        "width": 256,
        "longest": 512,
    },
}

FACTOR = {"optimizer.transition_lr_factor": one_of(0.1, 0.25, 0.5, 1.0)}
STEP = {"model.step.least": one_of(0.001, 0.01), "model.step.most": one_of(0.1, 1.0)}
RING = {"model.ring.inner": one_of(0.001, 0.5, 0.9)}

# what a model has beside the keys of all: a transition that learns, an initialisation to choose
MODELS: dict[str, dict[str, object]] = {
    "gateloop": {**FACTOR, "model.transition.amplitude.initial": one_of(0.5, 0.9, 0.99)},
    "s4": {**FACTOR, **STEP},
    "s4d": {**FACTOR, **STEP, "model.spectrum": one_of("lin", "inv", "legs")},
    "s5": {**FACTOR, **STEP},
    "lru": {**FACTOR, **RING, "model.ring.phase": one_of(0.314, 6.28)},
    "retnet": {},
    "linear_attention": {},
    "gla": {},
    "hgrn2": {},
    "rglru": {**FACTOR, **RING},
    "mingru": {},
    "transformer": {},
    "gpt2": {},
    "lstm": {},
    "gru": {},
}
HEADED = {"retnet", "linear_attention", "gla", "hgrn2", "transformer", "gpt2"}


def text(model: str, data: str) -> str:
    """The file of ``model`` on ``data``."""
    setting = DATA[data]
    parameters: dict[str, object] = {
        name: {"value": value}
        for name, value in {"model": model, "data": data, **setting["fixed"]}.items()
    }
    if model == "gpt2":  # its position table counts as parameters
        parameters["model.max_length"] = {"value": setting["longest"]}
    parameters |= {**setting["varied"], **MODELS[model]}
    if model == "gateloop":  # as many heads as channels is its default
        parameters["model.heads"] = one_of(4, 16, setting["width"])
    elif model in HEADED:
        parameters["model.heads"] = one_of(*setting["heads"])
    head = {
        "name": f"{model} on {data}",
        "project": "gateloop",
        "method": "bayes",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "early_terminate": setting["hyperband"],
        "run_cap": setting["trials"],
        "command": COMMAND,
    }
    lines = ["# written by sweeps/make.py"]
    lines += [f"{key}: {flow(value)}" for key, value in head.items()]
    lines += ["parameters:"]
    lines += [f"  {key}: {flow(value)}" for key, value in parameters.items()]
    return "\n".join(lines) + "\n"


def flow(value: object) -> str:
    """``value`` as YAML on one line."""
    shown = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return shown.removesuffix("\n").removesuffix("\n...")


def files() -> dict[str, str]:
    """Every file's text by its name."""
    return {f"{model}_{data}.yaml": text(model, data) for model in MODELS for data in DATA}


if __name__ == "__main__":
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
