/* sparsefinder: which sets and tables of a fit an attention uses, and the parameters that follow from them.
 *
 * What the request leaves out is filled in from the first layer served; every further layer must have the
 * same sets. What is absent is refused with the sizes that are there, and so is a parameter of another
 * grouping, which would do nothing. Tests: tests/unit/engine/test_attention_resolve.c */
#include "engine/attention/sparsefinder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- which sets and tables --- */

static sp_fit_type set_type(const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                            sp_attend_kind kind, uint32_t *size)
{
    int grouping = (int)attention->params[SP_FINDER_GROUPING];
    *size = 0;
    if (grouping == SP_GROUPING_BLOCK) {
        *size = (uint32_t)attention->params[SP_FINDER_BLOCK];
        return SP_FIT_BLOCK;
    }
    if (grouping == SP_GROUPING_DISTANCE && attention->params[SP_FINDER_METRIC] == SP_METRIC_DOT &&
        sp_fit_find(fit, layer, kind, SP_FIT_DOT, 0))
        return SP_FIT_DOT;
    uint32_t clusters = (uint32_t)attention->params[SP_FINDER_CLUSTERS];
    if (grouping == SP_GROUPING_CLUSTER && sp_fit_find(fit, layer, kind, SP_FIT_CLUSTER, clusters)) {
        *size = clusters;
        return SP_FIT_CLUSTER;
    }
    return SP_FIT_DEFAULT;
}

const sp_fit_set *sp_finder_set(const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                                sp_attend_kind kind)
{
    uint32_t size;
    sp_fit_type type = set_type(attention, fit, layer, kind, &size);
    return sp_fit_find(fit, layer, kind, type, size);
}

const sp_fit_table *sp_finder_thresholds(const sp_attention *attention, const sp_fit_set *set)
{
    double recall = attention->params[SP_FINDER_RECALL];
    uint32_t per_cent = isnan(recall) ? 0 : (uint32_t)lround(100 * recall);
    const sp_fit_table *table = sp_fit_table_find(set->thresholds, set->n_thresholds, per_cent);
    return table && table->size == per_cent ? table : NULL;
}

const sp_fit_table *sp_finder_bins(const sp_attention *attention, const sp_fit_set *set)
{
    return sp_fit_table_find(set->bins, set->n_bins, (uint32_t)attention->params[SP_FINDER_BUCKETS]);
}

const sp_fit_table *sp_finder_centroids(const sp_attention *attention, const sp_fit_set *set)
{
    double clusters = attention->params[SP_FINDER_CLUSTERS];
    return sp_fit_table_find(set->centroids, set->n_centroids, isnan(clusters) ? 0 : (uint32_t)clusters);
}

/* What codes.h keeps in place of k'. */
const sp_fit_table *sp_finder_kept(const sp_attention *attention, const sp_fit_set *set, uint32_t *top,
                                   uint32_t *runs)
{
    if (attention->params[SP_FINDER_GROUPING] != SP_GROUPING_CLUSTER) return NULL;
    *top = (uint32_t)attention->params[SP_FINDER_TOP];
    *runs = (uint32_t)attention->params[SP_FINDER_RUNS];
    return sp_finder_centroids(attention, set);
}

/* --- resolving --- */

typedef struct resolving {
    sp_attention *out;
    const sp_fit *fit;
    uint32_t layer;
    sp_attend_kind kind;
    sp_error *error;
} resolving;

static bool given(const resolving *r, sp_finder_param param)
{
    return !isnan(r->out->params[param]);
}

static void fill(const resolving *r, sp_finder_param param, double value)
{
    if (!given(r, param)) r->out->params[param] = value;
}

static const sp_fit_set *find(const resolving *r, sp_fit_type type, uint32_t size)
{
    return sp_fit_find(r->fit, r->layer, r->kind, type, size);
}

/* Sizes of tables as a text. */
static void list_sizes(const sp_fit_table *tables, size_t n, char *text, size_t size)
{
    size_t used = 0;
    snprintf(text, size, "none");
    for (size_t i = 0; i < n && used < size; i++) {
        int more = tables[i].size ? snprintf(text + used, size - used, "%s%u", used ? ", " : "",
                                             (unsigned)tables[i].size)
                                  : 0;
        used += more > 0 ? (size_t)more : 0;
    }
}

/* Sizes of the sets of a type, and of the centroids of the default set where those of clusters are asked;
 * each once. */
static void list_sets(const resolving *r, sp_fit_type type, char *text, size_t size)
{
    const sp_fit_layer *layer = &r->fit->layers[2 * (size_t)r->layer + (r->kind == SP_ATTEND_CROSS)];
    const sp_fit_set *whole = find(r, SP_FIT_DEFAULT, 0);
    const sp_fit_table *tables = whole && type == SP_FIT_CLUSTER ? whole->centroids : NULL;
    size_t n_tables = tables ? whole->n_centroids : 0, used = 0;
    snprintf(text, size, "none");
    if (n_tables) {
        list_sizes(tables, n_tables, text, size);
        used = strlen(text);
    }
    for (size_t i = 0; i < layer->n_sets && used < size; i++) {
        const sp_fit_set *set = &layer->sets[i];
        if (set->type != type || sp_fit_table_find(tables, n_tables, set->size)) continue;
        int more = snprintf(text + used, size - used, "%s%u", used ? ", " : "", (unsigned)set->size);
        used += more > 0 ? (size_t)more : 0;
    }
}

static sp_status fail_absent(const resolving *r, const char *param, const char *what, const char *present)
{
    return sp_fail_param(r->error, SP_INVALID, param, "the fit has no %s in layer %u; it has %s", what,
                         (unsigned)r->layer, present);
}

static sp_status resolve_distance(const resolving *r)
{
    const sp_fit_set *dot = find(r, SP_FIT_DOT, 0), *set = find(r, SP_FIT_DEFAULT, 0);
    char present[120], wanted[64];
    fill(r, SP_FINDER_METRIC, dot ? SP_METRIC_DOT : SP_METRIC_L2);
    if (r->out->params[SP_FINDER_METRIC] == SP_METRIC_DOT && dot) set = dot;
    if (!set) return fail_absent(r, "attention.params.metric", "default maps", dot ? "a dot set" : "no set");
    if (given(r, SP_FINDER_KEEP) || given(r, SP_FINDER_THRESHOLD)) return SP_OK;
    if (r->out->params[SP_FINDER_METRIC] == SP_METRIC_DOT && !dot) /* the thresholds there are of distances */
        return fail_absent(r, "attention.params.metric", "dot set", "default maps: give threshold or keep");
    if (sp_finder_thresholds(r->out, set)) return SP_OK;
    list_sizes(set->thresholds, set->n_thresholds, present, sizeof present);
    if (given(r, SP_FINDER_RECALL)) {
        snprintf(wanted, sizeof wanted, "thresholds of recall %.4g", r->out->params[SP_FINDER_RECALL]);
        char listed[160];
        snprintf(listed, sizeof listed, "those of (in per cent) %s", present);
        return fail_absent(r, "attention.params.recall", wanted, listed);
    }
    return fail_absent(r, "attention.params.threshold", "default thresholds for these maps",
                       set->n_thresholds ? present : "none; give threshold or keep");
}

static sp_status resolve_bucket(const resolving *r)
{
    const sp_fit_set *set = find(r, SP_FIT_DEFAULT, 0);
    char present[160], wanted[64];
    if (!set) return fail_absent(r, "attention.params.grouping", "default maps", "other sets alone");
    fill(r, SP_FINDER_BINS, SP_BINS_FROZEN);
    fill(r, SP_FINDER_BUCKETS, set->n_bins ? set->bins[0].size : 16);
    if (r->out->params[SP_FINDER_BINS] == SP_BINS_FIXED) fill(r, SP_FINDER_TEMPERATURE, 1);
    if (r->out->params[SP_FINDER_BINS] != SP_BINS_FROZEN || sp_finder_bins(r->out, set)) return SP_OK;
    list_sizes(set->bins, set->n_bins, present, sizeof present);
    snprintf(wanted, sizeof wanted, "bins for %.0f buckets", r->out->params[SP_FINDER_BUCKETS]);
    return fail_absent(r, "attention.params.buckets", wanted, present);
}

/* The centroids of the default set, else the smallest set of the type. */
static double usual_clusters(const resolving *r)
{
    const sp_fit_layer *layer = &r->fit->layers[2 * (size_t)r->layer + (r->kind == SP_ATTEND_CROSS)];
    const sp_fit_set *set = find(r, SP_FIT_DEFAULT, 0);
    if (set && set->n_centroids) return set->centroids[0].size;
    for (size_t i = 0; i < layer->n_sets; i++)
        if (layer->sets[i].type == SP_FIT_CLUSTER) return layer->sets[i].size;
    return NAN;
}

static sp_status check_centroids(const resolving *r, const sp_fit_set *set, sp_fit_type type)
{
    const sp_fit_table *table = set ? sp_finder_centroids(r->out, set) : NULL;
    char present[160], wanted[64];
    if (!table) {
        if (type == SP_FIT_BLOCK && set)
            list_sizes(set->centroids, set->n_centroids, present, sizeof present);
        else
            list_sets(r, type, present, sizeof present);
        bool named = given(r, SP_FINDER_CLUSTERS);
        snprintf(wanted, sizeof wanted, named ? "set of %.0f centroids" : "centroids",
                 named ? r->out->params[SP_FINDER_CLUSTERS] : 0.0);
        return fail_absent(r, "attention.params.clusters", wanted, present);
    }
    fill(r, SP_FINDER_TOP, table->size < 2 ? table->size : 2);
    if (r->out->params[SP_FINDER_TOP] > table->size)
        return sp_fail_param(r->error, SP_INVALID, "attention.params.top",
                             "attention.params.top is %.0f, the fit has %u centroids",
                             r->out->params[SP_FINDER_TOP], (unsigned)table->size);
    if (type == SP_FIT_BLOCK) return SP_OK;
    fill(r, SP_FINDER_RUNS, 1);
    if (r->out->params[SP_FINDER_RUNS] <= table->runs) return SP_OK;
    return sp_fail_param(r->error, SP_INVALID, "attention.params.runs",
                         "attention.params.runs is %.0f, the fit has %u k-means runs of %u centroids",
                         r->out->params[SP_FINDER_RUNS], (unsigned)table->runs, (unsigned)table->size);
}

static sp_status resolve_cluster(const resolving *r)
{
    fill(r, SP_FINDER_CLUSTERS, usual_clusters(r));
    const sp_fit_set *set =
        given(r, SP_FINDER_CLUSTERS) ? sp_finder_set(r->out, r->fit, r->layer, r->kind) : NULL;
    return check_centroids(r, set, SP_FIT_CLUSTER);
}

static sp_status resolve_block(const resolving *r)
{
    char present[120], wanted[64];
    fill(r, SP_FINDER_BLOCK, 64);
    fill(r, SP_FINDER_SELECT, SP_SELECT_TOKEN);
    fill(r, SP_FINDER_KEEP, 16);
    const sp_fit_set *set = find(r, SP_FIT_BLOCK, (uint32_t)r->out->params[SP_FINDER_BLOCK]);
    if (!set) {
        list_sets(r, SP_FIT_BLOCK, present, sizeof present);
        snprintf(wanted, sizeof wanted, "set for blocks of %.0f", r->out->params[SP_FINDER_BLOCK]);
        return fail_absent(r, "attention.params.block", wanted, present);
    }
    sp_status status = check_centroids(r, set, SP_FIT_BLOCK);
    if (status == SP_OK) fill(r, SP_FINDER_CLUSTERS, sp_finder_centroids(r->out, set)->size);
    return status;
}

/* Parameters of other groupings would be ignored: they are refused. */
static sp_status check_grouping(const resolving *r)
{
    static const unsigned all = 15, distance = 1u << SP_GROUPING_DISTANCE, bucket = 1u << SP_GROUPING_BUCKET;
    static const unsigned cluster = 1u << SP_GROUPING_CLUSTER, block = 1u << SP_GROUPING_BLOCK;
    static const char *const names[] = {"distance", "bucket", "cluster", "block"};
    const unsigned of[SP_FINDER_PARAMS] = {[SP_FINDER_GROUPING] = all,
                                           [SP_FINDER_METRIC] = distance,
                                           [SP_FINDER_THRESHOLD] = distance,
                                           [SP_FINDER_RECALL] = distance,
                                           [SP_FINDER_KEEP] = distance | block,
                                           [SP_FINDER_BUCKETS] = bucket,
                                           [SP_FINDER_BINS] = bucket,
                                           [SP_FINDER_TEMPERATURE] = bucket,
                                           [SP_FINDER_CLUSTERS] = cluster | block,
                                           [SP_FINDER_TOP] = cluster | block,
                                           [SP_FINDER_RUNS] = cluster | block,
                                           [SP_FINDER_BLOCK] = block,
                                           [SP_FINDER_SELECT] = block,
                                           [SP_FINDER_WINDOW] = all,
                                           [SP_FINDER_FIRST] = all,
                                           [SP_FINDER_LAST] = all};
    unsigned grouping = (unsigned)r->out->params[SP_FINDER_GROUPING];
    for (size_t i = 0; i < SP_FINDER_PARAMS; i++) {
        if (!given(r, (sp_finder_param)i) || of[i] >> grouping & 1) continue;
        char field[64];
        const char *name = r->out->backend->params[i].name;
        snprintf(field, sizeof field, "attention.params.%s", name);
        return sp_fail_param(r->error, SP_INVALID, field, "%s is no parameter of grouping %s", name,
                             names[grouping]);
    }
    return SP_OK;
}

/* Only the first layer fills in; the others are checked with what it chose. */
static sp_status resolve_layer(const resolving *r)
{
    switch ((int)r->out->params[SP_FINDER_GROUPING]) {
    case SP_GROUPING_DISTANCE:
        return resolve_distance(r);
    case SP_GROUPING_BUCKET:
        return resolve_bucket(r);
    case SP_GROUPING_CLUSTER:
        return resolve_cluster(r);
    default:
        return resolve_block(r);
    }
}

sp_status sp_finder_resolve(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                            sp_attend_kind kind, sp_error *error)
{
    resolving r = {.out = attention, .fit = fit, .layer = begin, .kind = kind, .error = error};
    if (end > fit->n_layers)
        return sp_fail_param(error, SP_INVALID, "attention.backend", "the fit has nothing for layer %u",
                             (unsigned)(end - 1));
    fill(&r, SP_FINDER_GROUPING, find(&r, SP_FIT_DOT, 0) ? SP_GROUPING_DISTANCE : SP_GROUPING_CLUSTER);
    sp_status status = check_grouping(&r);
    bool block = attention->params[SP_FINDER_GROUPING] == SP_GROUPING_BLOCK;
    fill(&r, SP_FINDER_WINDOW, kind == SP_ATTEND_CROSS ? 0 : block ? 3 : 33);
    for (; r.layer < end && status == SP_OK; r.layer++) status = resolve_layer(&r);
    return status;
}

/* --- generated tokens --- */

/* An attention of sparsefinder without parameters. */
void sp_finder_blank(sp_attention *attention, int grouping)
{
    attention->backend = sp_backend_find("sparsefinder", 12);
    for (size_t i = 0; i < SP_FINDER_PARAMS; i++)
        attention->params[i] = attention->backend->params[i].fallback;
    attention->params[SP_FINDER_GROUPING] = grouping;
}

/* block: clusters of single tokens, as many as blocks have, else what the fit has; equal bins: frozen ones.
 */
bool sp_finder_fall_back(const sp_attention *attention, uint32_t number, sp_attention *decode,
                         const char *names[2])
{
    bool block = attention->params[SP_FINDER_GROUPING] == SP_GROUPING_BLOCK;
    sp_finder_blank(decode, block ? SP_GROUPING_CLUSTER : SP_GROUPING_BUCKET);
    names[0] = block ? "block" : "equal";
    names[1] = block ? "cluster" : "frozen";
    if (block && number == 0) decode->params[SP_FINDER_CLUSTERS] = attention->params[SP_FINDER_CLUSTERS];
    if (block) return number < 2;
    if (number == 0) decode->params[SP_FINDER_BUCKETS] = attention->params[SP_FINDER_BUCKETS];
    decode->params[SP_FINDER_BINS] = SP_BINS_FROZEN;
    decode->params[SP_FINDER_WINDOW] = attention->params[SP_FINDER_WINDOW];
    decode->params[SP_FINDER_FIRST] = attention->params[SP_FINDER_FIRST];
    return number < 2;
}
