/* What the attend tests share: a random sequence in pages, a random plan beside an independent bit matrix of
 * its edges, and attention over that matrix by double loops. Header only, for test_attend.c and
 * test_attend_bits.c. */
#ifndef SPARSED_TESTS_KERNELS_ATTEND_SCENE_H
#define SPARSED_TESTS_KERNELS_ATTEND_SCENE_H

#include "tests/support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/support/plan_group.h"
#include "tests/support/random.h"

#define MAX_KEYS 2400

typedef struct scene {
    uint32_t heads, kv_heads, lists, rows, keys, head_dim, value_dim; /* rows: all positions 0 .. rows - 1 */
    sp_dtype dtype;
    bool causal;
    float *q, *k, *v; /* (rows, heads, head_dim), (keys, kv_heads, ..): as stored, so bf16 pages are exact */
    uint8_t *memory;
    const uint8_t *pages[MAX_KEYS / SP_TILE + 1];
    uint8_t *tiles;          /* (lists, rows, keys): edges that tiles carry */
    uint8_t *member;         /* (lists, rounds, rows): group of a row in a round, or NO_GROUP */
    uint32_t rounds, groups; /* groups: 5, or as set before scene_open */
    uint8_t *listed;         /* (lists, rounds, groups, keys): keys of a group */
    uint8_t *grouped;        /* (lists, rounds, rows, keys): edges that groups carry */
    bool row_lists;          /* groups are one row each, of its grouped keys */
} scene;
#define NO_GROUP ((uint8_t)255)

/* How a scene's edges are drawn. */
typedef enum pattern { DENSE, WINDOW, COLUMNS, SCATTER, STRIDED, ROUNDS, TWO_SIDED, LISTS, PATTERNS } pattern;

static inline size_t edge_at(const scene *s, uint32_t list, uint32_t row, uint32_t key)
{
    return ((size_t)list * s->rows + row) * s->keys + key;
}

static inline size_t group_at(const scene *s, uint32_t list, uint32_t round, uint32_t row)
{
    return ((size_t)list * s->rounds + round) * s->rows + row;
}

static inline uint32_t list_of(const scene *s, uint32_t head)
{
    return s->lists == 1 ? 0 : s->lists == s->heads ? head : head * s->lists / s->heads;
}

static inline float stored(const scene *s, float x)
{
    return s->dtype == SP_BF16 ? sp_bf16_to_f32(sp_bf16_from_f32(x)) : x;
}

static inline void put(const scene *s, uint8_t *at, size_t i, float x)
{
    if (s->dtype == SP_BF16)
        ((uint16_t *)at)[i] = sp_bf16_from_f32(x);
    else
        ((float *)at)[i] = x;
}

static inline size_t head_bytes(const scene *s)
{
    return SP_TILE * (size_t)(s->head_dim + s->value_dim) * sp_dtype_size(s->dtype);
}

/* Fills q, k, v and the pages; rows behind the last key hold NaN. */
static inline void draw_numbers(scene *s, test_random *random, float deviation)
{
    size_t n_q = (size_t)s->rows * s->heads * s->head_dim, n_k = (size_t)s->keys * s->kv_heads * s->head_dim;
    size_t n_v = (size_t)s->keys * s->kv_heads * s->value_dim, tiles = (s->keys + SP_TILE - 1) / SP_TILE;
    s->q = sp_alloc(n_q, sizeof(float));
    s->k = sp_alloc(n_k, sizeof(float));
    s->v = sp_alloc(n_v, sizeof(float));
    test_random_fill(random, s->q, n_q, deviation);
    test_random_fill(random, s->k, n_k, 1);
    test_random_fill(random, s->v, n_v, 1);
    for (size_t i = 0; i < n_k; i++) s->k[i] = stored(s, s->k[i]);
    for (size_t i = 0; i < n_v; i++) s->v[i] = stored(s, s->v[i]);
    s->memory = sp_alloc(tiles * s->kv_heads, head_bytes(s));
    memset(s->memory, 0xff, tiles * s->kv_heads * head_bytes(s)); /* NaN in both types */
    for (size_t t = 0; t < tiles; t++) s->pages[t] = s->memory + t * s->kv_heads * head_bytes(s);
    for (uint32_t key = 0; key < s->keys; key++) {
        for (uint32_t h = 0; h < s->kv_heads; h++) {
            uint8_t *page = s->memory + ((size_t)key / SP_TILE * s->kv_heads + h) * head_bytes(s);
            uint8_t *values = page + SP_TILE * s->head_dim * sp_dtype_size(s->dtype);
            for (uint32_t d = 0; d < s->head_dim; d++)
                put(s, page, key % SP_TILE * s->head_dim + d,
                    s->k[((size_t)key * s->kv_heads + h) * s->head_dim + d]);
            for (uint32_t d = 0; d < s->value_dim; d++)
                put(s, values, key % SP_TILE * s->value_dim + d,
                    s->v[((size_t)key * s->kv_heads + h) * s->value_dim + d]);
        }
    }
}

/* --- edges --- */

static inline void draw_tiles(scene *s, test_random *random, pattern kind)
{
    for (uint32_t list = 0; list < s->lists; list++) {
        uint64_t columns = 0;
        for (uint32_t row = 0; row < s->rows; row++) {
            for (uint32_t key = 0; key < s->keys; key++) {
                if (key % SP_TILE == 0) columns = 0x8000000000000101u << (key / SP_TILE + list) % 7;
                bool edge = false;
                uint32_t distance = row > key ? row - key : key - row;
                if (kind == DENSE) edge = true;
                if (kind == WINDOW) edge = distance < 70 + 9 * list;
                if (kind == COLUMNS) edge = (columns >> key % SP_TILE & 1) && key / SP_TILE < row / SP_TILE;
                if (kind == SCATTER) /* some rows and some tiles stay empty */
                    edge = row % 5 && (key / SP_TILE + list) % 3 && test_random_below(random, 7) == 0;
                if (kind >= STRIDED) edge = distance < 10 + 3 * list;
                s->tiles[edge_at(s, list, row, key)] = edge && (!s->causal || key <= row);
            }
        }
    }
}

/* Every row a list of its own: some have no key, some more than a tile. */
static inline void draw_lists(scene *s, test_random *random)
{
    for (uint32_t list = 0; list < s->lists; list++) {
        for (uint32_t row = 0; row < s->rows; row++) {
            uint64_t one_of = row % 7 == 3 ? s->keys : 1 + test_random_below(random, 9);
            for (uint32_t key = 0; key < row; key++)
                s->grouped[group_at(s, list, 0, row) * s->keys + key] =
                    !s->tiles[edge_at(s, list, row, key)] && test_random_below(random, one_of) == 0;
        }
    }
}

/* Groups by residue of the position; round 1 (and masks) repeats them with another stride. */
static inline void draw_groups(scene *s, test_random *random, pattern kind)
{
    for (uint32_t list = 0; list < s->lists; list++) {
        for (uint32_t round = 0; round < s->rounds; round++) {
            uint32_t stride = s->groups - round;
            for (uint32_t row = 0; row < s->rows; row++) {
                bool in = row % stride < s->groups && test_random_below(random, 9);
                s->member[group_at(s, list, round, row)] = (uint8_t)(in ? row % stride : NO_GROUP);
            }
            for (uint32_t group = 0; group < s->groups; group++)
                for (uint32_t key = 0; key < s->keys; key++)
                    s->listed[(((size_t)list * s->rounds + round) * s->groups + group) * s->keys + key] =
                        key % stride == group && test_random_below(random, 11);
            for (uint32_t row = 0; row < s->rows; row++) {
                uint8_t group = s->member[group_at(s, list, round, row)];
                if (group == NO_GROUP) continue;
                uint32_t reach = 10 + 3 * list;
                for (uint32_t key = 0; key < s->keys; key++) {
                    bool held = s->tiles[edge_at(s, list, row, key)];
                    for (uint32_t r = 0; r < round; r++)
                        held |= s->grouped[group_at(s, list, r, row) * s->keys + key];
                    bool near = (row > key ? row - key : key - row) < reach;
                    bool edge =
                        s->listed[(((size_t)list * s->rounds + round) * s->groups + group) * s->keys + key];
                    edge = edge && !near && !held && (kind == TWO_SIDED || key < row);
                    s->grouped[group_at(s, list, round, row) * s->keys + key] = edge;
                }
            }
        }
    }
}

static inline void scene_open(scene *s, test_random *random, pattern kind, float deviation)
{
    assert_true(s->keys <= MAX_KEYS);
    s->causal = kind != TWO_SIDED && kind != SCATTER;
    s->rounds = kind == ROUNDS ? 2 : kind >= STRIDED ? 1 : 0;
    if (!s->groups || kind < STRIDED) s->groups = kind >= STRIDED ? 5 : 0;
    draw_numbers(s, random, deviation);
    s->tiles = sp_alloc_zero((size_t)s->lists * s->rows, s->keys);
    s->member = sp_alloc_zero((size_t)s->lists * (s->rounds + 1), s->rows);
    s->listed = sp_alloc_zero((size_t)s->lists * (s->rounds + 1) * (s->groups + 1), s->keys);
    s->grouped = sp_alloc_zero((size_t)s->lists * (s->rounds + 1) * s->rows, s->keys);
    draw_tiles(s, random, kind);
    s->row_lists = kind == LISTS;
    if (s->row_lists)
        draw_lists(s, random);
    else
        draw_groups(s, random, kind);
}

static inline void scene_close(scene *s)
{
    void *all[] = {s->q, s->k, s->v, s->memory, s->tiles, s->member, s->listed, s->grouped};
    for (size_t i = 0; i < COUNT_OF(all); i++) sp_free(all[i]);
    *s = (scene){0};
}

static inline bool scene_edge(const scene *s, uint32_t list, uint32_t row, uint32_t key)
{
    bool edge = s->tiles[edge_at(s, list, row, key)];
    for (uint32_t r = 0; r < s->rounds; r++) edge |= s->grouped[group_at(s, list, r, row) * s->keys + key];
    return edge;
}

/* --- the plan of rows position .. position + rows - 1 over the first n_keys keys --- */

static inline void add_tile(const scene *s, sp_plan *plan, uint32_t list, uint32_t query_tile,
                            uint32_t key_tile)
{
    const sp_plan_shape *shape = &plan->shape;
    uint64_t words[SP_TILE] = {0}, first = 0, any = 0;
    bool full = true, causal = key_tile == query_tile, columns = true, seen = false;
    for (uint32_t r = 0; r < SP_TILE; r++) {
        uint32_t row = query_tile * SP_TILE + r;
        if (row < shape->position || row >= shape->position + shape->rows) continue;
        for (uint32_t j = 0; j < SP_TILE; j++) {
            uint32_t key = key_tile * SP_TILE + j;
            bool edge = key < shape->n_keys && s->tiles[edge_at(s, list, row, key)];
            words[r] |= (uint64_t)edge << j;
            if (key >= shape->n_keys) continue;
            full &= edge;
            causal &= edge == (key <= row);
        }
        if (!seen) first = words[r];
        seen = true;
        columns &= words[r] == first;
        any |= words[r];
    }
    if (!any) return;
    sp_error error;
    sp_tile_kind kind = full      ? SP_TILE_FULL
                        : causal  ? SP_TILE_CAUSAL
                        : columns ? SP_TILE_COLUMNS
                                  : SP_TILE_MASKED;
    const uint64_t *data = kind == SP_TILE_COLUMNS ? &first : kind == SP_TILE_MASKED ? words : NULL;
    assert_ok(sp_plan_add_tile(plan, list, query_tile, key_tile, kind, data, &error), error);
}

static inline void add_group(const scene *s, sp_plan *plan, uint32_t list, uint32_t round, uint32_t group)
{
    const sp_plan_shape *shape = &plan->shape;
    static uint32_t queries[MAX_KEYS], keys[MAX_KEYS], ranges[4 * MAX_KEYS];
    uint32_t n_queries = 0, n_keys = 0, n_ranges = s->causal ? 1 : 2;
    for (uint32_t key = 0; key < shape->n_keys; key++)
        if (s->listed[(((size_t)list * s->rounds + round) * s->groups + group) * s->keys + key])
            keys[n_keys++] = key;
    uint32_t tiles = (n_keys + SP_TILE - 1) / SP_TILE;
    uint64_t *masks = calloc((size_t)s->rows * (tiles + 1), sizeof *masks);
    for (uint32_t row = shape->position; row < shape->position + shape->rows; row++) {
        if (s->member[group_at(s, list, round, row)] != group) continue;
        const uint8_t *edges = &s->grouped[group_at(s, list, round, row) * s->keys];
        uint32_t *range = ranges + 2 * n_ranges * n_queries, reach = 10 + 3 * list;
        range[0] = range[1] = range[2] = range[3] = 0;
        for (uint32_t i = 0; i < n_keys; i++) {
            range[1] += keys[i] + reach <= row; /* before the window */
            range[2] += keys[i] < row + reach;  /* behind it */
            if (edges[keys[i]]) masks[(size_t)n_queries * tiles + i / SP_TILE] |= (uint64_t)1 << i % SP_TILE;
        }
        range[3] = n_keys;
        queries[n_queries++] = row;
    }
    sp_error error;
    plan_group data = {.list = list,
                       .round = round,
                       .n_queries = n_queries,
                       .n_keys = n_keys,
                       .n_ranges = n_ranges,
                       .queries = queries,
                       .keys = keys,
                       .ranges = ranges,
                       .masks = round ? masks : NULL};
    if (n_queries && n_keys) assert_ok(plan_add_group(plan, &data, &error), error);
    free(masks);
}

/* Groups of one query each. */
static inline void add_lists(const scene *s, sp_plan *plan)
{
    static uint32_t keys[MAX_KEYS];
    sp_error error;
    for (uint32_t list = 0; list < s->lists; list++) {
        for (uint32_t row = plan->shape.position; row < plan->shape.position + plan->shape.rows; row++) {
            uint32_t n = 0;
            for (uint32_t key = 0; key < row; key++)
                if (s->grouped[group_at(s, list, 0, row) * s->keys + key]) keys[n++] = key;
            const uint32_t range[] = {0, n};
            plan_group data = {.list = list,
                               .n_queries = 1,
                               .n_keys = n,
                               .n_ranges = 1,
                               .queries = &row,
                               .keys = keys,
                               .ranges = range};
            if (n) assert_ok(plan_add_group(plan, &data, &error), error);
        }
    }
}

static inline void scene_plan(const scene *s, sp_plan *plan, uint32_t position, uint32_t rows,
                              uint32_t n_keys)
{
    sp_error error;
    sp_plan_shape shape = {s->heads, s->lists, position, rows, n_keys, s->causal};
    sp_plan_init(plan, (size_t)256 << 20);
    assert_ok(sp_plan_begin(plan, &shape, &error), error);
    for (uint32_t h = 0; h < s->heads; h++) plan->head_list[h] = list_of(s, h);
    for (uint32_t list = 0; list < s->lists; list++)
        for (uint32_t t = position / SP_TILE; t <= (position + rows - 1) / SP_TILE; t++)
            for (uint32_t key_tile = 0; key_tile * SP_TILE < n_keys; key_tile++)
                add_tile(s, plan, list, t, key_tile);
    if (s->row_lists) add_lists(s, plan);
    for (uint32_t round = 0; round < s->rounds && !s->row_lists; round++)
        for (uint32_t list = 0; list < s->lists; list++)
            for (uint32_t group = 0; group < s->groups; group++) add_group(s, plan, list, round, group);
    assert_ok(sp_plan_end(plan, &error), error);
    assert_ok(sp_plan_validate(plan, &error), error);
}

/* --- running --- */

static inline sp_attend_args scene_args(const scene *s, const sp_plan *plan, float alpha, float *out)
{
    return (sp_attend_args){
        .plan = plan,
        .normalizer = {alpha},
        .scale = 1 / sqrtf((float)s->head_dim),
        .n_kv_heads = s->kv_heads,
        .q = s->q + (size_t)plan->shape.position * s->heads * s->head_dim,
        .kv = {.dtype = s->dtype,
               .n_keys = plan->shape.n_keys,
               .head_dim = s->head_dim,
               .value_dim = s->value_dim,
               .head_bytes = head_bytes(s),
               .pages = s->pages},
        .out = out,
    };
}

/* out (rows, heads, value_dim) starts as NaN: attend must overwrite it. */
static inline void scene_attend(const scene *s, sp_device *device, float alpha, uint32_t position,
                                uint32_t rows, uint32_t n_keys, float *out, sp_attend_stats *stats)
{
    sp_plan plan;
    sp_error error;
    scene_plan(s, &plan, position, rows, n_keys);
    memset(out, 0xff, (size_t)rows * s->heads * s->value_dim * sizeof *out);
    sp_attend_args args = scene_args(s, &plan, alpha, out);
    assert_ok(device->ops->attend(device, &args, stats, &error), error);
    sp_plan_fini(&plan);
}

static inline sp_device *open_level(sp_cpu_isa level, size_t threads, size_t scratch)
{
    sp_device *device;
    sp_error error;
    sp_device_options options = {.n_threads = threads, .attend_scratch = scratch};
    assert_ok(sp_cpu_open_level(&options, level, &device, &error), error);
    return device;
}

#endif
