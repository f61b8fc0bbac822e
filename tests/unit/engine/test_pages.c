/* What sequences share (engine/pages.h), over a fake model: pages that are shared are not priced, running
 * requests share too and give their own copies back, a failure publishes nothing, what is cached makes room,
 * owners and salts stay apart. */
#include "tests/support/scheduler_fixture.h"

static int32_t ids[FAKE_CONTEXT];

static sp_request shared(size_t n, uint32_t max_tokens)
{
    sp_request request;
    sp_request_init(&request);
    for (size_t i = 0; i < FAKE_CONTEXT; i++) ids[i] = (int32_t)(10 + i * i % 251);
    request.ids = ids;
    request.n_ids = n;
    request.max_tokens = max_tokens;
    request.ignore_eos = true;
    request.sampling.seed = 4;
    request.share_pages = true;
    return request;
}

static uint32_t used_pages(fixture *f)
{
    return sp_kv_used(sp_scheduler_kv(f->scheduler));
}

static uint32_t cached_pages(fixture *f)
{
    return sp_scheduler_kv(f->scheduler)->n_cached;
}

static sp_stream *begin(fixture *f, const sp_request *request)
{
    sp_stream *stream;
    sp_error error;
    assert_ok(submit(f, request, &stream, &error), error);
    return stream;
}

static uint32_t run_cached(fixture *f, const sp_request *request)
{
    output out;
    run_to_end(f, begin(f, request), &out);
    assert_true(out.done);
    return out.usage.cached_tokens;
}

/* 300 + 84 tokens are six pages; who shares four of them needs two more. */
static void test_price(void **state)
{
    (void)state;
    sp_scheduler_options options = usual;
    options.n_pages = 8;
    options.step_seconds = 10;
    fixture f;
    output a, b, c;
    open_fixture(&f, &options, 1);
    sp_request request = shared(300, 84);
    sp_stream *first = begin(&f, &request);
    while (used_pages(&f) == 0 || cached_pages(&f) > 0) sp_scheduler_step(f.scheduler);
    for (int i = 0; i < 10; i++) sp_scheduler_step(f.scheduler); /* its prompt is read */
    sp_stream *second = begin(&f, &request), *third = begin(&f, &request);
    sp_scheduler_step(f.scheduler);
    assert_int_equal(used_pages(&f), 8);
    sp_stats stats;
    sp_scheduler_stats(f.scheduler, &stats);
    assert_int_equal(stats.running, 2);
    assert_int_equal(stats.waiting, 1); /* two more are not there */
    run_to_end(&f, first, &a);
    run_to_end(&f, second, &b);
    run_to_end(&f, third, &c);
    assert_same(&a, &b);
    assert_same(&a, &c);
    assert_int_equal(a.usage.cached_tokens, 0);
    assert_int_equal(b.usage.cached_tokens, 256);
    assert_int_equal(c.usage.cached_tokens, 256);
    assert_int_equal(cached_pages(&f), 5); /* 383 tokens whose rows were computed */
    close_fixture(&f);
}

/* Two at once read the same prompt: each takes what the other had first, and no page is there twice. */
static void test_together(void **state)
{
    (void)state;
    sp_scheduler_options options = usual;
    options.max_chunk = 64;
    options.step_seconds = 10;
    fixture f;
    output alone, a, b;
    sp_stats stats;
    open_fixture(&f, &options, 1);
    sp_request request = shared(400, 20);
    request.share_pages = false;
    run_to_end(&f, begin(&f, &request), &alone);
    assert_int_equal(cached_pages(&f), 0);
    sp_scheduler_stats(f.scheduler, &stats);
    assert_int_equal(stats.prompt_tokens, 400);
    request.share_pages = true;
    sp_stream *first = begin(&f, &request), *second = begin(&f, &request);
    do {
        sp_scheduler_step(f.scheduler);
        sp_scheduler_stats(f.scheduler, &stats);
    } while (stats.generation_tokens < 20 + 4);
    assert_int_equal(used_pages(&f), 6 + 1 + 1); /* six shared, the last one of each */
    run_to_end(&f, first, &a);
    run_to_end(&f, second, &b);
    assert_same(&alone, &a);
    assert_same(&alone, &b);
    sp_scheduler_stats(f.scheduler, &stats);
    assert_int_equal(stats.prompt_tokens + a.usage.cached_tokens + b.usage.cached_tokens, 3 * 400);
    assert_true(a.usage.cached_tokens + b.usage.cached_tokens >= 256);
    close_fixture(&f);
}

/* Rows of a step that failed are nobody's; those before it are good. */
static void test_failures(void **state)
{
    (void)state;
    sp_scheduler_options options = usual;
    options.max_chunk = 64;
    fixture f;
    output alone, out;
    open_fixture(&f, &options, 1);
    sp_request request = shared(200, 8);
    request.share_pages = false;
    run_to_end(&f, begin(&f, &request), &alone);
    request.share_pages = true;
    sp_stream *stream = begin(&f, &request);
    sp_scheduler_step(f.scheduler);
    fake_model_fail_once(&f.model);
    run_to_end(&f, stream, &out);
    assert_false(out.done);
    assert_int_equal(cached_pages(&f), 1);
    run_to_end(&f, begin(&f, &request), &out);
    assert_int_equal(out.usage.cached_tokens, 64);
    assert_same(&alone, &out);

    stream = begin(&f, &request); /* cancelled while it runs: what was full stays */
    sp_scheduler_step(f.scheduler);
    sp_stream_cancel(stream);
    run_to_end(&f, stream, &out);
    assert_int_equal(used_pages(&f), 0);
    assert_int_equal(cached_pages(&f), 3);

    request = shared(200, 8); /* logits that are no numbers fail twice alike */
    ids[199] = FAKE_NAN_TOKEN;
    for (int i = 0; i < 2; i++) {
        run_to_end(&f, begin(&f, &request), &out);
        assert_int_equal(out.error.status, SP_INTERNAL);
    }
    close_fixture(&f);
}

static void test_owners_and_salts(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, &usual, 1);
    sp_request request = shared(150, 1);
    request.owner = 7;
    assert_int_equal(run_cached(&f, &request), 0);
    assert_int_equal(run_cached(&f, &request), 128);
    request.owner = 8;
    assert_int_equal(run_cached(&f, &request), 0);
    request.cache_salt = "pepper";
    request.cache_salt_size = 6;
    assert_int_equal(run_cached(&f, &request), 0);
    request.cache_salt_size = 5;
    assert_int_equal(run_cached(&f, &request), 0);
    request.cache_salt_size = 6;
    assert_int_equal(run_cached(&f, &request), 128);
    request.owner = 7;
    assert_int_equal(run_cached(&f, &request), 0);
    request.share_pages = false;
    assert_int_equal(run_cached(&f, &request), 0);
    f.host.share_prefixes = true;
    request.share_pages = true;
    assert_int_equal(run_cached(&f, &request), 0);
    request.owner = 9;
    assert_int_equal(run_cached(&f, &request), 128);
    request.cache_salt_size = 0;
    assert_int_equal(run_cached(&f, &request), 0); /* a salt holds all the same */
    close_fixture(&f);
}

/* Everything is cached; whoever comes gets room, and what was used last stays. */
static void test_room(void **state)
{
    (void)state;
    sp_scheduler_options options = usual;
    options.n_pages = 8;
    fixture f;
    open_fixture(&f, &options, 1);
    sp_request request = shared(257, 1);
    for (int i = 0; i < 5; i++) {
        request.owner = (uint64_t)i;
        assert_int_equal(run_cached(&f, &request), 0);
        assert_int_equal(run_cached(&f, &request), 256);
        assert_int_equal(cached_pages(&f), i == 0 ? 4 : 7);
    }
    request = shared(448, 64); /* the whole pool */
    assert_int_equal(run_cached(&f, &request), 0);
    assert_int_equal(cached_pages(&f), 7);
    close_fixture(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_price),    cmocka_unit_test(test_together),
    cmocka_unit_test(test_failures), cmocka_unit_test(test_owners_and_salts),
    cmocka_unit_test(test_room),
};
TEST_MAIN(tests)
