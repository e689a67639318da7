"""All modes compute the recurrence as it is written, and so do their gradients."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch

from gateloop.recurrence import MODES, gated_linear_recurrence
from tests.recurrence.reference import TOLERANCE, Inputs, assert_same, distance, make, step_loop

MAX_HEADED = (2, 77, 5, 1, 1)
OUTER = (2, 83, 2, 5, 3)

CASES = {
    "max-headed": make(MAX_HEADED),
    "max-headed, length 1": make((3, 1, 4, 1, 1)),
    "max-headed, length 2": make((3, 2, 4, 1, 1)),
    "max-headed, one block": make((2, 16, 3, 1, 1)),
    "max-headed, one block and a step": make((2, 17, 3, 1, 1)),
    "max-headed, blocks of blocks": make((1, 16 * 16 + 33, 2, 1, 1)),
    "max-headed, no state": make(MAX_HEADED, state=False),
    "max-headed, real": make(MAX_HEADED, phase="none"),
    "max-headed, signed": make(MAX_HEADED, phase="half turns"),
    "max-headed, signed and fixed": make(MAX_HEADED, phase="half turns", phase_axes="H"),
    "max-headed, fixed": make(MAX_HEADED, amplitude_axes="H", phase_axes="H"),
    "max-headed, fixed phase": make(MAX_HEADED, phase_axes="H"),
    "max-headed, fixed amplitude": make(MAX_HEADED, amplitude_axes="H"),
    "max-headed, amplitude one": make(MAX_HEADED, amplitude="one"),
    "cumulative sum": make(MAX_HEADED, amplitude="one", amplitude_axes="", phase="none"),
    "max-headed, resets": make(MAX_HEADED, resets=True),
    "max-headed, fixed, resets": make(
        MAX_HEADED, amplitude_axes="H", phase_axes="H", resets=True
    ),
    "max-headed, signed, resets": make(MAX_HEADED, phase="half turns", resets=True),
    "max-headed, complex v, complex read-out": make(
        MAX_HEADED, amplitude_axes="H", phase_axes="H", complex_inputs="v", complex_output=True
    ),
    "outer": make(OUTER),
    "outer, length 1": make((2, 1, 2, 3, 4)),
    "outer, shorter than a block": make((2, 7, 2, 3, 4)),
    "outer, whole chunks": make((1, 128, 1, 3, 4)),
    "outer, a chunk and a step": make((1, 65, 1, 3, 4)),
    "outer, one key": make((2, 70, 2, 1, 4)),
    "outer, one value": make((2, 70, 2, 4, 1)),
    "outer, real": make(OUTER, phase="none"),
    "outer, real, no state": make(OUTER, phase="none", state=False),
    "outer, signed": make(OUTER, phase="half turns"),
    "outer, signed, no state": make(OUTER, phase="half turns", state=False),
    "outer, amplitude by head": make(OUTER, amplitude_axes="BLH"),
    "outer, all by head": make(OUTER, amplitude_axes="BLH", phase_axes="BLH"),
    "outer, fixed by head": make(OUTER, amplitude_axes="H", phase_axes="HK"),
    "outer, fixed by key": make(OUTER, amplitude_axes="HK", phase_axes="HK"),
    "outer, shared by the batch": make(OUTER, amplitude_axes="LHK", phase_axes="L"),
    "outer, linear attention": make(OUTER, amplitude="one", amplitude_axes="", phase="none"),
    "max-headed, constant q and k": make(
        MAX_HEADED, amplitude_axes="H", phase_axes="H", qk_axes="H", complex_inputs="qk"
    ),
    "outer, constant q and k": make(
        OUTER, amplitude_axes="HK", phase_axes="HK", qk_axes="HK", complex_inputs="qk"
    ),
    "outer, constant q and k, resets": make(OUTER, qk_axes="HK", resets=True),
    "outer, q and k constant over time": make(OUTER, qk_axes="BHK", phase="none"),
    "outer, q and k shared by the batch": make(OUTER, qk_axes="LHK", phase="half turns"),
    "outer, resets": make(OUTER, resets=True),
    "outer, fixed, resets": make(OUTER, amplitude_axes="HK", phase_axes="HK", resets=True),
    "outer, all by head, resets": make(
        OUTER, amplitude_axes="BLH", phase_axes="BLH", resets=True
    ),
    "outer, complex q": make(OUTER, complex_inputs="q"),
    "outer, complex k": make(OUTER, complex_inputs="k"),
    "outer, complex v": make(OUTER, complex_inputs="v"),
    "outer, complex q, k and v": make(OUTER, complex_inputs="qkv", resets=True),
    "outer, complex q, no phase": make(OUTER, complex_inputs="q", phase="none"),
    "outer, complex state alone": replace(
        make(OUTER, phase="none"), state=make(OUTER).state
    ),
    "outer, complex read-out": make(OUTER, complex_output=True),
    "outer, everything complex": make(
        OUTER, complex_inputs="qkv", complex_output=True, resets=True
    ),
    "outer, real, complex read-out": make(OUTER, phase="none", complex_output=True),
}  # fmt: skip


def run(x: Inputs, mode: str, chunk: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    return gated_linear_recurrence(
        x.q,
        x.k,
        x.v,
        x.log_amplitude,
        x.phase,
        mode=mode,
        state=x.state,
        reset=x.reset,
        complex_output=x.complex_output,
        chunk=chunk,
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_a_mode_computes_the_recurrence(case: str, mode: str, dtype: torch.dtype) -> None:
    assert_same(partial(run, mode=mode), CASES[case].to(dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(seed: int, mode: str) -> None:
    draw = torch.Generator().manual_seed(seed)

    def below(most: int) -> int:
        return int(torch.randint(1, most, (), generator=draw))

    x = make(
        (below(4), below(150), below(4), below(6), below(6)),
        seed=seed,
        phase=("angle", "none", "half turns")[seed % 3],
        resets=seed % 2 == 0,
    )
    for dtype, tolerance in TOLERANCE.items():
        assert_same(partial(run, mode=mode), x.to(dtype), tolerance)


@pytest.mark.parametrize("chunk", [1, 5, 16, 40, 200])
def test_any_chunk_length(chunk: int) -> None:
    for case in ("outer, resets", "outer, fixed by key", "outer, all by head"):
        x = CASES[case].to(torch.float32)
        assert_same(partial(run, mode="chunkwise", chunk=chunk), x, TOLERANCE[torch.float32])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "case", ["max-headed", "max-headed, signed and fixed", "outer, resets", "outer, fixed by key"]
)
def test_a_state_handed_over_changes_nothing(case: str, mode: str) -> None:
    x = CASES[case]
    length = x.v.shape[1]
    for cut in (1, 20, 64, length - 1):

        def in_two(x: Inputs, cut: int = cut) -> tuple[torch.Tensor, torch.Tensor]:
            y1, between = run(x.steps(0, cut), mode)
            y2, last = run(replace(x.steps(cut, length), state=between), mode)
            return torch.cat([y1, y2], 1), last

        assert_same(in_two, x, TOLERANCE[torch.float64])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["max-headed", "max-headed, signed", "outer", "outer, real"])
def test_packed_sequences_are_separate_ones(case: str, mode: str) -> None:
    x = replace(CASES[case], state=None)
    ends = (0, 1, 30, 64, x.q.shape[1])
    reset = torch.zeros(x.q.shape[:2], dtype=torch.bool)
    reset[:, list(ends[:-1])] = True
    packed, last = run(replace(x, reset=reset), mode)
    apart = [run(x.steps(a, b), mode) for a, b in pairwise(ends)]
    assert distance(packed, torch.cat([y for y, _ in apart], 1)) < 1e-10
    assert distance(last, apart[-1][1]) < 1e-10


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_at_the_first_step_drops_the_given_state(mode: str) -> None:
    x = CASES["outer"]
    reset = torch.zeros(x.q.shape[:2], dtype=torch.bool)
    reset[:, 0] = True
    y, _ = run(replace(x, reset=reset), mode)
    assert distance(y, step_loop(replace(x, state=None))[0]) < 1e-10


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 20, 2, 1, 1), (2, 6, 1, 2, 2)], ids=str)
@pytest.mark.parametrize("phase", ["angle", "none"])
def test_gradients_by_finite_differences(
    phase: str, shape: tuple[int, int, int, int, int], mode: str
) -> None:
    x = make(
        shape, amplitude="moderate", phase=phase, complex_inputs="q" if phase == "angle" else ""
    )
    reset = torch.zeros(shape[:2], dtype=torch.bool)
    reset[0, 4] = True
    names = list(x.differentiable())

    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = replace(x, reset=reset, **dict(zip(names, tensors, strict=True)))
        return run(given, mode, chunk=4)

    tensors = [t.detach().requires_grad_() for t in x.differentiable().values()]
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_in_bfloat16_are_computed_in_float32(mode: str) -> None:
    x = CASES["outer"].to(torch.float32)
    low = replace(x, q=x.q.bfloat16(), k=x.k.bfloat16(), v=x.v.bfloat16())
    y, last = run(low, mode)
    wide = replace(x, q=low.q.float(), k=low.k.float(), v=low.v.float())
    expected, expected_last = run(wide, mode)
    assert y.dtype == torch.bfloat16 and last.dtype == torch.complex64
    assert torch.equal(y, expected.bfloat16()) and torch.equal(last, expected_last)


@pytest.mark.parametrize("mode", MODES)
def test_autocast_does_not_reach_inside(mode: str) -> None:
    x = CASES["outer, all by head"].to(torch.float32)
    expected, _ = run(x, mode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = run(x, mode)
    assert torch.equal(y, expected)
