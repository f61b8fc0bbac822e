/* Which rows a step computes (engine/rows.h), seen through the scheduler: a fake model whose every row takes
 * a millisecond of a clock of the test's, and the progress that streams tell. Expected shares are counted by
 * hand from the rule: decoding first, half for the oldest prompt, the rest to the shortest. */
#include "tests/support/test.h"
#include "tests/support/fake_model.h"
#include "tests/support/random.h"

#include <pthread.h>
#include <string.h>

#include "tests/support/scheduler_fixture.h"

#define ROW_SECONDS 0.001

static size_t step_rows; /* of the last forward pass */

static void spend(size_t n_rows)
{
    step_rows = n_rows;
    fake_time += ROW_SECONDS * (double)n_rows;
}

static void open_timed(fixture *f, double step_seconds, uint32_t max_sequences)
{
    sp_scheduler_options options = usual;
    options.clock = read_fake_time;
    options.step_seconds = step_seconds;
    options.max_sequences = max_sequences;
    options.max_queue = 64;
    options.n_pages = 512;
    fake_time = 1;
    open_fixture(f, &options, 1);
    fake_model_spend(&f->model, spend);
}

/* One request and what its stream has told. */
typedef struct reader {
    sp_stream *stream;
    uint32_t read, tokens; /* rows of the prompt; tokens made */
    double first;          /* when the first token came */
    bool over;
} reader;

static void ask(fixture *f, uint32_t n_prompt, uint32_t max_tokens, reader *out)
{
    static const int32_t ids[FAKE_CONTEXT];
    sp_request request;
    sp_error error;
    sp_request_init(&request);
    request.ids = ids;
    request.n_ids = n_prompt;
    request.max_tokens = max_tokens;
    request.ignore_eos = true;
    *out = (reader){0};
    assert_ok(submit(f, &request, &out->stream, &error), error);
}

static void look(reader *r)
{
    sp_event event;
    for (;;) {
        sp_stream_read(r->stream, &event);
        if (event.type == SP_EVENT_NONE) return;
        if (event.type == SP_EVENT_PROGRESS) r->read = event.done;
        if (event.type == SP_EVENT_TOKEN && r->tokens++ == 0) r->first = fake_time;
        r->over = r->over || event.type == SP_EVENT_DONE;
        assert_int_not_equal(event.type, SP_EVENT_ERROR);
    }
}

static void free_reader(reader *r)
{
    sp_stream_free(r->stream);
    r->stream = NULL;
}

/* A short prompt behind a long one: its token comes after a step or two, not after the long one's. */
static void test_short_behind_long(void **state)
{
    (void)state;
    fixture f;
    reader longer, shorter;
    open_timed(&f, 0.02, 4); /* a tile a step: they take turns */
    ask(&f, 448, 4, &longer);
    sp_scheduler_step(f.scheduler);
    look(&longer);
    assert_int_equal(longer.read, 64);
    ask(&f, 40, 4, &shorter);
    double asked = fake_time;
    for (int i = 0; i < 2; i++) sp_scheduler_step(f.scheduler);
    look(&shorter);
    look(&longer);
    assert_int_equal(shorter.tokens, 1);
    assert_true(shorter.first - asked < 0.15);
    assert_true(longer.read <= 128);
    while (sp_scheduler_step(f.scheduler)) continue;
    look(&longer);
    look(&shorter);
    assert_true(longer.over && shorter.over);
    assert_true(longer.first < 1 + 2 * 0.448 + 0.1);
    free_reader(&longer);
    free_reader(&shorter);
    close_fixture(&f);
}

/* Where a step has room for more, half is the oldest's and the rest goes to the shortest rest first. */
static void test_shares(void **state)
{
    (void)state;
    fixture f;
    reader oldest, middle, small, warm;
    open_timed(&f, 0.2561, 8);
    ask(&f, 64, 0, &warm); /* after this the pace is known: 256 rows */
    sp_scheduler_step(f.scheduler);
    look(&warm);
    assert_true(warm.over);
    ask(&f, 500, 0, &oldest);
    ask(&f, 300, 0, &middle);
    ask(&f, 50, 0, &small);
    sp_scheduler_step(f.scheduler);
    look(&oldest);
    look(&middle);
    look(&small);
    assert_int_equal(oldest.read, 128);
    assert_true(small.over);
    assert_int_equal(middle.read, 64); /* 78 rows, cut at a multiple of 64 */
    sp_scheduler_step(f.scheduler);
    look(&oldest);
    look(&middle);
    assert_int_equal(oldest.read, 192); /* it was 14 rows ahead: 114, cut */
    assert_int_equal(middle.read, 256);
    sp_scheduler_step(f.scheduler);
    look(&oldest);
    look(&middle);
    assert_true(middle.over); /* 44 rows */
    assert_int_equal(oldest.read, 384);
    while (sp_scheduler_step(f.scheduler)) continue;
    free_reader(&warm);
    free_reader(&oldest);
    free_reader(&middle);
    free_reader(&small);
    close_fixture(&f);
}

/* Who has taken what others left is ahead, and then gets no sliver of a tile but waits for its turn. */
static void test_no_slivers(void **state)
{
    (void)state;
    fixture f;
    reader oldest, small, later, warm;
    open_timed(&f, 0.2001, 8);
    ask(&f, 64, 0, &warm); /* after this the pace is known: 200 rows */
    sp_scheduler_step(f.scheduler);
    ask(&f, 500, 0, &oldest);
    ask(&f, 10, 0, &small);
    sp_scheduler_step(f.scheduler);
    look(&oldest);
    look(&small);
    assert_true(small.over);
    assert_int_equal(oldest.read, 128); /* 190 rows, cut: 90 ahead of its half, so 10 are left of the next */
    ask(&f, 300, 0, &later);
    sp_scheduler_step(f.scheduler);
    look(&oldest);
    look(&later);
    assert_int_equal(oldest.read, 128);
    assert_int_equal(later.read, 192);
    sp_scheduler_step(f.scheduler);
    look(&oldest);
    look(&later);
    assert_int_equal(oldest.read, 320); /* half of both steps, and what it was ahead is made up */
    assert_int_equal(later.read, 192);
    while (sp_scheduler_step(f.scheduler)) continue;
    free_reader(&warm);
    free_reader(&oldest);
    free_reader(&small);
    free_reader(&later);
    close_fixture(&f);
}

/* However many short prompts come, the oldest gets half of the rows. */
static void test_oldest_is_not_starved(void **state)
{
    (void)state;
    enum { SHORTS = 4 };
    const double steps[] = {0.02, 0.15, 0.256, 0.3};
    for (size_t round = 0; round < COUNT_OF(steps); round++) {
        fixture f;
        reader longer, shorts[SHORTS];
        uint64_t rows = 0, ended = 0;
        open_timed(&f, steps[round], 8);
        ask(&f, 500, 1, &longer);
        for (int i = 0; i < SHORTS; i++) ask(&f, 100, 0, &shorts[i]);
        while (longer.tokens == 0) {
            assert_true(sp_scheduler_step(f.scheduler));
            rows += step_rows;
            look(&longer);
            for (int i = 0; i < SHORTS; i++) {
                look(&shorts[i]);
                if (!shorts[i].over) continue;
                free_reader(&shorts[i]); /* and the next comes */
                ask(&f, 100, 0, &shorts[i]);
                ended++;
            }
            assert_true(rows < 5000);
        }
        assert_true(rows <= 2 * 500 + 300); /* half, but for what a step takes */
        assert_true(ended >= 3);            /* and the others were not starved either */
        for (int i = 0; i < SHORTS; i++) free_reader(&shorts[i]);
        free_reader(&longer);
        sp_scheduler_step(f.scheduler);
        close_fixture(&f);
    }
}

/* Every step gives each decoding sequence a token, whatever prompts are read beside it. */
static void test_decoding_comes_first(void **state)
{
    (void)state;
    fixture f;
    reader decoding, prompts[3];
    open_timed(&f, 0.02, 4);
    ask(&f, 10, 100, &decoding);
    sp_scheduler_step(f.scheduler);
    look(&decoding);
    assert_int_equal(decoding.tokens, 1);
    for (int i = 0; i < 3; i++) ask(&f, 400, 1, &prompts[i]);
    for (uint32_t step = 2; step <= 20; step++) {
        double before = fake_time;
        sp_scheduler_step(f.scheduler);
        look(&decoding);
        assert_int_equal(decoding.tokens, step);
        assert_true(fake_time - before <= 65 * ROW_SECONDS + 1e-9); /* a tile of prompts at most */
        assert_true(step_rows > 1);                                 /* and they go on */
    }
    while (sp_scheduler_step(f.scheduler)) continue;
    free_reader(&decoding);
    for (int i = 0; i < 3; i++) free_reader(&prompts[i]);
    close_fixture(&f);
}

/* Chunks of a prompt that is alone follow four times the time that a step may take. */
static void test_chunks_by_time(void **state)
{
    (void)state;
    const double seconds[] = {0.001, 0.025, 0.05, 0.1, 100};
    const uint32_t rows[] = {64, 64, 192, 384, 448};
    for (size_t i = 0; i < COUNT_OF(seconds); i++) {
        fixture f;
        reader first, second;
        open_timed(&f, seconds[i], 2);
        ask(&f, 64, 0, &first);
        sp_scheduler_step(f.scheduler);
        ask(&f, 500, 0, &second);
        sp_scheduler_step(f.scheduler);
        look(&second);
        if (seconds[i] < 1)
            assert_int_equal(second.read, rows[i]);
        else
            assert_true(second.over);
        while (sp_scheduler_step(f.scheduler)) continue;
        free_reader(&first);
        free_reader(&second);
        close_fixture(&f);
    }
}

/* A step that fails teaches nothing: it may have ended early. */
static void test_failed_steps_teach_nothing(void **state)
{
    (void)state;
    fixture f;
    reader first, broken, third;
    open_timed(&f, 0.05, 2);
    ask(&f, 64, 0, &first); /* after this the pace is known: 200 rows for a prompt that is alone */
    sp_scheduler_step(f.scheduler);
    for (int i = 0; i < 5; i++) {
        ask(&f, 500, 0, &broken);
        fake_model_fail_once(&f.model); /* in no time */
        sp_scheduler_step(f.scheduler);
        output end = {.n = 0};
        assert_true(drain(broken.stream, &end));
        assert_int_equal(end.error.status, SP_NO_MEMORY);
        free_reader(&broken);
    }
    ask(&f, 500, 0, &third);
    sp_scheduler_step(f.scheduler);
    look(&third);
    assert_int_equal(third.read, 192);
    while (sp_scheduler_step(f.scheduler)) continue;
    free_reader(&first);
    free_reader(&third);
    close_fixture(&f);
}

/* Only so many have a place in a step; prompts beyond it wait, and all end in the end. */
static void test_random_mixes(void **state)
{
    (void)state;
    enum { N = 40 };
    test_random random = {3};
    fixture f;
    reader readers[N];
    open_timed(&f, 0.1, 3);
    for (int i = 0; i < N; i++) {
        ask(&f, 1 + (uint32_t)test_random_below(&random, 400), (uint32_t)test_random_below(&random, 20),
            &readers[i]);
        for (uint64_t steps = test_random_below(&random, 4); steps > 0; steps--) {
            sp_scheduler_step(f.scheduler);
            assert_true(step_rows <= 103);
        }
    }
    while (sp_scheduler_step(f.scheduler)) continue;
    for (int i = 0; i < N; i++) {
        look(&readers[i]);
        assert_true(readers[i].over);
        free_reader(&readers[i]);
    }
    close_fixture(&f);
}

/* --- calls between steps --- */

typedef struct caller {
    fixture *f;
    int left;
} caller;

static void nothing(void *context)
{
    (*(int *)context)--;
}

static void *call_often(void *context)
{
    caller *c = context;
    sp_error error;
    while (c->left > 0)
        if (sp_scheduler_call(c->f->scheduler, nothing, &c->left, &error) != SP_OK) return context;
    return NULL;
}

/* A thread that always has another call does not hold up decoding: one piece a step. */
static void test_calls_take_turns(void **state)
{
    (void)state;
    fixture f;
    reader decoding;
    pthread_t thread;
    void *failed = NULL;
    open_timed(&f, 0.02, 2);
    caller c = {.f = &f, .left = 50};
    ask(&f, 10, 400, &decoding);
    assert_int_equal(pthread_create(&thread, NULL, call_often, &c), 0);
    uint32_t steps = 0;
    do {
        sp_scheduler_step(f.scheduler);
        look(&decoding);
        steps++;
        if (steps <= 400) assert_int_equal(decoding.tokens, steps);
    } while (!decoding.over);
    while (c.left > 0) sp_scheduler_step(f.scheduler);
    pthread_join(thread, &failed);
    assert_null(failed);
    free_reader(&decoding);
    close_fixture(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_short_behind_long),
    cmocka_unit_test(test_shares),
    cmocka_unit_test(test_no_slivers),
    cmocka_unit_test(test_oldest_is_not_starved),
    cmocka_unit_test(test_decoding_comes_first),
    cmocka_unit_test(test_chunks_by_time),
    cmocka_unit_test(test_failed_steps_teach_nothing),
    cmocka_unit_test(test_random_mixes),
    cmocka_unit_test(test_calls_take_turns),
};
TEST_MAIN(tests)
