/* See score.h. */
#include "engine/evaluate/score.h"

#include <math.h>
#include <string.h>

#include "engine/sampler.h"

/* One input: its tokens with their bytes, and log p of each given those before it. */
typedef struct scored_input {
    sp_tokens tokens;
    int32_t *ids;    /* (tokens.count) */
    float *logprobs; /* (tokens.count); NaN where there is none */
} scored_input;

struct sp_scorer {
    sp_engine *engine;
    sp_score_options options;
    char *attention;
    scored_input *inputs; /* (n_inputs) */
    size_t n_inputs, n_tokens;
    size_t input, begin, window; /* the window that runs: where it begins, how many tokens it reads */
    size_t read;                 /* tokens of finished windows */
    uint32_t progress;           /* tokens of the running window that are read */
    sp_stream *stream;           /* NULL: done */
    double begun;
    bool reported;              /* the first window is done */
    sp_attention_report report; /* of the first window, with sums over all */
    sp_head_measure *measures;  /* (layers, heads) the report's, where it measures */
    sp_usage usage;
};

/* --- figures --- */

void sp_score_add(sp_score_sum *sum, double logprob, size_t bytes)
{
    sum->n_scored++;
    sum->bytes += bytes;
    sum->nll -= logprob;
}

double sp_score_perplexity(const sp_score_sum *sum)
{
    return sum->n_scored > 0 ? exp(sum->nll / (double)sum->n_scored) : (double)NAN;
}

double sp_score_bits_per_byte(const sp_score_sum *sum)
{
    return sum->bytes > 0 ? sum->nll / (log(2.0) * (double)sum->bytes) : (double)NAN;
}

/* Predecessors that token t had in its window. */
static size_t context_of(const sp_scorer *scorer, size_t t)
{
    size_t window = scorer->options.window;
    return window > 0 && t > 0 ? t - (t - 1) / window * window : t;
}

static sp_score_sum sum_input(const sp_scorer *scorer, const scored_input *input)
{
    sp_score_sum sum = {0};
    for (size_t t = 1; t < input->tokens.count; t++) {
        const sp_token *token = &input->tokens.data[t];
        if (isnan(input->logprobs[t]) || context_of(scorer, t) < scorer->options.min_context) continue;
        sp_score_add(&sum, (double)input->logprobs[t], token->end - token->begin);
    }
    return sum;
}

sp_score_sum sp_scorer_sum(const sp_scorer *scorer)
{
    sp_score_sum sum = {0};
    for (size_t i = 0; i < scorer->n_inputs; i++) {
        sp_score_sum one = sum_input(scorer, &scorer->inputs[i]);
        sum.n_scored += one.n_scored;
        sum.bytes += one.bytes;
        sum.nll += one.nll;
    }
    return sum;
}

double sp_scorer_fraction(const sp_scorer *scorer)
{
    return (double)(scorer->read + scorer->progress) / (double)scorer->n_tokens;
}

sp_usage sp_scorer_usage(const sp_scorer *scorer)
{
    return scorer->usage;
}

/* --- inputs --- */

/* Given ids as tokens; their bytes are laid end to end. */
static sp_status take_ids(const sp_engine_info *info, const sp_score_input *given, sp_tokens *tokens,
                          sp_error *error)
{
    uint32_t place = 0;
    tokens->data = sp_alloc(given->n_ids, sizeof *tokens->data);
    if (!tokens->data) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu tokens", given->n_ids);
    tokens->count = tokens->capacity = given->n_ids;
    for (size_t i = 0; i < given->n_ids; i++) {
        int32_t id = given->ids[i];
        size_t size;
        if (id < 0 || (uint32_t)id >= info->hparams.vocab)
            return sp_fail_param(error, SP_INVALID, "input", "token id %d is not below the vocabulary of %u",
                                 (int)id, (unsigned)info->hparams.vocab);
        sp_tokenizer_bytes(info->tokenizer, id, &size);
        tokens->data[i] = (sp_token){.id = id, .begin = place, .end = place + (uint32_t)size};
        place += (uint32_t)size;
    }
    return SP_OK;
}

static sp_status take_text(const sp_engine_info *info, const sp_score_input *given, sp_tokens *tokens,
                           sp_error *error)
{
    sp_status status =
        sp_tokenizer_encode(info->tokenizer, given->text, given->text_size, SP_ENCODE_ADD, tokens, error);
    if (status == SP_INVALID && !error->param[0]) memcpy(error->param, "input", sizeof "input");
    if (status != SP_OK || tokens->count > 0) return status;
    sp_score_input bos = {.ids = &info->hparams.bos, .n_ids = 1};
    if (info->hparams.bos >= 0) return take_ids(info, &bos, tokens, error);
    return sp_fail_param(error, SP_INVALID, "input",
                         "an input is empty and the model has no token to begin with");
}

static sp_status take_input(sp_scorer *scorer, const sp_score_input *given, size_t *n_tokens, sp_error *error)
{
    const sp_engine_info *info = sp_engine_get_info(scorer->engine);
    scored_input *input = &scorer->inputs[scorer->n_inputs++];
    sp_error ignored;
    if (!error) error = &ignored;
    if (!given->text && given->n_ids == 0)
        return sp_fail_param(error, SP_INVALID, "input", "an input has no tokens");
    sp_status status = given->text ? take_text(info, given, &input->tokens, error)
                                   : take_ids(info, given, &input->tokens, error);
    if (status != SP_OK) return status;
    size_t n = input->tokens.count;
    if (scorer->options.window == 0 && n > info->context) {
        if (n_tokens) *n_tokens = n;
        return sp_fail_param(error, SP_TOO_LONG, "input", "an input has %zu tokens, the context holds %u", n,
                             info->context);
    }
    scorer->n_tokens += n;
    if (scorer->options.max_tokens > 0 && scorer->n_tokens > scorer->options.max_tokens)
        return sp_fail_param(error, SP_INVALID, "input", "the inputs have more than %zu tokens together",
                             scorer->options.max_tokens);
    input->ids = sp_alloc(n, sizeof *input->ids);
    input->logprobs = sp_alloc(n, sizeof *input->logprobs);
    if (!input->ids || !input->logprobs)
        return sp_fail(error, SP_NO_MEMORY, "no memory for the scores of %zu tokens", n);
    for (size_t t = 0; t < n; t++) {
        input->ids[t] = input->tokens.data[t].id;
        input->logprobs[t] = NAN;
    }
    return SP_OK;
}

/* --- windows --- */

/* The window reads tokens begin .. begin + window and, where the input goes on, predicts one more. */
static bool goes_on(const sp_scorer *scorer)
{
    return scorer->begin + scorer->window < scorer->inputs[scorer->input].tokens.count;
}

static sp_status submit(sp_scorer *scorer, sp_error *error)
{
    const scored_input *input = &scorer->inputs[scorer->input];
    size_t left = input->tokens.count - scorer->begin, window = scorer->options.window;
    scorer->window = window > 0 && window < left ? window : left;
    sp_request request;
    sp_request_init(&request);
    request.ids = input->ids + scorer->begin;
    request.n_ids = scorer->window;
    request.max_tokens = 0;
    request.prompt_logprobs = true;
    request.prompt_logits = goes_on(scorer);
    request.adapter = scorer->options.adapter;
    request.attention = scorer->options.attention;
    request.attention_size = scorer->options.attention_size;
    request.follows = scorer->reported;
    request.spent = sp_now() - scorer->begun;
    request.abandoned = scorer->options.abandoned;
    return sp_engine_submit(scorer->engine, &request, scorer->options.notify, scorer->options.notify_context,
                            &scorer->stream, error);
}

static sp_status take_report(sp_scorer *scorer, const sp_event *done, sp_error *error)
{
    const sp_attention_report *one = done->figures;
    scorer->usage.prompt_tokens += done->usage.prompt_tokens;
    scorer->usage.cached_tokens += done->usage.cached_tokens;
    scorer->usage.queue_seconds += done->usage.queue_seconds;
    scorer->usage.prefill_seconds += done->usage.prefill_seconds;
    if (scorer->reported) {
        sp_attention_report_add(&scorer->report, scorer->measures, one);
        return SP_OK;
    }
    size_t n = (size_t)one->n_layers * one->n_heads;
    scorer->report = *one;
    scorer->reported = true;
    if (!one->measures) return SP_OK;
    scorer->report.measures = scorer->measures = sp_alloc(n, sizeof *scorer->measures);
    if (!scorer->measures) return sp_fail(error, SP_NO_MEMORY, "no memory for the attention report");
    memcpy(scorer->measures, one->measures, n * sizeof *scorer->measures);
    return SP_OK;
}

static sp_status take_scores(sp_scorer *scorer, const sp_event *done, sp_error *error)
{
    const sp_engine_info *info = sp_engine_get_info(scorer->engine);
    scored_input *input = &scorer->inputs[scorer->input];
    float *logprobs = input->logprobs + scorer->begin;
    for (size_t t = 1; t < scorer->window; t++) logprobs[t] = done->prompt_logprobs[t];
    size_t next = scorer->begin + scorer->window;
    if (goes_on(scorer) &&
        !sp_logprob(done->prompt_logits, info->hparams.vocab, input->ids[next], &input->logprobs[next]))
        return sp_fail(error, SP_INTERNAL, "the model's logits at position %zu are not finite",
                       scorer->window - 1);
    return take_report(scorer, done, error);
}

/* The running window is over: the next one. */
static sp_status advance(sp_scorer *scorer, sp_error *error)
{
    size_t n = scorer->inputs[scorer->input].tokens.count;
    sp_stream_free(scorer->stream);
    scorer->stream = NULL;
    scorer->progress = 0;
    scorer->read += scorer->window;
    scorer->begin += scorer->window;
    if (scorer->begin + 1 >= n) { /* the last token predicts nothing that is there */
        scorer->read += n - scorer->begin;
        scorer->begin = 0;
        if (++scorer->input == scorer->n_inputs) return SP_OK;
    }
    return submit(scorer, error);
}

static sp_status take_event(sp_scorer *scorer, const sp_event *event, sp_error *error)
{
    if (event->type == SP_EVENT_PROGRESS) scorer->progress = event->done;
    if (event->type == SP_EVENT_ERROR) {
        if (error) *error = event->error;
        return event->error.status;
    }
    if (event->type != SP_EVENT_DONE) return SP_OK;
    sp_status status = take_scores(scorer, event, error);
    return status == SP_OK ? advance(scorer, error) : status;
}

sp_status sp_scorer_step(sp_scorer *scorer, bool *done, sp_error *error)
{
    sp_status status = SP_OK;
    sp_event event = {.type = SP_EVENT_PROGRESS};
    while (scorer->stream && event.type != SP_EVENT_NONE && status == SP_OK) {
        sp_stream_read(scorer->stream, &event);
        status = take_event(scorer, &event, error);
    }
    *done = !scorer->stream;
    return status;
}

sp_status sp_scorer_wait(sp_scorer *scorer, double seconds, bool *done, sp_error *error)
{
    sp_event event;
    if (scorer->stream) {
        sp_stream_wait(scorer->stream, seconds, &event);
        sp_status status = take_event(scorer, &event, error);
        if (status != SP_OK) return status;
    }
    return sp_scorer_step(scorer, done, error);
}

/* --- life --- */

static sp_status fill(sp_scorer *scorer, const sp_score_input *inputs, size_t n_inputs, size_t *n_tokens,
                      sp_error *error)
{
    const sp_engine_info *info = sp_engine_get_info(scorer->engine);
    sp_score_options *options = &scorer->options;
    if (options->window > info->context)
        return sp_fail_param(error, SP_USAGE, "length", "windows of %u tokens exceed the context of %u",
                             options->window, info->context);
    if (options->attention) {
        options->attention = scorer->attention = sp_copy_text(options->attention, options->attention_size);
        if (!scorer->attention) return sp_fail(error, SP_NO_MEMORY, "no memory for the attention");
    }
    scorer->inputs = sp_alloc_zero(n_inputs, sizeof *scorer->inputs);
    if (!scorer->inputs) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu inputs", n_inputs);
    for (size_t i = 0; i < n_inputs; i++) {
        sp_status status = take_input(scorer, &inputs[i], n_tokens, error);
        if (status != SP_OK) return status;
    }
    return submit(scorer, error);
}

sp_status sp_scorer_open(sp_engine *engine, const sp_score_input *inputs, size_t n_inputs,
                         const sp_score_options *options, size_t *n_tokens, sp_scorer **out, sp_error *error)
{
    sp_scorer *scorer = sp_alloc_zero(1, sizeof *scorer);
    if (!scorer) return sp_fail(error, SP_NO_MEMORY, "no memory for scoring");
    scorer->engine = engine;
    scorer->begun = sp_now();
    scorer->options = *options;
    sp_status status = fill(scorer, inputs, n_inputs, n_tokens, error);
    if (status == SP_OK)
        *out = scorer;
    else
        sp_scorer_close(scorer);
    return status;
}

void sp_scorer_close(sp_scorer *scorer)
{
    if (!scorer) return;
    if (scorer->stream) sp_stream_free(scorer->stream);
    for (size_t i = 0; i < scorer->n_inputs; i++) {
        sp_tokens_fini(&scorer->inputs[i].tokens);
        sp_free(scorer->inputs[i].ids);
        sp_free(scorer->inputs[i].logprobs);
    }
    sp_free(scorer->inputs);
    sp_free(scorer->attention);
    sp_free(scorer->measures);
    sp_free(scorer);
}

/* --- the reply --- */

static void write_tokens(const sp_tokenizer *tokenizer, const scored_input *input, sp_json_writer *out)
{
    size_t n = input->tokens.count;
    sp_json_key(out, "token_ids");
    sp_json_open(out, '[');
    for (size_t t = 0; t < n; t++) sp_json_int(out, input->ids[t]);
    sp_json_close(out, ']');
    sp_json_key(out, "tokens");
    sp_json_open(out, '[');
    for (size_t t = 0; t < n; t++) {
        size_t size;
        const char *bytes = sp_tokenizer_bytes(tokenizer, input->ids[t], &size);
        sp_json_string(out, bytes, size);
    }
    sp_json_close(out, ']');
    sp_json_key(out, "offsets");
    sp_json_open(out, '[');
    for (size_t t = 0; t < n; t++) {
        sp_json_open(out, '[');
        sp_json_uint(out, input->tokens.data[t].begin);
        sp_json_uint(out, input->tokens.data[t].end);
        sp_json_close(out, ']');
    }
    sp_json_close(out, ']');
}

static void write_input(const sp_scorer *scorer, size_t index, sp_json_writer *out)
{
    const scored_input *input = &scorer->inputs[index];
    const sp_score_sum sum = sum_input(scorer, input);
    sp_json_open(out, '{');
    sp_json_key(out, "index");
    sp_json_uint(out, index);
    write_tokens(sp_engine_get_info(scorer->engine)->tokenizer, input, out);
    sp_json_key(out, "token_logprobs");
    sp_json_open(out, '[');
    for (size_t t = 0; t < input->tokens.count; t++) sp_json_float(out, input->logprobs[t]);
    sp_json_close(out, ']');
    sp_json_key(out, "n_scored");
    sp_json_uint(out, sum.n_scored);
    sp_json_key(out, "nll");
    sp_json_number(out, sum.nll);
    sp_json_key(out, "perplexity");
    sp_json_number(out, sp_score_perplexity(&sum));
    sp_json_key(out, "bytes_scored");
    sp_json_uint(out, sum.bytes);
    sp_json_key(out, "bits_per_byte");
    sp_json_number(out, sp_score_bits_per_byte(&sum));
    sp_json_close(out, '}');
}

static void write_usage(const sp_usage *usage, sp_json_writer *out)
{
    sp_json_key(out, "usage");
    sp_json_open(out, '{');
    sp_json_key(out, "prompt_tokens");
    sp_json_uint(out, usage->prompt_tokens);
    sp_json_key(out, "completion_tokens");
    sp_json_uint(out, 0);
    sp_json_key(out, "total_tokens");
    sp_json_uint(out, usage->prompt_tokens);
    sp_json_key(out, "prompt_tokens_details");
    sp_json_open(out, '{');
    sp_json_key(out, "cached_tokens");
    sp_json_uint(out, usage->cached_tokens);
    sp_json_close(out, '}');
    sp_json_close(out, '}');
}

const sp_attention_report *sp_scorer_report(const sp_scorer *scorer)
{
    return scorer->reported ? &scorer->report : NULL;
}

void sp_scorer_write_report(const sp_scorer *scorer, sp_json_writer *out)
{
    if (scorer->reported) sp_attention_report_write(&scorer->report, out);
}

void sp_scorer_write(const sp_scorer *scorer, sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "object");
    sp_json_cstring(out, "score");
    sp_json_key(out, "model");
    sp_json_cstring(out, sp_engine_get_info(scorer->engine)->model_ids[scorer->options.adapter]);
    sp_json_key(out, "data");
    sp_json_open(out, '[');
    for (size_t i = 0; i < scorer->n_inputs; i++) write_input(scorer, i, out);
    sp_json_close(out, ']');
    write_usage(&scorer->usage, out);
    sp_json_key(out, "attention_report");
    sp_scorer_write_report(scorer, out);
    sp_json_close(out, '}');
}
