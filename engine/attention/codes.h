/* What the engine keeps of keys for a predicting backend, in side pages of 64 positions: projected keys
 * k' = k W + b, or for cluster grouping which keys each centroid took.
 *
 * What is kept follows from the sequence's attention: the backend names the set of the fit (sp_backend.codes)
 * and, where ids are all it reads, the centroids (sp_backend.centroids). New keys are projected once, when
 * they are written. In serving the side pages lie beside the KV pages, under the same page numbers, in the KV
 * type, and are priced and freed with them (engine/kv.h); one layer's part of a side page has room for
 * whatever any attention keeps. `attend` and measures hold float32 pages of their own.
 *
 * One layer's part of a page, either
 *   codes  map g at g * map_bytes, as in kernels/predict.h
 *   sets   up to 64 centroids: (runs, n_heads, centroids) words, bit i: key i has the centroid. A centroid's
 *          words, page after page, are the list of its keys: growing as keys come, read without the others
 *   ids    more centroids: (runs, n_heads, 64, 4) uint16: nearest first, n_ids of the four are used
 * Owner: an sp_codes belongs to one thread at a time. Tests: tests/unit/engine/test_codes.c */
#ifndef SPARSED_ENGINE_ATTENTION_CODES_H
#define SPARSED_ENGINE_ATTENTION_CODES_H

#include "engine/attention/attention.h"
#include "engine/sparsefinder/fit.h"

#define SP_IDS_A_KEY 4u

typedef struct sp_codes sp_codes;

typedef struct sp_codes_options {
    sp_device *device;
    uint32_t n_heads, n_kv_heads, head_dim;
    sp_dtype dtype;            /* of k': SP_F32 or SP_BF16 */
    uint32_t max_keys;         /* longest sequence */
    const sp_fit *const *fits; /* (n_fits), entries may be NULL: those whose keys may be asked for */
    size_t n_fits;
    bool own_pages; /* it holds the pages of one sequence and layer itself */
} sp_codes_options;

/* Bytes of one layer's part of a side page: the most that any set of these fits needs. 0: nothing is kept. */
size_t sp_codes_page_bytes(const sp_fit *const *fits, size_t n_fits, uint32_t n_heads, sp_dtype dtype);
/* Bytes that sp_codes_open takes, for the memory ceiling; own pages not counted. */
size_t sp_codes_scratch_bytes(const sp_codes_options *options);

/* SP_NO_MEMORY. *out: sp_codes_close. */
sp_status sp_codes_open(const sp_codes_options *options, sp_codes **out, sp_error *error) SP_MUST_CHECK;
void sp_codes_close(sp_codes *codes);

/* Turns to what this attention keeps of this layer. False: nothing, and append and attach do nothing. */
bool sp_codes_select(sp_codes *codes, const sp_attention *attention, const sp_fit *fit, uint32_t layer,
                     sp_attend_kind kind);
/* Without own pages: where key tile t of the selected layer lies. */
void sp_codes_place(sp_codes *codes, uint32_t tile, uint8_t *page);
/* Where it lies. */
const uint8_t *sp_codes_page(const sp_codes *codes, uint32_t tile);
/* Projects and stores the keys of positions position .. position + rows - 1. k: (rows, n_kv_heads, head_dim)
 */
void sp_codes_append(sp_codes *codes, uint32_t position, uint32_t rows, const float *k);
/* Gives a plan request what was kept of keys 0 .. n_keys - 1: fit, codes, sets, id_pages, n_ids,
 * n_id_runs. The request points into codes, until the next select. */
void sp_codes_attach(sp_codes *codes, uint32_t n_keys, sp_plan_request *request);

#endif
