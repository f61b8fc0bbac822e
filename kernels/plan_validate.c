/* The invariants of an sp_plan, checked on any contents: nothing is read before its bounds are known.
 *
 * In order: counts within capacities; the shape; the tile table rises from 0 to n_tiles; tiles name existing
 * keys, ascend and own their words; groups come by round and list, their numbers and masks lie inside the
 * arrays, ascend and are in range. Then, row by row, every piece's edges are put into a bitmap of keys: an
 * edge that meets a set bit or lies in the future breaks the plan. Memory: one bit a key and one entry a
 * (group, query) of one list.
 *
 * Tests: tests/unit/kernels/test_plan.c, tests/fuzz/fuzz_plan.c */
#include "kernels/plan.h"

typedef struct sp_entry {
    uint32_t group, index;
} sp_entry;

/* Scratch of the row pass. */
typedef struct sp_check {
    const sp_plan *plan;
    uint64_t *seen;    /* one bit a key */
    size_t *starts;    /* (rows + 1): entries of each row */
    sp_entry *entries; /* by row, then group */
} sp_check;

static sp_status broken(sp_error *error, const char *what, uint64_t a, uint64_t b)
{
    return sp_fail(error, SP_INTERNAL, "broken plan: %s (%llu, %llu)", what, (unsigned long long)a,
                   (unsigned long long)b);
}

static sp_status check_shape(const sp_plan *plan, sp_error *error)
{
    const sp_plan_shape *shape = &plan->shape;
    if (plan->n_tiles > plan->cap_tiles || plan->n_groups > plan->cap_groups ||
        plan->n_words > plan->cap_words || plan->n_numbers > plan->cap_numbers ||
        shape->n_heads > plan->cap_heads) {
        return broken(error, "more elements than memory", plan->n_tiles, plan->n_groups);
    }
    uint64_t end = (uint64_t)shape->position + shape->rows, limit = (uint64_t)1 << 31;
    if (shape->n_heads == 0 || shape->n_lists == 0 || shape->n_lists > shape->n_heads || end > limit ||
        shape->n_keys > limit) {
        return broken(error, "impossible shape", shape->n_heads, shape->n_lists);
    }
    uint64_t n_query_tiles = shape->rows ? (end - 1) / SP_TILE - shape->position / SP_TILE + 1 : 0;
    if (plan->first_tile != shape->position / SP_TILE || plan->n_query_tiles != n_query_tiles) {
        return broken(error, "query tiles do not match the rows", plan->first_tile, plan->n_query_tiles);
    }
    if (n_query_tiles * shape->n_lists + 1 > plan->cap_begin) {
        return broken(error, "tile table too short", plan->n_query_tiles, plan->cap_begin);
    }
    for (uint32_t h = 0; h < shape->n_heads; h++) {
        if (plan->head_list[h] >= shape->n_lists)
            return broken(error, "head without a list", h, plan->head_list[h]);
    }
    return SP_OK;
}

static sp_status check_tile(const sp_plan *plan, const sp_tile *tile, uint32_t query_tile, sp_error *error)
{
    uint64_t words = tile->kind == SP_TILE_COLUMNS ? 1 : tile->kind == SP_TILE_MASKED ? SP_TILE : 0;
    if (tile->kind > SP_TILE_MASKED) return broken(error, "unknown tile kind", tile->kind, tile->key_tile);
    if ((uint64_t)tile->key_tile * SP_TILE >= plan->shape.n_keys) {
        return broken(error, "tile beyond the keys", tile->key_tile, plan->shape.n_keys);
    }
    if (words && tile->word + words > plan->n_words)
        return broken(error, "tile words outside", tile->word, words);
    if (tile->kind == SP_TILE_CAUSAL && tile->key_tile != query_tile) {
        return broken(error, "causal tile off the diagonal", query_tile, tile->key_tile);
    }
    return SP_OK;
}

static sp_status check_tiles(const sp_plan *plan, sp_error *error)
{
    size_t n = (size_t)plan->shape.n_lists * plan->n_query_tiles;
    if (plan->tile_begin[0] != 0 || plan->tile_begin[n] != plan->n_tiles) {
        return broken(error, "tile table does not span the tiles", plan->tile_begin[n], plan->n_tiles);
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t begin = plan->tile_begin[i], end = plan->tile_begin[i + 1];
        if (begin > end || end > plan->n_tiles) return broken(error, "tile table falls", begin, end);
        for (uint32_t t = begin; t < end; t++) {
            if (t > begin && plan->tiles[t].key_tile <= plan->tiles[t - 1].key_tile) {
                return broken(error, "key tiles do not ascend", i, plan->tiles[t].key_tile);
            }
            uint32_t query_tile = plan->first_tile + (uint32_t)(i % plan->n_query_tiles);
            sp_status status = check_tile(plan, &plan->tiles[t], query_tile, error);
            if (status) return status;
        }
    }
    return SP_OK;
}

/* Ascending numbers in [begin, end). */
static bool ascending(const uint32_t *numbers, uint32_t n, uint64_t begin, uint64_t end)
{
    for (uint32_t i = 0; i < n; i++) {
        if (numbers[i] < begin || numbers[i] >= end || (i && numbers[i] <= numbers[i - 1])) return false;
    }
    return true;
}

static bool ranges_fit(const uint32_t *ranges, const sp_group *group)
{
    for (size_t q = 0; q < group->n_queries; q++) {
        uint32_t last = 0;
        for (uint32_t i = 0; i < group->n_ranges; i++) {
            uint32_t begin = ranges[2 * (q * group->n_ranges + i)],
                     end = ranges[2 * (q * group->n_ranges + i) + 1];
            if (begin < last || end < begin || end > group->n_keys) return false;
            last = end;
        }
    }
    return true;
}

static sp_status check_group(const sp_plan *plan, size_t g, sp_error *error)
{
    const sp_group *group = &plan->groups[g];
    const sp_plan_shape *shape = &plan->shape;
    if (group->list >= shape->n_lists || group->n_ranges < 1 || group->n_ranges > 2) {
        return broken(error, "group of no list or with wrong ranges", g, group->n_ranges);
    }
    if (g && (group->round < group[-1].round ||
              (group->round == group[-1].round && group->list < group[-1].list))) {
        return broken(error, "groups out of order", g, group->round);
    }
    uint64_t n_ranges = (uint64_t)group->n_queries * group->n_ranges * 2;
    if ((uint64_t)group->queries + group->n_queries > plan->n_numbers ||
        (uint64_t)group->keys + group->n_keys > plan->n_numbers ||
        group->ranges + n_ranges > plan->n_numbers) {
        return broken(error, "group numbers outside", g, plan->n_numbers);
    }
    const sp_group *holder = group->holder < g ? &plan->groups[group->holder] : group;
    if (group->holder > g || holder->list != group->list || holder->keys != group->keys ||
        holder->n_keys < group->n_keys || &plan->groups[holder->holder] != holder)
        return broken(error, "group shares keys that are not its own", g, group->holder);
    uint64_t n_masks = (uint64_t)group->n_queries * (((uint64_t)group->n_keys + SP_TILE - 1) / SP_TILE);
    if (group->masks != SP_NO_MASKS && group->masks + n_masks > plan->n_words) {
        return broken(error, "group masks outside", g, plan->n_words);
    }
    if (!ascending(plan->numbers + group->queries, group->n_queries, shape->position,
                   (uint64_t)shape->position + shape->rows)) {
        return broken(error, "group queries unsorted or outside the chunk", g, group->n_queries);
    }
    if (!ascending(plan->numbers + group->keys, group->n_keys, 0, shape->n_keys)) {
        return broken(error, "group keys unsorted or out of range", g, group->n_keys);
    }
    if (!ranges_fit(plan->numbers + group->ranges, group))
        return broken(error, "group ranges wrong", g, n_ranges);
    return SP_OK;
}

/* Sorts the (group, query) pairs of one list by row; groups keep their order. */
static sp_status collect(sp_check *check, uint32_t list, sp_error *error)
{
    const sp_plan *plan = check->plan;
    size_t rows = plan->shape.rows, total = 0;
    for (size_t r = 0; r <= rows; r++) check->starts[r] = 0;
    for (size_t g = 0; g < plan->n_groups; g++) {
        const sp_group *group = &plan->groups[g];
        if (group->list != list) continue;
        total += group->n_queries;
        for (uint32_t q = 0; q < group->n_queries; q++) {
            check->starts[plan->numbers[group->queries + q] - plan->shape.position]++;
        }
    }
    sp_free(check->entries);
    check->entries = total ? sp_alloc(total, sizeof *check->entries) : NULL;
    if (total && !check->entries) return sp_fail(error, SP_NO_MEMORY, "out of memory while checking a plan");
    for (size_t r = 1; r <= rows; r++) check->starts[r] += check->starts[r - 1];
    for (size_t g = plan->n_groups; g-- > 0;) {
        const sp_group *group = &plan->groups[g];
        if (group->list != list) continue;
        for (uint32_t q = 0; q < group->n_queries; q++) {
            size_t row = plan->numbers[group->queries + q] - plan->shape.position;
            check->entries[--check->starts[row]] = (sp_entry){.group = (uint32_t)g, .index = q};
        }
    }
    return SP_OK;
}

/* Visits one row's edges: with set, marks them and checks; without, clears the marks. */
static sp_status walk_groups(const sp_check *check, size_t row, bool set, sp_error *error)
{
    const sp_plan *plan = check->plan;
    uint32_t query = plan->shape.position + (uint32_t)row;
    for (size_t e = check->starts[row]; e < check->starts[row + 1]; e++) {
        const sp_group *group = &plan->groups[check->entries[e].group];
        if (set && e > check->starts[row] &&
            plan->groups[check->entries[e - 1].group].round == group->round) {
            return broken(error, "row in two groups of a round", query, group->round);
        }
        for (uint32_t tile = 0; tile < (group->n_keys + SP_TILE - 1) / SP_TILE; tile++) {
            uint64_t word = sp_plan_group_word(plan, group, check->entries[e].index, tile);
            for (; word; word &= word - 1) {
                uint32_t key = plan->numbers[group->keys + tile * SP_TILE + (uint32_t)__builtin_ctzll(word)];
                uint64_t bit = (uint64_t)1 << (key % SP_TILE);
                if (set && (check->seen[key / SP_TILE] & bit)) return broken(error, "edge twice", query, key);
                if (set && plan->shape.causal && key > query) return broken(error, "future edge", query, key);
                check->seen[key / SP_TILE] = set ? check->seen[key / SP_TILE] | bit : 0;
            }
        }
    }
    return SP_OK;
}

static sp_status walk_row(const sp_check *check, uint32_t list, size_t row, sp_error *error)
{
    const sp_plan *plan = check->plan;
    uint32_t query = plan->shape.position + (uint32_t)row;
    const uint32_t *begin =
        plan->tile_begin + (size_t)list * plan->n_query_tiles + query / SP_TILE - plan->first_tile;
    for (uint32_t t = begin[0]; t < begin[1]; t++) {
        const sp_tile *tile = &plan->tiles[t];
        uint64_t word = sp_plan_tile_word(plan, tile, query);
        uint32_t last = word ? tile->key_tile * SP_TILE + 63 - (uint32_t)__builtin_clzll(word) : 0;
        if (plan->shape.causal && last > query) return broken(error, "future edge", query, last);
        check->seen[tile->key_tile] = word;
    }
    sp_status status = walk_groups(check, row, true, error);
    if (status) return status;
    for (uint32_t t = begin[0]; t < begin[1]; t++) check->seen[plan->tiles[t].key_tile] = 0;
    return walk_groups(check, row, false, error);
}

/* Key tiles that any piece may touch, at least 1. */
static size_t key_tiles(const sp_plan *plan)
{
    size_t n = 1;
    for (size_t t = 0; t < plan->n_tiles; t++) {
        if (plan->tiles[t].key_tile >= n) n = (size_t)plan->tiles[t].key_tile + 1;
    }
    for (size_t g = 0; g < plan->n_groups; g++) {
        const sp_group *group = &plan->groups[g];
        size_t last = group->n_keys ? plan->numbers[group->keys + group->n_keys - 1] / SP_TILE : 0;
        if (last >= n) n = last + 1;
    }
    return n;
}

static sp_status check_rows(const sp_plan *plan, sp_error *error)
{
    sp_check check = {.plan = plan,
                      .seen = sp_alloc_zero(key_tiles(plan), sizeof *check.seen),
                      .starts = sp_alloc((size_t)plan->shape.rows + 1, sizeof *check.starts)};
    sp_status status = SP_OK;
    if (!check.seen || !check.starts)
        status = sp_fail(error, SP_NO_MEMORY, "out of memory while checking a plan");
    for (uint32_t list = 0; list < plan->shape.n_lists && status == SP_OK; list++) {
        status = collect(&check, list, error);
        for (size_t row = 0; row < plan->shape.rows && status == SP_OK; row++) {
            status = walk_row(&check, list, row, error);
        }
    }
    sp_free(check.seen);
    sp_free(check.starts);
    sp_free(check.entries);
    return status;
}

sp_status sp_plan_validate(const sp_plan *plan, sp_error *error)
{
    sp_status status = check_shape(plan, error);
    if (status == SP_OK) status = check_tiles(plan, error);
    for (size_t g = 0; g < plan->n_groups && status == SP_OK; g++) status = check_group(plan, g, error);
    return status == SP_OK ? check_rows(plan, error) : status;
}
