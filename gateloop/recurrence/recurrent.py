"""Mode ``recurrent``: one step after the other, O(l) work, the plainest form and the decoder's."""

from __future__ import annotations

import torch
from torch import Tensor

from gateloop.recurrence.transition import transition


def recurrent(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    state_BHKV: Tensor,
    reset_BL: Tensor | None,
    complex_output: bool,
) -> tuple[Tensor, Tensor]:
    """h_n = a_n ⊙ h_{n-1} + k_nᵀ v_n and y_n = q_n h_n, a step at a time."""
    # unbind, for the gradient of one step taken by index is as long as the whole sequence
    a_steps = transition(log_amplitude, phase)[..., None].unbind(1)
    q_steps, k_steps, v_steps = (t.unbind(1) for t in (q_BLHK, k_BLHK, v_BLHV))
    h = state_BHKV
    outputs = []
    for n in range(len(q_steps)):
        if reset_BL is not None:
            h = h.masked_fill(reset_BL[:, n, None, None, None], 0)
        a = a_steps[n if len(a_steps) > 1 else 0]
        h = a * h + k_steps[n][..., None] * v_steps[n][..., None, :]
        outputs.append(_read(q_steps[n][..., None], h, complex_output))
    return torch.stack(outputs, dim=1), h


def _read(q_BHK1: Tensor, h_BHKV: Tensor, complex_output: bool) -> Tensor:
    if not complex_output and not q_BHK1.is_complex() and h_BHKV.is_complex():
        h_BHKV = h_BHKV.real
    y = (q_BHK1 * h_BHKV).sum(-2)
    return y.real if y.is_complex() and not complex_output else y
