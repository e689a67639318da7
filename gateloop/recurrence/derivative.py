"""Backward passes by hand that have no derivative of their own, and say so."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

OTHER_MODES = "take mode='recurrent', 'chunkwise' or 'attention'"


def first_only(remedy: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For the ``backward`` of a torch.autograd.Function: RuntimeError under create_graph.

    torch's own ``once_differentiable`` raises later, when something asks for the second derivative
    by way of this function, and nothing does in ``torch.autograd.grad`` by inputs that have other
    ways to the result: these get the others' part alone, silently.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(backward)
        def checked(ctx: Any, *gradients: Any) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    "there is a first derivative only here, and create_graph=True asks for a "
                    f"second: {remedy}"
                )
            return backward(ctx, *gradients)

        return checked

    return decorate
