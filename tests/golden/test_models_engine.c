/* Reference models through the whole engine with float32 pages: logprobs of every prompt token, the last
 * row's logits and greedy continuations, all cases of a model submitted at once, so that rows of sequences of
 * different lengths share batches. Where rotary factors depend on the length, scoring gives the one-pass
 * figures, a report says what was chosen, and greedy text is compared only where the choice for prompt and
 * max_tokens is the reference's for all of it. */
#include "tests/support/test.h"
#include "tests/support/golden_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

#define TOLERANCE 1e-4
#define MODELS SPARSED_ROOT "/tests/golden/models/"

enum { CASES = 8, NEW_TOKENS = 16 };

typedef struct folder {
    const char *name;
    uint32_t border;   /* lengths above it choose other factors; 0: none */
    bool fixed_beyond; /* the same ones for all of them */
    const char *note;  /* in reports of lengths above the border */
} folder;

static const folder folders[] = {
    {"tiny-llama", 0, false, NULL},
    {"tiny-llama-entmax15", 0, false, NULL},
    {"tiny-llama-dynamic", 64, false, "rotary base"},
    {"tiny-llama-yarn", 0, false, NULL},
    {"tiny-qwen2", 0, false, NULL},
    {"tiny-qwen3", 0, false, NULL},
    {"tiny-gpt2-hub", 0, false, NULL},
    {"tiny-phi3-longrope", 64, true, "rotary factors: long"},
};

typedef struct submitted {
    golden_case golden;
    sp_stream *stream;
} submitted;

static submitted all[CASES];
static size_t n_all;
static sp_engine *engine;

static void ignore(void *context)
{
    (void)context;
}

static void keep(void *context, const golden_case *golden)
{
    (void)context;
    assert_true(n_all < CASES);
    all[n_all++].golden = *golden;
}

static void submit(submitted *one, uint32_t max_tokens)
{
    static int32_t ids[GOLDEN_LENGTH];
    sp_request request;
    sp_error error = {0};
    for (size_t i = 0; i < one->golden.n_ids; i++) ids[i] = (int32_t)one->golden.ids[i];
    sp_request_init(&request);
    request.ids = ids;
    request.n_ids = one->golden.n_ids;
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    request.prompt_logprobs = request.prompt_logits = max_tokens == 0;
    assert_ok(sp_engine_submit(engine, &request, ignore, NULL, &one->stream, &error), error);
}

static void check_scores(const golden_case *g, const sp_event *event)
{
    for (size_t i = 0; i < g->n_logits; i++)
        if (!(fabs((double)event->prompt_logits[i] - g->logits[i]) <= TOLERANCE))
            fail_msg("length %zu: logit %zu is %.6f, not %.6f", g->n_ids, i, (double)event->prompt_logits[i],
                     g->logits[i]);
    for (size_t t = 1; t < g->n_ids; t++)
        if (!(fabs((double)event->prompt_logprobs[t] - g->logprobs[t - 1]) <= TOLERANCE))
            fail_msg("length %zu: log p of token %zu is %.6f, not %.6f", g->n_ids, t,
                     (double)event->prompt_logprobs[t], g->logprobs[t - 1]);
}

static void check_note(const folder *f, size_t length, const sp_event *event)
{
    char report[8192];
    assert_true(event->report_size < sizeof report);
    memcpy(report, event->report, event->report_size);
    report[event->report_size] = '\0';
    char chosen[64];
    snprintf(chosen, sizeof chosen, "chosen for %zu tokens", length);
    assert_int_equal(strstr(report, chosen) != NULL, f->border > 0);
    if (f->border > 0 && length > f->border) assert_non_null(strstr(report, f->note));
}

/* Reads a stream to its end; greedy tokens are compared while compare says so. */
static void finish(const folder *f, submitted *one, size_t length, bool compare)
{
    const golden_case *g = &one->golden;
    size_t n = 0;
    sp_event event = {0};
    while (event.type != SP_EVENT_DONE) {
        sp_stream_wait(one->stream, 60, &event);
        assert_true(event.type != SP_EVENT_NONE && event.type != SP_EVENT_ERROR);
        if (event.type != SP_EVENT_TOKEN) continue;
        compare = compare && g->margins[n] > 1e-3;
        if (compare) assert_int_equal(event.token, g->greedy[n]);
        n++;
    }
    assert_int_equal(n, length - g->n_ids);
    if (n == 0) check_scores(g, &event);
    check_note(f, length, &event);
    sp_stream_free(one->stream);
}

static void test_folder(void **state)
{
    const folder *f = *state;
    char path[512];
    sp_engine_options options;
    sp_error error = {0};
    snprintf(path, sizeof path, MODELS "%s", f->name);
    sp_engine_options_init(&options);
    options.model_path = path;
    options.n_threads = 2;
    options.kv_type = SP_F32;
    options.kv_bytes = (size_t)16 << 20;
    assert_ok(sp_engine_open(&options, &engine, &error), error);
    snprintf(path, sizeof path, MODELS "%s/golden.json", f->name);
    n_all = 0;
    assert_true(golden_read(path, NULL, keep, NULL) >= 5);
    for (size_t i = 0; i < n_all; i++) submit(&all[i], 0);
    for (size_t i = 0; i < n_all; i++) finish(f, &all[i], all[i].golden.n_ids, false);
    for (size_t i = 0; i < n_all; i++) submit(&all[i], NEW_TOKENS);
    for (size_t i = 0; i < n_all; i++) {
        size_t n = all[i].golden.n_ids;
        bool alike = f->border == 0 || n + NEW_TOKENS <= f->border || (f->fixed_beyond && n > f->border);
        finish(f, &all[i], n + NEW_TOKENS, alike);
    }
    sp_engine_close(engine);
}

enum { FOLDERS = sizeof folders / sizeof *folders };

int main(void)
{
    struct CMUnitTest tests[FOLDERS];
    sp_log_set_level(SP_LOG_ERROR);
    for (size_t i = 0; i < FOLDERS; i++)
        tests[i] =
            (struct CMUnitTest){folders[i].name, test_folder, NULL, NULL, (void *)(uintptr_t)&folders[i]};
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
