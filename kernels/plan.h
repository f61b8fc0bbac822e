/* sp_plan: an exact set of (query, key) edges for one layer and one chunk of rows. The plan is the truth:
 * kernels execute it, metrics count it, graphs draw it.
 *
 * Positions are absolute. Queries are the rows position .. position + rows - 1; keys are 0 .. n_keys - 1. A
 * tile is 64 queries by 64 keys, both starting at multiples of 64. For each list (a set of heads that share
 * their edges) and each query tile the plan names the key tiles read, ascending, and which of their pairs are
 * edges: FULL     all pairs                    CAUSAL   key <= query (only on the diagonal: key tile = query
 * tile) COLUMNS  one 64-bit word: the same keys for every row        MASKED   64 words, one a row of the
 * query tile Rows outside the chunk and keys >= n_keys are never edges, whatever a tile says.
 *
 * Edges that scatter (strided columns, summary columns, clusters) are GROUPS: query positions and key
 * positions, both ascending, and for every query one or two half-open ranges of ranks in the key list. A
 * gathered tile is 64 ranks, starting at multiples of 64 of the whole list. Groups belong to rounds; in a
 * round a query is in at most one group of a list. Later rounds carry one 64-bit mask for every (query,
 * gathered tile) that drops edges an earlier round holds.
 *
 * Invariants (sp_plan_validate; fuzzed): sorted, in range, causal where causal is set, no edge in two pieces.
 * A row may be empty. Owner: whoever called sp_plan_init; memory is kept between uses and bounded by
 * max_bytes. Tests: tests/unit/kernels/test_plan.c, tests/fuzz/fuzz_plan.c,
 * tests/attention/test_conformance.c */
#ifndef SPARSED_KERNELS_PLAN_H
#define SPARSED_KERNELS_PLAN_H

#include "kernels/base.h"

#define SP_TILE 64

typedef enum sp_tile_kind { SP_TILE_FULL, SP_TILE_CAUSAL, SP_TILE_COLUMNS, SP_TILE_MASKED } sp_tile_kind;

typedef struct sp_tile {
    uint32_t key_tile; /* keys 64 * key_tile .. + 63 */
    uint32_t kind;     /* sp_tile_kind */
    uint32_t word;     /* COLUMNS: words[word]; MASKED: words[word + r] for row r of the query tile */
} sp_tile;

typedef struct sp_group {
    uint32_t list, round;
    uint32_t n_queries, n_keys;
    uint32_t queries;  /* numbers[queries ..]: absolute positions, ascending */
    uint32_t keys;     /* numbers[keys ..]: absolute positions, ascending */
    uint32_t n_ranges; /* 1, or 2 (bidirectional: before and behind the window) */
    uint32_t ranges;   /* numbers[ranges + 2 * (query * n_ranges + i)]: begin, end in ranks; ranges ascend,
                          disjoint */
    uint32_t
        masks; /* words[masks + query * ceil(n_keys / 64) + tile], a set bit keeps the edge; or SP_NO_MASKS */
    uint32_t holder; /* the earlier group of its list whose keys (as many at least) it shares; or itself */
} sp_group;
#define SP_NO_MASKS UINT32_MAX

/* First rank in an ascending list (n) of a position >= position; n: none. */
static inline uint32_t sp_rank_of(const uint32_t *list, uint32_t n, uint64_t position)
{
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (list[middle] < position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

typedef struct sp_plan_shape {
    uint32_t n_heads; /* query heads */
    uint32_t n_lists; /* 1..n_heads */
    uint32_t position, rows, n_keys;
    bool causal;
} sp_plan_shape;

typedef struct sp_plan {
    sp_plan_shape shape;
    uint32_t *head_list;    /* (n_heads): the list of each head */
    uint32_t first_tile;    /* position / 64 */
    uint32_t n_query_tiles; /* tiles that the rows touch */
    uint32_t *tile_begin;   /* (n_lists * n_query_tiles + 1): tiles of (list, query tile) */
    sp_tile *tiles;
    sp_group *groups; /* by round, then list */
    uint64_t *words;
    uint32_t *numbers;
    size_t n_tiles, n_groups, n_words, n_numbers;
    size_t cap_tiles, cap_groups, cap_words, cap_numbers, cap_heads, cap_begin;
    size_t bytes, max_bytes;
    uint32_t cursor; /* building: next (list, query tile) */
} sp_plan;

/* --- building --- */
/* max_bytes 0: no limit. */
void sp_plan_init(sp_plan *plan, size_t max_bytes);
void sp_plan_fini(sp_plan *plan);
/* Empties the plan and sets its shape; head h starts on list 0 (n_lists 1) or list h (n_lists = n_heads),
 * else set plan->head_list. SP_TOO_LARGE over max_bytes, SP_INVALID for an impossible shape. */
sp_status sp_plan_begin(sp_plan *plan, const sp_plan_shape *shape, sp_error *error) SP_MUST_CHECK;
/* Tiles come in order: by list, then query tile (absolute number), then key tile. words: 1 for COLUMNS, 64
 * for MASKED, else NULL. */
sp_status sp_plan_add_tile(sp_plan *plan, uint32_t list, uint32_t query_tile, uint32_t key_tile,
                           sp_tile_kind kind, const uint64_t *words, sp_error *error) SP_MUST_CHECK;
/* The same in its cheapest form, from 64 words, one a row of the query tile, whatever they hold of rows
 * outside the chunk and of keys that do not exist; nothing where no edge is left. Where causal they hold no
 * future keys. */
sp_status sp_plan_add_words(sp_plan *plan, uint32_t list, uint32_t query_tile, uint32_t key_tile,
                            uint64_t *words, sp_error *error) SP_MUST_CHECK;
/* Gives a list the tiles of an earlier one; it must have none yet. */
sp_status sp_plan_repeat_list(sp_plan *plan, uint32_t from, uint32_t list, sp_error *error) SP_MUST_CHECK;
typedef struct sp_group_data {
    uint32_t list, round, n_queries, n_keys, n_ranges;
    bool with_masks;
    uint32_t holder; /* 1 + an earlier group of the list whose first n_keys keys are these, which are then
                      * kept once and read once for both; 0: none */
} sp_group_data;
/* Adds a group of these sizes, whose slots the caller fills. They hold until the next call that adds to the
 * plan. */
typedef struct sp_group_slots {
    uint32_t *queries; /* (n_queries) */
    uint32_t *keys;    /* (n_keys) */
    uint32_t *ranges;  /* (n_queries, n_ranges, 2) */
    uint64_t *masks;   /* (n_queries, ceil(n_keys / 64)); NULL without masks */
} sp_group_slots;
sp_status sp_plan_new_group(sp_plan *plan, const sp_group_data *sizes, sp_group_slots *slots,
                            sp_error *error) SP_MUST_CHECK;
/* Groups of one query each, of round 0, which the caller fills in itself, from several threads if it likes:
 * n_groups more from *group on, n_numbers more from *number on. */
sp_status sp_plan_extend(sp_plan *plan, size_t n_groups, size_t n_numbers, size_t *group, size_t *number,
                         sp_error *error) SP_MUST_CHECK;
/* Closes the tile table. Call once, after the last tile and group. */
sp_status sp_plan_end(sp_plan *plan, sp_error *error) SP_MUST_CHECK;

/* Intervals: the easy way to make tiles. For a row the callback writes up to SP_MAX_INTERVALS half-open key
 * intervals, ascending and disjoint, and returns their number; the builder rasterises them, clips to n_keys
 * (and to the past when causal), and picks the cheapest tile kind. One call fills one list; lists ascending.
 */
#define SP_MAX_INTERVALS 8
typedef struct sp_interval {
    uint32_t begin, end;
} sp_interval;
typedef uint32_t (*sp_interval_fn)(const void *context, uint32_t query, sp_interval *out);
sp_status sp_plan_add_intervals(sp_plan *plan, uint32_t list, sp_interval_fn row, const void *context,
                                sp_error *error) SP_MUST_CHECK;
/* Intervals and columns that every row of the chunk sees: columns (may be NULL) moves *key_tile to the first
 * key tile at or after it that holds a column and returns their word, or returns 0 when there is none. */
typedef uint64_t (*sp_columns_fn)(const void *context, uint32_t *key_tile);
sp_status sp_plan_add_rows(sp_plan *plan, uint32_t list, sp_interval_fn row, sp_columns_fn columns,
                           const void *context, sp_error *error) SP_MUST_CHECK;

/* --- reading --- */
/* Checks every invariant, on any contents: SP_INTERNAL names the first that is broken. Linear in the edges.
 */
sp_status sp_plan_validate(const sp_plan *plan, sp_error *error) SP_MUST_CHECK;
/* The others expect a plan that is valid. */
typedef struct sp_plan_counts {
    uint64_t edges; /* over all heads */
    uint64_t pairs; /* allowed pairs over all heads: causal or rectangular */
    uint64_t tiles, groups;
    uint64_t rows_empty; /* over all heads */
} sp_plan_counts;
void sp_plan_count(const sp_plan *plan, sp_plan_counts *out);
/* Edges of one head. */
uint64_t sp_plan_count_head(const sp_plan *plan, uint32_t head);
/* Keys of one row (query is a position), ascending, into keys (room for n_keys); returns their number. */
size_t sp_plan_row(const sp_plan *plan, uint32_t head, uint32_t query, uint32_t *keys);
/* The 64-bit word of edges of one row in one tile, clipped to n_keys. */
uint64_t sp_plan_tile_word(const sp_plan *plan, const sp_tile *tile, uint32_t query);
/* The same for the query of rank index in one gathered tile: bit b is the key of rank 64 * gathered_tile + b.
 */
uint64_t sp_plan_group_word(const sp_plan *plan, const sp_group *group, uint32_t index,
                            uint32_t gathered_tile);
/* Human-readable listing, for debugging and tests. */
void sp_plan_print(const sp_plan *plan, sp_buffer *out);

#endif
