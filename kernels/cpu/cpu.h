/* Private to kernels/cpu: the CPU's levels, the slots that each level overwrites, and the state of an open
 * CPU device.
 *
 * A level is a set of instructions. The table of the reference level is plain C; every higher level starts
 * from the table below it and overwrites the slots it is faster at (sp_cpu_slots_for). A slot computes one
 * small piece on one thread; the drivers (linear.c, elementwise.c) cut an op into pieces and deal them to the
 * worker pool.
 *
 * Every level gives the same bits for float32 work: the order of operations is fixed by the reference (one
 * accumulator an output, k ascending, fused multiply-add), lanes only run across independent outputs. bf16
 * dot products are the exception: the instruction rounds in its own way, so their bits are those of their
 * level. Tests: tests/kernels/test_linear.c, tests/kernels/test_elementwise.c,
 * tests/unit/kernels/test_device.c */
#ifndef SPARSED_KERNELS_CPU_CPU_H
#define SPARSED_KERNELS_CPU_CPU_H

#include "kernels/cpu/quant.h"
#include "kernels/ops.h"
#include "kernels/train.h"

typedef enum sp_cpu_isa {
    SP_CPU_REFERENCE,
    SP_CPU_AVX2,       /* AVX2, FMA, F16C, BMI2 */
    SP_CPU_AVX512,     /* and AVX-512 F, BW, DQ, VL */
    SP_CPU_AVX512VNNI, /* and AVX512_VNNI */
    SP_CPU_AVX512BF16, /* and AVX512_BF16 */
    SP_CPU_ISAS
} sp_cpu_isa;

/* The highest level that CPU and operating system offer. */
sp_cpu_isa sp_cpu_level(void);
const char *sp_cpu_level_name(sp_cpu_isa level);
/* sp_cpu_level, or a lower one named by SPARSED_CPU in the environment. SP_USAGE for a name that is none. */
sp_status sp_cpu_level_choose(sp_cpu_isa *out, sp_error *error) SP_MUST_CHECK;

#define SP_PANEL 32 /* outputs of a panel */
#define SP_LINE 16  /* 32-bit steps of an activation line: 64 bytes */

/* One block of rows times consecutive panels. A step is one 32-bit piece of an activation row: a float32, or
 * two bf16 for dot products. Activations lie in lines: step s of row r is piece s % 16 of line (s / 16) *
 * rows + r. Weights: step s of a panel is 32 float32, or 32 pairs of bf16 (k = 2 s and 2 s + 1); float32
 * activations meet bf16 pairs two steps at a time. */
typedef struct sp_cpu_block {
    size_t rows;   /* 1..row_block of the level */
    size_t steps;  /* of a panel: n_in (f32) or ceil(n_in / 2) (bf16) */
    size_t panels; /* consecutive, each steps * 128 bytes */
    size_t width;  /* outputs wanted: 32 * panels less the padding of the last one */
    size_t stride; /* floats between rows of y */
    const void *lines;
    const void *weights;
    float *y;
    const uint8_t
        *ahead; /* bytes that are wanted next: fetched into the cache, ahead_lines of 64 every 16 steps */
    size_t ahead_lines;
} sp_cpu_block;

typedef struct sp_cpu_slots {
    /* --- linear: y[r][o] = sum over k, ascending, by one accumulator --- */
    size_t row_block;                              /* most rows of a block; at most SP_MAX_ROW_BLOCK */
    size_t ahead_rows;                             /* from so many rows on it pays to fetch ahead */
    void (*block_f32)(const sp_cpu_block *block);  /* f32 panels, f32 lines */
    void (*block_bf16)(const sp_cpu_block *block); /* bf16 panels, f32 lines (a zero follows an odd n_in) */
    void (*block_dot)(
        const sp_cpu_block *block); /* bf16 panels, bf16 lines; NULL where the CPU has no such dot */
    /* Rounds n float32 to bf16 for block_dot, into whole lines of one row, line_stride bytes apart, zero
     * behind n. */
    void (*pack_dot)(size_t n, const float *x, void *lines, size_t line_stride);
    /* --- linear with block types (quant.h) --- */
    size_t quant_rows; /* most rows of a product */
    void (*quant_row)(const sp_quant_form *form, size_t rows, size_t n_in, const float *x, sp_quant_lines to);
    void (*quant_expand)(const sp_quant_form *form, const uint8_t *panel, size_t steps,
                         sp_quant_weights *out);
    void (*quant_product)(const sp_quant_product *product);
    void (*quant_few)(const sp_quant_few *product); /* for few rows; NULL: expand and multiply */
    /* --- elementwise, one row or run of numbers; contracts as in ops.h --- */
    void (*rms_norm)(size_t n, float eps, const float *weight, const float *x, float *y);
    void (*layer_norm)(size_t n, float eps, const float *weight, const float *bias, const float *x, float *y);
    void (*rope)(size_t n_heads, size_t head_dim, const float *cos, const float *sin, float *x);
    void (*silu_mul)(size_t n, const float *gate, const float *up, float *y);
    void (*gelu)(size_t n, const float *x, float *y);
    void (*add)(size_t n, const float *x, float *y);
    void (*to_bf16)(size_t n, const float *x, uint16_t *y);
    /* --- logits (logits.c): n a multiple of SP_LOGITS_LANES; raise and add to lanes j of best, most, sums
     * --- */
    void (*logits_max)(size_t n, const float *x, float *best, int32_t *most); /* most: bits of |x| */
    void (*logits_exp)(size_t n, const float *x, float max, double *sums);
    void (*logits_best)(size_t n, const float *x, const uint8_t *allowed, float *best);
    /* --- what the machine can do at most (peak.c): registers only; return the operations done --- */
    double (*peak_f32)(size_t rounds);
    double (*peak_bf16)(size_t rounds); /* NULL without block_dot */
    double (*peak_int8)(size_t rounds);
    /* Reads bytes (a multiple of 512, aligned) and returns something made of them. */
    float (*peak_read)(const void *from, size_t bytes);
    const sp_train_ops *train; /* loops of fitting: kernels/train.h */
} sp_cpu_slots;
#define SP_MAX_ROW_BLOCK 16
#define SP_LOGITS_LANES 16

const sp_cpu_slots *sp_cpu_slots_for(sp_cpu_isa level);
/* Each overwrites the slots of its level. */
void sp_cpu_linear_reference(sp_cpu_slots *slots);
void sp_cpu_linear_avx2(sp_cpu_slots *slots);
void sp_cpu_linear_avx512(sp_cpu_slots *slots);
void sp_cpu_linear_avx512bf16(sp_cpu_slots *slots);
void sp_cpu_quant_reference(sp_cpu_slots *slots);
void sp_cpu_quant_avx2(sp_cpu_slots *slots);
void sp_quant_few_avx512vnni(const sp_quant_few *product);
void sp_cpu_quant_avx512vnni(sp_cpu_slots *slots);
void sp_cpu_elementwise_reference(sp_cpu_slots *slots);
void sp_cpu_elementwise_avx2(sp_cpu_slots *slots);
void sp_cpu_elementwise_avx512(sp_cpu_slots *slots);
extern const sp_train_ops sp_cpu_train_reference, sp_cpu_train_avx2, sp_cpu_train_avx512;
void sp_cpu_logits_reference(sp_cpu_slots *slots);
void sp_cpu_logits_avx2(sp_cpu_slots *slots);
void sp_cpu_logits_avx512(sp_cpu_slots *slots);
void sp_cpu_peak_reference(sp_cpu_slots *slots);
void sp_cpu_peak_avx2(sp_cpu_slots *slots);
void sp_cpu_peak_avx512(sp_cpu_slots *slots);
void sp_cpu_peak_avx512vnni(sp_cpu_slots *slots);
void sp_cpu_peak_avx512bf16(sp_cpu_slots *slots);

/* device->state of a CPU device. */
typedef struct sp_cpu_state {
    sp_cpu_isa level;
    const sp_cpu_slots *slots;
    void *lines; /* activations packed for linear; grown by pack, so that linear allocates nothing */
    size_t line_bytes;
    void *attend; /* attend's own scratch, made on first use; released at close by attend_free */
    void (*attend_free)(void *attend);
    void *predict; /* the same for scans over projected keys */
    void (*predict_free)(void *predict);
} sp_cpu_state;

static inline sp_cpu_state *sp_cpu_of(const sp_device *device)
{
    return device->state;
}

/* Opens a CPU device at a given level (at most sp_cpu_level), whatever the environment says: for tests and
 * benches. */
sp_status sp_cpu_open_level(const sp_device_options *options, sp_cpu_isa level, sp_device **out,
                            sp_error *error) SP_MUST_CHECK;

/* --- ops, as in ops.h --- */
sp_status sp_cpu_pack(sp_device *device, const sp_tensor *w, bool round_rows, sp_matrix *out,
                      sp_error *error);
void sp_cpu_linear(sp_device *device, const sp_matrix *w, size_t rows, const float *x, float *y);
void sp_cpu_linear_many(sp_device *device, size_t n, const sp_matrix *const *w, size_t rows, const float *x,
                        float *const *y);
void sp_cpu_rms_norm(sp_device *device, size_t rows, size_t n, float eps, const float *weight, const float *x,
                     float *y);
void sp_cpu_layer_norm(sp_device *device, size_t rows, size_t n, float eps, const float *weight,
                       const float *bias, const float *x, float *y);
void sp_cpu_rope(sp_device *device, size_t rows, size_t n_heads, size_t head_dim, const float *cos,
                 const float *sin, float *x);
void sp_cpu_silu_mul(sp_device *device, size_t n, const float *gate, const float *up, float *y);
void sp_cpu_gelu(sp_device *device, size_t n, const float *x, float *y);
void sp_cpu_add(sp_device *device, size_t n, const float *x, float *y);
void sp_cpu_add_bias(sp_device *device, size_t rows, size_t n, const float *bias, float *y);
void sp_cpu_to_bf16(sp_device *device, size_t n, const float *x, uint16_t *y);
sp_status sp_cpu_attend(sp_device *device, const sp_attend_args *args, sp_attend_stats *stats,
                        sp_error *error);
sp_status sp_cpu_attend_many(sp_device *device, size_t n, const sp_attend_args *args, sp_attend_stats *stats,
                             sp_error *error);
size_t sp_cpu_row_weights(sp_device *device, const sp_kv_view *kv, uint32_t kv_head, const float *q,
                          float scale, sp_normalizer normalizer, const uint32_t *keys, size_t n,
                          float *weights);
void sp_cpu_project(sp_device *device, const sp_project_args *args);
void sp_cpu_store_codes(sp_device *device, size_t rows, uint32_t position, uint32_t n_maps, uint32_t rank,
                        sp_dtype dtype, const float *x, size_t map_bytes, uint8_t *const *pages);
sp_status sp_cpu_scan_mask(sp_device *device, const sp_scan_args *args, sp_error *error);
sp_status sp_cpu_scan_top(sp_device *device, const sp_scan_args *args, sp_error *error);
void sp_cpu_assign(sp_device *device, const sp_assign_args *args);
void sp_cpu_match_ids(sp_device *device, const sp_match_args *args);
void sp_cpu_read_sets(sp_device *device, const sp_set_args *args);
void sp_cpu_list_set(const sp_device *device, const sp_set_list *list);
void sp_cpu_widen_row(const sp_matrix *w, size_t row, float *out);
/* The same for matrices of block types (linear_quant.c); pack is given a checked tensor. */
sp_status sp_quant_pack(sp_device *device, const sp_tensor *w, sp_matrix *out, sp_error *error);
/* Matrices that sp_quant_same_rows holds for. */
void sp_quant_linear(sp_device *device, size_t n, const sp_matrix *const *w, size_t rows, const float *x,
                     float *const *y);
/* Whether rows rounded for one matrix of a block type serve another one, too. */
bool sp_quant_same_rows(const sp_matrix *a, const sp_matrix *b);
void sp_quant_widen_row(const sp_matrix *w, size_t row, float *out);
/* Grows state->lines to bytes at least. */
sp_status sp_cpu_reserve_lines(sp_cpu_state *state, size_t bytes, sp_error *error);
/* The OpenBLAS door (openblas.c): matrices keep plain row-major float32, linear is one sgemm. */
sp_status sp_openblas_pack(sp_device *device, const sp_tensor *w, bool round_rows, sp_matrix *out,
                           sp_error *error);
void sp_openblas_widen_row(const sp_matrix *w, size_t row, float *out);
void sp_openblas_linear(sp_device *device, const sp_matrix *w, size_t rows, const float *x, float *y);
void sp_openblas_linear_many(sp_device *device, size_t n, const sp_matrix *const *w, size_t rows,
                             const float *x, float *const *y);

#endif
