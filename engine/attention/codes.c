/* See codes.h. */
#include "engine/attention/codes.h"

#include <assert.h>

#define MOST_SETS 64u /* centroids of a run and head that are kept as sets */

#define BLOCK 256u                                                    /* rows projected at a time */
#define IDS_BYTES ((size_t)SP_TILE * SP_IDS_A_KEY * sizeof(uint16_t)) /* of one run and head */

struct sp_codes {
    sp_codes_options options;
    /* what is selected */
    const sp_fit *fit;
    const sp_fit_set *set;         /* NULL: nothing */
    const sp_fit_table *centroids; /* NULL: codes are kept, not ids */
    uint32_t top, runs;
    /* pages of the selected layer */
    uint8_t *memory;
    size_t memory_bytes;
    uint8_t **pages; /* (ceil(max_keys / 64)) */
    sp_code_view view;
    sp_set_view sets;
    /* scratch of BLOCK rows */
    float *projected; /* (BLOCK, maps, rank) */
    float *wide;      /* (BLOCK, n_heads, rank): a KV head's k' once a query head, for centroids */
    uint16_t *ids;    /* (BLOCK, n_heads, 4) */
};

static size_t map_bytes(uint32_t rank, sp_dtype dtype)
{
    size_t steps = dtype == SP_BF16 ? ((size_t)rank + 1) / 2 : rank;
    return steps * SP_TILE * sizeof(float);
}

static bool kept_as_sets(const sp_fit_table *centroids)
{
    return centroids->size <= MOST_SETS;
}

/* Calls visit on every set that keys may be asked of. */
static void each_set(const sp_fit *const *fits, size_t n_fits,
                     void (*visit)(const sp_fit_set *set, void *context), void *context)
{
    for (size_t f = 0; f < n_fits; f++) {
        for (size_t l = 0; fits[f] && l < (size_t)fits[f]->n_layers * 2; l++)
            for (size_t i = 0; i < fits[f]->layers[l].n_sets; i++)
                visit(&fits[f]->layers[l].sets[i], context);
    }
}

typedef struct page_size {
    size_t bytes;
    uint32_t n_heads;
    sp_dtype dtype;
} page_size;

static void measure_page(const sp_fit_set *set, void *context)
{
    page_size *size = context;
    size_t codes = set->n_k_maps * map_bytes(set->rank, size->dtype);
    if (set->type != SP_FIT_CLUSTER && codes > size->bytes) size->bytes = codes;
    for (size_t i = 0; i < set->n_centroids && set->type != SP_FIT_BLOCK; i++) {
        const sp_fit_table *table = &set->centroids[i];
        size_t one = kept_as_sets(table) ? table->size * sizeof(uint64_t) : IDS_BYTES;
        size_t bytes = one * table->runs * size->n_heads;
        if (bytes > size->bytes) size->bytes = bytes;
    }
}

size_t sp_codes_page_bytes(const sp_fit *const *fits, size_t n_fits, uint32_t n_heads, sp_dtype dtype)
{
    page_size size = {.n_heads = n_heads, .dtype = dtype};
    each_set(fits, n_fits, measure_page, &size);
    return (size.bytes + SP_ALIGNMENT - 1) / SP_ALIGNMENT * SP_ALIGNMENT;
}

static void measure_rank(const sp_fit_set *set, void *context)
{
    size_t *widest = context;
    if (set->rank > *widest) *widest = set->rank;
}

/* Numbers of projected rows: n_k_maps is at most n_heads. */
static size_t row_floats(const sp_codes_options *options)
{
    size_t rank = 0;
    each_set(options->fits, options->n_fits, measure_rank, &rank);
    return BLOCK * rank * options->n_heads;
}

size_t sp_codes_scratch_bytes(const sp_codes_options *options)
{
    size_t tiles = ((size_t)options->max_keys + SP_TILE - 1) / SP_TILE;
    return tiles * sizeof(uint8_t *) + 2 * row_floats(options) * sizeof(float) +
           (size_t)BLOCK * options->n_heads * SP_IDS_A_KEY * sizeof(uint16_t);
}

sp_status sp_codes_open(const sp_codes_options *options, sp_codes **out, sp_error *error)
{
    size_t floats = row_floats(options), tiles = ((size_t)options->max_keys + SP_TILE - 1) / SP_TILE;
    sp_codes *codes = sp_alloc_zero(1, sizeof *codes);
    *out = NULL;
    if (!codes) return sp_fail(error, SP_NO_MEMORY, "no memory for projected keys");
    codes->options = *options;
    bool complete = (codes->pages = sp_alloc_zero(tiles, sizeof *codes->pages)) != NULL;
    if (floats) { /* else no fit has a set: nothing is ever kept */
        codes->projected = sp_alloc(floats, sizeof *codes->projected);
        codes->wide = sp_alloc(floats, sizeof *codes->wide);
        codes->ids = sp_alloc((size_t)BLOCK * options->n_heads * SP_IDS_A_KEY, sizeof *codes->ids);
        complete = complete && codes->projected && codes->wide && codes->ids;
    }
    size_t page = sp_codes_page_bytes(options->fits, options->n_fits, options->n_heads, options->dtype);
    if (options->own_pages && page) {
        codes->memory = sp_alloc_zero(tiles, page);
        complete = complete && codes->memory;
        for (size_t t = 0; complete && t < tiles; t++) codes->pages[t] = codes->memory + t * page;
    }
    if (!complete) {
        sp_codes_close(codes);
        return sp_fail(error, SP_NO_MEMORY, "no memory for projected keys of %u positions",
                       options->max_keys);
    }
    *out = codes;
    return SP_OK;
}

void sp_codes_close(sp_codes *codes)
{
    if (!codes) return;
    sp_free(codes->memory);
    sp_free(codes->pages);
    sp_free(codes->projected);
    sp_free(codes->wide);
    sp_free(codes->ids);
    sp_free(codes);
}

bool sp_codes_select(sp_codes *codes, const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                     sp_attend_kind kind)
{
    const sp_backend *backend = attention->backend;
    codes->fit = fit;
    codes->set = fit && backend->codes ? backend->codes(attention, fit, layer, kind) : NULL;
    codes->centroids = NULL;
    if (!codes->set) return false;
    codes->top = codes->runs = 0;
    if (backend->centroids)
        codes->centroids = backend->centroids(attention, codes->set, &codes->top, &codes->runs);
    assert(!codes->centroids || (codes->top <= SP_IDS_A_KEY && codes->runs <= codes->centroids->runs));
    codes->view = (sp_code_view){.dtype = codes->options.dtype,
                                 .rank = codes->set->rank,
                                 .n_maps = codes->set->n_k_maps,
                                 .map_bytes = map_bytes(codes->set->rank, codes->options.dtype),
                                 .pages = (const uint8_t *const *)codes->pages};
    return true;
}

void sp_codes_place(sp_codes *codes, uint32_t tile, uint8_t *page)
{
    codes->pages[tile] = page;
}

const uint8_t *sp_codes_page(const sp_codes *codes, uint32_t tile)
{
    return codes->pages[tile];
}

/* Forgets what the pages say of position .. position + rows - 1 and of what is behind them. */
static void clear_sets(sp_codes *codes, uint32_t position, uint32_t rows)
{
    size_t words = (size_t)codes->runs * codes->options.n_heads * codes->centroids->size;
    for (uint32_t at = position; at < position + rows; at = (at / SP_TILE + 1) * SP_TILE) {
        uint64_t *page = (uint64_t *)(void *)codes->pages[at / SP_TILE],
                 before = ((uint64_t)1 << at % SP_TILE) - 1;
        for (size_t i = 0; i < words; i++) page[i] &= before;
    }
}

/* ids: (n, n_heads, top) of one run. */
static void put_sets(sp_codes *codes, uint32_t run, uint32_t position, uint32_t n)
{
    size_t heads = codes->options.n_heads, size = codes->centroids->size;
    const uint16_t *ids = codes->ids;
    for (size_t at = position; at < (size_t)position + n; at++) {
        uint64_t *set = (uint64_t *)(void *)codes->pages[at / SP_TILE] + run * heads * size;
        for (size_t h = 0; h < heads; h++, set += size, ids += codes->top)
            for (uint32_t i = 0; i < codes->top; i++) set[ids[i]] |= (uint64_t)1 << at % SP_TILE;
    }
}

static void put_ids(sp_codes *codes, uint32_t run, uint32_t position, uint32_t n)
{
    size_t heads = codes->options.n_heads;
    const uint16_t *ids = codes->ids;
    for (size_t at = position; at < (size_t)position + n; at++) {
        uint16_t *page = (uint16_t *)(void *)(codes->pages[at / SP_TILE] + run * heads * IDS_BYTES);
        page += at % SP_TILE * SP_IDS_A_KEY;
        for (size_t h = 0; h < heads; h++, ids += codes->top)
            for (uint32_t i = 0; i < codes->top; i++) page[h * SP_TILE * SP_IDS_A_KEY + i] = ids[i];
    }
}

/* Nearest centroids of n rows (at most BLOCK) of projected keys, every run, into the pages. */
static void store_nearest(sp_codes *codes, uint32_t position, uint32_t n)
{
    const sp_fit_set *set = codes->set;
    const sp_codes_options *options = &codes->options;
    size_t rank = set->rank, heads = options->n_heads, share = heads / set->n_k_maps;
    size_t one_run = (size_t)codes->centroids->size * rank;
    for (size_t i = 0; i < n * heads; i++) {
        const float *from = codes->projected + (i / heads * set->n_k_maps + i % heads / share) * rank;
        memcpy(codes->wide + i * rank, from, rank * sizeof *from);
    }
    for (uint32_t run = 0; run < codes->runs; run++) {
        const sp_assign_args args = {.rows = n,
                                     .n_maps = options->n_heads,
                                     .rank = set->rank,
                                     .n_centroids = codes->centroids->size,
                                     .top = codes->top,
                                     .x = codes->wide,
                                     .centroids = codes->centroids->values + run * one_run,
                                     .centroid_stride = codes->centroids->runs * one_run,
                                     .ids = codes->ids};
        options->device->ops->assign(options->device, &args);
        if (kept_as_sets(codes->centroids))
            put_sets(codes, run, position, n);
        else
            put_ids(codes, run, position, n);
    }
}

void sp_codes_append(sp_codes *codes, uint32_t position, uint32_t rows, const float *k)
{
    const sp_fit_set *set = codes->set;
    const sp_codes_options *options = &codes->options;
    if (!set) return;
    assert(position + rows <= options->max_keys);
    if (codes->centroids && kept_as_sets(codes->centroids)) clear_sets(codes, position, rows);
    for (uint32_t at = 0; at < rows; at += BLOCK) {
        uint32_t n = rows - at < BLOCK ? rows - at : BLOCK;
        const sp_project_args args = {.rows = n,
                                      .n_in = options->n_kv_heads,
                                      .n_maps = set->n_k_maps,
                                      .dim = options->head_dim,
                                      .rank = set->rank,
                                      .x = k + (size_t)at * options->n_kv_heads * options->head_dim,
                                      .weight = set->k_weight,
                                      .bias = set->k_bias,
                                      .out = codes->projected};
        options->device->ops->project(options->device, &args);
        if (codes->centroids)
            store_nearest(codes, position + at, n);
        else
            options->device->ops->store_codes(options->device, n, position + at, set->n_k_maps, set->rank,
                                              options->dtype, codes->projected, codes->view.map_bytes,
                                              codes->pages);
    }
}

void sp_codes_attach(sp_codes *codes, uint32_t n_keys, sp_plan_request *request)
{
    request->fit = codes->fit;
    if (!codes->set) return;
    if (codes->centroids && kept_as_sets(codes->centroids)) {
        codes->sets =
            (sp_set_view){.n_keys = n_keys, .pages = (const uint64_t *const *)(const void *)codes->pages};
        request->sets = &codes->sets;
        return;
    }
    if (codes->centroids) {
        request->id_pages = (const uint16_t *const *)codes->pages;
        request->n_ids = codes->top;
        request->n_id_runs = codes->runs;
        return;
    }
    codes->view.n_keys = n_keys;
    request->codes = &codes->view;
}
