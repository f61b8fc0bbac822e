/* Packing of K and V tiles with AVX-512: 16 rows of 16 dwords are transposed in registers, so that a
 * row-major page costs about one shuffle a dword and a half. Missing rows and the tail of a row read as
 * zeros; nothing behind a row is touched. Tests: tests/kernels/test_attend.c */
#include "kernels/cpu/attend_avx512.h"
#include "kernels/cpu/attend_avx512_parts.h"

/* The first n (at most 16, 0 to 16) numbers at a row; NULL gives zeros. */
INLINE __m512i load_f32(const void *row, size_t at, size_t n)
{
    if (!row) return _mm512_setzero_si512();
    const float *from = (const float *)row + at;
    if (n >= 16) return _mm512_loadu_si512(from);
    return _mm512_maskz_loadu_epi32((__mmask16)((1u << n) - 1), from);
}

INLINE __m256i load_bf16(const void *row, size_t at, size_t n)
{
    if (!row) return _mm256_setzero_si256();
    const uint16_t *from = (const uint16_t *)row + at;
    if (n >= 16) return _mm256_loadu_si256((const __m256i *)from);
    return _mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), from);
}

INLINE __m512i load_widened(const void *row, size_t at, size_t n)
{
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(load_bf16(row, at, n)), 16);
}

/* 32 bf16 as 16 pairs. */
INLINE __m512i load_pairs(const void *row, size_t at, size_t n)
{
    if (!row) return _mm512_setzero_si512();
    const uint16_t *from = (const uint16_t *)row + at;
    if (n >= 32) return _mm512_loadu_si512(from);
    return _mm512_maskz_loadu_epi16((__mmask32)(((uint64_t)1 << n) - 1), from);
}

typedef __m512i (*load_fn)(const void *row, size_t at, size_t n);

INLINE void ask(const void *row, size_t bytes, ptrdiff_t ahead)
{
    if (ahead && row) _mm_prefetch((const char *)((uintptr_t)row + bytes + (uintptr_t)ahead), _MM_HINT_T0);
}

typedef __m512i (*load_fn)(const void *row, size_t at, size_t n);

/* out[step][64] dwords; a step is width numbers of size bytes of a row. */
INLINE void pack_k(load_fn load, const size_t width, const size_t size, const void *const *rows,
                   size_t head_dim, ptrdiff_t ahead, void *out)
{
    size_t steps = (head_dim + 1) / 2 * 2 / width;
    for (size_t j = 0; j < SP_TILE; j += 16) {
        for (size_t step = 0; step < steps; step += 16) {
            __m512i r[16];
            size_t left = steps - step < 16 ? steps - step : 16, at = step * width;
            uint32_t *to = (uint32_t *)out + step * SP_TILE + j;
#pragma GCC unroll 16
            for (size_t i = 0; i < 16; i++) r[i] = load(rows[j + i], at, head_dim - at);
            for (size_t i = 0; ahead && i < 16; i++) ask(rows[j + i], at * size, ahead);
            transpose(r);
            if (left < 16) {
                _Alignas(64) uint32_t all[16][16];
                for (size_t i = 0; i < 16; i++) _mm512_store_si512(all[i], r[i]);
                for (size_t i = 0; i < left; i++)
                    _mm512_storeu_si512(to + i * SP_TILE, _mm512_load_si512(all[i]));
                continue;
            }
#pragma GCC unroll 16
            for (size_t i = 0; i < 16; i++) _mm512_storeu_si512(to + i * SP_TILE, r[i]);
        }
    }
}

void sp_avx512_pack_k_f32(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out)
{
    pack_k(load_f32, 1, 4, rows, head_dim, ahead, out);
}

void sp_avx512_pack_k_widen(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out)
{
    pack_k(load_widened, 1, 2, rows, head_dim, ahead, out);
}

void sp_avx512_pack_k_pairs(const void *const *rows, size_t head_dim, ptrdiff_t ahead, void *out)
{
    pack_k(load_pairs, 2, 2, rows, head_dim, ahead, out);
}

void sp_avx512_pack_v_f32(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out)
{
    float *packed = out;
    for (size_t j = 0; j < SP_TILE; j++) {
        for (size_t d = 0; d < value_dim; d += 16, packed += 16) {
            _mm512_storeu_si512(packed, load_f32(rows[j], d, value_dim - d));
            ask(rows[j], d * sizeof(float), ahead);
        }
    }
}

void sp_avx512_pack_v_widen(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out)
{
    float *packed = out;
    for (size_t j = 0; j < SP_TILE; j++) {
        for (size_t d = 0; d < value_dim; d += 16, packed += 16) {
            _mm512_storeu_si512(packed, load_widened(rows[j], d, value_dim - d));
            if (d % 32 == 0) ask(rows[j], d * sizeof(uint16_t), ahead);
        }
    }
}

/* Two rows of 32 numbers become two vectors of 16 pairs. */
void sp_avx512_pack_v_pairs(const void *const *rows, size_t value_dim, ptrdiff_t ahead, void *out)
{
    _Alignas(64) uint16_t order[2][32];
    for (uint16_t i = 0; i < 32; i++) {
        order[0][i] = (uint16_t)(i / 2 + i % 2 * 32); /* bit 5 picks the second row */
        order[1][i] = (uint16_t)(order[0][i] + 16);
    }
    const __m512i first = _mm512_load_si512(order[0]), second = _mm512_load_si512(order[1]);
    size_t width = (value_dim + 15) / 16 * 16;
    uint32_t *packed = out;
    for (size_t j = 0; j < SP_TILE; j += 2) {
        for (size_t d = 0; d < value_dim; d += 32) {
            __m512i a = load_pairs(rows[j], d, value_dim - d), b = load_pairs(rows[j + 1], d, value_dim - d);
            ask(rows[j], d * sizeof(uint16_t), ahead);
            ask(rows[j + 1], d * sizeof(uint16_t), ahead);
            _mm512_storeu_si512(packed + d, _mm512_permutex2var_epi16(a, first, b));
            if (d + 16 < width) _mm512_storeu_si512(packed + d + 16, _mm512_permutex2var_epi16(a, second, b));
        }
        packed += width;
    }
}
