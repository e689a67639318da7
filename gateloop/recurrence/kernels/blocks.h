/* What a kernel works on, and how it is shared out: a task is a sequence and a block of channels. */

#pragma once
#include <stdint.h>

#ifndef REAL
#define REAL float
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define BLOCK 512 /* channels at most: rows are read whole where sequences alone keep all threads busy */
#define LINE 16   /* numbers of a cache line in float */
#define AHEAD 2   /* rows: those read in part are more than the processor fetches ahead by itself */

#define EACH_CHANNEL _Pragma("omp simd")

typedef struct {
    int64_t batch, length, channels;
    int64_t repeat;       /* channels that share a transition */
    int64_t stride[6][2]; /* of each array over batch and over time, in numbers; 0: constant */
} Shape;

ALWAYS_INLINE int64_t at(const Shape *s, int array, int64_t b, int64_t n)
{
    return b * s->stride[array][0] + n * s->stride[array][1];
}

ALWAYS_INLINE void fetch(const REAL *from, int numbers)
{
    for (int i = 0; i < numbers; i += LINE)
        __builtin_prefetch(from + i, 0, 2);
}

/* Blocks of a row: as few as give every thread as many of them as any other, or several. */
ALWAYS_INLINE int64_t blocks_of(const Shape *s, int threads)
{
    int64_t blocks = (s->channels + BLOCK - 1) / BLOCK, most = (s->channels + LINE - 1) / LINE;
    while (blocks < most && s->batch * blocks % threads && s->batch * blocks < 4 * threads)
        blocks++;
    return blocks;
}

#define EACH_BLOCK(call)                                                                          \
    const int64_t blocks = blocks_of(s, threads);                                                 \
    const int64_t size = ((s->channels + blocks - 1) / blocks + LINE - 1) / LINE * LINE;          \
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")            \
    for (int64_t task = 0; task < s->batch * blocks; task++) {                                    \
        const int64_t b = task / blocks, first = task % blocks * size;                            \
        const int width = (int)(s->channels - first < size ? s->channels - first : size);         \
        if (width > 0)                                                                            \
            call;                                                                                 \
    }
