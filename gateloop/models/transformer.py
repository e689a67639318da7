"""The Transformer's time mixing: causal softmax attention with a cache of keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gateloop.baseline_config import TransformerConfig
from gateloop.models.cache import append
from gateloop.models.position import DataControlledGates, RotaryGates, rotate, turns
from gateloop.models.time_mixer import State, TimeMixer
from gateloop.names import ModeName, Position

# Under position=data_controlled: weights at once, over batch, heads, rows and columns, and the
# fewest rows, below which a GPU would mostly wait.
BUDGET = 1 << 20
ROWS = 32


class Attention(TimeMixer):
    """Multi-head causal softmax attention (arXiv 1706.03762); the weights are not dropped out.

    forward: x (batch, length, d_model) → (y of the same shape, state). Relative positions are
    rotations of q and k by prefix sums Φ of phases: constant ones are RoPE, phases from the input
    are the paper's data-controlled position, which fades what lies back by A as well:

        weight_nm = softmax_m(⟨R(Φ_n) q_n, R(Φ_m) k_m⟩ / √d_head + A_n − A_m),  m ≤ n

    A is the prefix sum of log-amplitudes, per head. With ``window`` a step sees that many steps,
    itself among them. Learned positions are the language model's (models/position.py); to this
    layer they are none.

    State: keys after rotation and values (batch, heads, cached, d_head) each, a head's in a row, in
    the dtype they were computed in; live (batch,) int64: how many of the cached steps, counted from
    the last, are not cut off by a reset; with rotations the turn so far (batch, heads or 1, d_head
    / 2); with data-controlled position the log-amplitude from each cached step until now (batch,
    cached, heads); these two in float64. All steps read are cached, or the last window − 1.
    """

    modes = (ModeName.attention,)
    supports_reset = True

    def __init__(
        self,
        d_model: int,
        *,
        heads: int = 4,
        position: Position | str = Position.rope,
        bias: bool = False,
        window: int | None = None,
        initial_amplitude: float = 0.999,
        phase_scale: float = 0.1,
    ) -> None:
        super().__init__()
        self.heads, self.d_head, self.window = heads, d_model // heads, window
        pairs = self.d_head // 2
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.gates: RotaryGates | DataControlledGates | None = None
        if Position(position) is Position.rope:
            self.gates = RotaryGates(pairs)
        elif Position(position) is Position.data_controlled:
            self.gates = DataControlledGates(d_model, heads, pairs, initial_amplitude, phase_scale)
        self.output = nn.Linear(d_model, d_model, bias=bias)
        if bias:
            nn.init.zeros_(self.query_key_value.bias)
            nn.init.zeros_(self.output.bias)

    @classmethod
    def from_config(cls, config: TransformerConfig) -> Attention:
        return cls(
            config.d_model,
            heads=config.heads,
            position=config.position,
            bias=config.bias,
            window=config.window,
            initial_amplitude=config.initial_amplitude,
            phase_scale=config.phase_scale,
        )

    def init_state(self, batch: int) -> State:
        """An empty cache."""
        weight = self.output.weight
        nothing = weight.new_zeros(batch, self.heads, 0, self.d_head)
        state: State = (nothing, nothing, weight.new_zeros(batch, dtype=torch.int64))
        if self.gates is None:
            return state
        faded = isinstance(self.gates, DataControlledGates)
        turned = (batch, self.heads if faded else 1, self.d_head // 2)
        state += (weight.new_zeros(turned, dtype=torch.float64),)
        if faded:
            state += (weight.new_zeros(batch, 0, self.heads, dtype=torch.float64),)
        return state

    def parameter_groups(self) -> dict[str, list[str]]:
        """The two projections that make data-controlled positions."""
        gates = [] if self.gates is None else list(self.gates.named_parameters())
        return {"transition": [f"gates.{name}" for name, _ in gates]}

    def forward(
        self,
        x_BLD: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mode: ModeName | str | None = None,
    ) -> tuple[Tensor, State]:
        self.check_mode(mode)
        batch, length, _ = x_BLD.shape
        k_cached, v_cached, live_B, *place = state or self.init_state(batch)
        q_BLHK, k_BLHK, v_BLHK = (
            self.query_key_value(x_BLD).unflatten(-1, (3, self.heads, self.d_head)).unbind(2)
        )
        log_amplitude_BLH, phase = (None, None) if self.gates is None else self.gates(x_BLD)
        after: State = ()
        if phase is not None:
            # Without a state all sequences stand alike, and RoPE is turned once for the batch.
            turn = turns(phase, place[0] if state else place[0][:1], length)
            q_BLHK, k_BLHK = rotate(q_BLHK, turn), rotate(k_BLHK, turn)
            after += (turn[:, -1].expand(batch, -1, -1),)

        q_BHLK, k_BHLK, v_BHLK = (t.transpose(1, 2) for t in (q_BLHK, k_BLHK, v_BLHK))
        k_BHMK, v_BHMK = append(k_cached, k_BHLK), append(v_cached, v_BHLK)
        known = k_BHMK.shape[2]
        kept = known if self.window is None else min(known, self.window - 1)
        segment_BM = None
        if known > length or reset is not None:
            segment_BM = _segments(live_B, known, length, reset)
        if log_amplitude_BLH is None:
            y_BHLK = _attend(q_BHLK, k_BHMK, v_BHMK, segment_BM, self.window)
        else:
            sums_BMH = torch.cat([-place[1], log_amplitude_BLH.double().cumsum(1)], dim=1)
            after += ((sums_BMH[:, -1:] - sums_BMH)[:, known - kept :],)
            sums_BHM = sums_BMH.transpose(1, 2)
            y_BHLK = _attend_fading(q_BHLK, k_BHMK, v_BHMK, sums_BHM, segment_BM, self.window)

        live_B = live_B + length
        if segment_BM is not None:
            live_B = (segment_BM == segment_BM[:, -1:]).sum(1)
        if kept < known:
            k_BHMK, v_BHMK = k_BHMK[:, :, known - kept :], v_BHMK[:, :, known - kept :]
        cache = (k_BHMK, v_BHMK, live_B.clamp(max=kept))
        return self.output(y_BHLK.transpose(1, 2).flatten(-2)), (*cache, *after)


def _segments(live_B: Tensor, known: int, length: int, reset_BL: Tensor | None) -> Tensor:
    """A number for each of ``known`` steps, the last ``length`` of them new; equal ones are of one
    segment. Cached steps that a reset cut off get −1."""
    cached = torch.arange(known - length, 0, -1, device=live_B.device)
    before = -(cached > live_B[:, None]).long()
    if reset_BL is None:
        return torch.cat([before, before.new_zeros(len(live_B), length)], dim=1)
    return torch.cat([before, reset_BL.cumsum(1)], dim=1)


def _seen(
    rows: slice, columns: slice, segment_BM: Tensor | None, window: int | None, device: torch.device
) -> Tensor:
    """Which of the steps ``columns`` each of the steps ``rows`` sees, counted from the cache's
    first: (batch, 1, rows, columns) bool, or (rows, columns) where all sequences are alike."""
    row_N1 = torch.arange(rows.start, rows.stop, device=device)[:, None]
    column_M = torch.arange(columns.start, columns.stop, device=device)
    seen = column_M <= row_N1
    if window is not None:
        seen = seen & (column_M > row_N1 - window)
    if segment_BM is not None:
        seen = seen & (segment_BM[:, rows, None] == segment_BM[:, None, columns])
    return seen if seen.ndim == 2 else seen[:, None]


def _attend(
    q_BHLK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, segment_BM: Tensor | None, window: int | None
) -> Tensor:
    """Softmax attention of the last L of M steps; a mask only where causality alone is not it."""
    length, known = q_BHLK.shape[2], k_BHMK.shape[2]
    dtype = q_BHLK.dtype
    k_BHMK, v_BHMK = k_BHMK.to(dtype), v_BHMK.to(dtype)
    if segment_BM is None and (window is None or window >= length):
        return F.scaled_dot_product_attention(q_BHLK, k_BHMK, v_BHMK, is_causal=True)
    seen = _seen(slice(known - length, known), slice(0, known), segment_BM, window, q_BHLK.device)
    return F.scaled_dot_product_attention(q_BHLK, k_BHMK, v_BHMK, attn_mask=seen)


def _attend_fading(
    q_BHLK: Tensor,
    k_BHMK: Tensor,
    v_BHMK: Tensor,
    sums_BHM: Tensor,
    segment_BM: Tensor | None,
    window: int | None,
) -> Tensor:
    """The same with A_n − A_m added to the logits, ``sums`` being A in float64.

    The differences are taken in float64, in blocks of rows that the backward pass computes again,
    so that no weight between every two steps is ever kept. Nothing here is bfloat16.
    """
    length, known = q_BHLK.shape[2], k_BHMK.shape[2]
    dtype = torch.float64 if q_BHLK.dtype == torch.float64 else torch.float32
    row = max(1, q_BHLK.shape[0]) * q_BHLK.shape[1] * known  # of an empty batch, too
    rows_at_once = max(ROWS, BUDGET // row)
    blocks = []
    with torch.autocast(q_BHLK.device.type, enabled=False):
        q_BHLK, k_BHMK, v_BHMK = (t.to(dtype) for t in (q_BHLK, k_BHMK, v_BHMK))
        for start in range(known - length, known, rows_at_once):
            rows = slice(start, min(start + rows_at_once, known))
            columns = slice(0 if window is None else max(0, start - window + 1), rows.stop)
            arguments = (
                q_BHLK[:, :, start - known + length : rows.stop - known + length],
                k_BHMK[:, :, columns],
                v_BHMK[:, :, columns],
                sums_BHM[:, :, rows],
                sums_BHM[:, :, columns],
                _seen(rows, columns, segment_BM, window, q_BHLK.device),
            )
            if torch.is_grad_enabled():
                block = checkpoint(
                    _fading_rows, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                block = _fading_rows(*arguments)
            blocks.append(block)
    return torch.cat(blocks, dim=2)


def _fading_rows(
    q_BHNK: Tensor,
    k_BHMK: Tensor,
    v_BHMK: Tensor,
    row_BHN: Tensor,
    column_BHM: Tensor,
    seen: Tensor,
) -> Tensor:
    fading = (row_BHN[..., None] - column_BHM[..., None, :]).to(q_BHNK.dtype)
    fading = fading.masked_fill(~seen, -torch.inf)
    return F.scaled_dot_product_attention(q_BHNK, k_BHMK, v_BHMK, attn_mask=fading)
