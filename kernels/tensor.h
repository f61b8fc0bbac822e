/* Element types and tensor views: a pointer, a type, a shape. Views own nothing.
 * Block types store a fixed number of neighbouring elements of a row together (kernels/blocks.c says how): a
 * row of a matrix is whole blocks, and only whole blocks have an address.
 * Tests: tests/unit/kernels/test_tensor.c, tests/unit/kernels/test_dequant.c */
#ifndef SPARSED_KERNELS_TENSOR_H
#define SPARSED_KERNELS_TENSOR_H

#include <string.h>

#include "kernels/base.h"

typedef enum sp_dtype {
    SP_F32,
    SP_F16,
    SP_BF16,
    SP_U8,
    SP_I8,
    SP_U16,
    SP_I16,
    SP_U32,
    SP_I32,
    SP_U64,
    SP_I64,
    SP_F64,
    SP_BOOL,
    SP_Q8_0, /* the first block type: those of GGUF, 32 elements a block */
    SP_Q4_0,
    SP_Q4_1,
    SP_Q5_0,
    SP_Q5_1,
    SP_Q4_K, /* 256 elements a block */
    SP_Q5_K,
    SP_Q6_K,
    SP_DTYPES
} sp_dtype;

#define SP_MAX_RANK 4
typedef struct sp_tensor {
    sp_dtype dtype;
    uint32_t rank;
    size_t shape[SP_MAX_RANK]; /* outermost first, contiguous */
    const void *data;          /* aligned to the element size; block types: at any byte */
    size_t bytes;
} sp_tensor;

size_t sp_dtype_size(sp_dtype dtype);        /* bytes an element; 0 for block types */
size_t sp_dtype_block(sp_dtype dtype);       /* elements a block; 1 for other types */
size_t sp_dtype_block_bytes(sp_dtype dtype); /* bytes a block; of an element for other types */
const char *sp_dtype_name(sp_dtype dtype);   /* spelling of safetensors or GGUF: "F32", "BF16", "Q4_K", ... */
/* Bytes of n consecutive elements. False when they are not whole blocks, or too many to count. */
bool sp_dtype_bytes(sp_dtype dtype, size_t n, size_t *bytes);
static inline bool sp_dtype_is_block(sp_dtype dtype)
{
    return dtype >= SP_Q8_0 && dtype < SP_DTYPES;
}
size_t sp_tensor_count(const sp_tensor *t); /* elements */
/* Converts n elements of F32, F16, BF16 (exact) or a block type (whole blocks) to float32. Returns false,
 * having written nothing, for other types and for n that is not whole blocks. */
bool sp_convert_to_f32(sp_dtype dtype, const void *from, float *to, size_t n);

/* One block taken apart, of any block type. Element i has the value
 *   scale * scales[i / group] * q[i] - min * mins[i / 32]
 * with group = sp_block_group(dtype): 32, or 16 for Q6_K. Types without small scales have scales[0] = 1,
 * types without minimums (sp_block_has_mins) min = 0 and signed q; the others have q >= 0. */
#define SP_MAX_BLOCK 256
typedef struct sp_block {
    int8_t q[SP_MAX_BLOCK];
    uint16_t scale, min; /* float16 */
    int8_t scales[SP_MAX_BLOCK / 16];
    int8_t mins[SP_MAX_BLOCK / 32];
} sp_block;
size_t sp_block_group(sp_dtype dtype);
bool sp_block_has_mins(sp_dtype dtype);
/* from: sp_dtype_block_bytes. dtype is a block type. */
void sp_block_unpack(sp_dtype dtype, const void *from, sp_block *out);

static inline float sp_bf16_to_f32(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t sp_bf16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float sp_f16_to_f32(uint16_t x);

#endif
