"""Every Triton kernel compiles for a GPU, which its interpreter does not prove. Needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# asked without importing it: the interpreter has to be chosen before that
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

POINTERS = dict.fromkeys(
    "q k v amplitude phase state before after starts y last checkpoints product added scratch grad_y grad_last dq dk dv damplitude dphase dstate".split(),
    "*fp32",
) | {"reset": "*u8"}
LOW = ("q", "k", "v", "y", "grad_y", "dq", "dk", "dv")


def compile_all(capability: int) -> None:
    """Each kernel with and without each option."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from gateloop.recurrence.kernels import triton_elementwise_kernels as elementwise

    options = [
        {"LOGITS": True, "TURNS": True, "RESETS": False, "FIXED": False, "LOW": True},
        {"LOGITS": False, "TURNS": False, "RESETS": True, "FIXED": True, "LOW": False},
    ]
    sizes = {"CHUNK": 64, "BLOCK": 64, "STAGES": 8, "GROWTH": False, "REVERSE": True}
    kernels = [
        *(elementwise.forward, elementwise.reduce_forward, elementwise.carry),
        *(elementwise.reduce_backward, elementwise.backward),
    ]
    for kernel in kernels:
        for option in options:
            fixed = {"FIXED_AMPLITUDE": option["FIXED"], "FIXED_PHASE": option["FIXED"]}
            given = sizes | option | fixed
            types = POINTERS | (dict.fromkeys(LOW, "*bf16") if option["LOW"] else {})
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
            built = compile(source, GPUTarget("cuda", capability, 32), {"num_warps": 1})
            assert built.asm["cubin"]


def test_kernels_compile(tmp_path: Path, root: Path) -> None:
    env = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(root)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, __file__, "90"], env=env, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    compile_all(int(sys.argv[1]))
