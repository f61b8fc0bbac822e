/* The engine's answer to a model's attend(): keys and values go to pages, with what a predicting backend
 * keeps of keys beside them, plans are made, kernels run them.
 *
 * One job a sequence of the batch: which rows of the batch are its, where its pages are, which attention it
 * wants, and where its figures are summed. Plans of STATIC backends are made once a step and shared between
 * layers (sp_attention_same_plan). What one sequence gets depends on its job alone. Owner: the engine thread.
 * Plans are step scratch: all together at most plan_bytes. Tests: tests/unit/engine/test_scheduler.c,
 * tests/golden/test_austen.c, tests/attention/ */
#ifndef SPARSED_ENGINE_ATTENTION_ATTEND_H
#define SPARSED_ENGINE_ATTENTION_ATTEND_H

#include "engine/attention/clusters.h"
#include "engine/attention/codes.h"
#include "engine/kv.h"

/* A prompt whose layers are run one by one, each in two passes over its chunks: one collects queries and
 * keys, one attends. */
typedef struct sp_whole {
    float *q;        /* (rows, n_heads, head_dim) of the layer */
    sp_codes *codes; /* what the attention keeps of its keys; holds its own pages; NULL without a fit */
    uint32_t rows;   /* of the prompt */
    bool collects;
} sp_whole;

typedef struct sp_attend_job {
    const sp_attention *attention;
    const sp_attention *keeps;  /* whose keys are kept in side pages; NULL: attention */
    sp_whole *whole;            /* NULL: rows see the keys before them */
    const sp_fit *fit;          /* of the sequence's model or adapter; NULL: none */
    const uint32_t *pages;      /* page table: holds position + rows positions */
    uint32_t first_row, rows;   /* rows of the batch */
    uint32_t position;          /* of the first of them */
    sp_attention_phase *phase;  /* edges, tiles, seconds are added to */
    uint64_t *rows_empty;       /* added to */
    sp_head_measure *measures;  /* (n_layers, n_heads), added to; NULL: not measured */
    sp_clusters *clusters;      /* where measured: counted */
    struct sp_capture *capture; /* its queries are kept; NULL: no capture */
    bool failed;                /* this sequence cannot go on; its rows are zero, the others are unharmed */
    sp_error error;
} sp_attend_job;

typedef struct sp_attender sp_attender;

typedef struct sp_attender_options {
    sp_device *device;
    sp_kv *kv;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t context, max_jobs;
    size_t plan_bytes;
    const sp_fit *const *fits; /* (n_fits) those that jobs may bring; entries may be NULL */
    size_t n_fits;
} sp_attender_options;

/* Scratch of an attender for projected keys and predictions. */
size_t sp_attender_code_bytes(const sp_attender_options *options);
/* Scratch for plans that any backend may need for one step at this context. */
size_t sp_attender_plan_bytes(uint32_t context, uint32_t n_heads);
sp_status sp_attender_open(const sp_attender_options *options, sp_attender **out,
                           sp_error *error) SP_MUST_CHECK;
void sp_attender_close(sp_attender *attender);
/* A new step: plans of the last one are forgotten. jobs (n_jobs <= max_jobs), in the order of the batch's
 * rows, stay the caller's until the forward pass is over. */
void sp_attender_begin(sp_attender *attender, sp_attend_job *jobs, size_t n_jobs);
/* sp_attend_fn; context is the attender. SP_CANCELLED once a job has collected: the pass ends there. */
sp_status sp_attender_attend(void *context, const sp_attend_call *call, sp_error *error);

#endif
