/* Streams and stop strings (engine/stream.h, engine/stops.h): order and bounds of the queue, pause and wake,
 * freeing at any moment from another thread, a flag that cancels many, and stop strings against a naive
 * search, however the text is cut. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "engine/stops.h"
#include "engine/stream.h"

static void count(void *context)
{
    atomic_fetch_add((atomic_int *)context, 1);
}

static void test_order(void **state)
{
    (void)state;
    atomic_int notes = 0;
    sp_stream_options options = {.max_piece = 8, .n_top = 2, .notify = count, .notify_context = &notes};
    sp_stream *stream = sp_stream_open(&options);
    sp_event event;
    sp_stream_read(stream, &event);
    assert_int_equal(event.type, SP_EVENT_NONE);

    sp_token_logprob top[2] = {{5, -1}, {6, -2}};
    sp_stream_push_progress(stream, 10, 20);
    sp_stream_push_progress(stream, 20, 20);
    float *logprobs = sp_alloc(2, sizeof *logprobs);
    sp_stream_give_prompt(stream, logprobs, NULL);
    sp_stream_push_token(stream, 5, -1, top, 2, "ab", 2);
    sp_stream_push_token(stream, 6, -2, NULL, 0, "", 0);
    sp_stream_finish(
        stream,
        &(sp_event){.type = SP_EVENT_DONE, .text = "zz", .text_size = 1, .usage = {.prompt_tokens = 3}});
    assert_int_equal(atomic_load(&notes), 5);

    sp_stream_read(stream, &event); /* progress is one number: the last */
    assert_int_equal(event.type, SP_EVENT_PROGRESS);
    assert_int_equal(event.done, 20);
    sp_stream_read(stream, &event);
    assert_int_equal(event.type, SP_EVENT_TOKEN);
    assert_int_equal(event.token, 5);
    assert_int_equal(event.n_top, 2);
    assert_int_equal(event.top[1].token, 6);
    assert_string_equal(event.text, "ab");
    assert_ptr_equal(event.prompt_logprobs, logprobs);
    sp_stream_wait(stream, 0, &event);
    assert_int_equal(event.token, 6);
    assert_int_equal(event.text_size, 0);
    sp_stream_wait(stream, 5, &event);
    assert_int_equal(event.type, SP_EVENT_DONE);
    assert_memory_equal(event.text, "z", 1);
    assert_int_equal(event.text_size, 1);
    assert_int_equal(event.usage.prompt_tokens, 3);
    assert_ptr_equal(event.prompt_logprobs, logprobs);
    sp_stream_read(stream, &event);
    assert_int_equal(event.type, SP_EVENT_NONE);
    sp_stream_free(stream);
}

static void test_wait_times_out(void **state)
{
    (void)state;
    sp_stream *stream = sp_stream_open(&(sp_stream_options){.max_piece = 8});
    sp_event event;
    double start = sp_now();
    sp_stream_wait(stream, 0.05, &event);
    assert_int_equal(event.type, SP_EVENT_NONE);
    assert_true(sp_now() - start >= 0.045 && sp_now() - start < 60);
    sp_stream_finish(stream, &(sp_event){.type = SP_EVENT_ERROR});
    sp_stream_free(stream);
}

/* A reader that lags: no room when the ring is full, room and one wake when it is half empty; nothing is
 * lost. */
static void check_pause(uint32_t n_events, size_t piece)
{
    atomic_int wakes = 0;
    sp_stream_options options = {
        .max_piece = piece, .n_events = n_events, .wake = count, .wake_context = &wakes};
    sp_stream *stream = sp_stream_open(&options);
    static char text[40000];
    sp_event event;
    int32_t pushed = 0, read = 0;
    for (int round = 0; round < 5; round++) {
        while (sp_stream_has_room(stream)) {
            memset(text, 'a' + pushed % 26, piece);
            sp_stream_push_token(stream, pushed++, 0, NULL, 0, text, piece);
            assert_true(pushed - read <= (int32_t)n_events);
        }
        assert_int_equal(atomic_load(&wakes), round);
        while (atomic_load(&wakes) == round) {
            assert_false(sp_stream_has_room(stream)); /* until half is read */
            sp_stream_read(stream, &event);
            assert_int_equal(event.token, read);
            assert_int_equal(event.text_size, piece);
            assert_int_equal(event.text[0], 'a' + read % 26);
            assert_int_equal(event.text[piece - 1], 'a' + read % 26);
            read++;
        }
        assert_true(sp_stream_has_room(stream));
    }
    sp_stream_finish(stream, &(sp_event){.type = SP_EVENT_ERROR});
    sp_stream_free(stream);
}

static void test_pause_by_events(void **state)
{
    (void)state;
    check_pause(16, 3);
}

static void test_pause_by_bytes(void **state)
{
    (void)state;
    check_pause(512, 10001);
}

static void test_cancel(void **state)
{
    (void)state;
    atomic_int wakes = 0;
    sp_stream *stream =
        sp_stream_open(&(sp_stream_options){.max_piece = 8, .wake = count, .wake_context = &wakes});
    assert_false(sp_stream_is_cancelled(stream));
    sp_stream_cancel(stream);
    assert_true(sp_stream_is_cancelled(stream));
    assert_int_equal(atomic_load(&wakes), 1);
    sp_stream_finish(stream, &(sp_event){.type = SP_EVENT_ERROR, .error = {.status = SP_CANCELLED}});
    sp_stream_cancel(stream); /* the engine is gone: nobody is woken */
    assert_int_equal(atomic_load(&wakes), 1);
    sp_event event;
    sp_stream_read(stream, &event);
    assert_int_equal(event.error.status, SP_CANCELLED);
    sp_stream_free(stream);
}

static void test_flag(void **state)
{
    (void)state;
    sp_flag *flag = sp_flag_new();
    sp_stream_options options = {.max_piece = 8, .abandoned = flag};
    sp_stream *one = sp_stream_open(&options), *two = sp_stream_open(&options);
    assert_false(sp_stream_is_cancelled(one));
    sp_flag_raise(flag);
    sp_stream *late = sp_stream_open(&options); /* asked for afterwards */
    sp_flag_release(flag);                      /* the streams keep it */
    sp_stream *all[] = {one, two, late};
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        assert_true(sp_stream_is_cancelled(all[i]));
        sp_stream_finish(all[i], &(sp_event){.type = SP_EVENT_ERROR, .error = {.status = SP_CANCELLED}});
        sp_stream_free(all[i]);
    }
    sp_flag_raise(NULL);
    assert_false(sp_flag_is_raised(NULL));
}

typedef struct shared {
    atomic_int live, calls, late;
} shared;

static void notify_live(void *context)
{
    shared *s = context;
    atomic_fetch_add(&s->calls, 1);
    if (!atomic_load(&s->live)) atomic_fetch_add(&s->late, 1);
}

static void *produce(void *context)
{
    sp_stream *stream = context;
    for (int32_t i = 0; i < 300 && !sp_stream_is_cancelled(stream); i++)
        if (sp_stream_has_room(stream)) sp_stream_push_token(stream, i, 0, NULL, 0, "x", 1);
    sp_stream_finish(stream, &(sp_event){.type = SP_EVENT_ERROR});
    return NULL;
}

/* Freed while the producer runs: no call of notify comes after sp_stream_free returned. */
static void test_free_at_any_time(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        shared s = {.live = 1};
        sp_stream_options options = {
            .max_piece = 8, .n_events = 32, .notify = notify_live, .notify_context = &s};
        sp_stream *stream = sp_stream_open(&options);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, produce, stream), 0);
        sp_event event;
        for (int i = 0; i < round; i++) sp_stream_read(stream, &event);
        sp_stream_free(stream);
        atomic_store(&s.live, 0);
        int calls = atomic_load(&s.calls);
        pthread_join(thread, NULL);
        assert_int_equal(atomic_load(&s.late), 0);
        assert_int_equal(atomic_load(&s.calls), calls);
    }
}

/* --- stop strings --- */

/* Pushes text cut at random places; collects what is released. Returns whether it stopped. */
static bool run_stops(sp_stops *stops, const char *text, test_random *random, char *out, size_t *n_out)
{
    size_t n = strlen(text), at = 0, release;
    *n_out = 0;
    for (size_t i = 0; i < stops->n; i++) stops->stops[i].state = 0;
    sp_buffer_clear(&stops->held);
    while (at < n) {
        size_t piece = 1 + test_random_below(random, 5), begin = stops->held.size;
        if (piece > n - at) piece = n - at;
        assert_true(sp_buffer_append(&stops->held, text + at, piece));
        at += piece;
        bool stopped = sp_stops_scan(stops, begin, &release);
        memcpy(out + *n_out, stops->held.data, release);
        *n_out += release;
        sp_stops_drop(stops, release);
        if (stopped) return true;
        /* what is held begins a stop string: nothing more than needed is kept back */
        bool needed = stops->held.size == 0;
        for (size_t i = 0; i < stops->n; i++)
            needed |= stops->held.size < stops->stops[i].size &&
                      memcmp(stops->held.data, stops->stops[i].text, stops->held.size) == 0;
        assert_true(needed);
    }
    memcpy(out + *n_out, stops->held.data, stops->held.size);
    *n_out += stops->held.size;
    return false;
}

/* Where the text ends: before the stop string that is complete first, the longest of those. */
static bool naive_stop(const char *text, const char *const *stops, size_t n, size_t *end)
{
    for (size_t at = 1; at <= strlen(text); at++) {
        size_t found = 0;
        for (size_t i = 0; i < n; i++) {
            size_t size = strlen(stops[i]);
            if (size <= at && memcmp(text + at - size, stops[i], size) == 0 && size > found) found = size;
        }
        *end = at - found;
        if (found > 0) return true;
    }
    *end = strlen(text);
    return false;
}

static void test_stops(void **state)
{
    (void)state;
    test_random random = {11};
    int stopped_runs = 0;
    for (int round = 0; round < 3000; round++) {
        char texts[3][8], text[60], out[60];
        const char *pointers[3];
        size_t sizes[3], n = 1 + test_random_below(&random, 3), n_out, end;
        for (size_t i = 0; i < n; i++) {
            sizes[i] = 1 + test_random_below(&random, 6);
            for (size_t j = 0; j < sizes[i]; j++) texts[i][j] = (char)('a' + test_random_below(&random, 2));
            texts[i][sizes[i]] = 0;
            pointers[i] = texts[i];
        }
        size_t length = test_random_below(&random, 50);
        for (size_t j = 0; j < length; j++) text[j] = (char)('a' + test_random_below(&random, 3));
        text[length] = 0;
        sp_stops stops;
        sp_error error;
        assert_ok(sp_stops_open(&stops, pointers, sizes, n, 8, &error), error);
        bool want = naive_stop(text, pointers, n, &end);
        for (int cut = 0; cut < 3; cut++) {
            assert_int_equal(run_stops(&stops, text, &random, out, &n_out), want);
            assert_int_equal(n_out, end);
            assert_memory_equal(out, text, end);
        }
        stopped_runs += want;
        sp_stops_close(&stops);
    }
    assert_true(stopped_runs > 500 && stopped_runs < 2900); /* both ends were seen */
}

static void test_stops_are_checked(void **state)
{
    (void)state;
    sp_stops stops;
    sp_error error;
    static char longest[SP_MAX_STOP_BYTES + 1];
    memset(longest, 'x', sizeof longest);
    const char *texts[SP_MAX_STOPS + 1];
    size_t sizes[SP_MAX_STOPS + 1];
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        texts[i] = longest;
        sizes[i] = SP_MAX_STOP_BYTES;
    }
    assert_ok(sp_stops_open(&stops, texts, sizes, SP_MAX_STOPS, 16, &error), error);
    sp_stops_close(&stops);
    assert_int_equal(sp_stops_open(&stops, texts, sizes, SP_MAX_STOPS + 1, 16, &error), SP_INVALID);
    sizes[1] = SP_MAX_STOP_BYTES + 1;
    assert_int_equal(sp_stops_open(&stops, texts, sizes, 2, 16, &error), SP_INVALID);
    assert_string_equal(error.param, "stop");
    sizes[1] = 0;
    assert_int_equal(sp_stops_open(&stops, texts, sizes, 2, 16, &error), SP_INVALID);
    texts[1] = "\xff";
    sizes[1] = 1;
    assert_int_equal(sp_stops_open(&stops, texts, sizes, 2, 16, &error), SP_INVALID);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_order),
    cmocka_unit_test(test_wait_times_out),
    cmocka_unit_test(test_pause_by_events),
    cmocka_unit_test(test_pause_by_bytes),
    cmocka_unit_test(test_cancel),
    cmocka_unit_test(test_flag),
    cmocka_unit_test(test_free_at_any_time),
    cmocka_unit_test(test_stops),
    cmocka_unit_test(test_stops_are_checked),
};
TEST_MAIN(tests)
