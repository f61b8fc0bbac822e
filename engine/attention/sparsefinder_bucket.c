/* sparsefinder, grouping bucket: each of the r dimensions is cut into b bins, and an edge joins a query and a
 * key that share their bin in any dimension (Treviso et al. 2022, section 3.2).
 *
 *   equal   bin = rank in the sequence div ceil(n / b), queries among queries, keys among keys, stable
 *   fixed   tanh(temperature x) cut into b equal widths of [-1, 1]: bin = number of borders below it. As tanh
 *           rises, x is compared with the borders' artanh / temperature
 *   frozen  the fit's borders: bin = number of borders below x
 * A dimension is a run of classes.c with one class a bin. equal needs the whole sequence and does not stream.
 * Tests: tests/attention/test_conformance.c, tests/attention/test_cases.c */
#include "engine/attention/classes.h"
#include "engine/attention/sparsefinder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct buckets {
    const sp_finder *finder;
    uint32_t n;     /* buckets */
    uint32_t mode;  /* SP_BINS_* */
    float *borders; /* (n_heads, rank, n - 1), ascending; not for equal */
} buckets;

static int by_value(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return a < b ? -1 : a > b;
}

/* Borders ascending: their number below x is the same, and may be found by halving. */
static sp_status make_borders(buckets *self, sp_error *error)
{
    const sp_finder *finder = self->finder;
    const sp_attention *attention = finder->request->attention;
    size_t lists = (size_t)finder->request->n_heads * finder->set->rank, n = self->n - 1;
    if (self->mode == SP_BINS_EQUAL) return SP_OK;
    sp_status status =
        sp_scratch_take(finder->scratch, lists * n, sizeof *self->borders, &self->borders, error);
    if (status != SP_OK) return status;
    if (self->mode == SP_BINS_FROZEN) {
        memcpy(self->borders, sp_finder_bins(attention, finder->set)->values,
               lists * n * sizeof *self->borders);
        for (size_t i = 0; i < lists; i++) qsort(self->borders + i * n, n, sizeof *self->borders, by_value);
        return SP_OK;
    }
    double temperature = sp_finder_value(attention, SP_FINDER_TEMPERATURE);
    for (size_t i = 0; i < n; i++) {
        double border = atanh(2.0 * (double)(i + 1) / self->n - 1) / temperature;
        for (size_t list = 0; list < lists; list++) self->borders[list * n + i] = (float)border;
    }
    return SP_OK;
}

/* Number of borders strictly below x. */
static uint16_t bin_of(const float *borders, uint32_t n, float x)
{
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (borders[middle] < x)
            low = middle + 1;
        else
            high = middle;
    }
    return (uint16_t)low;
}

/* --- equal --- */

/* Sorts as the number does; the two zeros are equal. */
static uint32_t rising_bits(float x)
{
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static int by_number(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* Bins of n values of which entry i is at i * stride; order: room for n. */
static void rank_values(const float *values, size_t stride, uint32_t n, uint32_t n_bins, uint64_t *order,
                        uint16_t *bins)
{
    uint32_t size = n / n_bins + (n % n_bins != 0);
    for (uint32_t i = 0; i < n; i++) order[i] = (uint64_t)rising_bits(values[i * stride]) << 32 | i;
    qsort(order, n, sizeof *order, by_number);
    for (uint32_t i = 0; i < n; i++) bins[(uint32_t)order[i]] = (uint16_t)(i / size);
}

/* --- ids --- */

/* (n_heads, rank, rows): bins of the chunk's queries. */
static sp_status bin_queries(const buckets *self, uint64_t *order, uint16_t **out, sp_error *error)
{
    const sp_finder *finder = self->finder;
    const sp_plan_request *request = finder->request;
    bool equal = self->mode == SP_BINS_EQUAL;
    uint32_t all = equal ? request->whole_rows : request->rows, rank = finder->set->rank;
    uint32_t first = equal ? request->position - request->whole_position : 0;
    size_t heads = request->n_heads;
    float *q;
    uint16_t *bins = NULL;
    sp_status status = sp_finder_project(finder, equal ? request->whole_q : request->q, all, &q, error);
    if (status == SP_OK)
        status = sp_scratch_take(finder->scratch, heads * rank * request->rows, sizeof **out, out, error);
    if (status == SP_OK && equal) status = sp_scratch_take(finder->scratch, all, sizeof *bins, &bins, error);
    for (size_t list = 0; list < heads * rank && status == SP_OK; list++) {
        uint16_t *to = *out + list * request->rows;
        const float *values = q + list;
        if (equal) {
            rank_values(values, heads * rank, all, self->n, order, bins);
            memcpy(to, bins + first, request->rows * sizeof *to);
            continue;
        }
        for (size_t r = 0; r < request->rows; r++)
            to[r] = bin_of(self->borders + list * (self->n - 1), self->n - 1, values[r * heads * rank]);
    }
    return status;
}

/* (n_heads, rank, n_keys): bins of all keys. values: room for n_keys rounded up to whole tiles. */
static void bin_keys(const buckets *self, uint64_t *order, float *values, uint16_t *out)
{
    const sp_finder *finder = self->finder;
    const sp_plan_request *request = finder->request;
    const sp_code_view *codes = request->codes;
    uint32_t n = request->n_keys, share = request->n_heads / codes->n_maps;
    for (uint32_t h = 0; h < request->n_heads; h++)
        for (uint32_t d = 0; d < finder->set->rank; d++) {
            size_t list = (size_t)h * finder->set->rank + d;
            for (uint32_t t = 0; t * SP_TILE < n; t++)
                sp_finder_codes(codes, h / share, t, d, values + (size_t)t * SP_TILE);
            uint16_t *to = out + list * n;
            if (self->mode == SP_BINS_EQUAL)
                rank_values(values, 1, n, self->n, order, to);
            else
                for (uint32_t j = 0; j < n; j++)
                    to[j] = bin_of(self->borders + list * (self->n - 1), self->n - 1, values[j]);
        }
}

/* A single row (decoding): only keys of its own bins matter, two comparisons a key. The others get no class.
 */
static void match_keys(const buckets *self, const uint16_t *q_ids, float *values, uint16_t *out)
{
    const sp_finder *finder = self->finder;
    const sp_plan_request *request = finder->request;
    const sp_code_view *codes = request->codes;
    uint32_t n = request->n_keys, share = request->n_heads / codes->n_maps;
    for (uint32_t h = 0; h < request->n_heads; h++)
        for (uint32_t d = 0; d < finder->set->rank; d++) {
            size_t list = (size_t)h * finder->set->rank + d;
            const float *borders = self->borders + list * (self->n - 1);
            uint16_t own = q_ids[list], *to = out + list * n;
            float above = own ? borders[own - 1] : -INFINITY;
            float most = own < self->n - 1 ? borders[own] : INFINITY;
            for (uint32_t t = 0; t * SP_TILE < n; t++) {
                uint32_t end = n - t * SP_TILE < SP_TILE ? n - t * SP_TILE : SP_TILE;
                sp_finder_codes(codes, h / share, t, d, values);
                for (uint32_t i = 0; i < end; i++) {
                    bool same = (values[i] > above || own == 0) && values[i] <= most;
                    to[t * SP_TILE + i] = same ? own : SP_NO_CLASS;
                }
            }
        }
}

sp_status sp_finder_bucket(const sp_finder *finder, sp_error *error)
{
    const sp_plan_request *request = finder->request;
    buckets self = {.finder = finder,
                    .n = sp_finder_u32(finder, SP_FINDER_BUCKETS),
                    .mode = sp_finder_u32(finder, SP_FINDER_BINS)};
    size_t lists = (size_t)request->n_heads * finder->set->rank;
    uint32_t longest = request->n_keys > request->whole_rows ? request->n_keys : request->whole_rows;
    uint64_t *order;
    float *values;
    uint16_t *q_ids, *k_ids;
    sp_status status = make_borders(&self, error);
    if (status == SP_OK) status = sp_scratch_take(finder->scratch, longest, sizeof *order, &order, error);
    if (status == SP_OK)
        status = sp_scratch_take(finder->scratch, (size_t)request->n_keys + SP_TILE, sizeof *values, &values,
                                 error);
    if (status == SP_OK)
        status = sp_scratch_take(finder->scratch, lists * request->n_keys, sizeof *k_ids, &k_ids, error);
    if (status == SP_OK) status = bin_queries(&self, order, &q_ids, error);
    if (status != SP_OK) return status;
    if (request->rows == 1 && self.mode != SP_BINS_EQUAL)
        match_keys(&self, q_ids, values, k_ids);
    else
        bin_keys(&self, order, values, k_ids);
    const sp_classes classes = {.threads = request->device->threads,
                                .n_heads = request->n_heads,
                                .rows = request->rows,
                                .n_keys = request->n_keys,
                                .runs = finder->set->rank,
                                .top = 1,
                                .n_classes = self.n,
                                .q_ids = q_ids,
                                .k_ids = k_ids};
    return sp_classes_plan(&classes, &finder->band, request->position, finder->scratch, finder->plan, error);
}
