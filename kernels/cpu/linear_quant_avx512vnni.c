/* Linear layers of block types with AVX-512 and VNNI: VPDPBUSD adds four products of an unsigned weight and a
 * signed activation to a 32-bit sum, exactly. Up to 6 rows times one panel: 12 integer sums, 12 float32 sums.
 * The order of operations is that of linear_quant_reference.c, so the bits are too. Tests:
 * tests/kernels/test_linear_quant.c */
#include "kernels/cpu/linear_quant_avx512vnni.h"

#define LEAST 0x1p-100f /* as in linear_quant_reference.c */

/* Of 16 signed bytes: as unsigned ones, 128 more each. */
INLINE int32_t sum_bytes(__m128i bytes)
{
    __m128i sums = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
}

static void quant_row(const sp_quant_form *form, size_t rows, size_t n_in, const float *x, sp_quant_lines to)
{
    const __m512i absolute = _mm512_set1_epi32(0x7fffffff);
    for (size_t b = 0; b < n_in / SP_QUANT_BLOCK; b++, x += SP_QUANT_BLOCK) {
        __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
        __m512i most = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), absolute),
                                        _mm512_and_si512(_mm512_castps_si512(high), absolute));
        int32_t bits = _mm512_reduce_max_epi32(most);
        float top;
        memcpy(&top, &bits, sizeof top);
        bool zero = top < LEAST;
        __m512 inverse = _mm512_set1_ps(zero ? 0 : 127.0f / top);
        __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)); /* NaN: 2^31, whose low byte is 0 */
        __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        __m128i bytes0 = _mm512_cvtepi32_epi8(q0), bytes1 = _mm512_cvtepi32_epi8(q1);
        __m128i *q = (__m128i *)(to.q + b * rows * SP_QUANT_BLOCK);
        _mm_storeu_si128(q, bytes0);
        _mm_storeu_si128(q + 1, bytes1);
        to.scales[b * rows] = zero ? 0 : top * (1.0f / 127.0f);
        int32_t sum0 = sum_bytes(bytes0), sum1 = sum_bytes(bytes1);
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

/* bits is a constant where this is inlined. */
INLINE void expand_step(size_t bits, const uint8_t *step, uint8_t *out)
{
#pragma GCC unroll 8
    for (size_t k4 = 0; k4 < 8; k4++) {
        __m512i low, high;
        take_numbers(bits, step, k4, &low, &high);
        _mm512_store_si512(out + k4 * 128, low);
        _mm512_store_si512(out + k4 * 128 + 64, high);
    }
}

INLINE void scale_groups(size_t groups, const uint8_t *halves, const uint8_t *small, float *out)
{
    __m512 low = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)halves));
    __m512 high = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)halves + 1));
    for (size_t g = 0; g < groups; g++, out += SP_PANEL) {
        __m512 s0 = low, s1 = high;
        if (small) {
            const __m128i *bytes = (const __m128i *)(small + g * SP_PANEL);
            s0 = _mm512_mul_ps(low, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(bytes))));
            s1 = _mm512_mul_ps(high, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(bytes + 1))));
        }
        _mm512_store_ps(out, s0);
        _mm512_store_ps(out + 16, s1);
    }
}

INLINE void expand(size_t bits, const sp_quant_form *form, const uint8_t *block, size_t steps,
                   sp_quant_weights *out)
{
    size_t each = form->block / SP_QUANT_BLOCK, groups = form->block / form->group;
    for (size_t s = 0; s < steps; s += each, block += form->bytes) {
        const uint8_t *halves = block + sp_quant_scales_at(form), *small = block + sp_quant_small_at(form);
        if (!form->small) small = NULL;
        for (size_t i = 0; i < each && bits < 8; i++)
            expand_step(bits, block + i * (bits * SP_QUANT_STEP / 8), out->numbers + (s + i) * SP_QUANT_STEP);
        scale_groups(groups, halves, small, out->scales + s * (32 / form->group) * SP_PANEL);
        if (form->mins)
            scale_groups(each, halves + 64, small ? small + groups * SP_PANEL : NULL,
                         out->mins + s * SP_PANEL);
    }
}

static void quant_expand(const sp_quant_form *form, const uint8_t *panel, size_t steps, sp_quant_weights *out)
{
    out->from = form->bits < 8 ? out->numbers : panel;
    out->step = form->bits < 8 ? SP_QUANT_STEP : form->bytes;
    if (form->bits == 4) {
        expand(4, form, panel, steps, out);
    } else if (form->bits == 5) {
        expand(5, form, panel, steps, out);
    } else if (form->bits == 6) {
        expand(6, form, panel, steps, out);
    } else {
        expand(8, form, panel, steps, out);
    }
}

/* --- products --- */

/* Constants: rows, group, mins. */
INLINE void product(size_t rows, size_t group, bool mins, const sp_quant_product *p)
{
    __m512 low[ROWS], high[ROWS];
    uint32_t wanted = p->width < SP_PANEL ? (1u << p->width) - 1u : 0xffffffffu;
    __mmask16 mask0 = (__mmask16)wanted, mask1 = (__mmask16)(wanted >> 16);
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++) {
        const float *y = p->y + r * p->stride;
        low[r] = p->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask0, y);
        high[r] = p->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask1, y + 16);
    }
    sp_quant_lines x = p->x;
    const float *scales = p->w->scales, *w_mins = p->w->mins;
    const uint8_t *numbers = p->w->from, *ahead = p->ahead;
    for (size_t s = 0; s < p->steps; s++, numbers += p->w->step) {
        for (size_t i = 0; i < p->ahead_lines; i++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
        __m512 m[2];
        if (mins) m[0] = _mm512_load_ps(w_mins), m[1] = _mm512_load_ps(w_mins + 16);
#pragma GCC unroll 2
        for (size_t g = 0; g < 32 / group; g++, scales += SP_PANEL) {
            const __m512 scale[2] = {_mm512_load_ps(scales), _mm512_load_ps(scales + 16)};
            product_group(rows, 8, group, mins, g, numbers, &x, scale, m, low, high);
        }
        x.q += rows * SP_QUANT_BLOCK;
        x.starts += rows * (32 / group);
        x.scales += rows, x.sums += rows, w_mins += SP_PANEL;
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++) {
        _mm512_mask_storeu_ps(p->y + r * p->stride, mask0, low[r]);
        _mm512_mask_storeu_ps(p->y + r * p->stride + 16, mask1, high[r]);
    }
}

static void quant_product(const sp_quant_product *p)
{
    if (p->form->mins) {
        ANY_ROWS(product, p->rows, 32, true, p)
    } else if (p->form->group == 32) {
        ANY_ROWS(product, p->rows, 32, false, p)
    } else {
        ANY_ROWS(product, p->rows, 16, false, p)
    }
}

void sp_cpu_quant_avx512vnni(sp_cpu_slots *slots)
{
    slots->quant_rows = ROWS;
    slots->quant_row = quant_row;
    slots->quant_expand = quant_expand;
    slots->quant_product = quant_product;
    slots->quant_few = sp_quant_few_avx512vnni;
}
