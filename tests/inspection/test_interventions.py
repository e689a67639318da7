"""What interventions are scored on, and what is reported of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gateloop.data import Evaluation, open_source
from gateloop.inspection.changes import AS_TRAINED
from gateloop.inspection.interventions import Effect, effects, first_of
from gateloop.inspection.report import effects_json, effects_page, effects_table, table
from gateloop.inspection.transitions import Made, changed
from gateloop.names import ModeName
from gateloop.training.evaluation import evaluate
from tests.inspection.small import hooks, model
from tests.training.small import config


def evaluations(*overrides: str) -> list[Evaluation]:
    return open_source(config(*overrides).data).evaluations("test")


def run(*overrides: str, sequences: int = 5, **options: object) -> list[Effect]:
    given = {"mode": ModeName.scan, "reset": 5, "modulus": 50, **options}
    return effects(model().float(), evaluations(*overrides), sequences, **given)


def test_as_trained_is_the_evaluation_itself() -> None:
    found = run("data.test_samples=40", sequences=40)
    for test, effect in zip(
        evaluations("data.test_samples=40"), found[:1] + found[11:12], strict=True
    ):
        scores = evaluate(model().float(), test, mode=ModeName.scan, sequences=32).metrics
        assert effect.intervention == AS_TRAINED and effect.test == test.name
        assert (effect.loss, effect.accuracy) == (scores["loss"], scores["accuracy"])
        assert effect.tokens == scores["tokens"] == 40 * 12 and effect.sequences == 40


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("sequences", [1, 5, 8, 20])
def test_the_first_of_a_test(size: int, sequences: int) -> None:
    test = evaluations()[0]
    whole, part = (list(chosen.batches(size)) for chosen in (test, first_of(test, sequences)))
    for name in ("inputs_BL", "targets_BL", "distance_BL"):
        every, some = (np.concatenate([getattr(b, name) for b in x]) for x in (whole, part))
        assert np.array_equal(every[:sequences], some)
    assert all(batch.reset_BL is None for batch in part)


def test_counts_of_the_whole_text_do_not_stay() -> None:
    part = first_of(replace(evaluations()[0], words=7, bytes=30), 2)
    assert part.words is None and part.bytes is None


def test_every_test_then_every_layer_of_the_main_one() -> None:
    found = run()
    names = list(dict.fromkeys(effect.intervention for effect in found))
    assert names[0] == AS_TRAINED and len(names) == 11
    places = [(effect.intervention, effect.test, effect.layer) for effect in found]
    assert places[:22] == [(n, t, None) for t in ("", "L12_R4") for n in names]
    assert places[22:] == [(name, "", layer) for name in names[1:] for layer in (0, 1)]
    by_place = dict(zip(places, found, strict=True))
    assert found == run()

    def upper(layer: int, _: Tensor, log_amplitude: Tensor, phase: Tensor) -> Made:
        return log_amplitude, torch.zeros_like(phase) if layer == 1 else phase

    made = model().float()
    with changed(made, upper):
        scores = evaluate(made, first_of(evaluations()[0], 5), mode=ModeName.scan, sequences=32)
    losses = [by_place["phase 0 everywhere", "", layer].loss for layer in (None, 0, 1)]
    assert losses[2] == scores.metrics["loss"] and len(set(losses)) == 3


def test_without_resets_nothing_is_clamped_at_them() -> None:
    found = run("data.task=modsum_noreset", "data.test_lengths=[]", "data.test_resets=[]")
    assert found and not [effect for effect in found if "resets" in effect.intervention]


def test_the_model_is_left_as_it_was() -> None:
    made = model().float()
    effects(made, evaluations(), 2, mode=ModeName.auto, reset=5)
    assert hooks(made) == 0


# -- the report --------------------------------------------------------------------------

FOUND = [
    Effect(AS_TRAINED, None, "", 5, 60, 0.25, 0.9),
    Effect("phase 0 everywhere", None, "", 5, 60, 1.5, 0.4),
    Effect(AS_TRAINED, None, "L9", 5, 60, 0.5, 0.8),
    Effect("phase 0 everywhere", None, "L9", 5, 60, 0.49999, 0.8),
    Effect("phase 0 everywhere", 0, "", 5, 60, 0.75, 0.7),
    Effect("phase 0 everywhere", 1, "", 5, 60, 0.25, 0.9),
]
TABLE = """\
| intervention       | accuracy         | loss             | accuracy L9      | loss L9          |
|--------------------|------------------|------------------|------------------|------------------|
| as trained         | 0.9000           | 0.2500           | 0.8000           | 0.5000           |
| phase 0 everywhere | 0.4000 (-0.5000) | 1.5000 (+1.2500) | 0.8000 (+0.0000) | 0.5000 (+0.0000) |

| intervention       | accuracy layer 0 only | loss layer 0 only | accuracy layer 1 only | loss layer 1 only |
|--------------------|-----------------------|-------------------|-----------------------|-------------------|
| phase 0 everywhere | 0.7000 (-0.2000)      | 0.7500 (+0.5000)  | 0.9000 (+0.0000)      | 0.2500 (+0.0000)  |
"""  # noqa: E501


def test_effects_as_a_table() -> None:
    assert effects_table(FOUND) == TABLE
    page = effects_page("gateloop-x", FOUND)
    assert page.startswith("# Interventions in gateloop-x\n") and page.endswith(TABLE)
    on = "main test (the first 5 sequences, 60 tokens), L9 test (the first 5 sequences, 60 tokens)"
    assert f"Measured on the {on}." in page


def test_effects_as_json() -> None:
    content = json.loads(effects_json("gateloop-x", FOUND))
    assert content["run"] == "gateloop-x"
    assert [Effect(**effect) for effect in content["effects"]] == FOUND


def test_a_table_is_padded() -> None:
    assert table(["a", "long"], [["12345", "x"]]) == (
        "| a     | long |\n|-------|------|\n| 12345 | x    |\n"
    )
