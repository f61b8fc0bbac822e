/* A fit, from a model and a text to a fit file (engine/README.md, "Fitting"; `sparsed fit`).
 *
 * Layers are sampled in groups that fit the memory given; the units of a group (unit.h) are trained side by
 * side, one thread each, and give the same numbers at any thread count. What is finished is kept in
 * OUT.state beside the output, so that a job that was stopped goes on where it was and writes the same bytes;
 * the file is removed at the end. Tests: tests/unit/engine/test_fit_job.c, tests/golden/test_fit.py */
#ifndef SPARSED_ENGINE_SPARSEFINDER_FIT_JOB_H
#define SPARSED_ENGINE_SPARSEFINDER_FIT_JOB_H

#include <stdatomic.h>

#include "engine/sparsefinder/judge.h"
#include "engine/sparsefinder/train.h"

enum { SP_FIT_SIZES = 8 };
typedef struct sp_size_list {
    uint32_t items[SP_FIT_SIZES]; /* (n) ascending, different */
    size_t n;
} sp_size_list;

typedef struct sp_fit_options {
    sp_fit_loss loss; /* BALANCED: sets dot, default and cluster{C}; HINGE: the default set alone */
    uint32_t rank, steps;
    bool shared;           /* one map for queries and keys */
    bool k_map_a_head;     /* else one a KV head */
    sp_size_list clusters; /* routed: sets of their own */
    sp_size_list kmeans;   /* plain k-means on the default maps */
    sp_size_list bins;     /* frozen, on the default maps */
    sp_size_list blocks;   /* block lengths: sets of their own */
    uint32_t runs;         /* of plain k-means */
    double lambda;         /* routed clusters: how much an edge that is none costs */
    double gold_mass;      /* softmax: share that the true graph holds */
    int64_t seed;
    size_t sample_bytes; /* most for queries and keys at once; at least one layer is taken */
} sp_fit_options;
void sp_fit_options_init(sp_fit_options *options); /* the defaults */

/* What is known about a head when it is done. */
typedef struct sp_head_figures {
    double first_loss, last_loss; /* of dot, else of the default set */
    sp_judgement judgement;       /* on the windows held out */
} sp_head_figures;

typedef struct sp_fit_progress {
    void (*sampling)(void *context, double share);
    /* Once, where an earlier run's state is gone on from: groups of heads that are done. */
    void (*resumed)(void *context, uint32_t done, uint32_t all);
    /* heads first .. first + n - 1 of a layer are done; never two at once. Share of the whole job. */
    void (*trained)(void *context, uint32_t layer, uint32_t first, uint32_t n, const sp_head_figures *figures,
                    double share);
    void *context;
} sp_fit_progress;

typedef struct sp_fit_result {
    sp_fit *fit;                /* sp_fit_close */
    sp_head_figures *figures;   /* (n_layers, n_heads); sp_free */
    size_t n_train, n_held_out; /* windows */
    size_t resumed;             /* units found in the state file */
} sp_fit_result;

/* Runs the job; path: where the fit goes, its state is kept in PATH.state. SP_CANCELLED after *stop became
 * true. */
sp_status sp_fit_run(const sp_sample_options *source, const sp_fit_options *options, const char *path,
                     const sp_fit_progress *progress, const atomic_bool *stop, sp_fit_result *out,
                     sp_error *error) SP_MUST_CHECK;

/* Judges a fit that there is on every window of a text; figures (n_layers, n_heads), sp_free. */
sp_status sp_fit_judge(const sp_sample_options *source, const sp_fit *fit, double gold_mass,
                       size_t sample_bytes, const sp_fit_progress *progress, const atomic_bool *stop,
                       sp_head_figures **figures, sp_error *error) SP_MUST_CHECK;

#endif
