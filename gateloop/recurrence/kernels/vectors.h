/* What a kernel computes in where it does not leave vectors to the compiler. */

#pragma once
#include "blocks.h"

#define VECTOR 64 /* bytes: one of the widest registers there are, several of the others */
#define LANES (VECTOR / (int)sizeof(REAL))

typedef REAL Vector __attribute__((vector_size(VECTOR)));
