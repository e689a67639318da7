"""AdamW with the transitions in a group of their own, and the schedule from the config."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from gateloop.config import Config
from gateloop.derived import transition_lr_factor, warmup_steps
from gateloop.names import Schedule

FUSED = ("cpu", "cuda")


def parameter_groups(model: nn.Module, config: Config) -> list[dict[str, object]]:
    """Three groups by name: transitions (own learning rate), undecayed, decayed.

    A time mixer names what makes its transitions; of the rest, embeddings and everything with
    fewer than two axes (norms, biases) stay undecayed. Empty groups are left out.
    """
    transition: set[str] = set()
    embedding: set[str] = set()
    for prefix, module in model.named_modules():
        if hasattr(module, "parameter_groups"):
            names = module.parameter_groups().get("transition", [])
            transition.update(f"{prefix}.{name}".lstrip(".") for name in names)
        elif isinstance(module, nn.Embedding):
            found = (name for name, _ in module.named_parameters())
            embedding.update(f"{prefix}.{name}".lstrip(".") for name in found)
    groups: dict[str, list[nn.Parameter]] = {"transition": [], "undecayed": [], "decayed": []}
    for name, parameter in model.named_parameters():
        if name in transition:
            groups["transition"].append(parameter)
        elif parameter.ndim < 2 or name in embedding:
            groups["undecayed"].append(parameter)
        else:
            groups["decayed"].append(parameter)
    lr, factor = config.optimizer.lr, transition_lr_factor(config)
    settings: dict[str, dict[str, float]] = {
        "transition": {"lr": lr * factor, "weight_decay": 0.0},
        "undecayed": {"lr": lr, "weight_decay": 0.0},
        "decayed": {"lr": lr, "weight_decay": config.optimizer.weight_decay},
    }
    return [
        {"name": name, "params": parameters, **settings[name]}
        for name, parameters in groups.items()
        if parameters
    ]


def learning_rate_factor(step: int, config: Config) -> float:
    """Factor on every peak learning rate for the update after ``step`` updates."""
    warmup, last = warmup_steps(config), config.trainer.max_steps
    if step < warmup:
        return (step + 1) / warmup
    if config.optimizer.schedule is Schedule.constant:
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, last - warmup))
    final = config.optimizer.final_lr_factor
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, config: Config) -> tuple[AdamW, LambdaLR]:
    """AdamW in one kernel where torch has it for the model's device, and its schedule."""
    settings = config.optimizer
    device = next(model.parameters()).device.type
    optimizer = AdamW(
        parameter_groups(model, config),
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True if device in FUSED else None,  # None: torch's choice, of several tensors at once
    )
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
