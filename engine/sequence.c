/* A sequence from its first row to its last event (sequence.h): what a prompt leaves behind, tokens as they
 * are chosen, the report, the end. How it comes to be is in sequence_open.c. Tests:
 * tests/unit/engine/test_scheduler.c, tests/golden/test_austen.c */
#include "engine/sequence.h"

#include "engine/graph/capture.h"

#define REPORT_JSON_BYTES ((size_t)8192)
#define MEASURE_JSON_BYTES ((size_t)1024) /* one object a layer and head */

size_t sp_sequence_max_bytes(const sp_sequence_host *host)
{
    const sp_hparams *hparams = &host->model->hparams;
    size_t tokens = host->context, heads = (size_t)hparams->n_layers * hparams->n_heads;
    size_t stops = (size_t)SP_MAX_STOPS * SP_MAX_STOP_BYTES * (1 + sizeof(uint16_t));
    sp_stream_options stream = {.max_piece = host->max_piece + SP_MAX_STOP_BYTES, .n_top = SP_MAX_LOGPROBS};
    return sizeof(sp_sequence) +
           sp_clusters_bytes(host->fits, host->n_fits, hparams->n_layers, hparams->n_heads) +
           sizeof(sp_attention_report) +
           tokens * (sizeof(int32_t) + sizeof(float) + SP_MAX_LOGPROBS * sizeof(sp_token_logprob)) +
           sp_adjust_bytes(tokens) + hparams->hidden * (sizeof(double) + sizeof(float)) +
           tokens / SP_TILE * sizeof(uint32_t) + hparams->vocab * sizeof(float) + stops + stream.max_piece +
           sp_stream_bytes(&stream) + heads * (sizeof(sp_head_measure) + MEASURE_JSON_BYTES) +
           REPORT_JSON_BYTES;
}

void sp_sequence_pool(sp_sequence *s, const float *states, uint32_t rows)
{
    size_t hidden = s->host->model->hparams.hidden;
    bool mean = s->pooling == SP_POOLING_MEAN;
    for (uint32_t row = 0; row < rows; row++) {
        bool last = s->position + row + 1 == s->n_prompt;
        for (size_t i = 0; i < hidden && (mean || last); i++)
            s->pooled[i] += (double)states[row * hidden + i];
    }
}

void sp_sequence_end_prompt(sp_sequence *s)
{
    double count = s->pooling == SP_POOLING_MEAN ? s->n_prompt : 1;
    for (size_t i = 0; s->pooled && i < s->host->model->hparams.hidden; i++)
        s->embedding[i] = (float)(s->pooled[i] / count);
    if (!s->prompt_logprobs) return;
    sp_stream_give_prompt(s->stream, s->prompt_logprobs, s->prompt_top);
    s->prompt_logprobs = NULL;
    s->prompt_top = NULL;
}

static bool ends_text(const sp_sequence *s, int32_t token)
{
    const sp_hparams *hparams = &s->host->model->hparams;
    for (size_t i = 0; i < s->n_stop_ids; i++)
        if (s->stop_ids[i] == token) return true;
    if (s->ignore_eos) return false;
    for (size_t i = 0; i < hparams->n_eos; i++)
        if (hparams->eos[i] == token) return true;
    return token == sp_tokenizer_eos(s->host->model->tokenizer);
}

sp_status sp_sequence_accept(sp_sequence *s, const sp_sampled *sampled, bool *finished, sp_finish *finish,
                             sp_error *error)
{
    size_t begin = s->stops.held.size, release = 0;
    bool eos = ends_text(s, sampled->token);
    s->tokens[s->n_tokens++] = sampled->token;
    if (!eos && !sp_decoder_push(&s->decoder, sampled->token, &s->stops.held))
        return sp_fail(error, SP_INTERNAL, "token %d releases more text than there is room for",
                       sampled->token);
    if (s->adjust.entries) sp_adjust_note(&s->adjust, sampled->token);
    bool watches = s->n_tokens - s->n_prompt > s->min_tokens; /* stop strings before do not count */
    bool stopped = watches && sp_stops_scan(&s->stops, begin, &release);
    if (!watches) release = s->stops.held.size;
    sp_stream_push_token(s->stream, sampled->token, sampled->logprob, sampled->top, sampled->n_top,
                         s->stops.held.data, release);
    sp_stops_drop(&s->stops, release);
    if (stopped) { /* nothing of what follows goes out */
        sp_buffer_clear(&s->stops.held);
        s->decoder.n_held = 0;
    }
    *finish = eos || stopped ? SP_FINISH_STOP : SP_FINISH_LENGTH;
    *finished = eos || stopped || s->n_tokens - s->n_prompt == s->max_tokens;
    return SP_OK;
}

sp_status sp_sequence_report(sp_sequence *s, sp_error *error)
{
    const sp_model *model = s->host->model;
    size_t heads = s->measures ? (size_t)model->hparams.n_layers * model->hparams.n_heads : 0;
    if (s->measures) sp_clusters_fold(&s->clusters, s->measures);
    s->figures = sp_alloc(1, sizeof *s->figures);
    if (!s->figures) return sp_fail(error, SP_NO_MEMORY, "no memory for the attention report");
    *s->figures = (sp_attention_report){.attention = s->attention,
                                        .prefill = s->prefill,
                                        .decode = s->decode,
                                        .rows_empty = s->rows_empty,
                                        .trained = s->trained,
                                        .batch_invariant = model->device->batch_invariant,
                                        .device = model->device->kind->name,
                                        .measures = s->measures,
                                        .n_layers = model->hparams.n_layers,
                                        .n_heads = model->hparams.n_heads};
    sp_json_writer writer;
    sp_buffer_init(&s->report, REPORT_JSON_BYTES + MEASURE_JSON_BYTES * heads);
    sp_json_writer_init(&writer, &s->report);
    sp_attention_report_write(s->figures, &writer);
    return s->report.failed ? sp_fail(error, SP_NO_MEMORY, "no memory for the attention report") : SP_OK;
}

void sp_sequence_finish(sp_sequence *s, sp_finish finish)
{
    size_t begin = s->stops.held.size, release = 0;
    sp_decoder_finish(&s->decoder, &s->stops.held);
    if (!sp_stops_scan(&s->stops, begin, &release)) release = s->stops.held.size;

    sp_event last = {.type = SP_EVENT_DONE,
                     .token = -1,
                     .text = s->stops.held.data,
                     .text_size = release,
                     .finish = finish,
                     .usage = s->usage,
                     .report = s->report.data,
                     .report_size = s->report.size,
                     .figures = s->figures,
                     .embedding = s->embedding,
                     .prompt_logits = s->prompt_logits,
                     .prompt_ids = s->tokens};
    sp_stream_finish(s->stream, &last);
    s->stream = NULL;
    s->tokens = NULL;
    s->embedding = NULL;
    s->prompt_logits = NULL;
    s->report = (sp_buffer){0};
    s->measures = NULL;
    s->figures = NULL;
}

void sp_sequence_fail(sp_sequence *s, const sp_error *error)
{
    if (s->capture) sp_capture_fail(s->capture, error);
    sp_stream_finish(s->stream,
                     &(sp_event){.type = SP_EVENT_ERROR, .token = -1, .usage = s->usage, .error = *error});
    s->stream = NULL;
}

void sp_sequence_leave_capture(sp_sequence *s)
{
    if (s->capture) sp_capture_leave(s->capture);
    s->capture = NULL;
}

void sp_sequence_close(sp_sequence *s)
{
    if (!s) return;
    if (s->stream) { /* never handed out: both references go */
        sp_stream *stream = s->stream;
        sp_stream_finish(stream, &(sp_event){.type = SP_EVENT_ERROR});
        sp_stream_free(stream);
    }
    sp_sequence_leave_capture(s);
    sp_stops_close(&s->stops);
    sp_free(s->tokens);
    sp_free(s->pages);
    sp_free(s->measures);
    sp_clusters_close(&s->clusters);
    sp_free(s->prompt_logprobs);
    sp_free(s->prompt_top);
    sp_free(s->pooled);
    sp_free(s->embedding);
    sp_free(s->prompt_logits);
    sp_adjust_close(&s->adjust);
    sp_buffer_fini(&s->report);
    sp_free(s->figures);
    sp_free(s);
}
