"""The kernels as operators of torch: autograd, torch.compile and autocast know them.

Each has a C kernel for the CPU and, where it says so, a Triton kernel for CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad

from gateloop.recurrence.derivative import OTHER_MODES, first_only
from gateloop.recurrence.kernels import cpu

CHUNK = {"cpu": 16, "cuda": 64}  # steps between the states that gate_loop keeps
LIBRARY = torch.library.Library("gateloop", "FRAGMENT")


def _operator(on_cpu: Callable[..., Any]) -> OpOverload:
    """The operator of torch that ``on_cpu``'s name and annotations describe.

    As torch.library.custom_op makes one, less what that checks at every call: beside a kernel that
    has emptied the caches these checks take a tenth of its time.
    """
    name = on_cpu.__name__
    schema = name + torch.library.infer_schema(on_cpu, mutates_args=())
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, on_cpu, "CPU")
    operator: OpOverload = getattr(torch.ops.gateloop, name).default
    return operator


def _triton(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A kernel that names the way around it where it fails: what is tried at the first use
    (kernels/cuda.py) is not every shape."""

    def named(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            try:
                return kernel(*inputs)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler or a driver may say
                said = (str(error).splitlines() or [""])[0]
                raise RuntimeError(
                    f"the Triton kernel of {name} fails ({type(error).__name__}: {said}); with "
                    "GATELOOP_KERNELS=off in the environment PyTorch computes the recurrence"
                ) from error

        return run

    return named


@_operator
def gate_loop(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
    keeps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_n = a_n h_{n-1} + k_n v_n,  y_n = q_n Re h_n,  gates and read-out in one pass.

    Shapes
        q, k, v (batch, length, heads, width), real; any strides, 0 among them.
        amplitude and phase (batch or 1, length or 1, heads, width): logits of σ, else logarithms
        that count as 0 above it unless ``growth``; radians, or None for a real recurrence.
        state (batch, heads, d_key, d_value, parts), one of the d's the width, the other 1: real and
        imaginary part, or the one of a real recurrence.
        reset (batch, length) bool or None: the state is zero before that step.
    Returns y (batch, length, heads, width), the last state, and the states before every CHUNK
    steps, (batch, ⌈length / CHUNK⌉, parts, heads · width), from which the backward pass computes
    all others again; none unless it ``keeps`` them, as it does wherever autograd asks it for
    gradients. All of one dtype, float32 or, on a CPU, float64; on a GPU q, k and v, with y and
    their gradients, may each be of 16 bits.
    """
    return cpu.gate_loop(q, k, v, amplitude, phase, state, reset, logits, growth, keeps)


@torch.library.impl(LIBRARY, "gate_loop", "CUDA")
@_triton("gate_loop")
def gate_loop_on_cuda(  # type: ignore[no-untyped-def]
    q, k, v, amplitude, phase, state, reset, logits, growth, keeps
):
    from gateloop.recurrence.kernels import triton_elementwise

    q, k, x, amplitude, phase = _flat(q, k, v, amplitude, phase)
    y, last, kept = triton_elementwise.forward(
        q, k, x, amplitude, phase, state.flatten(1, 3), reset, logits, growth, keeps
    )
    return y.view(v.shape), last.view(state.shape), kept


def _flat(*arrays: Any) -> Iterator[Any]:
    return (None if t is None else t.flatten(2) for t in arrays)


@torch.library.register_fake("gateloop::gate_loop", lib=LIBRARY)
def _(q, k, v, amplitude, phase, state, reset, logits, growth, keeps):  # type: ignore[no-untyped-def]
    chunk = CHUNK[v.device.type]
    chunks = (v.shape[1] + chunk - 1) // chunk if keeps else 0
    kept = state.new_empty(v.shape[0], chunks, state.shape[-1], v.shape[2] * v.shape[3])
    return v.new_empty(v.shape), state.new_empty(state.shape), kept


@_operator
def gate_loop_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    kept: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients by q, k, v, amplitude, phase and state; by a fixed gate of length 1.

    That by a phase of None is empty.
    """
    by_q, by_k, by_v, by_amplitude, by_phase, by_state = cpu.gate_loop_backward(
        grad_y, grad_last, q, k, v, amplitude, phase, kept, reset, logits, growth
    )
    by_phase = v.new_empty(0) if by_phase is None else by_phase
    return by_q, by_k, by_v, by_amplitude, by_phase, by_state


@torch.library.impl(LIBRARY, "gate_loop_backward", "CUDA")
@_triton("gate_loop_backward")
def gate_loop_backward_on_cuda(  # type: ignore[no-untyped-def]
    grad_y, grad_last, q, k, v, amplitude, phase, kept, reset, logits, growth
):
    from gateloop.recurrence.kernels import triton_elementwise

    grad_y, q, k, x, amplitude, phase = _flat(grad_y, q, k, v, amplitude, phase)
    *by_inputs, by_state = triton_elementwise.backward(
        grad_y, grad_last.flatten(1, 3), q, k, x, amplitude, phase, kept, reset, logits, growth
    )
    heads = v.shape[2:]
    by_inputs = [v.new_empty(0) if t is None else t.unflatten(2, heads) for t in by_inputs]
    return (*by_inputs, by_state.view(grad_last.shape))


@torch.library.register_fake("gateloop::gate_loop_backward", lib=LIBRARY)
def _(grad_y, grad_last, q, k, v, amplitude, phase, kept, reset, logits, growth):  # type: ignore[no-untyped-def]
    def like(gate):  # type: ignore[no-untyped-def]
        if gate is None:
            return v.new_empty(0)
        return gate.new_empty(v.shape[0], gate.shape[1], *v.shape[2:])

    by_qkv = (t.new_empty(v.shape) for t in (q, k, v))
    return (*by_qkv, like(amplitude), like(phase), grad_last.new_empty(grad_last.shape))


@_operator
def outer_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
    keeps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_n = a_n ⊙ h_{n-1} + k_nᵀ v_n,  y_n = Re(q_n h_n), for heads with a matrix of state.

    As ``gate_loop``, but q and k are (batch, length, heads, d_key), real or, on a CPU, complex, v
    (batch, length, heads, d_value) real, amplitude and phase (batch or 1, length or 1, heads or 1,
    d_key or 1), state (batch, heads, d_key, d_value, parts). Of the states it ``keeps`` those
    before every 32nd step, before every 64th on a GPU, in an order of their own.
    """
    return cpu.outer_product(q, k, v, amplitude, phase, state, reset, logits, growth, keeps)


@torch.library.impl(LIBRARY, "outer_product", "CUDA")
@_triton("outer_product")
def _(q, k, v, amplitude, phase, state, reset, logits, growth, keeps):  # type: ignore[no-untyped-def]
    from gateloop.recurrence.kernels import triton_chunkwise

    return triton_chunkwise.forward(q, k, v, amplitude, phase, state, reset, logits, growth, keeps)


@torch.library.register_fake("gateloop::outer_product", lib=LIBRARY)
def _(q, k, v, amplitude, phase, state, reset, logits, growth, keeps):  # type: ignore[no-untyped-def]
    if v.device.type == "cuda":
        batch, heads, d_key, d_value, parts = state.shape
        chunks = -(-v.shape[1] // CHUNK["cuda"]) if keeps else 0
        kept = state.new_empty(batch, chunks, parts, heads, d_key, d_value)
        return v.new_empty(v.shape), state.new_empty(state.shape), kept
    group = 32 if v.dtype == torch.float32 else 16
    groups, chunks = -(-q.shape[3] // group), -(-v.shape[1] // 32) if keeps else 0
    kept = v.new_empty(v.shape[0], v.shape[2], groups, chunks, v.shape[3], state.shape[4], group)
    return v.new_empty(v.shape), state.new_empty(state.shape), kept


@_operator
def outer_product_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    amplitude: Tensor,
    phase: Tensor | None,
    kept: Tensor,
    reset: Tensor | None,
    logits: bool,
    growth: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients by q, k, v, amplitude, phase and state.

    Those of the gates are (batch, length, heads, d_key), fixed gates' of length 1; that by a phase
    of None is empty.
    """
    by_q, by_k, by_v, by_amplitude, by_phase, by_state = cpu.outer_product_backward(
        grad_y, grad_last, q, k, v, amplitude, phase, kept, reset, logits, growth
    )
    by_phase = v.new_empty(0) if by_phase is None else by_phase
    return by_q, by_k, by_v, by_amplitude, by_phase, by_state


@torch.library.impl(LIBRARY, "outer_product_backward", "CUDA")
@_triton("outer_product_backward")
def _(grad_y, grad_last, q, k, v, amplitude, phase, kept, reset, logits, growth):  # type: ignore[no-untyped-def]
    from gateloop.recurrence.kernels import triton_chunkwise

    *others, by_phase, by_state = triton_chunkwise.backward(
        grad_y, grad_last, q, k, v, amplitude, phase, kept, reset, logits, growth
    )
    return (*others, v.new_empty(0) if by_phase is None else by_phase, by_state)


@torch.library.register_fake("gateloop::outer_product_backward", lib=LIBRARY)
def _(grad_y, grad_last, q, k, v, amplitude, phase, kept, reset, logits, growth):  # type: ignore[no-untyped-def]
    def like(gate):  # type: ignore[no-untyped-def]
        if gate is None:
            return v.new_empty(0)
        return gate.new_empty(v.shape[0], gate.shape[1], *q.shape[2:])

    full = (*v.shape[:3], q.shape[3])
    by_qkv = q.new_empty(full), k.new_empty(full), v.new_empty(v.shape)
    return (*by_qkv, like(amplitude), like(phase), grad_last.new_empty(grad_last.shape))


def _differentiable(operator: OpOverload, backward: OpOverload) -> None:
    """Have torch take the gradients of a recurrence from ``backward``."""

    class Recurrence(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
            with torch._C._AutoDispatchBelowAutograd():
                y, last, kept = operator(*inputs[:-1], True)
            q, k, v, amplitude, phase, state, reset, ctx.logits, ctx.growth, _ = inputs
            ctx.save_for_backward(q, k, v, amplitude, phase, reset, kept)
            ctx.state_shape = state.shape
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(kept)
            return y, last, kept

        @staticmethod
        @first_only(OTHER_MODES)
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            grad_y, grad_last, _ = grads
            q, k, v, amplitude, phase, reset, kept = ctx.saved_tensors
            grad_y = v.new_zeros((1,) * v.ndim).expand(v.shape) if grad_y is None else grad_y
            grad_last = kept.new_zeros(ctx.state_shape) if grad_last is None else grad_last
            by_q, by_k, by_v, by_amplitude, by_phase, by_state = backward(
                grad_y, grad_last, q, k, v, amplitude, phase, kept, reset, ctx.logits, ctx.growth
            )
            by_amplitude = _summed(by_amplitude, amplitude)
            by_phase = None if phase is None else _summed(by_phase, phase)
            return by_q, by_k, by_v, by_amplitude, by_phase, by_state, None, None, None, None

    def recurrence(*inputs: Any) -> Any:
        # where nobody asks for a derivative, half of the way through autograd is saved; one that
        # goes forward is asked for by no tensor's requires_grad, and refused by Recurrence
        backward_asked = torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs)
        if backward_asked or forward_ad._current_level >= 0:
            return Recurrence.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    LIBRARY.impl(operator, recurrence, "Autograd")


def _summed(terms: Tensor, gate: Tensor) -> Tensor:
    return terms if terms.shape == gate.shape else terms.sum_to_size(gate.shape)


_differentiable(gate_loop, gate_loop_backward)
_differentiable(outer_product, outer_product_backward)


@torch.library.custom_op("gateloop::linear_scan_", mutates_args={"out"}, device_types="cpu")
def linear_scan_(
    a: Tensor, x: Tensor, start: Tensor, reset: Tensor | None, out: Tensor, reverse: bool
) -> None:
    """out_n ← h_n of h_n = a_n h_{n∓1} + x_n, towards the future or the past.

    x (batch, length, channels) of any strides; a (batch or 1, length or 1, channels / r), each
    number of it for r channels in a row; start (batch, channels); out as x, its last axis dense,
    or x itself; all real or all complex. reset (batch, length) bool or None: what came before that
    step counts nothing.
    """
    cpu.linear_scan_(a, x, start, reset, out, reverse)


@linear_scan_.register_kernel("cuda")
@_triton("linear_scan")
def _(a, x, start, reset, out, reverse):  # type: ignore[no-untyped-def]
    from gateloop.recurrence.kernels import triton_linear_scan

    triton_linear_scan.scan_(a, x, start, reset, out, reverse)


@torch.library.custom_op("gateloop::linear_scan_backward", mutates_args=(), device_types="cpu")
def linear_scan_backward(
    grad: Tensor, a: Tensor, h: Tensor, start: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by a, x and start of all states h, (batch, length, channels), dense.

    That by a fixed a is (batch, 1, channels).
    """
    return cpu.linear_scan_backward(grad, a, h, start, reset)


@linear_scan_backward.register_kernel("cuda")
@_triton("linear_scan_backward")
def _(grad, a, h, start, reset):  # type: ignore[no-untyped-def]
    from gateloop.recurrence.kernels import triton_linear_scan

    return triton_linear_scan.backward(grad, a, h, start, reset)


@linear_scan_backward.register_fake
def _(grad, a, h, start, reset):  # type: ignore[no-untyped-def]
    by_a = h.new_empty(h.shape[0], a.shape[1], h.shape[2])
    return by_a, h.new_empty(h.shape), start.new_empty(start.shape)
