/* The decode loop allocates nothing in the steady state (DESIGN 7): the allocator is replaced by one that
 * counts, and the count stands still from one token to the next. Not under sanitizers, which bring allocators
 * of their own. */
#include "tests/support/test.h"

#include <stdatomic.h>
#include <string.h>

#include "engine/engine.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
int main(void)
{
    return TEST_SKIP;
}
#else

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *memory, size_t size);
void *aligned_alloc(size_t alignment, size_t size);

static atomic_long n_allocations;

void *malloc(size_t size)
{
    atomic_fetch_add(&n_allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&n_allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    atomic_fetch_add(&n_allocations, 1);
    return __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    atomic_fetch_add(&n_allocations, 1);
    return __libc_memalign(alignment, size);
}

typedef struct watch {
    int n_events;
    long at_200, at_300;
} watch;

/* Runs on the engine thread at every event, so that what it counts is the loop itself. */
static void count_event(void *context)
{
    watch *w = context;
    w->n_events++;
    if (w->n_events == 200) w->at_200 = atomic_load(&n_allocations);
    if (w->n_events == 300) w->at_300 = atomic_load(&n_allocations);
}

/* Allocations while 100 tokens are decoded, after the same request has warmed everything up. */
static long count_allocations(sp_engine *engine, const char *attention)
{
    watch w;
    sp_request request;
    sp_request_init(&request);
    request.prompt = " It was";
    request.prompt_size = 7;
    request.max_tokens = 310;
    request.ignore_eos = true;
    request.sampling.top_p = 0.9;
    request.sampling.seed = 11;
    request.logprobs = 5;
    request.stops[0] = "never said";
    request.stop_sizes[0] = 10;
    request.n_stops = 1;
    request.attention = attention;
    request.attention_size = strlen(attention);
    for (int round = 0; round < 2; round++) {
        sp_stream *stream = NULL;
        sp_error error;
        sp_event event;
        w = (watch){.n_events = 0};
        assert_ok(sp_engine_submit(engine, &request, count_event, &w, &stream, &error), error);
        do sp_stream_wait(stream, 60, &event);
        while (event.type != SP_EVENT_DONE && event.type != SP_EVENT_ERROR);
        assert_int_equal(event.type, SP_EVENT_DONE);
        sp_stream_free(stream);
    }
    assert_true(w.n_events >= 310);
    return w.at_300 - w.at_200;
}

static void test_decoding_allocates_nothing(void **state)
{
    (void)state;
    sp_engine_options options;
    sp_engine *engine = NULL;
    sp_error error;
    sp_engine_options_init(&options);
    options.model_path = SPARSED_ROOT "/models/austen";
    options.n_threads = 2;
    assert_ok(sp_engine_open(&options, &engine, &error), error);
    assert_true(atomic_load(&n_allocations) > 100); /* ours is the allocator in use */
    assert_int_equal(count_allocations(engine, "\"dense\""), 0);
    assert_int_equal(count_allocations(engine, "\"strided\""), 0);
    assert_int_equal(count_allocations(engine, "{\"backend\":\"fixed\",\"heads\":\"interleaved\"}"), 0);
    sp_engine_close(engine);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_decoding_allocates_nothing)};
TEST_MAIN(tests)
#endif
