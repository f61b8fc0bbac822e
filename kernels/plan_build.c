/* Building an sp_plan: memory, tiles one by one, groups, the closing table.
 *
 * A plan is rebuilt for every chunk or decode step, so its arrays are kept and only grow: no allocation in
 * the steady state. Every array counts into plan->bytes, which never passes max_bytes. The builder refuses
 * what is out of order or out of range at once; what needs all pieces together (causal, no edge twice) is
 * sp_plan_validate's.
 *
 * Owner: the plan owns its arrays. Rasterising of rows: plan_rows.c; reading: plan_read.c; invariants:
 * plan_validate.c. Tests: tests/unit/kernels/test_plan.c, tests/fuzz/fuzz_plan.c */
#include "kernels/plan.h"

#include <string.h>

#define MAX_POSITION ((uint64_t)1 << 31)

void sp_plan_init(sp_plan *plan, size_t max_bytes)
{
    memset(plan, 0, sizeof *plan);
    plan->max_bytes = max_bytes;
}

void sp_plan_fini(sp_plan *plan)
{
    sp_free(plan->head_list);
    sp_free(plan->tile_begin);
    sp_free(plan->tiles);
    sp_free(plan->groups);
    sp_free(plan->words);
    sp_free(plan->numbers);
    memset(plan, 0, sizeof *plan);
}

static bool over_budget(const sp_plan *plan, size_t bytes)
{
    return plan->max_bytes != 0 && bytes > plan->max_bytes;
}

/* Room for `need` elements of `size` bytes behind array, of which `used` are kept; returns the array, moved
 * or not, or NULL with *error filled. Grows by half, or by what is needed where the budget is short. */
static void *reserve(sp_plan *plan, void *array, size_t *capacity, size_t used, size_t need, size_t size,
                     sp_error *error)
{
    if (need <= *capacity && array) return array;
    size_t rest = plan->bytes - *capacity * size; /* the other arrays */
    size_t bytes, want = *capacity + *capacity / 2 + 16;
    if (want < need) want = need;
    if (!sp_mul_size(want, size, &bytes) || !sp_add_size(bytes, rest, &bytes) || over_budget(plan, bytes)) {
        want = need;
        if (!sp_mul_size(want, size, &bytes) || !sp_add_size(bytes, rest, &bytes) ||
            over_budget(plan, bytes)) {
            (void)sp_fail(
                error, SP_TOO_LARGE,
                "the attention plan needs more than its %zu bytes; use a shorter chunk or a sparser pattern",
                plan->max_bytes);
            return NULL;
        }
    }
    void *grown = sp_alloc(want, size);
    if (!grown) {
        (void)sp_fail(error, SP_NO_MEMORY, "out of memory for an attention plan of %zu bytes", bytes);
        return NULL;
    }
    if (used) memcpy(grown, array, used * size);
    sp_free(array);
    *capacity = want;
    plan->bytes = bytes;
    return grown;
}

static sp_status failed(const sp_error *error)
{
    return error ? error->status : SP_NO_MEMORY;
}

static bool shape_possible(const sp_plan_shape *shape)
{
    return shape->n_heads > 0 && shape->n_heads <= 65536 && shape->n_lists > 0 &&
           shape->n_lists <= shape->n_heads && (uint64_t)shape->position + shape->rows <= MAX_POSITION &&
           shape->n_keys <= MAX_POSITION;
}

static uint32_t query_tiles(const sp_plan_shape *shape)
{
    if (shape->rows == 0) return 0;
    return (shape->position + shape->rows - 1) / SP_TILE - shape->position / SP_TILE + 1;
}

sp_status sp_plan_begin(sp_plan *plan, const sp_plan_shape *shape, sp_error *error)
{
    sp_error local;
    if (!error) error = &local;
    plan->n_tiles = plan->n_groups = plan->n_words = plan->n_numbers = 0;
    plan->cursor = 0;
    memset(&plan->shape, 0, sizeof plan->shape);
    plan->n_query_tiles = 0;
    if (!shape_possible(shape)) {
        return sp_fail(error, SP_INVALID, "impossible plan: %u heads, %u lists, rows %u from %u, %u keys",
                       shape->n_heads, shape->n_lists, shape->rows, shape->position, shape->n_keys);
    }
    size_t n_begin = (size_t)shape->n_lists * query_tiles(shape) + 1;
    if (n_begin > UINT32_MAX)
        return sp_fail(error, SP_TOO_LARGE, "the attention plan has too many lists and rows");
    uint32_t *heads =
        reserve(plan, plan->head_list, &plan->cap_heads, 0, shape->n_heads, sizeof *plan->head_list, error);
    if (!heads) return failed(error);
    plan->head_list = heads;
    uint32_t *begin =
        reserve(plan, plan->tile_begin, &plan->cap_begin, 0, n_begin, sizeof *plan->tile_begin, error);
    if (!begin) return failed(error);
    plan->tile_begin = begin;
    plan->shape = *shape;
    plan->first_tile = shape->position / SP_TILE;
    plan->n_query_tiles = query_tiles(shape);
    plan->tile_begin[0] = 0;
    for (uint32_t h = 0; h < shape->n_heads; h++)
        plan->head_list[h] = shape->n_lists == shape->n_heads ? h : 0;
    return SP_OK;
}

/* Sets the table up to (and with) entry `index`: everything before it is closed. */
static void advance(sp_plan *plan, uint32_t index)
{
    while (plan->cursor < index) plan->tile_begin[++plan->cursor] = (uint32_t)plan->n_tiles;
}

static sp_status new_words(sp_plan *plan, size_t n, uint64_t **words, sp_error *error)
{
    if (plan->n_words + n >= UINT32_MAX)
        return sp_fail(error, SP_TOO_LARGE, "the attention plan has too many masks");
    uint64_t *grown = reserve(plan, plan->words, &plan->cap_words, plan->n_words, plan->n_words + n,
                              sizeof *plan->words, error);
    if (!grown) return failed(error);
    plan->words = grown;
    *words = grown + plan->n_words;
    plan->n_words += n;
    return SP_OK;
}

static sp_status add_words(sp_plan *plan, const uint64_t *words, size_t n, uint32_t *at, sp_error *error)
{
    uint64_t *to = NULL;
    sp_status status = new_words(plan, n, &to, error);
    if (status != SP_OK) return status;
    memcpy(to, words, n * sizeof *words);
    *at = (uint32_t)(to - plan->words);
    return SP_OK;
}

sp_status sp_plan_add_tile(sp_plan *plan, uint32_t list, uint32_t query_tile, uint32_t key_tile,
                           sp_tile_kind kind, const uint64_t *words, sp_error *error)
{
    sp_error local;
    if (!error) error = &local;
    if (list >= plan->shape.n_lists || query_tile < plan->first_tile ||
        query_tile - plan->first_tile >= plan->n_query_tiles ||
        (uint64_t)key_tile * SP_TILE >= plan->shape.n_keys) {
        return sp_fail(error, SP_INVALID, "tile (%u, %u) of list %u is outside the plan", query_tile,
                       key_tile, list);
    }
    bool has_words = kind == SP_TILE_COLUMNS || kind == SP_TILE_MASKED;
    if ((kind == SP_TILE_CAUSAL && key_tile != query_tile) || (uint32_t)kind > SP_TILE_MASKED ||
        has_words != (words != NULL)) {
        return sp_fail(error, SP_INVALID, "tile (%u, %u) has the wrong kind or words", query_tile, key_tile);
    }
    uint32_t index = list * plan->n_query_tiles + (query_tile - plan->first_tile);
    if (index < plan->cursor || (index == plan->cursor && plan->n_tiles > plan->tile_begin[index] &&
                                 plan->tiles[plan->n_tiles - 1].key_tile >= key_tile)) {
        return sp_fail(error, SP_INVALID, "tile (%u, %u) of list %u comes out of order", query_tile, key_tile,
                       list);
    }
    if (plan->n_tiles + 1 >= UINT32_MAX)
        return sp_fail(error, SP_TOO_LARGE, "the attention plan has too many tiles");
    sp_tile *grown = reserve(plan, plan->tiles, &plan->cap_tiles, plan->n_tiles, plan->n_tiles + 1,
                             sizeof *plan->tiles, error);
    if (!grown) return failed(error);
    plan->tiles = grown;
    sp_tile tile = {.key_tile = key_tile, .kind = (uint32_t)kind, .word = 0};
    if (has_words) {
        sp_status status = add_words(plan, words, kind == SP_TILE_MASKED ? SP_TILE : 1, &tile.word, error);
        if (status) return status;
    }
    advance(plan, index);
    plan->tiles[plan->n_tiles++] = tile;
    return SP_OK;
}

sp_status sp_plan_repeat_list(sp_plan *plan, uint32_t from, uint32_t list, sp_error *error)
{
    sp_error local;
    if (!error) error = &local;
    size_t first = (size_t)list * plan->n_query_tiles, source = (size_t)from * plan->n_query_tiles;
    if (list >= plan->shape.n_lists || from >= list || plan->cursor > first ||
        (plan->cursor == first && plan->n_tiles > plan->tile_begin[first]))
        return sp_fail(error, SP_INVALID, "list %u cannot repeat list %u", list, from);
    advance(plan, (uint32_t)first);
    size_t need = plan->n_tiles + (plan->tile_begin[source + plan->n_query_tiles] - plan->tile_begin[source]);
    if (need >= UINT32_MAX) return sp_fail(error, SP_TOO_LARGE, "the attention plan has too many tiles");
    sp_tile *grown =
        reserve(plan, plan->tiles, &plan->cap_tiles, plan->n_tiles, need, sizeof *plan->tiles, error);
    if (!grown) return failed(error);
    plan->tiles = grown;
    for (uint32_t t = 0; t < plan->n_query_tiles; t++) {
        advance(plan, (uint32_t)first + t);
        for (uint32_t i = plan->tile_begin[source + t]; i < plan->tile_begin[source + t + 1]; i++)
            plan->tiles[plan->n_tiles++] = plan->tiles[i];
    }
    return SP_OK;
}

static bool group_in_order(const sp_plan *plan, const sp_group_data *group)
{
    if (plan->n_groups == 0) return true;
    const sp_group *last = &plan->groups[plan->n_groups - 1];
    return group->round > last->round || (group->round == last->round && group->list >= last->list);
}

/* Room for so many groups and numbers in all. */
static sp_status reserve_groups(sp_plan *plan, size_t all_groups, size_t all_numbers, sp_error *error)
{
    if (all_groups >= UINT32_MAX || all_numbers >= UINT32_MAX)
        return sp_fail(error, SP_TOO_LARGE, "the attention plan's groups are too many");
    uint32_t *numbers = reserve(plan, plan->numbers, &plan->cap_numbers, plan->n_numbers, all_numbers,
                                sizeof *plan->numbers, error);
    if (!numbers) return failed(error);
    plan->numbers = numbers;
    sp_group *groups = reserve(plan, plan->groups, &plan->cap_groups, plan->n_groups, all_groups,
                               sizeof *plan->groups, error);
    if (!groups) return failed(error);
    plan->groups = groups;
    return SP_OK;
}

sp_status sp_plan_new_group(sp_plan *plan, const sp_group_data *sizes, sp_group_slots *slots, sp_error *error)
{
    sp_error local;
    if (!error) error = &local;
    if (sizes->list >= plan->shape.n_lists || sizes->n_ranges < 1 || sizes->n_ranges > 2 ||
        sizes->n_queries > plan->shape.rows || sizes->n_keys > plan->shape.n_keys ||
        !group_in_order(plan, sizes)) {
        return sp_fail(error, SP_INVALID, "group of list %u, round %u is out of order or outside the plan",
                       sizes->list, sizes->round);
    }
    uint32_t holder = sizes->holder ? sizes->holder - 1 : (uint32_t)plan->n_groups;
    if (sizes->holder &&
        (holder >= plan->n_groups || plan->groups[holder].list != sizes->list ||
         plan->groups[holder].holder != holder || plan->groups[holder].n_keys < sizes->n_keys))
        return sp_fail(error, SP_INVALID, "group %zu cannot share keys of group %u", plan->n_groups, holder);
    size_t n_ranges = (size_t)sizes->n_queries * sizes->n_ranges * 2;
    size_t own_keys = sizes->holder ? 0 : sizes->n_keys;
    size_t need = plan->n_numbers + sizes->n_queries + own_keys + n_ranges;
    sp_status status = reserve_groups(plan, plan->n_groups + 1, need, error);
    if (status != SP_OK) return status;
    uint32_t *numbers = plan->numbers;
    sp_group *groups = plan->groups;
    size_t n_words =
        sizes->with_masks ? (size_t)sizes->n_queries * ((sizes->n_keys + SP_TILE - 1) / SP_TILE) : 0;
    uint64_t *words = NULL;
    if (n_words > 0) status = new_words(plan, n_words, &words, error);
    if (status != SP_OK) return status;
    uint32_t at = (uint32_t)plan->n_numbers;
    groups[plan->n_groups++] = (sp_group){.list = sizes->list,
                                          .round = sizes->round,
                                          .n_queries = sizes->n_queries,
                                          .n_keys = sizes->n_keys,
                                          .queries = at,
                                          .keys = sizes->holder ? groups[holder].keys : at + sizes->n_queries,
                                          .n_ranges = sizes->n_ranges,
                                          .ranges = at + sizes->n_queries + (uint32_t)own_keys,
                                          .masks = words ? (uint32_t)(words - plan->words) : SP_NO_MASKS,
                                          .holder = holder};
    slots->masks = words;
    plan->n_numbers = need;
    slots->queries = numbers + at;
    slots->keys = numbers + plan->groups[plan->n_groups - 1].keys;
    slots->ranges = numbers + plan->groups[plan->n_groups - 1].ranges;
    return SP_OK;
}

sp_status sp_plan_extend(sp_plan *plan, size_t n_groups, size_t n_numbers, size_t *group, size_t *number,
                         sp_error *error)
{
    sp_error local;
    if (!error) error = &local;
    size_t all_groups = plan->n_groups + n_groups, all_numbers = plan->n_numbers + n_numbers;
    sp_status status = reserve_groups(plan, all_groups, all_numbers, error);
    if (status != SP_OK) return status;
    *group = plan->n_groups;
    *number = plan->n_numbers;
    plan->n_groups = all_groups;
    plan->n_numbers = all_numbers;
    return SP_OK;
}

/* Builds without optimisation or with AddressSanitizer check every plan of moderate size. */
static bool is_checked(const sp_plan_shape *shape)
{
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__)
    return (uint64_t)shape->rows * shape->n_keys * shape->n_lists < (uint64_t)1 << 21;
#else
    (void)shape;
    return false;
#endif
}

sp_status sp_plan_end(sp_plan *plan, sp_error *error)
{
    advance(plan, plan->shape.n_lists * plan->n_query_tiles);
    return is_checked(&plan->shape) ? sp_plan_validate(plan, error) : SP_OK;
}
