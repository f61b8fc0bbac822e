/* How values get from the command line and the config file into sp_options.
 *
 * Every value passes through sp_option_set (option_value.h) as text, whether it comes from the table
 * (options_table.c: the defaults), from the config file (numbers in their JSON spelling) or from an argument.
 * Order: defaults, then the file, then the arguments; then what no single option says is checked.
 *
 * Owner: sp_options holds an arena with every string; sp_options_fini frees it.
 *
 * Tests: tests/unit/server/test_options.c */
#include "server/options.h"

#include <stdio.h>
#include <string.h>

#include "kernels/json.h"
#include "server/access.h"
#include "server/gate.h"
#include "server/model_path.h"
#include "server/option_value.h"

#define CONFIG_MAX_BYTES (1u << 20)
#define ARENA_MAX_BYTES (8u << 20)
#define AT(field) offsetof(sp_options, field)

/* Field names are option names with underscores; both spellings are found. */
static bool same_name(const char *option, const char *name, size_t size, char joiner)
{
    if (strlen(option) != size) return false;
    for (size_t i = 0; i < size; i++)
        if (name[i] != (option[i] == '-' ? joiner : option[i])) return false;
    return true;
}

static const sp_option *find_option(unsigned command, const char *name, size_t size, char joiner)
{
    for (size_t i = 0; i < sp_option_count; i++)
        if ((sp_option_table[i].flags & command) && same_name(sp_option_table[i].name, name, size, joiner))
            return &sp_option_table[i];
    return NULL;
}

/* label: "--max-queue" or "FILE: max_queue". */
static sp_status unknown_option(const char *label, const char *name, size_t size, sp_error *error)
{
    char shown[96] = "";
    memcpy(shown, name, size < sizeof shown - 1 ? size : sizeof shown - 1);
    return sp_fail_param(error, SP_USAGE, shown, "%s: unknown option; --help lists them", label);
}

static sp_status set_defaults(sp_options *options, sp_error *error)
{
    for (size_t i = 0; i < sp_option_count; i++) {
        const sp_option *option = &sp_option_table[i];
        if (!option->fallback) continue;
        sp_status status = sp_option_set(options, option, option->name, option->fallback, error);
        if (status) return status;
    }
    return SP_OK;
}

/* --- the config file --- */

/* The value the reader stands on, as the text sp_option_set takes. SP_USAGE when the type does not fit. */
static sp_status config_value(sp_options *options, const sp_option *option, sp_json *reader,
                              sp_json_type type, const char **out)
{
    bool text = option->type == SP_OPTION_TEXT, flag = option->type == SP_OPTION_FLAG;
    bool adapters = option->type == SP_OPTION_ADAPTERS;
    size_t size, begin = reader->position - 1;
    int64_t integer;
    switch (type) {
    case SP_JSON_STRING:
        if (!text && !adapters && option->type != SP_OPTION_BYTES) return SP_USAGE;
        *out = sp_json_text(reader, &options->arena, &size);
        return !*out ? SP_NO_MEMORY : strlen(*out) == size ? SP_OK : SP_USAGE;
    case SP_JSON_NUMBER:
        if (text || flag || adapters) return SP_USAGE;
        if (option->type != SP_OPTION_NUMBER && sp_json_int64(reader, &integer)) { /* 1.0 is the integer 1 */
            char digits[32];
            int n = snprintf(digits, sizeof digits, "%lld", (long long)integer);
            *out = sp_arena_copy(&options->arena, digits, (size_t)n);
        } else {
            *out = sp_arena_copy(&options->arena, reader->raw, reader->raw_size);
        }
        return *out ? SP_OK : SP_NO_MEMORY;
    case SP_JSON_TRUE:
    case SP_JSON_FALSE:
        *out = type == SP_JSON_TRUE ? "true" : "false";
        return flag ? SP_OK : SP_USAGE;
    case SP_JSON_OBJECT: /* attention and normalizer may be written as the object itself */
        sp_json_skip(reader, type);
        if (option->offset != AT(attention) && option->offset != AT(normalizer)) return SP_USAGE;
        *out = sp_arena_copy(&options->arena, reader->text + begin, reader->position - begin);
        return *out ? SP_OK : SP_NO_MEMORY;
    default:
        return SP_USAGE;
    }
}

static sp_status set_from_config(sp_options *options, const sp_option *option, const char *label,
                                 sp_json *reader, sp_json_type type, sp_error *error)
{
    static const char *const expected[] = {
        [SP_OPTION_TEXT] = "a string",      [SP_OPTION_INT] = "a number",
        [SP_OPTION_NUMBER] = "a number",    [SP_OPTION_BYTES] = "a number",
        [SP_OPTION_FLAG] = "true or false", [SP_OPTION_ADAPTERS] = "\"NAME=DIR\" or an array of them",
        [SP_OPTION_FILES] = "a string"};
    const char *value;
    sp_status status = config_value(options, option, reader, type, &value);
    if (status == SP_NO_MEMORY)
        return sp_fail_param(error, status, option->name, "%s: no memory for its value", label);
    if (status)
        return sp_fail_param(error, SP_USAGE, option->name, "%s: wrong type; expected %s", label,
                             expected[option->type]);
    return sp_option_set(options, option, label, value, error);
}

static sp_status read_config(sp_options *options, const char *path, const char *text, size_t size,
                             sp_error *error)
{
    sp_error inner = {0};
    sp_status valid = sp_json_validate(text, size, &inner);
    if (valid)
        return sp_fail_param(error, valid == SP_NO_MEMORY ? SP_NO_MEMORY : SP_DATA, "config", "%s: %s", path,
                             inner.message);
    sp_json reader;
    sp_json_init(&reader, text, size);
    if (sp_json_next(&reader) != SP_JSON_OBJECT)
        return sp_fail_param(error, SP_DATA, "config", "%s: must hold one JSON object", path);
    while (sp_json_next(&reader) == SP_JSON_KEY) {
        size_t length;
        const char *name = sp_json_text(&reader, &options->arena, &length);
        if (!name) return sp_fail_param(error, SP_NO_MEMORY, "config", "%s: no memory for a name", path);
        char label[224];
        snprintf(label, sizeof label, "%.120s: %.64s", path, name);
        const sp_option *option = find_option(SP_FOR_SERVE, name, length, '_');
        if (!option || option->offset == AT(config)) return unknown_option(label, name, length, error);
        sp_json_type type = sp_json_next(&reader);
        if (type == SP_JSON_NULL) continue;
        bool list = option->type == SP_OPTION_ADAPTERS && type == SP_JSON_ARRAY;
        while (!list || (type = sp_json_next(&reader)) != SP_JSON_ARRAY_END) {
            sp_status status = set_from_config(options, option, label, &reader, type, error);
            if (status) return status;
            if (!list) break;
        }
    }
    return SP_OK;
}

static sp_status load_config(sp_options *options, const char *path, sp_error *error)
{
    char *text;
    size_t size;
    sp_status status = sp_read_file(path, CONFIG_MAX_BYTES, &text, &size, error);
    if (status) return status;
    status = read_config(options, path, text, size, error);
    sp_free(text);
    return status;
}

/* --- arguments --- */

/* One argument: *value its text; *used how many of argv it took. */
static sp_status read_argument(unsigned command, int argc, char **argv, int at, const sp_option **option,
                               const char **value, int *used, sp_error *error)
{
    const char *text = argv[at];
    if (strncmp(text, "--", 2) || !text[2])
        return sp_fail_param(error, SP_USAGE, text, "%s: unexpected argument; options begin with --", text);
    const char *name = text + 2;
    size_t size = strcspn(name, "=");
    *option = find_option(command, name, size, '-');
    if (!*option) return unknown_option(text, name, size, error);
    *used = 1;
    if (name[size] == '=')
        *value = name + size + 1;
    else if ((*option)->type == SP_OPTION_FLAG)
        *value = "true";
    else if (at + 1 < argc) {
        *value = argv[at + 1];
        *used = 2;
    } else
        return sp_fail_param(error, SP_USAGE, (*option)->name, "%s: needs a value (%s)", text,
                             (*option)->value_name);
    return SP_OK;
}

/* only_config: looks for --config alone, so that the file is read before the other arguments. */
static sp_status read_arguments(sp_options *options, unsigned command, int argc, char **argv,
                                bool only_config, sp_error *error)
{
    for (int at = 0, used = 0; at < argc; at += used) {
        const sp_option *option = NULL;
        const char *value = NULL;
        sp_status status = read_argument(command, argc, argv, at, &option, &value, &used, error);
        if (status) return status;
        int first = at + used;
        while (option->type == SP_OPTION_FILES && at + used < argc && strncmp(argv[at + used], "--", 2))
            used++;
        if (only_config && option->offset != AT(config)) continue;
        char label[64];
        snprintf(label, sizeof label, "--%s", option->name);
        status = sp_option_set(options, option, label, value, error);
        for (int more = first; !status && more < at + used; more++)
            status = sp_option_set(options, option, label, argv[more], error);
        if (status) return status;
    }
    return SP_OK;
}

/* --- what no single option says --- */

/* A bare name becomes a JSON string; anything else must be a JSON string or object. */
static sp_status finish_attention(sp_options *options, sp_error *error)
{
    const char *text = options->attention;
    if (!text) return SP_OK;
    size_t n = strlen(text);
    if (text[0] == '{' || text[0] == '"') {
        sp_error inner = {0};
        sp_status status = sp_json_validate(text, n, &inner);
        if (status)
            return sp_fail_param(error, status == SP_NO_MEMORY ? status : SP_USAGE, "attention",
                                 "--attention: %s", inner.message);
        return SP_OK;
    }
    if (strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_") != n || n > 64)
        return sp_fail_param(error, SP_USAGE, "attention",
                             "--attention: \"%s\" is no backend's name and no JSON object", text);
    char *quoted = sp_arena_alloc(&options->arena, n + 3, 1);
    if (!quoted) return sp_fail(error, SP_NO_MEMORY, "out of memory");
    quoted[0] = quoted[n + 1] = '"';
    memcpy(quoted + 1, text, n);
    options->attention = quoted;
    return SP_OK;
}

static sp_status finish_origins(const sp_options *options, sp_error *error)
{
    const char *at = options->cors_origin ? options->cors_origin : "*";
    size_t n = 0, size;
    for (at += strspn(at, ", "); *at; at += size, at += strspn(at, ", "), n++) {
        size = strcspn(at, ", ");
        if (!sp_access_is_origin(at, size))
            return sp_fail_param(error, SP_USAGE, "cors-origin",
                                 "--cors-origin: \"%.*s\" is no origin; one is scheme://host or "
                                 "scheme://host:port without a path, or *",
                                 (int)(size < 128 ? size : 128), at);
    }
    return n ? SP_OK : sp_fail_param(error, SP_USAGE, "cors-origin", "--cors-origin: the list is empty");
}

static sp_status finish_options(sp_options *options, unsigned command, sp_error *error)
{
    static const unsigned with_model = SP_FOR_SERVE | SP_FOR_GENERATE | SP_FOR_SCORE | SP_FOR_GRAPH |
                                       SP_FOR_SWEEP | SP_FOR_TOKENIZE | SP_FOR_INSPECT | SP_FOR_FIT;
    sp_status status = SP_OK;
    if ((command & with_model) || options->model) status = sp_model_path_find(options, error);
    if (!status) status = finish_attention(options, error);
    if (!status) status = finish_origins(options, error);
    if (status) return status;
    if ((command & SP_FOR_SERVE) && !options->api_key_file && !options->insecure &&
        !sp_gate_is_loopback(options->host))
        return sp_fail_param(error, SP_USAGE, "host",
                             "--host: %s is reachable by others and there are no keys; give some with "
                             "--api-key-file, or add --insecure if that is meant",
                             options->host);
    if ((command & SP_FOR_GENERATE) && options->chat && options->json)
        return sp_fail_param(error, SP_USAGE, "json", "--json does not go with --chat");
    if ((command & SP_FOR_GENERATE) && !options->chat && options->system)
        return sp_fail_param(error, SP_USAGE, "system", "--system needs --chat");
    if ((command & SP_FOR_GENERATE) && !options->prompt && !options->chat)
        return sp_fail_param(error, SP_USAGE, "prompt",
                             "--prompt: which text shall be continued? - reads it from "
                             "standard input");
    if ((command & SP_FOR_BENCH) && !options->model && (options->context || options->attention))
        return sp_fail_param(error, SP_USAGE, "model", "--ctx and --attention need --model: which model?");
    if ((command & SP_FOR_GRAPH) && !options->text)
        return sp_fail_param(error, SP_USAGE, "text", "--text: whose attention? - reads standard input");
    if ((command & SP_FOR_GRAPH) && !options->format)
        return sp_fail_param(error, SP_USAGE, "format",
                             "--format: which one? for example png, svg, html or csv");
    if ((command & SP_FOR_GRAPH) && !options->out)
        return sp_fail_param(error, SP_USAGE, "out", "--out: where shall the file go? - is standard output");
    if ((command & SP_FOR_SCORE) && !options->text)
        return sp_fail_param(error, SP_USAGE, "text",
                             "--text: which file shall be scored? - reads standard input");
    if ((command & SP_FOR_SWEEP) && !options->text)
        return sp_fail_param(error, SP_USAGE, "text", "--text: which file shall be measured on?");
    if ((command & SP_FOR_SWEEP) && !options->out)
        return sp_fail_param(error, SP_USAGE, "out", "--out: which folder shall the files go to?");
    if ((command & SP_FOR_FIT) && options->texts.n == 0)
        return sp_fail_param(error, SP_USAGE, "text", "--text: which files shall be learned from?");
    if ((command & SP_FOR_FIT) && !options->out && !options->measured)
        return sp_fail_param(error, SP_USAGE, "out", "--out: which fit file shall be written?");
    if ((command & SP_FOR_IMPORT_FIT) && !options->projections)
        return sp_fail_param(error, SP_USAGE, "projections", "--projections: which file holds them?");
    if ((command & SP_FOR_IMPORT_FIT) && !options->out)
        return sp_fail_param(error, SP_USAGE, "out", "--out: which fit file shall be written?");
    if ((command & SP_FOR_ATTEND) && !options->in)
        return sp_fail_param(error, SP_USAGE, "in", "--in: which safetensors file holds q, k and v?");
    if ((command & SP_FOR_ATTEND) && !options->out)
        return sp_fail_param(error, SP_USAGE, "out",
                             "--out: where shall the result go? - writes to standard output");
    return SP_OK;
}

sp_status sp_options_parse(sp_options *options, unsigned command, int argc, char **argv, sp_error *error)
{
    memset(options, 0, sizeof *options);
    options->layer = options->head = -1;
    sp_arena_init(&options->arena, ARENA_MAX_BYTES);
    sp_status status = set_defaults(options, error);
    if (!status) status = read_arguments(options, command, argc, argv, true, error);
    if (!status && options->config) status = load_config(options, options->config, error);
    if (!status) status = read_arguments(options, command, argc, argv, false, error);
    return status ? status : finish_options(options, command, error);
}

void sp_options_fini(sp_options *options)
{
    sp_arena_fini(&options->arena);
}

/* --- the engine's part --- */

/* {"alpha": a} */
static bool read_alpha(const char *text, float *alpha)
{
    size_t n = strlen(text);
    if (sp_json_validate(text, n, NULL)) return false;
    sp_json reader;
    sp_json_init(&reader, text, n);
    if (sp_json_next(&reader) != SP_JSON_OBJECT || sp_json_next(&reader) != SP_JSON_KEY) return false;
    if (!sp_json_is(&reader, "alpha") || sp_json_next(&reader) != SP_JSON_NUMBER) return false;
    *alpha = (float)sp_json_double(&reader);
    return *alpha > 1.0f && *alpha <= 2.0f && sp_json_next(&reader) == SP_JSON_OBJECT_END;
}

static sp_status read_normalizer(const char *text, sp_engine_options *out, sp_error *error)
{
    static const struct {
        const char *name;
        float alpha;
    } known[] = {{"softmax", 1.0f}, {"entmax15", 1.5f}, {"sparsemax", 2.0f}};
    out->override_normalizer = strcmp(text, "model") != 0;
    if (!out->override_normalizer) return SP_OK;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(text, known[i].name) == 0) {
            out->normalizer.alpha = known[i].alpha;
            return SP_OK;
        }
    if (read_alpha(text, &out->normalizer.alpha)) return SP_OK;
    return sp_fail_param(
        error, SP_USAGE, "normalizer",
        "--normalizer: \"%s\" is none of model, softmax, entmax15, sparsemax, {\"alpha\": a} with "
        "1 < a <= 2",
        text);
}

sp_status sp_options_engine(const sp_options *options, sp_engine_options *out, sp_error *error)
{
    out->model_path = options->model;
    out->n_threads = (size_t)options->threads;
    out->context = (uint32_t)options->context;
    out->attention = options->attention;
    out->chat_template = options->chat_template;
    out->fit = options->fit;
    out->kv_type = strcmp(options->kv, "f32") == 0 ? SP_F32 : SP_BF16;
    out->weights_as = strcmp(options->weights, "bf16") == 0  ? SP_WEIGHTS_BF16
                      : strcmp(options->weights, "f32") == 0 ? SP_WEIGHTS_F32
                                                             : SP_WEIGHTS_STORED;
    out->adapters = options->adapters.items;
    out->n_adapters = options->adapters.n;
    out->share_prefixes = options->share_prefixes;
    out->coarse_times = options->api_key_file != NULL;
    out->poison = options->poison;
    out->kv_bytes = (size_t)options->kv_bytes;
    out->attend_scratch = (size_t)options->attn_scratch;
    out->max_sequences = (uint32_t)options->max_sequences;
    out->max_queue = (uint32_t)options->max_queue;
    out->queue_timeout = options->queue_timeout;
    out->request_timeout = options->request_timeout;
    out->step_seconds = (double)options->step_ms / 1000.0;
    out->max_tensor_bytes = (size_t)options->max_tensor_bytes;
    if (options->capture_bytes > 0) { /* of serve */
        out->capture_bytes = (size_t)options->capture_bytes;
        out->capture_max_bytes = (size_t)options->capture_max_bytes;
        out->capture_expiry = options->capture_expiry;
    }
    out->openblas = strcmp(options->gemm, "openblas") == 0;
    out->weights.use_mmap = options->mmap;
    out->weights.allow_nonfinite = options->allow_nonfinite;
    return read_normalizer(options->normalizer, out, error);
}
