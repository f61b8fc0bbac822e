/* Fingerprints of a folder's model and of an adapter against SHA-256 taken of the stored tensors by hand. */
#include "tests/support/test.h"

#include <stdio.h>
#include <string.h>

#include "models/adapter.h"
#include "models/fingerprint.h"

#define AUSTEN SPARSED_ROOT "/models/austen"

static void add(sp_sha256_state *hash, const sp_weights *weights, const char *format, unsigned layer)
{
    char name[128];
    snprintf(name, sizeof name, format, layer);
    const sp_tensor *tensor = sp_weights_find(weights, name);
    assert_non_null(tensor);
    sp_sha256_add(hash, tensor->data, tensor->bytes);
}

static void test_folder(void **state)
{
    (void)state;
    sp_device *device;
    sp_model *model;
    sp_weights *weights;
    sp_sha256_state hash;
    char digest[65];
    const sp_device_options device_options = {.n_threads = 1};
    sp_model_options options = {.fingerprint = true};
    assert_int_equal(sp_device_open("cpu", &device_options, &device, NULL), SP_OK);
    assert_int_equal(sp_model_open(AUSTEN, device, &options, &model, NULL), SP_OK);
    assert_int_equal(sp_weights_open(AUSTEN, NULL, &weights, NULL), SP_OK);
    sp_sha256_begin(&hash);
    for (unsigned layer = 0; layer < model->hparams.n_layers; layer++) {
        add(&hash, weights, "model.layers.%u.self_attn.q_proj.weight", layer);
        add(&hash, weights, "model.layers.%u.self_attn.k_proj.weight", layer);
    }
    sp_sha256_end_hex(&hash, digest);
    assert_string_equal(model->fingerprint, digest);
    sp_weights_close(weights);
    sp_model_close(model);
    options.fingerprint = false;
    assert_int_equal(sp_model_open(AUSTEN, device, &options, &model, NULL), SP_OK);
    assert_string_equal(model->fingerprint, "");
    sp_model_close(model);
    sp_device_close(device);
}

/* Tensors of a GGUF file count as they lie there, before their rows are put in order. */
static void test_gguf(void **state)
{
    (void)state;
    sp_gguf *gguf;
    sp_sha256_state hash;
    char digest[65], wanted[65];
    static uint8_t file[1024];
    size_t n = 0;
    /* One F32 tensor blk.0.attn_k.weight of 8 numbers, data at the next multiple of 32. */
    static const char name[] = "blk.0.attn_k.weight";
    const uint64_t head[] = {1, 0, sizeof name - 1};
    memcpy(file, "GGUF\3\0\0\0", 8);
    memcpy(file + 8, head, sizeof head);
    n = 8 + sizeof head;
    memcpy(file + n, name, sizeof name - 1);
    n += sizeof name - 1;
    const uint32_t dims = 1, type = 0;
    const uint64_t count = 8, offset = 0;
    memcpy(file + n, &dims, 4);
    memcpy(file + n + 4, &count, 8);
    memcpy(file + n + 12, &type, 4);
    memcpy(file + n + 16, &offset, 8);
    n = (n + 24 + 31) / 32 * 32;
    for (size_t i = 0; i < 32; i++) file[n + i] = (uint8_t)(i * 3);
    sp_error error = {0};
    assert_int_equal(sp_gguf_parse("made", file, n + 32, &gguf, &error), SP_OK);
    sp_sha256_begin(&hash);
    assert_int_equal(sp_fingerprint_weights(&hash, NULL, gguf, 2, &error), SP_OK);
    sp_sha256_end_hex(&hash, digest);
    sp_sha256_begin(&hash);
    sp_sha256_add(&hash, file + n, 32);
    sp_sha256_end_hex(&hash, wanted);
    assert_string_equal(digest, wanted);
    sp_gguf_close(gguf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_folder), cmocka_unit_test(test_gguf)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
