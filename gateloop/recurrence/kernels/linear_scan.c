/* All states of h_n = a_n h_{n-1} + x_n, towards the future or the past, and the gradients.

   Numbers are real, or complex with imaginary parts beside the real ones (PARTS is 1 or 2). Serial
   in time, parallel over batch and blocks of channels. Arrays are (batch, length, channels) with the
   last axis dense; a stride of 0 is an axis that is constant. Each number of a serves ``repeat``
   channels in a row. */

#include <string.h>

#include "blocks.h"
#include "streams.h"

enum { A, X, OUT, GRAD_A, RESET };

/* h ← a h + x for one row of a block; out and x may be the same. */
ALWAYS_INLINE void step(REAL *restrict h, const REAL *a, const REAL *x, REAL *out, int width,
                        int parts)
{
    EACH_CHANNEL
    for (int c = 0; c < width; c++) {
        if (parts == 2) {
            REAL a_re = a[2 * c], a_im = a[2 * c + 1], re = h[2 * c], im = h[2 * c + 1];
            h[2 * c] = a_re * re - a_im * im + x[2 * c];
            h[2 * c + 1] = a_re * im + a_im * re + x[2 * c + 1];
            out[2 * c] = h[2 * c], out[2 * c + 1] = h[2 * c + 1];
        } else {
            h[c] = a[c] * h[c] + x[c];
            out[c] = h[c];
        }
    }
}

/* A row of a block, of numbers that each serve several channels. */
ALWAYS_INLINE void spread(const REAL *a, REAL *row, int64_t first, int width, int64_t repeat,
                          int parts)
{
    for (int c = 0; c < width;) {
        const int64_t number = (first + c) / repeat;
        const int64_t left = (number + 1) * repeat - first - c;
        const int count = (int)(left < width - c ? left : width - c);
        for (int i = c; i < c + count; i++)
            for (int part = 0; part < parts; part++)
                row[parts * i + part] = a[parts * number + part];
        c += count;
    }
}

/* Whether rows of an array follow one another without gaps. */
ALWAYS_INLINE int is_dense(const Shape *s, int array, int parts)
{
    const int64_t row = parts * s->channels, *stride = s->stride[array];
    return stride[1] == row && (s->batch == 1 || stride[0] == s->length * row);
}

ALWAYS_INLINE void scan_block(const Shape *s, const REAL *a, const REAL *x, const REAL *start,
                              const uint8_t *reset, REAL *out, int reverse, int64_t b,
                              int64_t first, int width, int parts)
{
    const int streamed = is_dense(s, OUT, parts) && out != x &&
                         streams(s, 3 * parts, (const REAL *[]){out}, 1);
    REAL h[2 * BLOCK];
    ROW REAL row[2 * BLOCK], a_row[2 * BLOCK];
    memcpy(h, start + parts * (b * s->channels + first), parts * width * sizeof(REAL));
    for (int64_t i = 0; i < s->length; i++) {
        const int64_t n = reverse ? s->length - 1 - i : i, next = reverse ? n - AHEAD : n + AHEAD;
        if (width < s->channels && next >= 0 && next < s->length) {
            if (s->repeat == 1)
                fetch(a + at(s, A, b, next) + parts * first, parts * width);
            fetch(x + at(s, X, b, next) + parts * first, parts * width);
        }
        if (reset && reset[at(s, RESET, b, n)])
            memset(h, 0, sizeof h);
        const REAL *a_n = a + at(s, A, b, n), *x_n = x + at(s, X, b, n) + parts * first;
        REAL *out_n = out + at(s, OUT, b, n) + parts * first, *to = streamed ? row : out_n;
        if (s->repeat > 1 && (i == 0 || s->stride[A][1]))
            spread(a_n, a_row, first, width, s->repeat, parts);
        step(h, s->repeat > 1 ? a_row : a_n + parts * first, x_n, to, width, parts);
        if (streamed)
            stream(out_n, row, parts * width);
    }
    end_streams();
}

/* With λ_n = g_n + conj(a_{n+1}) λ_{n+1}: the gradient by x_n is λ_n, by a_n λ_n conj(h_{n-1}). X
   is the gradient by the states, OUT the one by x; h is dense. A fixed a's gradient is the sum. */
ALWAYS_INLINE void backward_block(const Shape *s, const REAL *a, const REAL *h, const REAL *start,
                                  const uint8_t *reset, const REAL *grad, REAL *grad_x,
                                  REAL *grad_a, REAL *grad_start, int64_t b, int64_t first,
                                  int width, int parts)
{
    const int fixed = s->stride[GRAD_A][1] == 0;
    const int streamed = streams(s, 5 * parts, (const REAL *[]){grad_x, grad_a}, 2);
    static const REAL nothing[2 * BLOCK];
    REAL l[2 * BLOCK] = {0};
    ROW REAL by_x[2 * BLOCK], by_a[2 * BLOCK];
    for (int64_t n = s->length - 1; n >= 0; n--) {
        const int forgets = reset && reset[at(s, RESET, b, n)];
        const REAL *restrict a_n = a + at(s, A, b, n) + parts * first;
        const REAL *restrict g = grad + at(s, X, b, n) + parts * first;
        const REAL *arriving = n > 0 ? h + parts * ((b * s->length + n - 1) * s->channels + first)
                                     : start + parts * (b * s->channels + first);
        const REAL *restrict before = forgets ? nothing : arriving;
        REAL *grad_x_n = grad_x + at(s, OUT, b, n) + parts * first;
        REAL *grad_a_n = grad_a + at(s, GRAD_A, b, n) + parts * first;
        REAL *restrict to_x = streamed ? by_x : grad_x_n;
        REAL *restrict to_a = streamed || fixed ? by_a : grad_a_n;
        if (width < s->channels && n >= AHEAD) {
            fetch(a + at(s, A, b, n - AHEAD) + parts * first, parts * width);
            fetch(grad + at(s, X, b, n - AHEAD) + parts * first, parts * width);
            fetch(arriving - AHEAD * parts * s->channels, n > AHEAD ? parts * width : 0);
        }
        EACH_CHANNEL
        for (int c = 0; c < width; c++) {
            if (parts == 2) {
                REAL re = l[2 * c] + g[2 * c], im = l[2 * c + 1] + g[2 * c + 1];
                REAL b_re = before[2 * c], b_im = before[2 * c + 1];
                REAL a_re = a_n[2 * c], a_im = a_n[2 * c + 1];
                to_x[2 * c] = re, to_x[2 * c + 1] = im;
                to_a[2 * c] = re * b_re + im * b_im, to_a[2 * c + 1] = im * b_re - re * b_im;
                l[2 * c] = a_re * re + a_im * im, l[2 * c + 1] = a_re * im - a_im * re;
            } else {
                REAL re = l[c] + g[c];
                to_x[c] = re;
                to_a[c] = re * before[c];
                l[c] = a_n[c] * re;
            }
        }
        if (forgets)
            memset(l, 0, sizeof l);
        if (streamed)
            stream(grad_x_n, by_x, parts * width);
        if (streamed && !fixed)
            stream(grad_a_n, by_a, parts * width);
        for (int c = 0; fixed && c < parts * width; c++)
            grad_a_n[c] += by_a[c];
    }
    end_streams();
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
