/* The engine's boundary (engine.h): opens model, pool and scheduler, starts the engine thread, and turns
 * requests into sequences. Whatever runs per step is in scheduler.c and step.c. */
#include "engine/engine.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "engine/attention/codes.h"
#include "engine/fits.h"
#include "engine/sweeps.h"
#include "engine/graph/capture.h"
#include "engine/pool_size.h"
#include "engine/scheduler.h"
#include "models/adapter.h"

#define MAX_SEQUENCES 1024u
#define MAX_QUEUE (1u << 20)
#define MAX_WHOLE 16384u /* tokens of a prompt that is run layer by layer */

struct sp_engine {
    sp_engine_options options;
    sp_device *device;
    sp_model *model;
    sp_scheduler *scheduler;
    sp_captures *captures;
    sp_engine_info info;
    sp_sequence_host host;
    sp_chat chat;
    sp_attention pattern;
    char *attention;           /* JSON of the default attention, or NULL */
    char **model_ids;          /* (1 + adapters) owned, as in info */
    const char **fingerprints; /* (1 + adapters) */
    sp_fits fits;
    sp_sweeps sweeps;
    pthread_t thread;
    bool started;
};

void sp_engine_options_init(sp_engine_options *options)
{
    *options = (sp_engine_options){.kv_type = SP_BF16,
                                   .attend_scratch = (size_t)64 << 20,
                                   .max_sequences = 16,
                                   .max_queue = 64,
                                   .queue_timeout = 60,
                                   .request_timeout = 600,
                                   .step_seconds = 0.02,
                                   .max_tensor_bytes = (size_t)64 << 20,
                                   .capture_bytes = (size_t)512 << 20,
                                   .capture_max_bytes = (size_t)256 << 20,
                                   .capture_expiry = 600};
}

static sp_status check_options(const sp_engine_options *options, sp_error *error)
{
    if (options->kv_type != SP_BF16 && options->kv_type != SP_F32)
        return sp_fail_param(error, SP_USAGE, "kv", "--kv must be bf16 or f32");
    if (options->max_sequences < 1 || options->max_sequences > MAX_SEQUENCES)
        return sp_fail_param(error, SP_USAGE, "max-sequences", "--max-sequences must be from 1 to %u",
                             MAX_SEQUENCES);
    if (options->max_queue > MAX_QUEUE)
        return sp_fail_param(error, SP_USAGE, "max-queue", "--max-queue must be at most %u", MAX_QUEUE);
    return SP_OK;
}

static sp_status open_model(sp_engine *engine, sp_error *error)
{
    const sp_engine_options *options = &engine->options;
    sp_device_options device = {.n_threads = options->n_threads,
                                .attend_scratch = options->attend_scratch,
                                .openblas = options->openblas};
    sp_status status = sp_device_open("cpu", &device, &engine->device, error);
    if (status != SP_OK) return status;
    bool beside = sp_fits_wanted(options->model_path, options->fit, options->adapters, options->n_adapters) ||
                  sp_sweeps_wanted(options->model_path, options->adapters, options->n_adapters);
    sp_model_options model = {.weights = options->weights,
                              .weights_as = options->weights_as,
                              .exact = options->kv_type == SP_F32,
                              .fingerprint = options->fingerprint || beside,
                              .adapters = options->adapters,
                              .n_adapters = options->n_adapters,
                              .progress = options->progress,
                              .progress_context = options->progress_context};
    status = sp_model_open(options->model_path, engine->device, &model, &engine->model, error);
    if (status == SP_OK && beside)
        status = sp_fits_open(engine->model, options->model_path, options->fit, options->adapters,
                              options->n_adapters, &engine->fits, error);
    if (status == SP_OK && beside)
        status = sp_sweeps_open(engine->model, options->model_path, options->adapters, options->n_adapters,
                                &engine->sweeps, error);
    engine->host.sweeps = engine->sweeps.of;
    engine->host.n_sweeps = engine->sweeps.n;
    engine->host.fits = engine->fits.of;
    engine->host.n_fits = engine->fits.n;
    return status;
}

/* --- what requests are held against --- */

/* The default attention and what the model was trained with; both are parsed now so that requests cannot fail
 * on them. */
static sp_status open_attention(sp_engine *engine, sp_error *error)
{
    const sp_engine_options *options = &engine->options;
    const sp_model *model = engine->model;
    sp_sequence_host *host = &engine->host;
    sp_attention parsed;
    sp_error why;
    host->share_prefixes = options->share_prefixes;
    host->coarse_times = options->coarse_times;
    host->attention_host = (sp_attention_host){.n_heads = model->hparams.n_heads,
                                               .n_layers = model->hparams.n_layers,
                                               .model_normalizer = model->hparams.normalizer,
                                               .allow_measure = true,
                                               .allow_capture = true};
    const char *pattern = model->attention_pattern;
    if (pattern) {
        sp_status status =
            sp_attention_parse(pattern, strlen(pattern), &host->attention_host, &engine->pattern, &why);
        if (status != SP_OK)
            return sp_fail_param(error, status == SP_NO_MEMORY ? status : SP_DATA, "attention_pattern",
                                 "%s: config.json: attention_pattern: %s", model->name, why.message);
        host->pattern = &engine->pattern;
    }
    if (options->override_normalizer) {
        host->attention_host.model_normalizer = options->normalizer;
        host->override_normalizer = true;
        host->note = "the server's --normalizer replaces the model's own";
    }
    const char *text = options->attention ? options->attention : pattern;
    if (!text) return SP_OK;
    sp_status status = sp_attention_parse(text, strlen(text), &host->attention_host, &parsed, &why);
    if (status != SP_OK)
        return sp_fail_param(error, status == SP_NO_MEMORY ? status : SP_USAGE, "attention",
                             "--attention: %s", why.message);
    engine->attention = sp_copy_text(text, strlen(text));
    if (!engine->attention) return sp_fail(error, SP_NO_MEMORY, "no memory for the default attention");
    host->attention = engine->attention;
    return SP_OK;
}

/* What requests may ask for: BASE and BASE:NAME. */
static sp_status name_models(sp_engine *engine, sp_error *error)
{
    const sp_model *model = engine->model;
    size_t base = strlen(model->name), n = 1 + model->n_adapters;
    engine->model_ids = sp_alloc_zero(n, sizeof(char *));
    engine->fingerprints = sp_alloc_zero(n, sizeof(char *));
    for (size_t i = 0; engine->fingerprints && i < n; i++)
        engine->fingerprints[i] = i > 0 ? model->adapters[i - 1]->fingerprint : model->fingerprint;
    for (size_t i = 0; engine->model_ids && i < n; i++) {
        const char *name = i > 0 ? model->adapters[i - 1]->name : "";
        size_t size = strlen(name);
        char *id = engine->model_ids[i] = sp_alloc_zero(base + size + 2, 1);
        if (!id) return sp_fail(error, SP_NO_MEMORY, "no memory for the names of models");
        memcpy(id, model->name, base);
        if (i > 0) id[base] = ':';
        if (i > 0) memcpy(id + base + 1, name, size);
    }
    if (!engine->model_ids || !engine->fingerprints)
        return sp_fail(error, SP_NO_MEMORY, "no memory for the names of models");
    engine->info.model_ids = (const char *const *)engine->model_ids;
    engine->info.fingerprints = engine->fingerprints;
    engine->info.n_adapters = model->n_adapters;
    return SP_OK;
}

/* Bytes that one token may release: each of its bytes, and those held back, may become U+FFFD. */
static size_t longest_piece(const sp_tokenizer *tokenizer)
{
    size_t longest = 0;
    for (int32_t id = 0; id < sp_tokenizer_size(tokenizer); id++) {
        size_t size;
        sp_tokenizer_bytes(tokenizer, id, &size);
        if (size > longest) longest = size;
    }
    return 3 * longest + 32;
}

static void wake_engine(void *context)
{
    const sp_engine *engine = context;
    if (engine->scheduler) sp_scheduler_wake(engine->scheduler);
}

/* Bytes of one layer's part of a page's side. */
static size_t side_bytes(const sp_engine *engine)
{
    return sp_codes_page_bytes(engine->fits.of, engine->fits.n, engine->model->hparams.n_heads,
                               engine->options.kv_type);
}

static sp_status open_captures(sp_engine *engine, sp_error *error)
{
    const sp_engine_options *options = &engine->options;
    sp_captures_options captures = {.model = engine->model,
                                    .model_ids = engine->info.model_ids,
                                    .fingerprints = engine->info.fingerprints,
                                    .kv_type = options->kv_type,
                                    .page_bytes = engine->info.kv_bytes / engine->info.kv_pages,
                                    .side_bytes = side_bytes(engine),
                                    .max_bytes = options->capture_bytes,
                                    .max_capture_bytes = options->capture_max_bytes,
                                    .expiry = options->capture_expiry,
                                    .wake = wake_engine,
                                    .wake_context = engine};
    sp_status status = sp_captures_open(&captures, &engine->captures, error);
    engine->host.captures = engine->captures;
    return status;
}

static sp_status open_scheduler(sp_engine *engine, sp_error *error)
{
    const sp_engine_options *options = &engine->options;
    sp_status status = sp_pool_size(options, engine->model, side_bytes(engine), &engine->info, error);
    for (size_t i = 0; i < engine->fits.n; i++)
        if (engine->fits.of[i])
            engine->host.max_whole = engine->info.context < MAX_WHOLE ? engine->info.context : MAX_WHOLE;
    if (status == SP_OK) status = open_captures(engine, error);
    if (status != SP_OK) return status;
    sp_scheduler_options scheduler = {.model = engine->model,
                                      .kv_type = options->kv_type,
                                      .context = engine->info.context,
                                      .n_pages = (uint32_t)engine->info.kv_pages,
                                      .max_sequences = options->max_sequences,
                                      .max_queue = options->max_queue,
                                      .queue_timeout = options->queue_timeout,
                                      .request_timeout = options->request_timeout,
                                      .step_seconds = options->step_seconds,
                                      .max_whole = engine->host.max_whole,
                                      .fits = engine->fits.of,
                                      .n_fits = engine->fits.n,
                                      .captures = engine->captures};
    scheduler.poison = options->poison;
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__)
    scheduler.poison = true;
#endif
    return sp_scheduler_open(&scheduler, &engine->scheduler, error);
}

static void fill_info(sp_engine *engine)
{
    sp_engine_info *info = &engine->info;
    const sp_model *model = engine->model;
    info->model_name = model->name;
    info->arch = model->arch->name;
    info->hparams = model->hparams;
    info->weight_bytes = model->weight_bytes;
    info->device = engine->device->kind->name;
    info->level = engine->device->level;
    info->n_threads = sp_threads_count(engine->device->threads);
    info->kv_type = engine->options.kv_type;
    info->batch_invariant = engine->device->batch_invariant;
    info->has_fit = engine->host.max_whole > 0;
    info->fits = engine->fits.of;
    info->tokenizer = model->tokenizer;
    info->chat = &engine->chat;
    info->chat_template = model->chat_template;
    info->n_params = model->n_params;
    info->created = (int64_t)time(NULL);
    engine->host.model = model;
    engine->host.context = info->context;
    engine->host.max_piece = longest_piece(model->tokenizer);
    engine->host.wake = sp_scheduler_wake;
    engine->host.wake_context = engine->scheduler;
    /* waiting, admitted, and one that follows each of these */
    size_t inside =
        engine->options.max_queue + 2 * (size_t)SP_ADMITTED_A_PLACE * engine->options.max_sequences;
    info->scratch_bytes = sp_scheduler_scratch_bytes(engine->scheduler) + engine->device->attend_scratch +
                          inside * sp_sequence_max_bytes(&engine->host);
}

static void *run_thread(void *context)
{
    sp_scheduler_run(((sp_engine *)context)->scheduler);
    return NULL;
}

sp_status sp_engine_open(const sp_engine_options *options, sp_engine **out, sp_error *error)
{
    sp_status status = check_options(options, error);
    if (status != SP_OK) return status;
    sp_engine *engine = sp_alloc_zero(1, sizeof *engine);
    if (!engine) return sp_fail(error, SP_NO_MEMORY, "no memory for the engine");
    engine->options = *options;
    status = open_model(engine, error);
    if (status == SP_OK) status = name_models(engine, error);
    if (status == SP_OK)
        status = sp_chat_open(engine->model->chat_template, options->chat_template, engine->model->tokenizer,
                              &engine->chat, error);
    if (status == SP_OK) status = open_attention(engine, error);
    if (status == SP_OK) status = open_scheduler(engine, error);
    if (status == SP_OK) {
        fill_info(engine);
        engine->started = pthread_create(&engine->thread, NULL, run_thread, engine) == 0;
        if (!engine->started) status = sp_fail(error, SP_IO, "the engine thread could not be started");
    }
    if (status == SP_OK)
        *out = engine;
    else
        sp_engine_close(engine);
    return status;
}

void sp_engine_close(sp_engine *engine)
{
    if (!engine) return;
    if (engine->started) {
        sp_scheduler_stop(engine->scheduler);
        pthread_join(engine->thread, NULL);
    }
    sp_captures_drop_streams(engine->captures);
    sp_scheduler_close(engine->scheduler);
    sp_captures_close(engine->captures);
    for (size_t i = 0; engine->model_ids && i < 1 + engine->model->n_adapters; i++)
        sp_free(engine->model_ids[i]);
    sp_free(engine->model_ids);
    sp_free((void *)engine->fingerprints);
    sp_fits_close(&engine->fits);
    sp_sweeps_close(&engine->sweeps);
    sp_model_close(engine->model);
    sp_device_close(engine->device);
    sp_free(engine->attention);
    sp_free(engine);
}

const sp_engine_info *sp_engine_get_info(const sp_engine *engine)
{
    return &engine->info;
}

sp_status sp_engine_find_model(const sp_engine_info *info, const char *name, size_t size, uint32_t *adapter,
                               sp_error *error)
{
    for (size_t i = 0; i <= info->n_adapters; i++) {
        const char *id = info->model_ids[i];
        if (strlen(id) != size || memcmp(id, name, size) != 0) continue;
        *adapter = (uint32_t)i;
        return SP_OK;
    }
    return sp_fail_param(error, SP_NOT_FOUND, "model", "the model \"%.*s\" is not loaded",
                         size < 100 ? (int)size : 100, name);
}

/* --- requests --- */

void sp_engine_wake(sp_engine *engine)
{
    sp_scheduler_wake(engine->scheduler);
}

sp_status sp_engine_submit(sp_engine *engine, const sp_request *request, void (*notify)(void *context),
                           void *context, sp_stream **out, sp_error *error)
{
    sp_sequence *sequence;
    sp_status status = sp_sequence_open(&engine->host, request, notify, context, &sequence, error);
    if (status != SP_OK) return status;
    sp_stream *stream = sequence->stream;
    status = sp_scheduler_submit(engine->scheduler, sequence, error);
    if (status == SP_OK)
        *out = stream;
    else
        sp_sequence_close(sequence);
    return status;
}

size_t sp_engine_count_prompt(const sp_engine *engine, const sp_request *request)
{
    int32_t *ids;
    size_t n_ids = 0;
    if (sp_sequence_encode(&engine->host, request, &ids, &n_ids, NULL) != SP_OK) return 0;
    sp_free(ids);
    return n_ids;
}

sp_status sp_engine_check(const sp_engine *engine, const sp_request *request, int32_t **ids, size_t *n_ids,
                          sp_error *error)
{
    return sp_sequence_check(&engine->host, request, ids, n_ids, error);
}

typedef struct apply_call {
    sp_apply_job *job;
    sp_error *error;
    sp_status status;
    bool done;
} apply_call;

static void run_apply(void *context)
{
    apply_call *call = context;
    call->status = sp_apply_step(call->job, &call->done, call->error);
}

sp_status sp_engine_apply(sp_engine *engine, const void *in, size_t in_size, const sp_apply_options *options,
                          sp_buffer *out, sp_error *error)
{
    sp_apply_options bounded = *options;
    if (bounded.max_bytes == 0) bounded.max_bytes = engine->options.max_tensor_bytes;
    bounded.step_seconds = engine->options.step_seconds;
    bounded.coarse_times = engine->options.coarse_times;
    if (!bounded.fit && bounded.adapter < engine->fits.n) bounded.fit = engine->fits.of[bounded.adapter];
    apply_call call = {.error = error};
    sp_status status = sp_apply_open(engine->device, "body", in, in_size, &bounded, &call.job, error);
    while (status == SP_OK && !call.done) {
        status = sp_scheduler_call(engine->scheduler, run_apply, &call, error);
        if (status == SP_OK) status = call.status;
    }
    if (status == SP_OK) status = sp_apply_finish(call.job, out, error);
    sp_apply_close(call.job);
    return status;
}

/* --- attention graphs --- */

sp_captures *sp_engine_captures(sp_engine *engine)
{
    return engine->captures;
}

static sp_status run_between_steps(void *context, void (*call)(void *context), void *call_context,
                                   sp_error *error)
{
    const sp_engine *engine = context;
    return sp_scheduler_call(engine->scheduler, call, call_context, error);
}

void sp_engine_graph_runner(sp_engine *engine, bool (*stop)(void *context), void *stop_context,
                            sp_graph_runner *out)
{
    *out = (sp_graph_runner){.run = run_between_steps,
                             .engine = engine,
                             .device = engine->device,
                             .kv = sp_scheduler_kv(engine->scheduler),
                             .step_seconds = engine->options.step_seconds,
                             .stop = stop,
                             .stop_context = stop_context};
}

void sp_engine_stats(sp_engine *engine, sp_stats *out)
{
    sp_scheduler_stats(engine->scheduler, out);
}
