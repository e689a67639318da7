"""exp, sin and cos for Triton kernels, to an ulp or two of float32.

The hardware's own exp2 may be off by 2⁻²² of the result, always to the same side for the same
gate, and a channel that remembers thousands of steps multiplies that by thousands. Written out,
they are also the same numbers on every device, and sin and cos share one range reduction.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exp(x):
    """e^x; x below -87 counts as -87, above 88 as 88; NaN stays NaN."""
    x = tl.where(x < -87.0, -87.0, x)
    x = tl.where(x > 88.0, 88.0, x)
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    # ln 2 in two parts, the first short enough for n times it to be exact
    r = (x - n * 0.693359375) + n * 2.1219444005469057e-4
    # Taylor's series; |r| <= ln 2 / 2
    p = r * (1 / 5040) + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 0.5
    p = (p * r) * r + r
    power_of_two = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return (p + 1.0) * power_of_two


@triton.jit
def sin_cos(x):
    """(sin x, cos x), to 1e-7 for |x| up to 1e5, beyond which float32's own steps are 1e-2."""
    n = tl.floor(x * 0.6366197723675814 + 0.5)
    # π/2 in parts of 8 bits, so that n times each of the first three is exact up to n = 2¹⁶
    r = x - n * 1.5703125
    r = r - n * 4.825592041015625e-4
    r = r - n * 1.2665987014770508e-6
    r = r - n * 9.920935796805404e-10
    # Taylor's series; |r| <= π/4
    s = r * r
    sin = s * (1 / 362880) - 1 / 5040
    sin = sin * s + 1 / 120
    sin = sin * s - 1 / 6
    sin = (sin * s) * r + r
    cos = s * (-1 / 3628800) + 1 / 40320
    cos = cos * s - 1 / 720
    cos = cos * s + 1 / 24
    cos = (cos * s) * s + (1.0 - 0.5 * s)
    quarter = n.to(tl.int32)
    odd = (quarter & 1) == 1
    first = tl.where(odd, cos, sin)
    second = tl.where(odd, sin, cos)
    return (
        tl.where((quarter & 2) == 2, -first, first),
        tl.where(((quarter + 1) & 2) == 2, -second, second),
    )
