/* Making a head (head.h). A step takes rows of the block at hand, one task a row: dense weights into a row of
 * scratch, the cut, the predicted keys and their weights, the row's sums. When a block is whole its edges are
 * packed into one allocation each. Sums are added in the order of rows, so that a head does not depend on
 * steps or threads. */
#include "engine/graph/head.h"

#include <string.h>

#include "engine/attention/scratch.h"
#include "engine/graph/head_codes.h"
#include "engine/graph/rank.h"
#include "engine/graph/record.h"

#define BLOCK_CELLS ((uint32_t)1 << 20)
#define MAX_BLOCK 64u

typedef struct row_state {
    sp_head_sums sums;
    double cut;
    uint32_t n_gold, n_pred, n_allowed;
} row_state;

struct sp_head_builder {
    const sp_head_source *source;
    sp_head *head;
    sp_head_options options;
    sp_scratch scratch; /* of predictions */
    sp_plan plan;
    sp_head_codes *codes;         /* NULL: the backend reads none */
    sp_head_codes *decode_codes;  /* the same of decoding */
    bool ready;                   /* all keys are projected */
    bool streams, planned;        /* streams: a plan a step; else one for all of its rows, made once */
    uint32_t own_rows;            /* valid rows of the attention; those behind are decoding's */
    uint32_t first, staged, rows; /* the block's first row; rows of it that are made; rows of this step */
    double row_seconds;
    float *gold;       /* (block_rows, n_key) */
    float *weights;    /* (block_rows, n_key) of pred */
    uint32_t *keys;    /* (block_rows, n_key) of pred */
    uint64_t *order;   /* (workers, n_key) */
    row_state *states; /* (block_rows) */
};

/* --- gold's cut --- */

/* Zeroes the weights (n) that the cut drops; returns their sum. order: room for n. */
static double cut_gold(const sp_gold *gold, float *weights, size_t n, uint64_t *order)
{
    double dropped = 0;
    if (gold->cut == SP_CUT_NONE || n == 0) return 0;
    if (gold->cut == SP_CUT_MIN_WEIGHT) {
        for (size_t k = 0; k < n; k++) {
            if ((double)weights[k] >= gold->min_weight) continue;
            dropped += (double)weights[k];
            weights[k] = 0;
        }
        return dropped;
    }
    uint64_t last = UINT64_MAX; /* the last entry that stays */
    for (size_t k = 0; k < n; k++) order[k] = sp_rank_pack(weights[k], (uint32_t)k);
    if (gold->cut == SP_CUT_MASS)
        last = sp_rank_find_mass(order, n, gold->mass);
    else if (gold->top_k > 0)
        last = gold->top_k < n ? sp_rank_find(order, n, gold->top_k) : 0;
    for (size_t k = 0; k < n; k++) {
        if (sp_rank_pack(weights[k], (uint32_t)k) >= last) continue;
        dropped += (double)weights[k];
        weights[k] = 0;
    }
    return dropped;
}

/* --- opening --- */

uint32_t sp_head_block_rows(uint32_t n_key)
{
    uint32_t rows = MAX_BLOCK;
    while (rows > 4 && (uint64_t)rows * n_key > BLOCK_CELLS) rows /= 2;
    return rows;
}

static size_t csr_bytes(uint32_t n_query, uint32_t n_blocks)
{
    return ((size_t)n_query + 1) * sizeof(uint32_t) + (size_t)n_blocks * 2 * sizeof(void *);
}

size_t sp_head_base_bytes(const sp_head_source *source)
{
    uint32_t rows = sp_head_block_rows(source->n_key);
    size_t csr = csr_bytes(source->n_query, (source->n_query + rows - 1) / rows);
    return sizeof(sp_head) + sizeof(sp_head_sums) + 2 * csr +
           (source->gold.cut != SP_CUT_NONE ? (size_t)source->n_query * sizeof(float) : 0);
}

static bool open_csr(sp_csr *csr, uint32_t n_query, uint32_t n_blocks)
{
    csr->indptr = sp_alloc_zero((size_t)n_query + 1, sizeof *csr->indptr);
    csr->indices = sp_alloc_zero(n_blocks, sizeof *csr->indices);
    csr->weights = sp_alloc_zero(n_blocks, sizeof *csr->weights);
    return csr->indptr && csr->indices && csr->weights;
}

static void close_csr(sp_csr *csr, uint32_t n_blocks)
{
    for (uint32_t b = 0; b < n_blocks; b++) {
        if (csr->indices) sp_free(csr->indices[b]);
        if (csr->weights) sp_free(csr->weights[b]);
    }
    sp_free(csr->indptr);
    sp_free(csr->indices);
    sp_free(csr->weights);
}

static bool is_dense(const sp_attention *attention)
{
    return strcmp(attention->backend->name, "dense") == 0;
}

sp_status sp_head_open(const sp_head_source *source, sp_head **out, sp_error *error)
{
    sp_head *head = sp_alloc_zero(1, sizeof *head);
    if (!head) return sp_fail(error, SP_NO_MEMORY, "no memory for a head");
    float own = source->attention->normalizer.alpha;
    head->n_query = source->n_query, head->n_key = source->n_key;
    head->n_valid_key = source->kv.n_keys, head->n_valid_query = source->n_valid_query;
    head->causal = source->causal;
    head->block_rows = sp_head_block_rows(source->n_key);
    head->n_blocks = (source->n_query + head->block_rows - 1) / head->block_rows;
    head->full = is_dense(source->attention) && (!source->decoding || is_dense(source->decoding));
    head->like_gold = head->full && source->gold.cut == SP_CUT_NONE && own == source->gold.normalizer.alpha;
    head->sums = sp_alloc_zero(1, sizeof *head->sums);
    if (source->gold.cut != SP_CUT_NONE) head->cut = sp_alloc_zero(source->n_query, sizeof *head->cut);
    head->bytes = sp_head_base_bytes(source);
    if (!head->sums || (source->gold.cut != SP_CUT_NONE && !head->cut) ||
        !open_csr(&head->gold, head->n_query, head->n_blocks) ||
        !open_csr(&head->pred, head->n_query, head->n_blocks)) {
        sp_head_close(head);
        return sp_fail(error, SP_NO_MEMORY, "no memory for a head of %u queries", source->n_query);
    }
    *out = head;
    return SP_OK;
}

void sp_head_close(sp_head *head)
{
    if (!head) return;
    close_csr(&head->gold, head->n_blocks);
    close_csr(&head->pred, head->n_blocks);
    sp_free(head->cut);
    sp_free(head->sums);
    sp_free(head);
}

size_t sp_head_builder_bytes(uint32_t n_key, size_t n_workers)
{
    size_t rows = sp_head_block_rows(n_key), keys = n_key;
    return rows * keys * (2 * sizeof(float) + sizeof(uint32_t)) + n_workers * keys * sizeof(uint64_t) +
           rows * sizeof(row_state) + sizeof(sp_head_builder);
}

sp_status sp_head_builder_open(const sp_head_source *source, sp_head *head, const sp_head_options *options,
                               sp_head_builder **out, sp_error *error)
{
    sp_head_builder *b = sp_alloc_zero(1, sizeof *b);
    if (!b) return sp_fail(error, SP_NO_MEMORY, "no memory for a graph job");
    size_t cells = (size_t)head->block_rows * head->n_key;
    b->source = source;
    b->head = head;
    b->options = *options;
    b->first = head->rows_done;
    b->streams = !sp_attention_needs_whole(source->attention);
    b->own_rows = source->n_valid_query;
    if (source->decoding && source->n_prompt < b->own_rows) b->own_rows = source->n_prompt;
    sp_plan_init(&b->plan, 0);
    b->gold = sp_alloc(cells, sizeof *b->gold);
    b->weights = sp_alloc(cells, sizeof *b->weights);
    b->keys = sp_alloc(cells, sizeof *b->keys);
    b->order = sp_alloc(sp_threads_count(source->device->threads) * head->n_key, sizeof *b->order);
    b->states = sp_alloc_zero(head->block_rows, sizeof *b->states);
    sp_status status =
        b->gold && b->weights && b->keys && b->order && b->states
            ? sp_head_codes_open(source, false, &b->codes, error)
            : sp_fail(error, SP_NO_MEMORY, "no memory for a graph job over %u keys", head->n_key);
    if (status == SP_OK && source->decoding)
        status = sp_head_codes_open(source, true, &b->decode_codes, error);
    if (status == SP_OK)
        *out = b;
    else
        sp_head_builder_close(b);
    return status;
}

void sp_head_builder_close(sp_head_builder *b)
{
    if (!b) return;
    sp_plan_fini(&b->plan);
    sp_head_codes_close(b->codes);
    sp_head_codes_close(b->decode_codes);
    sp_scratch_fini(&b->scratch);
    sp_free(b->gold);
    sp_free(b->weights);
    sp_free(b->keys);
    sp_free(b->order);
    sp_free(b->states);
    sp_free(b);
}

void sp_head_builder_seek(sp_head_builder *b, uint32_t row)
{
    sp_head *head = b->head;
    uint32_t block = row / head->block_rows, last = b->first ? (b->first - 1) / head->block_rows : 0;
    sp_csr *both[2] = {&head->gold, &head->pred};
    for (int i = 0; i < 2; i++) {
        sp_free(both[i]->indices[last]);
        sp_free(both[i]->weights[last]);
        both[i]->indices[last] = NULL;
        both[i]->weights[last] = NULL;
        both[i]->indptr[block * head->block_rows] = 0;
    }
    b->first = head->rows_done = block * head->block_rows;
    b->staged = 0;
    head->done = false;
}

/* --- one row --- */

static void weigh(const sp_head_builder *b, uint32_t row, sp_normalizer normalizer, const uint32_t *keys,
                  size_t n, float *weights)
{
    const sp_head_source *s = b->source;
    const float *q = s->q + ((size_t)row * s->n_heads + s->head) * s->kv.head_dim;
    uint32_t kv_head = s->head / (s->n_heads / s->n_kv_heads);
    if (n) s->device->ops->row_weights(s->device, &s->kv, kv_head, q, s->scale, normalizer, keys, n, weights);
}

/* Dense weights of the row, cut, into gold (n_key); a full pred's weights into weights. */
static void make_gold(sp_head_builder *b, uint32_t row, row_state *state, float *gold, float *weights,
                      uint64_t *order)
{
    const sp_head_source *s = b->source;
    uint32_t n = state->n_allowed;
    if (b->options.given) {
        sp_row from;
        memset(gold, 0, n * sizeof *gold);
        sp_head_row(b->options.given, SP_GRAPH_GOLD, row, 0, n, NULL, &from);
        for (uint32_t i = 0; i < from.n; i++) gold[from.keys[i]] = from.weights[i];
        if (b->head->full && !b->head->like_gold && !b->options.record_only)
            weigh(b, row, s->attention->normalizer, NULL, n, weights);
        return;
    }
    weigh(b, row, s->gold.normalizer, NULL, n, gold);
    bool full = b->head->full && !b->head->like_gold;
    bool same = s->attention->normalizer.alpha == s->gold.normalizer.alpha;
    if (full && same)
        memcpy(weights, gold, n * sizeof *gold);
    else if (full)
        weigh(b, row, s->attention->normalizer, NULL, n, weights);
    state->cut = cut_gold(&s->gold, gold, n, order);
}

/* Sums of a row over gold (n_allowed) and the predicted keys. */
static void sum_row(const sp_head_builder *b, uint32_t row, row_state *state, const float *gold,
                    const uint32_t *keys, const float *weights)
{
    const sp_head *head = b->head;
    uint32_t at = 0, n = state->n_allowed;
    for (uint32_t key = 0; key < n; key++) {
        bool predicted = head->full;
        if (!head->full && at < state->n_pred && keys[at] == key) {
            predicted = true;
            state->sums.after += !b->options.record_only && weights[at] > 0;
            at++;
        }
        if (head->full && !head->like_gold && !b->options.record_only) state->sums.after += weights[key] > 0;
        if (!(gold[key] > 0)) continue;
        sp_sums_edge(&state->sums, row, key, gold[key], predicted, b->source->tokens);
        state->n_gold++;
    }
    if (head->like_gold) state->sums.after = state->n_gold;
    sp_sums_end_row(&state->sums, n, head->full ? n : state->n_pred);
}

static void make_row(void *context, size_t task, size_t worker)
{
    sp_head_builder *b = context;
    const sp_head_source *s = b->source;
    uint32_t slot = b->staged + (uint32_t)task, row = b->first + slot;
    size_t cell = (size_t)slot * b->head->n_key;
    row_state *state = &b->states[slot];
    *state = (row_state){.n_allowed = sp_head_allowed(b->head, row)};
    if (state->n_allowed == 0) return;
    float *gold = b->gold + cell, *weights = b->weights + cell;
    make_gold(b, row, state, gold, weights, b->order + worker * b->head->n_key);
    if (!b->head->full) {
        uint32_t *keys = b->keys + cell;
        state->n_pred = (uint32_t)sp_plan_row(&b->plan, s->head, row, keys);
        if (!b->options.record_only) weigh(b, row, s->attention->normalizer, keys, state->n_pred, weights);
    } else if (!b->head->like_gold) {
        state->n_pred = state->n_allowed;
    }
    sum_row(b, row, state, gold, b->keys + cell, weights);
}

/* --- a block's edges --- */

/* Appends the block's rows to indptr; false where the edges pass 2^32. */
static bool extend(uint32_t *indptr, uint32_t first, uint32_t rows, const row_state *states, bool gold)
{
    for (uint32_t r = 0; r < rows; r++) {
        uint64_t next = (uint64_t)indptr[first + r] + (gold ? states[r].n_gold : states[r].n_pred);
        if (next > UINT32_MAX) return false;
        indptr[first + r + 1] = (uint32_t)next;
    }
    return true;
}

static sp_status take(sp_head_builder *b, size_t bytes, sp_error *error)
{
    if (b->options.reserve && !b->options.reserve(b->options.context, bytes))
        return sp_fail_param(error, SP_TOO_LARGE, "capture_bytes",
                             "the edges of this head do not fit capture_bytes; capture fewer tokens or "
                             "raise --capture-bytes");
    b->head->bytes += bytes;
    return SP_OK;
}

static void pack_gold(const sp_head_builder *b, uint32_t rows, uint32_t *indices, float *weights)
{
    size_t at = 0;
    for (uint32_t r = 0; r < rows; r++) {
        const float *gold = b->gold + (size_t)r * b->head->n_key;
        for (uint32_t key = 0; key < b->states[r].n_allowed; key++) {
            if (!(gold[key] > 0)) continue;
            indices[at] = key;
            weights[at++] = gold[key];
        }
    }
}

static void pack_pred(const sp_head_builder *b, uint32_t rows, uint32_t *indices, float *weights)
{
    size_t at = 0;
    for (uint32_t r = 0; r < rows; r++) {
        size_t cell = (size_t)r * b->head->n_key, n = b->states[r].n_pred;
        if (indices) memcpy(indices + at, b->keys + cell, n * sizeof *indices);
        memcpy(weights + at, b->weights + cell, n * sizeof *weights);
        at += n;
    }
}

/* The arrays of one block of one graph. */
static sp_status keep_edges(sp_head_builder *b, sp_csr *csr, uint32_t rows, bool gold, sp_error *error)
{
    sp_head *head = b->head;
    uint32_t block = b->first / head->block_rows;
    if (!extend(csr->indptr, b->first, rows, b->states, gold))
        return sp_fail(error, SP_TOO_LARGE, "a head has more than 2^32 edges");
    size_t n = csr->indptr[b->first + rows] - csr->indptr[b->first];
    bool lists = gold || !head->full; /* a full graph's keys are known */
    if (n == 0) return SP_OK;
    sp_status status = take(b, n * (sizeof(float) + (lists ? sizeof(uint32_t) : 0)), error);
    if (status != SP_OK) return status;
    if (lists) csr->indices[block] = sp_alloc(n, sizeof(uint32_t));
    csr->weights[block] = sp_alloc(n, sizeof(float));
    if ((lists && !csr->indices[block]) || !csr->weights[block])
        return sp_fail(error, SP_NO_MEMORY, "no memory for %zu edges", n);
    if (gold)
        pack_gold(b, rows, csr->indices[block], csr->weights[block]);
    else
        pack_pred(b, rows, lists ? csr->indices[block] : NULL, csr->weights[block]);
    return SP_OK;
}

/* The weights of a full pred do not fit: the head goes on without them. */
static void lose_pred(sp_head_builder *b)
{
    sp_head *head = b->head;
    size_t bytes = 0;
    for (uint32_t i = 0; i < head->n_blocks; i++) {
        uint32_t first = i * head->block_rows, last = first + head->block_rows;
        if (!head->pred.weights[i]) continue;
        bytes += (head->pred.indptr[last] - head->pred.indptr[first]) * sizeof(float);
        sp_free(head->pred.weights[i]);
        head->pred.weights[i] = NULL;
    }
    head->lost = true;
    head->bytes -= bytes;
    if (b->options.release) b->options.release(b->options.context, bytes);
}

static sp_status end_block(sp_head_builder *b, uint32_t rows, sp_error *error)
{
    sp_head *head = b->head;
    sp_status status = SP_OK;
    if (!b->options.record_only) {
        status = keep_edges(b, &head->gold, rows, true, error);
        if (!status && !head->like_gold && !head->lost) {
            status = keep_edges(b, &head->pred, rows, false, error);
            if (status == SP_TOO_LARGE && head->full) {
                lose_pred(b);
                status = SP_OK;
            }
        }
        if (status) return status;
    }
    for (uint32_t r = 0; r < rows; r++) {
        if (b->states[r].n_allowed) sp_sums_add(head->sums, &b->states[r].sums);
        if (head->cut) head->cut[b->first + r] = (float)b->states[r].cut;
    }
    b->first = head->rows_done = b->first + rows;
    b->staged = 0;
    if (head->rows_done == head->n_query) {
        sp_record_finish(head->sums, &head->record);
        head->done = true;
    }
    return SP_OK;
}

/* --- steps --- */

static sp_status make_plan(sp_head_builder *b, uint32_t row, uint32_t rows, sp_error *error)
{
    const sp_head_source *s = b->source;
    bool decodes = row >= b->own_rows, streams = b->streams || decodes;
    uint32_t last = row + rows < s->kv.n_keys ? row + rows : s->kv.n_keys;
    uint32_t whole_keys = s->decoding ? b->own_rows : s->kv.n_keys;
    const sp_attention *attention = decodes ? s->decoding : s->attention;
    const float *q = s->fit_q && attention->backend->caps & SP_CAP_NEEDS_FIT ? s->fit_q : s->q;
    sp_plan_request request = {.attention = attention,
                               .layer = s->layer,
                               .kind = s->kind,
                               .causal = s->causal,
                               .position = row,
                               .rows = rows,
                               .n_keys = s->causal && streams ? last : whole_keys,
                               .n_heads = s->n_heads,
                               .n_kv_heads = s->n_kv_heads,
                               .device = s->device,
                               .q = q + (size_t)row * s->n_heads * s->kv.head_dim,
                               .kv = &s->kv,
                               .whole_q = q,
                               .whole_rows = b->own_rows,
                               .scratch = &b->scratch,
                               .fit = s->fit};
    sp_head_codes_attach(decodes ? b->decode_codes : b->codes, &request);
    return sp_attention_plan(&request, &b->plan, error);
}

/* Rows of this step: what its time allows, within the block. */
static uint32_t step_rows(const sp_head_builder *b, uint32_t left, double seconds)
{
    uint32_t least = (uint32_t)sp_threads_count(b->source->device->threads);
    double rows = b->row_seconds > 0 ? seconds / b->row_seconds : least;
    if (rows < least) rows = least;
    return rows < left ? (uint32_t)rows : left;
}

sp_status sp_head_step(sp_head_builder *b, double seconds, sp_error *error)
{
    sp_head *head = b->head;
    if (head->done) return SP_OK;
    if (!b->ready) {
        b->ready = sp_head_codes_step(b->codes) && sp_head_codes_step(b->decode_codes);
        if (!b->ready) return SP_OK;
    }
    uint32_t rows = head->n_query - b->first < head->block_rows ? head->n_query - b->first : head->block_rows;
    double start = sp_now();
    sp_status status = SP_OK;
    uint32_t valid = head->n_valid_query;
    uint32_t row = b->first + b->staged;
    b->rows = step_rows(b, rows - b->staged, seconds);
    if (row < b->own_rows && b->own_rows < valid && b->rows > b->own_rows - row) b->rows = b->own_rows - row;
    uint32_t planned = row + b->rows < valid ? b->rows : row < valid ? valid - row : 0;
    if (!head->full && planned && (b->streams || row >= b->own_rows)) {
        status = make_plan(b, row, planned, error);
    } else if (!head->full && planned && !b->planned) {
        status = make_plan(b, 0, b->own_rows, error);
        b->planned = true;
    }
    if (status != SP_OK) return status;
    sp_threads_run(b->source->device->threads, b->rows, make_row, b);
    b->staged += b->rows;
    if (b->staged == rows) status = end_block(b, rows, error);
    double took = sp_now() - start;
    b->row_seconds = took / b->rows;
    head->seconds += took;
    return status;
}
