/* The consistency property (attention.md 1.3) on real rows: where a predicted graph holds all gold keys of a
 * row, its output is that of dense entmax. Queries and keys are those of the bundled model on its held-out
 * text, the graph is that of its bundled fit; values are random. */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/attention/apply.h"
#include "engine/sparsefinder/sample.h"
#include "models/safetensors.h"
#include "models/weights.h"
#include "tests/support/random.h"

enum { HEADS = 4, LENGTH = 512, DIM = 64, LAYERS = 6 };

typedef struct answer {
    sp_buffer bytes;
    sp_weights *weights;
    const float *out, *edge_weights;              /* (HEADS, LENGTH, DIM), (edges) */
    const uint32_t *indptr, *indices, *edge_base; /* (HEADS, LENGTH + 1), (edges), (HEADS) */
} answer;

static sp_device *device;
static float q[HEADS * LENGTH * DIM], k[HEADS * LENGTH * DIM], v[HEADS * LENGTH * DIM];

static void read_sample(const sp_sample *sample, uint32_t layer)
{
    for (uint32_t h = 0; h < HEADS; h++) {
        const uint16_t *from_q = sp_sample_q(sample, layer, h, 0), *from_k = sp_sample_k(sample, layer, h, 0);
        for (size_t t = 0; t < LENGTH; t++) {
            for (size_t d = 0; d < DIM; d++) {
                q[(h * LENGTH + t) * DIM + d] = sp_bf16_to_f32(from_q[t * DIM + d]);
                k[(h * LENGTH + t) * DIM + d] = sp_bf16_to_f32(from_k[d * LENGTH + t]);
            }
        }
    }
}

static void attend(const char *attention, uint32_t layer, const sp_fit *fit, answer *out)
{
    static const char *const names[] = {"q", "k", "v"}, *const outs[] = {"indptr", "indices", "edge_base"};
    float *const data[] = {q, k, v};
    sp_tensor_entry tensors[3];
    for (size_t i = 0; i < 3; i++) {
        sp_tensor t = {.dtype = SP_F32, .rank = 3, .shape = {HEADS, LENGTH, DIM}, .data = data[i]};
        t.bytes = sizeof q;
        tensors[i] = (sp_tensor_entry){names[i], t};
    }
    char number[12];
    int digits = snprintf(number, sizeof number, "%u", layer);
    const sp_metadata_entry meta[] = {{"attention", attention, strlen(attention)},
                                      {"causal", "true", 4},
                                      {"layer", number, (size_t)digits}};
    sp_error error;
    sp_buffer in;
    sp_buffer_init(&in, (size_t)1 << 24);
    sp_buffer_init(&out->bytes, (size_t)1 << 28);
    assert_ok(sp_safetensors_write(tensors, 3, meta, COUNT_OF(meta), &in, &error), error);
    const sp_apply_options options = {.fit = fit};
    assert_ok(sp_apply(device, "rows", in.data, in.size, &options, &out->bytes, &error), error);
    assert_ok(sp_weights_parse("rows", out->bytes.data, out->bytes.size, &out->weights, &error), error);
    const uint32_t **const into[] = {&out->indptr, &out->indices, &out->edge_base};
    for (size_t i = 0; i < 3; i++) {
        assert_non_null(sp_weights_find(out->weights, outs[i]));
        *into[i] = sp_weights_find(out->weights, outs[i])->data;
    }
    out->out = sp_weights_find(out->weights, "out")->data;
    out->edge_weights = sp_weights_find(out->weights, "weights")->data;
    sp_buffer_fini(&in);
}

static void close_answer(answer *a)
{
    sp_weights_close(a->weights);
    sp_buffer_fini(&a->bytes);
}

/* All keys of the dense row whose weight is above 0 are among the predicted ones; both lists ascend. */
static bool holds_gold(const answer *dense, const answer *some, size_t head, size_t row)
{
    const uint32_t *from = dense->indptr + head * (LENGTH + 1) + row,
                   *kept = some->indptr + head * (LENGTH + 1) + row;
    size_t at = some->edge_base[head] + kept[0], end = some->edge_base[head] + kept[1];
    for (size_t e = dense->edge_base[head] + from[0]; e < dense->edge_base[head] + from[1]; e++) {
        if (!(dense->edge_weights[e] > 0)) continue;
        while (at < end && some->indices[at] < dense->indices[e]) at++;
        if (at == end || some->indices[at] != dense->indices[e]) return false;
    }
    return true;
}

static void test_exact_rows(void **state)
{
    (void)state;
    sp_error error;
    sp_model *model;
    sp_fit *fit;
    sp_fit_text text;
    sp_sampler *sampler;
    sp_sample sample;
    sp_model_options loading = {0};
    const char *path = SPARSED_ROOT "/models/austen/heldout.txt";
    assert_ok(sp_model_open(SPARSED_ROOT "/models/austen", device, &loading, &model, &error), error);
    assert_ok(sp_fit_open(SPARSED_ROOT "/models/austen/sparsefinder.safetensors", &fit, &error), error);
    assert_ok(sp_fit_text_open(model->tokenizer, &path, 1, LENGTH, 2 * LENGTH, &text, &error), error);
    const sp_sample_options source = {
        .model = model, .text = &text, .normalizer = model->hparams.normalizer, .kv = SP_F32};
    assert_ok(sp_sampler_open(&source, &sampler, &error), error);
    assert_ok(sp_sampler_read(sampler, 0, LAYERS, NULL, NULL, &sample, &error), error);
    test_random random = {.state = 11};
    test_random_fill(&random, v, COUNT_OF(v), 1);

    size_t exact = 0, others = 0;
    double worst = 0, farthest = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        answer dense, some;
        read_sample(&sample, layer);
        attend("{\"backend\":\"dense\",\"normalizer\":\"entmax15\"}", layer, NULL, &dense);
        attend("{\"backend\":\"sparsefinder\",\"params\":{\"keep\":24},\"normalizer\":\"entmax15\"}", layer,
               fit, &some);
        for (size_t row = 0; row < (size_t)HEADS * LENGTH; row++) {
            double off = 0;
            for (size_t d = 0; d < DIM; d++)
                off = fmax(off, fabs((double)dense.out[row * DIM + d] - (double)some.out[row * DIM + d]));
            if (holds_gold(&dense, &some, row / LENGTH, row % LENGTH))
                exact++, worst = fmax(worst, off);
            else
                others++, farthest = fmax(farthest, off);
        }
        close_answer(&dense);
        close_answer(&some);
    }
    printf("%zu rows with all gold keys: within %.1e; %zu without: up to %.2f off\n", exact, worst, others,
           farthest);
    assert_true(exact > 4000 && others > 1000);
    assert_true(worst < 2e-6);
    assert_true(farthest > 0.05);
    sp_sample_fini(&sample);
    sp_sampler_close(sampler);
    sp_fit_text_close(&text);
    sp_fit_close(fit);
    sp_model_close(model);
}

static int open_device(void **state)
{
    (void)state;
    sp_error error;
    assert_ok(sp_device_open("cpu", NULL, &device, &error), error);
    return 0;
}

static int close_device(void **state)
{
    (void)state;
    sp_device_close(device);
    return 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact_rows)};
    return cmocka_run_group_tests(tests, open_device, close_device) == 0 ? 0 : 1;
}
