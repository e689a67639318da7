"""The one operator of the package: what it takes, its dtypes, and the choice of a mode."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gateloop.recurrence import kernels
from gateloop.recurrence.attention import attention
from gateloop.recurrence.chunkwise import CHUNK, chunkwise
from gateloop.recurrence.convolution import convolution
from gateloop.recurrence.linear_scan import linear_scan
from gateloop.recurrence.recurrent import recurrent
from gateloop.recurrence.scan import scan
from gateloop.recurrence.transition import transition

MODES = ("recurrent", "scan", "chunkwise", "attention")
FIXED_MODES = (*MODES, "convolution")  # where the transitions are fixed, and q and k constant

# Measured in docs/recurrence.md: the numbers in a head's state from which chunkwise is as fast as
# scan without a kernel, and the length and keys from which convolution is, where it is admitted.
CHUNKWISE_FROM = 192
CONVOLUTION_FROM_LENGTH = 64
CONVOLUTION_FROM_KEYS = 2

# exp(-100) is zero beside one in any precision; -inf in a prefix sum would turn into NaN.
LEAST_LOG_AMPLITUDE = -100.0

_GATE_DTYPES = (torch.float32, torch.float64)
_LOW_DTYPES = (torch.bfloat16, torch.float16)
_INPUT_DTYPES = (*_GATE_DTYPES, *_LOW_DTYPES, torch.complex64, torch.complex128)
_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


class _Bounded(torch.autograd.Function):
    # clamp's own backward costs four passes. Here the gradient passes as if there were no bounds:
    # under them it vanishes by itself, being a multiple of a.
    @staticmethod
    def forward(ctx: Any, log_amplitude: Tensor, most: float | None) -> Tensor:
        return log_amplitude.clamp(LEAST_LOG_AMPLITUDE, most)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def gate_loop(
    q: Tensor | None,
    k: Tensor | None,
    v: Tensor,
    alpha: Tensor,
    beta: Tensor | None,
    *,
    mode: str = "scan",
    state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence with the paper's gates: a = σ(alpha) · exp(i·beta) (arXiv 2311.01927).

    ``alpha`` and ``beta`` are float32 or float64 and broadcastable to k; ``beta=None`` is a real
    recurrence. Everything else as in :func:`gated_linear_recurrence`.
    """
    return _recurrence(q, k, v, alpha, beta, mode=mode, state=state, reset=reset, logits=True)


def gated_linear_recurrence(
    q: Tensor | None,
    k: Tensor | None,
    v: Tensor,
    log_amplitude: Tensor,
    phase: Tensor | None,
    *,
    mode: str = "scan",
    state: Tensor | None = None,
    reset: Tensor | None = None,
    complex_output: bool = False,
    chunk: int | None = None,
    growth: bool = False,
) -> tuple[Tensor, Tensor]:
    """h_n = a_n ⊙ h_{n-1} + k_nᵀ v_n,  y_n = Re(q_n h_n),  a = exp(log_amplitude + i·phase).

    Shapes
        v (batch, length, heads, d_value), q and k (batch, length, heads, d_key), real or complex.
        The batch and length axes of q and k may be 1: constant over the batch, over time. None is
        one for every head and key.
        log_amplitude and phase: four axes, each 1 or that of (batch, length, heads, d_key). A
        length axis of 1 means fixed transitions, which no mode expands over the batch or over time.
        state (batch, heads, d_key, d_value): what came before the first step; None is zero.
        reset (batch, length) bool: the state is zero before that step.
    Returns
        y (batch, length, heads, d_value) and the state after the last step. Both, and the state
        handed in, are differentiable.
    Dtypes
        log_amplitude, phase and state are float32 or float64 (the state may be complex); q, k
        and v may also be bfloat16 or float16. Everything is computed in float32, in float64 where
        any argument is; autocast does not reach inside. y has v's real dtype, or is complex under
        ``complex_output``; the state is complex unless every argument is real.
    ``phase``
        Radians; None for a real recurrence in (0, 1]; or a bool tensor, where True is a half turn
        (a change of sign), which keeps a signed recurrence real.
    ``log_amplitude``
        At most 0. That is not checked, which would cost a pass over the data and a wait for the
        device on every call: a positive value counts as 0 and one under -100 as -100. -inf is
        allowed. Under ``growth`` a positive value counts as it is, and nothing bounds the state.
    ``mode``
        ``recurrent``, ``scan``, ``chunkwise`` and ``attention`` admit everything; ``convolution``
        only fixed transitions and constant q and k (batch and length axes of 1) without resets.
        ``auto`` takes the fastest by shape (docs/recurrence.md). All give the same result.
        ``chunk`` is the length of chunkwise's chunks; the other modes ignore it.

    Raises ValueError for wrong shapes, dtypes and modes, and where a mode does not admit them.
    """
    return _recurrence(
        q, k, v, log_amplitude, phase, mode=mode, state=state, reset=reset,
        complex_output=complex_output, chunk=chunk, growth=growth,
    )  # fmt: skip


def _recurrence(
    q: Tensor | None,
    k: Tensor | None,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    *,
    mode: str,
    state: Tensor | None,
    reset: Tensor | None,
    complex_output: bool = False,
    chunk: int | None = None,
    growth: bool = False,
    logits: bool = False,
) -> tuple[Tensor, Tensor]:
    """``amplitude`` is a log-amplitude, or its ``logits``, which a kernel turns into one itself."""
    bare = q is None and k is None
    q, k = _filled(q, k, v)
    batch, length, heads, d_key = shape = _check_inputs(q, k, v)
    _check_gate("alpha" if logits else "log_amplitude", amplitude, shape)
    _check(shape, v, phase, state, reset)
    varying = _varying(q, k, amplitude, phase, reset)
    d_value = v.shape[3]
    dtypes = {t.dtype for t in (q, k, v, amplitude, phase, state) if t is not None}
    wide = torch.float64 in dtypes or torch.complex128 in dtypes
    real = torch.float64 if wide else torch.float32
    signed = phase is not None and phase.dtype == torch.bool
    turns = phase is not None and not signed
    is_complex = turns or torch.complex64 in dtypes or torch.complex128 in dtypes
    fuses = (
        mode in ("auto", "scan")
        and not complex_output
        and kernels.fuses(q, k, v, turns, is_complex, real)
    )
    if mode == "auto":
        mode = _fastest(shape, d_value, constant=varying is None, kernel=fuses)
    run = _mode(mode, varying, chunk)
    if batch == 0:
        run = recurrent  # nothing, of the right shapes

    with _no_autocast(v.device.type):
        y_dtype = v.real.dtype if v.is_complex() else v.dtype
        low = run is scan and fuses and kernels.reads_16_bits(v)

        def inside(t: Tensor) -> Tensor:
            # the gradient of what is spread out is a sum, not to be one of rounded terms
            if low and t.dtype in _LOW_DTYPES and t.shape[:3] == shape[:3]:
                return t
            return _as(t, _COMPLEX[real] if t.is_complex() else real)

        q, k, v = inside(q), inside(k), inside(v)
        state_dtype = _COMPLEX[real] if is_complex else real
        if state is not None:
            state = _as(state, state_dtype)
        amplitude = _as(amplitude, real)
        if phase is not None and not signed:
            phase = _as(phase, real)

        def log_amplitude() -> Tensor:
            log = logsigmoid(amplitude) if logits else amplitude
            return _Bounded.apply(log, None if growth else 0.0)

        if run is convolution:  # has signs in its powers, and needs no zeros for a state
            y, last = run(q, k, v, log_amplitude(), phase, state, None, complex_output)
            return _as(y, _COMPLEX[real] if complex_output else y_dtype), _as(last, state_dtype)

        sign = None
        if signed:
            assert phase is not None
            sign = _signs(phase, length, real)
            q, k, phase = q * sign, k * sign, None
        q, k = _spread(q, shape), _spread(k, shape)
        if run is scan and fuses:
            y, last = kernels.fused(
                q, k, v, amplitude, phase, state, reset,
                is_complex=is_complex, logits=logits, growth=growth,
            )  # fmt: skip
        else:
            if state is None:
                state = v.new_zeros(batch, heads, d_key, d_value, dtype=state_dtype)
            if run is scan and bare and sign is None and d_key == d_value == 1:
                a = transition(log_amplitude(), phase)
                y, last = _states(v, a, state, reset, complex_output)
            else:
                y, last = run(q, k, v, log_amplitude(), phase, state, reset, complex_output)
        if sign is not None:
            last = last * sign[:, -1, :, :, None]
        return _as(y, _COMPLEX[real] if complex_output else y_dtype), last


def _no_autocast(device: str) -> AbstractContextManager[object]:
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


# What changes nothing is not asked of torch: beside a kernel that has emptied the caches, a call
# that returns its argument takes tens of microseconds.
def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype else t.to(dtype)


def _spread(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    return t if t.shape == shape else t.expand(shape)


def _filled(q: Tensor | None, k: Tensor | None, v: Tensor) -> tuple[Tensor, Tensor]:
    """q and k, with ones in the place of None."""
    if q is not None and k is not None:
        return q, k
    given = k if q is None else q
    size = (*v.shape[2:3], 1) if given is None else given.shape[2:]
    real = v.real.dtype if v.is_complex() else v.dtype
    one = v.new_ones(1, 1, *size, dtype=real)
    return one if q is None else q, one if k is None else k


def _states(
    v_BLH1: Tensor, a: Tensor, state_BH11: Tensor, reset_BL: Tensor | None, complex_output: bool
) -> tuple[Tensor, Tensor]:
    """y and the last state where q = k = 1: the states themselves."""
    dtype = state_BH11.dtype
    a = a.to(dtype).expand(*a.shape[:2], v_BLH1.shape[2], 1).squeeze(-1)
    h_BLH = linear_scan(a, v_BLH1.squeeze(-1).to(dtype), state_BH11.flatten(1), reset=reset_BL)
    y = h_BLH.real if h_BLH.is_complex() and not complex_output else h_BLH
    return y[..., None], h_BLH[:, -1, :, None, None].clone()


def _signs(half_turns: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """±1 by the parity of the half turns so far: h_n · sign_n has transitions of no sign.

    Counted in integers, so exact at any length. A reset needs nothing: a zero has no sign.
    """
    if half_turns.shape[1] == length:
        odd = half_turns.cumsum(1) % 2
    else:
        steps = torch.arange(1, length + 1, device=half_turns.device)
        odd = (steps % 2)[:, None, None] * half_turns
    return (1 - 2 * odd).to(dtype)


def _varying(
    q: Tensor, k: Tensor, log_amplitude: Tensor, phase: Tensor | None, reset: Tensor | None
) -> tuple[str, Tensor] | None:
    """What keeps a convolution from being one, and its name; None where nothing does."""
    if reset is not None:
        return "reset", reset
    for name, t in (("q", q), ("k", k), ("log_amplitude", log_amplitude), ("phase", phase)):
        if t is not None and not t.shape[0] == t.shape[1] == 1:
            return name, t
    return None


def _mode(
    mode: str, varying: tuple[str, Tensor] | None, chunk: int | None
) -> Callable[..., tuple[Tensor, Tensor]]:
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk is {chunk!r}; it must be a whole number of at least 1")
    if mode == "recurrent":
        return recurrent
    if mode == "scan":
        return scan
    if mode == "attention":
        return attention
    if mode == "chunkwise":
        return partial(chunkwise, chunk=chunk or CHUNK)
    if mode == "convolution":
        if varying is not None:
            name, t = varying
            what = f"{name} is given" if name == "reset" else f"{name} has shape {tuple(t.shape)}"
            raise ValueError(
                f"mode is 'convolution' and {what}; one kernel serves the whole sequence only "
                "without resets and with batch and length axes of 1 in q, k, log_amplitude and "
                f"phase; else choose one of {', '.join((*MODES, 'auto'))}"
            )
        return convolution
    admitted = (*FIXED_MODES, "auto")
    nearest = difflib.get_close_matches(str(mode), admitted, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(admitted)}{hint}")


def _fastest(shape: tuple[int, int, int, int], d_value: int, constant: bool, kernel: bool) -> str:
    _, length, _, d_key = shape
    if length == 1:
        return "recurrent"
    if constant and length >= CONVOLUTION_FROM_LENGTH and d_key >= CONVOLUTION_FROM_KEYS:
        return "convolution"
    return "scan" if kernel or d_key * d_value < CHUNKWISE_FROM else "chunkwise"


def _check_inputs(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, int, int, int]:
    """The sizes (batch, length, heads, d_key), batch and length being v's."""
    if v.ndim != 4:
        raise ValueError(
            f"v has shape {tuple(v.shape)}; it must be (batch, length, heads, d_value)"
        )
    if q.ndim != 4:
        raise ValueError(f"q has shape {tuple(q.shape)}; it must be (batch, length, heads, d_key)")
    batch, length, heads, d_value = v.shape
    d_key = q.shape[3]
    shape = batch, length, heads, d_key
    for name, t in (("q", q), ("k", k)):
        if not _fits(t, shape) or t.shape[2:] != shape[2:]:
            raise ValueError(
                f"{name} has shape {tuple(t.shape)}; with v {tuple(v.shape)} it must be "
                f"(batch, length, heads, d_key), here {shape}, where batch and length may be 1"
            )
    if length == 0:
        raise ValueError("the sequence has length 0; it must have at least one step")
    if heads * d_key * d_value == 0:
        raise ValueError(
            f"q {tuple(q.shape)} and v {tuple(v.shape)} must have no axis of size 0 but the batch"
        )
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.dtype not in _INPUT_DTYPES:
            raise ValueError(f"{name} is {t.dtype}; it must be a floating or complex tensor")
    return shape


def _fits(t: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether each axis of ``t`` is 1 or that of ``shape``."""
    return t.shape == shape or (
        t.ndim == len(shape) and all(n in (1, full) for n, full in zip(t.shape, shape, strict=True))
    )


def _check(
    shape: tuple[int, int, int, int],
    v: Tensor,
    phase: Tensor | None,
    state: Tensor | None,
    reset: Tensor | None,
) -> None:
    batch, length, heads, d_key = shape
    if phase is not None:
        _check_gate("phase", phase, shape, boolean=True)
    if state is not None:
        expected = (batch, heads, d_key, v.shape[3])
        if tuple(state.shape) != expected:
            raise ValueError(
                f"state has shape {tuple(state.shape)}; it must be "
                f"(batch, heads, d_key, d_value), here {expected}"
            )
        if state.dtype not in (*_GATE_DTYPES, *_COMPLEX.values()):
            raise ValueError(f"state is {state.dtype}; it must be float32, float64 or complex")
    if reset is not None and (tuple(reset.shape) != (batch, length) or reset.dtype != torch.bool):
        raise ValueError(
            f"reset is {reset.dtype} of shape {tuple(reset.shape)}; it must be bool of shape "
            f"(batch, length), here {(batch, length)}"
        )


def _check_gate(
    name: str, gate: Tensor, shape: tuple[int, int, int, int], boolean: bool = False
) -> None:
    if gate.dtype not in _GATE_DTYPES and not (boolean and gate.dtype == torch.bool):
        raise ValueError(
            f"{name} is {gate.dtype}; gates must be float32 or float64, made outside autocast: "
            "rounding them to 16 bits changes the output by up to 11 %"
        )
    if not _fits(gate, shape):
        raise ValueError(
            f"{name} has shape {tuple(gate.shape)}; each of its four axes must be 1 or that of "
            f"(batch, length, heads, d_key), here {shape}"
        )
