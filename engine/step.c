/* See step.h. */
#include "engine/step.h"

#include "engine/attention/measure.h"

#include <assert.h>
#include <string.h>

#define LOGITS_BYTES ((size_t)16 << 20) /* for the rows of scored prompts */

/* A row whose logits were asked for. */
typedef struct sp_logits_row {
    uint32_t entry, position;
    bool finite;
} sp_logits_row;

static size_t clamp(size_t value, size_t low, size_t high)
{
    return value < low ? low : value > high ? high : value;
}

static sp_attender_options attender_options(const sp_step *step, size_t plan_bytes)
{
    const sp_hparams *hparams = &step->options.model->hparams;
    return (sp_attender_options){.device = step->options.model->device,
                                 .kv = step->options.kv,
                                 .n_heads = hparams->n_heads,
                                 .n_kv_heads = hparams->n_kv_heads,
                                 .head_dim = hparams->head_dim,
                                 .context = step->options.context,
                                 .max_jobs = step->options.max_sequences,
                                 .plan_bytes = plan_bytes,
                                 .fits = step->options.fits,
                                 .n_fits = step->options.n_fits};
}

/* Keys of one layer of a prompt that is run layer by layer. */
static sp_codes_options whole_codes(const sp_step *step)
{
    const sp_hparams *hparams = &step->options.model->hparams;
    return (sp_codes_options){.device = step->options.model->device,
                              .n_heads = hparams->n_heads,
                              .n_kv_heads = hparams->n_kv_heads,
                              .head_dim = hparams->head_dim,
                              .dtype = step->options.kv->options.dtype,
                              .max_keys = step->options.max_whole,
                              .fits = step->options.fits,
                              .n_fits = step->options.n_fits,
                              .own_pages = true};
}

/* Numbers of a row of queries or keys before the rotary embedding; 0: no fit wants those. */
static size_t plain_numbers(const sp_step *step, uint32_t n_heads)
{
    const sp_model *model = step->options.model;
    bool wanted = false;
    for (size_t i = 0; i < step->options.n_fits; i++)
        wanted = wanted || (step->options.fits[i] && step->options.fits[i]->rope_pre);
    return wanted && model->rope ? (size_t)n_heads * model->hparams.head_dim : 0;
}

/* Bytes of everything that the step allocates; false on overflow. */
static bool count_bytes(sp_step *step, size_t forward_bytes, size_t plan_bytes)
{
    const sp_attender_options attender = attender_options(step, plan_bytes);
    const sp_model *model = step->options.model;
    size_t vocab = model->hparams.vocab, workers = sp_threads_count(model->device->threads);
    size_t logits, candidates, total;
    size_t rows = sizeof(int32_t) + 4 * sizeof(uint32_t) + 1 + model->hparams.hidden * sizeof(float);
    rows += plain_numbers(step, model->hparams.n_heads + model->hparams.n_kv_heads) * sizeof(float);
    if (!sp_mul_size(step->max_logits, vocab * sizeof(float) + sizeof(sp_logits_row), &logits)) return false;
    if (!sp_mul_size(workers, vocab * sizeof(sp_candidate), &candidates)) return false;
    if (!sp_add_size(logits, candidates, &total) || !sp_add_size(total, forward_bytes, &total)) return false;
    if (!sp_add_size(total, plan_bytes, &total)) return false;
    if (!sp_add_size(total, sp_measurer_bytes(model->device, step->options.context), &total)) return false;
    if (!sp_add_size(total, sp_attender_code_bytes(&attender), &total)) return false;
    size_t whole = step->options.max_whole *
                   (size_t)(model->hparams.hidden + model->hparams.n_heads * model->hparams.head_dim);
    if (step->options.max_whole) {
        const sp_codes_options codes = whole_codes(step);
        size_t page = sp_codes_page_bytes(codes.fits, codes.n_fits, codes.n_heads, codes.dtype);
        size_t pages = ((size_t)step->options.max_whole + SP_TILE - 1) / SP_TILE * page;
        if (!sp_add_size(total, whole * sizeof(float) + sp_codes_scratch_bytes(&codes), &total)) return false;
        if (!sp_add_size(total, pages, &total)) return false;
    }
    return sp_add_size(total, step->max_rows * rows, &step->scratch_bytes);
}

static bool allocate(sp_step *step, size_t forward_bytes)
{
    const sp_model *model = step->options.model;
    size_t vocab = model->hparams.vocab, n = step->options.max_sequences;
    step->entries = sp_alloc_zero(n, sizeof *step->entries);
    step->jobs = sp_alloc_zero(n, sizeof *step->jobs);
    step->tokens = sp_alloc(step->max_rows, sizeof *step->tokens);
    step->positions = sp_alloc(step->max_rows, sizeof *step->positions);
    step->slots = sp_alloc(step->max_rows, sizeof *step->slots);
    step->lengths = sp_alloc(step->max_rows, sizeof *step->lengths);
    step->adapters = sp_alloc(step->max_rows, sizeof *step->adapters);
    step->wants = sp_alloc(step->max_rows, 1);
    step->logits_rows = sp_alloc(step->max_logits, sizeof *step->logits_rows);
    step->logits = sp_alloc(step->max_logits * vocab, sizeof *step->logits);
    step->hidden = sp_alloc(step->max_rows * model->hparams.hidden, sizeof *step->hidden);
    step->scratch = sp_alloc(forward_bytes > 0 ? forward_bytes : 1, 1);
    size_t plain_q = plain_numbers(step, model->hparams.n_heads),
           plain_k = plain_numbers(step, model->hparams.n_kv_heads);
    if (plain_q) {
        step->plain_q = sp_alloc(step->max_rows, plain_q * sizeof *step->plain_q);
        step->plain_k = sp_alloc(step->max_rows, plain_k * sizeof *step->plain_k);
        if (!step->plain_q || !step->plain_k) return false;
    }
    step->candidates = sp_alloc(sp_threads_count(model->device->threads) * vocab, sizeof *step->candidates);
    return step->entries && step->jobs && step->tokens && step->positions && step->slots && step->lengths &&
           step->adapters && step->wants && step->logits_rows && step->logits && step->hidden &&
           step->scratch && step->candidates;
}

sp_status sp_step_open(const sp_step_options *options, sp_step *out, sp_error *error)
{
    const sp_model *model = options->model;
    *out = (sp_step){.options = *options};
    out->max_rows = (size_t)options->max_sequences + options->max_chunk;
    size_t scored = LOGITS_BYTES / sizeof(float) / model->hparams.vocab;
    out->max_logits = options->max_sequences + clamp(scored, 16, options->max_chunk);
    size_t forward_bytes, plan_bytes = sp_attender_plan_bytes(options->context, model->hparams.n_heads);
    if (!sp_model_scratch_bytes(model, out->max_rows, out->max_logits, &forward_bytes) ||
        !count_bytes(out, forward_bytes, plan_bytes))
        return sp_fail(error, SP_NO_MEMORY, "the scratch of a step does not fit into an address");

    sp_status status = sp_vocab_mask_open(&out->mask, model->tokenizer, model->hparams.vocab, error);
    if (status == SP_OK && !allocate(out, forward_bytes))
        status = sp_fail(error, SP_NO_MEMORY, "no memory for the scratch of a step (%zu bytes)",
                         out->scratch_bytes);
    const sp_attender_options attender = attender_options(out, plan_bytes);
    if (status == SP_OK) status = sp_attender_open(&attender, &out->attender, error);
    if (status != SP_OK) sp_step_close(out);
    return status;
}

void sp_step_close(sp_step *step)
{
    sp_attender_close(step->attender);
    sp_vocab_mask_close(&step->mask);
    sp_free(step->entries);
    sp_free(step->jobs);
    sp_free(step->tokens);
    sp_free(step->positions);
    sp_free(step->slots);
    sp_free(step->lengths);
    sp_free(step->adapters);
    sp_free(step->wants);
    sp_free(step->logits_rows);
    sp_free(step->logits);
    sp_free(step->hidden);
    sp_free(step->plain_q);
    sp_free(step->plain_k);
    sp_free(step->scratch);
    sp_free(step->candidates);
    sp_free(step->states);
    sp_free(step->whole.q);
    sp_codes_close(step->whole.codes);
    *step = (sp_step){0};
}

void sp_step_begin(sp_step *step)
{
    step->n_entries = step->n_rows = step->n_logits = 0;
    step->part_of = NULL;
    step->pools = false;
}

uint32_t sp_step_room(const sp_step *step, const sp_sequence *sequence)
{
    if (step->n_entries == step->options.max_sequences) return 0;
    size_t room = step->max_rows - step->n_rows;
    /* the logits of one row a sequence are always there */
    size_t spare = step->max_logits - step->n_logits - (step->options.max_sequences - step->n_entries) + 1;
    if (sequence->scores_prompt && sp_sequence_prefills(sequence) && room > spare) room = spare;
    return (uint32_t)room;
}

/* Whether the row of this position must give logits: to be sampled, to be kept, or to score the next token.
 */
static bool wants_logits(const sp_sequence *s, uint32_t position)
{
    if (s->completing) return false;
    if (position + 1 < s->n_prompt) return s->scores_prompt;
    return s->max_tokens > 0 || (s->prompt_logits && position + 1 == s->n_prompt);
}

void sp_step_add(sp_step *step, sp_sequence *s, uint32_t rows)
{
    assert(rows > 0 && (step->part_of || rows <= sp_step_room(step, s)) && s->position + rows <= s->n_tokens);
    uint32_t slot = (uint32_t)step->n_entries++;
    bool prefills = sp_sequence_prefills(s);
    step->entries[slot] = (sp_step_entry){.sequence = s, .rows = rows, .first_row = (uint32_t)step->n_rows};
    step->pools = step->pools || (s->pooled && prefills);
    step->jobs[slot] =
        (sp_attend_job){.attention = prefills ? &s->attention : &s->decoding,
                        .keeps = s->decoding.backend->codes ? &s->decoding : &s->attention,
                        .fit = s->adapter < step->options.n_fits ? step->options.fits[s->adapter] : NULL,
                        .pages = s->pages,
                        .first_row = (uint32_t)step->n_rows,
                        .rows = rows,
                        .position = s->position,
                        .phase = prefills ? &s->prefill : &s->decode,
                        .rows_empty = &s->rows_empty,
                        .measures = s->measures,
                        .clusters = prefills || !s->attention.decode_backend ? &s->clusters : NULL,
                        .capture = s->capture};
    if (s->completing) { /* this row is run for the capture alone: it is not in the report */
        step->jobs[slot].phase = &s->spare;
        step->jobs[slot].rows_empty = &s->spare_rows;
        step->jobs[slot].measures = NULL;
    }
    for (uint32_t i = 0; i < rows; i++) {
        size_t row = step->n_rows++;
        uint32_t position = s->position + i;
        step->tokens[row] = s->tokens[position];
        step->positions[row] = position;
        step->slots[row] = slot;
        step->lengths[row] = sp_sequence_length(s);
        step->adapters[row] = s->adapter;
        step->wants[row] = (!step->part_of || sp_step_part_ends(step)) && wants_logits(s, position);
        if (!step->wants[row]) continue;
        step->logits_rows[step->n_logits++] =
            (sp_logits_row){.entry = slot, .position = position, .finite = true};
        step->entries[slot].samples = position + 1 >= s->n_prompt && s->max_tokens > 0;
    }
}

static sp_status open_whole(sp_step *step, sp_error *error)
{
    const sp_hparams *hparams = &step->options.model->hparams;
    size_t rows = step->options.max_whole, wide = (size_t)hparams->n_heads * hparams->head_dim;
    if (step->states) return SP_OK;
    const sp_codes_options codes = whole_codes(step);
    sp_status status = step->whole.codes ? SP_OK : sp_codes_open(&codes, &step->whole.codes, error);
    if (status != SP_OK) return status;
    if (!step->whole.q) step->whole.q = sp_alloc(rows * wide, sizeof(float));
    if (step->whole.q) step->states = sp_alloc(rows * hparams->hidden, sizeof(float));
    return step->states ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for a prompt of %zu tokens", rows);
}

bool sp_step_part_ends(const sp_step *step)
{
    const sp_sequence *s = step->part_of;
    return s->whole_attends && s->whole_layer + 1 == step->options.model->hparams.n_layers;
}

sp_status sp_step_add_part(sp_step *step, sp_sequence *s, uint32_t rows, sp_error *error)
{
    sp_status status = open_whole(step, error);
    step->part_of = s;
    sp_step_add(step, s, rows);
    step->whole.rows = s->n_prompt;
    step->whole.collects = !s->whole_attends;
    step->jobs[0].whole = &step->whole;
    return status;
}

/* One row of logits: scores the prompt's next token, keeps the prompt's last row, samples. */
static void finish_row(void *context, size_t task, size_t worker)
{
    sp_step *step = context;
    sp_logits_row *row = &step->logits_rows[task];
    sp_step_entry *entry = &step->entries[row->entry];
    sp_sequence *s = entry->sequence;
    size_t vocab = step->options.model->hparams.vocab;
    float *logits = step->logits + task * vocab;
    uint32_t next = row->position + 1;
    if (next < s->n_prompt) {
        sp_token_logprob *top = s->prompt_top ? s->prompt_top + (size_t)next * s->n_top : NULL;
        row->finite = sp_logprob_top(&step->mask, logits, s->tokens[next], top ? s->n_top : 0,
                                     &s->prompt_logprobs[next], top);
        return;
    }
    if (next == s->n_prompt && s->prompt_logits) memcpy(s->prompt_logits, logits, vocab * sizeof *logits);
    if (!entry->samples) return;
    sp_sample_adjusted(&step->mask, logits, s->adjust.entries ? &s->adjust : NULL, &s->sampling, next,
                       s->n_top, step->candidates + worker * vocab, &entry->sampled);
    row->finite = entry->sampled.ok;
}

sp_status sp_step_run(sp_step *step, sp_error *error)
{
    sp_model *model = step->options.model;
    sp_batch batch = {.n_rows = step->n_rows,
                      .tokens = step->tokens,
                      .positions = step->positions,
                      .slots = step->slots,
                      .wants_logits = step->wants,
                      .lengths = step->lengths,
                      .adapters = step->adapters,
                      .hidden = step->pools ? step->hidden : NULL,
                      .plain_q = step->plain_q,
                      .plain_k = step->plain_k};
    const sp_sequence *part = step->part_of;
    if (part) {
        batch.first_layer = part->whole_layer;
        batch.end_layer = part->whole_layer + 1;
        batch.states = step->states + part->position * model->hparams.hidden;
        if (!sp_step_part_ends(step)) batch.hidden = NULL;
    }
    sp_attender_begin(step->attender, step->jobs, step->n_entries);
    sp_status status = sp_model_forward(model, &batch, sp_attender_attend, step->attender, step->scratch,
                                        step->logits, error);
    if (part && step->whole.collects && status == SP_CANCELLED) return SP_OK;
    if (status != SP_OK || (part && !sp_step_part_ends(step))) return status;
    for (size_t i = 0; i < step->n_entries && step->pools; i++) {
        sp_sequence *s = step->entries[i].sequence;
        const float *states = step->hidden + (size_t)step->entries[i].first_row * model->hparams.hidden;
        if (s->pooled && sp_sequence_prefills(s)) sp_sequence_pool(s, states, step->entries[i].rows);
    }
    sp_threads_run(model->device->threads, step->n_logits, finish_row, step);
    for (size_t i = 0; i < step->n_logits; i++) {
        const sp_logits_row *row = &step->logits_rows[i];
        sp_attend_job *job = &step->jobs[row->entry];
        if (row->finite || job->failed) continue;
        job->failed = true;
        sp_fail(&job->error, SP_INTERNAL, "the model's logits at position %u are not finite", row->position);
    }
    return SP_OK;
}
