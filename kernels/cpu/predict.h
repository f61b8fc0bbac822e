/* Private to kernels/cpu: projections, codes, scans and assignments (kernels/predict.h). This header holds
 * the table of small pieces that each CPU level fills; predict.c, predict_scan.c and predict_step.c drive
 * them.
 *
 * Bits. Every number has one accumulator and one order of operations, the same at every level, lanes run
 * across independent results; so levels agree on every edge:
 *   projection     acc = b, then acc = fma(x[d], w[d], acc), d ascending
 *   dot, f32       acc = fma(q[d], k[d], acc), d ascending
 *   dot, bf16      d in pairs, the odd one first: what the instruction VDPBF16PS does
 *   squared Euclid t = q[d] - k[d], acc = fma(t, t, acc), d ascending
 *   cosine         dot (d ascending in both types), then 1 - dot / (|q| |k|), |k| the root of the dot of k
 *                  with itself
 * A scan compares *nearness*, so that larger is nearer: the dot product, or minus the distance; -INFINITY and
 * NaN are never an edge. Tests: tests/kernels/test_predict.c */
#ifndef SPARSED_KERNELS_CPU_PREDICT_H
#define SPARSED_KERNELS_CPU_PREDICT_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define SP_SCAN_ROWS 6   /* most rows of a tile */
#define SP_SCAN_STEP 128 /* tiles that are scored before their candidates are taken */
#define SP_SCAN_PAD 64   /* numbers behind a candidate list that may be overwritten */

/* Projected queries of one map's heads and one tile of 64 projected keys. */
typedef struct sp_scan_tile {
    size_t rows, rank;
    size_t stride;         /* numbers between rows of q: rank, padded to even */
    sp_metric metric;      /* EUCLIDEAN: the root is taken */
    const float *q;        /* (rows, stride); with bf16 keys rounded to bf16; zero padded */
    const uint16_t *pairs; /* the same as bf16; bf16 keys only */
    const float *lengths;  /* (rows): |q|, cosine only */
    const void *k;         /* as in sp_code_view */
    float *near;           /* (rows, 64), rows near_stride numbers apart */
    size_t near_stride;
} sp_scan_tile;

/* Some tiles of a step, which has at most SP_SCAN_STEP: first, first + every and so on before end. Tile t has
 * its projected keys at pages[t] + offset; rows of near and marks are a step apart. */
typedef struct sp_scan_run {
    sp_scan_tile tile; /* k and near are not read */
    uint32_t first, end, every;
    uint64_t scored[SP_SCAN_STEP / 64]; /* a bit a tile: it has its scores and marks already */
    const uint8_t *const *pages;        /* (end) */
    size_t offset, ahead;               /* bytes of a tile to ask for before its turn; 0: they are near */
    float *near;                        /* (rows, end, 64) */
    const float *floors;                /* (rows); NULL: nothing is marked */
    uint64_t *marks;                    /* (rows, end); bit j: key j is above the row's floor */
} sp_scan_run;
#define SP_SCAN_AHEAD 4 /* tiles */

static inline bool sp_scan_scored(const sp_scan_run *run, uint32_t tile)
{
    return run->scored[tile / 64] >> tile % 64 & 1;
}

static inline void sp_scan_ask(const sp_scan_run *run, uint32_t tile)
{
    if (tile + SP_SCAN_AHEAD >= run->end) return;
    for (size_t i = 0; i < run->ahead; i += 64)
        __builtin_prefetch(run->pages[tile + SP_SCAN_AHEAD] + run->offset + i);
}

/* Candidates of one row: keys ascend. */
typedef struct sp_scan_best {
    float *near;
    uint32_t *keys;
    size_t n;
    float floor; /* nothing at or below it is wanted any more */
} sp_scan_best;

typedef struct sp_predict_slots {
    /* out[r][j] = bias[j] + sum over d of x[r][d] w[d][j]; strides in numbers between rows */
    void (*project)(size_t rows, size_t dim, size_t rank, const float *x, size_t x_stride,
                    const float *weight, const float *bias, float *out, size_t out_stride);
    void (*near_f32)(const sp_scan_tile *tile);
    void (*near_bf16)(const sp_scan_tile *tile);
    /* Products of a run. near may be NULL: not wanted. NULL: near_bf16 and above will do. */
    void (*dot_run_bf16)(const sp_scan_run *run);
    /* Bit j: near[j] > floor.  near (64) */
    uint64_t (*above)(const float *near, float floor);
    /* For each row whose floor is -INFINITY a number that some more than `keep` of the keys of tiles first to
     * end - 1 exceed, if those of the run, which alone are read, are like the others; INFINITY: can't be
     * told. NULL: no guesses. */
    void (*guess)(const sp_scan_run *run, size_t keep, float *floors);
    /* Appends the keys first_key + j whose bit j is set in words (tiles); with guess. */
    void (*gather)(const float *near, const uint64_t *words, uint32_t tiles, uint32_t first_key,
                   sp_scan_best *best);
    /* Appends the keys first_key + j with near[j] > best->floor and bit j of allowed, j in 0 .. 64 tiles - 1.
     * near (tiles, 64), allowed (tiles). Raises the floor first where that is sure to leave `keep` keys. */
    void (*take)(const float *near, const uint64_t *allowed, uint32_t tiles, uint32_t first_key, size_t keep,
                 sp_scan_best *best);
    /* Keeps the largest, in order, ties to the lower key: at least keep, at most `most` of them; best->n >=
     * keep; floor becomes the smallest kept. */
    void (*shrink)(sp_scan_best *best, size_t keep, size_t most);
    /* shrink to `keep` of each of at most SP_SCAN_ROWS lists that has more; NULL: shrink will do. */
    void (*settle)(sp_scan_best *best, size_t rows, size_t keep);
    /* Bit j: one of the first n_ids of ids[4 j ..] is id, and bit j of exist is set; adds their number to
     * *count. ids (64, 4) */
    uint64_t (*match)(const uint16_t *ids, uint32_t n_ids, uint16_t id, uint64_t exist, uint32_t *count);
    uint32_t (*count_bits)(const uint64_t *words, size_t n);
    /* Writes the n keys of a set, ascending. words (tiles) */
    void (*list_set)(const uint64_t *words, uint32_t tiles, uint32_t n, uint32_t *keys);
    /* One bit a key of a set: whether it is in the other too; whole words, zero behind the last. */
    void (*share_set)(const uint64_t *words, const uint64_t *other, uint32_t tiles, uint64_t *shared);
    /* Nearest centroids of rows of x (stride numbers apart) into ids (id_stride apart); one map. */
    void (*assign)(const sp_assign_args *args, uint32_t map, size_t first, size_t rows);
} sp_predict_slots;

const sp_predict_slots *sp_predict_slots_for(sp_cpu_isa level);
extern const sp_predict_slots sp_predict_reference, sp_predict_avx2, sp_predict_avx512, sp_predict_avx512bf16;

/* Of AVX2, for all levels above. */
uint32_t sp_avx2_count_bits(const uint64_t *words, size_t n);
void sp_avx2_list_set(const uint64_t *words, uint32_t tiles, uint32_t n, uint32_t *keys);
void sp_avx2_share_set(const uint64_t *words, const uint64_t *other, uint32_t tiles, uint64_t *shared);

/* Puts (distance, id) into the ascending list of n nearest so far, at most top; NaN counts as infinite. */
static inline void sp_assign_put(float *distances, uint16_t *ids, uint32_t *n, uint32_t top, float distance,
                                 uint16_t id)
{
    if (!(distance < (float)INFINITY)) distance = (float)INFINITY;
    if (*n == top && !(distance < distances[top - 1])) return;
    uint32_t at = *n < top ? (*n)++ : top - 1;
    for (; at > 0 && distance < distances[at - 1]; at--) {
        distances[at] = distances[at - 1];
        ids[at] = ids[at - 1];
    }
    distances[at] = distance;
    ids[at] = id;
}

#define SP_MAX_TOP 4

/* Floats as integers in the same order, and back. -0 and 0 compare alike as floats, which is all that counts.
 */
static inline uint32_t sp_ordered(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static inline float sp_unordered(uint32_t value)
{
    uint32_t bits = value & 0x80000000u ? value & 0x7fffffffu : ~value;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
#define SP_ORDERED_LEAST 0x007fffffu /* -INFINITY; what is below are no numbers */

#endif
