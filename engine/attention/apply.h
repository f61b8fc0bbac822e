/* One attention layer on given tensors, without a model: `sparsed attend` and POST /v1/attention/apply.
 *
 * In: a safetensors file with q [H, n, d], k [Hkv, m, d], v [Hkv, m, dv] and metadata attention, causal,
 * layer, kind, offset, valid, valid_q, edges, scale. Out: a safetensors file with out, and unless edges is
 * "none" indptr, edge_base, indices, weights; metadata report and, on demand, metrics. The contract is
 * engine/README.md, section "attend". Tests: tests/golden/test_attend_golden.c,
 * tests/unit/engine/test_apply.c, tests/http/test_apply.py */
#ifndef SPARSED_ENGINE_ATTENTION_APPLY_H
#define SPARSED_ENGINE_ATTENTION_APPLY_H

#include "kernels/device.h"

typedef struct sp_apply_options {
    bool metrics;
    size_t max_bytes; /* of the answer; what is held while computing stays below four times that. 0: no limit
                         of ours */
} sp_apply_options;

/* in: safetensors bytes (stay the caller's). out: bytes appended. SP_INVALID or SP_DATA name the field or
 * tensor. */
sp_status sp_apply(sp_device *device, const char *name, const void *in, size_t in_size,
                   const sp_apply_options *options, sp_buffer *out, sp_error *error) SP_MUST_CHECK;

#endif
