/* Reading a head that is done (head.h): rows of the six graphs, merged from gold and pred on the way. */
#include "engine/graph/head.h"

sp_status sp_row_room_open(sp_row_room *room, uint32_t n_key, sp_error *error)
{
    room->keys = sp_alloc((size_t)n_key + 1, sizeof *room->keys);
    room->weights = sp_alloc((size_t)n_key + 1, sizeof *room->weights);
    room->order = sp_alloc((size_t)n_key + 1, sizeof *room->order);
    if (room->keys && room->weights && room->order) return SP_OK;
    sp_row_room_close(room);
    return sp_fail(error, SP_NO_MEMORY, "no memory for a row of %u keys", n_key);
}

void sp_row_room_close(sp_row_room *room)
{
    sp_free(room->keys);
    sp_free(room->weights);
    sp_free(room->order);
    *room = (sp_row_room){0};
}

static sp_row csr_row(const sp_head *head, const sp_csr *csr, uint32_t row)
{
    uint32_t block = row / head->block_rows, base = csr->indptr[block * head->block_rows];
    uint32_t n = csr->indptr[row + 1] - csr->indptr[row], at = csr->indptr[row] - base;
    if (n == 0) return (sp_row){0};
    return (sp_row){.keys = csr->indices[block] ? csr->indices[block] + at : NULL,
                    .weights = csr->weights[block] ? csr->weights[block] + at : NULL,
                    .n = n};
}

static sp_row narrow(sp_row row, uint32_t begin, uint32_t end)
{
    if (row.n == 0) return row;
    uint32_t low = sp_rank_of(row.keys, row.n, begin), high = sp_rank_of(row.keys, row.n, end);
    return (sp_row){.keys = row.keys + low, .weights = row.weights + low, .n = high - low};
}

/* One row of a full pred, or of extra and after over it. */
static void full_row(const sp_head *head, sp_graph graph, uint32_t row, uint32_t begin, uint32_t end,
                     sp_row gold, sp_row_room *room, sp_row *out)
{
    sp_row own = head->like_gold ? (sp_row){0} : csr_row(head, &head->pred, row);
    uint32_t allowed = sp_head_allowed(head, row), at = 0, n = 0;
    if (end > allowed) end = allowed;
    for (uint32_t key = begin; key < end; key++) {
        while (at < gold.n && gold.keys[at] < key) at++;
        bool in_gold = at < gold.n && gold.keys[at] == key;
        float weight = own.weights ? own.weights[key] : in_gold ? gold.weights[at] : 0;
        if (graph == SP_GRAPH_EXTRA && in_gold) continue;
        if (graph == SP_GRAPH_AFTER && !(weight > 0)) continue;
        room->keys[n] = key;
        room->weights[n++] = weight;
    }
    *out = (sp_row){.keys = room->keys, .weights = room->weights, .n = n};
}

/* Edges of a (both: also) in b, or not in b. */
static sp_row merge(sp_row a, sp_row b, bool in_b, sp_row_room *room)
{
    uint32_t at = 0, n = 0;
    for (uint32_t i = 0; i < a.n; i++) {
        while (at < b.n && b.keys[at] < a.keys[i]) at++;
        bool found = at < b.n && b.keys[at] == a.keys[i];
        if (found != in_b) continue;
        room->keys[n] = a.keys[i];
        room->weights[n++] = a.weights[i];
    }
    return (sp_row){.keys = room->keys, .weights = room->weights, .n = n};
}

static sp_row positive(sp_row row, sp_row_room *room)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < row.n; i++) {
        if (!(row.weights[i] > 0)) continue;
        room->keys[n] = row.keys[i];
        room->weights[n++] = row.weights[i];
    }
    return (sp_row){.keys = room->keys, .weights = room->weights, .n = n};
}

void sp_head_row(const sp_head *head, sp_graph graph, uint32_t row, uint32_t begin, uint32_t end,
                 sp_row_room *room, sp_row *out)
{
    sp_row gold = narrow(csr_row(head, &head->gold, row), begin, end), pred = {0};
    *out = gold;
    if (graph == SP_GRAPH_GOLD) return;
    if (head->full) {
        if (graph == SP_GRAPH_MISSED) *out = (sp_row){0};
        if (graph == SP_GRAPH_AFTER && head->like_gold) return;
        if (graph != SP_GRAPH_BOTH && graph != SP_GRAPH_MISSED)
            full_row(head, graph, row, begin, end, gold, room, out);
        return;
    }
    pred = narrow(csr_row(head, &head->pred, row), begin, end);
    switch (graph) {
    case SP_GRAPH_BOTH:
        *out = merge(gold, pred, true, room);
        break;
    case SP_GRAPH_MISSED:
        *out = merge(gold, pred, false, room);
        break;
    case SP_GRAPH_EXTRA:
        *out = merge(pred, gold, false, room);
        break;
    case SP_GRAPH_AFTER:
        *out = positive(pred, room);
        break;
    default:
        *out = pred;
    }
}

static double sum_weights(sp_row row)
{
    double sum = 0;
    for (uint32_t i = 0; i < row.n; i++) sum += (double)row.weights[i];
    return sum;
}

double sp_head_row_mass(const sp_head *head, sp_graph graph, uint32_t row)
{
    bool of_gold = graph == SP_GRAPH_GOLD || graph == SP_GRAPH_BOTH || graph == SP_GRAPH_MISSED;
    if (!of_gold && !head->like_gold) return sum_weights(csr_row(head, &head->pred, row));
    double sum = sum_weights(csr_row(head, &head->gold, row));
    return head->cut && of_gold ? sum + (double)head->cut[row] : sum;
}

bool sp_head_holds(const sp_head *head, sp_graph graph)
{
    return !head->lost || graph == SP_GRAPH_GOLD || graph == SP_GRAPH_BOTH || graph == SP_GRAPH_MISSED;
}

uint32_t sp_head_row_count(const sp_head *head, sp_graph graph, uint32_t row, uint32_t begin, uint32_t end)
{
    uint32_t allowed = sp_head_allowed(head, row), gold;
    if (graph == SP_GRAPH_PRED && !head->full) return narrow(csr_row(head, &head->pred, row), begin, end).n;
    if (graph != SP_GRAPH_GOLD && !head->full) return SP_NOT_COUNTED;
    gold = narrow(csr_row(head, &head->gold, row), begin, end).n;
    if (end > allowed) end = allowed;
    switch (graph) {
    case SP_GRAPH_PRED:
        return begin < end ? end - begin : 0;
    case SP_GRAPH_EXTRA:
        return begin < end ? end - begin - gold : 0;
    case SP_GRAPH_MISSED:
        return 0;
    case SP_GRAPH_AFTER:
        return SP_NOT_COUNTED;
    default:
        return gold;
    }
}
