/* Sums over pairs of poles, as a state space's transfer function has them, and their gradients.

       R_mf = 1 / ((z_f − μ_m)(z_f − μ̄_m)),   μ_m = a_m + i b_m

       expand   y_rf = Σ_m x_rm R_mf            of real rows x
       reduce   x_rm = Re Σ_f y_rf R_mf         of complex rows y

   with, given both x and y, the gradients by a and b of Re Σ x_rm y_rf R_mf. R is made again where
   it is needed, in registers, and stands in no array. x is (channels, rows, modes), y (channels,
   rows, nodes), a and b (channels, modes), z (nodes); y and z have their imaginary parts beside the
   real ones. Rows are taken ROWS at once, vectors run along the nodes. */

#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#define ROWS 8

typedef struct {
    Vector re, im;
} Complex;

typedef struct {
    int64_t channels, rows, modes, nodes;
    int threads;
} Sizes;

ALWAYS_INLINE Complex read_some(const REAL *from, int count, Complex otherwise)
{
    for (int i = 0; i < count; i++)
        otherwise.re[i] = from[2 * i], otherwise.im[i] = from[2 * i + 1];
    return otherwise;
}

ALWAYS_INLINE Complex read_nodes(const REAL *from, int count, REAL otherwise)
{
    const Complex rest = {otherwise + (Vector){0}, {0}};
    return count == LANES ? read_some(from, LANES, rest) : read_some(from, count, rest);
}

ALWAYS_INLINE int64_t vectors(const Sizes *s) { return (s->nodes + LANES - 1) / LANES; }

ALWAYS_INLINE int count_at(const Sizes *s, int64_t vector)
{
    const int64_t left = s->nodes - vector * LANES;
    return left < LANES ? (int)left : LANES;
}

/* Near a pole z − μ is small; so b is taken from z before anything is squared. */
ALWAYS_INLINE Complex resolvent(Complex z, REAL a, REAL b)
{
    Vector width = z.re - a;
    Vector re = width * width - (z.im - b) * (z.im + b), im = 2 * width * z.im;
    Vector inverse = 1 / (re * re + im * im);
    return (Complex){re * inverse, -im * inverse};
}

ALWAYS_INLINE void read_rows(const Sizes *s, const REAL *x, int64_t channel, int64_t first,
                             REAL (*to)[ROWS])
{
    const int64_t rows = s->rows - first < ROWS ? s->rows - first : ROWS;
    memset(to, 0, s->modes * sizeof *to);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t m = 0; m < s->modes; m++)
            to[m][r] = x[(channel * s->rows + first + r) * s->modes + m];
}

ALWAYS_INLINE void expand_rows(const Sizes *s, const REAL *x, const REAL *a, const REAL *b,
                               const REAL *z, REAL *y, int64_t channel, int64_t first,
                               REAL (*x_m)[ROWS])
{
    const int64_t rows = s->rows - first < ROWS ? s->rows - first : ROWS;
    read_rows(s, x, channel, first, x_m);
    for (int64_t f = 0; f < vectors(s); f++) {
        const int count = count_at(s, f);
        const Complex z_f = read_nodes(z + 2 * LANES * f, count, 1);
        Complex sum[ROWS];
        memset(sum, 0, sizeof sum);
        for (int64_t m = 0; m < s->modes; m++) {
            const int64_t at_m = channel * s->modes + m;
            const Complex r_mf = resolvent(z_f, a[at_m], b[at_m]);
            for (int r = 0; r < ROWS; r++) {
                sum[r].re += x_m[m][r] * r_mf.re;
                sum[r].im += x_m[m][r] * r_mf.im;
            }
        }
        for (int64_t r = 0; r < rows; r++) {
            REAL *to = y + 2 * ((channel * s->rows + first + r) * s->nodes + LANES * f);
            for (int i = 0; i < count; i++)
                to[2 * i] = sum[r].re[i], to[2 * i + 1] = sum[r].im[i];
        }
    }
}

ALWAYS_INLINE REAL sum_of(Vector x)
{
    REAL part[LANES];
    memcpy(part, &x, sizeof part);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            part[i] += part[i + width];
    return part[0];
}

/* x, and with ``given`` rows x the gradients by a and b, which are added to what they hold. */
ALWAYS_INLINE void reduce_rows(const Sizes *s, const REAL *y, const REAL *given, const REAL *a,
                               const REAL *b, const REAL *z, REAL *x, REAL *by_a, REAL *by_b,
                               int64_t channel, int64_t first, REAL (*x_m)[ROWS], Complex *z_f,
                               Complex (*y_f)[ROWS])
{
    const int64_t rows = s->rows - first < ROWS ? s->rows - first : ROWS;
    if (given)
        read_rows(s, given, channel, first, x_m);
    for (int64_t f = 0; f < vectors(s); f++) {
        const int count = count_at(s, f);
        z_f[f] = read_nodes(z + 2 * LANES * f, count, 1);
        for (int64_t r = 0; r < ROWS; r++) {
            const REAL *row = y + 2 * ((channel * s->rows + first + r) * s->nodes + LANES * f);
            y_f[f][r] = r < rows ? read_nodes(row, count, 0) : (Complex){{0}, {0}};
        }
    }
    for (int64_t m = 0; m < s->modes; m++) {
        const int64_t at_m = channel * s->modes + m;
        Vector sum[ROWS], of_a = {0}, of_b = {0};
        memset(sum, 0, sizeof sum);
        for (int64_t f = 0; f < vectors(s); f++) {
            const Complex r_mf = resolvent(z_f[f], a[at_m], b[at_m]);
            Complex product = {{0}, {0}};
            for (int r = 0; r < ROWS; r++) {
                sum[r] += y_f[f][r].re * r_mf.re - y_f[f][r].im * r_mf.im;
                if (given) {
                    product.re += x_m[m][r] * y_f[f][r].re;
                    product.im += x_m[m][r] * y_f[f][r].im;
                }
            }
            if (!given)
                continue;
            /* Σ x y dR, where dR = −R² d((z − μ)(z − μ̄)) */
            Vector square_re = r_mf.re * r_mf.re - r_mf.im * r_mf.im;
            Vector square_im = 2 * r_mf.re * r_mf.im;
            Vector re = square_re * product.re - square_im * product.im;
            Vector im = square_re * product.im + square_im * product.re;
            of_a += (z_f[f].re - a[at_m]) * re - z_f[f].im * im;
            of_b -= re;
        }
        for (int64_t r = 0; r < rows; r++)
            x[(channel * s->rows + first + r) * s->modes + m] = sum_of(sum[r]);
        if (given) {
            by_a[at_m] += 2 * sum_of(of_a);
            by_b[at_m] += 2 * b[at_m] * sum_of(of_b);
        }
    }
}

#define EACH_CHANNEL_IN_PARALLEL                                                                  \
    _Pragma("omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)")      \
    for (int64_t channel = 0; channel < s->channels; channel++)

void cauchy_expand(const Sizes *s, const REAL *x, const REAL *a, const REAL *b, const REAL *z,
                   REAL *y)
{
    EACH_CHANNEL_IN_PARALLEL
    {
        REAL(*x_m)[ROWS] = malloc((s->modes + 1) * sizeof *x_m);
        for (int64_t first = 0; first < s->rows; first += ROWS)
            expand_rows(s, x, a, b, z, y, channel, first, x_m);
        free(x_m);
    }
}

/* ``given`` is NULL where no gradient is wanted. */
void cauchy_reduce(const Sizes *s, const REAL *y, const REAL *given, const REAL *a, const REAL *b,
                   const REAL *z, REAL *x, REAL *by_a, REAL *by_b)
{
    EACH_CHANNEL_IN_PARALLEL
    {
        const size_t count = vectors(s) + 1;
        REAL(*x_m)[ROWS] = malloc((s->modes + 1) * sizeof *x_m);
        Complex *z_f = aligned_alloc(VECTOR, count * sizeof *z_f);
        Complex(*y_f)[ROWS] = aligned_alloc(VECTOR, count * sizeof *y_f);
        for (int64_t first = 0; first < s->rows; first += ROWS) {
            if (given)
                reduce_rows(s, y, given, a, b, z, x, by_a, by_b, channel, first, x_m, z_f, y_f);
            else
                reduce_rows(s, y, NULL, a, b, z, x, NULL, NULL, channel, first, x_m, z_f, y_f);
        }
        free(x_m), free(z_f), free(y_f);
    }
}
