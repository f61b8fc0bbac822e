/* Options: defaults, ranges, byte suffixes, the config file, what wins, refusals by name, help and limits.
 * Expected values are written out here from the documented table, not read from the code's. */
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/json.h"
#include "server/options.h"

#define MAX_ARGS 16

/* Parses the NULL-terminated arguments; the caller calls sp_options_fini. */
static sp_status parse(sp_options *options, unsigned command, const char *const *arguments, sp_error *error)
{
    char *argv[MAX_ARGS] = {0};
    int argc = 0;
    while (arguments[argc] && argc < MAX_ARGS) {
        argv[argc] = (char *)(uintptr_t)arguments[argc];
        argc++;
    }
    memset(error, 0, sizeof *error);
    return sp_options_parse(options, command, argc, argv, error);
}
#define PARSE(options, command, error, ...)                                                                  \
    parse(options, command, (const char *const[]){__VA_ARGS__, NULL}, error)

static void assert_refused(unsigned command, const char *const *arguments, const char *param,
                           const char *words)
{
    sp_options options;
    sp_error error;
    sp_status status = parse(&options, command, arguments, &error);
    if (status != SP_USAGE) print_error("not refused: %s\n", arguments[0]);
    assert_int_equal(status, SP_USAGE);
    assert_string_equal(error.param, param);
    if (!strstr(error.message, words)) print_error("\"%s\" lacks \"%s\"\n", error.message, words);
    assert_non_null(strstr(error.message, words));
    sp_options_fini(&options);
}
#define REFUSED(command, param, words, ...)                                                                  \
    assert_refused(command, (const char *const[]){__VA_ARGS__, NULL}, param, words)

static void test_defaults(void **state)
{
    (void)state;
    sp_options o;
    sp_error error;
    assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model", "m"), SP_OK);
    assert_string_equal(o.model, "m");
    assert_string_equal(o.host, "127.0.0.1");
    assert_int_equal(o.port, 8080);
    assert_string_equal(o.kv, "bf16");
    assert_string_equal(o.weights, "stored");
    assert_string_equal(o.gemm, "own");
    assert_string_equal(o.normalizer, "model");
    assert_null(o.attention);
    assert_int_equal(o.threads, 0);
    assert_int_equal(o.context, 0);
    assert_int_equal(o.kv_bytes, 0);
    assert_int_equal(o.attn_scratch, 64 << 20);
    assert_int_equal(o.max_sequences, 16);
    assert_int_equal(o.max_queue, 64);
    assert_true(o.queue_timeout == 60 && o.request_timeout == 600);
    assert_int_equal(o.max_body_bytes, 1 << 20);
    assert_int_equal(o.max_tensor_bytes, 64 << 20);
    assert_int_equal(o.max_output_tokens, 4096);
    assert_int_equal(o.max_connections, 1024);
    assert_int_equal(o.max_connections_per_ip, 256);
    assert_true(o.header_timeout == 10 && o.body_timeout == 30 && o.idle_timeout == 60 &&
                o.write_timeout == 30);
    assert_int_equal(o.step_ms, 20);
    assert_true(o.drain_delay == 5 && o.drain_timeout == 30);
    assert_string_equal(o.half_close, "abort");
    assert_null(o.allowed_host);
    assert_false(o.insecure || o.public_metrics || o.share_prefixes || o.mmap || o.allow_nonfinite);
    sp_options_fini(&o);
}

static void test_values(void **state)
{
    (void)state;
    sp_options o;
    sp_error error;
    assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model=dir", "--port", "0", "--kv", "f32",
                           "--kv-bytes=3G", "--max-body-bytes", "20K", "--drain-timeout", "0.25", "--mmap",
                           "--insecure=true", "--insecure=false", "--max-queue", "7", "--max-queue=8"),
                     SP_OK);
    assert_string_equal(o.model, "dir");
    assert_int_equal(o.port, 0);
    assert_string_equal(o.kv, "f32");
    assert_int_equal(o.kv_bytes, 3LL << 30);
    assert_int_equal(o.max_body_bytes, 20480);
    assert_true(o.drain_timeout == 0.25);
    assert_true(o.mmap);
    assert_false(o.insecure);
    assert_int_equal(o.max_queue, 8);
    sp_options_fini(&o);

    assert_int_equal(PARSE(&o, SP_FOR_GENERATE, &error, "--model", "m", "--prompt", "", "--seed",
                           "-9223372036854775808", "--temperature", "0", "--top-k=-1", "--top-p", "0.9"),
                     SP_OK);
    assert_string_equal(o.prompt, "");
    assert_true(o.seed == INT64_MIN);
    assert_true(o.temperature == 0 && o.top_p == 0.9);
    assert_int_equal(o.top_k, -1);
    assert_int_equal(o.max_tokens, -1);
    sp_options_fini(&o);
}

static void test_refusals(void **state)
{
    (void)state;
    REFUSED(SP_FOR_SERVE, "max-queue", "1 to 65536", "--model=m", "--max-queue", "0");
    REFUSED(SP_FOR_SERVE, "max-queue", "1 to 65536", "--model=m", "--max-queue", "65537");
    REFUSED(SP_FOR_SERVE, "max-queue", "integer", "--model=m", "--max-queue", "8x");
    REFUSED(SP_FOR_SERVE, "max-queue", "integer", "--model=m", "--max-queue", "");
    REFUSED(SP_FOR_SERVE, "max-queue", "integer", "--model=m", "--max-queue", "99999999999999999999");
    REFUSED(SP_FOR_SERVE, "max-queue", "needs a value", "--model=m", "--max-queue");
    REFUSED(SP_FOR_SERVE, "port", "0 to 65535", "--model=m", "--port", "65536");
    REFUSED(SP_FOR_SERVE, "port", "0 to 65535", "--model=m", "--port", "-1");
    REFUSED(SP_FOR_SERVE, "idle-timeout", "number", "--model=m", "--idle-timeout", "nan");
    REFUSED(SP_FOR_SERVE, "idle-timeout", "number", "--model=m", "--idle-timeout", "inf");
    REFUSED(SP_FOR_SERVE, "idle-timeout", "number", "--model=m", "--idle-timeout", "0x10");
    REFUSED(SP_FOR_SERVE, "kv-bytes", "suffixes", "--model=m", "--kv-bytes", "1T");
    REFUSED(SP_FOR_SERVE, "kv-bytes", "suffixes", "--model=m", "--kv-bytes", "9999999999999G");
    REFUSED(SP_FOR_SERVE, "kv-bytes", "suffixes", "--model=m", "--kv-bytes", "-1M");
    REFUSED(SP_FOR_SERVE, "kv", "bf16|f32", "--model=m", "--kv", "f16");
    REFUSED(SP_FOR_SERVE, "weights", "stored|bf16|f32", "--model=m", "--weights", "q8_0");
    REFUSED(SP_FOR_SERVE, "kv", "bf16|f32", "--model=m", "--kv", "bf16|f32");
    REFUSED(SP_FOR_SERVE, "half-close", "abort|keep", "--model=m", "--half-close", "kee");
    REFUSED(SP_FOR_SERVE, "insecure", "true", "--model=m", "--insecure=yes");
    REFUSED(SP_FOR_SERVE, "model", "empty", "--model=");
    REFUSED(SP_FOR_SERVE, "modle", "unknown option", "--modle", "m");
    REFUSED(SP_FOR_SERVE, "prompt", "unknown option", "--model=m", "--prompt", "x");
    REFUSED(SP_FOR_SERVE, "x", "unexpected argument", "--model=m", "x");
    REFUSED(SP_FOR_SERVE, "attention", "backend's name", "--model=m", "--attention", "Dense!");
    REFUSED(SP_FOR_SERVE, "attention", "--attention", "--model=m", "--attention", "{\"backend\":");
    REFUSED(SP_FOR_GENERATE, "prompt", "--prompt", "--model=m");
    REFUSED(SP_FOR_ATTEND, "in", "--in", "--out=o");
    REFUSED(SP_FOR_ATTEND, "out", "--out", "--in=i");
    REFUSED(SP_FOR_ATTEND, "device", "cpu", "--in=i", "--out=o", "--device", "cuda");
    REFUSED(SP_FOR_ATTEND, "model", "unknown option", "--model=m");
    REFUSED(SP_FOR_SCORE, "text", "--text", "--model=m");
    REFUSED(SP_FOR_SCORE, "length", "1 to 16777216", "--model=m", "--text=t", "--length=0");
}

static void test_later(void **state)
{
    (void)state;
    REFUSED(SP_FOR_SERVE, "cors-origin", "no origin", "--model=m", "--cors-origin=example.org");
    REFUSED(SP_FOR_SERVE, "cors-origin", "empty", "--model=m", "--cors-origin= , ");
}

static void test_no_model(void **state)
{
    (void)state;
    char folder[] = "/tmp/sp_options_XXXXXX", before[4096];
    assert_non_null(mkdtemp(folder));
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(folder), 0);
    REFUSED(SP_FOR_SERVE, "model", "--model", "--port=1");
    assert_int_equal(chdir(SPARSED_ROOT), 0);
    sp_options o;
    sp_error error;
    assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--port=1"), SP_OK);
    assert_string_equal(o.model, "models/austen");
    sp_options_fini(&o);
    assert_int_equal(chdir(before), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void test_host(void **state)
{
    (void)state;
    static const char *const inside[] = {"127.0.0.1", "127.9.8.7", "localhost", "::1"};
    static const char *const outside[] = {"0.0.0.0",   "::",          "192.168.1.5",
                                          "128.0.0.1", "example.org", "localhost.evil"};
    sp_options o;
    sp_error error;
    for (size_t i = 0; i < sizeof inside / sizeof inside[0]; i++) {
        assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model=m", "--host", inside[i]), SP_OK);
        sp_options_fini(&o);
    }
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        REFUSED(SP_FOR_SERVE, "host", "--insecure", "--model=m", "--host", outside[i]);
        assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model=m", "--insecure", "--host", outside[i]),
                         SP_OK);
        assert_string_equal(o.host, outside[i]);
        sp_options_fini(&o);
    }
}

/* --- the config file --- */

static char config_path[] = "/tmp/sp_options_config_XXXXXX";

static int make_config(void **state)
{
    (void)state;
    int fd = mkstemp(config_path);
    return fd < 0 ? -1 : close(fd);
}

static int drop_config(void **state)
{
    (void)state;
    return unlink(config_path);
}

static void write_config(const char *text)
{
    FILE *file = fopen(config_path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void test_config(void **state)
{
    (void)state;
    sp_options o;
    sp_error error;
    write_config(
        "{\"model\":\"from file\",\"max_queue\":12,\"max_sequences\":2.0,\"kv_bytes\":\"64M\","
        "\"max_body_bytes\":4096,\"idle_timeout\":1.5,\"mmap\":true,\"drain_delay\":null,"
        "\"attention\":{\"backend\":\"strided\",\"params\":{\"stride\":64}},\"half_close\":\"keep\"}");
    assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--max-queue=3", "--config", config_path), SP_OK);
    assert_string_equal(o.model, "from file");
    assert_int_equal(o.max_queue, 3); /* the argument wins, although it stands before --config */
    assert_int_equal(o.max_sequences, 2);
    assert_int_equal(o.kv_bytes, 64 << 20);
    assert_int_equal(o.max_body_bytes, 4096);
    assert_true(o.idle_timeout == 1.5 && o.drain_delay == 5);
    assert_true(o.mmap);
    assert_string_equal(o.half_close, "keep");
    assert_string_equal(o.attention, "{\"backend\":\"strided\",\"params\":{\"stride\":64}}");
    sp_options_fini(&o);
}

static void test_bad_config(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        sp_status status;
        const char *param;
    } cases[] = {
        {"", SP_DATA, "config"},
        {"[]", SP_DATA, "config"},
        {"{\"max_queue\":1,\"max_queue\":2}", SP_DATA, "config"},
        {"{\"max_queue\":1} x", SP_DATA, "config"},
        {"{\"max-queue\":1}", SP_USAGE, "max-queue"},
        {"{\"max_queu\":1}", SP_USAGE, "max_queu"},
        {"{\"config\":\"x\"}", SP_USAGE, "config"},
        {"{\"prompt\":\"x\"}", SP_USAGE, "prompt"},
        {"{\"api_key_file\":8}", SP_USAGE, "api-key-file"},
        {"{\"max_queue\":\"1\"}", SP_USAGE, "max-queue"},
        {"{\"max_queue\":true}", SP_USAGE, "max-queue"},
        {"{\"max_queue\":1.5}", SP_USAGE, "max-queue"},
        {"{\"max_queue\":[1]}", SP_USAGE, "max-queue"},
        {"{\"max_queue\":1e99}", SP_USAGE, "max-queue"},
        {"{\"mmap\":1}", SP_USAGE, "mmap"},
        {"{\"mmap\":\"true\"}", SP_USAGE, "mmap"},
        {"{\"host\":\"0.0.0.0\"}", SP_USAGE, "host"},
        {"{\"host\":\"127.0.0.1\\u0000\"}", SP_USAGE, "host"},
        {"{\"host\":{\"a\":1}}", SP_USAGE, "host"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sp_options o;
        sp_error error;
        write_config(cases[i].text);
        sp_status status = PARSE(&o, SP_FOR_SERVE, &error, "--model=m", "--config", config_path);
        if (status != cases[i].status || strcmp(error.param, cases[i].param))
            print_error("%s: %d %s: %s\n", cases[i].text, (int)status, error.param, error.message);
        assert_int_equal(status, cases[i].status);
        assert_string_equal(error.param, cases[i].param);
        sp_options_fini(&o);
    }
    sp_options o;
    sp_error error;
    assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model=m", "--config", "/nonexistent/file"),
                     SP_NOT_FOUND);
    sp_options_fini(&o);
}

/* --- the engine's part, help, limits --- */

static void test_engine(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool override;
        float alpha;
    } normalizers[] = {{"model", false, 0},
                       {"softmax", true, 1.0f},
                       {"entmax15", true, 1.5f},
                       {"sparsemax", true, 2.0f},
                       {"{\"alpha\": 1.25}", true, 1.25f},
                       {"{\"alpha\":2}", true, 2.0f}};
    sp_options o;
    sp_error error;
    for (size_t i = 0; i < sizeof normalizers / sizeof normalizers[0]; i++) {
        sp_engine_options engine = {0};
        assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model=m", "--normalizer", normalizers[i].text),
                         SP_OK);
        assert_int_equal(sp_options_engine(&o, &engine, &error), SP_OK);
        assert_int_equal(engine.override_normalizer, normalizers[i].override);
        assert_true(engine.normalizer.alpha == normalizers[i].alpha);
        sp_options_fini(&o);
    }
    static const char *const wrong[] = {
        "entmax", "{\"alpha\":1}", "{\"alpha\":2.01}", "{\"alpha\":1.5,\"x\":1}", "{\"alpha\":\"1.5\"}", "{}",
        "1.5"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        sp_engine_options engine = {0};
        assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model=m", "--normalizer", wrong[i]), SP_OK);
        assert_int_equal(sp_options_engine(&o, &engine, &error), SP_USAGE);
        assert_string_equal(error.param, "normalizer");
        sp_options_fini(&o);
    }
    sp_engine_options engine = {0};
    assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model=m", "--attention", "strided", "--kv=f32",
                           "--threads=3", "--ctx=512", "--step-ms=50", "--gemm=openblas", "--weights=f32",
                           "--max-tensor-bytes=1M"),
                     SP_OK);
    assert_int_equal(sp_options_engine(&o, &engine, &error), SP_OK);
    assert_string_equal(engine.model_path, "m");
    assert_string_equal(engine.attention, "\"strided\"");
    assert_int_equal(engine.kv_type, SP_F32);
    assert_int_equal(engine.weights_as, SP_WEIGHTS_F32);
    assert_int_equal(engine.n_threads, 3);
    assert_int_equal(engine.context, 512);
    assert_true(engine.step_seconds == 0.05);
    assert_true(engine.openblas);
    assert_int_equal(engine.max_tensor_bytes, 1 << 20);
    assert_int_equal(engine.max_sequences, 16);
    sp_options_fini(&o);
}

static void test_help(void **state)
{
    (void)state;
    static const struct {
        unsigned command;
        const char *words[6];
    } cases[] = {
        {SP_FOR_SERVE,
         {"usage: sparsed serve", "--max-queue N", "(default 64; 1 to 65536)", "(default 64M; 1M to 64G)",
          "Examples:", "69 cannot listen"}},
        {SP_FOR_GENERATE,
         {"usage: sparsed generate", "--prompt TEXT", "--seed N", "any 64-bit integer",
          "Examples:", "Exit codes"}},
        {SP_FOR_ATTEND,
         {"usage: sparsed attend", "--in FILE", "--metrics", "--device cpu", "Examples:", "Exit codes"}},
        {SP_FOR_BENCH,
         {"usage: sparsed bench", "--json", "--threads N", "SPARSED_CPU", "Examples:", "Exit codes"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sp_buffer out;
        sp_buffer_init(&out, 1 << 16);
        sp_options_help(cases[i].command, &out);
        assert_true(sp_buffer_append(&out, "", 1));
        for (size_t w = 0; w < 6; w++) {
            if (!strstr(out.data, cases[i].words[w])) print_error("help lacks \"%s\"\n", cases[i].words[w]);
            assert_non_null(strstr(out.data, cases[i].words[w]));
        }
        for (const char *line = out.data; *line; line += strcspn(line, "\n") + (strchr(line, '\n') != NULL))
            assert_true(strcspn(line, "\n") <= 100);
        sp_buffer_fini(&out);
    }
}

static void test_limits(void **state)
{
    (void)state;
    sp_options o;
    sp_error error;
    assert_int_equal(PARSE(&o, SP_FOR_SERVE, &error, "--model=m", "--max-queue=5", "--kv-bytes=2M", "--mmap"),
                     SP_OK);
    sp_buffer out;
    sp_json_writer writer;
    sp_buffer_init(&out, 1 << 16);
    sp_json_writer_init(&writer, &out);
    sp_json_open(&writer, '{');
    sp_options_write_limits(&o, 2000000, &writer);
    sp_json_close(&writer, '}');
    assert_int_equal(sp_json_validate(out.data, out.size, &error), SP_OK);
    assert_true(sp_buffer_append(&out, "", 1));
    static const char *const members[] = {
        "\"max_sequences\":16",           "\"max_queue\":5",       "\"kv_bytes\":2000000",
        "\"attn_scratch\":67108864",      "\"queue_timeout\":60",  "\"mmap\":true",
        "\"half_close\":\"abort\"",       "\"allowed_host\":null", "\"insecure\":false",
        "\"max_connections_per_ip\":256", "\"step_ms\":20",        "\"drain_delay\":5"};
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        if (!strstr(out.data, members[i])) print_error("%s lacks %s\n", out.data, members[i]);
        assert_non_null(strstr(out.data, members[i]));
    }
    assert_null(strstr(out.data, "\"port\""));
    assert_null(strstr(out.data, "\"prompt\""));
    sp_buffer_fini(&out);
    sp_options_fini(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_values),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_later),    cmocka_unit_test(test_no_model),   cmocka_unit_test(test_host),
        cmocka_unit_test(test_config),   cmocka_unit_test(test_bad_config), cmocka_unit_test(test_engine),
        cmocka_unit_test(test_help),     cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, make_config, drop_config);
}
