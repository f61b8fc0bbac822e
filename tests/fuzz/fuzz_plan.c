/* Plans from bytes: arbitrary calls of the builder, then arbitrary damage to its arrays and counts.
 *
 * Oracle: nothing crashes or reads outside; what sp_plan_validate accepts has, in every head and row, sorted
 * distinct keys in range and not in the future, as many as sp_plan_count says. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/plan.h"
#include "tests/support/plan_group.h"

enum { MAX_KEYS = 700 };

typedef struct reader {
    const uint8_t *data;
    size_t size, at;
} reader;

static uint32_t take(reader *in, uint32_t below)
{
    uint32_t value = in->at < in->size ? in->data[in->at++] : 0;
    if (below > 256) value = value << 8 | (in->at < in->size ? in->data[in->at++] : 0);
    return below ? value % below : 0;
}

static uint64_t take_word(reader *in)
{
    static const uint64_t usual[] = {0, 1, UINT64_MAX, (uint64_t)1 << 63};
    uint32_t kind = take(in, 8);
    if (kind < 4) return usual[kind];
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) word = word << 8 | take(in, 256);
    return word;
}

static uint32_t row_intervals(const void *context, uint32_t query, sp_interval *out)
{
    const uint8_t *seeds = context;
    uint32_t at = 0, n = seeds[0] % (SP_MAX_INTERVALS + 1);
    for (uint32_t i = 0; i < n; i++) {
        at += (seeds[1 + i] * (query % 7 + 1)) % 97;
        out[i] = (sp_interval){at, at + seeds[(i + query) % 8] % 150};
        at = out[i].end;
    }
    return n;
}

static uint64_t columns(const void *context, uint32_t *key_tile)
{
    const uint8_t *seeds = context;
    while (*key_tile < 11 && !(seeds[9] >> (*key_tile % 8) & 1)) ++*key_tile;
    return *key_tile < 11 ? (uint64_t)seeds[8] * UINT64_C(0x9E3779B97F4A7C15) : 0;
}

/* Rising with mostly small steps; now and then not. */
static void take_numbers(reader *in, uint32_t *out, uint32_t n, uint32_t from)
{
    for (uint32_t i = 0; i < n; i++) {
        from += take(in, 9);
        out[i] = from;
    }
}

static sp_status add_group(reader *in, sp_plan *plan)
{
    uint32_t queries[16], keys[200], ranges[64];
    uint64_t masks[64];
    plan_group group = {.list = take(in, plan->shape.n_lists + 1), .round = take(in, 3)};
    group.n_queries = take(in, 17), group.n_keys = take(in, 200), group.n_ranges = take(in, 4);
    take_numbers(in, queries, group.n_queries, plan->shape.position);
    take_numbers(in, keys, group.n_keys, take(in, 256));
    if (group.n_ranges > 2) group.n_ranges = 1;
    for (uint32_t i = 0; i < group.n_queries * (group.n_ranges ? group.n_ranges : 1); i++) {
        ranges[2 * i] = take(in, group.n_keys + 1);
        ranges[2 * i + 1] = ranges[2 * i] + take(in, group.n_keys + 2);
    }
    for (uint32_t i = 0; i < 64; i++) masks[i] = i < 4 ? take_word(in) : masks[i % 4];
    group.queries = queries, group.keys = keys, group.ranges = ranges;
    group.masks = group.round ? masks : NULL;
    return plan_add_group(plan, &group, NULL);
}

static void build(reader *in, sp_plan *plan)
{
    for (int steps = 0; steps < 40 && in->at < in->size; steps++) {
        uint32_t list = take(in, plan->shape.n_lists + 1);
        uint64_t words[64];
        switch (take(in, 4)) {
        case 0:
        case 1: {
            sp_tile_kind kind = (sp_tile_kind)take(in, 4);
            uint32_t query_tile = plan->first_tile + take(in, plan->n_query_tiles + 1),
                     key_tile = take(in, 12);
            for (int i = 0; i < 64; i++) words[i] = i < 3 ? take_word(in) : words[i % 3];
            bool with_words = kind == SP_TILE_COLUMNS || kind == SP_TILE_MASKED;
            (void)!sp_plan_add_tile(plan, list, query_tile, key_tile, kind, with_words ? words : NULL, NULL);
            break;
        }
        case 2:
            (void)!add_group(in, plan);
            break;
        default: {
            uint8_t seeds[10];
            for (size_t i = 0; i < sizeof seeds; i++) seeds[i] = (uint8_t)take(in, 256);
            (void)!sp_plan_add_rows(plan, list, row_intervals, seeds[8] % 2 ? columns : NULL, seeds, NULL);
            break;
        }
        }
    }
}

/* The oracle on a plan that validation accepted. */
static void check(const sp_plan *plan)
{
    static uint32_t keys[MAX_KEYS + 1];
    const sp_plan_shape *shape = &plan->shape;
    if (shape->n_keys > MAX_KEYS) return;
    uint64_t edges = 0, empty = 0;
    for (uint32_t h = 0; h < shape->n_heads; h++) {
        uint64_t of_head = 0;
        for (uint32_t r = 0; r < shape->rows; r++) {
            uint32_t query = shape->position + r;
            keys[shape->n_keys] = 0xabcdef;
            size_t n = sp_plan_row(plan, h, query, keys);
            if (n > shape->n_keys || keys[shape->n_keys] != 0xabcdef) abort();
            for (size_t i = 0; i < n; i++) {
                if (keys[i] >= shape->n_keys || (i && keys[i] <= keys[i - 1])) abort();
                if (shape->causal && keys[i] > query) abort();
            }
            of_head += n;
            empty += n == 0;
        }
        if (of_head != sp_plan_count_head(plan, h)) abort();
        edges += of_head;
    }
    sp_plan_counts counts;
    sp_plan_count(plan, &counts);
    if (counts.edges != edges || counts.rows_empty != empty || counts.edges > counts.pairs) abort();
    sp_buffer text;
    sp_buffer_init(&text, 1 << 16);
    sp_plan_print(plan, &text);
    sp_buffer_fini(&text);
}

static void put(void *array, size_t bytes, reader *in)
{
    if (bytes < 4) return;
    uint32_t value = take(in, 5) ? take(in, 600) : UINT32_MAX - take(in, 3);
    memcpy((uint8_t *)array + take(in, 65536) % (bytes / 4) * 4, &value, sizeof value);
}

/* Damages elements in place and counts; pointers and capacities stay true. */
static void corrupt(reader *in, sp_plan *plan)
{
    size_t *const sizes[] = {&plan->n_tiles, &plan->n_groups, &plan->n_words, &plan->n_numbers};
    uint32_t *const fields[] = {&plan->shape.n_heads, &plan->shape.n_lists, &plan->shape.position,
                                &plan->shape.rows,    &plan->shape.n_keys,  &plan->first_tile,
                                &plan->n_query_tiles};
    for (int steps = 0; steps < 8 && in->at < in->size; steps++) {
        switch (take(in, 8)) {
        case 0:
            put(plan->tiles, plan->n_tiles * sizeof *plan->tiles, in);
            break;
        case 1:
            put(plan->groups, plan->n_groups * sizeof *plan->groups, in);
            break;
        case 2:
            put(plan->numbers, plan->n_numbers * sizeof *plan->numbers, in);
            break;
        case 3:
            put(plan->words, plan->n_words * sizeof *plan->words, in);
            break;
        case 4:
            put(plan->tile_begin, ((size_t)plan->shape.n_lists * plan->n_query_tiles + 1) * 4, in);
            return;
        case 5:
            put(plan->head_list, plan->shape.n_heads * sizeof *plan->head_list, in);
            return;
        case 6:
            *sizes[take(in, 4)] = take(in, 300);
            return;
        default:
            *fields[take(in, 7)] = take(in, 3) ? take(in, 300) : UINT32_MAX - take(in, 2);
            return;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    reader in = {data, size, 0};
    sp_plan plan;
    sp_plan_init(&plan, (size_t)1 << 20);
    sp_plan_shape shape = {.n_heads = take(&in, 4), .n_lists = take(&in, 4)};
    shape.position = take(&in, 300), shape.rows = take(&in, 200), shape.n_keys = take(&in, MAX_KEYS);
    shape.causal = take(&in, 2);
    uint32_t damage = take(&in, 3);
    if (sp_plan_begin(&plan, &shape, NULL) == SP_OK) {
        for (uint32_t h = 0; h < shape.n_heads; h++) plan.head_list[h] = take(&in, shape.n_lists);
        build(&in, &plan);
        sp_status status = sp_plan_end(&plan, NULL);
        if (status == SP_OK && damage) {
            if (in.size - in.at > 40) in.at = in.size - 40;
            corrupt(&in, &plan);
        }
        if (sp_plan_validate(&plan, NULL) == SP_OK) check(&plan);
    }
    sp_plan_fini(&plan);
    return 0;
}
