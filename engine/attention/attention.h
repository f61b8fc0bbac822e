/* Attention backends: which keys a query may see. A backend is one file that exports one const sp_backend,
 * and one line in backends.def. The registry drives requests, --help, GET /v1/attention/backends, the docs
 * table and the conformance tests: a new backend is tested the moment its line is added.
 *
 * The names, parameters and exact definitions are the contract "The attention object" in engine/README.md. A
 * backend never reads q or k itself: it fills a plan from positions, or composes the device's ops. Tests:
 * tests/attention/ */
#ifndef SPARSED_ENGINE_ATTENTION_ATTENTION_H
#define SPARSED_ENGINE_ATTENTION_ATTENTION_H

#include "engine/sparsefinder/fit.h"
#include "kernels/json.h"
#include "kernels/ops.h"
#include "models/forward.h"

/* Caps: what a backend promises. */
#define SP_CAP_STATIC 1u    /* positions alone decide: plan once a step, share between layers */
#define SP_CAP_NEEDS_QK 2u  /* reads q and k through the device's ops */
#define SP_CAP_NEEDS_FIT 4u /* reads the fit file */
#define SP_CAP_STREAMING 8u /* row t never changes when later tokens arrive: may decode */
#define SP_CAP_BIDIRECTIONAL 16u
#define SP_CAP_CROSS 32u
#define SP_CAP_PREFIX 64u /* its rows read nothing of earlier tokens but pages and sides: may be shared */

typedef enum sp_param_type { SP_PARAM_INT, SP_PARAM_NUMBER, SP_PARAM_NAME } sp_param_type;
typedef struct sp_param {
    const char *name, *summary;
    sp_param_type type;
    double fallback, min,
        max;       /* fallback NaN: absent until sp_attention_resolve, and where it does not apply */
    bool odd_only; /* windows: odd, or 0 for none */
    const char *const *values; /* SP_PARAM_NAME: NULL terminated; fallback is an index into it */
} sp_param;

#define SP_MAX_PARAMS 16
struct sp_scratch;
#define SP_MAX_CAPTURED 256u /* layers and heads that a capture's lists may name are below */
typedef enum sp_heads_mode { SP_HEADS_MERGED, SP_HEADS_INTERLEAVED, SP_HEADS_MULTIHEAD } sp_heads_mode;

typedef struct sp_backend sp_backend;

/* A request's attention, checked and with every default filled in. Plain data: copy freely. */
typedef struct sp_attention {
    const sp_backend *backend;
    double params[SP_MAX_PARAMS]; /* in the order of backend->params */
    uint64_t seed;                /* exact value of a `seed` parameter */
    bool normalizer_is_model;     /* "model": normalizer holds what that resolved to */
    sp_normalizer normalizer;
    sp_heads_mode heads;
    bool strict, measure;
    bool capture;                      /* keep what graph queries need (engine/graph/) */
    bool some_layers, some_heads;      /* of the capture: those of the sets below, else all */
    uint64_t layers[4], heads_kept[4]; /* bit sets, SP_MAX_CAPTURED */
    /* Generated tokens' own pattern ("decode", or what a backend that does not stream falls back to); NULL:
     * the same. */
    const sp_backend *decode_backend;
    double decode_params[SP_MAX_PARAMS];
    uint64_t decode_seed;
    bool falls_back;      /* resolve must find one */
    char fallback[2][16]; /* from and to, where one was found */
    char requested[32];   /* the backend's name as asked */
    char reason[192];     /* why auto chose this; empty: it was asked for */
    char notes[256];      /* sentences for attention_report.notes, separated by \n */
} sp_attention;

/* What a plan is made for. */
typedef struct sp_plan_request {
    const sp_attention *attention;
    uint32_t layer;
    sp_attend_kind kind;
    bool causal;
    uint32_t position, rows, n_keys; /* as sp_plan_shape; valid keys are 0 .. n_keys - 1 */
    uint32_t n_heads, n_kv_heads;
    sp_device *device;
    const float *q; /* (rows, n_heads, head_dim); NEEDS_QK only */
    const sp_kv_view *kv;
    /* Backends that do not stream select among all queries of the sequence; else NULL. They begin at the
     * position whole_position; only valid ones are counted. */
    const float *whole_q; /* (whole_rows, n_heads, head_dim) */
    uint32_t whole_position, whole_rows;
    struct sp_scratch *scratch; /* room to work in, kept between plans; NULL: allocated and freed */
    /* NEEDS_FIT only; what is kept of keys is written before the plan is made (codes.h) */
    const sp_fit *fit;         /* of the sequence's model or adapter; NULL: none */
    const sp_code_view *codes; /* k' of the set that codes() names; NULL where sets or ids are kept instead */
    const sp_set_view *sets;   /* set (run * n_heads + head) * centroids + c: keys that took c; or NULL */
    const uint16_t *const
        *id_pages; /* many centroids: key tile: (n_id_runs, n_heads, 64, 4) nearest centroids of each key */
    uint32_t n_ids, n_id_runs; /* ids of the four that are used; runs */
} sp_plan_request;

struct sp_backend {
    const char *name, *summary;
    unsigned caps;
    const sp_param *params;
    size_t n_params;
    bool has_heads; /* takes `heads` modes */
    /* Beyond single ranges: summary <= stride, heads % distinct = 0. NULL: nothing. SP_INVALID, param
     * "attention.params.X". */
    sp_status (*check)(const sp_attention *attention, uint32_t n_heads, sp_error *error);
    /* NEEDS_FIT: fills in the parameters that depend on the fit and the kind of attention, and refuses what
     * the layers begin .. end - 1 of the fit lack: SP_INVALID, naming the sizes present. */
    sp_status (*resolve)(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                         sp_attend_kind kind, sp_error *error);
    /* What generated tokens see where these parameters do not stream: sets *decode, which has the same
     * backend with no parameters, and the names from and to; the first of several that the fit can serve is
     * taken (number 0, 1, ..). False: there is no such. */
    bool (*fall_back)(const sp_attention *attention, uint32_t number, sp_attention *decode,
                      const char *names[2]);
    /* Whether these parameters stream, where caps say that some do. NULL: all. */
    bool (*streams)(const sp_attention *attention);
    /* STATIC backends: layers with the same part share a plan. NULL: all do. */
    uint32_t (*part)(const sp_attention *attention, uint32_t layer);
    sp_status (*plan)(const sp_plan_request *request, sp_plan *out, sp_error *error);
    /* The set by whose k maps keys are projected and kept for this layer; NULL, or an answer of NULL: nothing
     * is kept. */
    const sp_fit_set *(*codes)(const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                               sp_attend_kind kind);
    /* The centroids of that set whose ids are kept in place of k': the `top` (1..4) nearest of the first
     * `runs` runs. NULL, or an answer of NULL: k' is kept. */
    const sp_fit_table *(*centroids)(const sp_attention *attention, const sp_fit_set *set, uint32_t *top,
                                     uint32_t *runs);
};

/* All backends, NULL terminated, in the order of backends.def. */
extern const sp_backend *const sp_backends[];
const sp_backend *sp_backend_find(const char *name, size_t size);
/* Value of a parameter by name; the parameter must exist. */
double sp_attention_param(const sp_attention *attention, const char *name);

/* What a model means to an attention object. */
typedef struct sp_attention_host {
    uint32_t n_heads, n_layers;     /* n_layers: of a capture's list */
    sp_normalizer model_normalizer; /* what "model" resolves to */
    bool generates;                 /* the request decodes: the backend must stream */
    bool allow_measure, allow_capture;
} sp_attention_host;

/* Parses the value of `attention`: a string, an object, or text NULL for the fallback (a JSON text; NULL:
 * dense). SP_INVALID names the field: attention.params.stride. */
sp_status sp_attention_parse(const char *text, size_t size, const sp_attention_host *host, sp_attention *out,
                             sp_error *error) SP_MUST_CHECK;
/* Fills in what a parsed attention still lacks, once the model's (or adapter's) fit is known; fit NULL: none.
 * Layers begin .. end - 1 are to be served. Refuses a backend whose fit or set is missing: SP_INVALID. Notes
 * an alpha that is not the fit's. */
sp_status sp_attention_resolve(sp_attention *attention, const sp_fit *fit, uint32_t begin, uint32_t end,
                               sp_attend_kind kind, sp_error *error) SP_MUST_CHECK;
/* The attention of generated tokens. */
sp_attention sp_attention_decoding(const sp_attention *attention);
/* Whether both keep the same of keys in side pages (codes.h). */
bool sp_attention_same_codes(const sp_attention *a, const sp_attention *b, const sp_fit *fit,
                             sp_attend_kind kind);
/* Row t never changes when later tokens arrive. */
bool sp_attention_streams(const sp_attention *attention);
/* Rows depend on all others, or on where the text ends: the whole prompt must be there. */
bool sp_attention_needs_whole(const sp_attention *attention);
/* Adds a sentence to the notes; one that does not fit is left out. */
void sp_attention_note(sp_attention *attention, const char *format, ...) SP_PRINTF(2, 3);
/* Builds the plan: begin, the backend's edges, end. */
sp_status sp_attention_plan(const sp_plan_request *request, sp_plan *out, sp_error *error) SP_MUST_CHECK;
/* True when both layers may share a plan for the same positions. */
bool sp_attention_same_plan(const sp_attention *attention, uint32_t layer_a, uint32_t layer_b);

/* --- the report --- */
typedef struct sp_attention_phase {
    uint64_t tokens, edges, pairs, tiles, groups;
    double predict_seconds, attend_seconds;
} sp_attention_phase;
typedef struct sp_head_measure { /* one a layer and head, layer-major */
    uint64_t edges_gold, edges_pred, edges_both, pairs_valid, rows_valid, rows_exact, rows_empty;
    double mass, rows; /* sum over rows of the share of the gold weight kept; rows counted */
    /* of attention by clusters (clusters.h); else 0 */
    uint32_t clusters;
    uint64_t sequences, operations, operations_balanced;
    double entropy_q, entropy_k; /* sums over sequences */
} sp_head_measure;
typedef struct sp_attention_report {
    sp_attention attention;
    sp_attention_phase prefill, decode;
    uint64_t rows_empty;
    bool trained; /* the model was trained with this pattern and normalizer */
    bool batch_invariant;
    const char *device;
    const sp_head_measure *measures; /* (n_layers * n_heads) or NULL */
    uint32_t n_layers, n_heads;
} sp_attention_report;
/* One JSON object, as engine/README.md says. */
void sp_attention_report_write(const sp_attention_report *report, sp_json_writer *out);
/* Seconds as those are told who must not see what others' prompts have left in the processor, whose branch
 * predictors follow a prompt that was just read by somebody else up to 2 us faster: whole milliseconds, up or
 * down at random, so that sums of many stay right. */
double sp_seconds_coarsen(double seconds);
void sp_attention_phase_coarsen(sp_attention_phase *phase);
void sp_attention_phase_add(sp_attention_phase *sum, const sp_attention_phase *more);
/* Adds what another request with the same attention counted: phases, empty rows, measures (which sum must
 * have where more has them). */
void sp_attention_report_add(sp_attention_report *sum, sp_head_measure *measures,
                             const sp_attention_report *more);
/* The whole reply of GET /v1/attention/backends: one object. no_fit: why backends that need a fit are not
 * available; NULL: they are. */
void sp_backends_write(const char *no_fit, sp_json_writer *out);
/* The parameters, resolved: {"window":33}. */
void sp_attention_write_params(const sp_attention *attention, sp_json_writer *out);
/* {"alpha": a} or "softmax". */
void sp_normalizer_write(sp_normalizer normalizer, sp_json_writer *out);

#endif
