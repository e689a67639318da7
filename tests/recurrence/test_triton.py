"""The Triton kernels against a float64 step loop: interpreted on the CPU, compiled where CUDA is.

The interpreter runs a kernel's own operations one by one with NumPy, so that what is computed is
held to account without a GPU, and how fast it is is not.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton defines a kernel
pytest.importorskip("triton")

from gateloop.recurrence.kernels import triton_elementwise as elementwise  # noqa: E402
from tests.recurrence.reference import distance  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
TOLERANCE = 1e-5
CHUNK = 8

Arguments = dict[str, "Tensor | None"]
