/* KV pages: one pool, sized and touched at start, from which sequences take pages of 64 positions.
 *
 * A page holds 64 positions of all layers and KV heads. The block of (layer, KV head) is contiguous in the KV
 * type: page + (layer * n_kv_heads + head) * head_bytes:  64 K rows of head_dim, then 64 V rows of head_dim
 * so that one wanted key costs one row, and one layer's part of a page is what sp_kv_view calls a page.
 * Where a fit is loaded a page has a side: side_bytes a layer in a pool of their own, for what is kept of
 * keys beside them (engine/attention/codes.h); taken, freed and poisoned with it. Owner: the engine thread; a
 * page belongs to at most one sequence at a time. Freed pages are filled with NaN in debug builds (poison),
 * so that reading a page nobody owns shows. Tests: tests/unit/engine/test_kv.c */
#ifndef SPARSED_ENGINE_KV_H
#define SPARSED_ENGINE_KV_H

#include "kernels/ops.h"

#define SP_PAGE_TOKENS 64u
#define SP_NO_PAGE UINT32_MAX

typedef struct sp_kv_options {
    uint32_t n_layers, n_kv_heads, head_dim;
    sp_dtype dtype;    /* SP_F32 or SP_BF16 */
    size_t side_bytes; /* of one layer's side of a page; 0: none */
    uint32_t n_pages;
    bool poison;
    sp_threads *threads; /* touch the pool together; NULL: the caller alone */
} sp_kv_options;

typedef struct sp_kv {
    sp_kv_options options;
    size_t head_bytes, layer_bytes, page_bytes; /* without the side */
    uint8_t *memory;                            /* (n_pages, page_bytes) */
    uint8_t *side;                              /* (n_pages, n_layers, side_bytes), or NULL */
    uint32_t *next; /* (n_pages) free list: the next free page; SP_NO_PAGE ends it */
    bool *owned;    /* (n_pages) */
    uint32_t first_free, n_free;
} sp_kv;

/* Bytes of one page with its side; false on overflow. */
bool sp_kv_page_bytes(const sp_kv_options *options, size_t *bytes) SP_MUST_CHECK;
/* Allocates and touches the pool. SP_NO_MEMORY. */
sp_status sp_kv_open(const sp_kv_options *options, sp_kv *out, sp_error *error) SP_MUST_CHECK;
void sp_kv_close(sp_kv *kv);

/* Takes n pages into pages (n), or none: false when fewer are free. */
bool sp_kv_take(sp_kv *kv, uint32_t n, uint32_t *pages) SP_MUST_CHECK;
/* Gives n pages back; each must be owned (an invariant, asserted). */
void sp_kv_give(sp_kv *kv, uint32_t n, const uint32_t *pages);
uint32_t sp_kv_used(const sp_kv *kv);

/* Writes rows of k and v, both (rows, n_kv_heads, head_dim), to positions position .. position + rows - 1 of
 * one layer, rounded to the KV type. pages: the sequence's page table. */
void sp_kv_write(sp_kv *kv, sp_device *device, const uint32_t *pages, uint32_t layer, uint32_t position,
                 uint32_t rows, const float *k, const float *v);
/* The view of one layer's first n_keys positions. pointers (ceil(n_keys / 64)) is filled and must outlive the
 * view. */
sp_kv_view sp_kv_layer(const sp_kv *kv, const uint32_t *pages, uint32_t layer, uint32_t n_keys,
                       const uint8_t **pointers);

/* One layer's side of a page. */
static inline uint8_t *sp_kv_side(const sp_kv *kv, uint32_t page, uint32_t layer)
{
    return kv->side + ((size_t)page * kv->options.n_layers + layer) * kv->options.side_bytes;
}

#endif
