/* `sparsed generate`: one request to an engine of its own, text to standard output as it comes; with --chat a
 * chat (generate_chat.c).
 *
 * Owner: run_request owns the stream. Ctrl-C sets a flag that the reading loop sees within a tenth of a
 * second; the text so far stays and the summary is written. Tests: tests/http/test_command.py */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/json.h"
#include "server/generate.h"

#define PROMPT_MAX_BYTES (64u << 20)
#define CHAT_CONTEXT 8192u /* tokens of a chat beside its first message */
#define TEXT_TOKENS 128u   /* of an answer where nobody says */
#define CHAT_TOKENS 4096u  /* the same of a chat, as the server's --max-output-tokens */

atomic_bool sp_generate_interrupted, sp_generate_ended;

static void on_signal(int number)
{
    sp_generate_interrupted = true;
    if (number == SIGTERM) sp_generate_ended = true;
}

static sp_status read_prompt(const sp_options *options, sp_buffer *prompt, sp_error *error)
{
    char block[65536];
    if (!options->prompt) return SP_OK;
    if (strcmp(options->prompt, "-") != 0) {
        sp_buffer_text(prompt, options->prompt);
    } else {
        for (size_t n; (n = fread(block, 1, sizeof block, stdin)) > 0;) sp_buffer_append(prompt, block, n);
        if (ferror(stdin)) return sp_fail(error, SP_IO, "cannot read the prompt from standard input");
    }
    if (sp_buffer_check(prompt, error)) return error->status;
    if (prompt->failed)
        return sp_fail_param(error, SP_USAGE, "prompt", "--prompt: longer than %u bytes", PROMPT_MAX_BYTES);
    return SP_OK;
}

static double rate(double count, double seconds)
{
    return seconds > 0 ? count / seconds : 0;
}

void sp_generate_summary(const sp_usage *usage, const char *report, size_t report_size)
{
    sp_report_summary sum;
    sp_report_read(report, report_size, &sum);
    fprintf(stderr,
            "sparsed: prompt %u tokens in %.2f s (%.0f tokens/s), wrote %u tokens in %.2f s (%.1f tokens/s); "
            "attention %s, normalizer %s, %.0f edges, density %.3f\n",
            usage->prompt_tokens, usage->prefill_seconds, rate(usage->prompt_tokens, usage->prefill_seconds),
            usage->completion_tokens, usage->decode_seconds,
            rate(usage->completion_tokens, usage->decode_seconds), sum.backend, sum.normalizer, sum.edges,
            rate(sum.edges, sum.pairs));
}

static sp_status write_json(const sp_buffer *text, const sp_event *done, sp_error *error)
{
    sp_buffer out;
    sp_json_writer json;
    sp_buffer_init(&out, SIZE_MAX / 2);
    sp_json_writer_init(&json, &out);
    sp_json_open(&json, '{');
    sp_json_key(&json, "text");
    sp_json_string(&json, text->data, text->size);
    sp_json_key(&json, "finish_reason");
    sp_json_cstring(&json, done->finish == SP_FINISH_STOP ? "stop" : "length");
    sp_json_key(&json, "usage");
    sp_json_open(&json, '{');
    sp_json_key(&json, "prompt_tokens");
    sp_json_uint(&json, done->usage.prompt_tokens);
    sp_json_key(&json, "completion_tokens");
    sp_json_uint(&json, done->usage.completion_tokens);
    sp_json_close(&json, '}');
    sp_json_key(&json, "timings");
    sp_json_open(&json, '{');
    sp_json_key(&json, "prefill_seconds");
    sp_json_number(&json, done->usage.prefill_seconds);
    sp_json_key(&json, "decode_seconds");
    sp_json_number(&json, done->usage.decode_seconds);
    sp_json_close(&json, '}');
    sp_json_key(&json, "attention_report");
    sp_json_raw(&json, done->report, done->report_size);
    sp_json_close(&json, '}');
    sp_buffer_text(&out, "\n");
    sp_status status = sp_command_print(&out, error);
    sp_buffer_fini(&out);
    return status;
}

/* Text of one event. False when nobody reads it any more. */
static bool take_text(const sp_options *options, sp_buffer *kept, const sp_event *event)
{
    if (!event->text_size) return true;
    if (kept) sp_buffer_append(kept, event->text, event->text_size);
    if (options->json && !options->chat) return true;
    return fwrite(event->text, 1, event->text_size, stdout) == event->text_size && fflush(stdout) == 0;
}

void sp_generate_read(const sp_options *options, sp_stream *stream, sp_buffer *kept, sp_event *event)
{
    sp_progress progress;
    sp_progress_init(&progress, "prefill");
    bool cancelled = false;
    for (;;) {
        sp_stream_wait(stream, 0.1, event);
        bool readable = true;
        if (event->type == SP_EVENT_PROGRESS && event->total)
            sp_progress_show(&progress, (double)event->done / event->total);
        if (event->type == SP_EVENT_TOKEN || event->type == SP_EVENT_DONE) {
            sp_progress_clear(&progress);
            readable = take_text(options, kept, event);
        }
        if (event->type == SP_EVENT_DONE || event->type == SP_EVENT_ERROR) break;
        if ((sp_generate_interrupted || !readable) && !cancelled) {
            cancelled = true;
            sp_stream_cancel(stream);
        }
    }
    sp_progress_clear(&progress);
    if (!kept || !kept->failed || event->type != SP_EVENT_DONE) return;
    event->type = SP_EVENT_ERROR;
    if (sp_buffer_check(kept, &event->error) == SP_OK)
        (void)sp_fail(&event->error, SP_INTERNAL, "the text is longer than %zu bytes", kept->max_bytes);
}

/* --- the request --- */

/* "ID" or "ID=NUMBER", up to a comma. */
static bool read_entry(const char **text, int32_t *id, double *value)
{
    char *end;
    long number = strtol(*text, &end, 10);
    if (end == *text || number < 0 || number > INT32_MAX) return false;
    *id = (int32_t)number;
    if (value) {
        if (*end != '=') return false;
        const char *begin = end + 1;
        *value = strtod(begin, &end);
        if (end == begin || !(*value >= -100 && *value <= 100)) return false;
    }
    if (*end != ',' && *end != 0) return false;
    *text = *end ? end + 1 : end;
    return true;
}

static sp_status read_biases(const char *text, sp_arena *arena, sp_request *request, sp_error *error)
{
    sp_token_bias *biases = sp_arena_alloc(arena, SP_MAX_BIASES, sizeof *biases);
    bool good = true;
    if (!biases) return sp_fail(error, SP_NO_MEMORY, "no memory for --logit-bias");
    while (good && *text && request->n_biases < SP_MAX_BIASES) {
        double value = 0;
        sp_token_bias *bias = &biases[request->n_biases++];
        good = read_entry(&text, &bias->token, &value);
        bias->value = (float)value;
    }
    request->biases = biases;
    if (good && !*text) return SP_OK;
    return sp_fail_param(error, SP_USAGE, "logit-bias",
                         "--logit-bias takes up to %d of ID=X, -100 to 100, between commas", SP_MAX_BIASES);
}

static sp_status read_stop_ids(const char *text, sp_arena *arena, sp_request *request, sp_error *error)
{
    int32_t *ids = sp_arena_alloc(arena, SP_MAX_STOP_IDS, sizeof *ids);
    bool good = true;
    if (!ids) return sp_fail(error, SP_NO_MEMORY, "no memory for --stop-token-ids");
    while (good && *text && request->n_stop_ids < SP_MAX_STOP_IDS)
        good = read_entry(&text, &ids[request->n_stop_ids++], NULL);
    request->stop_ids = ids;
    if (good && !*text) return SP_OK;
    return sp_fail_param(error, SP_USAGE, "stop-token-ids",
                         "--stop-token-ids takes up to %d ids between commas", SP_MAX_STOP_IDS);
}

sp_status sp_generate_request(const sp_options *options, sp_arena *arena, sp_request *request,
                              sp_error *error)
{
    sp_request_init(request);
    request->adapter = (uint32_t)options->adapters.n;
    request->share_pages = true; /* the turns of a conversation */
    request->max_tokens = (uint32_t)options->max_tokens;
    if (options->max_tokens < 0) request->max_tokens = options->chat ? CHAT_TOKENS : TEXT_TOKENS;
    request->min_tokens = (uint32_t)options->min_tokens;
    request->ignore_eos = options->ignore_eos;
    request->sampling = (sp_sampling){.temperature = options->temperature,
                                      .top_p = options->top_p,
                                      .top_k = options->top_k,
                                      .min_p = options->min_p,
                                      .seed = options->seed,
                                      .presence_penalty = options->presence_penalty,
                                      .frequency_penalty = options->frequency_penalty,
                                      .repetition_penalty = options->repetition_penalty};
    if (options->stop) {
        request->stops[0] = options->stop;
        request->stop_sizes[0] = strlen(options->stop);
        request->n_stops = 1;
    }
    sp_status status = SP_OK;
    if (options->logit_bias) status = read_biases(options->logit_bias, arena, request, error);
    if (!status && options->stop_token_ids)
        status = read_stop_ids(options->stop_token_ids, arena, request, error);
    return status;
}

static int run_request(sp_engine *engine, const sp_options *options, const sp_request *wanted,
                       const sp_buffer *prompt)
{
    sp_error error = {0};
    sp_stream *stream = NULL;
    sp_request request = *wanted;
    request.prompt = prompt->size ? prompt->data : "";
    request.prompt_size = prompt->size;
    if (sp_engine_submit(engine, &request, NULL, NULL, &stream, &error)) return sp_command_fail(&error);
    sp_buffer kept;
    sp_event event;
    int code = SP_EXIT_OK;
    sp_buffer_init(&kept, SIZE_MAX / 2);
    sp_generate_read(options, stream, options->json ? &kept : NULL, &event);
    if (!options->json) puts("");
    if (event.type == SP_EVENT_DONE) {
        if (options->json && write_json(&kept, &event, &error)) code = sp_command_fail(&error);
        sp_generate_summary(&event.usage, event.report, event.report_size);
    } else if (event.error.status == SP_CANCELLED)
        fputs("sparsed: stopped\n", stderr);
    else
        code = sp_command_fail(&event.error);
    sp_buffer_fini(&kept);
    sp_stream_free(stream);
    return code;
}

/* No more than this prompt and its text can take: a model of long context would else fill half of the memory
 * first. A normalizer may lengthen a text, hence four tokens a byte. */
static uint32_t tokens_at_most(const sp_request *request, size_t prompt_bytes)
{
    return (uint32_t)(4 * prompt_bytes + request->max_tokens + 64);
}

int sp_command_generate(const sp_options *options)
{
    sp_error error = {0};
    sp_engine *engine = NULL;
    sp_engine_options engine_options;
    if (sp_alone_options(options, &engine_options, &error)) return sp_command_fail(&error);
    sp_buffer prompt;
    sp_buffer_init(&prompt, PROMPT_MAX_BYTES);
    sp_request request;
    sp_arena arena;
    sp_arena_init(&arena, (size_t)1 << 16);
    sp_status status = sp_generate_request(options, &arena, &request, &error);
    if (!status) status = read_prompt(options, &prompt, &error);
    engine_options.context_enough = tokens_at_most(&request, prompt.size);
    if (options->chat) engine_options.context_enough += CHAT_CONTEXT;
    if (!status) status = sp_alone_open(&engine_options, &engine, &error);
    int code;
    if (status) {
        code = sp_command_fail(&error);
    } else {
        struct sigaction action = {.sa_handler = on_signal};
        sigemptyset(&action.sa_mask);
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        signal(SIGPIPE, SIG_IGN);
        code = options->chat ? sp_generate_chat(engine, options, &request, &prompt)
                             : run_request(engine, options, &request, &prompt);
        sp_engine_close(engine);
    }
    sp_buffer_fini(&prompt);
    sp_arena_fini(&arena);
    return code;
}
