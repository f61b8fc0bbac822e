/* See kernels/logits.h. A slot takes whole lines of 16 logits and keeps 16 results side by side; the rest of
 * a vocabulary and the 16 are merged here. The plain C slots are those of CPUs without AVX2. */
#include "kernels/logits.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/exp.h"

#include <math.h>
#include <stdatomic.h>

#define LANES SP_LOGITS_LANES
#define INFINITE 0x7f800000 /* bits of infinity; above: no number */

/* --- plain C --- */

static void take_max(size_t n, const float *x, float *best, int32_t *most)
{
    for (size_t i = 0; i < n; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            int32_t bits;
            memcpy(&bits, x + i + j, sizeof bits);
            bits &= 0x7fffffff;
            most[j] = bits > most[j] ? bits : most[j];
            best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
        }
    }
}

/* e^x for x <= 0: 2^n e^r with n = round(x log2 e) and |r| <= ln(2) / 2, e^r by its series. */
static float exp_below(float x)
{
    x = x > -87.0f ? x : -87.0f;
    float n = (x * SP_LOG2_E + SP_ROUND_MAGIC) - SP_ROUND_MAGIC;
    float r = (x - n * SP_LN2_HIGH) - n * SP_LN2_LOW;
    float p = 1 / 120.0f + r * (1 / 720.0f);
    p = 1 / 24.0f + r * p;
    p = 1 / 6.0f + r * p;
    p = 0.5f + r * p;
    p = 1 + r * p;
    p = 1 + r * p;
    int32_t bits = ((int32_t)n + 127) * (1 << 23);
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static void add_exp(size_t n, const float *x, float max, double *sums)
{
    for (size_t i = 0; i < n; i += LANES)
        for (size_t j = 0; j < LANES; j++) sums[j] += (double)exp_below(x[i + j] - max);
}

static void take_best(size_t n, const float *x, const uint8_t *allowed, float *best)
{
    for (size_t i = 0; i < n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            if (allowed[i + j] && x[i + j] > best[j]) best[j] = x[i + j];
}

void sp_cpu_logits_reference(sp_cpu_slots *slots)
{
    slots->logits_max = take_max;
    slots->logits_exp = add_exp;
    slots->logits_best = take_best;
}

/* --- whole vocabularies --- */

/* Asked once: CPUID takes microseconds on a virtual machine. */
static const sp_cpu_slots *best_slots(void)
{
    static _Atomic(const sp_cpu_slots *) known;
    const sp_cpu_slots *slots = atomic_load(&known);
    if (slots) return slots;
    slots = sp_cpu_slots_for(sp_cpu_level());
    atomic_store(&known, slots);
    return slots;
}

static float max_of(const float *best)
{
    float max = best[0];
    for (size_t j = 1; j < LANES; j++) max = best[j] > max ? best[j] : max;
    return max;
}

bool sp_logits_max(size_t n, const float *x, float *max)
{
    float best[LANES], rest[LANES];
    int32_t most[LANES] = {0};
    size_t whole = n / LANES * LANES;
    const sp_cpu_slots *slots = best_slots();
    for (size_t j = 0; j < LANES; j++) best[j] = rest[j] = x[0];
    slots->logits_max(whole, x, best, most);
    memcpy(rest, x + whole, (n - whole) * sizeof *rest);
    slots->logits_max(LANES, rest, best, most);
    bool finite = true;
    for (size_t j = 0; j < LANES; j++) finite = finite && most[j] < INFINITE;
    *max = max_of(best);
    return finite;
}

double sp_logits_sum_exp(size_t n, const float *x, float max)
{
    double sums[LANES] = {0};
    size_t whole = n / LANES * LANES;
    best_slots()->logits_exp(whole, x, max, sums);
    for (size_t i = whole; i < n; i++) sums[i - whole] += (double)exp_below(x[i] - max);
    for (size_t j = 1; j < LANES; j++) sums[0] += sums[j];
    return sums[0];
}

size_t sp_logits_best(size_t n, const float *x, const uint8_t *allowed)
{
    float best[LANES];
    size_t whole = n / LANES * LANES, id = 0;
    for (size_t j = 0; j < LANES; j++) best[j] = -INFINITY;
    best_slots()->logits_best(whole, x, allowed, best);
    for (size_t i = whole; i < n; i++)
        if (allowed[i] && x[i] > best[0]) best[0] = x[i];
    float max = max_of(best);
    for (; id < whole; id += LANES) {
        int found = 0;
        for (size_t j = 0; j < LANES; j++) found |= x[id + j] == max;
        bool here = false;
        for (size_t j = 0; found && j < LANES; j++) here = here || (allowed[id + j] && x[id + j] == max);
        if (here) break;
    }
    while (!allowed[id] || x[id] != max) id++;
    return id;
}
