/* The table of captures (engine/graph/capture.h): budget, who leaves first, holds, pages that come back, ids
 * that are gone, heads that are made, dropped and made again. */
#include "tests/support/test.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/capture.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

enum { TOKENS = 130, PAGES = 40 };

static sp_model model;
static sp_kv kv;
static sp_captures *store;
static double now;
static size_t page_bytes;

static double read_clock(void)
{
    return now;
}

static void open_store(size_t max_bytes, size_t max_capture_bytes)
{
    sp_error error;
    const sp_hparams *h = &model.hparams;
    const sp_kv_options pool = {.n_layers = h->n_layers,
                                .n_kv_heads = h->n_kv_heads,
                                .head_dim = h->head_dim,
                                .dtype = SP_F32,
                                .n_pages = PAGES};
    assert_ok(sp_kv_open(&pool, &kv, &error), error);
    page_bytes = kv.page_bytes;
    const sp_captures_options options = {.model = &model,
                                         .kv_type = SP_F32,
                                         .page_bytes = page_bytes,
                                         .max_bytes = max_bytes,
                                         .max_capture_bytes = max_capture_bytes,
                                         .expiry = 100,
                                         .clock = read_clock};
    now = 1000;
    assert_ok(sp_captures_open(&options, &store, &error), error);
}

static void close_store(void)
{
    sp_captures_tidy(store, &kv);
    sp_captures_close(store);
    sp_kv_close(&kv);
}

static sp_status begin(sp_capture **out, sp_error *error)
{
    const sp_attention_host host = {.n_heads = model.hparams.n_heads, .model_normalizer = {1.5f}};
    const sp_capture_spec spec = {.owner = 7};
    sp_attention attention;
    int32_t tokens[TOKENS];
    for (int i = 0; i < TOKENS; i++) tokens[i] = i % 50;
    assert_ok(sp_attention_parse("\"window\"", 8, &host, &attention, error), *error);
    return sp_capture_open(store, &spec, &attention, NULL, 0, tokens, TOKENS, TOKENS, out, error);
}

/* A finished capture with random queries and keys; *pages are taken from the pool. Not held. */
static void make(char id[SP_CAPTURE_ID], uint64_t seed)
{
    sp_error error;
    sp_capture *capture;
    test_random random = {seed};
    const sp_hparams *h = &model.hparams;
    size_t q_row = (size_t)h->n_heads * h->head_dim, k_row = (size_t)h->n_kv_heads * h->head_dim;
    float *q = malloc(TOKENS * q_row * sizeof *q), *k = malloc(TOKENS * k_row * sizeof *k);
    uint32_t pages[(TOKENS + 63) / 64];
    int32_t tokens[TOKENS] = {0};
    assert_ok(begin(&capture, &error), error);
    assert_true(sp_kv_take(&kv, 3, pages));
    for (uint32_t layer = 0; layer < h->n_layers; layer++) {
        test_random_fill(&random, q, TOKENS * q_row, 1);
        test_random_fill(&random, k, TOKENS * k_row, 1);
        sp_kv_write(&kv, model.device, pages, layer, 0, TOKENS, k, k);
        sp_capture_rows(capture, layer, 0, TOKENS, q, q, q, 0.3f);
    }
    sp_capture_grow(capture, tokens, TOKENS);
    assert_int_equal(sp_capture_adopt(capture, pages), 3);
    sp_kv_pin(&kv, 3, pages);
    sp_kv_give(&kv, 3, pages);
    memcpy(id, sp_capture_id(capture), SP_CAPTURE_ID);
    sp_capture_leave(capture);
    free(q);
    free(k);
}

static sp_capture *hold(const char *id, bool use)
{
    sp_error error;
    sp_capture *capture;
    bool gone;
    sp_status status = sp_captures_hold(store, id, 7, use, &capture, &gone, &error);
    assert_true((status == SP_OK) == (capture != NULL));
    return capture;
}

static bool is_there(const char *id)
{
    sp_capture *capture = hold(id, false);
    if (capture) sp_capture_release(capture);
    return capture != NULL;
}

static bool is_gone(const char *id, uint64_t owner)
{
    sp_error error;
    sp_capture *capture;
    bool gone;
    assert_int_equal(sp_captures_hold(store, id, owner, false, &capture, &gone, &error), SP_NOT_FOUND);
    return gone;
}

static sp_status run_now(void *engine, void (*call)(void *context), void *context, sp_error *error)
{
    (void)engine, (void)error;
    call(context);
    return SP_OK;
}

static bool stop_soon(void *context)
{
    int *left = context;
    return --*left < 0;
}

static sp_graph_runner runner(bool (*stop)(void *context), void *context)
{
    return (sp_graph_runner){.run = run_now,
                             .device = model.device,
                             .kv = &kv,
                             .step_seconds = 1e-9,
                             .stop = stop,
                             .stop_context = context};
}

static size_t size_of_one(void)
{
    char id[SP_CAPTURE_ID];
    open_store((size_t)64 << 20, (size_t)64 << 20);
    make(id, 1);
    size_t size = sp_captures_used(store);
    close_store();
    return size;
}

/* The least recently used capture leaves; its pages come back, its id is gone for an hour. */
static void test_eviction(void **state)
{
    (void)state;
    char ids[4][SP_CAPTURE_ID];
    size_t size = size_of_one();
    open_store(3 * size, size);
    for (int i = 0; i < 3; i++, now++) make(ids[i], (uint64_t)i);
    assert_int_equal(sp_captures_used(store), 3 * size);
    assert_int_equal(kv.n_free, PAGES - 9);
    assert_int_equal(sp_kv_used(&kv), 0);
    sp_capture_release(hold(ids[0], true));
    make(ids[3], 9);
    assert_true(is_there(ids[0]) && !is_there(ids[1]) && is_there(ids[2]) && is_there(ids[3]));
    assert_true(is_gone(ids[1], 7));
    assert_false(is_gone(ids[1], 8)); /* nobody else's business */
    assert_false(is_gone("attn-unknown", 7));
    sp_captures_tidy(store, &kv);
    assert_int_equal(kv.n_free, PAGES - 9);
    now += 99.5; /* all but what was used last expire */
    sp_capture_release(hold(ids[3], true));
    now += 50;
    assert_int_equal(sp_captures_used(store), size);
    assert_true(is_gone(ids[0], 7));
    now += 3601;
    assert_false(is_gone(ids[1], 7));
    close_store();
}

/* What is held stays readable until it is let go, and counts until then. */
static void test_holds(void **state)
{
    (void)state;
    char id[SP_CAPTURE_ID];
    sp_error error;
    size_t size = size_of_one();
    open_store(size, size);
    make(id, 3);
    sp_capture *held = hold(id, true), *other;
    assert_int_equal(begin(&other, &error), SP_BUSY);
    sp_capture_delete(held);
    assert_false(is_there(id));
    assert_false(is_gone(id, 7)); /* deleted, not evicted */
    assert_int_equal(sp_captures_used(store), size);
    sp_capture_status status;
    sp_capture_get_status(held, &status);
    assert_int_equal(status.n_tokens, TOKENS);
    sp_capture_release(held);
    assert_int_equal(sp_captures_used(store), 0);
    assert_int_equal(kv.n_free, PAGES - 3);
    sp_captures_tidy(store, &kv);
    assert_int_equal(kv.n_free, PAGES);
    close_store();
}

/* Too large is refused by name; a run that fails leaves nothing. */
static void test_limits(void **state)
{
    (void)state;
    char id[SP_CAPTURE_ID];
    sp_error error;
    sp_capture *capture;
    size_t size = size_of_one();
    open_store(4 * size, size - 1);
    assert_int_equal(begin(&capture, &error), SP_TOO_LARGE);
    assert_string_equal(error.param, "layers");
    assert_int_equal(sp_captures_used(store), 0);
    close_store();
    open_store(4 * size, size);
    assert_ok(begin(&capture, &error), error);
    memcpy(id, sp_capture_id(capture), SP_CAPTURE_ID);
    sp_fail(&error, SP_UNAVAILABLE, "cut");
    sp_capture_fail(capture, &error);
    sp_capture_leave(capture);
    assert_int_equal(sp_captures_used(store), 0);
    assert_false(is_there(id));
    close_store();
}

/* Who needs pages gets those of idle captures. */
static void test_reclaim(void **state)
{
    (void)state;
    char ids[12][SP_CAPTURE_ID];
    open_store((size_t)64 << 20, (size_t)64 << 20);
    for (int i = 0; i < 12; i++, now++) make(ids[i], (uint64_t)i);
    assert_int_equal(kv.n_free, PAGES - 36);
    sp_capture *held = hold(ids[0], true);
    sp_captures_reclaim(store, &kv, 10);
    assert_int_equal(kv.n_free, 10);
    assert_true(is_there(ids[0]) && !is_there(ids[1]) && !is_there(ids[2]) && is_there(ids[3]));
    sp_capture_release(held);
    sp_captures_reclaim(store, &kv, PAGES);
    assert_int_equal(kv.n_free, PAGES);
    assert_int_equal(sp_captures_used(store), 0);
    close_store();
}

/* A head is made in steps, taken up where its maker left it, dropped before any capture, and made again the
 * same. */
static void test_heads(void **state)
{
    (void)state;
    char ids[2][SP_CAPTURE_ID];
    sp_error error;
    double progress = 0;
    const sp_head *head;
    sp_head_record record;
    size_t size = size_of_one();
    open_store(2 * size + 200000, size);
    make(ids[0], 5);
    sp_capture *capture = hold(ids[0], true);
    assert_ok(sp_capture_head(capture, 1, 1, NULL, &head, &progress, &error), error);
    assert_true(head == NULL && progress == 0);
    int left = 70;
    sp_graph_runner impatient = runner(stop_soon, &left), patient = runner(NULL, NULL);
    assert_ok(sp_capture_head(capture, 1, 1, &impatient, &head, &progress, &error), error);
    assert_true(head == NULL && progress > 0 && progress < 1);
    assert_false(sp_capture_record(capture, 1, 1, &record));
    assert_ok(sp_capture_head(capture, 1, 1, &patient, &head, &progress, &error), error);
    assert_true(head && head->done && progress == 1);
    assert_true(head->record.edges_gold >= TOKENS && head->record.pairs_valid == TOKENS * (TOKENS + 1) / 2);
    sp_head_record first = head->record;
    assert_int_equal(sp_captures_used(store), size + head->bytes);
    sp_capture_release_head(capture, 1, 1);
    assert_true(sp_capture_record(capture, 1, 1, &record));
    sp_capture_release(capture);

    now++;
    make(ids[1], 6); /* fits, and so does one head, but not two */
    capture = hold(ids[1], true);
    assert_ok(sp_capture_head(capture, 0, 0, &patient, &head, &progress, &error), error);
    sp_capture_release_head(capture, 0, 0);
    assert_true(sp_captures_used(store) <= 2 * size + 200000);
    sp_capture_release(capture);
    capture = hold(ids[0], true);
    assert_non_null(capture);
    assert_ok(sp_capture_head(capture, 1, 1, &patient, &head, &progress, &error), error);
    assert_memory_equal(&first, &head->record, sizeof first);
    sp_capture_release_head(capture, 1, 1);
    sp_capture_delete(capture);
    assert_int_equal(sp_capture_head(capture, 0, 0, &patient, &head, &progress, &error), SP_NOT_FOUND);
    sp_capture_release(capture);
    close_store();
}

static int open_model(void **state)
{
    (void)state;
    sp_error error;
    return fake_model_open(NULL, 1, &model, &error) == SP_OK ? 0 : 1;
}

static int close_model(void **state)
{
    (void)state;
    fake_model_close(&model);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_eviction), cmocka_unit_test(test_holds), cmocka_unit_test(test_limits),
    cmocka_unit_test(test_reclaim),  cmocka_unit_test(test_heads),
};

int main(void)
{
    return cmocka_run_group_tests(tests, open_model, close_model) == 0 ? 0 : 1;
}
