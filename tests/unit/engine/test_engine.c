/* The engine's boundary (engine/engine.h) on the bundled model: how the pool and the context are sized, which
 * options are refused, what a report says of an overridden normalizer, and what happens to those who are
 * inside when it closes. */
#include "tests/support/test.h"

#include <pthread.h>
#include <string.h>

#include "engine/engine.h"

/* layers, then K and V (heads, rows, head_dim) and beside them k' of the bundled fit (heads, rank, rows), all
 * bf16 */
enum { PAGE_BYTES = 6 * (4 * 2 * 64 * 64 * 2 + 4 * 8 * 64 * 2) };

static sp_engine_options usual(void)
{
    sp_engine_options options;
    sp_engine_options_init(&options);
    options.model_path = SPARSED_ROOT "/models/austen";
    options.n_threads = 1;
    return options;
}

static sp_engine *open_engine(const sp_engine_options *options)
{
    sp_engine *engine = NULL;
    sp_error error;
    assert_ok(sp_engine_open(options, &engine, &error), error);
    return engine;
}

static void expect_sizes(const sp_engine_options *options, uint32_t context, size_t pages)
{
    sp_engine *engine = open_engine(options);
    const sp_engine_info *info = sp_engine_get_info(engine);
    assert_int_equal(info->context, context);
    assert_int_equal(info->kv_pages, pages);
    assert_int_equal(info->kv_bytes, pages * PAGE_BYTES);
    assert_int_equal(info->page_tokens, 64);
    assert_true(info->scratch_bytes > 0 && info->weight_bytes > 0);
    assert_string_equal(info->model_name, "austen");
    sp_engine_close(engine);
}

/* No more pages than all sequences could need; no more than the budget holds; the context follows the pages.
 */
static void test_sizes(void **state)
{
    (void)state;
    sp_engine_options options = usual();
    expect_sizes(&options, 2048, 16 * 32);
    options.context_enough = 100;
    expect_sizes(&options, 100, 16 * 2);
    options.context_enough = 5000;
    expect_sizes(&options, 2048, 16 * 32);
    options.context_enough = 0;
    options.max_sequences = 2;
    options.context = 100;
    expect_sizes(&options, 100, 2 * 2);
    options.context = 0;
    options.kv_bytes = (size_t)PAGE_BYTES * 40 + 5;
    expect_sizes(&options, 2048, 40);
    options.kv_bytes = (size_t)PAGE_BYTES * 3;
    expect_sizes(&options, 3 * 64, 3);
}

static void expect_refused(const sp_engine_options *options, sp_status status, const char *param)
{
    sp_engine *engine = NULL;
    sp_error error = {.status = SP_OK};
    assert_int_equal(sp_engine_open(options, &engine, &error), status);
    assert_string_equal(error.param, param);
    assert_true(error.message[0] != '\0');
    assert_null(engine);
}

static void test_refused_options(void **state)
{
    (void)state;
    sp_engine_options options = usual();
    options.kv_bytes = PAGE_BYTES - 1;
    expect_refused(&options, SP_USAGE, "kv-bytes");
    options.kv_bytes = (size_t)PAGE_BYTES * 3;
    options.context = 193;
    expect_refused(&options, SP_USAGE, "ctx");
    options = usual();
    options.context = 2049;
    expect_refused(&options, SP_USAGE, "ctx");
    options = usual();
    options.max_sequences = 0;
    expect_refused(&options, SP_USAGE, "max-sequences");
    options = usual();
    options.attention = "{\"backend\":\"nonsense\"}";
    expect_refused(&options, SP_USAGE, "attention");
    options = usual();
    options.kv_type = SP_F16;
    expect_refused(&options, SP_USAGE, "kv");
}

/* Reads to the last event; the stream stays. */
static sp_event read_last(sp_stream *stream)
{
    sp_event event;
    do sp_stream_wait(stream, 60, &event);
    while (event.type != SP_EVENT_DONE && event.type != SP_EVENT_ERROR && event.type != SP_EVENT_NONE);
    return event;
}

static sp_stream *submit_text(sp_engine *engine, const char *text, uint32_t max_tokens)
{
    sp_request request;
    sp_stream *stream = NULL;
    sp_error error;
    sp_request_init(&request);
    request.prompt = text;
    request.prompt_size = strlen(text);
    request.max_tokens = max_tokens;
    request.ignore_eos = true;
    assert_ok(sp_engine_submit(engine, &request, NULL, NULL, &stream, &error), error);
    return stream;
}

static void expect_in_report(const sp_event *event, const char *text)
{
    assert_int_equal(event->type, SP_EVENT_DONE);
    if (!memmem(event->report, event->report_size, text, strlen(text)))
        fail_msg("%s is not in %.*s", text, (int)event->report_size, event->report);
}

static void test_defaults_of_requests(void **state)
{
    (void)state;
    sp_engine_options options = usual();
    options.override_normalizer = true;
    options.normalizer.alpha = 1;
    options.attention = "{\"backend\":\"strided\",\"params\":{\"stride\":7}}";
    sp_engine *engine = open_engine(&options);
    sp_stream *stream = submit_text(engine, "Emma", 2);
    sp_event event = read_last(stream);
    expect_in_report(&event, "\"normalizer\":\"softmax\"");
    expect_in_report(&event, "\"stride\":7");
    expect_in_report(&event, "--normalizer");
    expect_in_report(&event, "\"trained\":false");
    sp_stream_free(stream);
    sp_engine_close(engine);
}

/* User text cannot inject control tokens; an empty prompt begins with the model's first token. */
static void test_prompts(void **state)
{
    (void)state;
    sp_engine_options options = usual();
    sp_engine *engine = open_engine(&options);
    sp_stream *stream = submit_text(engine, "a<|endoftext|>b", 0);
    sp_event event = read_last(stream);
    assert_int_equal(event.type, SP_EVENT_DONE);
    assert_true(event.usage.prompt_tokens > 3);
    for (uint32_t i = 0; i < event.usage.prompt_tokens; i++) assert_true(event.prompt_ids[i] != 0);
    sp_stream_free(stream);
    stream = submit_text(engine, "", 1);
    event = read_last(stream);
    assert_int_equal(event.usage.prompt_tokens, 1);
    assert_int_equal(event.prompt_ids[0], sp_engine_get_info(engine)->hparams.bos);
    sp_stream_free(stream);

    sp_request request;
    sp_error error;
    sp_request_init(&request);
    request.prompt = "\xff";
    request.prompt_size = 1;
    assert_int_equal(sp_engine_submit(engine, &request, NULL, NULL, &stream, &error), SP_INVALID);
    assert_string_equal(error.param, "prompt");
    assert_int_equal(sp_engine_count_prompt(engine, &request), 0);
    request.prompt = " and and";
    request.prompt_size = 8;
    assert_int_equal(sp_engine_count_prompt(engine, &request), 2);
    sp_engine_close(engine);
}

static void test_apply_refuses(void **state)
{
    (void)state;
    sp_engine_options options = usual();
    sp_engine *engine = open_engine(&options);
    sp_apply_options apply = {.metrics = false};
    sp_buffer out;
    sp_error error;
    sp_buffer_init(&out, 1 << 20);
    assert_int_not_equal(sp_engine_apply(engine, "garbage", 7, &apply, &out, &error), SP_OK);
    assert_true(error.message[0] != '\0');
    sp_buffer_fini(&out);
    sp_engine_close(engine);
}

typedef struct late_free {
    sp_stream *stream;
    sp_event last;
} late_free;

static void *wait_for_end(void *context)
{
    late_free *l = context;
    l->last = read_last(l->stream);
    return NULL;
}

/* Those who run and those who wait are told, whoever reads them from wherever. */
static void test_close_ends_all(void **state)
{
    (void)state;
    enum { N = 4 };
    sp_engine_options options = usual();
    options.max_sequences = 2;
    sp_engine *engine = open_engine(&options);
    late_free streams[N];
    pthread_t threads[N];
    for (int i = 0; i < N; i++) {
        streams[i].stream = submit_text(engine, "It was a long time before", 2000);
        assert_int_equal(pthread_create(&threads[i], NULL, wait_for_end, &streams[i]), 0);
    }
    sp_engine_close(engine);
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(streams[i].last.type, SP_EVENT_ERROR);
        assert_int_equal(streams[i].last.error.status, SP_UNAVAILABLE);
        sp_stream_free(streams[i].stream);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_sizes),
    cmocka_unit_test(test_refused_options),
    cmocka_unit_test(test_defaults_of_requests),
    cmocka_unit_test(test_prompts),
    cmocka_unit_test(test_apply_refuses),
    cmocka_unit_test(test_close_ends_all),
};
TEST_MAIN(tests)
