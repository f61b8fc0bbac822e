/* KV pages: one pool, sized and touched at start, from which sequences take pages of 64 positions.
 *
 * A page holds 64 positions of all layers and KV heads. The block of (layer, KV head) is contiguous in the KV
 * type: page + (layer * n_kv_heads + head) * head_bytes:  64 K rows of head_dim, then 64 V rows of head_dim
 * so that one wanted key costs one row, and one layer's part of a page is what sp_kv_view calls a page.
 * Where a fit is loaded a page has a side: side_bytes a layer in a pool of their own, for what is kept of
 * keys beside them (engine/attention/codes.h); taken, freed and poisoned with it.
 *
 * A page is used while a sequence holds it (full pages may be held by several: engine/prefix.h), pinned while
 * only captures do, cached while nobody does but an index knows it, else free. used + pinned + cached + free
 * is all of them. Cached pages count as free: who takes pages gets the free ones, then those that are cached
 * for longest, which leave the index. Owner: the engine thread. With --poison and in debug builds pages that
 * become free are filled with NaN, so that reading a page nobody owns shows. Tests:
 * tests/unit/engine/test_kv.c, tests/unit/engine/test_prefix_index.c */
#ifndef SPARSED_ENGINE_KV_H
#define SPARSED_ENGINE_KV_H

#include "kernels/ops.h"

#define SP_PAGE_TOKENS 64u
#define SP_NO_PAGE UINT32_MAX

/* Pages that so many tokens take. */
static inline size_t sp_pages_of(size_t tokens)
{
    return (tokens + SP_PAGE_TOKENS - 1) / SP_PAGE_TOKENS;
}

typedef struct sp_kv_options {
    uint32_t n_layers, n_kv_heads, head_dim;
    sp_dtype dtype;    /* SP_F32 or SP_BF16 */
    size_t side_bytes; /* of one layer's side of a page; 0: none */
    uint32_t n_pages;
    bool poison;
    sp_threads *threads; /* touch the pool together; NULL: the caller alone */
} sp_kv_options;

typedef struct sp_kv_page {
    uint32_t refs, pins; /* held by so many sequences, captures */
    uint32_t next;       /* free: the next free page; cached: the one that was given back after it */
    uint32_t previous;   /* cached: the one before it */
    bool kept;           /* an index knows it */
} sp_kv_page;

typedef struct sp_kv {
    sp_kv_options options;
    size_t head_bytes, layer_bytes, page_bytes; /* without the side */
    uint8_t *memory;                            /* (n_pages, page_bytes) */
    uint8_t *side;                              /* (n_pages, n_layers, side_bytes), or NULL */
    sp_kv_page *pages;                          /* (n_pages) */
    uint32_t first_free, oldest, newest;        /* SP_NO_PAGE: none; oldest .. newest: cached pages */
    uint32_t n_free, n_cached, n_used;
    void (*drop)(void *index, uint32_t page); /* a cached page is about to be free: the index forgets it */
    void *index;
} sp_kv;

/* Bytes of one page with its side; false on overflow. */
bool sp_kv_page_bytes(const sp_kv_options *options, size_t *bytes) SP_MUST_CHECK;
/* Allocates and touches the pool. SP_NO_MEMORY. */
sp_status sp_kv_open(const sp_kv_options *options, sp_kv *out, sp_error *error) SP_MUST_CHECK;
void sp_kv_close(sp_kv *kv);

/* Takes n pages into pages (n), each held once, or none: false when fewer are free or cached. */
bool sp_kv_take(sp_kv *kv, uint32_t n, uint32_t *pages) SP_MUST_CHECK;
/* One more sequence holds a page that an index knows. */
void sp_kv_hold(sp_kv *kv, uint32_t page);
/* A sequence lets n pages go, the last one first; each must be held (an invariant, asserted). */
void sp_kv_give(sp_kv *kv, uint32_t n, const uint32_t *pages);
/* A capture holds n pages that a sequence holds too; and lets them go. */
void sp_kv_pin(sp_kv *kv, uint32_t n, const uint32_t *pages);
void sp_kv_unpin(sp_kv *kv, uint32_t n, const uint32_t *pages);
/* An index knows this page, which is held: it will be cached when nobody holds it. */
void sp_kv_keep(sp_kv *kv, uint32_t page);
/* Pages that sequences hold; that can be taken. */
uint32_t sp_kv_used(const sp_kv *kv);
uint32_t sp_kv_available(const sp_kv *kv);

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
