/* exp, σ, sin and cos, written so that a compiler makes vector code of a loop over channels.

   In float they are polynomials without branches and tables, within two units in the last place,
   sin and cos within two of one up to 10⁶ radians, within 7e-5 up to 10⁷; in double they are the C
   library's. */

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

/* Half turns are taken off first, by a π of three parts; an odd number of them changes both signs.
   From 10⁷ radians on, where float no longer tells a turn from the next, whole half turns are left:
   the size stays one. The polynomials are exact to 6e-9, far below float's own rounding: an error
   that always has one sign is multiplied by all steps that a channel remembers. */
ALWAYS_INLINE void sine_cosine_float(float x, float *sine, float *cosine)
{
    float n = rintf(x * 0.318309886f);
    float r = x - n * 3.140625f;
    r = r - n * 9.677410125732422e-4f;
    r = r - n * -8.742278e-8f;
    r = fabsf(x) < 1e7f ? r : x - x;
    uint32_t sign = (uint32_t)(int32_t)n << 31;
    float r2 = r * r;
    float s = 2.59883791e-06f;
    s = s * r2 - 0.000198060297f;
    s = s * r2 + 0.00833300874f;
    s = s * r2 - 0.166666567f;
    s = s * r2 * r + r;
    float c = -2.61921177e-07f;
    c = c * r2 + 2.47692232e-05f;
    c = c * r2 - 0.00138885680f;
    c = c * r2 + 0.0416666557f;
    c = c * r2 - 0.5f;
    c = c * r2 + 1.0f;
    *sine = with_sign_of(s, sign);
    *cosine = with_sign_of(c, sign);
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
        /* of a logit far below e^-x has no number, and its product with 0 none either */
        REAL e = exp_real(!REAL_IS_FLOAT && given < -100 ? 100 : -given), size = 1 / (1 + e);
        *slope = e * size;
        return size;
    }
    *slope = 1;
    if (gate == LOG_AMPLITUDE)
        return exp_real(given > 0 ? 0 : given);
    return REAL_IS_FLOAT && given > (REAL)88.72284 ? (REAL)INFINITY : exp_real(given);
}
