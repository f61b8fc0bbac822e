/* Element types and tensor views: a pointer, a type, a shape. Views own nothing.
 * Tests: tests/unit/kernels/test_tensor.c */
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
    SP_DTYPES
} sp_dtype;

#define SP_MAX_RANK 4
typedef struct sp_tensor {
    sp_dtype dtype;
    uint32_t rank;
    size_t shape[SP_MAX_RANK]; /* outermost first, contiguous */
    const void *data;          /* aligned to the element size */
    size_t bytes;
} sp_tensor;

size_t sp_dtype_size(sp_dtype dtype);       /* bytes an element */
const char *sp_dtype_name(sp_dtype dtype);  /* safetensors spelling: "F32", "BF16", ... */
size_t sp_tensor_count(const sp_tensor *t); /* elements */
/* Converts n elements of F32, F16 or BF16 to float32 (exact). Returns false for other types. */
bool sp_convert_to_f32(sp_dtype dtype, const void *from, float *to, size_t n);

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
