/* The weights of one row over listed keys, for graphs and metrics: the scores of the attend kernels, 64 keys
 * at a time, normalized by the float64 reference. Tests: tests/kernels/test_attend.c */
#include <assert.h>

#include "kernels/cpu/attend.h"

#define MAX_HEAD_DIM 256

/* Pointers to the K rows of n <= 64 keys, the rest NULL. */
static void point_rows(const sp_kv_view *kv, uint32_t kv_head, const uint32_t *keys, size_t first, size_t n,
                       const void **rows)
{
    size_t bytes = kv->head_dim * (kv->dtype == SP_BF16 ? sizeof(uint16_t) : sizeof(float));
    for (size_t j = 0; j < SP_TILE; j++) {
        size_t key = j >= n ? 0 : keys ? keys[first + j] : first + j;
        rows[j] = j < n ? kv->pages[key / SP_TILE] + kv_head * kv->head_bytes + key % SP_TILE * bytes : NULL;
    }
}

size_t sp_cpu_row_weights(sp_device *device, const sp_kv_view *kv, uint32_t kv_head, const float *q,
                          float scale, sp_normalizer normalizer, const uint32_t *keys, size_t n,
                          float *weights)
{
    assert(kv->head_dim <= MAX_HEAD_DIM);
    const sp_attend_slots *slots = sp_attend_slots_for(sp_cpu_of(device)->level, kv->dtype);
    _Alignas(SP_ALIGNMENT) float packed_q[MAX_HEAD_DIM];
    _Alignas(SP_ALIGNMENT) float packed_k[MAX_HEAD_DIM * SP_TILE];
    float scores[SP_TILE], top, *score_row = scores, *top_row = &top;
    sp_attend_tile tile = {.rows = 1,
                           .head_dim = (kv->head_dim + 1) / 2 * 2,
                           .q = packed_q,
                           .k = packed_k,
                           .scores = &score_row,
                           .tops = &top_row};
    slots->pack_q(kv->head_dim, scale, q, packed_q);
    for (size_t first = 0; first < n; first += SP_TILE) {
        const void *rows[SP_TILE];
        size_t count = n - first < SP_TILE ? n - first : SP_TILE;
        point_rows(kv, kv_head, keys, first, count, rows);
        slots->pack_k(rows, kv->head_dim, 0, packed_k);
        slots->scores(&tile);
        for (size_t j = 0; j < count; j++) weights[first + j] = scores[j];
    }
    return sp_normalize_row(normalizer, weights, n);
}
