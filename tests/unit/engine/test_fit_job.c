/* A whole fit of the bundled model, small: losses fall, held-out recall beats random edges, the same bytes at
 * any thread count and after a stop; samples against the model's own attention; judging and thresholds
 * against sorted scores in double. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/sparsefinder/fit_job.h"
#include "engine/sparsefinder/fit_sets.h"

#define LENGTH 192u

typedef struct rig {
    sp_device *device;
    sp_model *model;
    sp_fit_text text;
    sp_sample_options source;
    sp_fit_options options;
} rig;

static void open_rig(rig *r, size_t threads)
{
    sp_error error = {0};
    const char *path = SPARSED_ROOT "/models/austen/train-sample.txt";
    sp_device_options on = {.n_threads = threads};
    sp_model_options loading = {.fingerprint = true};
    memset(r, 0, sizeof *r);
    assert_ok(sp_device_open("cpu", &on, &r->device, &error), error);
    assert_ok(sp_model_open(SPARSED_ROOT "/models/austen", r->device, &loading, &r->model, &error), error);
    assert_ok(sp_fit_text_open(r->model->tokenizer, &path, 1, LENGTH, 12 * LENGTH, &r->text, &error), error);
    r->source = (sp_sample_options){
        .model = r->model, .text = &r->text, .normalizer = r->model->hparams.normalizer, .kv = SP_BF16};
    sp_fit_options_init(&r->options);
    r->options.steps = 60;
    r->options.clusters = (sp_size_list){{6}, 1};
    r->options.kmeans = (sp_size_list){{6}, 1};
    r->options.bins = (sp_size_list){{4}, 1};
    r->options.blocks = (sp_size_list){{32}, 1};
    r->options.runs = 2;
}

static void close_rig(rig *r)
{
    sp_fit_text_close(&r->text);
    sp_model_close(r->model);
    sp_device_close(r->device);
}

static void temporary(char path[64], const char *name)
{
    snprintf(path, 64, "/tmp/sparsed-fit-%ld-%s", (long)getpid(), name);
}

static void read_whole(const char *path, char **data, size_t *size)
{
    sp_error error = {0};
    assert_ok(sp_read_file(path, (size_t)1 << 26, data, size, &error), error);
}

static void assert_same_files(const char *a, const char *b)
{
    char *x, *y;
    size_t nx, ny;
    read_whole(a, &x, &nx);
    read_whole(b, &y, &ny);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    sp_free(x);
    sp_free(y);
}

static void fit_to(rig *r, const char *path, sp_fit_result *out)
{
    sp_error error = {0};
    const sp_fit_progress quiet = {0};
    assert_ok(sp_fit_run(&r->source, &r->options, path, &quiet, NULL, out, &error), error);
}

static void free_result(sp_fit_result *result)
{
    sp_fit_close(result->fit);
    sp_free(result->figures);
}

/* --- the job --- */

typedef struct stopper {
    atomic_bool stop;
    unsigned left;
} stopper;

static void stop_soon(void *context, uint32_t layer, uint32_t first, uint32_t n,
                      const sp_head_figures *figures, double share)
{
    stopper *s = context;
    (void)layer, (void)first, (void)n, (void)figures, (void)share;
    if (--s->left == 0) atomic_store(&s->stop, true);
}

static void test_same_bytes(void **state)
{
    rig one, two;
    sp_fit_result a, b;
    sp_fit *read;
    sp_error error = {0};
    char whole[64], stopped[64], rest[80];
    (void)state;
    temporary(whole, "whole");
    temporary(stopped, "stopped");
    snprintf(rest, sizeof rest, "%s.state", stopped);
    open_rig(&one, 1);
    fit_to(&one, whole, &a);
    close_rig(&one);

    open_rig(&two, 3); /* other threads, two layers at a time, stopped half way */
    two.options.sample_bytes = 2 * sp_sample_layer_bytes(&two.source);
    stopper s = {.left = 9};
    const sp_fit_progress progress = {.trained = stop_soon, .context = &s};
    assert_int_equal(sp_fit_run(&two.source, &two.options, stopped, &progress, &s.stop, &b, &error),
                     SP_CANCELLED);
    assert_int_equal(access(stopped, F_OK), -1);
    FILE *file = fopen(rest, "ab"); /* a record cut short */
    assert_non_null(file);
    fputs("half a rec", file);
    fclose(file);
    fit_to(&two, stopped, &b);
    assert_true(b.resumed >= 9 && b.resumed < 24);
    assert_int_equal(access(rest, F_OK), -1);
    assert_same_files(whole, stopped);
    assert_memory_equal(a.figures, b.figures, 24 * sizeof *a.figures);

    assert_ok(sp_fit_open(whole, &read, &error), error);
    assert_ok(sp_fit_check(read, two.model->fingerprint, 6, 4, 4, 64, &error), error);
    assert_int_equal(read->length, LENGTH);
    assert_string_equal(read->corpus, two.text.sha256);
    assert_true(sp_fit_find(read, 5, SP_ATTEND_SELF, SP_FIT_CLUSTER, 6)->centroids[0].size == 6);
    const sp_fit_set *block = sp_fit_find(read, 2, SP_ATTEND_SELF, SP_FIT_BLOCK, 32);
    assert_true(block && block->centroids[0].runs == 2 && block->centroids[0].size == 6);
    sp_fit_close(read);

    /* the state of other options is refused */
    two.options.seed = 7;
    file = fopen(rest, "wb");
    assert_non_null(file);
    fputs("SPFITST1 no such job", file);
    fclose(file);
    assert_int_equal(sp_fit_run(&two.source, &two.options, stopped, &progress, NULL, &b, &error), SP_DATA);
    assert_int_equal(access(rest, F_OK), 0);
    /* one in which nothing is done yet is nobody's loss; nor is one left behind where nothing was done */
    file = fopen(rest, "wb");
    assert_non_null(file);
    fputs("SPFITST1other ID", file);
    fclose(file);
    atomic_store(&s.stop, true);
    assert_int_equal(sp_fit_run(&two.source, &two.options, stopped, &progress, &s.stop, &b, &error),
                     SP_CANCELLED);
    assert_int_equal(access(rest, F_OK), -1);
    close_rig(&two);
    free_result(&a);
    free_result(&b);
    remove(whole);
    remove(stopped);
}

static void test_learns(void **state)
{
    rig r;
    sp_fit_result result;
    char path[64];
    (void)state;
    temporary(path, "learns");
    for (int loss = SP_FIT_BALANCED; loss <= SP_FIT_HINGE; loss += SP_FIT_HINGE - SP_FIT_BALANCED) {
        double gain = 0;
        open_rig(&r, 2);
        r.options.loss = (sp_fit_loss)loss;
        r.options.blocks.n = 0;
        r.options.shared = loss == SP_FIT_HINGE;
        fit_to(&r, path, &result);
        for (size_t i = 0; i < 24; i++) {
            const sp_head_figures *f = &result.figures[i];
            const sp_curve *curve =
                &f->judgement.curves[loss == SP_FIT_HINGE ? SP_JUDGED_DISTANCE : SP_JUDGED_DOT];
            assert_true(f->last_loss < f->first_loss);
            for (size_t s = 0; s < SP_SPARSITIES; s++)
                gain += (curve->recall[s] - f->judgement.curves[SP_JUDGED_RANDOM].recall[s]) / 24;
        }
        assert_true(gain > (loss == SP_FIT_HINGE ? 0.05 : 0.3)); /* summed over four sparsities */
        assert_int_equal(result.fit->layers[0].n_sets, loss == SP_FIT_HINGE ? 1 : 3);
        close_rig(&r);
        free_result(&result);
        remove(path);
    }
}

/* --- judging, by hand --- */

enum { WINDOWS = 3, TOKENS = 150, DIM = 8, RANK = 3 };

typedef struct made {
    sp_sample sample;
    uint16_t q[2 * WINDOWS * TOKENS * DIM], k[WINDOWS * TOKENS * DIM];
    /* what the model attends by, where that is something else */
    uint16_t turned_q[2 * WINDOWS * TOKENS * DIM], turned_k[WINDOWS * TOKENS * DIM];
    float q_weight[2 * DIM * RANK], q_bias[2 * RANK], k_weight[DIM * RANK], k_bias[RANK];
    float cuts[2][2];
    sp_fit_table thresholds[2];
    sp_fit_set set;
} made;

static float noise(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (float)(1 << 23) - 1;
}

static void make(made *m, sp_fit_type type, bool turned)
{
    uint32_t seed = 5;
    memset(m, 0, sizeof *m);
    for (size_t i = 0; i < COUNT_OF(m->q); i++) m->q[i] = sp_bf16_from_f32(3 * noise(&seed));
    for (size_t i = 0; i < COUNT_OF(m->k); i++) m->k[i] = sp_bf16_from_f32(3 * noise(&seed));
    for (size_t i = 0; i < COUNT_OF(m->q_weight); i++) m->q_weight[i] = noise(&seed);
    for (size_t i = 0; i < COUNT_OF(m->k_weight); i++) m->k_weight[i] = noise(&seed);
    for (size_t i = 0; i < COUNT_OF(m->q_bias); i++) m->q_bias[i] = noise(&seed);
    for (size_t i = 0; i < COUNT_OF(m->k_bias); i++) m->k_bias[i] = noise(&seed);
    for (size_t i = 0; i < COUNT_OF(m->q); i++) m->turned_q[i] = sp_bf16_from_f32(3 * noise(&seed));
    for (size_t i = 0; i < COUNT_OF(m->k); i++) m->turned_k[i] = sp_bf16_from_f32(3 * noise(&seed));
    m->sample = (sp_sample){.n_layers = 1,
                            .n_heads = 2,
                            .n_kv_heads = 1,
                            .head_dim = DIM,
                            .length = TOKENS,
                            .n_windows = WINDOWS,
                            .scale = 0.35f,
                            .normalizer = {1.5f},
                            .q = m->q,
                            .k = m->k,
                            .turned_q = turned ? m->turned_q : NULL,
                            .turned_k = turned ? m->turned_k : NULL};
    m->thresholds[0] = (sp_fit_table){0, 0, m->cuts[0]};
    m->thresholds[1] = (sp_fit_table){80, 0, m->cuts[1]};
    m->set = (sp_fit_set){.type = type,
                          .rank = RANK,
                          .n_k_maps = 1,
                          .q_weight = m->q_weight,
                          .q_bias = m->q_bias,
                          .k_weight = m->k_weight,
                          .k_bias = m->k_bias,
                          .thresholds = m->thresholds,
                          .n_thresholds = 2};
}

typedef struct pair {
    double score, p;
    bool inside;
} pair;

static int falling(const void *a, const void *b)
{
    double x = ((const pair *)a)->score, y = ((const pair *)b)->score;
    return (x < y) - (x > y);
}

static double projected(const float *weight, const float *bias, const double *x, size_t r)
{
    double sum = (double)bias[r];
    for (size_t i = 0; i < DIM; i++) sum += (double)weight[i * RANK + r] * x[i];
    return sum;
}

/* All causal pairs of one head and window: dense weights by the reference normalizer, scores by the set. */
static size_t list_pairs(const made *m, uint32_t head, size_t window, pair *out)
{
    size_t n = 0;
    float row[TOKENS];
    const uint16_t *true_q = m->sample.turned_q ? m->turned_q : m->q,
                   *true_k = m->sample.turned_k ? m->turned_k : m->k;
    for (size_t i = 0; i < TOKENS; i++) {
        for (size_t j = 0; j <= i; j++) {
            double dot = 0, score = 0, q[DIM], k[DIM];
            for (size_t d = 0; d < DIM; d++) {
                size_t q_at = ((head * WINDOWS + window) * TOKENS + i) * DIM + d,
                       k_at = (window * DIM + d) * TOKENS + j;
                q[d] = (double)sp_bf16_to_f32(m->q[q_at]);
                k[d] = (double)sp_bf16_to_f32(m->k[k_at]);
                dot += (double)sp_bf16_to_f32(true_q[q_at]) * (double)sp_bf16_to_f32(true_k[k_at]);
            }
            for (size_t r = 0; r < RANK; r++) {
                double a = projected(m->q_weight + head * DIM * RANK, m->q_bias + head * RANK, q, r);
                double b = projected(m->k_weight, m->k_bias, k, r);
                score += m->set.type == SP_FIT_DOT ? a * b : -(a - b) * (a - b);
            }
            row[j] = (float)(dot * (double)m->sample.scale);
            out[n + j] = (pair){score, 0, j == 0 || i - j <= 16};
        }
        sp_normalize_row(m->sample.normalizer, row, i + 1);
        for (size_t j = 0; j <= i; j++) out[n + j].p = (double)row[j];
        n += i + 1;
    }
    return n;
}

static void check_judged(const made *m, uint32_t head, const sp_curve *curve)
{
    static pair pairs[WINDOWS * TOKENS * (TOKENS + 1) / 2];
    size_t n = 0;
    double edges = 0, inside_pairs = 0, inside_edges = 0, inside_mass = 0;
    for (size_t w = 0; w < WINDOWS; w++) n += list_pairs(m, head, w, pairs + n);
    size_t outside = 0;
    for (size_t i = 0; i < n; i++) {
        edges += pairs[i].p > 0;
        if (pairs[i].inside) {
            inside_pairs++;
            inside_edges += pairs[i].p > 0;
            inside_mass += pairs[i].p;
        } else {
            pairs[outside++] = pairs[i];
        }
    }
    qsort(pairs, outside, sizeof *pairs, falling);
    for (size_t s = 0; s < SP_SPARSITIES; s++) {
        double budget = (1 - sp_judged_sparsities[s]) * (double)n - inside_pairs;
        double found = inside_edges, mass = inside_mass;
        for (size_t i = 0; (double)i < budget; i++) {
            found += pairs[i].p > 0;
            mass += pairs[i].p;
        }
        if (fabs(curve->recall[s] - found / edges) > 0.004)
            fail_msg("recall %g, not %g", curve->recall[s], found / edges);
        if (fabs(curve->mass[s] - mass / (WINDOWS * TOKENS)) > 0.004)
            fail_msg("mass %g, not %g", curve->mass[s], mass / (WINDOWS * TOKENS));
    }
    /* thresholds: the share of true edges outside that lie above, strictly */
    double there = 0, above[2] = {0, 0};
    for (size_t i = 0; i < outside; i++) {
        if (!(pairs[i].p > 0)) continue;
        there++;
        for (size_t t = 0; t < 2; t++) {
            double cut = (double)m->cuts[t][head] * (m->set.type == SP_FIT_DOT ? 1 : -1);
            above[t] += pairs[i].score > cut - 1e-5;
        }
    }
    assert_true(fabs(above[0] / there - 0.95) < 0.01 && fabs(above[1] / there - 0.80) < 0.01);
}

static void test_judges(void **state)
{
    static made m;
    sp_device *device;
    sp_error error = {0};
    sp_judgement judgement;
    (void)state;
    assert_ok(sp_device_open("cpu", &(sp_device_options){.n_threads = 1}, &device, &error), error);
    for (int number = 0; number < 4; number++) {
        int type = number % 2 ? SP_FIT_DOT : SP_FIT_DEFAULT;
        make(&m, (sp_fit_type)type, number > 1);
        sp_fit_layer layer = {&m.set, 1};
        sp_unit unit;
        assert_ok(sp_unit_open(device->train, &m.sample, 0, 0, 2, WINDOWS, false, 0.95, &unit, &error),
                  error);
        for (uint32_t head = 0; head < 2; head++) {
            assert_ok(sp_judge_thresholds(&unit, head, &m.set, 0, &error), error);
            assert_ok(sp_judge_head(&unit, head, &layer, 0, WINDOWS, 0, &judgement, &error), error);
            check_judged(&m, head,
                         &judgement.curves[type == SP_FIT_DOT ? SP_JUDGED_DOT : SP_JUDGED_DISTANCE]);
        }
        sp_unit_close(&unit);
    }
    /* keys that nobody but the window sees: no edges predicted */
    make(&m, SP_FIT_DOT, false);
    for (size_t i = 0; i < COUNT_OF(m.q); i++) m.q[i] = 0;
    m.sample.normalizer.alpha = 2.0f;
    for (size_t w = 0; w < WINDOWS; w++)
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t d = 0; d < DIM; d++)
                m.k[(w * DIM + d) * TOKENS + t] = sp_bf16_from_f32(d == 0 && t == 0);
    for (size_t i = 0; i < COUNT_OF(m.q); i += DIM) m.q[i] = sp_bf16_from_f32(100);
    sp_unit unit;
    assert_ok(sp_unit_open(device->train, &m.sample, 0, 0, 2, WINDOWS, false, 0.95, &unit, &error), error);
    assert_ok(sp_judge_thresholds(&unit, 0, &m.set, 0, &error), error);
    assert_true(isinf(m.cuts[0][0]) && m.cuts[0][0] > 0);
    m.set.type = SP_FIT_DEFAULT;
    assert_ok(sp_judge_thresholds(&unit, 0, &m.set, 0, &error), error);
    assert_true(isinf(m.cuts[0][0]) && m.cuts[0][0] < 0);
    sp_unit_close(&unit);
    sp_device_close(device);
}

/* --- samples --- */

/* Layers read apart are those read together; of vectors before the rotary embedding those behind it come too,
 * and are those turned. */
static void test_samples(void **state)
{
    rig r;
    sp_error error = {0};
    sp_sampler *sampler;
    sp_sample all, last, plain;
    (void)state;
    open_rig(&r, 2);
    assert_ok(sp_sampler_open(&r.source, &sampler, &error), error);
    assert_ok(sp_sampler_read(sampler, 0, 6, NULL, NULL, &all, &error), error);
    assert_ok(sp_sampler_read(sampler, 4, 2, NULL, NULL, &last, &error), error);
    sp_sampler_close(sampler);
    size_t row = 64 * sizeof(uint16_t) * LENGTH;
    for (size_t w = 0; w < r.text.n_windows; w++) {
        assert_memory_equal(sp_sample_q(&last, 1, 3, w), sp_sample_q(&all, 5, 3, w), row);
        assert_memory_equal(sp_sample_k(&last, 0, 2, w), sp_sample_k(&all, 4, 2, w), row);
    }
    r.source.rope_pre = true;
    assert_ok(sp_sampler_open(&r.source, &sampler, &error), error);
    assert_ok(sp_sampler_read(sampler, 2, 1, NULL, NULL, &plain, &error), error);
    sp_sampler_close(sampler);
    assert_non_null(plain.turned_q);
    assert_memory_equal(sp_sample_turned_q(&plain, 0, 3, 1), sp_sample_q(&all, 2, 3, 1), row);
    assert_memory_equal(sp_sample_turned_k(&plain, 0, 2, 1), sp_sample_k(&all, 2, 2, 1), row);
    assert_null(all.turned_q);
    const uint32_t position = 37;
    const uint16_t *turned = sp_sample_q(&all, 2, 1, 4) + position * 64,
                   *before = sp_sample_q(&plain, 0, 1, 4) + position * 64;
    double largest = 0;
    for (size_t i = 0; i < 32; i++) {
        double angle = position * pow(10000, -2.0 * (double)i / 64), x = (double)sp_bf16_to_f32(before[i]),
               y = (double)sp_bf16_to_f32(before[i + 32]), a = (double)sp_bf16_to_f32(turned[i]),
               b = (double)sp_bf16_to_f32(turned[i + 32]);
        assert_true(fabs(x * cos(angle) - y * sin(angle) - a) < 0.02 * (1 + fabs(x) + fabs(y)));
        assert_true(fabs(y * cos(angle) + x * sin(angle) - b) < 0.02 * (1 + fabs(x) + fabs(y)));
        largest = fmax(largest, fabs(x - a));
    }
    assert_true(largest > 0.1);
    sp_sample_fini(&all);
    sp_sample_fini(&last);
    sp_sample_fini(&plain);
    close_rig(&r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_judges),
    cmocka_unit_test(test_samples),
    cmocka_unit_test(test_same_bytes),
    cmocka_unit_test(test_learns),
};
TEST_MAIN(tests)
