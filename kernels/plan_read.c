/* Reading a valid sp_plan: counting, one row as a sorted list, single words, a listing for people.
 *
 * An edge belongs to exactly one piece, so counts are sums over pieces: a FULL tile is rows times keys, a
 * group the length of its ranges; only masks need a population count. A row is the ordered merge of its
 * tiles' keys and of the groups it is in.
 *
 * Tests: tests/unit/kernels/test_plan.c, tests/attention/test_conformance.c */
#include "kernels/plan.h"

static uint64_t low_bits(uint32_t n)
{
    return n >= SP_TILE ? UINT64_MAX : ((uint64_t)1 << n) - 1;
}

static uint32_t popcount(uint64_t word)
{
    return (uint32_t)__builtin_popcountll(word);
}

/* Rows [*begin, *end) of a query tile that lie in the chunk. */
static void tile_rows(const sp_plan *plan, uint32_t query_tile, uint32_t *begin, uint32_t *end)
{
    uint64_t origin = (uint64_t)query_tile * SP_TILE, first = plan->shape.position;
    uint64_t last = first + plan->shape.rows;
    *begin = origin < first ? (uint32_t)(first - origin) : 0;
    *end = origin + SP_TILE > last ? (uint32_t)(last - origin) : SP_TILE;
}

uint64_t sp_plan_tile_word(const sp_plan *plan, const sp_tile *tile, uint32_t query)
{
    uint64_t exist = low_bits(plan->shape.n_keys - tile->key_tile * SP_TILE);
    switch ((sp_tile_kind)tile->kind) {
    case SP_TILE_FULL:
        return exist;
    case SP_TILE_CAUSAL:
        return exist & low_bits(query % SP_TILE + 1);
    case SP_TILE_COLUMNS:
        return exist & plan->words[tile->word];
    case SP_TILE_MASKED:
        return exist & plan->words[tile->word + query % SP_TILE];
    }
    return 0;
}

uint64_t sp_plan_group_word(const sp_plan *plan, const sp_group *group, uint32_t index,
                            uint32_t gathered_tile)
{
    const uint32_t *ranges = plan->numbers + group->ranges + (size_t)index * group->n_ranges * 2;
    uint64_t word = 0, begin = (uint64_t)gathered_tile * SP_TILE, end = begin + SP_TILE;
    for (uint32_t i = 0; i < group->n_ranges; i++) {
        uint64_t from = ranges[2 * i] > begin ? ranges[2 * i] : begin;
        uint64_t to = ranges[2 * i + 1] < end ? ranges[2 * i + 1] : end;
        if (from < to) word |= low_bits((uint32_t)(to - begin)) & ~low_bits((uint32_t)(from - begin));
    }
    if (group->masks != SP_NO_MASKS) {
        size_t n_tiles = ((size_t)group->n_keys + SP_TILE - 1) / SP_TILE;
        word &= plan->words[group->masks + index * n_tiles + gathered_tile];
    }
    return word;
}

static uint64_t group_edges(const sp_plan *plan, const sp_group *group, uint32_t index)
{
    const uint32_t *ranges = plan->numbers + group->ranges + (size_t)index * group->n_ranges * 2;
    uint64_t edges = 0;
    for (uint32_t i = 0; i < group->n_ranges; i++) {
        uint32_t begin = ranges[2 * i], end = ranges[2 * i + 1];
        if (group->masks == SP_NO_MASKS) {
            edges += end - begin;
            continue;
        }
        for (uint32_t tile = begin / SP_TILE; begin < end && tile <= (end - 1) / SP_TILE; tile++) {
            uint64_t word = sp_plan_group_word(plan, group, index, tile), origin = (uint64_t)tile * SP_TILE;
            if (origin < begin) word &= ~low_bits((uint32_t)(begin - origin));
            word &= low_bits((uint32_t)(end - origin < SP_TILE ? end - origin : SP_TILE));
            edges += popcount(word);
        }
    }
    return edges;
}

static uint64_t tile_edges(const sp_plan *plan, const sp_tile *tile, uint32_t query_tile)
{
    uint32_t begin, end;
    tile_rows(plan, query_tile, &begin, &end);
    if (tile->kind == SP_TILE_FULL || tile->kind == SP_TILE_COLUMNS) {
        return (uint64_t)(end - begin) * popcount(sp_plan_tile_word(plan, tile, query_tile * SP_TILE));
    }
    uint64_t edges = 0;
    for (uint32_t r = begin; r < end; r++)
        edges += popcount(sp_plan_tile_word(plan, tile, query_tile * SP_TILE + r));
    return edges;
}

/* Bits of the rows of one query tile that have an edge. */
static uint64_t rows_with_edges(const sp_plan *plan, uint32_t list, uint32_t t)
{
    uint32_t query_tile = plan->first_tile + t, row_begin, row_end;
    tile_rows(plan, query_tile, &row_begin, &row_end);
    uint64_t all = low_bits(row_end) & ~low_bits(row_begin), rows = 0;
    const uint32_t *begin = plan->tile_begin + (size_t)list * plan->n_query_tiles + t;
    for (uint32_t i = begin[0]; i < begin[1] && rows != all; i++) {
        for (uint32_t r = row_begin; r < row_end; r++) {
            bool has = sp_plan_tile_word(plan, &plan->tiles[i], query_tile * SP_TILE + r) != 0;
            rows |= (uint64_t)has << r;
        }
    }
    uint64_t origin = (uint64_t)query_tile * SP_TILE;
    for (size_t g = 0; g < plan->n_groups && rows != all; g++) {
        const sp_group *group = &plan->groups[g];
        if (group->list != list) continue;
        const uint32_t *queries = plan->numbers + group->queries;
        for (uint32_t q = sp_rank_of(queries, group->n_queries, origin);
             q < group->n_queries && queries[q] < origin + SP_TILE; q++) {
            if (group_edges(plan, group, q)) rows |= (uint64_t)1 << (queries[q] - origin);
        }
    }
    return rows;
}

static uint64_t list_edges(const sp_plan *plan, uint32_t list)
{
    uint64_t edges = 0;
    const uint32_t *begin = plan->tile_begin + (size_t)list * plan->n_query_tiles;
    for (uint32_t t = 0; t < plan->n_query_tiles; t++) {
        for (uint32_t i = begin[t]; i < begin[t + 1]; i++) {
            edges += tile_edges(plan, &plan->tiles[i], plan->first_tile + t);
        }
    }
    for (size_t g = 0; g < plan->n_groups; g++) {
        if (plan->groups[g].list != list) continue;
        for (uint32_t q = 0; q < plan->groups[g].n_queries; q++)
            edges += group_edges(plan, &plan->groups[g], q);
    }
    return edges;
}

static uint64_t list_rows_empty(const sp_plan *plan, uint32_t list)
{
    uint64_t empty = plan->shape.rows;
    for (uint32_t t = 0; t < plan->n_query_tiles; t++) empty -= popcount(rows_with_edges(plan, list, t));
    return empty;
}

static uint64_t pairs_of_head(const sp_plan_shape *shape)
{
    uint64_t rows = shape->rows, keys = shape->n_keys;
    if (!shape->causal) return rows * keys;
    /* rows at positions below n_keys see position + 1 keys, the others all of them */
    uint64_t rising = shape->position >= keys ? 0 : keys - shape->position;
    if (rising > rows) rising = rows;
    return rising * (shape->position + 1) + (rising ? rising * (rising - 1) / 2 : 0) + (rows - rising) * keys;
}

void sp_plan_count(const sp_plan *plan, sp_plan_counts *out)
{
    *out = (sp_plan_counts){.pairs = pairs_of_head(&plan->shape) * plan->shape.n_heads,
                            .tiles = plan->n_tiles,
                            .groups = plan->n_groups};
    for (uint32_t list = 0; list < plan->shape.n_lists; list++) {
        uint64_t heads = 0;
        for (uint32_t h = 0; h < plan->shape.n_heads; h++) heads += plan->head_list[h] == list;
        if (heads == 0) continue;
        out->edges += heads * list_edges(plan, list);
        out->rows_empty += heads * list_rows_empty(plan, list);
    }
}

uint64_t sp_plan_count_head(const sp_plan *plan, uint32_t head)
{
    return list_edges(plan, plan->head_list[head]);
}

/* Merges the edges of one query of a group into n ascending keys, from the back; returns the new number. */
static size_t merge_group(const sp_plan *plan, const sp_group *group, uint32_t index, uint32_t *keys,
                          size_t n)
{
    size_t from = n, to = n + group_edges(plan, group, index), total = to;
    const uint32_t *listed = plan->numbers + group->keys;
    for (uint32_t tile = (group->n_keys + SP_TILE - 1) / SP_TILE; tile-- > 0 && to > from;) {
        uint64_t word = sp_plan_group_word(plan, group, index, tile);
        while (word) {
            uint32_t bit = 63 - (uint32_t)__builtin_clzll(word);
            uint32_t key = listed[tile * SP_TILE + bit];
            word &= ~((uint64_t)1 << bit);
            while (from > 0 && keys[from - 1] > key) keys[--to] = keys[--from];
            keys[--to] = key;
        }
    }
    return total;
}

size_t sp_plan_row(const sp_plan *plan, uint32_t head, uint32_t query, uint32_t *keys)
{
    uint32_t list = plan->head_list[head];
    const uint32_t *begin =
        plan->tile_begin + (size_t)list * plan->n_query_tiles + (query / SP_TILE - plan->first_tile);
    size_t n = 0;
    for (uint32_t i = begin[0]; i < begin[1]; i++) {
        uint32_t first_key = plan->tiles[i].key_tile * SP_TILE;
        for (uint64_t word = sp_plan_tile_word(plan, &plan->tiles[i], query); word; word &= word - 1) {
            keys[n++] = first_key + (uint32_t)__builtin_ctzll(word);
        }
    }
    for (size_t g = 0; g < plan->n_groups; g++) {
        const sp_group *group = &plan->groups[g];
        if (group->list != list) continue;
        const uint32_t *queries = plan->numbers + group->queries;
        uint32_t index = sp_rank_of(queries, group->n_queries, query);
        if (index == group->n_queries || queries[index] != query) continue;
        n = merge_group(plan, group, index, keys, n);
    }
    return n;
}

static void print_group(const sp_plan *plan, const sp_group *group, sp_buffer *out)
{
    sp_buffer_format(out, "group list %u round %u: %u keys", group->list, group->round, group->n_keys);
    for (uint32_t k = 0; k < group->n_keys; k++) sp_buffer_format(out, " %u", plan->numbers[group->keys + k]);
    sp_buffer_text(out, "\n");
    for (uint32_t q = 0; q < group->n_queries; q++) {
        sp_buffer_format(out, "  query %u:", plan->numbers[group->queries + q]);
        const uint32_t *ranges = plan->numbers + group->ranges + (size_t)q * group->n_ranges * 2;
        for (uint32_t i = 0; i < group->n_ranges; i++) {
            sp_buffer_format(out, " [%u, %u)", ranges[2 * i], ranges[2 * i + 1]);
        }
        sp_buffer_text(out, group->masks == SP_NO_MASKS ? "\n" : " masked\n");
    }
}

void sp_plan_print(const sp_plan *plan, sp_buffer *out)
{
    static const char *const kinds[] = {"full", "causal", "columns", "masked"};
    const sp_plan_shape *shape = &plan->shape;
    sp_buffer_format(out, "plan: %u heads, %u lists, rows %u from %u, %u keys%s\n", shape->n_heads,
                     shape->n_lists, shape->rows, shape->position, shape->n_keys,
                     shape->causal ? ", causal" : "");
    for (uint32_t list = 0; list < shape->n_lists; list++) {
        const uint32_t *begin = plan->tile_begin + (size_t)list * plan->n_query_tiles;
        for (uint32_t t = 0; t < plan->n_query_tiles; t++) {
            if (begin[t] == begin[t + 1]) continue;
            sp_buffer_format(out, "list %u, query tile %u:", list, plan->first_tile + t);
            for (uint32_t i = begin[t]; i < begin[t + 1]; i++) {
                sp_buffer_format(out, " %u %s", plan->tiles[i].key_tile, kinds[plan->tiles[i].kind]);
            }
            sp_buffer_text(out, "\n");
        }
    }
    for (size_t g = 0; g < plan->n_groups; g++) print_group(plan, &plan->groups[g], out);
}
