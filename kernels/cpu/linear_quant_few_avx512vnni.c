/* Few rows times one packed panel of a block type, with VNNI: numbers are taken apart in registers, so memory
 * is read once, ascending, while the panel behind is fetched. The order of operations is that of
 * linear_quant_reference.c, so the bits are too. Tests: tests/kernels/test_linear_quant.c */
#include "kernels/cpu/linear_quant_avx512vnni.h"

/* A form as constants. */
typedef struct constants {
    size_t bits, block, group;
    bool mins, small;
} constants;

/* 32 float16. */
INLINE void load_halves(const uint8_t *halves, __m512 *out)
{
    out[0] = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)halves));
    out[1] = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)halves + 1));
}

/* 32 scales: whole ones times small ones. */
INLINE void times_small(const __m512 *whole, const uint8_t *small, __m512 *out)
{
    const __m128i *bytes = (const __m128i *)small;
    for (size_t i = 0; i < 2; i++)
        out[i] = _mm512_mul_ps(whole[i], _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(bytes + i))));
}

/* 32 k (step of a block) of one panel, onto the sums of rows. */
INLINE void few_step(size_t rows, constants form, size_t step, const uint8_t *block, const __m512 *whole,
                     const sp_quant_lines *x, __m512 *low, __m512 *high)
{
    size_t step_bytes = form.bits * SP_QUANT_STEP / 8, each = form.block / 32, groups = 32 / form.group;
    const uint8_t *small = block + each * step_bytes + (form.mins ? 128 : 64);
    __m512 mins[2];
    if (form.mins && form.small)
        times_small(whole + 2, small + (form.block / form.group + step) * SP_PANEL, mins);
    else if (form.mins)
        mins[0] = whole[2], mins[1] = whole[3];
#pragma GCC unroll 2
    for (size_t g = 0; g < groups; g++) {
        __m512 scales[2] = {whole[0], whole[1]};
        if (form.small) times_small(whole, small + (step * groups + g) * SP_PANEL, scales);
        product_group(rows, form.bits, form.group, form.mins, g, block + step * step_bytes, x, scales, mins,
                      low, high);
    }
}

/* rows and form are constants where this is inlined. */
INLINE void few(size_t rows, constants form, const sp_quant_few *p)
{
    __m512 low[ROWS], high[ROWS], whole[4];
    size_t each = form.block / SP_QUANT_BLOCK, scales_at = each * (form.bits * SP_QUANT_STEP / 8);
    const uint8_t *block = p->from, *ahead = p->ahead;
    sp_quant_lines x = p->x;
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++) low[r] = high[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < p->blocks; b++, block += p->form->bytes) {
        load_halves(block + scales_at, whole);
        if (form.mins) load_halves(block + scales_at + 64, whole + 2);
        for (size_t s = 0; s < each; s++) {
            for (size_t i = 0; i < p->ahead_lines; i++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T0);
            few_step(rows, form, s, block, whole, &x, low, high);
            x.q += rows * SP_QUANT_BLOCK;
            x.starts += rows * (32 / form.group);
            x.scales += rows, x.sums += rows;
        }
    }
    uint32_t wanted = p->width < SP_PANEL ? (1u << p->width) - 1u : 0xffffffffu;
#pragma GCC unroll 6
    for (size_t r = 0; r < rows; r++) {
        _mm512_mask_storeu_ps(p->y + r * p->stride, (__mmask16)wanted, low[r]);
        _mm512_mask_storeu_ps(p->y + r * p->stride + 16, (__mmask16)(wanted >> 16), high[r]);
    }
}

#define FEW(name, ...)                                                                                       \
    static void name(const sp_quant_few *p)                                                                  \
    {                                                                                                        \
        const constants form = {__VA_ARGS__};                                                                \
        ANY_ROWS(few, p->rows, form, p)                                                                      \
    }
FEW(few_q8_0, 8, 32, 32, false, false)
FEW(few_q4_0, 4, 32, 32, false, false)
FEW(few_q4_1, 4, 32, 32, true, false)
FEW(few_q5_0, 5, 32, 32, false, false)
FEW(few_q5_1, 5, 32, 32, true, false)
FEW(few_q4_k, 4, 256, 32, true, true)
FEW(few_q5_k, 5, 256, 32, true, true)
FEW(few_q6_k, 6, 256, 16, false, true)

void sp_quant_few_avx512vnni(const sp_quant_few *p)
{
    const sp_quant_form *form = p->form;
    if (form->bits == 8) {
        few_q8_0(p);
    } else if (form->bits == 6) {
        few_q6_k(p);
    } else if (form->small) {
        (form->bits == 4 ? few_q4_k : few_q5_k)(p);
    } else if (form->mins) {
        (form->bits == 4 ? few_q4_1 : few_q5_1)(p);
    } else {
        (form->bits == 4 ? few_q4_0 : few_q5_0)(p);
    }
}
