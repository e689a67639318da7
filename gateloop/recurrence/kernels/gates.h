/* exp, σ, sin and cos, written so that a compiler makes vector code of a loop over channels.

   In float they are polynomials without branches and tables, within two units in the last place; in
   double they are the C library's. */

#pragma once
#include <math.h>
#include <string.h>

#include "blocks.h"

#define REAL_IS_FLOAT (sizeof(REAL) == 4)

enum { LOGIT, LOG_AMPLITUDE, GROWING_LOG_AMPLITUDE }; /* what an amplitude is given as */

ALWAYS_INLINE float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

ALWAYS_INLINE float with_sign_of(float x, uint32_t sign)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return from_bits(bits ^ sign);
}

/* e^x = 2^n e^r with |r| at most ln 2 / 2. Counted as e^±87 beyond that: zero beside one, and still
   a normal number. ln 2 is in two parts, the first of so few bits that n times it is exact. */
ALWAYS_INLINE float exp_float(float x)
{
    x = x > 87.0f ? 87.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 0.00138131426f;
    p = p * r + 0.00836941927f;
    p = p * r + 0.0416684568f;
    p = p * r + 0.166665148f;
    p = p * r + 0.499999931f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * from_bits((uint32_t)((int32_t)n + 127) << 23);
}

/* Quarter turns are taken off first, by a π/2 of three parts. From 10⁷ radians on, where float no
   longer tells a turn from the next, whole quarter turns are left: the size stays one. */
ALWAYS_INLINE void sine_cosine_float(float x, float *sine, float *cosine)
{
    float n = rintf(x * 0.636619772f);
    float r = x - n * 1.5703125f;
    r = r - n * 4.838705062866211e-4f;
    r = r - n * -4.371139e-8f;
    r = fabsf(x) < 1e7f ? r : x - x;
    uint32_t quarter = (uint32_t)(int32_t)n;
    float r2 = r * r;
    float s = -0.000195087408f;
    s = s * r2 + 0.00833211304f;
    s = s * r2 - 0.166666539f;
    s = s * r2 * r + r;
    float c = 2.44256797e-05f;
    c = c * r2 - 0.00138872515f;
    c = c * r2 + 0.0416666444f;
    c = c * r2 - 0.5f;
    c = c * r2 + 1.0f;
    int even = (quarter & 1) == 0;
    *sine = with_sign_of(even ? s : c, quarter << 30 & 0x80000000u);
    *cosine = with_sign_of(even ? c : s, (quarter + 1) << 30 & 0x80000000u);
}

ALWAYS_INLINE REAL exp_real(REAL x)
{
    return REAL_IS_FLOAT ? (REAL)exp_float((float)x) : (REAL)exp((double)x);
}

ALWAYS_INLINE void sine_cosine(REAL x, REAL *sine, REAL *cosine)
{
    if (REAL_IS_FLOAT) {
        float s, c;
        sine_cosine_float((float)x, &s, &c);
        *sine = (REAL)s, *cosine = (REAL)c;
    } else {
        *sine = (REAL)sin((double)x), *cosine = (REAL)cos((double)x);
    }
}

/* |a| from what it is given as, and d log|a| by that. */
ALWAYS_INLINE REAL amplitude_of(REAL given, int gate, REAL *slope)
{
    if (gate == LOGIT) {
        REAL e = exp_real(-given), size = 1 / (1 + e);
        *slope = e * size;
        return size;
    }
    *slope = 1;
    if (gate == LOG_AMPLITUDE)
        return exp_real(given > 0 ? 0 : given);
    return REAL_IS_FLOAT && given > (REAL)88.72284 ? (REAL)INFINITY : exp_real(given);
}
