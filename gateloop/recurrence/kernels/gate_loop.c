/* The fused recurrence for one number of state per channel, forward and backward.

       h_n = a_n h_{n-1} + k_n v_n        y_n = q_n Re h_n        a_n = |a_n| e^{i phase_n}

   Serial in time, parallel over batch and blocks of channels; real and imaginary parts apart. The
   forward pass keeps the state before every CHUNK steps (none where ``kept`` is NULL) and nothing
   else; the backward pass goes through the chunks from the last, computes each chunk's states again,
   then walks it back with

       G_n = (q_n dy_n, 0) + conj(a_{n+1}) G_{n+1}

   the gradient by h_n, of which all others are products. Arrays are (batch, length, channels) with
   the last axis dense; a stride of 0 is an axis that is constant. States are (batch, channels,
   parts), kept ones (batch, chunks, parts, channels), of 2 parts where there are phases. */

#include <string.h>

#include "blocks.h"
#include "gates.h"
#include "streams.h"

#define CHUNK 16
#define NUMBERS 6 /* read and written for a channel and a step, at least */

enum { Q, K, V, AMPLITUDE, PHASE, GRAD_Y };

typedef struct {
    const REAL *q, *k, *v, *amplitude, *phase, *grad_y;
    const uint8_t *reset; /* (batch, length), or NULL */
} Inputs;

typedef struct {
    REAL re[BLOCK], im[BLOCK];
} Complex;

ALWAYS_INLINE void fetch_row(const Shape *s, const Inputs *in, int64_t b, int64_t n, int64_t first,
                             int width, int turns)
{
    if (width == s->channels || n >= s->length)
        return;
    fetch(in->q + at(s, Q, b, n) + first, width);
    fetch(in->k + at(s, K, b, n) + first, width);
    fetch(in->v + at(s, V, b, n) + first, width);
    fetch(in->amplitude + at(s, AMPLITUDE, b, n) + first, width);
    if (turns)
        fetch(in->phase + at(s, PHASE, b, n) + first, width);
}

ALWAYS_INLINE void load(Complex *to, const REAL *from, int64_t channels, int width, int turns)
{
    for (int c = 0; c < width; c++)
        to->re[c] = from[c];
    for (int c = 0; turns && c < width; c++)
        to->im[c] = from[channels + c];
}

ALWAYS_INLINE void store(REAL *to, const Complex *from, int64_t channels, int width, int turns)
{
    for (int c = 0; c < width; c++)
        to[c] = from->re[c];
    for (int c = 0; turns && c < width; c++)
        to[channels + c] = from->im[c];
}

ALWAYS_INLINE int forgets(const Shape *s, const Inputs *in, int64_t b, int64_t n)
{
    return in->reset && in->reset[b * s->length + n];
}

ALWAYS_INLINE void load_state(Complex *to, const REAL *from, int width, int turns)
{
    for (int c = 0; c < width; c++) {
        to->re[c] = turns ? from[2 * c] : from[c];
        to->im[c] = turns ? from[2 * c + 1] : 0;
    }
}

ALWAYS_INLINE void store_state(REAL *to, const Complex *from, int width, int turns)
{
    for (int c = 0; c < width; c++) {
        to[turns ? 2 * c : c] = from->re[c];
        if (turns)
            to[2 * c + 1] = from->im[c];
    }
}

ALWAYS_INLINE void forward_block(const Shape *s, const Inputs *in, int64_t b, int64_t first,
                                 int width, int gate, int turns, const REAL *state, REAL *y,
                                 REAL *last, REAL *kept)
{
    const int64_t parts = turns ? 2 : 1, kept_size = parts * s->channels;
    const int64_t here = parts * (b * s->channels + first);
    const int64_t count = (s->length + CHUNK - 1) / CHUNK;
    const int streamed = streams(s, NUMBERS, (const REAL *[]){y}, 1);
    Complex h;
    ROW REAL row[BLOCK];
    load_state(&h, state + here, width, turns);
    for (int64_t n = 0; n < s->length; n++) {
        if (kept && n % CHUNK == 0)
            store(kept + (b * count + n / CHUNK) * kept_size + first, &h, s->channels, width, turns);
        fetch_row(s, in, b, n + AHEAD, first, width, turns);
        const REAL *restrict q = in->q + at(s, Q, b, n) + first;
        const REAL *restrict k = in->k + at(s, K, b, n) + first;
        const REAL *restrict v = in->v + at(s, V, b, n) + first;
        const REAL *restrict amplitude = in->amplitude + at(s, AMPLITUDE, b, n) + first;
        const REAL *restrict phase = turns ? in->phase + at(s, PHASE, b, n) + first : NULL;
        REAL *y_n = y + (b * s->length + n) * s->channels + first;
        REAL *restrict out = streamed ? row : y_n;
        if (forgets(s, in, b, n))
            memset(&h, 0, sizeof h);
        EACH_CHANNEL
        for (int c = 0; c < width; c++) {
            REAL slope, size = amplitude_of(amplitude[c], gate, &slope);
            REAL re = h.re[c];
            if (turns) {
                REAL sine, cosine, im = h.im[c];
                sine_cosine(phase[c], &sine, &cosine);
                REAL a_re = size * cosine, a_im = size * sine;
                h.re[c] = a_re * re - a_im * im + k[c] * v[c];
                h.im[c] = a_re * im + a_im * re;
            } else {
                h.re[c] = size * re + k[c] * v[c];
            }
            out[c] = q[c] * h.re[c];
        }
        if (streamed)
            stream(y_n, row, width);
    }
    end_streams();
    store_state(last + here, &h, width, turns);
}

/* What the way back needs of each step of a chunk: a, z = a h_{n-1}, and d log|a| / d gate. */
typedef struct {
    Complex a[CHUNK], z[CHUNK];
    REAL slope[CHUNK][BLOCK];
} Steps;

typedef struct {
    REAL *q, *k, *v, *amplitude, *phase, *state;
    int fixed_amplitude, fixed_phase; /* over time: the gradient is (batch, channels), a sum */
} Gradients;

ALWAYS_INLINE void recompute(const Shape *s, const Inputs *in, int64_t b, int64_t first, int width,
                             int gate, int turns, int64_t start, int64_t stop, Complex *restrict h,
                             Steps *restrict steps)
{
    for (int64_t n = start; n < stop; n++) {
        const REAL *restrict k = in->k + at(s, K, b, n) + first;
        const REAL *restrict v = in->v + at(s, V, b, n) + first;
        const REAL *restrict amplitude = in->amplitude + at(s, AMPLITUDE, b, n) + first;
        const REAL *restrict phase = turns ? in->phase + at(s, PHASE, b, n) + first : NULL;
        if (forgets(s, in, b, n))
            memset(h, 0, sizeof *h);
        Complex *restrict a = &steps->a[n - start], *restrict z = &steps->z[n - start];
        REAL *restrict slope = steps->slope[n - start];
        EACH_CHANNEL
        for (int c = 0; c < width; c++) {
            REAL size = amplitude_of(amplitude[c], gate, &slope[c]);
            REAL re = h->re[c];
            if (turns) {
                REAL sine, cosine, im = h->im[c];
                sine_cosine(phase[c], &sine, &cosine);
                a->re[c] = size * cosine, a->im[c] = size * sine;
                z->re[c] = a->re[c] * re - a->im[c] * im;
                z->im[c] = a->re[c] * im + a->im[c] * re;
                h->im[c] = z->im[c];
            } else {
                a->re[c] = size;
                z->re[c] = size * re;
            }
            h->re[c] = z->re[c] + k[c] * v[c];
        }
    }
}

ALWAYS_INLINE void add(REAL *restrict sum, const REAL *restrict terms, int width)
{
    for (int c = 0; c < width; c++)
        sum[c] += terms[c];
}

ALWAYS_INLINE void walk_back(const Shape *s, const Inputs *in, int64_t b, int64_t first, int width,
                             int turns, int64_t start, int64_t stop, const Steps *restrict steps,
                             Complex *restrict g, const Gradients *to)
{
    const REAL *results[] = {to->q, to->k, to->v, to->amplitude, to->phase};
    const int streamed = streams(s, NUMBERS, results, 5), fixed_phase = !turns || to->fixed_phase;
    const int64_t fixed_row = b * s->channels + first;
    ROW REAL by_q[BLOCK], by_k[BLOCK], by_v[BLOCK], by_amplitude[BLOCK], by_phase[BLOCK];
    for (int64_t n = stop - 1; n >= start; n--) {
        const int64_t row = (b * s->length + n) * s->channels + first;
        if (n >= CHUNK) { /* what the chunk before will read */
            fetch_row(s, in, b, n - CHUNK, first, width, turns);
            if (width < s->channels)
                fetch(in->grad_y + at(s, GRAD_Y, b, n - CHUNK) + first, width);
        }
        const REAL *restrict q = in->q + at(s, Q, b, n) + first;
        const REAL *restrict k = in->k + at(s, K, b, n) + first;
        const REAL *restrict v = in->v + at(s, V, b, n) + first;
        const REAL *restrict grad_y = in->grad_y + at(s, GRAD_Y, b, n) + first;
        const Complex *restrict a = &steps->a[n - start], *restrict z = &steps->z[n - start];
        const REAL *restrict slope = steps->slope[n - start];
        REAL *restrict grad_q = streamed ? by_q : to->q + row;
        REAL *restrict grad_k = streamed ? by_k : to->k + row;
        REAL *restrict grad_v = streamed ? by_v : to->v + row;
        REAL *restrict grad_amplitude =
            streamed || to->fixed_amplitude ? by_amplitude : to->amplitude + row;
        REAL *restrict grad_phase = streamed || fixed_phase ? by_phase : to->phase + row;
        EACH_CHANNEL
        for (int c = 0; c < width; c++) {
            REAL g_re = g->re[c] + q[c] * grad_y[c];
            grad_q[c] = grad_y[c] * (z->re[c] + k[c] * v[c]);
            grad_k[c] = g_re * v[c];
            grad_v[c] = g_re * k[c];
            if (turns) {
                REAL g_im = g->im[c];
                grad_amplitude[c] = (g_re * z->re[c] + g_im * z->im[c]) * slope[c];
                grad_phase[c] = g_im * z->re[c] - g_re * z->im[c];
                g->re[c] = a->re[c] * g_re + a->im[c] * g_im;
                g->im[c] = a->re[c] * g_im - a->im[c] * g_re;
            } else {
                grad_amplitude[c] = g_re * z->re[c] * slope[c];
                g->re[c] = a->re[c] * g_re;
            }
        }
        if (forgets(s, in, b, n))
            memset(g, 0, sizeof *g);
        if (streamed) {
            stream(to->q + row, by_q, width);
            stream(to->k + row, by_k, width);
            stream(to->v + row, by_v, width);
        }
        if (to->fixed_amplitude)
            add(to->amplitude + fixed_row, by_amplitude, width);
        else if (streamed)
            stream(to->amplitude + row, by_amplitude, width);
        if (turns && to->fixed_phase)
            add(to->phase + fixed_row, by_phase, width);
        else if (turns && streamed)
            stream(to->phase + row, by_phase, width);
    }
}

ALWAYS_INLINE void backward_block(const Shape *s, const Inputs *in, int64_t b, int64_t first,
                                  int width, int gate, int turns, const REAL *kept,
                                  const REAL *grad_last, const Gradients *to)
{
    const int64_t parts = turns ? 2 : 1, kept_size = parts * s->channels;
    const int64_t here = parts * (b * s->channels + first);
    const int64_t count = (s->length + CHUNK - 1) / CHUNK;
    Complex g, h;
    Steps steps;
    load_state(&g, grad_last + here, width, turns);
    for (int64_t chunk = count - 1; chunk >= 0; chunk--) {
        int64_t start = chunk * CHUNK;
        int64_t stop = start + CHUNK < s->length ? start + CHUNK : s->length;
        load(&h, kept + (b * count + chunk) * kept_size + first, s->channels, width, turns);
        recompute(s, in, b, first, width, gate, turns, start, stop, &h, &steps);
        walk_back(s, in, b, first, width, turns, start, stop, &steps, &g, to);
    }
    store_state(to->state + here, &g, width, turns);
    end_streams();
}

#define FORWARD(gate, turns)                                                                      \
    { EACH_BLOCK(forward_block(s, in, b, first, width, gate, turns, state, y, last, kept)) break; }
#define BACKWARD(gate, turns)                                                                     \
    { EACH_BLOCK(backward_block(s, in, b, first, width, gate, turns, kept, grad_last, to)) break; }
#define EACH_KIND(do)                                                                             \
    switch (2 * gate + (in->phase != NULL)) {                                                     \
    case 0: do(LOGIT, 0)                                                                          \
    case 1: do(LOGIT, 1)                                                                          \
    case 2: do(LOG_AMPLITUDE, 0)                                                                  \
    case 3: do(LOG_AMPLITUDE, 1)                                                                  \
    case 4: do(GROWING_LOG_AMPLITUDE, 0)                                                          \
    case 5: do(GROWING_LOG_AMPLITUDE, 1)                                                          \
    }

int gate_loop_chunk(void) { return CHUNK; }

void gate_loop_forward(const Shape *s, const Inputs *in, int gate, int threads, const REAL *state,
                       REAL *y, REAL *last, REAL *kept)
{
    EACH_KIND(FORWARD)
}

void gate_loop_backward(const Shape *s, const Inputs *in, int gate, int threads, const REAL *kept,
                        const REAL *grad_last, const Gradients *to)
{
    EACH_KIND(BACKWARD)
}
