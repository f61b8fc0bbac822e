/* Floats off alignment between canaries: what a kernel writes beside its output shows, and what it reads
 * beside its input turns everything to NaN. Freed by the caller: free(g.all). */
#ifndef SPARSED_TESTS_SUPPORT_GUARDED_H
#define SPARSED_TESTS_SUPPORT_GUARDED_H

#include <stddef.h>

typedef struct guarded {
    float *all, *x; /* x: (n) of NaN at first */
    size_t n;
} guarded;

guarded guarded_new(size_t n);
/* Turns the canaries of an input to NaN: what lies round it must not be read, or at least not count. */
void guarded_poison(const guarded *g);
/* Fails where a canary was written to. */
void guarded_check(const guarded *g);

#endif
