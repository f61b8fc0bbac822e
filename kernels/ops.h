/* The contract of every kernel a device offers. The CPU fills each slot with reference C first and lets
 * faster instruction sets overwrite it (kernels/cpu/).
 *
 * Rules for every slot: outputs are overwritten, never read first (they may hold NaN); inputs and outputs do
 * not overlap unless said; a row's result depends on that row alone and on the weights: the same bits for any
 * number of rows, any place in the batch, any thread count (DESIGN 7). Activations are float32 and row-major.
 * Tests: tests/kernels/ compare every CPU level with the reference and with float64. */
#ifndef SPARSED_KERNELS_OPS_H
#define SPARSED_KERNELS_OPS_H

#include "kernels/device.h"
#include "kernels/normalizer.h"
#include "kernels/plan.h"
#include "kernels/predict.h"
#include "kernels/tensor.h"

/* A linear layer's weights, packed for this device in panels of 32 outputs, zero padded:
 *   f32:  panel[k][32]        bf16: panel[k / 2][32][2], k padded to even
 * so that lanes run across outputs and every output is summed over k in ascending order by one accumulator.
 * Block types keep their bits, scales beside them (kernels/cpu/quant.h), and meet activations rounded to int8
 * with one scale a block of 32.
 * A device opened with openblas keeps plain row-major float32 (n_out, n_in) instead. A matrix belongs to the
 * device that packed it. */
typedef struct sp_matrix {
    size_t n_out, n_in;
    sp_dtype dtype;  /* of the panels: SP_F32, SP_BF16 or a block type */
    bool round_rows; /* bf16 panels: activations are rounded to bf16 and multiplied by bf16 dot products where
                      * the CPU has them; else activations stay float32. Block types: always */
    void *data;      /* owned: sp_free, by sp_matrix_fini */
    size_t bytes;
} sp_matrix;
void sp_matrix_fini(sp_matrix *matrix);
#define SP_LINEAR_MOST 4

/* Keys and values of one sequence and layer, in pages of 64 positions. For KV head h and key tile t
 *   K rows: pages[t] + h * head_bytes,  64 rows of head_dim     V rows: behind them, 64 rows of value_dim
 * in dtype (SP_F32 or SP_BF16). Rows >= n_keys are never read. Pages that no plan lists are never read. */
typedef struct sp_kv_view {
    sp_dtype dtype;
    uint32_t n_keys, head_dim, value_dim;
    size_t head_bytes;
    const uint8_t *const *pages; /* (ceil(n_keys / 64)) */
} sp_kv_view;

typedef struct sp_attend_args {
    const sp_plan *plan; /* rows, heads, edges */
    sp_normalizer normalizer;
    float scale;         /* usually 1 / sqrt(head_dim) */
    uint32_t n_kv_heads; /* n_heads a multiple of it: head h reads KV head h / (n_heads / n_kv_heads) */
    const float *q;      /* (rows, n_heads, head_dim) */
    sp_kv_view kv;
    float *out;        /* (rows, n_heads, value_dim); zero for rows without an edge */
    uint64_t *support; /* (n_heads) added to: weights > 0, entmax only; or NULL */
} sp_attend_args;

/* What ran; added to, so that a caller may sum layers. */
typedef struct sp_attend_stats {
    uint64_t rows_empty;       /* over heads */
    uint64_t k_pages, v_pages; /* page reads of one KV head: distinct (task, page) */
    double seconds;
} sp_attend_stats;

struct sp_ops {
    /* Packs w (n_out, n_in), F32, F16 (becomes F32), BF16, or a block type (becomes F32 unless round_rows).
     * round_rows: see sp_matrix. */
    sp_status (*pack)(sp_device *device, const sp_tensor *w, bool round_rows, sp_matrix *out,
                      sp_error *error);
    /* y[r][o] = sum_k x[r][k] w[o][k].  x (rows, n_in), y (rows, n_out) */
    void (*linear)(sp_device *device, const sp_matrix *w, size_t rows, const float *x, float *y);
    /* n matrices of one n_in, 1..SP_LINEAR_MOST, over the same rows: linear(w[i], x, y[i]), the same bits,
     * with rows rounded once and one run of the pool where the types allow. x overlaps no y, and no y
     * another. */
    void (*linear_many)(sp_device *device, size_t n, const sp_matrix *const *w, size_t rows, const float *x,
                        float *const *y);
    /* out[k] = w[row][k] as it was packed: embeddings that share the output matrix. out (n_in) */
    void (*widen_row)(const sp_matrix *w, size_t row, float *out);
    /* y = x / sqrt(mean(x^2) + eps) * weight, row by row.  x, y (rows, n); y may be x */
    void (*rms_norm)(sp_device *device, size_t rows, size_t n, float eps, const float *weight, const float *x,
                     float *y);
    /* y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias, row by row.  x, y (rows, n); y
     * may be x */
    void (*layer_norm)(sp_device *device, size_t rows, size_t n, float eps, const float *weight,
                       const float *bias, const float *x, float *y);
    /* Rotates pairs (i, i + head_dim / 2) of every head in place: x (rows, n_heads, head_dim), cos and sin
     * (rows, head_dim / 2), made in double and rounded once. */
    void (*rope)(sp_device *device, size_t rows, size_t n_heads, size_t head_dim, const float *cos,
                 const float *sin, float *x);
    /* y = silu(gate) * up, n numbers; y may be gate. silu(x) = x / (1 + exp(-x)) */
    void (*silu_mul)(sp_device *device, size_t n, const float *gate, const float *up, float *y);
    /* y = gelu(x), n numbers; y may be x. The tanh form: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
    void (*gelu)(sp_device *device, size_t n, const float *x, float *y);
    /* y += x, n numbers */
    void (*add)(sp_device *device, size_t n, const float *x, float *y);
    /* y[r][i] += bias[i].  bias (n), y (rows, n) */
    void (*add_bias)(sp_device *device, size_t rows, size_t n, const float *bias, float *y);
    /* Rows to and from the KV type: count numbers. */
    void (*to_bf16)(sp_device *device, size_t n, const float *x, uint16_t *y);
    /* Attention over exactly the plan's edges. Three phases: score, threshold, value; softmax fuses them.
     * Reduces in spans of 1,024 keys (tiles: absolute; groups: ranks), merged ascending: tiles first, then
     * groups by round. SP_NO_MEMORY only. */
    sp_status (*attend)(sp_device *device, const sp_attend_args *args, sp_attend_stats *stats,
                        sp_error *error);
    /* n of them: outputs and stats (n; or NULL) as of one by one, the same bits. Those of one row (decoding)
     * share a run of the pool where their work is a single one; its seconds are divided between them. */
    sp_status (*attend_many)(sp_device *device, size_t n, const sp_attend_args *args, sp_attend_stats *stats,
                             sp_error *error);
    /* Weights of one row and head over the listed keys (ascending), or over keys 0 .. n - 1 when keys is
     * NULL: scores q.k * scale, normalized over exactly these. Returns the number of weights > 0. For graphs
     * and metrics. */
    size_t (*row_weights)(sp_device *device, const sp_kv_view *kv, uint32_t kv_head, const float *q,
                          float scale, sp_normalizer normalizer, const uint32_t *keys, size_t n,
                          float *weights);
    /* --- predictors: projected vectors and scans over them (predict.h) --- */
    /* out[r][m] = x[r][m / (n_maps / n_in)] weight[m] + bias[m] */
    void (*project)(sp_device *device, const sp_project_args *args);
    /* Writes projected rows x (rows, n_maps, rank) of positions position .. into pages (by key tile of the
     * sequence), rounding to dtype; the rest of the pages stays. */
    void (*store_codes)(sp_device *device, size_t rows, uint32_t position, uint32_t n_maps, uint32_t rank,
                        sp_dtype dtype, const float *x, size_t map_bytes, uint8_t *const *pages);
    /* Fills args->words. SP_NO_MEMORY only. */
    sp_status (*scan_mask)(sp_device *device, const sp_scan_args *args, sp_error *error);
    /* Fills args->best and args->n_best. Keys whose distance is not a number, or infinite, are never taken.
     * SP_NO_MEMORY only. */
    sp_status (*scan_top)(sp_device *device, const sp_scan_args *args, sp_error *error);
    /* Fills args->ids. */
    void (*assign)(sp_device *device, const sp_assign_args *args);
    /* Fills args->words and args->counts. */
    void (*match_ids)(sp_device *device, const sp_match_args *args);
    /* Fills args->words and args->counts. */
    void (*read_sets)(sp_device *device, const sp_set_args *args);
    /* Fills list->keys and list->shared. One thread: callers list sets in parallel. */
    void (*list_set)(const sp_device *device, const sp_set_list *list);
};

#endif
