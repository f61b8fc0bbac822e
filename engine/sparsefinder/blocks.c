/* Maps and centroids of blocks (fit_sets.h): b tokens projected and laid end to end are one vector of a
 * block.
 *
 * A tile of b x b holds the sum of its tokens' probabilities, and is an edge where that is above zero. The
 * maps start from those of distance and are trained by the balanced loss on tiles, x = offset - |Q - K|^2 / b
 * over all tiles of a window on or below the diagonal; then k-means runs on the blocks of queries and keys.
 * Tests: tests/unit/engine/test_fit_job.c */
#include "engine/sparsefinder/fit_sets.h"

#include <math.h>
#include <string.h>

#include "engine/sparsefinder/adam.h"
#include "engine/sparsefinder/kmeans.h"

enum { MAX_WINDOWS = 12, STEPS = 150, WARM_UP = 10, ROUNDS = 15 };
#define RATE 0.005
enum { PURPOSE_BLOCKS = 1 << 12, PURPOSE_BLOCK_KMEANS = 1 << 16 };

typedef struct block_trainer {
    const sp_unit *unit;
    size_t block, n_blocks, n_windows; /* blocks of a window; windows looked at */
    size_t codes, stride;              /* of a block's code; of rows of its columns */
    sp_maps maps, folded, slopes;
    sp_adam adam;
    float *tiles;              /* (n_heads, n_windows, n_blocks, n_blocks) probability */
    float *keys, *queries;     /* (dim, unit->stride) columns of a window */
    float *k, *dk, *q, *dq;    /* (rank, unit->stride) projected */
    float *q_codes, *dq_codes; /* (n_blocks, codes) */
    float *k_codes, *dk_codes; /* (codes, stride) */
    float *k_rows;             /* (n_blocks, codes) */
    float *rows, *scores, *ones, *products, *scratch;
    float *weights;  /* (n_blocks * n_blocks) */
    uint32_t *all;   /* (length) 0, 1, 2 .. */
    size_t *begins;  /* (n_blocks + 1) */
    uint32_t *edges; /* (n_blocks * n_blocks) */
    sp_unit_graph graph;
    float *numbers;
} block_trainer;

static size_t lay_all(block_trainer *t, float *numbers)
{
    const sp_maps_shape *s = &t->maps.shape;
    size_t used = 0, count = sp_maps_count(s), wide = t->unit->stride, nb = t->n_blocks;
    float *folded = sp_numbers_lay(numbers, &used, count), *slopes = sp_numbers_lay(numbers, &used, count);
    if (numbers) {
        t->folded = sp_maps_view(s, folded);
        t->slopes = sp_maps_view(s, slopes);
    }
    t->adam.first = sp_numbers_lay(numbers, &used, count);
    t->adam.second = sp_numbers_lay(numbers, &used, count);
    t->tiles = sp_numbers_lay(numbers, &used, s->n_heads * t->n_windows * nb * nb);
    t->keys = sp_numbers_lay(numbers, &used, s->dim * wide);
    t->queries = sp_numbers_lay(numbers, &used, s->dim * wide);
    t->k = sp_numbers_lay(numbers, &used, s->rank * wide);
    t->dk = sp_numbers_lay(numbers, &used, s->rank * wide);
    t->q = sp_numbers_lay(numbers, &used, s->rank * wide);
    t->dq = sp_numbers_lay(numbers, &used, s->rank * wide);
    t->q_codes = sp_numbers_lay(numbers, &used, nb * t->codes);
    t->dq_codes = sp_numbers_lay(numbers, &used, nb * t->codes);
    t->k_rows = sp_numbers_lay(numbers, &used, nb * t->codes);
    t->k_codes = sp_numbers_lay(numbers, &used, t->codes * t->stride);
    t->dk_codes = sp_numbers_lay(numbers, &used, t->codes * t->stride);
    t->rows = sp_numbers_lay(numbers, &used, t->unit->sample->length * s->dim);
    t->scores = sp_numbers_lay(numbers, &used, (SP_UNIT_ROWS + 1) * wide);
    t->ones = sp_numbers_lay(numbers, &used, wide);
    t->products = sp_numbers_lay(numbers, &used, (size_t)s->rank * s->dim);
    t->scratch = sp_numbers_lay(numbers, &used, 64 * t->codes);
    t->weights = sp_numbers_lay(numbers, &used, nb * nb);
    t->graph.p = sp_numbers_lay(numbers, &used, (size_t)SP_UNIT_ROWS * t->unit->sample->length);
    return used;
}

static bool open_trainer(block_trainer *t)
{
    size_t length = t->unit->sample->length, nb = t->n_blocks;
    t->graph.capacity = SP_UNIT_ROWS * length;
    t->numbers = sp_alloc_zero(lay_all(t, NULL), sizeof *t->numbers);
    t->all = sp_alloc(length, sizeof *t->all);
    t->begins = sp_alloc_zero(nb + 1, sizeof *t->begins);
    t->edges = sp_alloc(nb * nb, sizeof *t->edges);
    t->graph.begins = sp_alloc_zero(SP_UNIT_ROWS + 1, sizeof *t->graph.begins);
    t->graph.edges = sp_alloc(t->graph.capacity, sizeof *t->graph.edges);
    if (!t->numbers || !t->all || !t->begins || !t->edges || !t->graph.begins || !t->graph.edges)
        return false;
    lay_all(t, t->numbers);
    for (size_t i = 0; i < length; i++) {
        t->all[i] = (uint32_t)i;
        t->ones[i] = 1.0f;
    }
    return true;
}

static void close_trainer(block_trainer *t)
{
    sp_free(t->numbers);
    sp_free(t->all);
    sp_free(t->begins);
    sp_free(t->edges);
    sp_free(t->graph.begins);
    sp_free(t->graph.edges);
}

/* --- the true graph --- */

static float *tiles_of(const block_trainer *t, uint32_t head, size_t window)
{
    return t->tiles + (head * t->n_windows + window) * t->n_blocks * t->n_blocks;
}

static void sum_tiles(block_trainer *t, uint32_t head, size_t window)
{
    float *tiles = tiles_of(t, head, window);
    size_t rows = t->n_blocks * t->block;
    for (size_t at = 0; at < rows; at += SP_UNIT_ROWS) {
        size_t n = rows - at < SP_UNIT_ROWS ? rows - at : SP_UNIT_ROWS;
        sp_unit_gold(t->unit, head, window, t->all + at, n, t->keys, t->rows, t->scores, &t->graph, 0);
        for (size_t i = 0; i < n; i++)
            for (size_t e = t->graph.begins[i]; e < t->graph.begins[i + 1]; e++)
                tiles[(at + i) / t->block * t->n_blocks + t->graph.edges[e] / t->block] += t->graph.p[e];
    }
}

/* Edges of a window with their weights; returns the weight of a tile that is none. */
static float weigh_tiles(block_trainer *t, const float *tiles)
{
    size_t n = 0, nb = t->n_blocks, pairs = nb * (nb + 1) / 2;
    double mass = 0;
    for (size_t i = 0; i < nb; i++) {
        for (size_t j = 0; j <= i; j++) {
            if (!(tiles[i * nb + j] > 0)) continue;
            t->edges[n] = (uint32_t)j;
            t->weights[n++] = tiles[i * nb + j];
            mass += (double)tiles[i * nb + j];
        }
        t->begins[i + 1] = n;
    }
    for (size_t e = 0; e < n; e++)
        t->weights[e] = (float)(0.5 / (double)n + 0.5 * (double)t->weights[e] / mass);
    return pairs > n ? (float)(1 / (double)(pairs - n)) : 0;
}

/* --- codes of blocks --- */

/* Blocks of x (rank, tokens) to rows (n_blocks, block rank), times factor; width apart. */
static void lay_blocks(const block_trainer *t, const float *x, float factor, float *rows, size_t width)
{
    size_t rank = t->maps.shape.rank;
    for (size_t i = 0; i < t->n_blocks; i++)
        for (size_t b = 0; b < t->block; b++)
            for (size_t r = 0; r < rank; r++)
                rows[i * width + b * rank + r] = factor * x[r * t->unit->stride + i * t->block + b];
}

/* Codes whose dot product is offset - |Q - K|^2 / block, as in maps.h: (2 Q, offset - |Q|^2, 1) and
 * (K, 1, -|K|^2), Q and K over the root of block. */
static void code_rows(const block_trainer *t, const float *x, bool is_query, float offset, float *rows)
{
    size_t inner = t->codes - 2;
    lay_blocks(t, x, (float)(1 / sqrt((double)t->block)), rows, t->codes);
    for (size_t i = 0; i < t->n_blocks; i++) {
        float *row = rows + i * t->codes, square = 0;
        for (size_t c = 0; c < inner; c++) {
            square += row[c] * row[c];
            row[c] *= is_query ? 2.0f : 1.0f;
        }
        row[inner] = is_query ? offset - square : 1.0f;
        row[inner + 1] = is_query ? 1.0f : -square;
    }
}

/* Derivatives by codes (n_blocks, codes) to those by the projected tokens, added. */
static void codes_back(const block_trainer *t, const float *x, bool is_query, const float *slopes, float *dx)
{
    size_t rank = t->maps.shape.rank, inner = t->codes - 2, wide = t->unit->stride;
    const float root = (float)(1 / sqrt((double)t->block)), factor = is_query ? 2.0f : 1.0f;
    for (size_t i = 0; i < t->n_blocks; i++) {
        const float *row = slopes + i * t->codes;
        float square = row[is_query ? inner : inner + 1];
        for (size_t b = 0; b < t->block; b++)
            for (size_t r = 0; r < rank; r++) {
                size_t at = r * wide + i * t->block + b;
                dx[at] += root * (factor * row[b * rank + r] - 2.0f * root * x[at] * square);
            }
    }
}

/* --- a step --- */

static void load_window(block_trainer *t, size_t window)
{
    sp_unit_keys(t->unit, window, t->keys);
    sp_maps_project(t->unit->ops, &t->maps.shape, t->folded.k, t->folded.k_bias, t->unit->sample->length,
                    t->unit->stride, t->keys, t->k);
}

static void load_head(block_trainer *t, uint32_t head, size_t window)
{
    const sp_maps_shape *s = &t->maps.shape;
    size_t length = t->unit->sample->length;
    sp_unit_queries(t->unit, head, window, t->all, length, 1.0f, t->rows);
    sp_transpose(length, s->dim, t->rows, s->dim, t->queries, t->unit->stride);
    sp_maps_project(t->unit->ops, s, t->folded.q + (size_t)head * s->rank * s->dim,
                    t->folded.q_bias + (size_t)head * s->rank, length, t->unit->stride, t->queries, t->q);
}

/* dx (rank, tokens) to the derivatives of a map, added. */
static void map_back(const block_trainer *t, float *dx, const float *columns, float *weight, float *bias)
{
    const sp_maps_shape *s = &t->maps.shape;
    size_t length = t->unit->sample->length, wide = t->unit->stride, padded = (length + 31) / 32 * 32;
    for (size_t r = 0; r < s->rank; r++) memset(dx + r * wide + length, 0, (padded - length) * sizeof *dx);
    t->unit->ops->dots(s->rank, s->dim, padded, dx, wide, columns, wide, t->products);
    for (size_t i = 0; i < (size_t)s->rank * s->dim; i++) weight[i] += t->products[i];
    t->unit->ops->dots(s->rank, 1, padded, dx, wide, t->ones, wide, t->products);
    for (size_t r = 0; r < s->rank; r++) bias[r] += t->products[r];
}

static void compare(block_trainer *t, uint32_t head, size_t window)
{
    const sp_maps_shape *s = &t->maps.shape;
    size_t nb = t->n_blocks, map = (size_t)s->rank * s->dim;
    load_head(t, head, window);
    float others = weigh_tiles(t, tiles_of(t, head, window));
    code_rows(t, t->q, true, t->folded.offset[head], t->q_codes);
    code_rows(t, t->k, false, 0, t->k_rows);
    sp_transpose(nb, t->codes, t->k_rows, t->codes, t->k_codes, t->stride);
    memset(t->dk_codes, 0, t->codes * t->stride * sizeof *t->dk_codes);
    for (size_t i = 0; i < nb; i++) t->all[i] = (uint32_t)i + 1;
    sp_train_pairs pairs = {.loss = SP_TRAIN_BALANCED,
                            .n_rows = nb,
                            .rank = t->codes,
                            .lengths = t->all,
                            .q = t->q_codes,
                            .k = t->k_codes,
                            .stride = t->stride,
                            .begins = t->begins,
                            .edges = t->edges,
                            .weights = t->weights,
                            .others = others,
                            .dq = t->dq_codes,
                            .dk = t->dk_codes,
                            .scratch = t->scratch};
    t->unit->ops->pairs(&pairs);
    for (size_t i = 0; i < nb; i++) t->all[i] = (uint32_t)i;
    sp_transpose(t->codes, nb, t->dk_codes, t->stride, t->k_rows, t->codes);
    codes_back(t, t->k, false, t->k_rows, t->dk);
    memset(t->dq, 0, s->rank * t->unit->stride * sizeof *t->dq);
    codes_back(t, t->q, true, t->dq_codes, t->dq);
    map_back(t, t->dq, t->queries, t->slopes.q + head * map, t->slopes.q_bias + head * s->rank);
    for (size_t i = 0; i < nb; i++) t->slopes.offset[head] += t->dq_codes[i * t->codes + t->codes - 2];
}

static void step(block_trainer *t, size_t window, uint32_t number, bool shared)
{
    const sp_maps_shape *s = &t->maps.shape;
    sp_maps_fold(&t->maps, &t->unit->moments, &t->folded);
    memset(t->slopes.q, 0, t->adam.count * sizeof *t->slopes.q);
    memset(t->dk, 0, s->rank * t->unit->stride * sizeof *t->dk);
    load_window(t, window);
    for (uint32_t h = 0; h < s->n_heads; h++) compare(t, h, window);
    map_back(t, t->dk, t->keys, t->slopes.k, t->slopes.k_bias);
    sp_maps_fold_back(&t->unit->moments, &t->slopes);
    if (shared) sp_maps_share(&t->slopes);
    sp_adam_update(&t->adam, sp_cosine_rate(RATE, WARM_UP, STEPS, number), 1, t->slopes.q, t->maps.q);
}

/* --- centroids --- */

static sp_status find_centroids(block_trainer *t, const sp_fit_options *options, uint32_t head,
                                sp_fit_set *set, sp_error *error)
{
    size_t nb = t->n_blocks, width = t->block * set->rank, n = 2 * nb * t->n_windows;
    float *points = sp_alloc(n * width, sizeof *points);
    sp_status status = points ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for %zu blocks", n);
    for (size_t w = 0; status == SP_OK && w < t->n_windows; w++) {
        load_window(t, w);
        load_head(t, head, w);
        lay_blocks(t, t->q, 1.0f, points + 2 * w * nb * width, width);
        lay_blocks(t, t->k, 1.0f, points + (2 * w + 1) * nb * width, width);
    }
    for (size_t i = 0; status == SP_OK && i < set->n_centroids; i++) {
        const sp_fit_table *table = &set->centroids[i];
        if (table->size > n)
            status = sp_fail_param(error, SP_DATA, "blocks",
                                   "--blocks: the text has %zu blocks of %zu, too few for %u clusters", n,
                                   t->block, (unsigned)table->size);
        for (uint32_t run = 0; status == SP_OK && run < table->runs; run++) {
            uint32_t layer = t->unit->sample->first_layer + t->unit->layer,
                     global = t->unit->first_head + head;
            sp_random random =
                sp_random_open(options->seed, layer, global, PURPOSE_BLOCK_KMEANS + table->size * 8 + run);
            float *to = table->values + ((size_t)global * table->runs + run) * table->size * width;
            status = sp_kmeans(t->unit->ops, &random, run == 0 ? SP_KMEANS_SPREAD : SP_KMEANS_RANDOM, n,
                               width, points, table->size, ROUNDS, to, NULL, error);
        }
    }
    sp_free(points);
    return status;
}

sp_status sp_fit_blocks(const sp_unit *unit, const sp_fit_options *options, const atomic_bool *stop,
                        const sp_maps *start, sp_fit_set *set, sp_error *error)
{
    size_t count = sp_maps_count(&start->shape);
    float *numbers = sp_alloc(count, sizeof *numbers);
    if (!numbers) return sp_fail(error, SP_NO_MEMORY, "no memory for the maps of blocks");
    memcpy(numbers, start->q, count * sizeof *numbers);
    block_trainer t = {.unit = unit,
                       .block = set->size,
                       .n_blocks = unit->sample->length / set->size,
                       .n_windows = unit->n_train < MAX_WINDOWS ? unit->n_train : MAX_WINDOWS,
                       .codes = (size_t)set->size * set->rank + 2,
                       .maps = sp_maps_view(&start->shape, numbers),
                       .adam = {.count = count, .beta_1 = 0.9, .beta_2 = 0.98}};
    t.stride = (t.n_blocks + 63) / 64 * 64 + 16;
    sp_random random = sp_random_open(options->seed, unit->sample->first_layer + unit->layer,
                                      unit->first_head, PURPOSE_BLOCKS + set->size);
    sp_status status = SP_OK;
    if (t.n_blocks < 2)
        status = sp_fail_param(error, SP_USAGE, "blocks",
                               "--blocks: a window of %u tokens has no two blocks "
                               "of %u",
                               (unsigned)unit->sample->length, (unsigned)set->size);
    else if (!open_trainer(&t))
        status = sp_fail(error, SP_NO_MEMORY, "no memory to train blocks");
    for (size_t w = 0; status == SP_OK && w < t.n_windows; w++) {
        sp_unit_keys(unit, w, t.keys);
        for (uint32_t h = 0; h < unit->n_heads; h++) sum_tiles(&t, h, w);
    }
    for (uint32_t i = 0; status == SP_OK && i < STEPS; i++) {
        step(&t, sp_random_below(&random, (uint32_t)t.n_windows), i, options->shared);
        if (stop && atomic_load(stop)) status = SP_CANCELLED;
    }
    if (status == SP_OK) {
        sp_maps_fold(&t.maps, &unit->moments, &t.folded);
        sp_fit_sets_store(unit, &t.folded, set);
    }
    for (uint32_t h = 0; status == SP_OK && h < unit->n_heads; h++)
        status = find_centroids(&t, options, h, set, error);
    close_trainer(&t);
    sp_free(numbers);
    return status;
}
