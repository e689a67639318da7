/* The fused recurrence for heads whose state is a matrix, forward and backward.

       h_n = a_n h_{n-1} + k_nᵀ v_n        y_n = Re(q_n h_n)        a_n = |a_n| e^{i phase_n} by key

   A task is a head of a sequence and a block of its values; it takes the keys in groups of GROUP,
   each group through all of time with its states in the cache, vectors running along the keys. The
   forward pass keeps the states before every CHUNK steps; the backward pass computes the others of
   a chunk again and walks it back with

       G_n = conj(q_n)ᵀ dy_n + conj(a_{n+1}) G_{n+1}

   q, k, amplitude and phase are (batch, length, heads, d_key), v and y (batch, length, heads,
   d_value), heads and keys or values dense; a stride of 0 is an axis that is constant. Complex q and
   k have their imaginary parts beside the real ones. States are (batch, heads, d_key, d_value,
   parts). What a block of values gives to the gradients by q, k and the gates is one of ``blocks``
   terms, for the caller to sum. */

#include <stdlib.h>

#include "gates.h"
#include "vectors.h"

#define TILES 2
#define GROUP (TILES * LANES)
#define CHUNK 32
#define SOON 4 /* steps */

#define FOLD 16    /* bytes: of the narrowest registers there are */
#define FOLDED (FOLD / (int)sizeof(REAL))

typedef REAL Narrow __attribute__((vector_size(FOLD)));

enum { Q, K, V, AMPLITUDE, PHASE, GRAD_Y };

typedef struct {
    Shape of; /* batch, length; channels: heads */
    int64_t d_key, d_value, blocks;
    int q_parts, k_parts, parts; /* 2 where complex; parts: of the state */
    int gate, threads;
} Head;

typedef struct {
    const REAL *q, *k, *v, *amplitude, *phase, *grad_y;
    const uint8_t *reset;
} Inputs;

typedef struct {
    REAL *q, *k, *v, *amplitude, *phase, *state;
    int fixed_amplitude, fixed_phase;
} Gradients;

typedef union {
    Vector tile[TILES];
    REAL key[GROUP];
} Keys;

typedef struct {
    Keys re, im;
} ComplexKeys;

/* What a step reads for one group of keys; keys beyond the last are zero. */
typedef struct {
    ComplexKeys a, q, k;
    Keys slope;
} Step;

typedef struct {
    int64_t b, head, first_value, values, first_key, keys;
} Part;

/* A sum over lanes goes in two steps: whole registers first, one value at a time, and the FOLDED
   numbers each leaves for all values at once, without a chain of single additions. */
ALWAYS_INLINE void fold(Vector x, REAL *to)
{
    Narrow part[VECTOR / FOLD], sum;
    memcpy(part, &x, sizeof part);
    sum = (part[0] + part[1]) + (part[2] + part[3]);
    memcpy(to, &sum, sizeof sum);
}

ALWAYS_INLINE void add_folded(const REAL *folded, int64_t values, REAL *to)
{
    EACH_CHANNEL
    for (int64_t j = 0; j < values; j++) {
        REAL sum = 0;
        for (int i = 0; i < FOLDED; i++)
            sum += folded[FOLDED * j + i];
        to[j] += sum;
    }
}

/* ``keys`` is a constant where the group is full. What is not read was zero and stays so. */
ALWAYS_INLINE void read_some(ComplexKeys *to, const REAL *from, int parts, int keys)
{
    for (int i = 0; i < keys; i++)
        to->re.key[i] = from[parts * i];
    if (parts == 2)
        for (int i = 0; i < keys; i++)
            to->im.key[i] = from[2 * i + 1];
}

ALWAYS_INLINE void read_keys(ComplexKeys *to, const REAL *from, int parts, int keys)
{
    if (keys == GROUP && parts == 1)
        read_some(to, from, 1, GROUP);
    else if (keys == GROUP)
        read_some(to, from, 2, GROUP);
    else
        read_some(to, from, parts, keys);
}

/* Without a choice in the loop, for a compiler then loads an array that is not there under a mask of
   zeros, which took half of the forward pass. */
ALWAYS_INLINE void read_amplitudes(Step *step, const REAL *amplitude, int keys, int gate)
{
    EACH_CHANNEL
    for (int i = 0; i < keys; i++) {
        step->a.re.key[i] = amplitude_of(amplitude[i], gate, &step->slope.key[i]);
        step->a.im.key[i] = 0;
    }
}

ALWAYS_INLINE void turn(Step *step, const REAL *phase, int keys)
{
    EACH_CHANNEL
    for (int i = 0; i < keys; i++) {
        REAL sine, cosine, size = step->a.re.key[i];
        sine_cosine(phase[i], &sine, &cosine);
        step->a.re.key[i] = size * cosine;
        step->a.im.key[i] = size * sine;
    }
}

ALWAYS_INLINE int forgets(const Head *s, const Inputs *in, const Part *p, int64_t n)
{
    return in->reset && in->reset[p->b * s->of.length + n];
}

/* Not inline, for none of the kinds of kernel below reads in a way of its own. ``known``: the step
   holds another one's gates. */
__attribute__((noinline)) static void read_step(const Head *s, const Inputs *in, const Part *p,
                                                int64_t n, int known, Step *step)
{
    const int64_t row = p->head * s->d_key + p->first_key;
    const int q_parts = s->q_parts, k_parts = s->k_parts, keys = (int)p->keys;
    read_keys(&step->q, in->q + at(&s->of, Q, p->b, n) + q_parts * row, q_parts, keys);
    read_keys(&step->k, in->k + at(&s->of, K, p->b, n) + k_parts * row, k_parts, keys);
    if (known && !s->of.stride[AMPLITUDE][1] && (!in->phase || !s->of.stride[PHASE][1]))
        return;
    const REAL *amplitude = in->amplitude + at(&s->of, AMPLITUDE, p->b, n) + row;
    if (s->gate == LOGIT)
        read_amplitudes(step, amplitude, keys, LOGIT);
    else if (s->gate == LOG_AMPLITUDE)
        read_amplitudes(step, amplitude, keys, LOG_AMPLITUDE);
    else
        read_amplitudes(step, amplitude, keys, GROWING_LOG_AMPLITUDE);
    if (in->phase)
        turn(step, in->phase + at(&s->of, PHASE, p->b, n) + row, keys);
}

/* Rows of a head are short and far apart: the processor does not see them coming. */
ALWAYS_INLINE void fetch_step(const Head *s, const Inputs *in, const Part *p, int64_t n)
{
    const int64_t row = p->head * s->d_key + p->first_key, b = p->b;
    fetch(in->q + at(&s->of, Q, b, n) + s->q_parts * row, s->q_parts * (int)p->keys);
    fetch(in->k + at(&s->of, K, b, n) + s->k_parts * row, s->k_parts * (int)p->keys);
    if (s->of.stride[AMPLITUDE][1])
        fetch(in->amplitude + at(&s->of, AMPLITUDE, b, n) + row, (int)p->keys);
    if (in->phase && s->of.stride[PHASE][1])
        fetch(in->phase + at(&s->of, PHASE, b, n) + row, (int)p->keys);
    fetch(in->v + at(&s->of, V, b, n) + p->head * s->d_value + p->first_value, (int)p->values);
}

/* h = a before + k v, for all values; ``h`` may be ``before``. */
ALWAYS_INLINE void advance(const Step *step, const REAL *v, int64_t values, const Keys *before,
                           Keys *h, int turns, int complex_k)
{
    for (int64_t j = 0; j < values; j++)
        for (int t = 0; t < TILES; t++) {
            const int64_t at_re = turns ? 2 * j : j, at_im = at_re + 1;
            Vector re = before[at_re].tile[t], a_re = step->a.re.tile[t];
            if (!turns) {
                h[at_re].tile[t] = a_re * re + step->k.re.tile[t] * v[j];
                continue;
            }
            Vector im = before[at_im].tile[t], a_im = step->a.im.tile[t];
            h[at_re].tile[t] = a_re * re - a_im * im + step->k.re.tile[t] * v[j];
            im = a_re * im + a_im * re;
            h[at_im].tile[t] = complex_k ? im + step->k.im.tile[t] * v[j] : im;
        }
}

ALWAYS_INLINE void read_out(const Step *step, const Keys *h, int64_t values, REAL *folded, REAL *y,
                            int turns, int complex_q)
{
    for (int64_t j = 0; j < values; j++) {
        const int64_t at_re = turns ? 2 * j : j, at_im = at_re + 1;
        Vector sum = {0};
        for (int t = 0; t < TILES; t++) {
            sum += step->q.re.tile[t] * h[at_re].tile[t];
            if (complex_q)
                sum -= step->q.im.tile[t] * h[at_im].tile[t];
        }
        fold(sum, folded + FOLDED * j);
    }
    add_folded(folded, values, y);
}

/* Between (…, d_key, d_value, parts) outside and (value, part, key) here. */
ALWAYS_INLINE int64_t place(const Head *s, const Part *p, int64_t i, int64_t j)
{
    const int64_t key = (p->b * s->of.channels + p->head) * s->d_key + p->first_key + i;
    return s->parts * (key * s->d_value + p->first_value + j);
}

ALWAYS_INLINE void load(const Head *s, const Part *p, const REAL *state, Keys *h)
{
    memset(h, 0, s->parts * p->values * sizeof *h);
    for (int64_t i = 0; i < p->keys; i++)
        for (int64_t j = 0; j < p->values; j++)
            for (int part = 0; part < s->parts; part++)
                h[s->parts * j + part].key[i] = state[place(s, p, i, j) + part];
}

ALWAYS_INLINE void store(const Head *s, const Part *p, const Keys *h, REAL *state)
{
    for (int64_t i = 0; i < p->keys; i++)
        for (int64_t j = 0; j < p->values; j++)
            for (int part = 0; part < s->parts; part++)
                state[place(s, p, i, j) + part] = h[s->parts * j + part].key[i];
}

ALWAYS_INLINE int64_t chunks(const Head *s) { return (s->of.length + CHUNK - 1) / CHUNK; }

/* Where states before a chunk are kept, (batch, heads, groups, chunks, d_value, parts) of Keys. */
ALWAYS_INLINE int64_t kept_at(const Head *s, const Part *p, int64_t chunk)
{
    const int64_t groups = (s->d_key + GROUP - 1) / GROUP;
    const int64_t group = (p->b * s->of.channels + p->head) * groups + p->first_key / GROUP;
    return s->parts * ((group * chunks(s) + chunk) * s->d_value + p->first_value);
}

ALWAYS_INLINE void forward_part(const Head *s, const Inputs *in, const Part *p, const REAL *state,
                                REAL *y, REAL *last, Keys *kept, Keys *h, REAL *folded, int turns,
                                int complex_q, int complex_k)
{
    const int64_t numbers = s->parts * p->values;
    Step step;
    memset(&step, 0, sizeof step);
    load(s, p, state, h);
    for (int64_t n = 0; n < s->of.length; n++) {
        if (kept && n % CHUNK == 0)
            memcpy(kept + kept_at(s, p, n / CHUNK), h, numbers * sizeof *h);
        read_step(s, in, p, n, n > 0, &step);
        if (forgets(s, in, p, n))
            memset(h, 0, numbers * sizeof *h);
        const int64_t head = p->head * s->d_value + p->first_value;
        const int64_t row = s->of.channels * s->d_value;
        const REAL *v = in->v + at(&s->of, V, p->b, n) + head;
        REAL *to = y + (p->b * s->of.length + n) * row + head;
        if (n + SOON < s->of.length) {
            fetch_step(s, in, p, n + SOON);
            fetch(to + SOON * row, (int)p->values);
        }
        advance(&step, v, p->values, h, h, turns, complex_k);
        read_out(&step, h, p->values, folded, to, turns, complex_q);
    }
    store(s, p, h, last);
}

ALWAYS_INLINE void give_some(REAL *to, const Keys *re, const Keys *im, int parts, int keys)
{
    for (int i = 0; i < keys; i++) {
        to[parts * i] = re->key[i];
        if (parts == 2)
            to[2 * i + 1] = im->key[i];
    }
}

ALWAYS_INLINE void give(REAL *to, const ComplexKeys *by, int parts, int keys)
{
    if (keys == GROUP && parts == 1)
        give_some(to, &by->re, &by->im, 1, GROUP);
    else if (keys == GROUP)
        give_some(to, &by->re, &by->im, 2, GROUP);
    else
        give_some(to, &by->re, &by->im, parts, keys);
}

/* Where a gate is fixed over time, one row takes the sum. */
ALWAYS_INLINE void give_gate(REAL *steps, REAL *sum, const Keys *by, int fixed, int64_t keys)
{
    if (!fixed)
        memcpy(steps, by, keys * sizeof *steps);
    else
        for (int64_t i = 0; i < keys; i++)
            sum[i] += by->key[i];
}

/* One step back: G holds conj(a_{n+1}) G_{n+1} and is left as conj(a_n) G_n. */
ALWAYS_INLINE void step_back(const Step *step, const REAL *v, const REAL *grad_y, int64_t values,
                             const Keys *before, Keys *g, REAL *folded, REAL *grad_v,
                             ComplexKeys *by_q, ComplexKeys *by_k, Keys *by_log, Keys *by_phase,
                             int turns, int complex_q, int complex_k)
{
    Vector zero = {0};
    for (int t = 0; t < TILES; t++) {
        by_q->re.tile[t] = by_q->im.tile[t] = by_k->re.tile[t] = by_k->im.tile[t] = zero;
        by_log->tile[t] = by_phase->tile[t] = zero;
    }
    for (int64_t j = 0; j < values; j++) {
        const int64_t at_re = turns ? 2 * j : j, at_im = at_re + 1;
        Vector by_v = zero;
        for (int t = 0; t < TILES; t++) {
            Vector a_re = step->a.re.tile[t], a_im = step->a.im.tile[t];
            Vector k_re = step->k.re.tile[t], re = before[at_re].tile[t];
            Vector im = turns ? before[at_im].tile[t] : zero;
            Vector z_re = turns ? a_re * re - a_im * im : a_re * re;
            Vector g_re = g[at_re].tile[t] + step->q.re.tile[t] * grad_y[j];
            by_q->re.tile[t] += (z_re + k_re * v[j]) * grad_y[j];
            by_k->re.tile[t] += g_re * v[j];
            by_v += g_re * k_re;
            by_log->tile[t] += g_re * z_re;
            if (!turns) {
                g[at_re].tile[t] = a_re * g_re;
                continue;
            }
            Vector z_im = a_re * im + a_im * re, g_im = g[at_im].tile[t];
            if (complex_q) {
                g_im -= step->q.im.tile[t] * grad_y[j];
                Vector h_im = complex_k ? z_im + step->k.im.tile[t] * v[j] : z_im;
                by_q->im.tile[t] -= h_im * grad_y[j];
            }
            if (complex_k) {
                by_k->im.tile[t] += g_im * v[j];
                by_v += g_im * step->k.im.tile[t];
            }
            by_log->tile[t] += g_im * z_im;
            by_phase->tile[t] += g_im * z_re - g_re * z_im;
            g[at_re].tile[t] = a_re * g_re + a_im * g_im;
            g[at_im].tile[t] = a_re * g_im - a_im * g_re;
        }
        fold(by_v, folded + FOLDED * j);
    }
    add_folded(folded, values, grad_v);
}

ALWAYS_INLINE void backward_part(const Head *s, const Inputs *in, const Part *p, int64_t block,
                                 const Keys *kept, const REAL *grad_last, const Gradients *to,
                                 Keys *room, REAL *folded, int turns, int complex_q, int complex_k)
{
    /* a step's states stand before those of the next one */
    const int64_t numbers = s->parts * p->values, value = p->head * s->d_value + p->first_value;
    Keys *g = room + (CHUNK + 1) * numbers;
    const Keys *before[CHUNK];
    Step steps[CHUNK];
    memset(steps, 0, sizeof steps);
    load(s, p, grad_last, g);
    for (int64_t chunk = chunks(s) - 1; chunk >= 0; chunk--) {
        const int64_t start = chunk * CHUNK;
        const int64_t count = s->of.length - start < CHUNK ? s->of.length - start : CHUNK;
        const Keys *first = kept + kept_at(s, p, chunk);
        for (int64_t n = 0; n < count; n++) {
            Keys *h = room + (n + 1) * numbers;
            if (chunk) { /* of the chunk that comes next */
                fetch_step(s, in, p, start - CHUNK + n);
                fetch(in->grad_y + at(&s->of, GRAD_Y, p->b, start - CHUNK + n) + value,
                      (int)p->values);
            }
            read_step(s, in, p, start + n, 0, &steps[n]);
            before[n] = n ? h - numbers : first;
            if (forgets(s, in, p, start + n))
                before[n] = memset(h - numbers, 0, numbers * sizeof *h);
            advance(&steps[n], in->v + at(&s->of, V, p->b, start + n) + value, p->values,
                    before[n], h, turns, complex_k);
        }
        for (int64_t n = count - 1; n >= 0; n--) {
            const int64_t at_n = p->b * s->of.length + start + n;
            const int64_t row = (block * s->of.batch * s->of.length + at_n) * s->of.channels;
            const int64_t key = (row + p->head) * s->d_key + p->first_key;
            const int64_t one_row = (block * s->of.batch + p->b) * s->of.channels + p->head;
            const int64_t fixed = one_row * s->d_key + p->first_key;
            ComplexKeys by_q, by_k;
            Keys by_log, by_phase;
            step_back(&steps[n], in->v + at(&s->of, V, p->b, start + n) + value,
                      in->grad_y + at(&s->of, GRAD_Y, p->b, start + n) + value, p->values,
                      before[n], g, folded,
                      to->v + at_n * s->of.channels * s->d_value + value,
                      &by_q, &by_k, &by_log, &by_phase, turns, complex_q, complex_k);
            if (forgets(s, in, p, start + n))
                memset(g, 0, numbers * sizeof *g);
            for (int t = 0; t < TILES; t++)
                by_log.tile[t] *= steps[n].slope.tile[t];
            give(to->q + s->q_parts * key, &by_q, s->q_parts, (int)p->keys);
            give(to->k + s->k_parts * key, &by_k, s->k_parts, (int)p->keys);
            REAL *amplitude = to->amplitude, *phase = to->phase;
            give_gate(amplitude + key, amplitude + fixed, &by_log, to->fixed_amplitude, p->keys);
            if (in->phase)
                give_gate(phase + key, phase + fixed, &by_phase, to->fixed_phase, p->keys);
        }
    }
    store(s, p, g, to->state);
}

/* Each task in turn, and of each the groups of keys; ``room`` is for it alone. */
#define EACH_PART(states, call)                                                                   \
    _Pragma("omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)")      \
    for (int64_t task = 0; task < s->of.batch * s->of.channels * s->blocks; task++) {             \
        const int64_t block = task % s->blocks, head = task / s->blocks;                          \
        const int64_t size = (s->d_value + s->blocks - 1) / s->blocks, first = block * size;      \
        Part p = {head / s->of.channels, head % s->of.channels, first,                            \
                  s->d_value - first < size ? s->d_value - first : size, 0, 0};                   \
        if (p.values <= 0)                                                                        \
            continue;                                                                             \
        Keys *room = aligned_alloc(VECTOR, ((states) * s->parts + 1) * p.values * sizeof(Keys));  \
        REAL *folded = (REAL *)(room + (states) * s->parts * p.values);                           \
        for (; p.first_key < s->d_key; p.first_key += GROUP) {                                    \
            p.keys = s->d_key - p.first_key < GROUP ? s->d_key - p.first_key : GROUP;             \
            call;                                                                                 \
        }                                                                                         \
        free(room);                                                                               \
    }

#define FORWARD(turns, complex_q, complex_k)                                                      \
    EACH_PART(1, forward_part(s, in, &p, state, y, last, kept, room, folded, turns, complex_q,    \
                              complex_k))
#define BACKWARD(turns, complex_q, complex_k)                                                     \
    EACH_PART(CHUNK + 2, backward_part(s, in, &p, block, kept, grad_last, to, room, folded,        \
                                       turns, complex_q, complex_k))
#define EACH_KIND(do)                                                                             \
    if (s->parts == 1) {                                                                          \
        do(0, 0, 0)                                                                               \
    } else if (s->q_parts == 1 && s->k_parts == 1) {                                              \
        do(1, 0, 0)                                                                               \
    } else {                                                                                      \
        do(1, 1, 1)                                                                               \
    }

int outer_product_chunk(void) { return CHUNK; }
int outer_product_group(void) { return GROUP; }

void outer_product_forward(const Head *s, const Inputs *in, const REAL *state, REAL *y, REAL *last,
                           Keys *kept)
{
    EACH_KIND(FORWARD)
}

void outer_product_backward(const Head *s, const Inputs *in, const Keys *kept,
                            const REAL *grad_last, const Gradients *to)
{
    EACH_KIND(BACKWARD)
}
