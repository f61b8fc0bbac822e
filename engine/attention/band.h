/* The window around a query and the global tokens: what every predicted pattern adds to its edges, as the
 * backend window alone serves it. Tiles carry it; groups leave it out by their ranges. Private to
 * engine/attention. */
#ifndef SPARSED_ENGINE_ATTENTION_BAND_H
#define SPARSED_ENGINE_ATTENTION_BAND_H

#include "engine/attention/pattern.h"

typedef struct sp_band {
    uint32_t n_keys, first, last_begin; /* globals: below first, from last_begin on */
    uint32_t radius;
    bool window, causal;
} sp_band;

static inline sp_band sp_band_make(const sp_plan_request *request, uint32_t window, uint32_t first,
                                   uint32_t last)
{
    return (sp_band){.n_keys = request->n_keys,
                     .first = first,
                     .last_begin = request->n_keys > last ? request->n_keys - last : 0,
                     .radius = window / 2,
                     .window = window > 0,
                     .causal = request->causal};
}

/* Such a row sees every allowed key. */
static inline bool sp_band_is_global(const sp_band *band, uint32_t query)
{
    return query < band->first || (query >= band->last_begin && query < band->n_keys);
}

/* sp_interval_fn: the band is the context. */
static inline uint32_t sp_band_row(const void *context, uint32_t query, sp_interval *out)
{
    const sp_band *band = (const sp_band *)context;
    if (sp_band_is_global(band, query)) return sp_interval_add(out, 0, 0, band->n_keys);
    uint32_t n = sp_interval_add(out, 0, 0, band->first);
    if (band->window) n = sp_interval_add_window(out, n, query, band->radius);
    return sp_interval_add(out, n, band->last_begin, band->n_keys);
}

/* The band's tiles of a list; the lists before it have them already. */
static inline sp_status sp_band_add(const sp_band *band, sp_plan *plan, uint32_t list, sp_error *error)
{
    if (list) return sp_plan_repeat_list(plan, 0, list, error);
    return sp_plan_add_intervals(plan, list, sp_band_row, band, error);
}

/* Bits begin .. end - 1 of a key tile, in positions. */
static inline uint64_t sp_tile_bits(uint32_t key_tile, uint64_t begin, uint64_t end)
{
    uint64_t low = (uint64_t)key_tile * SP_TILE, high = low + SP_TILE;
    if (begin < low) begin = low;
    if (end > high) end = high;
    if (begin >= end) return 0;
    return UINT64_MAX >> (SP_TILE - (end - begin)) << (begin - low);
}

/* How many of the bits begin .. end - 1 are set, one bit a key. */
static inline uint32_t sp_count_bits(const uint64_t *words, uint64_t begin, uint64_t end)
{
    uint32_t n = 0;
    for (uint64_t t = begin / SP_TILE; t * SP_TILE < end; t++)
        n += (uint32_t)__builtin_popcountll(words[t] & sp_tile_bits((uint32_t)t, begin, end));
    return n;
}

/* The keys of a tile that a row may see at all. */
static inline uint64_t sp_band_allowed(const sp_band *band, uint32_t query, uint32_t key_tile)
{
    uint64_t end = band->n_keys;
    if (band->causal && query < end) end = (uint64_t)query + 1;
    return sp_tile_bits(key_tile, 0, end);
}

/* The band's keys of a tile. */
static inline uint64_t sp_band_word(const sp_band *band, uint32_t query, uint32_t key_tile)
{
    uint64_t allowed = sp_band_allowed(band, query, key_tile);
    if (!allowed || sp_band_is_global(band, query)) return allowed;
    uint64_t word =
        sp_tile_bits(key_tile, 0, band->first) | sp_tile_bits(key_tile, band->last_begin, band->n_keys);
    if (band->window)
        word |= sp_tile_bits(key_tile, query > band->radius ? query - band->radius : 0,
                             (uint64_t)query + band->radius + 1);
    return word & allowed;
}

/* Whether the band has keys of a tile in any of the rows begin .. end - 1; may say so where it has none. */
static inline bool sp_band_meets(const sp_band *band, uint32_t begin, uint32_t end, uint32_t key_tile)
{
    uint64_t low = (uint64_t)key_tile * SP_TILE, high = low + SP_TILE;
    if (low < band->first || high > band->last_begin || begin < band->first || end > band->last_begin)
        return true;
    return band->window && high + band->radius > begin && low < (uint64_t)end + band->radius;
}

static inline uint32_t sp_band_n_ranges(const sp_band *band)
{
    return band->window && !band->causal ? 2 : 1;
}

/* The positions where the window of a row begins, or where the keys it may see end, and behind the window. */
static inline void sp_band_edges(const sp_band *band, uint32_t query, uint64_t *before, uint64_t *behind)
{
    *before = band->last_begin;
    *behind = (uint64_t)query + band->radius + 1;
    if (band->causal && *before > query) *before = (uint64_t)query + 1;
    if (band->window) {
        uint64_t begin = query > band->radius ? query - band->radius : 0;
        if (begin < *before) *before = begin;
    }
    if (*behind < band->first) *behind = band->first;
}

/* Makes ranges ascend. */
static inline void sp_band_order(const sp_band *band, uint32_t *ranges)
{
    if (ranges[1] < ranges[0]) ranges[1] = ranges[0];
    if (sp_band_n_ranges(band) == 1) return;
    if (ranges[2] < ranges[1]) ranges[2] = ranges[1];
    if (ranges[3] < ranges[2]) ranges[3] = ranges[2];
}

/* The ranks of a key list outside of the band that a row which is not global may see: begin and end, once or
 * (sp_band_n_ranges) before and behind the window. */
static inline void sp_band_ranges(const sp_band *band, uint32_t query, const uint32_t *keys, uint32_t n,
                                  uint32_t *ranges)
{
    uint64_t before, behind;
    sp_band_edges(band, query, &before, &behind);
    ranges[0] = sp_rank_of(keys, n, band->first);
    ranges[1] = sp_rank_of(keys, n, before);
    if (sp_band_n_ranges(band) == 2) {
        ranges[2] = sp_rank_of(keys, n, behind);
        ranges[3] = sp_rank_of(keys, n, band->last_begin);
    }
    sp_band_order(band, ranges);
}

/* The same from the ranges of an earlier row: for rows that ascend. */
static inline void sp_band_advance(const sp_band *band, uint32_t query, const uint32_t *keys, uint32_t n,
                                   uint32_t *ranges)
{
    uint64_t before, behind;
    sp_band_edges(band, query, &before, &behind);
    while (ranges[1] < n && keys[ranges[1]] < before) ranges[1]++;
    while (sp_band_n_ranges(band) == 2 && ranges[2] < n && keys[ranges[2]] < behind) ranges[2]++;
    sp_band_order(band, ranges);
}

#endif
