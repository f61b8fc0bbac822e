/* Elementwise kernels in plain C: the order of operations that every level keeps, so that all levels agree in
 * every bit. Sums run in 16 lanes (number i in lane i mod 16, ascending, fused multiply-add),
 * which are then folded in halves: 16, 8, 4, 2, 1.
 *
 *   exp(t) = 2^n e^r, n = round(t / ln 2), r = t - n ln 2 in two steps, e^r = 1 + r + r^2 p(r), p of degree 4
 * fitted to least relative error on |r| <= ln 2 / 2 (exp.h): 3e-9 before rounding, 1.2e-7 after Tests:
 * tests/kernels/test_elementwise.c */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#include <math.h>

/* 16 lanes folded in halves. */
static float fold(float *lanes)
{
    for (size_t half = 8; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
    }
    return lanes[0];
}

static void rms_norm(size_t n, float eps, const float *weight, const float *x, float *y)
{
    float lanes[16] = {0};
    for (size_t i = 0; i < n; i++) lanes[i % 16] = fmaf(x[i], x[i], lanes[i % 16]);
    float factor = 1.0f / sqrtf(fold(lanes) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
}

static void layer_norm(size_t n, float eps, const float *weight, const float *bias, const float *x, float *y)
{
    float lanes[16] = {0}, squares[16] = {0};
    for (size_t i = 0; i < n; i++) lanes[i % 16] += x[i];
    float mean = fold(lanes) / (float)n;
    for (size_t i = 0; i < n; i++) squares[i % 16] = fmaf(x[i] - mean, x[i] - mean, squares[i % 16]);
    float factor = 1.0f / sqrtf(fold(squares) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = fmaf((x[i] - mean) * factor, weight[i], bias[i]);
}

static void rope(size_t n_heads, size_t head_dim, const float *cos, const float *sin, float *x)
{
    size_t half = head_dim / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *first = x + head * head_dim, *second = first + half;
        for (size_t i = 0; i < half; i++) {
            float a = first[i], b = second[i];
            first[i] = a * cos[i] - b * sin[i];
            second[i] = b * cos[i] + a * sin[i];
        }
    }
}

static float exp_clamped(float t)
{
    t = t > SP_EXP_LOWEST ? t : SP_EXP_LOWEST;
    t = t < SP_EXP_HIGHEST ? t : SP_EXP_HIGHEST;
    float n = fmaf(t, SP_LOG2_E, SP_ROUND_MAGIC) - SP_ROUND_MAGIC;
    float r = fmaf(n, -SP_LN2_HIGH, t);
    r = fmaf(n, -SP_LN2_LOW, r);
    float p = SP_EXP_C4;
    p = fmaf(p, r, SP_EXP_C3);
    p = fmaf(p, r, SP_EXP_C2);
    p = fmaf(p, r, SP_EXP_C1);
    p = fmaf(p, r, SP_EXP_C0);
    p = fmaf(p, r * r, r) + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

static void silu_mul(size_t n, const float *gate, const float *up, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1.0f + exp_clamped(-gate[i])) * up[i];
}

/* 1 + tanh(u) = 2 / (1 + exp(-2 u)) */
static void gelu(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) {
        float cubic = fmaf(x[i] * x[i] * x[i], SP_GELU_B, x[i]);
        y[i] = x[i] / (1.0f + exp_clamped(cubic * SP_GELU_A));
    }
}

static void add(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}

static void to_bf16(size_t n, const float *x, uint16_t *y)
{
    for (size_t i = 0; i < n; i++) y[i] = sp_bf16_from_f32(x[i]);
}

void sp_cpu_elementwise_reference(sp_cpu_slots *slots)
{
    slots->rms_norm = rms_norm;
    slots->layer_norm = layer_norm;
    slots->rope = rope;
    slots->silu_mul = silu_mul;
    slots->gelu = gelu;
    slots->add = add;
    slots->to_bf16 = to_bf16;
}
