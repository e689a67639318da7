"""The test of a trained run: once, in float32, with the weights of the best validation."""

from __future__ import annotations

import math
from typing import Any

import torch

from gateloop.config import Config
from gateloop.data import Source
from gateloop.errors import Diverged
from gateloop.models.language_model import LanguageModel
from gateloop.training.audit import audit
from gateloop.training.checkpoint import best_weights
from gateloop.training.evaluation import evaluate, exponential
from gateloop.training.interruption import Interruption
from gateloop.training.job import Job
from gateloop.training.record import RunFolder

NOT_CAUSAL = 1e-3  # nats per token; above it no table ranks a result


def test(
    config: Config,
    model: LanguageModel,
    source: Source,
    device: torch.device,
    folder: RunFolder,
    interruption: Interruption,
    job: Job,
) -> dict[str, Any]:
    """Metrics of every test of ``source`` with the causality audit, and the checkpoint used.

    Scores by position and by distance go to test.json in the run's folder. The processes of
    ``job`` share the tests; the audit, of a few hundred positions, is the first one's.

    Raises Diverged, on every process, where the losses that the audit compares are not finite.
    """
    state, checkpoint = best_weights(folder.path)
    model.load_state_dict(state)
    model.to(device)
    metrics: dict[str, float] = {}
    places: dict[str, Any] = {}
    evaluations = source.evaluations("test")
    for evaluation in evaluations:
        scores = evaluate(
            model,
            evaluation,
            mode=config.mode.name,
            sequences=config.data.test_batch_size,
            device=device,
            stop=lambda: interruption.requested,
            job=job,
        )
        prefix = f"test/{evaluation.name}/" if evaluation.name else "test/"
        metrics |= {prefix + name: value for name, value in scores.metrics.items()}
        places[evaluation.name] = {
            "by_position": scores.by_position.as_lists(),
            "by_distance": scores.by_distance.as_lists(),
            **evaluation.facts,
        }
    mode, positions = config.mode.name, config.trainer.audit_positions
    found = job.from_first(lambda: audit(model, evaluations[0], mode=mode, positions=positions))
    if not math.isfinite(found.gap):
        raise Diverged(
            f"training diverged: the losses of {checkpoint} are not finite; lower optimizer.lr"
        )
    metrics["test/causality_gap"] = found.gap
    metrics["test/causality_positions"] = found.positions
    metrics["test/audit_perplexity_parallel"] = exponential(found.loss_parallel)
    metrics["test/audit_perplexity_prefix"] = exponential(found.loss_prefix)
    job.from_first(lambda: folder.write_test(places))
    return {"checkpoint": checkpoint, "causal": found.gap <= NOT_CAUSAL, "metrics": metrics}
