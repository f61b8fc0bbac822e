/* From a request to a sequence (sequence.h): the prompt becomes ids, lengths are checked, what `attention`
 * asks for becomes what runs, and everything is allocated. sp_sequence_check does as much of it without a
 * sequence. Tests: tests/unit/engine/test_scheduler.c, tests/golden/test_austen.c,
 * tests/http/test_completions.py */
#include "engine/sequence.h"

#include "engine/graph/capture.h"
#include "engine/pages.h"
#include "models/adapter.h"

#include <math.h>
#include <string.h>

void sp_request_init(sp_request *request)
{
    *request = (sp_request){.max_tokens = 16, .sampling = {.temperature = 1, .top_p = 1}};
}

/* --- prompts --- */

static sp_status encode_text(const sp_sequence_host *host, const sp_request *request, sp_tokens *tokens,
                             sp_error *error)
{
    const char *text = request->prompt ? request->prompt : "";
    sp_status status = sp_tokenizer_encode(host->model->tokenizer, text, request->prompt_size,
                                           request->plain_prompt ? 0 : SP_ENCODE_ADD, tokens, error);
    if (status == SP_INVALID && error && !error->param[0]) memcpy(error->param, "prompt", sizeof "prompt");
    return status;
}

/* Copies n ids into fresh memory with room for one more. */
static sp_status check_ids(const sp_sequence_host *host, const sp_request *request, const sp_tokens *tokens,
                           int32_t **ids, size_t *n_ids, sp_error *error)
{
    bool given = request->ids != NULL;
    size_t n = given ? request->n_ids : tokens->count;
    int32_t *out = sp_alloc(n + 1, sizeof *out);
    if (!out) return sp_fail(error, SP_NO_MEMORY, "no memory for a prompt of %zu tokens", n);
    for (size_t i = 0; i < n; i++) {
        out[i] = given ? request->ids[i] : tokens->data[i].id;
        if (out[i] >= 0 && (uint32_t)out[i] < host->model->hparams.vocab) continue;
        sp_status status =
            sp_fail_param(error, SP_INVALID, "prompt", "token id %d is not below the vocabulary of %u",
                          out[i], host->model->hparams.vocab);
        sp_free(out);
        return status;
    }
    if (n == 0) {
        out[n++] = host->model->hparams.bos;
        if (out[0] < 0) {
            sp_free(out);
            return sp_fail_param(error, SP_INVALID, "prompt",
                                 "the prompt is empty and the model has no token to begin with");
        }
    }
    *ids = out;
    *n_ids = n;
    return SP_OK;
}

sp_status sp_sequence_encode(const sp_sequence_host *host, const sp_request *request, int32_t **ids,
                             size_t *n_ids, sp_error *error)
{
    sp_tokens tokens = {0};
    sp_status status = request->ids ? SP_OK : encode_text(host, request, &tokens, error);
    if (status == SP_OK) status = check_ids(host, request, &tokens, ids, n_ids, error);
    sp_tokens_fini(&tokens);
    return status;
}

/* --- opening --- */

static sp_status check_lengths(const sp_sequence_host *host, const sp_request *request, size_t n_prompt,
                               sp_error *error)
{
    if (n_prompt > host->context)
        return sp_fail_param(error, SP_TOO_LONG, "prompt", "the prompt has %zu tokens, the context holds %u",
                             n_prompt, host->context);
    if (request->max_tokens > host->context - n_prompt)
        return sp_fail_param(error, SP_INVALID, "max_tokens",
                             "the prompt's %zu tokens and max_tokens %u exceed the context of %u", n_prompt,
                             request->max_tokens, host->context);
    if (request->logprobs > SP_MAX_LOGPROBS)
        return sp_fail_param(error, SP_INVALID, "logprobs", "logprobs must be from 0 to %d", SP_MAX_LOGPROBS);
    if (request->min_tokens > request->max_tokens)
        return sp_fail_param(error, SP_INVALID, "min_tokens", "min_tokens %u exceeds max_tokens %u",
                             request->min_tokens, request->max_tokens);
    if (request->n_stop_ids > SP_MAX_STOP_IDS)
        return sp_fail_param(error, SP_INVALID, "stop_token_ids", "stop_token_ids takes at most %d ids",
                             SP_MAX_STOP_IDS);
    return sp_sampling_check(&request->sampling, error);
}

static bool same_attention(const sp_attention *a, const sp_attention *b)
{
    if (a->backend != b->backend || a->seed != b->seed || a->normalizer.alpha != b->normalizer.alpha)
        return false;
    if (a->decode_backend || (a->backend->has_heads && a->heads != b->heads)) return false;
    for (size_t i = 0; i < a->backend->n_params; i++)
        if (a->params[i] != b->params[i] && !(isnan(a->params[i]) && isnan(b->params[i]))) return false;
    return true;
}

/* The adapter a request asks for says what it was trained with; NULL: the model does. */
static const sp_normalizer *adapter_normalizer(const sp_model *model, uint32_t adapter)
{
    const sp_adapter *chosen = adapter > 0 ? model->adapters[adapter - 1] : NULL;
    return chosen && chosen->has_normalizer ? &chosen->normalizer : NULL;
}

/* Whether the attention is the one that the weights, those of the adapter included, were trained with. */
static bool is_trained(const sp_sequence *s, const sp_normalizer *adapted)
{
    const sp_sequence_host *host = s->host;
    sp_normalizer own = adapted ? *adapted : host->model->hparams.normalizer;
    if (!host->pattern)
        return strcmp(s->attention.backend->name, "dense") == 0 && s->attention.normalizer.alpha == own.alpha;
    sp_attention pattern = *host->pattern;
    if (adapted && pattern.normalizer_is_model) pattern.normalizer = own;
    return same_attention(&s->attention, &pattern);
}

static const sp_fit *fit_of(const sp_sequence *s, uint32_t adapter)
{
    return adapter < s->host->n_fits ? s->host->fits[adapter] : NULL;
}

/* What the request asks for, and what "model" means to it. */
static sp_status parse_attention(sp_sequence *s, const sp_request *request, sp_attention_host *attention_host,
                                 sp_error *error)
{
    const sp_sequence_host *host = s->host;
    if (request->adapter > host->model->n_adapters)
        return sp_fail_param(error, SP_INVALID, "model", "there is no adapter %u",
                             (unsigned)request->adapter);
    const sp_normalizer *adapted = adapter_normalizer(host->model, request->adapter);
    *attention_host = host->attention_host;
    if (adapted && !host->override_normalizer) attention_host->model_normalizer = *adapted;
    attention_host->generates = request->max_tokens > 0;
    const char *text = request->attention ? request->attention : host->attention;
    size_t size = request->attention ? request->attention_size : text ? strlen(text) : 0;
    return sp_attention_parse(text, size, attention_host, &s->attention, error);
}

/* What will run: auto's choice, and what depends on the fit. */
static sp_status resolve_attention(sp_sequence *s, const sp_request *request,
                                   const sp_attention_host *attention_host, size_t n_prompt, sp_error *error)
{
    const sp_sequence_host *host = s->host;
    const sp_normalizer *adapted = adapter_normalizer(host->model, request->adapter);
    const sp_auto_request wanted = {
        .sweep = request->adapter < host->n_sweeps ? host->sweeps[request->adapter] : NULL,
        .host = attention_host,
        .fit = fit_of(s, request->adapter),
        .n_layers = host->model->hparams.n_layers,
        .n_prompt = (uint32_t)n_prompt,
        .n_new = request->max_tokens,
        .measured = adapted ? *adapted : host->model->hparams.normalizer,
        .device = host->model->device->kind->name};
    sp_status status = sp_attention_choose(&s->attention, &wanted, error);
    if (status == SP_OK)
        status = sp_attention_resolve(&s->attention, wanted.fit, 0, wanted.n_layers, SP_ATTEND_SELF, error);
    if (status != SP_OK) return status;
    s->whole = sp_attention_needs_whole(&s->attention);
    s->decoding = sp_attention_decoding(&s->attention);
    if (s->whole && !host->max_whole)
        return sp_fail_param(error, SP_INVALID, "attention",
                             "%s with these parameters needs the whole text, which is served where a fit is "
                             "loaded",
                             s->attention.backend->name);
    if (s->whole && n_prompt > host->max_whole)
        return sp_fail_param(error, SP_INVALID, "attention",
                             "%s needs the whole text at once: at most %u tokens, the prompt has %zu",
                             s->attention.backend->name, (unsigned)host->max_whole, n_prompt);
    if (s->attention.capture && (!request->may_capture || !host->captures))
        return sp_fail_param(error, SP_INVALID, "attention.capture",
                             "attention.capture is for generated text; POST /v1/attention/captures takes an "
                             "input without generating");
    s->adapter = request->adapter;
    s->trained = is_trained(s, adapted);
    if (host->note) sp_attention_note(&s->attention, "%s", host->note);
    return SP_OK;
}

/* All memory of the sequence that does not depend on its stream. */
static sp_status allocate(sp_sequence *s, const sp_request *request, const int32_t *ids, size_t n_ids,
                          sp_error *error)
{
    const sp_hparams *hparams = &s->host->model->hparams;
    size_t n_tokens = n_ids + request->max_tokens;
    s->n_prompt = s->n_tokens = (uint32_t)n_ids;
    s->max_tokens = request->max_tokens;
    s->n_pages = (uint32_t)((n_tokens + SP_TILE - 1) / SP_TILE);
    s->tokens = sp_alloc(n_tokens, sizeof *s->tokens);
    s->pages = sp_alloc(s->n_pages, sizeof *s->pages);
    bool enough = s->tokens && s->pages;
    if (enough) memcpy(s->tokens, ids, n_ids * sizeof *ids);
    if (s->attention.measure) {
        s->measures = sp_alloc_zero((size_t)hparams->n_layers * hparams->n_heads, sizeof *s->measures);
        enough = enough && s->measures;
        sp_status status = sp_clusters_open(&s->attention, fit_of(s, request->adapter), hparams->n_layers,
                                            hparams->n_heads, &s->clusters, error);
        if (status != SP_OK) return status;
    }
    if (request->prompt_logprobs) {
        s->scores_prompt = true;
        s->prompt_logprobs = sp_alloc(n_ids, sizeof *s->prompt_logprobs);
        if (s->prompt_logprobs) s->prompt_logprobs[0] = NAN;
        enough = enough && s->prompt_logprobs;
    }
    if (request->prompt_logprobs && s->n_top > 0) {
        s->prompt_top = sp_alloc(n_ids * s->n_top, sizeof *s->prompt_top);
        for (uint32_t i = 0; s->prompt_top && i < s->n_top; i++)
            s->prompt_top[i] = (sp_token_logprob){.token = -1};
        enough = enough && s->prompt_top;
    }
    if (request->pooling != SP_POOLING_NONE) {
        s->pooled = sp_alloc_zero(hparams->hidden, sizeof *s->pooled);
        s->embedding = sp_alloc(hparams->hidden, sizeof *s->embedding);
        enough = enough && s->pooled && s->embedding;
    }
    if (request->prompt_logits) {
        s->prompt_logits = sp_alloc(hparams->vocab, sizeof *s->prompt_logits);
        enough = enough && s->prompt_logits;
    }
    return enough ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for a request of %zu tokens", n_tokens);
}

/* Numbers of a bit set below n, rising; returns how many. */
static uint32_t list_bits(const uint64_t *set, uint32_t n, uint32_t *out)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n && i < SP_MAX_CAPTURED; i++)
        if (set[i / 64] >> (i % 64) & 1) out[count++] = i;
    return count;
}

/* What is kept beside the run: as a capturing request says, or as `attention.capture` does. */
static sp_status open_capture(sp_sequence *s, const sp_request *request, sp_error *error)
{
    const sp_hparams *hparams = &s->host->model->hparams;
    uint32_t layers[SP_MAX_CAPTURED], heads[SP_MAX_CAPTURED];
    sp_capture_spec spec = {.owner = request->owner};
    if (!request->capture && !s->attention.capture) return SP_OK;
    if (!s->host->captures) return sp_fail(error, SP_UNSUPPORTED, "captures are not taken here");
    if (request->capture) spec = *request->capture;
    if (!request->capture && s->attention.some_layers) {
        spec.layers = layers;
        spec.n_layers = list_bits(s->attention.layers, hparams->n_layers, layers);
    }
    if (!request->capture && s->attention.some_heads) {
        spec.heads = heads;
        spec.n_heads = list_bits(s->attention.heads_kept, hparams->n_heads, heads);
    }
    return sp_capture_open(s->host->captures, &spec, &s->attention, fit_of(s, s->adapter), s->adapter,
                           s->tokens, s->n_prompt, s->n_prompt + s->max_tokens, &s->capture, error);
}

static void note_length(sp_sequence *s)
{
    char note[128];
    sp_rope_note(s->host->model->rope, sp_sequence_length(s), note, sizeof note);
    if (note[0]) sp_attention_note(&s->attention, "%s", note);
    const sp_fit *fit = fit_of(s, s->adapter);
    bool fitted = fit && (s->attention.backend->caps | s->decoding.backend->caps) & SP_CAP_NEEDS_FIT;
    if (fitted && fit->length && sp_sequence_length(s) > fit->length)
        sp_attention_note(&s->attention, "%u tokens are beyond the %u that the fit was made on",
                          (unsigned)sp_sequence_length(s), (unsigned)fit->length);
}

static sp_status open_output(sp_sequence *s, const sp_request *request, void (*notify)(void *context),
                             void *context, sp_error *error)
{
    const sp_sequence_host *host = s->host;
    sp_status status = sp_stops_open(&s->stops, request->stops, request->stop_sizes, request->n_stops,
                                     host->max_piece, error);
    if (status != SP_OK) return status;
    sp_decoder_init(&s->decoder, host->model->tokenizer, true);
    for (uint32_t i = 0; i < s->n_prompt; i++) /* a completion goes on from the prompt's text, if any */
        if (!sp_tokenizer_is_special(host->model->tokenizer, s->tokens[i])) {
            sp_decoder_resume(&s->decoder);
            break;
        }
    sp_stream_options options = {.max_piece = host->max_piece + SP_MAX_STOP_BYTES,
                                 .n_top = request->logprobs,
                                 .n_events =
                                     request->max_tokens < SP_STREAM_EVENTS ? request->max_tokens + 1 : 0,
                                 .notify = notify,
                                 .notify_context = context,
                                 .attention_id = s->capture ? sp_capture_id(s->capture) : NULL,
                                 .abandoned = request->abandoned,
                                 .wake = host->wake,
                                 .wake_context = host->wake_context};
    s->stream = sp_stream_open(&options);
    return s->stream ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for a stream");
}

/* Stop ids, and what the request does to logits. */
static sp_status open_adjust(sp_sequence *s, const sp_request *request, const int32_t *ids, size_t n_ids,
                             sp_error *error)
{
    const sp_hparams *hparams = &s->host->model->hparams;
    int32_t ends[SP_MAX_STOP_IDS + 9];
    size_t n_ends = 0;
    s->n_stop_ids = request->n_stop_ids;
    for (size_t i = 0; i < s->n_stop_ids; i++) ends[n_ends++] = s->stop_ids[i] = request->stop_ids[i];
    if (!sp_adjust_wanted(request)) return SP_OK;
    for (size_t i = 0; i < hparams->n_eos && !s->ignore_eos; i++) ends[n_ends++] = hparams->eos[i];
    if (!s->ignore_eos) ends[n_ends++] = sp_tokenizer_eos(s->host->model->tokenizer);
    return sp_adjust_open(&s->adjust, request, ids, n_ids, ends, n_ends, hparams->vocab, error);
}

static sp_status fill(sp_sequence *s, const sp_request *request, void (*notify)(void *context), void *context,
                      sp_error *error)
{
    int32_t *ids = NULL;
    size_t n_ids = 0;
    s->sampling = request->sampling;
    s->n_top = request->logprobs;
    s->ignore_eos = request->ignore_eos;
    s->min_tokens = request->min_tokens;
    s->pooling = request->pooling;
    s->follows = request->follows;
    s->spent = request->spent;
    sp_attention_host attention_host;
    sp_status status = parse_attention(s, request, &attention_host, error);
    if (status == SP_OK) status = sp_sequence_encode(s->host, request, &ids, &n_ids, error);
    if (status == SP_OK) status = check_lengths(s->host, request, n_ids, error);
    if (status == SP_OK) status = resolve_attention(s, request, &attention_host, n_ids, error);
    if (status == SP_OK) status = allocate(s, request, ids, n_ids, error);
    if (status == SP_OK) status = open_adjust(s, request, ids, n_ids, error);
    if (status == SP_OK) note_length(s);
    if (status == SP_OK) sp_pages_describe(s, request);
    if (status == SP_OK) status = open_capture(s, request, error);
    if (status == SP_OK) status = open_output(s, request, notify, context, error);
    sp_free(ids);
    return status;
}

sp_status sp_sequence_check(const sp_sequence_host *host, const sp_request *request, int32_t **ids,
                            size_t *n_ids, sp_error *error)
{
    sp_sequence *s = sp_alloc_zero(1, sizeof *s);
    if (!s) return sp_fail(error, SP_NO_MEMORY, "no memory for a request");
    s->host = host;
    *ids = NULL;
    sp_attention_host attention_host;
    sp_status status = parse_attention(s, request, &attention_host, error);
    if (status == SP_OK) status = sp_sequence_encode(host, request, ids, n_ids, error);
    if (status == SP_OK) status = check_lengths(host, request, *n_ids, error);
    if (status == SP_OK) status = resolve_attention(s, request, &attention_host, *n_ids, error);
    if (status != SP_OK) {
        sp_free(*ids);
        *ids = NULL;
    }
    sp_free(s);
    return status;
}

sp_status sp_sequence_open(const sp_sequence_host *host, const sp_request *request,
                           void (*notify)(void *context), void *notify_context, sp_sequence **out,
                           sp_error *error)
{
    sp_sequence *s = sp_alloc_zero(1, sizeof *s);
    if (!s) return sp_fail(error, SP_NO_MEMORY, "no memory for a request");
    s->host = host;
    sp_status status = fill(s, request, notify, notify_context, error);
    if (status == SP_OK)
        *out = s;
    else
        sp_sequence_close(s);
    return status;
}
