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

#include "blocks.h"
#include "gates.h"

#define VECTOR 64 /* bytes: one of the widest registers there are, several of the others */
#define LANES (VECTOR / (int)sizeof(REAL))
#define TILES 2
#define GROUP (TILES * LANES)
#define CHUNK 32

typedef REAL Vector __attribute__((vector_size(VECTOR)));

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

ALWAYS_INLINE REAL sum_of(Vector x)
{
    REAL sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += x[lane];
    return sum;
}

ALWAYS_INLINE void read_keys(ComplexKeys *to, const REAL *from, int parts, int64_t keys)
{
    for (int64_t i = 0; i < keys; i++) {
        to->re.key[i] = from[parts * i];
        to->im.key[i] = parts == 2 ? from[2 * i + 1] : 0;
    }
}

ALWAYS_INLINE void read_step(const Head *s, const Inputs *in, const Part *p, int64_t n,
                             int64_t previous, Step *step)
{
    const int64_t row = p->head * s->d_key + p->first_key;
    read_keys(&step->q, in->q + at(&s->of, Q, p->b, n) + s->q_parts * row, s->q_parts, p->keys);
    read_keys(&step->k, in->k + at(&s->of, K, p->b, n) + s->k_parts * row, s->k_parts, p->keys);
    const int forgets = in->reset && in->reset[p->b * s->of.length + n];
    const int forgot = previous >= 0 && in->reset && in->reset[p->b * s->of.length + previous];
    const int fixed = !s->of.stride[AMPLITUDE][1] && (!in->phase || !s->of.stride[PHASE][1]);
    if (previous >= 0 && fixed && !forgets && !forgot)
        return;
    const REAL *amplitude = in->amplitude + at(&s->of, AMPLITUDE, p->b, n) + row;
    const REAL *phase = in->phase ? in->phase + at(&s->of, PHASE, p->b, n) + row : NULL;
    const REAL keep = forgets ? 0 : 1;
    EACH_CHANNEL
    for (int i = 0; i < (int)p->keys; i++) {
        REAL sine = 0, cosine = 1, size = keep * amplitude_of(amplitude[i], s->gate, &step->slope.key[i]);
        if (phase)
            sine_cosine(phase[i], &sine, &cosine);
        step->a.re.key[i] = size * cosine;
        step->a.im.key[i] = size * sine;
    }
}

/* h ← a h + k v, for all values. */
ALWAYS_INLINE void advance(const Step *step, const REAL *v, int64_t values, ComplexKeys *h, int turns,
                           int complex_k)
{
    for (int64_t j = 0; j < values; j++)
        for (int t = 0; t < TILES; t++) {
            Vector re = h[j].re.tile[t], a_re = step->a.re.tile[t];
            if (!turns) {
                h[j].re.tile[t] = a_re * re + step->k.re.tile[t] * v[j];
                continue;
            }
            Vector im = h[j].im.tile[t], a_im = step->a.im.tile[t];
            h[j].re.tile[t] = a_re * re - a_im * im + step->k.re.tile[t] * v[j];
            im = a_re * im + a_im * re;
            h[j].im.tile[t] = complex_k ? im + step->k.im.tile[t] * v[j] : im;
        }
}

ALWAYS_INLINE void read_out(const Step *step, const ComplexKeys *h, int64_t values, REAL *y,
                            int complex_q)
{
    for (int64_t j = 0; j < values; j++) {
        Vector sum = {0};
        for (int t = 0; t < TILES; t++) {
            sum += step->q.re.tile[t] * h[j].re.tile[t];
            if (complex_q)
                sum -= step->q.im.tile[t] * h[j].im.tile[t];
        }
        y[j] += sum_of(sum);
    }
}

/* Between (…, d_key, d_value, parts) outside and (value, part, key) here. */
ALWAYS_INLINE int64_t place(const Head *s, const Part *p, int64_t i, int64_t j)
{
    const int64_t key = (p->b * s->of.channels + p->head) * s->d_key + p->first_key + i;
    return s->parts * (key * s->d_value + p->first_value + j);
}

ALWAYS_INLINE void load(const Head *s, const Part *p, const REAL *state, ComplexKeys *h)
{
    memset(h, 0, p->values * sizeof *h);
    for (int64_t i = 0; i < p->keys; i++)
        for (int64_t j = 0; j < p->values; j++) {
            h[j].re.key[i] = state[place(s, p, i, j)];
            if (s->parts == 2)
                h[j].im.key[i] = state[place(s, p, i, j) + 1];
        }
}

ALWAYS_INLINE void store(const Head *s, const Part *p, const ComplexKeys *h, REAL *state)
{
    for (int64_t i = 0; i < p->keys; i++)
        for (int64_t j = 0; j < p->values; j++) {
            state[place(s, p, i, j)] = h[j].re.key[i];
            if (s->parts == 2)
                state[place(s, p, i, j) + 1] = h[j].im.key[i];
        }
}

ALWAYS_INLINE int64_t chunks(const Head *s) { return (s->of.length + CHUNK - 1) / CHUNK; }

/* Where the states before a chunk are kept, (batch, heads, groups, chunks, d_value) of ComplexKeys. */
ALWAYS_INLINE int64_t kept_at(const Head *s, const Part *p, int64_t chunk)
{
    const int64_t groups = (s->d_key + GROUP - 1) / GROUP;
    const int64_t group = (p->b * s->of.channels + p->head) * groups + p->first_key / GROUP;
    return (group * chunks(s) + chunk) * s->d_value + p->first_value;
}

ALWAYS_INLINE void forward_part(const Head *s, const Inputs *in, const Part *p, const REAL *state,
                                REAL *y, REAL *last, ComplexKeys *kept, ComplexKeys *h, int turns,
                                int complex_q, int complex_k)
{
    Step step;
    memset(&step, 0, sizeof step);
    load(s, p, state, h);
    for (int64_t n = 0; n < s->of.length; n++) {
        if (n % CHUNK == 0)
            memcpy(kept + kept_at(s, p, n / CHUNK), h, p->values * sizeof *h);
        read_step(s, in, p, n, n - 1, &step);
        const int64_t head = p->head * s->d_value + p->first_value;
        const REAL *v = in->v + at(&s->of, V, p->b, n) + head;
        advance(&step, v, p->values, h, turns, complex_k);
        REAL *to = y + (p->b * s->of.length + n) * s->of.channels * s->d_value + head;
        read_out(&step, h, p->values, to, complex_q);
    }
    store(s, p, h, last);
}

ALWAYS_INLINE void give(REAL *to, const Keys *re, const Keys *im, int parts, int64_t keys, int more)
{
    for (int64_t i = 0; i < keys; i++) {
        to[parts * i] = re->key[i] + (more ? to[parts * i] : 0);
        if (parts == 2)
            to[2 * i + 1] = im->key[i] + (more ? to[2 * i + 1] : 0);
    }
}

/* One step back: G holds conj(a_{n+1}) G_{n+1} and is left as conj(a_n) G_n. */
ALWAYS_INLINE void step_back(const Step *step, const REAL *v, const REAL *grad_y, int64_t values,
                             const ComplexKeys *before, ComplexKeys *g, REAL *grad_v,
                             ComplexKeys *by_q, ComplexKeys *by_k, Keys *by_log, Keys *by_phase,
                             int turns, int complex_q, int complex_k)
{
    Vector zero = {0};
    for (int t = 0; t < TILES; t++) {
        by_q->re.tile[t] = by_q->im.tile[t] = by_k->re.tile[t] = by_k->im.tile[t] = zero;
        by_log->tile[t] = by_phase->tile[t] = zero;
    }
    for (int64_t j = 0; j < values; j++) {
        Vector by_v = zero;
        for (int t = 0; t < TILES; t++) {
            Vector a_re = step->a.re.tile[t], a_im = step->a.im.tile[t];
            Vector k_re = step->k.re.tile[t], re = before[j].re.tile[t], im = before[j].im.tile[t];
            Vector z_re = turns ? a_re * re - a_im * im : a_re * re;
            Vector g_re = g[j].re.tile[t] + step->q.re.tile[t] * grad_y[j];
            by_q->re.tile[t] += (z_re + k_re * v[j]) * grad_y[j];
            by_k->re.tile[t] += g_re * v[j];
            by_v += g_re * k_re;
            by_log->tile[t] += g_re * z_re;
            if (!turns) {
                g[j].re.tile[t] = a_re * g_re;
                continue;
            }
            Vector z_im = a_re * im + a_im * re, g_im = g[j].im.tile[t];
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
            g[j].re.tile[t] = a_re * g_re + a_im * g_im;
            g[j].im.tile[t] = a_re * g_im - a_im * g_re;
        }
        grad_v[j] += sum_of(by_v);
    }
}

ALWAYS_INLINE void backward_part(const Head *s, const Inputs *in, const Part *p, int64_t block,
                                 const ComplexKeys *kept, const REAL *grad_last,
                                 const Gradients *to, ComplexKeys *room, int turns, int complex_q,
                                 int complex_k)
{
    /* a step's states stand before those of the next one */
    ComplexKeys *g = room + (CHUNK + 1) * p->values;
    Step steps[CHUNK];
    memset(steps, 0, sizeof steps);
    load(s, p, grad_last, g);
    for (int64_t chunk = chunks(s) - 1; chunk >= 0; chunk--) {
        const int64_t start = chunk * CHUNK;
        const int64_t count = s->of.length - start < CHUNK ? s->of.length - start : CHUNK;
        memcpy(room, kept + kept_at(s, p, chunk), p->values * sizeof *room);
        for (int64_t n = 0; n < count; n++) {
            ComplexKeys *h = room + (n + 1) * p->values;
            read_step(s, in, p, start + n, -1, &steps[n]);
            memcpy(h, h - p->values, p->values * sizeof *h);
            const REAL *v = in->v + at(&s->of, V, p->b, start + n) + p->head * s->d_value;
            advance(&steps[n], v + p->first_value, p->values, h, turns, complex_k);
        }
        for (int64_t n = count - 1; n >= 0; n--) {
            const int64_t at_n = p->b * s->of.length + start + n;
            const int64_t value = p->head * s->d_value + p->first_value;
            const int64_t row = (block * s->of.batch * s->of.length + at_n) * s->of.channels;
            const int64_t key = (row + p->head) * s->d_key + p->first_key;
            const int64_t fixed = ((block * s->of.batch + p->b) * s->of.channels + p->head) * s->d_key
                                  + p->first_key;
            ComplexKeys by_q, by_k;
            Keys by_log, by_phase;
            step_back(&steps[n], in->v + at(&s->of, V, p->b, start + n) + value,
                      in->grad_y + at(&s->of, GRAD_Y, p->b, start + n) + value, p->values,
                      room + n * p->values, g, to->v + at_n * s->of.channels * s->d_value + value,
                      &by_q, &by_k, &by_log, &by_phase, turns, complex_q, complex_k);
            for (int t = 0; t < TILES; t++)
                by_log.tile[t] *= steps[n].slope.tile[t];
            give(to->q + s->q_parts * key, &by_q.re, &by_q.im, s->q_parts, p->keys, 0);
            give(to->k + s->k_parts * key, &by_k.re, &by_k.im, s->k_parts, p->keys, 0);
            give(to->amplitude + (to->fixed_amplitude ? fixed : key), &by_log, NULL, 1, p->keys,
                 to->fixed_amplitude);
            if (in->phase)
                give(to->phase + (to->fixed_phase ? fixed : key), &by_phase, NULL, 1, p->keys,
                     to->fixed_phase);
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
        ComplexKeys *room = aligned_alloc(VECTOR, (states) * p.values * sizeof(ComplexKeys));     \
        for (; p.first_key < s->d_key; p.first_key += GROUP) {                                    \
            p.keys = s->d_key - p.first_key < GROUP ? s->d_key - p.first_key : GROUP;             \
            call;                                                                                 \
        }                                                                                         \
        free(room);                                                                               \
    }

#define FORWARD(turns, complex_q, complex_k)                                                      \
    EACH_PART(1, forward_part(s, in, &p, state, y, last, kept, room, turns, complex_q, complex_k))
#define BACKWARD(turns, complex_q, complex_k)                                                     \
    EACH_PART(CHUNK + 2, backward_part(s, in, &p, block, kept, grad_last, to, room, turns,        \
                                       complex_q, complex_k))
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
                           ComplexKeys *kept)
{
    EACH_KIND(FORWARD)
}

void outer_product_backward(const Head *s, const Inputs *in, const ComplexKeys *kept,
                            const REAL *grad_last, const Gradients *to)
{
    EACH_KIND(BACKWARD)
}
