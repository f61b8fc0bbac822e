/* See kv.h. The free list is a stack, the list of cached pages is doubly linked; both lie in an array of
 * their own, so that pages hold nothing but rows. */
#include "engine/kv.h"

#include <assert.h>

static bool row_pages(const sp_kv_options *options, size_t *bytes)
{
    size_t size = sp_dtype_size(options->dtype);
    return sp_mul_size(size, (size_t)2 * SP_PAGE_TOKENS, &size) &&
           sp_mul_size(size, options->head_dim, &size) && sp_mul_size(size, options->n_kv_heads, &size) &&
           sp_mul_size(size, options->n_layers, bytes);
}

bool sp_kv_page_bytes(const sp_kv_options *options, size_t *bytes)
{
    size_t rows, side;
    return row_pages(options, &rows) && sp_mul_size(options->side_bytes, options->n_layers, &side) &&
           sp_add_size(rows, side, bytes);
}

/* All ones is NaN in either type. */
static void fill_page(const sp_kv *kv, size_t page)
{
    memset(kv->memory + page * kv->page_bytes, 0xff, kv->page_bytes);
    if (kv->side)
        memset(sp_kv_side(kv, (uint32_t)page, 0), 0xff, kv->options.side_bytes * kv->options.n_layers);
}

/* Touches one page now rather than in some step. */
static void touch_page(void *context, size_t page, size_t worker)
{
    const sp_kv *kv = context;
    (void)worker;
    fill_page(kv, page);
}

sp_status sp_kv_open(const sp_kv_options *options, sp_kv *out, sp_error *error)
{
    size_t whole, page_bytes, total;
    memset(out, 0, sizeof *out);
    if (!sp_kv_page_bytes(options, &whole) || !sp_mul_size(whole, options->n_pages, &total) ||
        !row_pages(options, &page_bytes))
        return sp_fail(error, SP_NO_MEMORY, "%u KV pages do not fit into an address", options->n_pages);
    assert(page_bytes > 0 && options->n_pages > 0);

    out->options = *options;
    out->page_bytes = page_bytes;
    out->layer_bytes = page_bytes / options->n_layers;
    out->head_bytes = out->layer_bytes / options->n_kv_heads;
    out->memory = sp_alloc(options->n_pages, page_bytes);
    if (options->side_bytes) out->side = sp_alloc(options->n_pages, whole - page_bytes);
    out->pages = sp_alloc_zero(options->n_pages, sizeof *out->pages);
    if (!out->memory || !out->pages || (options->side_bytes && !out->side)) {
        sp_kv_close(out);
        return sp_fail(error, SP_NO_MEMORY,
                       "no memory for %u KV pages (%zu bytes); lower --kv-bytes or --ctx", options->n_pages,
                       total);
    }
    if (options->threads)
        sp_threads_run(options->threads, options->n_pages, touch_page, out);
    else
        for (uint32_t i = 0; i < options->n_pages; i++) touch_page(out, i, 0);
    for (uint32_t i = 0; i < options->n_pages; i++)
        out->pages[i].next = i + 1 < options->n_pages ? i + 1 : SP_NO_PAGE;
    out->n_free = options->n_pages;
    out->oldest = out->newest = SP_NO_PAGE;
    return SP_OK;
}

void sp_kv_close(sp_kv *kv)
{
    sp_free(kv->memory);
    sp_free(kv->side);
    sp_free(kv->pages);
    memset(kv, 0, sizeof *kv);
}

/* --- who holds what --- */

static void free_page(sp_kv *kv, uint32_t page)
{
    if (kv->options.poison) fill_page(kv, page);
    kv->pages[page].next = kv->first_free;
    kv->first_free = page;
    kv->n_free++;
}

/* The newest of the cached pages. */
static void cache_page(sp_kv *kv, uint32_t page)
{
    kv->pages[page].next = SP_NO_PAGE;
    kv->pages[page].previous = kv->newest;
    if (kv->newest != SP_NO_PAGE)
        kv->pages[kv->newest].next = page;
    else
        kv->oldest = page;
    kv->newest = page;
    kv->n_cached++;
}

static void uncache_page(sp_kv *kv, uint32_t page)
{
    const sp_kv_page *one = &kv->pages[page];
    if (one->previous != SP_NO_PAGE)
        kv->pages[one->previous].next = one->next;
    else
        kv->oldest = one->next;
    if (one->next != SP_NO_PAGE)
        kv->pages[one->next].previous = one->previous;
    else
        kv->newest = one->previous;
    kv->n_cached--;
}

/* Makes the page free that is cached for longest. */
static void drop_oldest(sp_kv *kv)
{
    uint32_t page = kv->oldest;
    uncache_page(kv, page);
    kv->drop(kv->index, page);
    kv->pages[page].kept = false;
    free_page(kv, page);
}

/* Nobody holds the page. */
static void release_page(sp_kv *kv, uint32_t page)
{
    if (kv->pages[page].kept)
        cache_page(kv, page);
    else
        free_page(kv, page);
}

bool sp_kv_take(sp_kv *kv, uint32_t n, uint32_t *pages)
{
    if (n > sp_kv_available(kv)) return false;
    while (kv->n_free < n) drop_oldest(kv);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t page = kv->first_free;
        assert(page < kv->options.n_pages && kv->pages[page].refs == 0 && kv->pages[page].pins == 0);
        kv->first_free = kv->pages[page].next;
        kv->pages[page].refs = 1;
        pages[i] = page;
    }
    kv->n_free -= n;
    kv->n_used += n;
    return true;
}

void sp_kv_hold(sp_kv *kv, uint32_t page)
{
    sp_kv_page *one = &kv->pages[page];
    assert(page < kv->options.n_pages && one->kept);
    if (one->refs == 0 && one->pins == 0) uncache_page(kv, page);
    if (one->refs++ == 0) kv->n_used++;
}

void sp_kv_give(sp_kv *kv, uint32_t n, const uint32_t *pages)
{
    for (uint32_t i = n; i-- > 0;) { /* backwards: the next taker gets them in the same order */
        sp_kv_page *one = &kv->pages[pages[i]];
        assert(pages[i] < kv->options.n_pages && one->refs > 0);
        if (--one->refs > 0) continue;
        kv->n_used--;
        if (one->pins == 0) release_page(kv, pages[i]);
    }
}

void sp_kv_pin(sp_kv *kv, uint32_t n, const uint32_t *pages)
{
    for (uint32_t i = 0; i < n; i++) {
        assert(pages[i] < kv->options.n_pages && kv->pages[pages[i]].refs > 0);
        kv->pages[pages[i]].pins++;
    }
}

void sp_kv_unpin(sp_kv *kv, uint32_t n, const uint32_t *pages)
{
    for (uint32_t i = n; i-- > 0;) {
        sp_kv_page *one = &kv->pages[pages[i]];
        assert(pages[i] < kv->options.n_pages && one->pins > 0);
        if (--one->pins == 0 && one->refs == 0) release_page(kv, pages[i]);
    }
}

void sp_kv_keep(sp_kv *kv, uint32_t page)
{
    assert(page < kv->options.n_pages && kv->pages[page].refs > 0 && !kv->pages[page].kept);
    kv->pages[page].kept = true;
}

uint32_t sp_kv_used(const sp_kv *kv)
{
    return kv->n_used;
}

uint32_t sp_kv_available(const sp_kv *kv)
{
    return kv->n_free + kv->n_cached;
}

/* --- rows --- */

/* One row of one head, from float32 to the KV type. */
static void put_row(const sp_kv *kv, sp_device *device, const float *from, uint8_t *to)
{
    if (kv->options.dtype == SP_BF16)
        device->ops->to_bf16(device, kv->options.head_dim, from, (uint16_t *)(void *)to);
    else
        memcpy(to, from, kv->options.head_dim * sizeof *from);
}

void sp_kv_write(sp_kv *kv, sp_device *device, const uint32_t *pages, uint32_t layer, uint32_t position,
                 uint32_t rows, const float *k, const float *v)
{
    size_t n_heads = kv->options.n_kv_heads, d = kv->options.head_dim;
    size_t row_bytes = d * sp_dtype_size(kv->options.dtype);
    for (size_t r = 0; r < rows; r++) {
        size_t at = position + r;
        uint8_t *page = kv->memory + pages[at / SP_PAGE_TOKENS] * kv->page_bytes + layer * kv->layer_bytes;
        uint8_t *row = page + at % SP_PAGE_TOKENS * row_bytes;
        for (size_t h = 0; h < n_heads; h++, row += kv->head_bytes) {
            put_row(kv, device, k + (r * n_heads + h) * d, row);
            put_row(kv, device, v + (r * n_heads + h) * d, row + SP_PAGE_TOKENS * row_bytes);
        }
    }
}

sp_kv_view sp_kv_layer(const sp_kv *kv, const uint32_t *pages, uint32_t layer, uint32_t n_keys,
                       const uint8_t **pointers)
{
    for (uint32_t i = 0; i < sp_pages_of(n_keys); i++)
        pointers[i] = kv->memory + pages[i] * kv->page_bytes + layer * kv->layer_bytes;
    return (sp_kv_view){.dtype = kv->options.dtype,
                        .n_keys = n_keys,
                        .head_dim = kv->options.head_dim,
                        .value_dim = kv->options.head_dim,
                        .head_bytes = kv->head_bytes,
                        .pages = pointers};
}
