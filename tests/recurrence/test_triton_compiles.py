"""Every Triton kernel compiles for a GPU, which its interpreter does not prove. Needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# asked without importing it: the interpreter has to be chosen before that
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

FLOATS = """
    q k v amplitude phase before after starts state y last checkpoints product added scratch
    grad_y dq dk dv damplitude dphase dstate a x h start out grad by_a by_x by_start
""".split()
POINTERS = dict.fromkeys(FLOATS, "*fp32") | {"reset": "*u8"}
SHARED_MEMORY = 227 << 10  # bytes that a program may take on an H100 or H200
LOW = ("q", "k", "v", "y", "grad_y", "dq", "dk", "dv")


def compile_all(capability: int) -> None:
    """Each kernel with and without each option."""
    from gateloop.recurrence.kernels import cuda, triton_chunkwise
    from gateloop.recurrence.kernels import triton_chunkwise_kernels as chunkwise
    from gateloop.recurrence.kernels import triton_elementwise_kernels as elementwise
    from gateloop.recurrence.kernels import triton_linear_scan_kernels as linear_scan

    switches = (
        "TURNS RESETS LOGITS REVERSE GROWTH KEEPS FIXED FIXED_AMPLITUDE FIXED_PHASE SHARED REDUCE"
    ).split()
    on = {"TURNS", "LOGITS", "REVERSE", "KEEPS"}
    sizes = {"CHUNK": 64, "BLOCK": 64, "STAGES": 8, "ROWS": 16, "KEYS": 16, "VALUES": 16}
    sizes["PRECISION"] = triton_chunkwise.PRECISION
    kernels = [
        *(elementwise.forward, elementwise.reduce_forward, elementwise.carry),
        *(elementwise.reduce_backward, elementwise.backward),
        *(chunkwise.forward, chunkwise.reduce_backward, chunkwise.backward),
        *(linear_scan.forward, linear_scan.backward),
    ]
    for kernel in kernels:
        for usual in (True, False):
            given = sizes | {name: (name in on) == usual for name in switches}
            types = POINTERS if usual else POINTERS | dict.fromkeys(LOW, "*bf16")
            if not usual:  # a size or stride of 1 is a constant to Triton
                given |= {n: 1 for n in kernel.arg_names if n not in given and n not in types}
            assert compiled(kernel, given, types, capability, {"num_warps": 1}).asm["cubin"]
    # what most of memory that programs share takes: as many keys as there may be, of one amplitude
    options = {"num_warps": triton_chunkwise.WARPS, "num_stages": triton_chunkwise.STAGES}
    given = sizes | dict.fromkeys(switches, True)
    given |= {"REDUCE": False, "KEYS": cuda.MOST_KEYS}
    for kernel in (chunkwise.forward, chunkwise.backward):
        most = compiled(kernel, given, POINTERS, capability, options).metadata.shared
        assert most <= SHARED_MEMORY, f"{kernel.__name__}: {most:,} bytes"


def compiled(
    kernel: Any, given: dict[str, Any], types: dict[str, str], capability: int, options: Any
) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    constants = {name: given[name] for name in kernel.arg_names if name in given}
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = [["tt.divisibility", 16]]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(n),): value for n, value in constants.items()},
        attrs={(i,): aligned for i, n in enumerate(signature) if n not in constants},
    )
    return compile(source, GPUTarget("cuda", capability, 32), options)


@pytest.mark.slow
def test_kernels_compile(tmp_path: Path, root: Path) -> None:
    env = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(root)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, __file__, "90"], env=env, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    compile_all(int(sys.argv[1]))
