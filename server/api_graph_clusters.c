/* GET {id}/heads/{layer}/{head}/clusters and .../clusters/{c}: the clusters of a head, their labels, the gold
 * edges they cut, their members. Tests: tests/http/test_graph_clusters.py */
#include <stdio.h>
#include <string.h>

#include "engine/graph/clusters.h"
#include "server/api_graph.h"

/* What was asked, in the call's arena. */
typedef struct clusters_question {
    bool one; /* members of `cluster` */
    uint32_t cluster;
    sp_graph_labels_numbered labels; /* names NULL: no histograms */
    uint64_t *counts;                /* (n_names) */
} clusters_question;

/* --- all clusters --- */

/* Sizes and edges by cluster. */
typedef struct tally {
    uint64_t *sizes;  /* (2, C) queries, keys */
    uint64_t *edges;  /* (C) gold edges with both ends inside */
    uint64_t *missed; /* (C, C) gold edges that the clustering cuts */
} tally;

static sp_status count(const sp_token_clusters *made, const sp_head *head, tally *out, sp_error *error)
{
    sp_row_room room;
    uint32_t n = made->n_clusters;
    sp_status status = sp_row_room_open(&room, head->n_key, error);
    for (uint32_t i = 0; i < made->n && status == SP_OK; i++) {
        sp_row row;
        uint32_t own = sp_token_cluster(made, false, i);
        out->sizes[own]++;
        out->sizes[n + sp_token_cluster(made, true, i)]++;
        sp_head_row(head, SP_GRAPH_GOLD, i, 0, head->n_key, &room, &row);
        for (uint32_t e = 0; e < row.n; e++) {
            uint32_t other = sp_token_cluster(made, true, row.keys[e]);
            out->edges[own] += own == other;
            if (!sp_token_clusters_meet(made, i, row.keys[e])) out->missed[(size_t)own * n + other]++;
        }
    }
    sp_row_room_close(&room);
    return status;
}

/* {label: members} of one cluster. counts: room for every label. */
static void write_histogram(sp_json_writer *out, const char *key, const sp_token_clusters *made, bool keys,
                            uint32_t cluster, const sp_graph_labels_numbered *labels, uint64_t *counts)
{
    memset(counts, 0, labels->n_names * sizeof *counts);
    for (uint32_t i = 0; i < made->n; i++)
        if (sp_token_cluster(made, keys, i) == cluster) counts[labels->numbers[i]]++;
    sp_json_key(out, key);
    sp_json_open(out, '{');
    for (uint32_t l = 0; l < labels->n_names; l++) {
        if (counts[l] == 0) continue;
        sp_json_key(out, labels->names[l]);
        sp_json_uint(out, counts[l]);
    }
    sp_json_close(out, '}');
}

static void write_clusters(sp_graph_call *call, const sp_token_clusters *made, const tally *counted)
{
    const clusters_question *question = call->more;
    uint32_t n = made->n_clusters;
    sp_json_writer out;
    sp_graph_json(call, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "clusters");
    sp_json_open(&out, '[');
    for (uint32_t c = 0; c < n; c++) {
        sp_json_open(&out, '{');
        sp_json_key(&out, "cluster");
        sp_json_uint(&out, c);
        sp_json_key(&out, "size_q");
        sp_json_uint(&out, counted->sizes[c]);
        sp_json_key(&out, "size_k");
        sp_json_uint(&out, counted->sizes[n + c]);
        sp_json_key(&out, "edges");
        sp_json_uint(&out, counted->edges[c]);
        if (question->counts) {
            write_histogram(&out, "labels_q", made, false, c, &question->labels, question->counts);
            write_histogram(&out, "labels_k", made, true, c, &question->labels, question->counts);
        }
        sp_json_close(&out, '}');
    }
    sp_json_close(&out, ']');
    sp_json_key(&out, "missed");
    sp_json_open(&out, '[');
    for (uint32_t a = 0; a < n; a++) {
        sp_json_open(&out, '[');
        for (uint32_t b = 0; b < n; b++) sp_json_uint(&out, counted->missed[(size_t)a * n + b]);
        sp_json_close(&out, ']');
    }
    sp_json_close(&out, ']');
    sp_json_close(&out, '}');
}

static sp_status reply_clusters(sp_graph_call *call, const sp_token_clusters *made, sp_error *error)
{
    const sp_head *head;
    size_t n = made->n_clusters;
    sp_status status = sp_graph_head(call, call->capture, call->layer, call->head, &head, error);
    if (status != SP_OK || !head) return status;
    tally counted = {.sizes = sp_alloc_zero(2 * n, sizeof(uint64_t)),
                     .edges = sp_alloc_zero(n, sizeof(uint64_t)),
                     .missed = sp_alloc_zero(n * n, sizeof(uint64_t))};
    status = counted.sizes && counted.edges && counted.missed
                 ? count(made, head, &counted, error)
                 : sp_fail(error, SP_NO_MEMORY, "no memory for %zu clusters", n);
    if (status == SP_OK) write_clusters(call, made, &counted);
    sp_free(counted.sizes);
    sp_free(counted.edges);
    sp_free(counted.missed);
    sp_capture_release_head(call->capture, call->layer, call->head);
    return status;
}

/* --- the members of one --- */

/* Members among the positions first .. end - 1. */
static void write_members(sp_json_writer *out, const char *key, const sp_token_clusters *made, bool keys,
                          uint32_t cluster, uint32_t first, uint32_t end)
{
    sp_json_key(out, key);
    sp_json_open(out, '[');
    for (uint32_t i = first; i < end; i++)
        if (sp_token_cluster(made, keys, i) == cluster) sp_json_uint(out, i);
    sp_json_close(out, ']');
}

/* A page covers positions until it holds `limit` members of either kind, at least one position. */
static sp_status reply_members(sp_graph_call *call, const sp_token_clusters *made, sp_error *error)
{
    const clusters_question *question = call->more;
    uint32_t c = question->cluster, end = call->first;
    uint64_t held = 0;
    sp_json_writer out;
    char cursor[SP_CURSOR_SIZE];
    if (c >= made->n_clusters)
        return sp_fail_param(error, SP_NOT_FOUND, "cluster", "there is no cluster %u: there are %u", c,
                             made->n_clusters);
    while (end < made->n) {
        uint64_t more =
            held + (sp_token_cluster(made, false, end) == c) + (sp_token_cluster(made, true, end) == c);
        if (end > call->first && more > call->limit) break;
        held = more;
        end++;
    }
    sp_graph_write_cursor(call, end, cursor);
    sp_graph_json(call, 200, &out);
    sp_json_open(&out, '{');
    sp_json_key(&out, "cluster");
    sp_json_uint(&out, c);
    write_members(&out, "queries", made, false, c, call->first, end);
    write_members(&out, "keys", made, true, c, call->first, end);
    sp_json_key(&out, "next");
    sp_json_cstring(&out, end < made->n ? cursor : NULL);
    sp_json_close(&out, '}');
    return SP_OK;
}

/* --- the question --- */

static sp_status run_clusters(sp_graph_call *call, sp_error *error)
{
    const clusters_question *question = call->more;
    sp_token_clusters made;
    sp_status status =
        sp_token_clusters_make(call->capture, call->layer, call->head, &call->runner, &made, error);
    if (status == SP_CANCELLED && !sp_graph_stopped(call)) { /* its time is up */
        call->pending = true;
        return SP_OK;
    }
    if (status != SP_OK) return status;
    status = question->one ? reply_members(call, &made, error) : reply_clusters(call, &made, error);
    sp_token_clusters_fini(&made);
    return status;
}

static bool ask_set(sp_exchange *exchange, sp_graph_call *call, clusters_question *question)
{
    const sp_capture_info *info = call->info;
    const char *name = sp_exchange_query(exchange, "set");
    const sp_label_set *set = !name && info->n_labels ? &info->labels[0] : NULL;
    for (size_t i = 0; name && i < info->n_labels; i++)
        if (strcmp(info->labels[i].name, name) == 0) set = &info->labels[i];
    if (name && !set) {
        sp_exchange_refuse(exchange, 404, "set", "the capture has no labels of this name");
        return false;
    }
    if (!set) return true;
    if (sp_graph_number_labels(set, call, &question->labels))
        question->counts = sp_arena_alloc(&call->arena, question->labels.n_names, sizeof(uint64_t));
    if (question->counts) return true;
    sp_exchange_refuse(exchange, 413, "labels", "there are too many different labels");
    return false;
}

bool sp_graph_clusters(sp_exchange *exchange, sp_graph_call *call, const char *cluster)
{
    static const char *const all[] = {"set", NULL}, *const members[] = {"cursor", "limit", NULL};
    clusters_question *question = sp_arena_alloc(&call->arena, 1, sizeof *question);
    sp_error error;
    call->run = run_clusters;
    call->more = question;
    call->heavy = true;
    if (!question) {
        (void)sp_fail(&error, SP_NO_MEMORY, "no memory for the request");
        sp_exchange_fail(exchange, &error);
        return false;
    }
    question->one = cluster != NULL;
    if (!cluster) return sp_exchange_only(exchange, all) && ask_set(exchange, call, question);
    bool plain = cluster[0] && strspn(cluster, "0123456789") == strlen(cluster) && strlen(cluster) < 10;
    if (!plain || sscanf(cluster, "%u", &question->cluster) != 1) {
        sp_exchange_refuse(exchange, 404, "cluster", "a cluster is a number");
        return false;
    }
    call->text = cluster; /* its cursors are its own */
    if (!sp_exchange_only(exchange, members) || !sp_graph_ask_filter(exchange, call)) return false;
    return sp_graph_ask_page(exchange, call);
}
