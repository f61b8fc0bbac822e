/* Linear layers of block types with AVX2. VPMADDUBSW adds pairs of products of an unsigned and a signed byte
 * to 16-bit sums that must not overflow: weights of up to 6 bits (63 * 127 * 4 fits) wait for a second pair;
 * weights of 8 bits are made signed and |w| meets the activation with w's sign (128 * 127 * 2 fits). Up to 4
 * rows times 16 outputs: 8 integer sums in registers; float32 sums in the first-level cache. The order of
 * operations is that of linear_quant_reference.c, so the bits are too. Tests:
 * tests/kernels/test_linear_quant.c */
#include "kernels/cpu/cpu.h"

#include <immintrin.h>

#define ROWS 4
#define INLINE static inline __attribute__((always_inline))
#define LEAST 0x1p-100f /* as in linear_quant_reference.c */

INLINE int32_t add_across(__m256i v)
{
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

INLINE int32_t most_across(__m256i v)
{
    __m128i x = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

INLINE __m256i round_eight(const float *x, __m256 inverse)
{
    __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x), inverse);
    __m256i number = _mm256_castps_si256(_mm256_cmp_ps(scaled, scaled, _CMP_ORD_Q));
    return _mm256_and_si256(_mm256_cvtps_epi32(scaled), number); /* NaN becomes 0 */
}

static void quant_row(const sp_quant_form *form, size_t rows, size_t n_in, const float *x, sp_quant_lines to)
{
    const __m256i absolute = _mm256_set1_epi32(0x7fffffff), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (size_t b = 0; b < n_in / SP_QUANT_BLOCK; b++, x += SP_QUANT_BLOCK) {
        __m256i most = _mm256_setzero_si256();
        for (size_t i = 0; i < 32; i += 8) {
            __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
            most = _mm256_max_epi32(most, _mm256_and_si256(bits, absolute));
        }
        int32_t bits = most_across(most);
        float top;
        memcpy(&top, &bits, sizeof top);
        bool zero = top < LEAST;
        __m256 inverse = _mm256_set1_ps(zero ? 0 : 127.0f / top);
        __m256i q0 = round_eight(x, inverse), q1 = round_eight(x + 8, inverse);
        __m256i q2 = round_eight(x + 16, inverse), q3 = round_eight(x + 24, inverse);
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q0, q1), _mm256_packs_epi32(q2, q3));
        bytes = _mm256_permutevar8x32_epi32(bytes, order);
        _mm256_storeu_si256((__m256i *)(to.q + b * rows * SP_QUANT_BLOCK), bytes);
        to.scales[b * rows] = zero ? 0 : top * (1.0f / 127.0f);
        int32_t sum0 = add_across(_mm256_add_epi32(q0, q1)), sum1 = add_across(_mm256_add_epi32(q2, q3));
        if (form->mins) {
            to.sums[b * rows] = (float)(sum0 + sum1);
        } else if (form->group == 32) {
            to.starts[b * rows] = -form->offset * (sum0 + sum1);
        } else {
            to.starts[2 * b * rows] = -form->offset * sum0;
            to.starts[(2 * b + 1) * rows] = -form->offset * sum1;
        }
    }
}

/* --- weights --- */

/* Bits 4 (and 5, for two of them) of half a vector j, out of the vectors behind the low four bits. */
INLINE __m256i high_bits(size_t bits, const uint8_t *step, size_t j, size_t half)
{
    size_t each = bits - 4, place = j * each % 8; /* each: 1 or 2 bits a number */
    const __m256i mask = _mm256_set1_epi8(bits == 5 ? 0x10 : 0x30);
    __m256i v = _mm256_load_si256((const __m256i *)(step + 512 + j * each / 8 * 64 + half * 32));
    v = place < 4 ? _mm256_slli_epi16(v, (int)(4 - place)) : _mm256_srli_epi16(v, (int)(place - 4));
    return _mm256_and_si256(v, mask);
}

/* bits is a constant where this is inlined. 8 bits become signed, the others keep their offset. */
INLINE void expand_step(size_t bits, const uint8_t *step, uint8_t *out)
{
    const __m256i four = _mm256_set1_epi8(15), top = _mm256_set1_epi8(-128);
    __m256i *to = (__m256i *)out;
    if (bits == 8) {
        for (size_t i = 0; i < 32; i++)
            to[i] = _mm256_xor_si256(_mm256_load_si256((const __m256i *)step + i), top);
        return;
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++) {
        size_t j = i / 2 * 2, half = i % 2;
        __m256i both = _mm256_load_si256((const __m256i *)step + i);
        __m256i low = _mm256_and_si256(both, four);
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), four);
        if (bits > 4) {
            low = _mm256_or_si256(low, high_bits(bits, step, j, half));
            high = _mm256_or_si256(high, high_bits(bits, step, j + 1, half));
        }
        _mm256_store_si256(to + j * 2 + half, low);
        _mm256_store_si256(to + j * 2 + 2 + half, high);
    }
}

INLINE void scale_groups(size_t groups, const uint8_t *halves, const uint8_t *small, float *out)
{
    for (size_t o = 0; o < SP_PANEL; o += 8) {
        __m256 whole = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(halves + 2 * o)));
        for (size_t g = 0; g < groups; g++) {
            __m256 scale = whole;
            if (small) {
                __m128i bytes = _mm_loadl_epi64((const __m128i *)(small + g * SP_PANEL + o));
                scale = _mm256_mul_ps(whole, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
            }
            _mm256_store_ps(out + g * SP_PANEL + o, scale);
        }
    }
}

INLINE void expand(size_t bits, const sp_quant_form *form, const uint8_t *block, size_t steps,
                   sp_quant_weights *out)
{
    size_t each = form->block / SP_QUANT_BLOCK, groups = form->block / form->group;
    for (size_t s = 0; s < steps; s += each, block += form->bytes) {
        const uint8_t *halves = block + sp_quant_scales_at(form), *small = block + sp_quant_small_at(form);
        if (!form->small) small = NULL;
        for (size_t i = 0; i < each; i++)
            expand_step(bits, block + i * (bits * SP_QUANT_STEP / 8), out->numbers + (s + i) * SP_QUANT_STEP);
        scale_groups(groups, halves, small, out->scales + s * (32 / form->group) * SP_PANEL);
        if (form->mins)
            scale_groups(each, halves + 64, small ? small + groups * SP_PANEL : NULL,
                         out->mins + s * SP_PANEL);
    }
}

static void quant_expand(const sp_quant_form *form, const uint8_t *panel, size_t steps, sp_quant_weights *out)
{
    out->from = out->numbers;
    out->step = SP_QUANT_STEP;
    switch (form->bits) {
    case 4:
        expand(4, form, panel, steps, out);
        break;
    case 5:
        expand(5, form, panel, steps, out);
        break;
    case 6:
        expand(6, form, panel, steps, out);
        break;
    default:
        expand(8, form, panel, steps, out);
    }
}

/* --- products --- */

/* Integer sums of a group: rows times 16 outputs from numbers on. Constants: rows, group, wide. */
INLINE void sum_group(size_t rows, size_t group, bool wide, const uint8_t *numbers, const int8_t *q,
                      __m256i *sums)
{
    const __m256i ones = _mm256_set1_epi16(1);
    for (size_t k = 0; k < group / 4; k += 2) {
#pragma GCC unroll 2
        for (size_t v = 0; v < 2; v++) {
            __m256i w0 = _mm256_load_si256((const __m256i *)(numbers + k * 128) + v);
            __m256i w1 = _mm256_load_si256((const __m256i *)(numbers + k * 128 + 128) + v);
            __m256i u0 = wide ? _mm256_abs_epi8(w0) : w0, u1 = wide ? _mm256_abs_epi8(w1) : w1;
#pragma GCC unroll 4
            for (size_t r = 0; r < rows; r++) {
                int32_t fours[2];
                memcpy(fours, q + r * SP_QUANT_BLOCK + k * 4, sizeof fours);
                __m256i a0 = _mm256_set1_epi32(fours[0]), a1 = _mm256_set1_epi32(fours[1]);
                if (wide) a0 = _mm256_sign_epi8(a0, w0), a1 = _mm256_sign_epi8(a1, w1);
                a0 = _mm256_maddubs_epi16(u0, a0);
                a1 = _mm256_maddubs_epi16(u1, a1);
                __m256i sum = wide
                                  ? _mm256_add_epi32(_mm256_madd_epi16(a0, ones), _mm256_madd_epi16(a1, ones))
                                  : _mm256_madd_epi16(_mm256_add_epi16(a0, a1), ones);
                sums[r * 2 + v] = _mm256_add_epi32(sums[r * 2 + v], sum);
            }
        }
    }
}

/* Adds step s of 16 outputs, from output first on, to sums (rows, 32). */
INLINE void product_step(size_t rows, size_t group, bool mins, bool wide, const sp_quant_product *p, size_t s,
                         size_t first, float *sums)
{
    const uint8_t *numbers = p->w->from + s * p->w->step + first * 4;
    const int8_t *q = p->x.q + s * rows * SP_QUANT_BLOCK;
#pragma GCC unroll 2
    for (size_t g = 0; g < 32 / group; g++) {
        size_t index = s * (32 / group) + g;
        __m256i exact[ROWS * 2];
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            bool from_zero = mins || wide;
            exact[2 * r] = exact[2 * r + 1] =
                from_zero ? _mm256_setzero_si256() : _mm256_set1_epi32(p->x.starts[index * rows + r]);
        }
        sum_group(rows, group, wide, numbers + g * (group / 4) * 128, q + g * group, exact);
        const float *scales = p->w->scales + index * SP_PANEL + first,
                    *w_mins = p->w->mins + s * SP_PANEL + first;
#pragma GCC unroll 8
        for (size_t i = 0; i < 2 * rows; i++) {
            size_t r = i / 2, v = i % 2 * 8;
            float *sum = sums + r * SP_PANEL + first + v;
            __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(exact[i]), _mm256_load_ps(scales + v));
            if (mins) {
                __m256 total = _mm256_broadcast_ss(p->x.sums + s * rows + r);
                t = _mm256_fnmadd_ps(_mm256_load_ps(w_mins + v), total, t);
            }
            __m256 scale = _mm256_broadcast_ss(p->x.scales + s * rows + r);
            _mm256_store_ps(sum, _mm256_fmadd_ps(t, scale, _mm256_load_ps(sum)));
        }
    }
}

INLINE void product(size_t rows, size_t group, bool mins, bool wide, const sp_quant_product *p)
{
    alignas(32) float sums[ROWS * SP_PANEL] = {0};
    const uint8_t *ahead = p->ahead;
    for (size_t r = 0; r < rows && !p->first; r++)
        memcpy(sums + r * SP_PANEL, p->y + r * p->stride, p->width * sizeof *sums);
    for (size_t s = 0; s < p->steps; s++) {
        for (size_t i = 0; i < p->ahead_lines; i++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
        product_step(rows, group, mins, wide, p, s, 0, sums);
        product_step(rows, group, mins, wide, p, s, 16, sums);
    }
    for (size_t r = 0; r < rows; r++)
        memcpy(p->y + r * p->stride, sums + r * SP_PANEL, p->width * sizeof *sums);
}

#define ANY_ROWS(group, mins, wide)                                                                          \
    switch (p->rows) {                                                                                       \
    case 1:                                                                                                  \
        product(1, group, mins, wide, p);                                                                    \
        break;                                                                                               \
    case 2:                                                                                                  \
        product(2, group, mins, wide, p);                                                                    \
        break;                                                                                               \
    case 3:                                                                                                  \
        product(3, group, mins, wide, p);                                                                    \
        break;                                                                                               \
    default:                                                                                                 \
        product(ROWS, group, mins, wide, p);                                                                 \
    }

static void quant_product(const sp_quant_product *p)
{
    if (p->form->mins) {
        ANY_ROWS(32, true, false)
    } else if (p->form->bits == 8) {
        ANY_ROWS(32, false, true)
    } else if (p->form->group == 32) {
        ANY_ROWS(32, false, false)
    } else {
        ANY_ROWS(16, false, false)
    }
}

void sp_cpu_quant_avx2(sp_cpu_slots *slots)
{
    slots->quant_rows = ROWS;
    slots->quant_row = quant_row;
    slots->quant_expand = quant_expand;
    slots->quant_product = quant_product;
}
