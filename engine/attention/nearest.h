/* The k nearest of a stream of numbered things, ties to the lower number: a heap whose root is the farthest
 * of those held. k log n whatever comes. Private to engine/attention. */
#ifndef SPARSED_ENGINE_ATTENTION_NEAREST_H
#define SPARSED_ENGINE_ATTENTION_NEAREST_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_near {
    double distance;
    uint32_t id;
} sp_near;

static inline bool sp_near_before(sp_near a, sp_near b)
{
    return a.distance < b.distance || (a.distance == b.distance && a.id < b.id);
}

/* Offers one thing to a heap of n (at most k, k > 0); returns the new n. */
static inline uint32_t sp_near_offer(sp_near *heap, uint32_t n, uint32_t k, sp_near item)
{
    uint32_t at = n;
    if (n < k) {
        for (; at > 0 && sp_near_before(heap[(at - 1) / 2], item); at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
        heap[at] = item;
        return n + 1;
    }
    if (!sp_near_before(item, heap[0])) return n;
    at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && sp_near_before(heap[child], heap[child + 1])) child++;
        if (!sp_near_before(item, heap[child])) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = item;
    return n;
}

#endif
