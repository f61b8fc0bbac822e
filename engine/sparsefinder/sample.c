/* See sample.h. */
#include "engine/sparsefinder/sample.h"

#include <string.h>

#include "engine/attention/attention.h"
#include "engine/kv.h"

struct sp_sampler {
    sp_sample_options options;
    void *scratch;
    sp_kv kv;
    uint32_t *pages;          /* (ceil(length / 64)) */
    const uint8_t **pointers; /* the same */
    uint32_t *positions, *slots, *lengths, *adapters;
    uint8_t *wants; /* (length), as sp_batch has them */
    sp_plan plan;
    sp_attention attention;
    float *plain_q, *plain_k; /* (length, n_heads or n_kv_heads, head_dim), rope_pre */
    /* the pass */
    sp_sample *sample;
    size_t window;
};

/* --- the sample --- */

/* Where the numbers of one head and window begin. */
static size_t place(const sp_sample *sample, uint32_t n_heads, uint32_t layer, uint32_t head, size_t window)
{
    return (((size_t)layer * n_heads + head) * sample->n_windows + window) * sample->length *
           sample->head_dim;
}

const uint16_t *sp_sample_q(const sp_sample *sample, uint32_t layer, uint32_t head, size_t window)
{
    return sample->q + place(sample, sample->n_heads, layer, head, window);
}

const uint16_t *sp_sample_k(const sp_sample *sample, uint32_t layer, uint32_t kv_head, size_t window)
{
    return sample->k + place(sample, sample->n_kv_heads, layer, kv_head, window);
}

const uint16_t *sp_sample_turned_q(const sp_sample *sample, uint32_t layer, uint32_t head, size_t window)
{
    return sample->turned_q + place(sample, sample->n_heads, layer, head, window);
}

const uint16_t *sp_sample_turned_k(const sp_sample *sample, uint32_t layer, uint32_t kv_head, size_t window)
{
    return sample->turned_k + place(sample, sample->n_kv_heads, layer, kv_head, window);
}

static bool keeps_plain(const sp_sample_options *options)
{
    return options->rope_pre && options->model->rope;
}

size_t sp_sample_layer_bytes(const sp_sample_options *options)
{
    const sp_hparams *h = &options->model->hparams;
    size_t numbers = (size_t)(h->n_heads + h->n_kv_heads) * h->head_dim * options->text->n_windows;
    return numbers * options->text->length * sizeof(uint16_t) * (keeps_plain(options) ? 2 : 1);
}

void sp_sample_fini(sp_sample *sample)
{
    sp_free(sample->q);
    sp_free(sample->k);
    sp_free(sample->turned_q);
    sp_free(sample->turned_k);
    *sample = (sp_sample){0};
}

/* --- attention of a pass --- */

/* q (length, n_heads, head_dim) to rows a head. to: that of all layers. */
static void keep_queries(const sp_sampler *sampler, uint32_t layer, const float *q, uint16_t *to)
{
    const sp_sample *sample = sampler->sample;
    size_t d = sample->head_dim;
    for (uint32_t head = 0; head < sample->n_heads; head++) {
        uint16_t *rows = to + place(sample, sample->n_heads, layer, head, sampler->window);
        for (uint32_t t = 0; t < sample->length; t++)
            for (size_t i = 0; i < d; i++)
                rows[t * d + i] = sp_bf16_from_f32(q[((size_t)t * sample->n_heads + head) * d + i]);
    }
}

static void keep_keys(const sp_sampler *sampler, uint32_t layer, const float *k, uint16_t *to)
{
    const sp_sample *sample = sampler->sample;
    size_t d = sample->head_dim;
    for (uint32_t head = 0; head < sample->n_kv_heads; head++) {
        uint16_t *columns = to + place(sample, sample->n_kv_heads, layer, head, sampler->window);
        for (uint32_t t = 0; t < sample->length; t++)
            for (size_t i = 0; i < d; i++)
                columns[i * sample->length + t] =
                    sp_bf16_from_f32(k[((size_t)t * sample->n_kv_heads + head) * d + i]);
    }
}

static void keep(const sp_sampler *sampler, const sp_attend_call *call)
{
    const sp_sample *sample = sampler->sample;
    uint32_t layer = call->layer - sample->first_layer;
    keep_queries(sampler, layer, call->q, sample->turned_q ? sample->turned_q : sample->q);
    keep_keys(sampler, layer, call->k, sample->turned_k ? sample->turned_k : sample->k);
    if (!sample->turned_q) return;
    keep_queries(sampler, layer, sampler->plain_q, sample->q);
    keep_keys(sampler, layer, sampler->plain_k, sample->k);
}

static sp_status answer(void *context, const sp_attend_call *call, sp_error *error)
{
    sp_sampler *sampler = context;
    sp_sample *sample = sampler->sample;
    sp_device *device = sampler->options.model->device;
    const sp_hparams *h = &sampler->options.model->hparams;
    uint32_t rows = sampler->options.text->length;
    if (call->kind != SP_ATTEND_SELF || !call->k || !call->v)
        return sp_fail(error, SP_UNSUPPORTED, "layer %u asks for an attention that is not fitted",
                       call->layer);
    if (call->layer >= sample->first_layer) {
        sample->scale = call->scale;
        keep(sampler, call);
        if (call->layer + 1 == sample->first_layer + sample->n_layers) return SP_CANCELLED; /* enough */
    }
    sp_kv_write(&sampler->kv, device, sampler->pages, 0, 0, rows, call->k, call->v);
    sp_attend_args args = {.plan = &sampler->plan,
                           .normalizer = sampler->options.normalizer,
                           .scale = call->scale,
                           .n_kv_heads = h->n_kv_heads,
                           .q = call->q,
                           .out = call->out};
    args.kv = sp_kv_layer(&sampler->kv, sampler->pages, 0, rows, sampler->pointers);
    sp_plan_request request = {.attention = &sampler->attention,
                               .layer = call->layer,
                               .kind = call->kind,
                               .causal = true,
                               .rows = rows,
                               .n_keys = rows,
                               .n_heads = h->n_heads,
                               .n_kv_heads = h->n_kv_heads,
                               .device = device,
                               .q = call->q,
                               .kv = &args.kv};
    sp_attend_stats stats = {0};
    sp_status status = sp_attention_plan(&request, &sampler->plan, error);
    return status == SP_OK ? device->ops->attend(device, &args, &stats, error) : status;
}

/* --- passes --- */

static sp_status read_window(sp_sampler *sampler, sp_error *error)
{
    const sp_fit_text *text = sampler->options.text;
    sp_batch batch = {.n_rows = text->length,
                      .tokens = text->ids + sampler->window * text->length,
                      .positions = sampler->positions,
                      .slots = sampler->slots,
                      .wants_logits = sampler->wants,
                      .lengths = sampler->lengths,
                      .adapters = sampler->adapters,
                      .plain_q = sampler->plain_q,
                      .plain_k = sampler->plain_k};
    sp_status status =
        sp_model_forward(sampler->options.model, &batch, answer, sampler, sampler->scratch, NULL, error);
    return status == SP_CANCELLED ? SP_OK : status;
}

sp_status sp_sampler_read(sp_sampler *sampler, uint32_t first, uint32_t n,
                          bool (*progress)(void *context, double share), void *context, sp_sample *out,
                          sp_error *error)
{
    const sp_fit_text *text = sampler->options.text;
    const sp_hparams *h = &sampler->options.model->hparams;
    *out = (sp_sample){.first_layer = first,
                       .n_layers = n,
                       .n_heads = h->n_heads,
                       .n_kv_heads = h->n_kv_heads,
                       .head_dim = h->head_dim,
                       .length = text->length,
                       .n_windows = text->n_windows,
                       .normalizer = sampler->options.normalizer};
    size_t numbers = (size_t)n * text->n_windows * text->length * h->head_dim;
    out->q = sp_alloc(numbers * h->n_heads, sizeof *out->q);
    out->k = sp_alloc(numbers * h->n_kv_heads, sizeof *out->k);
    bool enough = out->q && out->k;
    if (sampler->plain_q) {
        out->turned_q = sp_alloc(numbers * h->n_heads, sizeof *out->turned_q);
        out->turned_k = sp_alloc(numbers * h->n_kv_heads, sizeof *out->turned_k);
        enough = enough && out->turned_q && out->turned_k;
    }
    sp_status status = enough ? SP_OK
                              : sp_fail(error, SP_NO_MEMORY,
                                        "no memory for the queries and keys of %u layers; give fewer "
                                        "--tokens",
                                        n);
    sampler->sample = out;
    for (size_t w = 0; status == SP_OK && w < text->n_windows; w++) {
        sampler->window = w;
        if (progress && !progress(context, (double)w / (double)text->n_windows))
            status = SP_CANCELLED;
        else
            status = read_window(sampler, error);
    }
    if (status != SP_OK) sp_sample_fini(out);
    return status;
}

/* --- life --- */

static bool fill_batch(sp_sampler *sampler)
{
    uint32_t n = sampler->options.text->length;
    sampler->positions = sp_alloc(n, sizeof *sampler->positions);
    sampler->slots = sp_alloc_zero(n, sizeof *sampler->slots);
    sampler->lengths = sp_alloc(n, sizeof *sampler->lengths);
    sampler->adapters = sp_alloc(n, sizeof *sampler->adapters);
    sampler->wants = sp_alloc_zero(n, 1);
    if (!sampler->positions || !sampler->slots || !sampler->lengths || !sampler->adapters || !sampler->wants)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        sampler->positions[i] = i;
        sampler->lengths[i] = n;
        sampler->adapters[i] = sampler->options.adapter;
    }
    return true;
}

/* Room for vectors before the rotary embedding, where those are wanted and there is one. */
static bool open_plain(sp_sampler *sampler)
{
    const sp_hparams *h = &sampler->options.model->hparams;
    size_t n = sampler->options.text->length;
    if (!keeps_plain(&sampler->options)) return true;
    sampler->plain_q = sp_alloc(n * h->n_heads, h->head_dim * sizeof(float));
    sampler->plain_k = sp_alloc(n * h->n_kv_heads, h->head_dim * sizeof(float));
    return sampler->plain_q && sampler->plain_k;
}

static sp_status open_pages(sp_sampler *sampler, sp_error *error)
{
    const sp_hparams *h = &sampler->options.model->hparams;
    uint32_t n_pages = (uint32_t)sp_pages_of(sampler->options.text->length);
    sampler->pages = sp_alloc(n_pages, sizeof *sampler->pages);
    sampler->pointers = sp_alloc(n_pages, sizeof *sampler->pointers);
    if (!sampler->pages || !sampler->pointers) return sp_fail(error, SP_NO_MEMORY, "no memory for pages");
    sp_kv_options kv = {.n_layers = 1,
                        .n_kv_heads = h->n_kv_heads,
                        .head_dim = h->head_dim,
                        .dtype = sampler->options.kv,
                        .n_pages = n_pages,
                        .threads = sampler->options.model->device->threads};
    sp_status status = sp_kv_open(&kv, &sampler->kv, error);
    if (status == SP_OK && !sp_kv_take(&sampler->kv, n_pages, sampler->pages))
        return sp_fail(error, SP_INTERNAL, "a pool of %u pages has fewer", n_pages);
    return status;
}

static sp_status fill(sp_sampler *sampler, sp_error *error)
{
    const sp_model *model = sampler->options.model;
    size_t bytes;
    sp_attention_host host = {.n_heads = model->hparams.n_heads,
                              .model_normalizer = sampler->options.normalizer};
    const char *pattern = model->attention_pattern;
    sp_status status =
        sp_attention_parse(pattern, pattern ? strlen(pattern) : 0, &host, &sampler->attention, error);
    if (status != SP_OK) return status;
    if (!sp_model_scratch_bytes(model, sampler->options.text->length, 0, &bytes) ||
        !(sampler->scratch = sp_alloc(bytes, 1)) || !fill_batch(sampler) || !open_plain(sampler))
        return sp_fail(error, SP_NO_MEMORY, "no memory to run %u tokens; choose a shorter --length",
                       sampler->options.text->length);
    return open_pages(sampler, error);
}

sp_status sp_sampler_open(const sp_sample_options *options, sp_sampler **out, sp_error *error)
{
    sp_sampler *sampler = sp_alloc_zero(1, sizeof *sampler);
    if (!sampler) return sp_fail(error, SP_NO_MEMORY, "no memory for a sample");
    sampler->options = *options;
    sp_plan_init(&sampler->plan, 0);
    sp_status status = fill(sampler, error);
    if (status == SP_OK)
        *out = sampler;
    else
        sp_sampler_close(sampler);
    return status;
}

void sp_sampler_close(sp_sampler *sampler)
{
    if (!sampler) return;
    sp_kv_close(&sampler->kv);
    sp_plan_fini(&sampler->plan);
    sp_free(sampler->scratch);
    sp_free(sampler->pages);
    sp_free((void *)sampler->pointers);
    sp_free(sampler->positions);
    sp_free(sampler->slots);
    sp_free(sampler->lengths);
    sp_free(sampler->adapters);
    sp_free(sampler->wants);
    sp_free(sampler->plain_q);
    sp_free(sampler->plain_k);
    sp_free(sampler);
}
