/* Element types: sizes, names, and exact conversion to float32. Views own nothing.
 *
 * float16 (IEEE 754 binary16) has 5 exponent and 10 mantissa bits; a subnormal m * 2^-24 is exact in float32,
 * as is every other value. Tests: tests/unit/kernels/test_tensor.c */
#include "kernels/tensor.h"

static const struct {
    const char *name;
    size_t size; /* of a block */
    size_t block;
} types[SP_DTYPES] = {
    [SP_F32] = {"F32", 4, 1},       [SP_F16] = {"F16", 2, 1},       [SP_BF16] = {"BF16", 2, 1},
    [SP_U8] = {"U8", 1, 1},         [SP_I8] = {"I8", 1, 1},         [SP_U16] = {"U16", 2, 1},
    [SP_I16] = {"I16", 2, 1},       [SP_U32] = {"U32", 4, 1},       [SP_I32] = {"I32", 4, 1},
    [SP_U64] = {"U64", 8, 1},       [SP_I64] = {"I64", 8, 1},       [SP_F64] = {"F64", 8, 1},
    [SP_BOOL] = {"BOOL", 1, 1},     [SP_Q8_0] = {"Q8_0", 34, 32},   [SP_Q4_0] = {"Q4_0", 18, 32},
    [SP_Q4_1] = {"Q4_1", 20, 32},   [SP_Q5_0] = {"Q5_0", 22, 32},   [SP_Q5_1] = {"Q5_1", 24, 32},
    [SP_Q4_K] = {"Q4_K", 144, 256}, [SP_Q5_K] = {"Q5_K", 176, 256}, [SP_Q6_K] = {"Q6_K", 210, 256},
};

size_t sp_dtype_size(sp_dtype dtype)
{
    return (unsigned)dtype < SP_DTYPES && !sp_dtype_is_block(dtype) ? types[dtype].size : 0;
}

size_t sp_dtype_block(sp_dtype dtype)
{
    return (unsigned)dtype < SP_DTYPES ? types[dtype].block : 0;
}

size_t sp_dtype_block_bytes(sp_dtype dtype)
{
    return (unsigned)dtype < SP_DTYPES ? types[dtype].size : 0;
}

bool sp_dtype_bytes(sp_dtype dtype, size_t n, size_t *bytes)
{
    return (unsigned)dtype < SP_DTYPES && n % types[dtype].block == 0 &&
           sp_mul_size(n / types[dtype].block, types[dtype].size, bytes);
}

const char *sp_dtype_name(sp_dtype dtype)
{
    return (unsigned)dtype < SP_DTYPES ? types[dtype].name : "?";
}

size_t sp_tensor_count(const sp_tensor *t)
{
    size_t count = 1;
    for (uint32_t i = 0; i < t->rank; i++) count *= t->shape[i];
    return count;
}

float sp_f16_to_f32(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = (x >> 10) & 31u, mantissa = x & 0x3ffu, bits;
    float value;
    if (exponent == 0) { /* zero or subnormal */
        value = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    } else if (exponent == 31) { /* infinity or NaN */
        bits = sign | 0x7f800000u | mantissa << 13;
    } else {
        bits = sign | (exponent + 112u) << 23 | mantissa << 13;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

static bool convert_blocks(sp_dtype dtype, const uint8_t *from, float *to, size_t n)
{
    size_t group = sp_block_group(dtype);
    for (; n > 0; n -= types[dtype].block, from += types[dtype].size, to += types[dtype].block) {
        sp_block block;
        sp_block_unpack(dtype, from, &block);
        float scale = sp_f16_to_f32(block.scale), min = sp_f16_to_f32(block.min);
        for (size_t i = 0; i < types[dtype].block; i++)
            to[i] =
                scale * (float)block.scales[i / group] * (float)block.q[i] - min * (float)block.mins[i / 32];
    }
    return true;
}

bool sp_convert_to_f32(sp_dtype dtype, const void *from, float *to, size_t n)
{
    const uint16_t *half = from;
    switch (dtype) {
    case SP_F32:
        if (n > 0) memcpy(to, from, n * sizeof *to);
        return true;
    case SP_F16:
        for (size_t i = 0; i < n; i++) to[i] = sp_f16_to_f32(half[i]);
        return true;
    case SP_BF16:
        for (size_t i = 0; i < n; i++) to[i] = sp_bf16_to_f32(half[i]);
        return true;
    default:
        return sp_dtype_is_block(dtype) && n % types[dtype].block == 0 && convert_blocks(dtype, from, to, n);
    }
}
