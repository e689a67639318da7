"""Small untrained models, in double precision, and a batch of Memory Horizon."""

from __future__ import annotations

import numpy as np
import torch

from gateloop.data.memory_horizon import MODULUS, RESET, VALUES, draw
from gateloop.model_config import GateLoopConfig, TransitionConfig
from gateloop.models import build
from gateloop.models.language_model import LanguageModel

LENGTH = 17
TOKENS_BL = draw(0, 2, 0, 3, LENGTH, 3)


def model(
    transition: TransitionConfig | None = None, classes: int = MODULUS, **options: object
) -> LanguageModel:
    """Two layers, width 12, every parameter away from its initial value."""
    config = GateLoopConfig(
        name="gateloop",
        d_model=12,
        layers=2,
        parameters=None,
        transition=transition or TransitionConfig(),
        **options,
    )
    torch.manual_seed(1)
    made = build(config, VALUES + 1, classes).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def logits(
    made: LanguageModel, tokens_BL: np.ndarray = TOKENS_BL, **options: object
) -> torch.Tensor:
    with torch.no_grad():
        return made(torch.from_numpy(tokens_BL), **options)[0]


def hooks(made: LanguageModel) -> int:
    """How many are registered anywhere."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in made.modules()
    )


__all__ = ["LENGTH", "RESET", "TOKENS_BL", "hooks", "logits", "model"]
