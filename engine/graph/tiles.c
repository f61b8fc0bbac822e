/* See tiles.h. A tile reads its rows once, each from the first key of the tile on. */
#include "engine/graph/tiles.h"

#include <math.h>
#include <string.h>

enum { BINS = SP_TILE_BINS, SIDE = SP_OVERVIEW_SIDE };

uint32_t sp_tile_levels(uint32_t n_query, uint32_t n_key)
{
    uint32_t largest = n_query > n_key ? n_query : n_key, z = 0;
    while (((uint64_t)BINS << z) < largest) z++;
    return z;
}

bool sp_tile_exists(uint32_t n_query, uint32_t n_key, uint32_t z, uint32_t ty, uint32_t tx)
{
    if (z > sp_tile_levels(n_query, n_key)) return false;
    return (uint64_t)ty * BINS << z < n_query && (uint64_t)tx * BINS << z < n_key;
}

size_t sp_tile_bytes(sp_tile_stat stat)
{
    return (size_t)(stat == SP_TILE_DIFF ? 3 : 1) * BINS * BINS * sizeof(uint32_t);
}

/* What a bin gathers. */
typedef struct bins {
    uint32_t *counts; /* (256, 256) */
    double *mass;     /* (256, 256) or NULL */
    float *top;       /* (256, 256) or NULL */
    uint64_t edges;
} bins;

/* The weights of a row, without its edges. */
static void add_weights(bins *b, uint32_t bin_row, uint32_t first_bin, uint32_t z, const sp_row *row)
{
    size_t base = (size_t)bin_row * BINS;
    for (uint32_t i = 0; i < row->n; i++) {
        size_t at = base + (row->keys[i] >> z) - first_bin;
        if (b->mass) b->mass[at] += (double)row->weights[i];
        if (b->top && row->weights[i] > b->top[at]) b->top[at] = row->weights[i];
    }
}

static void add_row(bins *b, uint32_t bin_row, uint32_t first_bin, uint32_t z, const sp_row *row)
{
    for (uint32_t i = 0; i < row->n; i++)
        b->counts[(size_t)bin_row * BINS + (row->keys[i] >> z) - first_bin]++;
    b->edges += row->n;
    add_weights(b, bin_row, first_bin, z, row);
}

/* The keys begin .. end - 1, one edge each. */
static void add_run(bins *b, uint32_t bin_row, uint32_t first_bin, uint32_t z, uint32_t begin, uint32_t end)
{
    for (uint32_t key = begin; key < end;) {
        uint32_t bin = key >> z;
        uint64_t next = (uint64_t)(bin + 1) << z;
        uint32_t stop = next < end ? (uint32_t)next : end;
        b->counts[(size_t)bin_row * BINS + bin - first_bin] += stop - key;
        key = stop;
    }
    b->edges += end - begin;
}

static void take_row(bins *b, uint32_t bin_row, uint32_t first_bin, uint32_t z, const sp_row *row)
{
    for (uint32_t i = 0; i < row->n; i++)
        b->counts[(size_t)bin_row * BINS + (row->keys[i] >> z) - first_bin]--;
    b->edges -= row->n;
}

/* A graph whose counts are those of all allowed pairs, without gold's for extra. */
static bool is_run(const sp_head *head, sp_graph graph)
{
    return head->full && (graph == SP_GRAPH_PRED || graph == SP_GRAPH_EXTRA);
}

bool sp_tile_weighs(const sp_head *head, sp_graph graph, sp_tile_stat stat)
{
    if (head->like_gold) return false; /* gold's are all there are */
    return stat == SP_TILE_MASS || stat == SP_TILE_MAX || (stat == SP_TILE_COUNT && graph == SP_GRAPH_AFTER);
}

/* Every row of the tile into the bins. */
static void gather(const sp_head_view *view, sp_graph graph, uint32_t z, uint32_t ty, uint32_t tx,
                   sp_row_room *room, bins *b)
{
    const sp_head *head = view->head;
    const sp_head_view of_graph = {.head = head, .graph = graph, .part = view->part};
    const sp_rows rows = sp_head_rows(&of_graph);
    uint64_t first = (uint64_t)ty * BINS << z, begin = (uint64_t)tx * BINS << z;
    uint64_t last = first + ((uint64_t)BINS << z), end = begin + ((uint64_t)BINS << z);
    bool weighs = b->mass || b->top, run = is_run(head, graph) && (!weighs || head->like_gold);
    if (last > head->n_query) last = head->n_query;
    if (end > head->n_key) end = head->n_key;
    for (uint64_t i = first; i < last; i++) {
        sp_row row;
        uint32_t bin_row = (uint32_t)(i >> z) - ty * BINS, allowed = sp_head_allowed(head, (uint32_t)i);
        if (begin >= allowed) continue;
        if (!run) {
            rows.row(rows.context, (uint32_t)i, (uint32_t)begin, (uint32_t)end, room, &row);
            add_row(b, bin_row, tx * BINS, z, &row);
            continue;
        }
        add_run(b, bin_row, tx * BINS, z, (uint32_t)begin, end < allowed ? (uint32_t)end : allowed);
        if (graph != SP_GRAPH_EXTRA && !weighs) continue;
        sp_head_row(head, SP_GRAPH_GOLD, (uint32_t)i, (uint32_t)begin, (uint32_t)end, room, &row);
        if (graph == SP_GRAPH_EXTRA)
            take_row(b, bin_row, tx * BINS, z, &row);
        else
            add_weights(b, bin_row, tx * BINS, z, &row);
    }
}

static void put_u32(uint8_t *out, uint32_t value)
{
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(value >> (8 * i));
}

static void put_f32(uint8_t *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_u32(out, bits);
}

static void put_plane(const bins *b, sp_tile_stat stat, uint8_t *out)
{
    for (size_t i = 0; i < (size_t)BINS * BINS; i++) {
        if (stat == SP_TILE_MASS)
            put_f32(out + 4 * i, (float)b->mass[i]);
        else if (stat == SP_TILE_MAX)
            put_f32(out + 4 * i, b->top[i]);
        else
            put_u32(out + 4 * i, b->counts[i]);
    }
}

static void close_bins(bins *b, sp_row_room *room)
{
    sp_row_room_close(room);
    sp_free(b->counts);
    sp_free(b->mass);
    sp_free(b->top);
}

static sp_status open_bins(bins *b, sp_row_room *room, uint32_t n_key, sp_tile_stat stat, sp_error *error)
{
    size_t n = (size_t)BINS * BINS;
    *b = (bins){.counts = sp_alloc_zero(n, sizeof *b->counts)};
    *room = (sp_row_room){0};
    if (stat == SP_TILE_MASS) b->mass = sp_alloc_zero(n, sizeof *b->mass);
    if (stat == SP_TILE_MAX) b->top = sp_alloc_zero(n, sizeof *b->top);
    bool enough = b->counts && (stat != SP_TILE_MASS || b->mass) && (stat != SP_TILE_MAX || b->top);
    sp_status status =
        enough ? sp_row_room_open(room, n_key, error) : sp_fail(error, SP_NO_MEMORY, "no memory for a tile");
    if (status != SP_OK) close_bins(b, room);
    return status;
}

sp_status sp_tile_make(const sp_head_view *view, sp_tile_stat stat, uint32_t z, uint32_t ty, uint32_t tx,
                       uint8_t *out, bool *empty, sp_error *error)
{
    static const sp_graph diff[] = {SP_GRAPH_BOTH, SP_GRAPH_MISSED, SP_GRAPH_EXTRA};
    bins b;
    sp_row_room room;
    sp_status status = open_bins(&b, &room, view->head->n_key, stat, error);
    if (status != SP_OK) return status;
    uint32_t planes = stat == SP_TILE_DIFF ? 3 : 1;
    for (uint32_t p = 0; p < planes; p++) {
        if (p > 0) memset(b.counts, 0, (size_t)BINS * BINS * sizeof *b.counts);
        gather(view, stat == SP_TILE_DIFF ? diff[p] : view->graph, z, ty, tx, &room, &b);
        put_plane(&b, stat, out + p * sp_tile_bytes(SP_TILE_COUNT));
    }
    *empty = b.edges == 0;
    close_bins(&b, &room);
    return SP_OK;
}

/* --- thumbnails --- */

/* First position of a cell: the least i with floor(64 i / n) = cell. */
static uint32_t cell_begin(uint32_t cell, uint32_t n)
{
    return (uint32_t)(((uint64_t)cell * n + SIDE - 1) / SIDE);
}

/* Pairs of a cell that a row may see. */
static uint64_t cell_pairs(const sp_head *head, uint32_t y, uint32_t x)
{
    uint32_t begin = cell_begin(x, head->n_key), end = cell_begin(x + 1, head->n_key);
    uint64_t pairs = 0;
    for (uint32_t i = cell_begin(y, head->n_query); i < cell_begin(y + 1, head->n_query); i++) {
        uint32_t allowed = sp_head_allowed(head, i);
        if (allowed > begin) pairs += (allowed < end ? allowed : end) - begin;
    }
    return pairs;
}

static uint8_t shade(uint64_t edges, uint64_t pairs)
{
    if (edges == 0 || pairs == 0) return 0;
    double share = 1 + log10((double)edges / (double)pairs) / 6;
    double value = 1 + floor(254 * (share > 0 ? share : 0) + 0.5);
    return value > 255 ? 255 : (uint8_t)value;
}

/* Edges of one row by cell; a row of a run without listing its keys. */
static void count_cells(const sp_head_view *view, const sp_rows *rows, uint32_t i, sp_row_room *room,
                        uint32_t counts[SIDE])
{
    const sp_head *head = view->head;
    bool run = is_run(head, view->graph);
    uint32_t allowed = sp_head_allowed(head, i);
    sp_row row = {0};
    for (uint32_t x = 0; x < SIDE && run; x++) {
        uint32_t begin = cell_begin(x, head->n_key), end = cell_begin(x + 1, head->n_key);
        if (begin < allowed) counts[x] += (allowed < end ? allowed : end) - begin;
    }
    if (!run)
        rows->row(rows->context, i, 0, head->n_key, room, &row);
    else if (view->graph == SP_GRAPH_EXTRA)
        sp_head_row(head, SP_GRAPH_GOLD, i, 0, head->n_key, room, &row);
    for (uint32_t e = 0; e < row.n; e++) {
        uint32_t x = (uint32_t)((uint64_t)SIDE * row.keys[e] / head->n_key);
        counts[x] = run ? counts[x] - 1 : counts[x] + 1;
    }
}

sp_status sp_thumbnail_make(const sp_head_view *view, uint8_t *cells, sp_error *error)
{
    const sp_head *head = view->head;
    const sp_rows rows = sp_head_rows(view);
    uint32_t counts[SIDE * SIDE];
    sp_row_room room;
    sp_status status = sp_row_room_open(&room, head->n_key, error);
    if (status != SP_OK) return status;
    memset(counts, 0, sizeof counts);
    for (uint32_t i = 0; i < head->n_query; i++)
        count_cells(view, &rows, i, &room, counts + (uint64_t)SIDE * i / head->n_query * SIDE);
    for (uint32_t y = 0; y < SIDE; y++)
        for (uint32_t x = 0; x < SIDE; x++)
            cells[y * SIDE + x] =
                counts[y * SIDE + x] ? shade(counts[y * SIDE + x], cell_pairs(head, y, x)) : 0;
    sp_row_room_close(&room);
    return SP_OK;
}
