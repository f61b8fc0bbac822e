/* A prompt whose first pages come from another request gives the same bits as one that is computed whole:
 * tokens, logprobs and the best tokens beside them, for every backend that may share, several normalizers and
 * chunk lengths, prompts that end before, at and behind the end of a page, and turns of a conversation whose
 * earlier answers were generated. And it is reused: as many tokens as the pages before the last token hold.
 */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <stdio.h>
#include <string.h>

#include "engine/fits.h"
#include "engine/scheduler.h"

enum { TEXT = 330, TOP = 5, MOST = 90, CONTEXT = 512, PAGES = 40 };

typedef struct world {
    sp_device *device;
    sp_model *model;
    sp_fits fits;
    sp_scheduler *scheduler;
    sp_sequence_host host;
} world;

typedef struct output {
    int32_t tokens[MOST];
    float logprobs[MOST];
    sp_token_logprob top[MOST][TOP];
    uint32_t n, cached;
} output;

static int32_t text[TEXT];

/* --- running --- */

static void open_model(world *w, const char *path, sp_dtype kv_type, size_t n_threads)
{
    sp_error error;
    memset(w, 0, sizeof *w);
    sp_model_options options = {.exact = kv_type == SP_F32,
                                .fingerprint = sp_fits_wanted(path, NULL, NULL, 0)};
    assert_ok(sp_device_open("cpu", &(sp_device_options){.n_threads = n_threads}, &w->device, &error), error);
    assert_ok(sp_model_open(path, w->device, &options, &w->model, &error), error);
    if (options.fingerprint) assert_ok(sp_fits_open(w->model, path, NULL, NULL, 0, &w->fits, &error), error);
    test_random random = {5};
    for (size_t i = 0; i < TEXT; i++) text[i] = (int32_t)test_random_below(&random, w->model->hparams.vocab);
}

static void close_model(world *w)
{
    sp_fits_close(&w->fits);
    sp_model_close(w->model);
    sp_device_close(w->device);
}

static void open_scheduler(world *w, sp_dtype kv_type, uint32_t max_chunk)
{
    sp_error error;
    const sp_hparams *hparams = &w->model->hparams;
    sp_scheduler_options options = {.model = w->model,
                                    .kv_type = kv_type,
                                    .context = CONTEXT,
                                    .n_pages = PAGES,
                                    .max_sequences = 4,
                                    .max_queue = 8,
                                    .queue_timeout = 600,
                                    .request_timeout = 600,
                                    .step_seconds = 10,
                                    .poison = true,
                                    .max_whole = w->fits.n ? CONTEXT : 0,
                                    .fits = w->fits.of,
                                    .n_fits = w->fits.n,
                                    .max_chunk = max_chunk};
    assert_ok(sp_scheduler_open(&options, &w->scheduler, &error), error);
    w->host = (sp_sequence_host){.model = w->model,
                                 .context = CONTEXT,
                                 .max_piece = 512,
                                 .attention_host = {.n_heads = hparams->n_heads,
                                                    .n_layers = hparams->n_layers,
                                                    .model_normalizer = hparams->normalizer,
                                                    .allow_measure = true},
                                 .fits = w->fits.of,
                                 .n_fits = w->fits.n,
                                 .max_whole = options.max_whole,
                                 .wake = sp_scheduler_wake,
                                 .wake_context = w->scheduler};
}

static void close_scheduler(world *w)
{
    sp_stats stats;
    sp_scheduler_stats(w->scheduler, &stats);
    assert_int_equal(stats.kv_pages_used, 0);
    const sp_kv *kv = sp_scheduler_kv(w->scheduler);
    assert_int_equal(stats.kv_pages_cached + kv->n_free, PAGES);
    sp_scheduler_close(w->scheduler);
}

/* Reads what is there; true at the end. */
static bool read_events(sp_stream *stream, output *out)
{
    sp_event event;
    for (sp_stream_read(stream, &event); event.type != SP_EVENT_NONE; sp_stream_read(stream, &event)) {
        if (event.type == SP_EVENT_TOKEN) {
            assert_true(out->n < MOST && event.n_top == TOP);
            out->tokens[out->n] = event.token;
            out->logprobs[out->n] = event.logprob;
            memcpy(out->top[out->n++], event.top, sizeof out->top[0]);
        }
        if (event.type == SP_EVENT_ERROR) fail_msg("%s", event.error.message);
        if (event.type != SP_EVENT_DONE) continue;
        out->cached = event.usage.cached_tokens;
        return true;
    }
    return false;
}

static sp_stream *submit(world *w, const sp_request *request)
{
    sp_error error;
    sp_sequence *sequence;
    assert_ok(sp_sequence_open(&w->host, request, NULL, NULL, &sequence, &error), error);
    sp_stream *stream = sequence->stream;
    assert_ok(sp_scheduler_submit(w->scheduler, sequence, &error), error);
    return stream;
}

static sp_request request_of(const int32_t *ids, size_t n, uint32_t max_tokens, const char *attention,
                             bool shares)
{
    sp_request request;
    sp_request_init(&request);
    request.ids = ids;
    request.n_ids = n;
    request.max_tokens = max_tokens;
    request.sampling.seed = 3;
    request.logprobs = TOP;
    request.ignore_eos = true;
    request.share_pages = shares;
    request.attention = attention;
    request.attention_size = strlen(attention);
    return request;
}

static void run(world *w, const int32_t *ids, size_t n, uint32_t max_tokens, const char *attention,
                bool shares, output *out)
{
    sp_request request = request_of(ids, n, max_tokens, attention, shares);
    sp_stream *stream = submit(w, &request);
    memset(out, 0, sizeof *out);
    while (!read_events(stream, out)) sp_scheduler_step(w->scheduler);
    sp_stream_free(stream);
}

static void assert_same_bits(const output *a, const output *b, const char *attention)
{
    bool same = a->n == b->n && memcmp(a->tokens, b->tokens, sizeof a->tokens) == 0 &&
                memcmp(a->logprobs, b->logprobs, sizeof a->logprobs) == 0 &&
                memcmp(a->top, b->top, sizeof a->top) == 0;
    if (!same) fail_msg("%s: other bits with %u tokens cached", attention, (unsigned)b->cached);
}

/* --- what is reused, and that it changes nothing --- */

static const uint32_t lengths[] = {63, 64, 65, 127, 128, 129, 200};

/* A long prompt is computed, then beginnings of it, and prompts that part from it. */
static void check_lengths(world *w, const char *attention, const output *whole)
{
    output out;
    int32_t other[TEXT];
    run(w, text, 200, 4, attention, true, &out);
    assert_int_equal(out.cached, 0);
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        run(w, text, lengths[i], 4, attention, true, &out);
        assert_int_equal(out.cached, (lengths[i] - 1) / 64 * 64);
        assert_same_bits(&whole[i], &out, attention);
    }
    memcpy(other, text, sizeof other);
    other[100] ^= 1;
    run(w, other, 200, 4, attention, true, &out);
    assert_int_equal(out.cached, 64);
}

/* Two turns: the second prompt goes on from what the first one's answer was. */
static void check_turns(world *w, const char *attention, uint32_t most_cached)
{
    output answer, again, second;
    int32_t ids[TEXT];
    run(w, text + 7, 100, 60, attention, false, &answer);
    run(w, text + 7, 100, 60, attention, true, &again);
    assert_int_equal(again.cached, 0);
    assert_same_bits(&answer, &again, attention);
    memcpy(ids, text + 7, 100 * sizeof *ids);
    memcpy(ids + 100, answer.tokens, 60 * sizeof *ids);
    memcpy(ids + 160, text + 200, 60 * sizeof *ids);
    run(w, ids, 220, 5, attention, false, &answer);
    run(w, ids, 220, 5, attention, true, &second);
    assert_int_equal(second.cached, most_cached);
    assert_same_bits(&answer, &second, attention);
}

static void check_pattern(world *w, const char *attention, sp_dtype kv_type, const uint32_t *chunks,
                          size_t n_chunks, bool decodes_alike)
{
    output whole[COUNT_OF(lengths)];
    open_scheduler(w, kv_type, 512);
    for (size_t i = 0; i < COUNT_OF(lengths); i++) run(w, text, lengths[i], 4, attention, false, &whole[i]);
    close_scheduler(w);
    for (size_t i = 0; i < n_chunks; i++) {
        open_scheduler(w, kv_type, chunks[i]);
        check_lengths(w, attention, whole);
        check_turns(w, attention, decodes_alike ? 128 : 64);
        close_scheduler(w);
    }
}

static const char *const static_patterns[] = {
    "\"dense\"",
    "{\"backend\":\"dense\",\"normalizer\":\"softmax\"}",
    "{\"backend\":\"dense\",\"normalizer\":\"sparsemax\"}",
    "{\"backend\":\"dense\",\"normalizer\":{\"alpha\":1.33}}",
    "{\"backend\":\"window\",\"params\":{\"window\":33,\"global_first\":2},\"normalizer\":\"softmax\"}",
    "{\"backend\":\"strided\",\"params\":{\"stride\":9}}",
    "{\"backend\":\"strided\",\"params\":{\"stride\":16},\"heads\":\"interleaved\"}",
    "{\"backend\":\"fixed\",\"params\":{\"stride\":48,\"summary\":8},\"heads\":\"multihead\"}",
    "{\"backend\":\"longformer\",\"params\":{\"window\":65}}",
};

static const char *const predicted_patterns[] = {
    "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"distance\",\"metric\":\"l2\"}}",
    "{\"backend\":\"sparsefinder\",\"params\":{\"metric\":\"dot\",\"keep\":12,\"window\":5}}",
    "{\"backend\":\"sparsefinder\",\"params\":{\"metric\":\"cosine\",\"keep\":9},\"normalizer\":\"softmax\"}",
    "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"bucket\",\"bins\":\"frozen\"}}",
    "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"bucket\",\"bins\":\"fixed\"}}",
    "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"cluster\",\"clusters\":16,\"top\":2}}",
    "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"cluster\",\"clusters\":32,\"top\":1},"
    "\"normalizer\":\"sparsemax\"}",
};

/* Generated tokens see other keys than a prompt's would: their pages are not for prompts. */
static const char *const decode_patterns[] = {
    "{\"backend\":\"dense\",\"decode\":\"window\"}",
    "{\"backend\":\"window\",\"decode\":{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"cluster\"}}"
    "}",
};

static const uint32_t chunks[] = {64, 100, 512};

static void test_static(void **state)
{
    (void)state;
    world w;
    open_model(&w, SPARSED_ROOT "/models/austen", SP_BF16, 2);
    for (size_t i = 0; i < COUNT_OF(static_patterns); i++)
        check_pattern(&w, static_patterns[i], SP_BF16, chunks + i % 3, 1, true);
    close_model(&w);
}

/* Whatever says that it may share, as it comes. */
static void test_every_backend(void **state)
{
    (void)state;
    world w;
    uint32_t n = 0;
    open_model(&w, SPARSED_ROOT "/models/austen", SP_BF16, 2);
    for (size_t i = 0; sp_backends[i]; i++) {
        char attention[64];
        if (!(sp_backends[i]->caps & SP_CAP_PREFIX)) continue;
        (void)snprintf(attention, sizeof attention, "\"%s\"", sp_backends[i]->name);
        check_pattern(&w, attention, SP_BF16, chunks, 1, true);
        n++;
    }
    assert_true(n >= 6);
    close_model(&w);
}

static void test_predicted(void **state)
{
    (void)state;
    world w;
    open_model(&w, SPARSED_ROOT "/models/austen", SP_BF16, 1);
    for (size_t i = 0; i < COUNT_OF(predicted_patterns); i++)
        check_pattern(&w, predicted_patterns[i], SP_BF16, chunks + i % 3, 1, true);
    for (size_t i = 0; i < COUNT_OF(decode_patterns); i++)
        check_pattern(&w, decode_patterns[i], SP_BF16, chunks + 1, 1, false);
    close_model(&w);
}

static void test_small_models(void **state)
{
    (void)state;
    static const char *const names[] = {"tiny-llama", "tiny-llama-entmax15", "tiny-qwen3", "tiny-qwen2"};
    world w;
    char path[512];
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        snprintf(path, sizeof path, SPARSED_ROOT "/tests/golden/models/%s", names[i]);
        sp_dtype type = i % 2 ? SP_BF16 : SP_F32;
        open_model(&w, path, type, 1 + i % 2);
        check_pattern(&w, "\"dense\"", type, chunks, COUNT_OF(chunks), true);
        check_pattern(&w, static_patterns[4 + i], type, chunks, COUNT_OF(chunks), true);
        close_model(&w);
    }
}

/* Rotary factors that depend on the planned length: pages of another choice are not taken. */
static void test_rope_variants(void **state)
{
    (void)state;
    world w;
    output out, first, second;
    open_model(&w, SPARSED_ROOT "/tests/golden/models/tiny-phi3-longrope", SP_F32, 1); /* 64 tokens */
    open_scheduler(&w, SP_F32, 512);
    run(&w, text, 150, 4, "\"dense\"", false, &first);
    run(&w, text, 150, 9, "\"dense\"", true, &out);
    run(&w, text, 150, 4, "\"dense\"", true, &second);
    assert_int_equal(second.cached, 128); /* both beyond it: the same factors */
    assert_same_bits(&first, &second, "longrope");
    close_scheduler(&w);
    close_model(&w);
    open_model(&w, SPARSED_ROOT "/tests/golden/models/tiny-llama-dynamic", SP_F32, 1);
    open_scheduler(&w, SP_F32, 512);
    run(&w, text, 150, 4, "\"dense\"", false, &first);
    run(&w, text, 150, 9, "\"dense\"", true, &out);
    run(&w, text, 150, 4, "\"dense\"", true, &second);
    assert_int_equal(second.cached, 0); /* a base for every length */
    assert_same_bits(&first, &second, "dynamic");
    run(&w, text, 150, 4, "\"dense\"", true, &second);
    assert_int_equal(second.cached, 128);
    assert_same_bits(&first, &second, "dynamic");
    close_scheduler(&w);
    close_model(&w);
}

/* Attentions and normalizers do not take each other's pages, nor does a prompt that is run layer by layer. */
static void test_keys(void **state)
{
    (void)state;
    static const char *const apart[] = {
        "\"dense\"",
        "{\"backend\":\"dense\",\"normalizer\":\"softmax\"}",
        "\"window\"",
        "{\"backend\":\"window\",\"params\":{\"window\":33}}",
        "{\"backend\":\"window\",\"params\":{\"window\":33,\"global_first\":1}}",
        "{\"backend\":\"strided\",\"params\":{\"stride\":33}}",
        "{\"backend\":\"strided\",\"params\":{\"stride\":33},\"heads\":\"interleaved\"}",
        "{\"backend\":\"sparsefinder\",\"params\":{\"metric\":\"dot\",\"keep\":12}}",
        "{\"backend\":\"sparsefinder\",\"params\":{\"metric\":\"dot\",\"keep\":13}}",
        "{\"backend\":\"window\",\"decode\":\"sparsefinder\"}",
        "{\"backend\":\"sparsefinder\",\"params\":{\"grouping\":\"block\"},\"decode\":\"dense\"}",
        "{\"backend\":\"routing\",\"strict\":false}",
    };
    enum { WHOLE = 2 }; /* the last ones know later tokens */
    world w;
    output out;
    open_model(&w, SPARSED_ROOT "/models/austen", SP_BF16, 2);
    open_scheduler(&w, SP_BF16, 512);
    for (size_t i = 0; i < COUNT_OF(apart); i++) {
        run(&w, text, 70, 1, apart[i], true, &out);
        assert_int_equal(out.cached, 0);
    }
    for (size_t i = 0; i < COUNT_OF(apart); i++) {
        run(&w, text, 70, 1, apart[i], true, &out);
        assert_int_equal(out.cached, i + WHOLE < COUNT_OF(apart) ? 64 : 0);
    }
    /* the same said in other words, and a decode pattern that keeps nothing beside the prompt's */
    run(&w, text, 70, 1, "{\"backend\":\"dense\",\"normalizer\":\"model\",\"strict\":false}", true, &out);
    assert_int_equal(out.cached, 64);
    run(&w, text, 70, 1, "{\"backend\":\"window\",\"decode\":\"dense\"}", true, &out);
    assert_int_equal(out.cached, 64);
    close_scheduler(&w);
    close_model(&w);
}

/* Many at once over a pool that is too small to keep everything: still the same bits. */
static void test_in_company(void **state)
{
    (void)state;
    enum { N = 24, AT_ONCE = 4 };
    world w;
    static output alone[N], together[N];
    static int32_t ids[N][TEXT];
    uint32_t n_ids[N];
    sp_stream *streams[N] = {NULL};
    test_random random = {77};
    open_model(&w, SPARSED_ROOT "/tests/golden/models/tiny-llama", SP_BF16, 2);
    open_scheduler(&w, SP_BF16, 512);
    for (size_t i = 0; i < N; i++) { /* one of three beginnings, cut anywhere, then an end of its own */
        size_t common = test_random_below(&random, 200), which = test_random_below(&random, 3);
        n_ids[i] = (uint32_t)(common + 1 + test_random_below(&random, 80));
        for (size_t j = 0; j < n_ids[i]; j++)
            ids[i][j] =
                j < common ? text[j + which] : (int32_t)test_random_below(&random, w.model->hparams.vocab);
        run(&w, ids[i], n_ids[i], 20, "\"dense\"", false, &alone[i]);
    }
    close_scheduler(&w);
    open_scheduler(&w, SP_BF16, 64);
    uint32_t cached = 0;
    memset(together, 0, sizeof together);
    for (size_t begun = 0, ended = 0; ended < N;) {
        for (; begun < N && begun - ended < AT_ONCE; begun++) {
            sp_request request = request_of(ids[begun], n_ids[begun], 20, "\"dense\"", true);
            streams[begun] = submit(&w, &request);
        }
        sp_scheduler_step(w.scheduler);
        for (size_t i = 0; i < begun; i++) {
            if (!streams[i] || !read_events(streams[i], &together[i])) continue;
            assert_same_bits(&alone[i], &together[i], "in company");
            cached += together[i].cached;
            sp_stream_free(streams[i]);
            streams[i] = NULL;
            ended++;
        }
    }
    assert_true(cached > 500);
    close_scheduler(&w);
    close_model(&w);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_static),        cmocka_unit_test(test_every_backend),
    cmocka_unit_test(test_predicted),     cmocka_unit_test(test_small_models),
    cmocka_unit_test(test_rope_variants), cmocka_unit_test(test_keys),
    cmocka_unit_test(test_in_company),
};
TEST_MAIN(tests)
