"""One training step of language models: forward, loss, backward, clipping, AdamW.

Ours take the step that a run takes (training/module.py); lucidrains' has its own model, the same
loss, clipping and AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gateloop.benchmark.cell import Cell
from gateloop.benchmark.clock import Run, until_done
from gateloop.benchmark.entry import NOT_INSTALLED, Role, absent, entry, is_missing, part, why_not
from gateloop.compose import compose
from gateloop.config import Config
from gateloop.models import build
from gateloop.models.size import count
from gateloop.training.module import Training
from gateloop.training.optimizer import make_optimizer

OURS, HEADLESS = "GateLoop", "GateLoop without head and loss"
TRANSFORMER, PRODUCTS = "Transformer", "GateLoop's matrix products alone"
# Beside its mixer of 7 · d² parameters, a feed-forward of 6 · d²: 13 · d² a layer, as ours have.
FEED_FORWARD = 3


def measure(cell: Cell) -> dict[str, Any]:
    sizes = cell.sizes
    shape = (sizes["batch"], sizes["length"] + 1)
    tokens = torch.randint(0, sizes["vocabulary"], shape, device=cell.device)
    inputs_BL, targets_BL = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    makers: dict[str, tuple[Role, str, Callable[..., tuple[Run, int]]]] = {
        OURS: (Role.ours, "gateloop", ours("gateloop")),
    }
    if cell.kind == "models":
        makers |= {
            HEADLESS: (Role.ours, "gateloop", ours("gateloop", head=False)),
            PRODUCTS: (Role.limit, "gateloop", products),
            TRANSFORMER: (Role.peer, "gateloop", ours("transformer")),
            "lucidrains' Transformer": (Role.peer, "gateloop-transformer", lucidrains(True)),
            "lucidrains' Transformer, nothing recomputed": (
                Role.peer, "gateloop-transformer", lucidrains(False),
            ),
        }  # fmt: skip
        if cell.device == "cuda":
            makers |= {
                f"{OURS}, compiled": (Role.ours, "gateloop", ours("gateloop", compiled=True)),
                f"{TRANSFORMER}, compiled": (
                    Role.peer, "gateloop", ours("transformer", compiled=True),
                ),
            }  # fmt: skip
    cut = cell.settings.get("against")
    if cut:
        makers[in_sequences_of(cut)] = (Role.ours, "gateloop", ours("gateloop", cut=cut))
    entries, runs = [], {}
    for label, (role, package, make) in makers.items():
        if is_missing(package):
            entries.append(absent(label, role, NOT_INSTALLED))
            continue
        try:
            runs[label], parameters = make(cell, inputs_BL, targets_BL)
        except Exception as error:
            if role is Role.ours:
                raise
            entries.append(absent(label, role, why_not(error)))
            continue
        entries.append(entry(label, role, parameters=parameters))
    done = part(
        "training step", entries, runs, cell.repeats, until_done(cell.device), reference=OURS
    )
    return {"parts": [done]}


def settings(model: str, cell: Cell, compiled: bool = False) -> Config:
    given = [f"model={model}", f"size={cell.settings['size']}", "tracker=none"]
    given += ["trainer.compile=true"] if compiled else []
    return compose(given)


def in_sequences_of(cut: int) -> str:
    return f"{OURS}, the same tokens in sequences of {cut:,}"


def ours(
    name: str, head: bool = True, compiled: bool = False, cut: int | None = None
) -> Callable[[Cell, Tensor, Tensor], tuple[Run, int]]:
    """A step of our model ``name``, and its parameters; without ``head`` it ends at the features,
    so that the difference is the head's share; ``cut``: the tokens in sequences of that length."""

    def make(cell: Cell, inputs_BL: Tensor, targets_BL: Tensor) -> tuple[Run, int]:
        config = settings(name, cell, compiled)
        vocabulary = cell.sizes["vocabulary"]
        torch.manual_seed(0)
        model = build(config.model, vocabulary, vocabulary).to(cell.device).train()
        training = Training(config, model).to(cell.device)
        training.sums = training.sums.to(cell.device)
        optimizer, _ = make_optimizer(model, config)
        if cut:
            inputs_BL, targets_BL = inputs_BL.view(-1, cut), targets_BL.view(-1, cut)
        batch = {"inputs": inputs_BL, "targets": targets_BL}

        def step() -> None:
            with autocast(cell):
                if head:
                    loss = training.training_step(batch, 0)
                else:
                    loss = model.features(inputs_BL, mode=config.mode.name)[0].float().sum()
            loss.backward()
            training.configure_gradient_clipping()
            optimizer.step()
            optimizer.zero_grad()

        return step, count(model)

    return make


def products(cell: Cell, inputs_BL: Tensor, _: Tensor) -> tuple[Run, int]:
    """What no recurrence spares a step: each linear layer's result, and from something of its
    shape the gradients by input and weight. The number is of those layers' parameters."""
    vocabulary = cell.sizes["vocabulary"]
    dtype = getattr(torch, cell.settings.get("dtype", "float32"))
    model = build(settings("gateloop", cell).model, vocabulary, vocabulary).to(cell.device, dtype)
    weights = [m.weight.detach() for m in model.modules() if isinstance(m, nn.Linear)]
    x_by_width = {
        width: torch.randn(inputs_BL.numel(), width, device=cell.device, dtype=dtype)
        for width in {weight.shape[1] for weight in weights}
    }

    def run() -> None:
        for weight_NM in weights:
            x_LM = x_by_width[weight_NM.shape[1]]
            y_LN = x_LM @ weight_NM.T
            _ = y_LN @ weight_NM, y_LN.T @ x_LM

    return run, sum(weight.numel() for weight in weights)


def lucidrains(recomputed: bool) -> Callable[[Cell, Tensor, Tensor], tuple[Run, int]]:
    """gateloop_transformer.Transformer of our width, depth and vocabulary, a head for each channel,
    as published and as ours; ``recomputed``: its default, which spares memory and takes time."""

    def make(cell: Cell, inputs_BL: Tensor, targets_BL: Tensor) -> tuple[Run, int]:
        from gateloop_transformer import Transformer

        config = settings("gateloop", cell)
        torch.manual_seed(0)
        model = Transformer(
            dim=config.model.d_model,
            num_tokens=cell.sizes["vocabulary"],
            depth=config.model.layers,
            ff_mult=FEED_FORWARD,
            checkpoint_gate_looped_attn=recomputed,
        ).to(cell.device)
        optimizer, _ = make_optimizer(model, config)
        limit = config.trainer.gradient_clip or float("inf")

        def step() -> None:
            with autocast(cell):
                logits_BLV = model(inputs_BL)
            loss = F.cross_entropy(logits_BLV.flatten(0, 1).float(), targets_BL.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
            optimizer.zero_grad()

        return step, count(model)

    return make


def autocast(cell: Cell) -> Any:
    dtype = cell.settings.get("dtype")
    return torch.autocast(cell.device, getattr(torch, dtype)) if dtype else nullcontext()
