/* The loops of fitting at every level that this CPU has, against plain double loops; the losses against their
 * formulas and their derivatives against differences. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/normalizer.h"

#define N 203 /* keys: no multiple of any block */
#define STRIDE 272
#define RANK 7
#define ROWS 9

static float *numbers(test_random *random, size_t n, float scale)
{
    float *x = sp_alloc_zero(n, sizeof *x);
    assert_non_null(x);
    test_random_fill(random, x, n, scale);
    return x;
}

static void assert_near(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance))
        fail_msg("%.9g, not %.9g within %.2g", value, expected, tolerance);
}

static void for_levels(void (*check)(const sp_train_ops *ops))
{
    for (int level = 0; level <= (int)sp_cpu_level(); level++)
        check(sp_cpu_slots_for((sp_cpu_isa)level)->train);
}

static void check_products(const sp_train_ops *ops)
{
    test_random random = {.state = 11};
    float *x = numbers(&random, ROWS * RANK, 1), *y = numbers(&random, RANK * STRIDE, 1),
          *out = numbers(&random, ROWS * STRIDE, 1), *dots = numbers(&random, ROWS * RANK, 1);
    uint32_t lengths[ROWS];
    for (size_t i = 0; i < ROWS; i++) lengths[i] = (uint32_t)(i * 25);
    sp_train_product product = {ROWS, RANK, N, x, RANK, y, STRIDE, out, STRIDE, NULL};
    for (int part = 0; part < 2; part++) {
        product.lengths = part ? lengths : NULL;
        for (size_t i = 0; i < ROWS * STRIDE; i++) out[i] = NAN;
        ops->product(&product);
        for (size_t a = 0; a < ROWS; a++)
            for (size_t t = 0; t < (part ? lengths[a] : N); t++) {
                double sum = 0;
                for (size_t d = 0; d < RANK; d++) sum += (double)x[a * RANK + d] * (double)y[d * STRIDE + t];
                assert_near((double)out[a * STRIDE + t], sum, 1e-5);
            }
    }
    product.lengths = NULL;
    ops->product(&product);
    for (size_t r = 0; r < RANK; r++) memset(y + r * STRIDE + N, 0, (STRIDE - N) * sizeof *y);
    for (size_t r = 0; r < ROWS; r++) memset(out + r * STRIDE + N, 0, (STRIDE - N) * sizeof *y);
    ops->dots(ROWS, RANK, N, out, STRIDE, y, STRIDE, dots);
    for (size_t a = 0; a < ROWS; a++)
        for (size_t b = 0; b < RANK; b++) {
            double sum = 0;
            for (size_t t = 0; t < N; t++) sum += (double)out[a * STRIDE + t] * (double)y[b * STRIDE + t];
            assert_near((double)dots[a * RANK + b], sum, 1e-4 * (1 + fabs(sum)));
        }
    sp_free(x), sp_free(y), sp_free(out), sp_free(dots);
}

static void check_rows(const sp_train_ops *ops)
{
    test_random random = {.state = 5};
    float *x = numbers(&random, N, 3), values[N], e[N];
    uint32_t places[N];
    uint16_t bf16[N];
    for (size_t n = 1; n <= N; n += n < 40 ? 1 : 23) {
        float most = x[0], cut = 0.5f;
        double above = 0, sums[2] = {0, 0}, excess[2], total = 0, shift = 0.25;
        size_t found = 0;
        for (size_t i = 0; i < n; i++) {
            most = x[i] > most ? x[i] : most;
            found += x[i] > cut;
            above += x[i] >= cut ? (double)x[i] : 0;
            double over = x[i] > cut ? (double)x[i] - (double)cut : 0;
            sums[0] += over;
            sums[1] += over * over;
            total += exp((double)x[i] - shift);
        }
        assert_true(ops->highest(n, x) == most);
        assert_int_equal(ops->collect(n, cut, x, places, values), found);
        for (size_t i = 0, next = 0; i < n; i++) {
            if (!(x[i] > cut)) continue;
            assert_int_equal(places[next], i);
            assert_true(values[next++] == x[i]);
        }
        ops->excess(n, cut, x, excess);
        assert_near(excess[0], sums[0], 1e-4 * (1 + sums[0]));
        assert_near(excess[1], sums[1], 1e-4 * (1 + sums[1]));
        assert_near(ops->sum_from(n, cut, x), above, 1e-4 * (1 + above));
        assert_near(ops->exp_sum(n, (float)shift, x, e), total, 1e-5 * total);
        for (size_t i = 0; i < n; i++)
            assert_near((double)e[i], exp((double)x[i] - shift), 1e-5 * exp((double)x[i] - shift));
    }
    for (size_t i = 0; i < N; i++) bf16[i] = sp_bf16_from_f32(x[i]);
    ops->widen(N, bf16, values);
    for (size_t i = 0; i < N; i++) assert_true(values[i] == sp_bf16_to_f32(bf16[i]));
    sp_free(x);
}

/* A case of pairs with random edges; codes positive and small enough that x lies in (0, 1) for ROUTED. */
typedef struct pairs_case {
    sp_train_pairs pairs;
    float *q, *k, *dq, *dk, *scratch, *weights;
    uint32_t lengths[ROWS], edges[ROWS * N];
    size_t begins[ROWS + 1];
} pairs_case;

static void open_case(pairs_case *c, sp_train_loss loss)
{
    test_random random = {.state = 77};
    memset(c, 0, sizeof *c);
    c->q = numbers(&random, ROWS * RANK, 1);
    c->k = numbers(&random, RANK * STRIDE, 1);
    c->dq = numbers(&random, ROWS * RANK, 1);
    c->dk = sp_alloc_zero(RANK * STRIDE, sizeof *c->dk);
    c->scratch = numbers(&random, 64 * RANK, 1);
    c->weights = numbers(&random, ROWS * N, 1);
    for (size_t i = 0; loss == SP_TRAIN_ROUTED && i < ROWS * RANK; i++) c->q[i] = fabsf(c->q[i]) / (RANK * 4);
    for (size_t i = 0; loss == SP_TRAIN_ROUTED && i < RANK * STRIDE; i++) c->k[i] = fabsf(c->k[i]) / 2;
    size_t n = 0;
    for (size_t i = 0; i < ROWS; i++) {
        c->lengths[i] = (uint32_t)(i < ROWS - 1 ? 1 + i * i * 3 : N);
        for (uint32_t j = 0; j < c->lengths[i]; j++)
            if ((j * 7 + i * 5) % 11 < 3) c->edges[n++] = j;
        c->begins[i + 1] = n;
    }
    for (size_t e = 0; e < n; e++) c->weights[e] = 0.001f + fabsf(c->weights[e]) / (float)n;
    c->pairs =
        (sp_train_pairs){loss,     ROWS,       RANK,    c->lengths, c->q,  c->k,       STRIDE, c->begins,
                         c->edges, c->weights, 0.0015f, c->dq,      c->dk, c->scratch, NULL};
}

static void close_case(pairs_case *c)
{
    sp_free(c->q), sp_free(c->k), sp_free(c->dq), sp_free(c->dk), sp_free(c->scratch), sp_free(c->weights);
}

static double loss_of(const pairs_case *c)
{
    double sum = 0;
    for (size_t i = 0; i < ROWS; i++) {
        size_t e = c->begins[i];
        for (uint32_t j = 0; j < c->lengths[i]; j++) {
            double x = 0;
            for (size_t r = 0; r < RANK; r++) x += (double)c->q[i * RANK + r] * (double)c->k[r * STRIDE + j];
            bool edge = e < c->begins[i + 1] && c->edges[e] == j;
            double w = edge ? (double)c->weights[e++] : (double)c->pairs.others;
            if (c->pairs.loss == SP_TRAIN_BALANCED)
                sum += w * log1p(exp(edge ? -x : x));
            else
                sum -= w * (edge ? log(x > 0.01 ? x : 0.01) : log1p(-x));
        }
    }
    return sum;
}

/* The derivative by *at, from two sides. */
static double slope_at(const pairs_case *c, float *at)
{
    const float step = 0x1p-10f, old = *at;
    *at = old + step;
    double high = loss_of(c);
    *at = old - step;
    double low = loss_of(c);
    *at = old;
    return (high - low) / (2 * (double)step);
}

static void check_pairs(const sp_train_ops *ops)
{
    for (int loss = SP_TRAIN_BALANCED; loss <= SP_TRAIN_ROUTED; loss++) {
        pairs_case c;
        double value = 0;
        open_case(&c, (sp_train_loss)loss);
        c.pairs.value = &value;
        ops->pairs(&c.pairs);
        assert_near(value, loss_of(&c), 1e-5 * (1 + value));
        for (size_t i = 0; i < ROWS * RANK; i++) {
            double slope = slope_at(&c, &c.q[i]);
            assert_near((double)c.dq[i], slope, 5e-4 * (1 + fabs(slope)));
        }
        for (size_t r = 0; r < RANK; r++)
            for (size_t j = 0; j < N; j += j < 20 ? 1 : 13)
                assert_near((double)c.dk[r * STRIDE + j], slope_at(&c, &c.k[r * STRIDE + j]), 2e-5);
        for (size_t j = N; j < STRIDE; j++) assert_true(c.dk[j] == 0); /* nobody sees these */
        float before = c.dk[3];
        c.pairs.value = NULL;
        ops->pairs(&c.pairs); /* added to */
        assert_near((double)c.dk[3], 2 * (double)before, 1e-6);
        close_case(&c);
    }
}

static void test_products(void **state)
{
    (void)state;
    for_levels(check_products);
}

static void test_rows(void **state)
{
    (void)state;
    for_levels(check_rows);
}

static void test_pairs(void **state)
{
    (void)state;
    for_levels(check_pairs);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_products),
    cmocka_unit_test(test_rows),
    cmocka_unit_test(test_pairs),
};
TEST_MAIN(tests)
