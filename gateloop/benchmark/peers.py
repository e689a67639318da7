"""Other packages' recurrences. Each is imported when it is tried, and fed as it wants to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gateloop.benchmark.problem import Calls, Problem

Scan = Callable[[Tensor, Tensor], Tensor]  # a, x (batch, length, …) complex → all states


def with_eager_gates(scan: Scan) -> Callable[..., Tensor]:
    """The max-headed operator around a bare scan: what one writes who has only that."""

    def operator(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        a = torch.polar(alpha.sigmoid(), beta)
        return q * scan(a, (k * v).to(a.dtype)).real.to(q.dtype)

    return operator


# -- lucidrains' gateloop-transformer ----------------------------------------------------


def lucidrains_scan(a: Tensor, x: Tensor) -> Tensor:
    from gateloop_transformer.associative_scan import associative_scan
    from gateloop_transformer.simplified_gate_loop import binary_operator

    return associative_scan(binary_operator, (a, x))[1]


def lucidrains_simplified(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """simplified_gate_loop.gate_loop_operator, whose layer has real gates, with complex ones."""
    from gateloop_transformer.simplified_gate_loop import gate_loop_operator

    a = torch.polar(alpha.sigmoid(), beta)
    return gate_loop_operator(q, (k * v).to(a.dtype), a)[0].real.to(q.dtype)


def lucidrains_max_headed(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """gateloop_transformer.gate_loop_operator with a head for each channel, its layer's default."""
    y = lucidrains_heads(*(t[..., None] for t in (q, k, v, alpha, beta)))
    return y.squeeze(-1)


def lucidrains_heads(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The same of (batch, length, heads, ·), heads laid beside the batch as its layer does."""
    from gateloop_transformer.gateloop_transformer import gate_loop_operator

    batch, length, heads, _ = q.shape

    def beside(t: Tensor) -> Tensor:
        return t.transpose(1, 2).reshape(batch * heads, length, -1)

    a = torch.polar(alpha.sigmoid(), beta)
    y = gate_loop_operator(beside(q), beside(k), beside(v), beside(a)[..., None])
    return y.view(batch, heads, length, -1).transpose(1, 2)


# -- torch -------------------------------------------------------------------------------


def torch_scan(a: Tensor, x: Tensor) -> Tensor:
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    return associative_scan(combine, (a, x), dim=1, combine_mode="generic")[1]


def step_loop(a: Tensor, x: Tensor) -> Tensor:
    """One step after the other, as one writes it down."""
    state = torch.zeros_like(x[:, 0])
    states = []
    for a_n, x_n in zip(a.unbind(1), x.unbind(1), strict=True):
        state = a_n * state + x_n
        states.append(state)
    return torch.stack(states, dim=1)


# -- GPU kernels -------------------------------------------------------------------------


def accelerated_scan(a: Tensor, x: Tensor) -> Tensor:
    """With the transposes to its layout (batch, channels, length) and back."""
    from accelerated_scan.complex import scan

    return scan(a.transpose(1, 2).contiguous(), x.transpose(1, 2).contiguous()).transpose(1, 2)


def fla_hgrn(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """chunk_hgrn, which has no phase: a smaller operation, with half the state."""
    from fla.ops.hgrn import chunk_hgrn

    return q * chunk_hgrn(k * v, torch.nn.functional.logsigmoid(alpha).to(q.dtype))[0]


def fla_gla(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """chunk_gla, which is real, with the phases' prefix sums turned into q and k of twice the keys:
    Re(e^{i(Φ_n − Φ_m)}) = cos Φ_n cos Φ_m + sin Φ_n sin Φ_m."""
    from fla.ops.gla import chunk_gla

    turn = beta.double().cumsum(1)
    cos, sin = turn.cos().to(q.dtype), turn.sin().to(q.dtype)
    q, k = (torch.cat([t * cos, t * sin], dim=-1) for t in (q, k))
    decay = torch.nn.functional.logsigmoid(alpha)
    return chunk_gla(q, k, v, torch.cat([decay, decay], dim=-1), scale=1.0)[0]


# -- JAX ---------------------------------------------------------------------------------


def jax_calls(kind: str, scan: str, problem: Problem) -> Calls:
    """jax.lax.``scan`` (associative_scan or scan) under jit, gates and gradients inside too."""
    if problem.inputs[0].is_cuda:
        raise RuntimeError("on a GPU its kernels are on a stream of its own, not timed here")
    import jax
    import jax.numpy as jnp

    def associative(a: Any, x: Any) -> Any:
        def combine(left: Any, right: Any) -> Any:
            return left[0] * right[0], right[0] * left[1] + right[1]

        return jax.lax.associative_scan(combine, (a, x), axis=1)[1]

    def sequential(a: Any, x: Any) -> Any:
        def step(state: Any, inputs: Any) -> Any:
            state = inputs[0] * state + inputs[1]
            return state, state

        by_step = jnp.moveaxis(a, 1, 0), jnp.moveaxis(x, 1, 0)
        return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(x[:, 0]), by_step)[1], 0, 1)

    states = associative if scan == "associative_scan" else sequential

    def operator(q: Any, k: Any, v: Any, alpha: Any, beta: Any) -> Any:
        amplitude = jax.nn.sigmoid(alpha)
        a = jax.lax.complex(amplitude * jnp.cos(beta), amplitude * jnp.sin(beta))
        return q * states(a, (k * v).astype(a.dtype)).real

    function = states if kind == "linear_scan" else operator
    inputs = [jnp.asarray(t.detach().numpy(force=True)) for t in problem.inputs]
    # torch's gradient of a complex input is the conjugate of jax's
    gradient = jnp.asarray(problem.gradient.numpy(force=True)).conj()

    def pulled(inputs: list[Any], gradient: Any) -> Any:
        result, pull = jax.vjp(function, *inputs)
        return result, *(g.conj() for g in pull(gradient))

    forward, both = jax.jit(function), jax.jit(pulled)

    def results() -> list[Tensor]:
        return [
            torch.utils.dlpack.from_dlpack(t) for t in jax.block_until_ready(both(inputs, gradient))
        ]

    return Calls(lambda: jax.block_until_ready(forward(*inputs)), results)
