/* From rows to tiles: rasterises key intervals of single rows, and columns that all rows see, into the
 * cheapest tiles.
 *
 * For each query tile the 64 rows are asked once. A sweep over key tiles then stops only where some row has
 * an edge or a column lies; a stretch that every row covers whole becomes FULL tiles without looking at rows
 * again. So dense costs O(tiles), a window O(rows), and one decode row O(its tiles).
 *
 * Tests: tests/unit/kernels/test_plan.c */
#include "kernels/plan.h"

#include <string.h>

typedef struct sp_raster {
    sp_plan *plan;
    uint32_t list, query_tile;
    uint32_t row_begin, row_end;                 /* rows of the query tile inside the chunk */
    sp_interval rows[SP_TILE][SP_MAX_INTERVALS]; /* clipped, ascending, not empty */
    uint32_t count[SP_TILE], next[SP_TILE];
} sp_raster;

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint64_t low_bits(uint32_t n)
{
    return n >= SP_TILE ? UINT64_MAX : ((uint64_t)1 << n) - 1;
}

/* Keys of a tile that exist. */
static uint64_t existing(const sp_plan *plan, uint32_t key_tile)
{
    return low_bits(plan->shape.n_keys - key_tile * SP_TILE);
}

/* Of the keys of a tile those that row `row` of the query tile may see at all. */
static uint64_t allowed(const sp_raster *raster, uint32_t key_tile, uint32_t row)
{
    uint64_t word = existing(raster->plan, key_tile);
    if (!raster->plan->shape.causal || key_tile < raster->query_tile) return word;
    return key_tile > raster->query_tile ? 0 : word & low_bits(row + 1);
}

/* Which rows of the query tile the chunk has. */
static void set_rows(sp_raster *raster)
{
    const sp_plan_shape *shape = &raster->plan->shape;
    uint64_t begin = shape->position, end = begin + shape->rows;
    uint64_t origin = (uint64_t)raster->query_tile * SP_TILE;
    raster->row_begin = origin < begin ? (uint32_t)(begin - origin) : 0;
    raster->row_end = origin + SP_TILE > end ? (uint32_t)(end - origin) : SP_TILE;
}

static void load_rows(sp_raster *raster, sp_interval_fn row, const void *context)
{
    const sp_plan_shape *shape = &raster->plan->shape;
    for (uint32_t r = raster->row_begin; r < raster->row_end; r++) {
        uint32_t query = raster->query_tile * SP_TILE + r;
        uint32_t end = shape->causal ? least(shape->n_keys, query + 1) : shape->n_keys;
        uint32_t n = row(context, query, raster->rows[r]), kept = 0;
        for (uint32_t i = 0; i < n; i++) {
            sp_interval piece = raster->rows[r][i];
            if (piece.end > end) piece.end = end;
            if (piece.begin < piece.end) raster->rows[r][kept++] = piece;
        }
        raster->count[r] = kept;
        raster->next[r] = 0;
    }
}

/* First key tile >= from that some row touches; *full_end: tiles up to there are covered whole by every row.
 */
static uint32_t next_tile(const sp_raster *raster, uint32_t from, uint32_t *full_end)
{
    uint32_t tile = UINT32_MAX, full_begin = 0;
    *full_end = UINT32_MAX;
    for (uint32_t r = raster->row_begin; r < raster->row_end; r++) {
        if (raster->next[r] == raster->count[r]) {
            *full_end = 0;
            continue;
        }
        sp_interval piece = raster->rows[r][raster->next[r]];
        uint32_t first_whole = piece.begin / SP_TILE + (piece.begin % SP_TILE != 0);
        uint32_t end_whole = piece.end / SP_TILE;
        if (piece.end == raster->plan->shape.n_keys && piece.end % SP_TILE) end_whole++;
        if (piece.begin / SP_TILE < tile) tile = piece.begin / SP_TILE;
        if (first_whole > full_begin) full_begin = first_whole;
        if (end_whole < *full_end) *full_end = end_whole;
    }
    if (tile == UINT32_MAX) return tile;
    if (tile < from) tile = from;
    if (full_begin > tile) *full_end = 0;
    return tile;
}

/* Edges of one row in one key tile from its intervals; passes over those that end there. */
static uint64_t take_word(sp_raster *raster, uint32_t row, uint32_t key_tile)
{
    uint64_t word = 0;
    uint32_t begin = key_tile * SP_TILE, end = begin + SP_TILE;
    while (raster->next[row] < raster->count[row]) {
        sp_interval piece = raster->rows[row][raster->next[row]];
        if (piece.begin >= end) break;
        uint32_t from = piece.begin > begin ? piece.begin - begin : 0;
        word |= low_bits(least(piece.end, end) - begin) & ~low_bits(from);
        if (piece.end > end) break;
        raster->next[row]++;
    }
    return word;
}

/* Adds the tile of these words (0 outside the chunk) in its cheapest form; nothing when all are 0. */
static sp_status add_words(const sp_raster *raster, uint32_t key_tile, const uint64_t *words, sp_error *error)
{
    uint64_t exist = existing(raster->plan, key_tile), first = words[raster->row_begin], any = 0;
    bool same = true, causal = key_tile == raster->query_tile;
    for (uint32_t r = raster->row_begin; r < raster->row_end; r++) {
        any |= words[r];
        same = same && words[r] == first;
        causal = causal && words[r] == (exist & low_bits(r + 1));
    }
    if (!any) return SP_OK;
    sp_tile_kind kind = same && first == exist ? SP_TILE_FULL
                        : causal               ? SP_TILE_CAUSAL
                        : same                 ? SP_TILE_COLUMNS
                                               : SP_TILE_MASKED;
    const uint64_t *given = kind == SP_TILE_COLUMNS ? &first : kind == SP_TILE_MASKED ? words : NULL;
    return sp_plan_add_tile(raster->plan, raster->list, raster->query_tile, key_tile, kind, given, error);
}

sp_status sp_plan_add_words(sp_plan *plan, uint32_t list, uint32_t query_tile, uint32_t key_tile,
                            uint64_t *words, sp_error *error)
{
    if (query_tile < plan->first_tile || query_tile - plan->first_tile >= plan->n_query_tiles ||
        (uint64_t)key_tile * SP_TILE >= plan->shape.n_keys)
        return sp_fail(error, SP_INVALID, "tile (%u, %u) is outside the plan", query_tile, key_tile);
    sp_raster raster;
    raster.plan = plan;
    raster.list = list;
    raster.query_tile = query_tile;
    set_rows(&raster);
    uint64_t exist = existing(plan, key_tile);
    for (uint32_t r = raster.row_begin; r < raster.row_end; r++) words[r] &= exist;
    memset(words, 0, raster.row_begin * sizeof *words);
    memset(words + raster.row_end, 0, (SP_TILE - raster.row_end) * sizeof *words);
    return add_words(&raster, key_tile, words, error);
}

static sp_status add_full(sp_raster *raster, uint32_t begin, uint32_t end, sp_error *error)
{
    for (uint32_t tile = begin; tile < end; tile++) {
        sp_status status =
            sp_plan_add_tile(raster->plan, raster->list, raster->query_tile, tile, SP_TILE_FULL, NULL, error);
        if (status) return status;
    }
    for (uint32_t r = raster->row_begin; r < raster->row_end; r++) {
        uint32_t ends = raster->rows[r][raster->next[r]].end;
        if (ends / SP_TILE < end || (ends / SP_TILE == end && ends % SP_TILE == 0)) raster->next[r]++;
    }
    return SP_OK;
}

/* One tile in which rows differ or columns lie. */
static sp_status add_mixed(sp_raster *raster, uint32_t tile, bool has_rows, uint64_t column, sp_error *error)
{
    uint64_t words[SP_TILE] = {0};
    if (!has_rows && (!raster->plan->shape.causal || tile < raster->query_tile)) {
        column &= existing(raster->plan, tile);
        for (uint32_t r = raster->row_begin; r < raster->row_end; r++) words[r] = column;
        return add_words(raster, tile, words, error);
    }
    for (uint32_t r = raster->row_begin; r < raster->row_end; r++) {
        words[r] = take_word(raster, r, tile) | (column & allowed(raster, tile, r));
    }
    return add_words(raster, tile, words, error);
}

static sp_status sweep(sp_raster *raster, sp_columns_fn columns, const void *context, sp_error *error)
{
    const sp_plan_shape *shape = &raster->plan->shape;
    uint32_t n_key_tiles = shape->n_keys / SP_TILE + (shape->n_keys % SP_TILE != 0);
    uint32_t limit = shape->causal ? least(n_key_tiles, raster->query_tile + 1) : n_key_tiles;
    uint32_t from = 0, full_end, column_tile = 0;
    uint64_t column = columns && limit ? columns(context, &column_tile) : 0;
    while (from < limit) {
        uint32_t tile = next_tile(raster, from, &full_end);
        if (full_end > tile && tile < limit && !(column && column_tile < tile)) {
            full_end = least(full_end, limit);
            sp_status status = add_full(raster, tile, full_end, error);
            if (status) return status;
            from = full_end;
        } else {
            bool has_column = column && column_tile <= tile;
            bool has_rows = !column || column_tile >= tile;
            if (has_column) tile = column_tile;
            if (tile >= limit) break;
            sp_status status = add_mixed(raster, tile, has_rows, has_column ? column : 0, error);
            if (status) return status;
            from = tile + 1;
        }
        if (column && column_tile < from) {
            column_tile = from;
            column = from < limit ? columns(context, &column_tile) : 0;
        }
    }
    return SP_OK;
}

sp_status sp_plan_add_rows(sp_plan *plan, uint32_t list, sp_interval_fn row, sp_columns_fn columns,
                           const void *context, sp_error *error)
{
    if (list >= plan->shape.n_lists) return sp_fail(error, SP_INVALID, "list %u is outside the plan", list);
    sp_raster raster = {.plan = plan, .list = list};
    for (uint32_t t = 0; t < plan->n_query_tiles; t++) {
        raster.query_tile = plan->first_tile + t;
        set_rows(&raster);
        load_rows(&raster, row, context);
        sp_status status = sweep(&raster, columns, context, error);
        if (status) return status;
    }
    return SP_OK;
}

sp_status sp_plan_add_intervals(sp_plan *plan, uint32_t list, sp_interval_fn row, const void *context,
                                sp_error *error)
{
    return sp_plan_add_rows(plan, list, row, NULL, context, error);
}
