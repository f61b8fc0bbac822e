/* One attention layer on given tensors, without a model: `sparsed attend` and POST /v1/attention/apply.
 *
 * In: a safetensors file with q [H, n, d], k [Hkv, m, d], v [Hkv, m, dv] and metadata attention, causal,
 * layer, kind, offset, valid, valid_q, edges, scale. Out: a safetensors file with out, and unless edges is
 * "none" indptr, edge_base, indices, weights; metadata report and, on demand, metrics. The contract is
 * engine/README.md, section "attend". Tests: tests/golden/test_attend_golden.c,
 * tests/unit/engine/test_apply.c, tests/http/test_apply.py */
#ifndef SPARSED_ENGINE_ATTENTION_APPLY_H
#define SPARSED_ENGINE_ATTENTION_APPLY_H

#include "engine/sparsefinder/fit.h"
#include "kernels/device.h"

/* A job holds at most so many times max_bytes, and SP_APPLY_PLAN_BYTES, beside its input and its answer's
 * bytes: one for the answer's arrays, one for the plan, three for copies of keys, values and a chunk, two for
 * predicting: queries and projected keys, and room to work in. */
#define SP_APPLY_WORK 7
#define SP_APPLY_PLAN_BYTES ((size_t)1 << 20)

typedef struct sp_apply_options {
    bool metrics, coarse_times;  /* sp_seconds_coarsen */
    size_t max_bytes;            /* of the answer; 0: no limit of ours. See SP_APPLY_WORK */
    bool (*stop)(void *context); /* asked before every step: true ends the job as SP_CANCELLED; or NULL */
    void *stop_context;
    double step_seconds; /* what a step should take: its work follows what those before took; 0: some 50 ms */
    const sp_fit *fit;   /* the layer's, for backends that need one; NULL: that of the input's own tensors */
    /* sp_engine_apply, without `fit`: whose is taken; 0: the model's, i: its adapter i - 1's */
    uint32_t adapter;
} sp_apply_options;

/* in: safetensors bytes (stay the caller's). out: bytes appended. SP_INVALID or SP_DATA name the field or
 * tensor. */
sp_status sp_apply(sp_device *device, const char *name, const void *in, size_t in_size,
                   const sp_apply_options *options, sp_buffer *out, sp_error *error) SP_MUST_CHECK;

/* The same in short steps, for a thread that has other work: open checks the input (any thread), each step
 * computes some rows on the device until *done, finish appends the answer. The bits do not depend on
 * the steps. in must stay until close, which accepts NULL. */
typedef struct sp_apply_job sp_apply_job;
sp_status sp_apply_open(sp_device *device, const char *name, const void *in, size_t in_size,
                        const sp_apply_options *options, sp_apply_job **out, sp_error *error) SP_MUST_CHECK;
sp_status sp_apply_step(sp_apply_job *job, bool *done, sp_error *error) SP_MUST_CHECK;
sp_status sp_apply_finish(sp_apply_job *job, sp_buffer *out, sp_error *error) SP_MUST_CHECK;
void sp_apply_close(sp_apply_job *job);

#endif
