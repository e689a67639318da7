/* Rows written past the caches.

   A row that is stored is read into the cache first, to be written back later: twice the traffic.
   Where a pass moves far more than the last cache holds, nobody finds its results there anyway, so
   that they had better go to memory straight, where the processor can. Virtual machines misreport
   their caches by a factor of ten, so LARGE is twice what most processors have, not asked for. */

#pragma once

#include "blocks.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#define CAN_STREAM 1
#define PIECE ((int)(sizeof(__m128i) / sizeof(REAL)))
#else
#define CAN_STREAM 0
#endif

#define LARGE ((int64_t)64 << 20)
#define ROW __attribute__((aligned(64))) /* what is streamed is written here first */

/* Whether the results of a pass, each of these a dense array or NULL, are to be streamed. The pass
   moves so many ``numbers`` for each channel and step. */
ALWAYS_INLINE int streams(const Shape *s, int numbers, const REAL *const *results, int count)
{
    const int64_t bytes = numbers * s->batch * s->length * s->channels * (int64_t)sizeof(REAL);
    if (!CAN_STREAM || s->channels % LINE || bytes <= LARGE)
        return 0;
    for (int i = 0; i < count; i++)
        if ((uintptr_t)results[i] % 16)
            return 0;
    return 1;
}

/* ``width`` numbers of a ROW; a multiple of LINE, for so are the channels. */
ALWAYS_INLINE void stream(REAL *to, const REAL *row, int width)
{
#if CAN_STREAM
    for (int c = 0; c < width; c += PIECE)
        _mm_stream_si128((__m128i *)(to + c), *(const __m128i *)(row + c));
#endif
}

/* What was streamed before is in memory before what follows. */
ALWAYS_INLINE void end_streams(void)
{
#if CAN_STREAM
    _mm_sfence();
#endif
}
