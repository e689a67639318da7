"""Measures what docs/numerics.md says, prints its tables and draws its picture.

    python docs/numerics.py

Takes about half a minute on one core. Needs matplotlib.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from gateloop.recurrence import gated_linear_recurrence

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
LOGITS = (0.0, 4.0, 8.0)  # means of the gate logits: amplitudes about 0.5, 0.98 and 0.9997
CHANNELS = 8
MODES = ("recurrent", "scan", "chunkwise", "attention")


def inputs(length: int, logit: float, phase: float = 0.0, channels: int = CHANNELS) -> list[Tensor]:
    """q, k, v, gate logits and phases in float32 values: standard normal about the given means."""
    noise = torch.Generator().manual_seed(length)
    shape = (1, length, channels, 1)
    tensors = [torch.randn(shape, generator=noise) for _ in range(5)]
    tensors[3] += logit
    tensors[4] += phase
    return tensors


def step_loop(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The recurrence as it is written, in float64."""
    q, k, v, alpha, beta = (t.double() for t in (q, k, v, alpha, beta))
    a = torch.polar(alpha.sigmoid(), beta)
    h = torch.zeros_like(a[:, 0])
    outputs = []
    for n in range(q.shape[1]):
        h = a[:, n] * h + k[:, n] * v[:, n]
        outputs.append((q[:, n] * h).real)
    return torch.stack(outputs, 1)


def prefix_products(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """(q_n P_n) Σ_m (k_m / P_m) v_m with P the products of all transitions so far.

    Kindly written: only the sums that causality asks for, no masked products with an infinity.
    """
    products = torch.cumprod(torch.polar(alpha.sigmoid(), beta), dim=1)
    return (q * products * ((k * v) / products).cumsum(1)).real


def log_differences(mode: str, x: list[Tensor]) -> Tensor:
    q, k, v, alpha, beta = x
    return gated_linear_recurrence(q, k, v, torch.nn.functional.logsigmoid(alpha), beta, mode=mode)[
        0
    ]


def error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


def finite(y: Tensor) -> float:
    return y.isfinite().double().mean().item()


def phase_by_global_sums(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """q and k rotated by float32 prefix sums from the sequence's start; all else in float64."""
    turn = torch.polar(torch.ones_like(beta).double(), beta.cumsum(1).double())
    a = alpha.double().sigmoid()
    h = torch.zeros_like(turn[:, 0])
    outputs = []
    for n in range(q.shape[1]):
        h = a[:, n] * h + k[:, n].double() * v[:, n] * turn[:, n].conj()
        outputs.append((q[:, n].double() * turn[:, n] * h).real)
    return torch.stack(outputs, 1)


def in_bfloat16(x: list[Tensor]) -> list[Tensor]:
    return [*x[:3], *(gate.bfloat16().float() for gate in x[3:])]


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def measure() -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    shares: dict[str, list[float]] = {}
    for logit in LOGITS:
        amplitude = torch.sigmoid(torch.tensor(logit)).item()
        shares[f"products, amplitude ≈ {amplitude:.4g}"] = [
            1 - finite(prefix_products(*inputs(length, logit, channels=256))) for length in LENGTHS
        ]
    shares["log-differences, all three"] = [
        1 - min(finite(log_differences("attention", inputs(length, logit))) for logit in LOGITS)
        for length in LENGTHS
    ]
    rows = [
        [str(n), *(f"{100 * share[i]:.0f} %" for share in shares.values())]
        for i, n in enumerate(LENGTHS)
    ]
    table("float32: outputs that are inf or NaN", ["length", *shares], rows)

    errors: dict[str, list[float]] = {mode: [] for mode in MODES}
    for length in LENGTHS:
        x = inputs(length, 0.0)
        expected = step_loop(*x)
        for mode in MODES:
            errors[mode].append(error(log_differences(mode, x), expected))
    rows = [[str(n), *(f"{errors[mode][i]:.1e}" for mode in MODES)] for i, n in enumerate(LENGTHS)]
    table("Our modes in float32, mean logit 0: max|Δ| / max|y|", ["length", *MODES], rows)

    rows = []
    for logit in LOGITS:
        x = inputs(4096, logit)
        expected = step_loop(*x)
        found = [error(log_differences(mode, x), expected) for mode in MODES]
        low = error(step_loop(*in_bfloat16(x)), expected)
        rows.append([f"{logit:.0f}", *(f"{e:.1e}" for e in found), f"{low:.1e}"])
    table(
        "Length 4096 by mean logit; last, gates rounded to bfloat16 and all else in float64",
        ["logit", *MODES, "bfloat16 gates"],
        rows,
    )

    rows = []
    for length in (1024, 4096, 16384):
        x = inputs(length, 4.0, phase=1.0)
        expected = step_loop(*x)
        found = [error(phase_by_global_sums(*x), expected)]
        found.append(error(log_differences("chunkwise", x), expected))
        rows.append([str(length), *(f"{e:.1e}" for e in found)])
    table(
        "Phases of mean 1: float32 prefix sums from the start, against sums by chunk",
        ["length", "from the start", "by chunk (mode chunkwise)"],
        rows,
    )
    return shares, errors


def draw(shares: dict[str, list[float]], errors: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for (label, share), style in zip(shares.items(), ("o-", "s-", "D-", "k--"), strict=True):
        left.plot(LENGTHS, [100 * s for s in share], style, label=label)
    left.set(title="Outputs that are inf or NaN (float32)", ylabel="per cent", ylim=(-4, 104))
    for (mode, values), marker in zip(errors.items(), "osD^", strict=True):
        right.plot(LENGTHS, values, marker=marker, label=mode)
    right.axhline(1e-5, color="black", ls="--", label="tolerance")
    right.set(
        title="Error of our modes (float32), amplitude ≈ 0.5",
        ylabel="max|Δ| / max|y|",
        yscale="log",
        ylim=(3e-8, 3e-5),
    )
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
        axes.set_xlabel("length")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
    os.replace(temporary, path)


def main() -> None:
    torch.set_num_threads(1)
    shares, errors = measure()
    draw(shares, errors, Path(__file__).with_name("numerics.png"))


if __name__ == "__main__":
    with torch.no_grad():
        main()
