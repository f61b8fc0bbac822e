/* What a fit learns from: queries and keys of some layers of a model that reads a text with its own
 * attention.
 *
 * Every window goes through the model at once; attention keeps one layer's keys at a time, so memory is that
 * of the sample and of one forward pass. Numbers are kept in bf16, as keys are served. The windows of a model
 * too large for one sample are read again for every group of layers. Owner: sp_sampler the model's scratch,
 * sp_sample its numbers. Tests: tests/unit/engine/test_fit_job.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_SAMPLE_H
#define SPARSED_ENGINE_SPARSEFINDER_SAMPLE_H

#include "engine/sparsefinder/fit_text.h"
#include "models/model.h"

typedef struct sp_sample {
    uint32_t first_layer, n_layers; /* of the model */
    uint32_t n_heads, n_kv_heads, head_dim, length;
    size_t n_windows;
    float scale; /* of the scores q.k, usually 1 / sqrt(head_dim) */
    sp_normalizer normalizer;
    uint16_t *q; /* bf16 (n_layers, n_heads, n_windows, length, head_dim) */
    uint16_t *k; /* bf16 (n_layers, n_kv_heads, n_windows, head_dim, length) */
    /* Where q and k are those before the rotary embedding: those behind it, which the model attends by; else
     * NULL */
    uint16_t *turned_q, *turned_k;
} sp_sample;

/* (length, head_dim) and (head_dim, length); layer counts from 0 in the sample. */
const uint16_t *sp_sample_q(const sp_sample *sample, uint32_t layer, uint32_t head, size_t window);
const uint16_t *sp_sample_k(const sp_sample *sample, uint32_t layer, uint32_t kv_head, size_t window);
/* The same of turned_q and turned_k, where there are such. */
const uint16_t *sp_sample_turned_q(const sp_sample *sample, uint32_t layer, uint32_t head, size_t window);
const uint16_t *sp_sample_turned_k(const sp_sample *sample, uint32_t layer, uint32_t kv_head, size_t window);
void sp_sample_fini(sp_sample *sample);

typedef struct sp_sample_options {
    sp_model *model; /* outlives the sampler, as does the text */
    const sp_fit_text *text;
    uint32_t adapter; /* 0: the base alone, i: the model's adapter i - 1 */
    sp_normalizer normalizer;
    sp_dtype kv;   /* type of the keys that the model attends to */
    bool rope_pre; /* queries and keys as before the rotary embedding, and behind it */
} sp_sample_options;

/* Bytes that a sample of one layer takes. */
size_t sp_sample_layer_bytes(const sp_sample_options *options);

typedef struct sp_sampler sp_sampler;
sp_status sp_sampler_open(const sp_sample_options *options, sp_sampler **out, sp_error *error) SP_MUST_CHECK;
void sp_sampler_close(sp_sampler *sampler);
/* Reads layers first .. first + n - 1 into *out (sp_sample_fini). progress(context, share of the windows)
 * may be NULL; false ends with SP_CANCELLED. */
sp_status sp_sampler_read(sp_sampler *sampler, uint32_t first, uint32_t n,
                          bool (*progress)(void *context, double share), void *context, sp_sample *out,
                          sp_error *error) SP_MUST_CHECK;

#endif
