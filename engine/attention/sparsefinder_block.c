/* sparsefinder, grouping block: whole blocks of b queries see whole blocks of b keys (Treviso et al. 2022,
 * the efficient versions of its appendix; attention.md 1.12).
 *
 * The projected tokens of a block, missing ones zero, laid end to end are its vector; dq, dk are its squared
 * distances to the centroids of the set block{b}.
 *   token     score(I, J) = [the `top` nearest centroids of I and J meet] + sigmoid(-sum_c dq[I][c]
 * dk[J][c]); a query block takes the `keep` best key blocks that it may see centroid  each centroid takes its
 * `keep` nearest query and key blocks; a query block follows the lowest centroid that took it; where none
 * did, it takes key block 0 Window and globals count blocks. One bit a pair of blocks becomes tiles. Needs
 * the whole sequence: does not stream. Tests: tests/attention/test_conformance.c,
 * tests/attention/test_cases.c */
#include "engine/attention/nearest.h"
#include "engine/attention/sparsefinder.h"

#include <math.h>
#include <string.h>

typedef struct blocks {
    const sp_finder *finder;
    uint32_t b, keep, top, C;
    uint32_t q_first, q_end, k_end; /* query blocks that exist, key blocks */
    uint32_t own, n_own;            /* query blocks of the chunk */
    sp_band band;                   /* in blocks */
    const sp_fit_table *table;
    float *q;        /* (whole_rows, n_heads, rank) */
    float *k;        /* (n_keys, rank) of one head */
    double *dq;      /* (q_end, C) */
    double *dk;      /* (k_end, C) */
    uint32_t *q_top; /* (top) of a query block */
    uint32_t *k_top; /* (k_end, top) */
    sp_near *heap;   /* (max(keep, top)) */
    uint32_t *taken; /* (q_end) centroid that a query block follows; C: none */
    size_t words;    /* of a row of bits */
    uint64_t *bits;  /* (n_own, words) */
} blocks;

/* Squared distances of one block to all centroids. token t is x + t * stride, `present` from `begin` on. */
static void measure_block(const blocks *self, uint32_t head, const float *x, size_t stride, uint32_t begin,
                          uint32_t end, double *out)
{
    uint32_t rank = self->finder->set->rank;
    size_t wide = (size_t)self->b * rank;
    const float *centroids =
        self->table->values + (size_t)head * self->table->runs * self->C * wide; /* run 0 */
    for (uint32_t c = 0; c < self->C; c++) {
        const float *mean = centroids + c * wide;
        double sum = 0;
        for (uint32_t t = 0; t < self->b; t++)
            for (uint32_t d = 0; d < rank; d++) {
                double value = t >= begin && t < end ? (double)x[(t - begin) * stride + d] : 0;
                double gap = value - (double)mean[(size_t)t * rank + d];
                sum += gap * gap;
            }
        out[c] = sum;
    }
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* dq and dk of a head. */
static void measure_head(const blocks *self, uint32_t head)
{
    const sp_plan_request *request = self->finder->request;
    uint32_t rank = self->finder->set->rank, first = request->whole_position;
    size_t stride = (size_t)request->n_heads * rank;
    uint64_t last = (uint64_t)first + request->whole_rows;
    for (uint32_t i = self->q_first; i < self->q_end; i++) {
        uint64_t origin = (uint64_t)i * self->b;
        uint32_t begin = first > origin ? (uint32_t)(first - origin) : 0;
        uint32_t end = last - origin < self->b ? (uint32_t)(last - origin) : self->b;
        measure_block(self, head, self->q + (origin + begin - first) * stride + (size_t)head * rank, stride,
                      begin, end, self->dq + (size_t)i * self->C);
    }
    sp_finder_keys(self->finder, head, self->k);
    for (uint32_t j = 0; j < self->k_end; j++) {
        size_t origin = (size_t)j * self->b;
        uint32_t end = least(self->b, request->n_keys - (uint32_t)origin);
        measure_block(self, head, self->k + origin * rank, rank, 0, end, self->dk + (size_t)j * self->C);
    }
}

static void set_bit(const blocks *self, uint32_t i, uint32_t j)
{
    self->bits[(size_t)(i - self->own) * self->words + j / 64] |= (uint64_t)1 << (j % 64);
}

/* --- token --- */

static void nearest_centroids(const blocks *self, const double *distances, uint32_t *out)
{
    uint32_t n = 0;
    for (uint32_t c = 0; c < self->C; c++)
        n = sp_near_offer(self->heap, n, self->top, (sp_near){distances[c], c});
    for (uint32_t s = 0; s < n; s++) out[s] = self->heap[s].id;
}

static bool meet(const uint32_t *a, const uint32_t *b, uint32_t n)
{
    for (uint32_t s = 0; s < n; s++)
        for (uint32_t t = 0; t < n; t++)
            if (a[s] == b[t]) return true;
    return false;
}

static void select_tokens(const blocks *self)
{
    for (uint32_t j = 0; j < self->k_end; j++)
        nearest_centroids(self, self->dk + (size_t)j * self->C, self->k_top + (size_t)j * self->top);
    for (uint32_t i = self->own; i < self->own + self->n_own; i++) {
        const double *dq = self->dq + (size_t)i * self->C;
        uint32_t n = 0, end = self->band.causal ? least(i + 1, self->k_end) : self->k_end;
        nearest_centroids(self, dq, self->q_top);
        for (uint32_t j = 0; j < end; j++) {
            const double *dk = self->dk + (size_t)j * self->C;
            double sum = 0;
            for (uint32_t c = 0; c < self->C; c++) sum += dq[c] * dk[c];
            double score = 1 / (1 + exp(sum));
            if (meet(self->q_top, self->k_top + (size_t)j * self->top, self->top)) score += 1;
            n = sp_near_offer(self->heap, n, self->keep, (sp_near){-score, j});
        }
        for (uint32_t s = 0; s < n; s++) set_bit(self, i, self->heap[s].id);
    }
}

/* --- centroid --- */

static uint32_t nearest_blocks(const blocks *self, const double *distances, uint32_t begin, uint32_t end,
                               uint32_t c)
{
    uint32_t n = 0;
    for (uint32_t i = begin; i < end; i++)
        n = sp_near_offer(self->heap, n, self->keep, (sp_near){distances[(size_t)i * self->C + c], i});
    return n;
}

static void select_centroids(const blocks *self)
{
    for (uint32_t i = self->q_first; i < self->q_end; i++) self->taken[i] = self->C;
    for (uint32_t c = 0; c < self->C; c++) {
        uint32_t n = nearest_blocks(self, self->dq, self->q_first, self->q_end, c);
        for (uint32_t s = 0; s < n; s++)
            if (self->taken[self->heap[s].id] == self->C) self->taken[self->heap[s].id] = c;
        n = nearest_blocks(self, self->dk, 0, self->k_end, c);
        for (uint32_t i = self->own; i < self->own + self->n_own; i++)
            for (uint32_t s = 0; s < n && self->taken[i] == c; s++) set_bit(self, i, self->heap[s].id);
    }
    for (uint32_t i = self->own; i < self->own + self->n_own; i++)
        if (self->taken[i] == self->C && self->k_end) set_bit(self, i, 0);
}

/* --- bits to tiles --- */

static uint64_t tile_word(const blocks *self, uint32_t i, uint32_t tile)
{
    const uint64_t *bits = self->bits + (size_t)(i - self->own) * self->words;
    uint32_t first = tile * SP_TILE / self->b, last = (tile * SP_TILE + SP_TILE - 1) / self->b;
    uint64_t word = 0;
    for (uint32_t j = first; j <= last && j < self->k_end; j++)
        if (bits[j / 64] >> (j % 64) & 1)
            word |= sp_tile_bits(tile, (uint64_t)j * self->b, ((uint64_t)j + 1) * self->b);
    return word;
}

static sp_status add_query_tile(const blocks *self, uint32_t head, uint32_t query_tile, sp_error *error)
{
    const sp_plan_request *request = self->finder->request;
    const sp_band *band = &self->finder->band;
    uint32_t n_tiles = (request->n_keys + SP_TILE - 1) / SP_TILE;
    uint32_t limit = request->causal && query_tile < n_tiles ? query_tile + 1 : n_tiles;
    uint64_t begin = request->position, end = begin + request->rows, words[SP_TILE];
    sp_status status = SP_OK;
    for (uint32_t tile = 0; tile < limit && status == SP_OK; tile++) {
        uint32_t known = UINT32_MAX;
        uint64_t word = 0;
        for (uint32_t r = 0; r < SP_TILE; r++) {
            uint64_t query = (uint64_t)query_tile * SP_TILE + r;
            words[r] = 0;
            if (query < begin || query >= end) continue;
            uint32_t i = (uint32_t)(query / self->b);
            if (i != known) word = tile_word(self, i, tile);
            known = i;
            words[r] = word & sp_band_allowed(band, (uint32_t)query, tile);
        }
        status = sp_plan_add_words(self->finder->plan, head, query_tile, tile, words, error);
    }
    return status;
}

static sp_status plan_head(const blocks *self, uint32_t head, bool by_token, sp_error *error)
{
    sp_plan *plan = self->finder->plan;
    measure_head(self, head);
    memset(self->bits, 0, self->n_own * self->words * sizeof *self->bits);
    if (by_token)
        select_tokens(self);
    else
        select_centroids(self);
    for (uint32_t i = 0; i < self->n_own; i++)
        for (uint32_t w = 0; w < self->words; w++)
            self->bits[i * self->words + w] |= sp_band_word(&self->band, self->own + i, w);
    sp_status status = SP_OK;
    for (uint32_t t = 0; t < plan->n_query_tiles && status == SP_OK; t++)
        status = add_query_tile(self, head, plan->first_tile + t, error);
    return status;
}

static sp_status take_room(blocks *self, sp_error *error)
{
    const sp_finder *finder = self->finder;
    sp_scratch *scratch = finder->scratch;
    size_t rank = finder->set->rank, C = self->C;
    uint32_t most = self->keep > self->top ? self->keep : self->top;
    sp_status status =
        sp_finder_project(finder, finder->request->whole_q, finder->request->whole_rows, &self->q, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, finder->request->n_keys * rank, sizeof *self->k, &self->k, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, self->q_end * C, sizeof *self->dq, &self->dq, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, self->k_end * C, sizeof *self->dk, &self->dk, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, self->top, sizeof *self->q_top, &self->q_top, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, (size_t)self->k_end * self->top, sizeof *self->k_top, &self->k_top,
                                 error);
    if (status == SP_OK) status = sp_scratch_take(scratch, most, sizeof *self->heap, &self->heap, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, self->q_end, sizeof *self->taken, &self->taken, error);
    if (status == SP_OK)
        status = sp_scratch_take(scratch, self->n_own * self->words, sizeof *self->bits, &self->bits, error);
    return status;
}

static blocks make_blocks(const sp_finder *finder)
{
    const sp_plan_request *request = finder->request;
    uint32_t b = sp_finder_u32(finder, SP_FINDER_BLOCK);
    blocks self = {.finder = finder, .b = b, .table = sp_finder_centroids(request->attention, finder->set)};
    self.C = self.table->size;
    self.top = least(sp_finder_u32(finder, SP_FINDER_TOP), self.C);
    self.k_end = request->n_keys / b + (request->n_keys % b != 0);
    uint32_t end = request->whole_position + request->whole_rows;
    self.q_first = request->whole_position / b;
    self.q_end = end / b + (end % b != 0);
    uint32_t most = self.k_end > self.q_end ? self.k_end : self.q_end;
    self.keep = least(sp_finder_u32(finder, SP_FINDER_KEEP), most);
    if (self.keep == 0) self.keep = 1;
    self.own = request->position / b;
    self.n_own = request->rows ? (request->position + request->rows - 1) / b - self.own + 1 : 0;
    self.words = ((size_t)self.k_end + 63) / 64;
    const sp_plan_request in_blocks = {.n_keys = self.k_end, .causal = request->causal};
    self.band = sp_band_make(&in_blocks, sp_finder_u32(finder, SP_FINDER_WINDOW),
                             sp_finder_u32(finder, SP_FINDER_FIRST), sp_finder_u32(finder, SP_FINDER_LAST));
    return self;
}

sp_status sp_finder_block(const sp_finder *finder, sp_error *error)
{
    blocks self = make_blocks(finder);
    bool by_token = sp_finder_u32(finder, SP_FINDER_SELECT) == SP_SELECT_TOKEN;
    sp_status status = take_room(&self, error);
    for (uint32_t h = 0; h < finder->request->n_heads && status == SP_OK; h++)
        status = plan_head(&self, h, by_token, error);
    return status;
}
