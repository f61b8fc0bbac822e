/* A chunk whose plan finds no room is attended to in parts: rows get the same bits with little room as with
 * plenty, beside another sequence, for patterns that layers share and for predicted ones; where not even one
 * row has room, only its sequence fails. */
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

#include "engine/attention/attend.h"
#include "tests/support/random_fit.h"

enum { HEADS = 4, KV_HEADS = 2, DIM = 16, KEYS = 400, FIRST = 90, LAYERS = 1, JOBS = 2, PAGES = 7 };
#define Q_ROW ((size_t)HEADS * DIM)
#define K_ROW ((size_t)KV_HEADS * DIM)

static sp_attention parse(const char *json, const sp_fit *fit)
{
    const sp_attention_host host = {.n_heads = HEADS, .model_normalizer = {.alpha = 1.5f}};
    sp_attention attention;
    sp_error error;
    assert_ok(sp_attention_parse(json, strlen(json), &host, &attention, &error), error);
    assert_ok(sp_attention_resolve(&attention, fit, 0, 1, SP_ATTEND_SELF, &error), error);
    return attention;
}

/* Two sequences, FIRST rows each, then the rest of both in one step: the outputs of that step, (JOBS, KEYS -
 * FIRST, HEADS, DIM). Returns which jobs failed, one bit each. */
static unsigned serve(const char *const json[JOBS], size_t plan_bytes, sp_attention_phase phases[JOBS],
                      float *out)
{
    sp_error error;
    sp_device_options device_options = {.n_threads = 2};
    sp_device *device;
    assert_ok(sp_device_open("cpu", &device_options, &device, &error), error);
    sp_fit *fit = test_fit_new(HEADS, KV_HEADS, DIM, false, 4);
    const sp_fit *fits[] = {fit};
    sp_kv_options pool = {.n_layers = LAYERS,
                          .n_kv_heads = KV_HEADS,
                          .head_dim = DIM,
                          .dtype = SP_F32,
                          .side_bytes = sp_codes_page_bytes(fits, 1, HEADS, SP_F32),
                          .n_pages = JOBS * PAGES};
    sp_kv kv;
    assert_ok(sp_kv_open(&pool, &kv, &error), error);
    sp_attender_options options = {.device = device,
                                   .kv = &kv,
                                   .n_heads = HEADS,
                                   .n_kv_heads = KV_HEADS,
                                   .head_dim = DIM,
                                   .context = KEYS,
                                   .max_jobs = JOBS,
                                   .plan_bytes = plan_bytes,
                                   .fits = fits,
                                   .n_fits = 1};
    sp_attender *attender;
    assert_ok(sp_attender_open(&options, &attender, &error), error);
    sp_attention attentions[JOBS];
    uint32_t pages[JOBS][PAGES];
    uint64_t empty = 0;
    unsigned failed = 0;
    float *q = sp_alloc(JOBS * KEYS * Q_ROW, sizeof *q), *k = sp_alloc(JOBS * KEYS * K_ROW, sizeof *k);
    uint32_t *slots = sp_alloc(JOBS * KEYS, sizeof *slots),
             *positions = sp_alloc(JOBS * KEYS, sizeof *positions);
    assert_true(q && k && slots && positions);
    for (int j = 0; j < JOBS; j++) {
        attentions[j] = parse(json[j], fit);
        assert_true(sp_kv_take(&kv, PAGES, pages[j]));
        phases[j] = (sp_attention_phase){0};
    }
    for (int step = 0; step < 2; step++) {
        uint32_t position = step ? FIRST : 0, rows = step ? KEYS - FIRST : FIRST;
        sp_attend_job jobs[JOBS] = {0};
        test_finder_fill(q, JOBS * rows * Q_ROW, 10 + step);
        test_finder_fill(k, JOBS * rows * K_ROW, 20 + step);
        for (uint32_t i = 0; i < JOBS * rows; i++) slots[i] = i / rows, positions[i] = position + i % rows;
        for (uint32_t j = 0; j < JOBS; j++)
            jobs[j] = (sp_attend_job){.attention = &attentions[j],
                                      .fit = fit,
                                      .pages = pages[j],
                                      .first_row = j * rows,
                                      .rows = rows,
                                      .position = position,
                                      .phase = &phases[j],
                                      .rows_empty = &empty};
        sp_batch batch = {.n_rows = JOBS * rows, .positions = positions, .slots = slots};
        sp_attend_call call = {.batch = &batch, .q = q, .k = k, .v = k, .scale = .25f, .out = out};
        sp_attender_begin(attender, jobs, JOBS);
        assert_ok(sp_attender_attend(attender, &call, &error), error);
        for (int j = 0; j < JOBS; j++) {
            if (!jobs[j].failed) continue;
            assert_int_equal(jobs[j].error.status, SP_TOO_LARGE);
            failed |= 1u << j;
        }
    }
    sp_attender_close(attender);
    sp_kv_close(&kv);
    sp_fit_close(fit);
    sp_device_close(device);
    sp_free(q);
    sp_free(k);
    sp_free(slots);
    sp_free(positions);
    return failed;
}

#define OUT_FLOATS (JOBS * (size_t)KEYS * Q_ROW)

static void test_same_bits(void **state)
{
    (void)state;
    static const char *const pairs[][JOBS] = {
        {"{\"backend\":\"sparsefinder\",\"params\":{\"keep\":300}}", "\"dense\""},
        {"{\"backend\":\"sparsefinder\",\"params\":{\"keep\":300}}",
         "{\"backend\":\"sparsefinder\",\"params\":{\"keep\":100,\"window\":0}}"},
        {"\"sparsefinder\"",
         "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"cluster\",\"top\":2}}"},
        {"{\"backend\":\"strided\",\"params\":{\"stride\":7}}",
         "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"cluster\",\"clusters\":70}}"},
    };
    float *plenty = malloc(OUT_FLOATS * sizeof *plenty), *little = malloc(OUT_FLOATS * sizeof *little);
    assert_true(plenty && little);
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        sp_attention_phase wide[JOBS], cut[JOBS];
        assert_int_equal(serve(pairs[i], (size_t)64 << 20, wide, plenty), 0);
        size_t cuts = 0;
        for (size_t bytes = (size_t)2 << 20; bytes >= (size_t)60 << 10; bytes /= 2) {
            memset(little, 0x55, OUT_FLOATS * sizeof *little);
            unsigned failed = serve(pairs[i], bytes, cut, little);
            if (failed) break;
            cuts++;
            assert_memory_equal(little, plenty, JOBS * (KEYS - FIRST) * Q_ROW * sizeof *little);
            for (int j = 0; j < JOBS; j++) {
                assert_int_equal(cut[j].edges, wide[j].edges);
                assert_int_equal(cut[j].pairs, wide[j].pairs);
            }
        }
        assert_true(cuts >= 3);
    }
    free(plenty);
    free(little);
}

/* No room for a row's list of 399 keys a head; the other needs little. */
static void test_no_room(void **state)
{
    (void)state;
    static const char *const pair[JOBS] = {"{\"backend\":\"sparsefinder\",\"params\":{\"keep\":399}}",
                                           "\"dense\""};
    float *out = malloc(OUT_FLOATS * sizeof *out);
    sp_attention_phase phases[JOBS];
    assert_non_null(out);
    assert_int_equal(serve(pair, 6 << 10, phases, out), 1);
    for (size_t i = 0; i < (KEYS - FIRST) * Q_ROW; i++) assert_true(out[i] == 0);
    assert_true(phases[1].edges == (uint64_t)HEADS * KEYS * (KEYS + 1) / 2);
    free(out);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits), cmocka_unit_test(test_no_room)};
TEST_MAIN(tests)
