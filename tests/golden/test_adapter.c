/* LoRA adapters through the whole engine. The reference is the tiny model itself with the product merged into
 * its weights, s B A added in double by a plain loop: prompt log-probabilities and logits of BASE:NAME must
 * be those of the merged model to 1e-4, for llama with separate projections and phi3 with fused ones, with
 * float32 and with bf16 tensors (merged as rounded). And requests of base and adapters together must give the
 * bytes that each gives alone. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/support/random.h"

#define TOLERANCE 1e-4
#define MODELS SPARSED_ROOT "/tests/golden/models/"

enum { RANK = 4, LAYERS = 2, MAX_TENSORS = 64, PROMPT = 70, NEW_TOKENS = 12, MAX_VALUES = 512 * 512 };

typedef struct module {
    const char *name; /* NULL: no more */
    size_t n_out, n_in;
} module;

typedef struct base {
    const char *name;
    module modules[8];
} base;

/* hidden 64, 4 heads of 16, 2 KV heads */
static const base llama = {"tiny-llama",
                           {{"self_attn.q_proj", 64, 64},
                            {"self_attn.k_proj", 32, 64},
                            {"self_attn.v_proj", 32, 64},
                            {"self_attn.o_proj", 64, 64},
                            {"mlp.gate_proj", 40, 64},
                            {"mlp.up_proj", 40, 64},
                            {"mlp.down_proj", 64, 40}}};
/* hidden 48, 3 heads of 16, 1 KV head */
static const base phi3 = {"tiny-phi3",
                          {{"self_attn.qkv_proj", 80, 48},
                           {"self_attn.o_proj", 48, 48},
                           {"mlp.gate_up_proj", 160, 48},
                           {"mlp.down_proj", 48, 80}}};

static char root[64];

static const char *inside(const char *folder, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s/%s", root, folder, name);
    return path;
}

static void write_file(const char *folder, const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(inside(folder, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void copy_file(const char *model, const char *folder, const char *name)
{
    char path[512], *bytes;
    size_t size;
    sp_error error = {0};
    snprintf(path, sizeof path, "%s%s/%s", MODELS, model, name);
    assert_ok(sp_read_file(path, (size_t)1 << 24, &bytes, &size, &error), error);
    write_file(folder, name, bytes, size);
    sp_free(bytes);
}

static void write_tensors(const char *folder, const char *name, const sp_tensor_entry *entries, size_t n)
{
    sp_buffer out;
    sp_error error = {0};
    sp_buffer_init(&out, (size_t)1 << 24);
    assert_ok(sp_safetensors_write(entries, n, NULL, 0, &out, &error), error);
    write_file(folder, name, out.data, out.size);
    sp_buffer_fini(&out);
}

/* --- an adapter and its merged model --- */

typedef struct made {
    sp_tensor_entry adapter[MAX_TENSORS], merged[MAX_TENSORS];
    char names[MAX_TENSORS][128];
    void *owned[2 * MAX_TENSORS];
    size_t n_adapter, n_merged, n_owned;
    bool bf16;
    test_random random;
} made;

static void *own(made *m, size_t bytes)
{
    assert_true(m->n_owned < 2 * MAX_TENSORS);
    return m->owned[m->n_owned++] = sp_alloc(bytes, 1);
}

/* A random matrix as a tensor of the adapter; its values, as stored, to values. */
static void add_random(made *m, uint32_t layer, const module *part, char which, size_t rows, size_t columns,
                       double *values)
{
    size_t n = rows * columns, bytes = n * (m->bf16 ? 2 : 4);
    uint8_t *data = own(m, bytes);
    for (size_t i = 0; i < n; i++) {
        float value = 0.1f * (float)test_random_gauss(&m->random);
        uint16_t half = sp_bf16_from_f32(value);
        if (m->bf16) value = sp_bf16_to_f32(half);
        values[i] = (double)value;
        memcpy(data + i * (m->bf16 ? 2 : 4), m->bf16 ? (void *)&half : (void *)&value, m->bf16 ? 2 : 4);
    }
    char *name = m->names[m->n_adapter];
    snprintf(name, sizeof m->names[0], "base_model.model.model.layers.%u.%s.lora_%c.weight", (unsigned)layer,
             part->name, which);
    m->adapter[m->n_adapter++] =
        (sp_tensor_entry){name, {m->bf16 ? SP_BF16 : SP_F32, 2, {rows, columns}, data, bytes}};
}

/* W + s B A in place of W. */
static void merge(made *m, uint32_t layer, const module *part, const double *a, const double *b, double scale)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%u.%s.weight", (unsigned)layer, part->name);
    for (size_t t = 0; t < m->n_merged; t++) {
        sp_tensor *w = &m->merged[t].tensor;
        if (strcmp(m->merged[t].name, name) != 0) continue;
        assert_int_equal(w->dtype, SP_F32);
        assert_int_equal(w->shape[0], part->n_out);
        assert_int_equal(w->shape[1], part->n_in);
        float *sum = own(m, w->bytes);
        for (size_t o = 0; o < part->n_out; o++)
            for (size_t k = 0; k < part->n_in; k++) {
                double value = (double)((const float *)w->data)[o * part->n_in + k];
                for (size_t r = 0; r < RANK; r++) value += scale * b[o * RANK + r] * a[r * part->n_in + k];
                sum[o * part->n_in + k] = (float)value;
            }
        w->data = sum;
        return;
    }
    fail_msg("there is no %s", name);
}

static void write_config(const base *of, const char *folder, bool stabilized, const char *more)
{
    char text[1024];
    size_t n = (size_t)snprintf(text, sizeof text,
                                "{\"peft_type\":\"LORA\",\"r\":%d,\"lora_alpha\":6,\"use_rslora\":%s,"
                                "\"bias\":\"none\",\"lora_dropout\":0.05,\"rank_pattern\":{},%s"
                                "\"target_modules\":[",
                                RANK, stabilized ? "true" : "false", more);
    for (const module *part = of->modules; part->name; part++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\"", part == of->modules ? "" : ",",
                              strchr(part->name, '.') + 1);
    n += (size_t)snprintf(text + n, sizeof text - n, "]}");
    write_file(folder, "adapter_config.json", text, n);
}

/* Writes the folders adapter and merged; either NULL: not. */
static void make(const base *of, const char *adapter, const char *merged, bool bf16, bool stabilized,
                 uint64_t seed, const char *more)
{
    static double a[MAX_VALUES], b[MAX_VALUES];
    made m = {.bf16 = bf16, .random = {.state = seed}};
    char path[256];
    sp_weights *weights;
    sp_error error = {0};
    snprintf(path, sizeof path, "%s%s", MODELS, of->name);
    assert_ok(sp_weights_open(path, NULL, &weights, &error), error);
    for (size_t i = 0; i < sp_weights_count(weights); i++)
        m.merged[m.n_merged++] = (sp_tensor_entry){sp_weights_name(weights, i), *sp_weights_at(weights, i)};
    double scale = stabilized ? 6 / sqrt(RANK) : 6.0 / RANK;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (const module *part = of->modules; part->name; part++) {
            add_random(&m, layer, part, 'A', RANK, part->n_in, a);
            add_random(&m, layer, part, 'B', part->n_out, RANK, b);
            merge(&m, layer, part, a, b, scale);
        }
    mkdir(inside(adapter, ""), 0700);
    write_tensors(adapter, "adapter_model.safetensors", m.adapter, m.n_adapter);
    write_config(of, adapter, stabilized, more);
    if (merged) {
        static const char *const files[] = {"config.json", "tokenizer.json", "tokenizer_config.json"};
        mkdir(inside(merged, ""), 0700);
        for (size_t i = 0; i < 3; i++) copy_file(of->name, merged, files[i]);
        write_tensors(merged, "model.safetensors", m.merged, m.n_merged);
    }
    sp_weights_close(weights);
    for (size_t i = 0; i < m.n_owned; i++) sp_free(m.owned[i]);
}

/* --- running --- */

static sp_engine *open_engine(const char *model, const sp_adapter_option *adapters, size_t n, sp_dtype kv)
{
    sp_engine_options options;
    sp_engine *engine;
    sp_error error = {0};
    sp_engine_options_init(&options);
    options.model_path = model;
    options.adapters = adapters;
    options.n_adapters = n;
    options.kv_type = kv;
    options.kv_bytes = (size_t)64 << 20;
    options.n_threads = 2;
    assert_ok(sp_engine_open(&options, &engine, &error), error);
    return engine;
}

typedef struct answer {
    float logprobs[PROMPT], logits[512];
    int32_t tokens[NEW_TOKENS];
    float chosen[NEW_TOKENS];
    char report[8192];
} answer;

static void ignore(void *context)
{
    (void)context;
}

static sp_stream *submit(sp_engine *engine, uint32_t adapter, size_t n_ids, uint32_t max_tokens)
{
    int32_t ids[PROMPT];
    sp_request request;
    sp_stream *stream;
    sp_error error = {0};
    for (size_t i = 0; i < n_ids; i++) ids[i] = (int32_t)(1 + (i * i * 7 + n_ids) % 250);
    sp_request_init(&request);
    request.ids = ids;
    request.n_ids = n_ids;
    request.adapter = adapter;
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    request.prompt_logprobs = request.prompt_logits = true;
    assert_ok(sp_engine_submit(engine, &request, ignore, NULL, &stream, &error), error);
    return stream;
}

static void finish(sp_stream *stream, answer *out)
{
    sp_event event = {0};
    memset(out, 0, sizeof *out);
    for (size_t n = 0; event.type != SP_EVENT_DONE;) {
        sp_stream_wait(stream, 60, &event);
        if (event.type == SP_EVENT_ERROR) fail_msg("%s", event.error.message);
        assert_int_not_equal(event.type, SP_EVENT_NONE);
        if (event.type != SP_EVENT_TOKEN) continue;
        out->tokens[n] = event.token;
        out->chosen[n++] = event.logprob;
    }
    memcpy(out->logprobs + 1, event.prompt_logprobs + 1,
           (event.usage.prompt_tokens - 1) * sizeof *out->logprobs);
    memcpy(out->logits, event.prompt_logits, 272 * sizeof *out->logits);
    assert_true(event.report_size < sizeof out->report);
    memcpy(out->report, event.report, event.report_size);
    sp_stream_free(stream);
}

static double farthest(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

static void check_merged(const base *of, bool bf16, bool stabilized)
{
    static answer adapted, merged, plain;
    char model[256], adapter_path[256];
    make(of, "adapter", "merged", bf16, stabilized, 5, "");
    snprintf(model, sizeof model, "%s%s", MODELS, of->name);
    snprintf(adapter_path, sizeof adapter_path, "%s", inside("adapter", ""));
    const sp_adapter_option option = {"a", adapter_path};
    sp_engine *engine = open_engine(model, &option, 1, SP_F32);
    finish(submit(engine, 1, PROMPT, 0), &adapted);
    finish(submit(engine, 0, PROMPT, 0), &plain);
    sp_engine_close(engine);
    engine = open_engine(inside("merged", ""), NULL, 0, SP_F32);
    finish(submit(engine, 0, PROMPT, 0), &merged);
    sp_engine_close(engine);
    assert_true(farthest(adapted.logits, merged.logits, 272) <= TOLERANCE);
    assert_true(farthest(adapted.logprobs, merged.logprobs, PROMPT) <= TOLERANCE);
    assert_true(farthest(adapted.logits, plain.logits, 272) > 0.1); /* the adapter does something */
}

static void test_equals_merged(void **state)
{
    (void)state;
    check_merged(&llama, false, false);
    check_merged(&llama, true, true);
    check_merged(&phi3, false, true);
}

/* Requests of the base and two adapters of different ranks of rows, interleaved, alone and together. */
static void test_same_bytes_together(void **state)
{
    (void)state;
    enum { REQUESTS = 7 };
    static const uint32_t which[REQUESTS] = {1, 0, 2, 1, 0, 2, 1};
    static answer alone[REQUESTS], together[REQUESTS];
    char first[256], second[256];
    make(&llama, "first", NULL, true, false, 5, "");
    make(&llama, "second", NULL, false, false, 6, "\"attention_normalizer\":\"entmax15\",");
    snprintf(first, sizeof first, "%s", inside("first", ""));
    snprintf(second, sizeof second, "%s", inside("second", ""));
    const sp_adapter_option options[] = {{"first", first}, {"second", second}};
    sp_engine *engine = open_engine(MODELS "tiny-llama", options, 2, SP_BF16);
    const sp_engine_info *info = sp_engine_get_info(engine);
    assert_int_equal(info->n_adapters, 2);
    assert_string_equal(info->model_ids[0], "tiny-llama");
    assert_string_equal(info->model_ids[2], "tiny-llama:second");
    for (size_t i = 0; i < REQUESTS; i++) finish(submit(engine, which[i], 5 + 9 * i, NEW_TOKENS), &alone[i]);
    sp_stream *streams[REQUESTS];
    for (size_t i = 0; i < REQUESTS; i++) streams[i] = submit(engine, which[i], 5 + 9 * i, NEW_TOKENS);
    for (size_t i = 0; i < REQUESTS; i++) finish(streams[i], &together[i]);
    for (size_t i = 0; i < REQUESTS; i++) {
        assert_memory_equal(alone[i].tokens, together[i].tokens, sizeof alone[i].tokens);
        assert_memory_equal(alone[i].chosen, together[i].chosen, sizeof alone[i].chosen);
        assert_memory_equal(alone[i].logits, together[i].logits, sizeof alone[i].logits);
        assert_memory_equal(alone[i].logprobs, together[i].logprobs, sizeof alone[i].logprobs);
    }
    sp_engine_close(engine);
    /* the base's bytes are those of an engine without adapters */
    engine = open_engine(MODELS "tiny-llama", NULL, 0, SP_BF16);
    finish(submit(engine, 0, 5 + 9, NEW_TOKENS), &together[1]);
    assert_memory_equal(alone[1].logits, together[1].logits, sizeof alone[1].logits);
    assert_memory_equal(alone[1].chosen, together[1].chosen, sizeof alone[1].chosen);
    sp_engine_close(engine);
}

/* attention_normalizer is what "model" means for the adapter's requests, and what `trained` is judged by. */
static void test_normalizer(void **state)
{
    (void)state;
    static answer base_answer, adapted;
    static const char *const asked[] = {NULL, "{\"backend\":\"dense\",\"normalizer\":\"softmax\"}"};
    char path[256];
    make(&llama, "second", NULL, false, false, 6, "\"attention_normalizer\":\"entmax15\",");
    snprintf(path, sizeof path, "%s", inside("second", ""));
    const sp_adapter_option option = {"entmax", path};
    sp_engine *engine = open_engine(MODELS "tiny-llama", &option, 1, SP_F32);
    finish(submit(engine, 0, 40, 4), &base_answer);
    finish(submit(engine, 1, 40, 4), &adapted);
    assert_non_null(strstr(base_answer.report, "\"normalizer\":\"softmax\""));
    assert_non_null(strstr(base_answer.report, "\"trained\":true"));
    assert_non_null(strstr(adapted.report, "\"normalizer\":{\"alpha\":1.5}"));
    assert_non_null(strstr(adapted.report, "\"trained\":true"));
    for (size_t i = 0; i < 2; i++) {
        sp_request request;
        sp_stream *stream;
        sp_error error = {0};
        sp_request_init(&request);
        request.prompt = "Emma was";
        request.prompt_size = 8;
        request.adapter = 1;
        request.max_tokens = 2;
        request.prompt_logprobs = request.prompt_logits = true;
        request.attention = asked[i];
        request.attention_size = asked[i] ? strlen(asked[i]) : 0;
        assert_ok(sp_engine_submit(engine, &request, ignore, NULL, &stream, &error), error);
        finish(stream, &adapted);
        assert_int_equal(strstr(adapted.report, "\"trained\":true") != NULL, asked[i] == NULL);
    }
    sp_engine_close(engine);
}

static int make_root(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/sparsed-test-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    static const char *const folders[] = {"adapter", "merged", "first", "second"};
    static const char *const files[] = {"adapter_config.json",   "adapter_model.safetensors",
                                        "config.json",           "tokenizer.json",
                                        "tokenizer_config.json", "model.safetensors"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        for (size_t k = 0; k < sizeof files / sizeof *files; k++) (void)unlink(inside(folders[i], files[k]));
        (void)rmdir(inside(folders[i], ""));
    }
    return rmdir(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equals_merged),
                                       cmocka_unit_test(test_same_bytes_together),
                                       cmocka_unit_test(test_normalizer)};
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
