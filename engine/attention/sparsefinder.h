/* What the files of the sparsefinder backend share, one file a grouping. Private to engine/attention. */
#ifndef SPARSED_ENGINE_ATTENTION_SPARSEFINDER_H
#define SPARSED_ENGINE_ATTENTION_SPARSEFINDER_H

#include "engine/attention/band.h"
#include "engine/attention/scratch.h"
#include "engine/sparsefinder/fit.h"

/* Parameters, in the order of the table in sparsefinder.c; values that are names, in the order of theirs. */
typedef enum sp_finder_param {
    SP_FINDER_GROUPING,
    SP_FINDER_METRIC,
    SP_FINDER_THRESHOLD,
    SP_FINDER_RECALL,
    SP_FINDER_KEEP,
    SP_FINDER_BUCKETS,
    SP_FINDER_BINS,
    SP_FINDER_TEMPERATURE,
    SP_FINDER_CLUSTERS,
    SP_FINDER_TOP,
    SP_FINDER_RUNS,
    SP_FINDER_BLOCK,
    SP_FINDER_SELECT,
    SP_FINDER_WINDOW,
    SP_FINDER_FIRST,
    SP_FINDER_LAST,
    SP_FINDER_PARAMS
} sp_finder_param;
enum { SP_GROUPING_DISTANCE, SP_GROUPING_BUCKET, SP_GROUPING_CLUSTER, SP_GROUPING_BLOCK };
enum { SP_BINS_EQUAL, SP_BINS_FIXED, SP_BINS_FROZEN };
enum { SP_SELECT_TOKEN, SP_SELECT_CENTROID };

/* One plan being made. */
typedef struct sp_finder {
    const sp_plan_request *request;
    const sp_fit_set *set; /* whose maps q and k went through */
    sp_band band;
    sp_scratch *scratch;
    sp_plan *plan; /* begun, one list a head */
} sp_finder;

static inline double sp_finder_value(const sp_attention *attention, sp_finder_param param)
{
    return attention->params[param];
}
static inline uint32_t sp_finder_u32(const sp_finder *self, sp_finder_param param)
{
    return (uint32_t)self->request->attention->params[param];
}

/* q' (rows, n_heads, rank) of rows of q (rows, n_heads, head_dim) by the set's maps. SP_NO_MEMORY,
 * SP_TOO_LARGE. */
sp_status sp_finder_project(const sp_finder *self, const float *q, uint32_t rows, float **out,
                            sp_error *error) SP_MUST_CHECK;
/* Reads number d of the 64 keys of a tile as float32 from what is kept; positions that are not written yet
 * hold anything. */
void sp_finder_codes(const sp_code_view *codes, uint32_t map, uint32_t tile, uint32_t d, float out[SP_TILE]);
/* All k' of the keys a head reads: (n_keys, rank). */
void sp_finder_keys(const sp_finder *self, uint32_t head, float *out);

/* Slots of sp_backend. */
const sp_fit_set *sp_finder_set(const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                                sp_attend_kind kind);
const sp_fit_table *sp_finder_kept(const sp_attention *attention, const sp_fit_set *set, uint32_t *top,
                                   uint32_t *runs);
sp_status sp_finder_resolve(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                            sp_attend_kind kind, sp_error *error) SP_MUST_CHECK;

bool sp_finder_fall_back(const sp_attention *attention, uint32_t number, sp_attention *decode,
                         const char *names[2]);
/* Makes it sparsefinder with this grouping and no other parameter. */
void sp_finder_blank(sp_attention *attention, int grouping);

/* The groupings: they add tiles and groups to the plan. */
sp_status sp_finder_distance(const sp_finder *self, sp_error *error) SP_MUST_CHECK;
sp_status sp_finder_bucket(const sp_finder *self, sp_error *error) SP_MUST_CHECK;
sp_status sp_finder_cluster(const sp_finder *self, sp_error *error) SP_MUST_CHECK;
sp_status sp_finder_block(const sp_finder *self, sp_error *error) SP_MUST_CHECK;

/* The table of a set that the attention asks for; NULL where absent. Resolved parameters. */
const sp_fit_table *sp_finder_thresholds(const sp_attention *attention, const sp_fit_set *set);
const sp_fit_table *sp_finder_bins(const sp_attention *attention, const sp_fit_set *set);
const sp_fit_table *sp_finder_centroids(const sp_attention *attention, const sp_fit_set *set);

/* Where keys are kept as sets, of `size` centroids a run. q_ids: (n_heads, runs, rows, top). */
sp_status sp_finder_cluster_sets(const sp_finder *self, uint32_t runs, uint32_t top, uint32_t size,
                                 const uint16_t *q_ids, sp_error *error) SP_MUST_CHECK;
/* The groups of a chunk of one row, where keys are kept as ids. q_ids: (n_heads, runs, top). */
sp_status sp_finder_cluster_row(const sp_finder *self, uint32_t runs, uint32_t top, const uint16_t *q_ids,
                                sp_error *error) SP_MUST_CHECK;

#endif
