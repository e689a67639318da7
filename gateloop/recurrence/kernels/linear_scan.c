/* All states of h_n = a_n h_{n-1} + x_n, towards the future or the past, and the gradients.

   Numbers are real, or complex with imaginary parts beside the real ones (PARTS is 1 or 2). Serial
   in time, parallel over batch and blocks of channels. Arrays are (batch, length, channels) with the
   last axis dense; a stride of 0 is an axis that is constant. Each number of a serves ``repeat``
   channels in a row. */

#include <string.h>

#include "blocks.h"

enum { A, X, OUT, GRAD_A, RESET };

/* h ← a h + x, or its conjugate's, for one row of a block; out and x may be the same. */
ALWAYS_INLINE void step(REAL *restrict h, const REAL *a, const REAL *x, REAL *out, REAL keep,
                        int width, int parts)
{
    EACH_CHANNEL
    for (int c = 0; c < width; c++) {
        if (parts == 2) {
            REAL a_re = keep * a[2 * c], a_im = keep * a[2 * c + 1];
            REAL re = h[2 * c], im = h[2 * c + 1];
            h[2 * c] = a_re * re - a_im * im + x[2 * c];
            h[2 * c + 1] = a_re * im + a_im * re + x[2 * c + 1];
            out[2 * c] = h[2 * c], out[2 * c + 1] = h[2 * c + 1];
        } else {
            h[c] = keep * a[c] * h[c] + x[c];
            out[c] = h[c];
        }
    }
}

/* The same where one number of a serves several channels. */
ALWAYS_INLINE void step_repeated(REAL *restrict h, const REAL *a, const REAL *x, REAL *out,
                                 REAL keep, int64_t first, int width, int64_t repeat, int parts)
{
    for (int c = 0; c < width;) {
        const int64_t number = (first + c) / repeat;
        const int64_t left = (number + 1) * repeat - first - c;
        const int count = (int)(left < width - c ? left : width - c);
        const REAL a_re = keep * a[parts * number];
        const REAL a_im = parts == 2 ? keep * a[parts * number + 1] : 0;
        REAL *restrict to = h + parts * c;
        EACH_CHANNEL
        for (int i = 0; i < count; i++) {
            if (parts == 2) {
                REAL re = to[2 * i], im = to[2 * i + 1];
                to[2 * i] = a_re * re - a_im * im + x[2 * (c + i)];
                to[2 * i + 1] = a_re * im + a_im * re + x[2 * (c + i) + 1];
                out[2 * (c + i)] = to[2 * i], out[2 * (c + i) + 1] = to[2 * i + 1];
            } else {
                to[i] = a_re * to[i] + x[c + i];
                out[c + i] = to[i];
            }
        }
        c += count;
    }
}

ALWAYS_INLINE void scan_block(const Shape *s, const REAL *a, const REAL *x, const REAL *start,
                              const uint8_t *reset, REAL *out, int reverse, int64_t b,
                              int64_t first, int width, int parts)
{
    REAL h[2 * BLOCK];
    memcpy(h, start + parts * (b * s->channels + first), parts * width * sizeof(REAL));
    for (int64_t i = 0; i < s->length; i++) {
        const int64_t n = reverse ? s->length - 1 - i : i, next = reverse ? n - AHEAD : n + AHEAD;
        if (width < s->channels && next >= 0 && next < s->length) {
            if (s->repeat == 1)
                fetch(a + at(s, A, b, next) + parts * first, parts * width);
            fetch(x + at(s, X, b, next) + parts * first, parts * width);
        }
        const REAL keep = reset && reset[at(s, RESET, b, n)] ? 0 : 1;
        const REAL *a_n = a + at(s, A, b, n), *x_n = x + at(s, X, b, n) + parts * first;
        REAL *out_n = out + at(s, OUT, b, n) + parts * first;
        if (s->repeat == 1)
            step(h, a_n + parts * first, x_n, out_n, keep, width, parts);
        else
            step_repeated(h, a_n, x_n, out_n, keep, first, width, s->repeat, parts);
    }
}

/* With λ_n = g_n + conj(a_{n+1}) λ_{n+1}: the gradient by x_n is λ_n, by a_n λ_n conj(h_{n-1}). X
   is the gradient by the states, OUT the one by x; h is dense. A fixed a's gradient is the sum. */
ALWAYS_INLINE void backward_block(const Shape *s, const REAL *a, const REAL *h, const REAL *start,
                                  const uint8_t *reset, const REAL *grad, REAL *grad_x,
                                  REAL *grad_a, REAL *grad_start, int64_t b, int64_t first,
                                  int width, int parts)
{
    REAL l[2 * BLOCK] = {0}, terms[2 * BLOCK];
    const int fixed = s->stride[GRAD_A][1] == 0;
    for (int64_t n = s->length - 1; n >= 0; n--) {
        const REAL keep = reset && reset[at(s, RESET, b, n)] ? 0 : 1;
        const REAL *restrict a_n = a + at(s, A, b, n) + parts * first;
        const REAL *restrict g = grad + at(s, X, b, n) + parts * first;
        const REAL *restrict before = n > 0
            ? h + parts * ((b * s->length + n - 1) * s->channels + first)
            : start + parts * (b * s->channels + first);
        REAL *restrict to_x = grad_x + at(s, OUT, b, n) + parts * first;
        REAL *restrict to_a = fixed ? terms : grad_a + at(s, GRAD_A, b, n) + parts * first;
        if (width < s->channels && n >= AHEAD) {
            fetch(a + at(s, A, b, n - AHEAD) + parts * first, parts * width);
            fetch(grad + at(s, X, b, n - AHEAD) + parts * first, parts * width);
            fetch(before - AHEAD * parts * s->channels, n > AHEAD ? parts * width : 0);
        }
        EACH_CHANNEL
        for (int c = 0; c < width; c++) {
            if (parts == 2) {
                REAL re = l[2 * c] + g[2 * c], im = l[2 * c + 1] + g[2 * c + 1];
                REAL b_re = keep * before[2 * c], b_im = keep * before[2 * c + 1];
                REAL a_re = keep * a_n[2 * c], a_im = keep * a_n[2 * c + 1];
                to_x[2 * c] = re, to_x[2 * c + 1] = im;
                to_a[2 * c] = re * b_re + im * b_im, to_a[2 * c + 1] = im * b_re - re * b_im;
                l[2 * c] = a_re * re + a_im * im, l[2 * c + 1] = a_re * im - a_im * re;
            } else {
                REAL re = l[c] + g[c];
                to_x[c] = re;
                to_a[c] = re * keep * before[c];
                l[c] = keep * a_n[c] * re;
            }
        }
        REAL *restrict sum = grad_a + at(s, GRAD_A, b, n) + parts * first;
        for (int c = 0; fixed && c < parts * width; c++)
            sum[c] += terms[c];
    }
    memcpy(grad_start + parts * (b * s->channels + first), l, parts * width * sizeof(REAL));
}

void linear_scan_forward(const Shape *s, int parts, int threads, int reverse, const REAL *a,
                         const REAL *x, const REAL *start, const uint8_t *reset, REAL *out)
{
    if (parts == 2) {
        EACH_BLOCK(scan_block(s, a, x, start, reset, out, reverse, b, first, width, 2))
    } else {
        EACH_BLOCK(scan_block(s, a, x, start, reset, out, reverse, b, first, width, 1))
    }
}

void linear_scan_backward(const Shape *s, int parts, int threads, const REAL *a, const REAL *h,
                          const REAL *start, const uint8_t *reset, const REAL *grad, REAL *grad_x,
                          REAL *grad_a, REAL *grad_start)
{
    if (parts == 2) {
        EACH_BLOCK(backward_block(s, a, h, start, reset, grad, grad_x, grad_a, grad_start, b, first,
                                  width, 2))
    } else {
        EACH_BLOCK(backward_block(s, a, h, start, reset, grad, grad_x, grad_a, grad_start, b, first,
                                  width, 1))
    }
}
