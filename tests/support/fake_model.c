/* A model small enough to step through; see the header. */
#include "tests/support/fake_model.h"
#include "tests/support/byte_tokenizer.h"

#include <math.h>
#include <string.h>

enum { LAYERS = 2, HEADS = 2, KV_HEADS = 1, DIM = 8, WIDTH = HEADS * DIM, KV_WIDTH = KV_HEADS * DIM };

typedef struct fake_state {
    bool fail_once;
    void (*spend)(size_t n_rows);
    float embed[FAKE_VOCAB][WIDTH], head[FAKE_VOCAB][WIDTH];
    float q[LAYERS][WIDTH][WIDTH], k[LAYERS][KV_WIDTH][WIDTH], v[LAYERS][KV_WIDTH][WIDTH];
} fake_state;

static float hashed(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    uint64_t x = (*state ^ (*state >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (float)((double)((x ^ (x >> 31)) >> 11) * 0x1p-52 - 1);
}

static void apply(size_t n_out, const float *w, const float *x, float *y)
{
    for (size_t o = 0; o < n_out; o++) {
        y[o] = 0;
        for (size_t i = 0; i < WIDTH; i++) y[o] += w[o * WIDTH + i] * x[i];
    }
}

static bool scratch(const sp_model *model, size_t max_rows, size_t max_logits, size_t *bytes)
{
    (void)model;
    (void)max_logits;
    return sp_mul_size(max_rows, (3 * WIDTH + 2 * KV_WIDTH) * sizeof(float), bytes);
}

static sp_status run_layer(const fake_state *state, uint32_t layer, const sp_batch *batch, float *x,
                           float *rest, sp_attend_fn attend, void *context, sp_error *error)
{
    size_t n = batch->n_rows;
    float *q = rest, *out = q + n * WIDTH, *k = out + n * WIDTH, *v = k + n * KV_WIDTH;
    for (size_t r = 0; r < n; r++) {
        apply(WIDTH, &state->q[layer][0][0], x + r * WIDTH, q + r * WIDTH);
        apply(KV_WIDTH, &state->k[layer][0][0], x + r * WIDTH, k + r * KV_WIDTH);
        apply(KV_WIDTH, &state->v[layer][0][0], x + r * WIDTH, v + r * KV_WIDTH);
        for (size_t i = 0; i < KV_WIDTH; i++)
            k[r * KV_WIDTH + i] += sinf((float)batch->positions[r] * (float)(i + 1) * 0.1f);
    }
    sp_attend_call call = {.kind = SP_ATTEND_SELF,
                           .layer = layer,
                           .batch = batch,
                           .q = q,
                           .k = k,
                           .v = v,
                           .scale = 0.7f,
                           .out = out};
    sp_status status = attend(context, &call, error);
    for (size_t i = 0; status == SP_OK && i < n * WIDTH; i++) x[i] = tanhf(x[i] + 3 * out[i]);
    return status;
}

static sp_status forward(sp_model *model, const sp_batch *batch, sp_attend_fn attend, void *context,
                         void *memory, float *logits, sp_error *error)
{
    fake_state *state = model->state;
    float *x = memory, *rest = x + batch->n_rows * WIDTH;
    if (state->fail_once) {
        state->fail_once = false;
        return sp_fail(error, SP_NO_MEMORY, "asked to fail");
    }
    if (state->spend) state->spend(batch->n_rows);
    for (size_t r = 0; r < batch->n_rows; r++)
        memcpy(x + r * WIDTH, state->embed[batch->tokens[r]], sizeof state->embed[0]);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        sp_status status = run_layer(state, layer, batch, x, rest, attend, context, error);
        if (status != SP_OK) return status;
    }
    for (size_t r = 0; r < batch->n_rows; r++) {
        if (!batch->wants_logits[r]) continue;
        apply(FAKE_VOCAB, &state->head[0][0], x + r * WIDTH, logits);
        logits[FAKE_NAN_TOKEN] = -1e4f; /* never generated */
        if (batch->tokens[r] == FAKE_NAN_TOKEN) logits[5] = NAN;
        logits += FAKE_VOCAB;
    }
    return SP_OK;
}

static const char *const model_types[] = {"fake", NULL};
static const sp_arch fake_arch = {
    .name = "fake", .model_types = model_types, .scratch = scratch, .forward = forward};

static sp_status open_tokenizer(const char *folder, sp_tokenizer **out, sp_error *error)
{
    static const char *const no_merges[] = {NULL};
    sp_buffer json;
    if (folder) return sp_tokenizer_open(folder, out, error);
    sp_buffer_init(&json, 1 << 20);
    test_byte_tokenizer(&json, no_merges, NULL, "", "");
    sp_status status = sp_tokenizer_parse("fake", json.data, json.size, NULL, 0, out, error);
    sp_buffer_fini(&json);
    return status;
}

sp_status fake_model_open(const char *tokenizer, size_t n_threads, sp_model *model, sp_error *error)
{
    memset(model, 0, sizeof *model);
    sp_status status =
        sp_device_open("cpu", &(sp_device_options){.n_threads = n_threads}, &model->device, error);
    if (status == SP_OK) status = open_tokenizer(tokenizer, &model->tokenizer, error);
    fake_state *state = sp_alloc_zero(1, sizeof *state);
    if (status != SP_OK || !state) {
        sp_free(state);
        fake_model_close(model);
        return status != SP_OK ? status : sp_fail(error, SP_NO_MEMORY, "no memory for the fake model");
    }
    uint64_t seed = 12345;
    for (float *w = &state->embed[0][0]; w < (float *)(void *)(state + 1); w++) *w = hashed(&seed);
    model->arch = &fake_arch;
    model->state = state;
    model->hparams = (sp_hparams){.n_layers = LAYERS,
                                  .hidden = WIDTH,
                                  .n_heads = HEADS,
                                  .n_kv_heads = KV_HEADS,
                                  .head_dim = DIM,
                                  .vocab = FAKE_VOCAB,
                                  .context = FAKE_CONTEXT,
                                  .normalizer = {1.5f},
                                  .bos = -1,
                                  .eos = {FAKE_EOS},
                                  .n_eos = 1};
    return SP_OK;
}

void fake_model_close(sp_model *model)
{
    sp_tokenizer_close(model->tokenizer);
    sp_device_close(model->device);
    sp_free(model->state);
    memset(model, 0, sizeof *model);
}

void fake_model_fail_once(sp_model *model)
{
    ((fake_state *)model->state)->fail_once = true;
}

void fake_model_spend(sp_model *model, void (*spend)(size_t n_rows))
{
    ((fake_state *)model->state)->spend = spend;
}
