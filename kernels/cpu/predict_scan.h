/* Private to kernels/cpu: what the two files of scans share. predict_scan.c deals blocks of rows and parts of
 * the keys to threads, owns the scratch and joins the parts; predict_step.c runs one block over one part.
 * Tests: tests/kernels/test_predict.c */
#ifndef SPARSED_KERNELS_CPU_PREDICT_SCAN_H
#define SPARSED_KERNELS_CPU_PREDICT_SCAN_H

#include <stdatomic.h>

#include "kernels/cpu/predict.h"

/* Scratch of one thread. */
typedef struct sp_scan_worker {
    float *q, *lengths, *near; /* (6, stride), (6), (6, SP_SCAN_STEP, 64) */
    uint16_t *pairs;           /* (6, stride) */
    float *list_near;          /* (6, room) */
    uint32_t *list_keys;       /* (6, room) */
} sp_scan_worker;

/* One call. */
typedef struct sp_scan {
    const sp_scan_args *args;
    const sp_predict_slots *slots;
    bool top;
    size_t share, stride, blocks, parts, tiles, part_tiles;
    size_t room, full;          /* numbers of a candidate list; how many make it shrink */
    size_t part_room, row_room; /* numbers of a part's list of one row; of all parts of a row */
    uint8_t *workers;
    size_t worker_bytes;
    float *part_near; /* (n_maps, rows * share, row_room) */
    uint32_t *part_keys, *part_n;
    _Atomic float *floors; /* (n_maps, rows * share): what parts have found; only ever rises */
} sp_scan;

/* A row of a head, and the keys it may take: one interval, or two around a window. */
typedef struct sp_scan_row {
    uint32_t row, head;
    uint32_t begin[2], end[2];
} sp_scan_row;

/* Rows that read one map. */
typedef struct sp_scan_block {
    sp_scan_row rows[SP_SCAN_ROWS];
    sp_scan_best best[SP_SCAN_ROWS];
    size_t n, first;        /* rows; index of the first within its map */
    uint32_t map, whole[2]; /* tiles of which every row may take all keys: from, to */
    sp_scan_worker scratch;
} sp_scan_block;

/* Raises the floor of a row's other parts, and its own to theirs. */
void sp_scan_share(const sp_scan *s, sp_scan_block *b, size_t i);

/* scan_mask: words of all tiles from begin to end. */
void sp_scan_mask_part(const sp_scan *s, const sp_scan_block *b, uint32_t begin, uint32_t end);
/* scan_top: candidates from begin to end. */
void sp_scan_top_part(const sp_scan *s, sp_scan_block *b, uint32_t begin, uint32_t end);

#endif
