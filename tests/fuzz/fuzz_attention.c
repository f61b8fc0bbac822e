/* Attention objects from bytes: the first byte chooses the host, the rest is the JSON text.
 *
 * Oracle: nothing crashes; a refusal is SP_INVALID naming a field under `attention`; what is accepted has
 * parameters in range, a report that is valid JSON, and a plan that is valid for a few rows, causal or not.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention.h"

static void check_params(const sp_attention *attention)
{
    const sp_backend *backend = attention->backend;
    for (size_t i = 0; i < backend->n_params; i++) {
        double value = attention->params[i];
        if (!(value >= backend->params[i].min && value <= backend->params[i].max)) abort();
    }
    if (!(attention->normalizer.alpha >= 1 && attention->normalizer.alpha <= 2)) abort();
}

static void check_report(const sp_attention *attention)
{
    const sp_attention_report report = {.attention = *attention, .device = "cpu"};
    sp_buffer text;
    sp_json_writer writer;
    sp_buffer_init(&text, 1 << 16);
    sp_json_writer_init(&writer, &text);
    sp_attention_report_write(&report, &writer);
    if (text.failed || sp_json_validate(text.data, text.size, NULL) != SP_OK) abort();
    sp_buffer_fini(&text);
}

static void check_plan(const sp_attention *attention, uint32_t n_heads, uint8_t seed)
{
    sp_plan plan;
    sp_plan_init(&plan, (size_t)1 << 24);
    const sp_plan_request request = {.attention = attention,
                                     .layer = seed % 3,
                                     .causal = seed & 4,
                                     .position = seed,
                                     .rows = 70,
                                     .n_keys = 150,
                                     .n_heads = n_heads,
                                     .n_kv_heads = n_heads / 2};
    if (sp_attention_plan(&request, &plan, NULL) != SP_OK || sp_plan_validate(&plan, NULL) != SP_OK) abort();
    sp_plan_fini(&plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    const sp_attention_host host = {.n_heads = data[0] & 1 ? 2 : 12,
                                    .model_normalizer = {.alpha = data[0] & 2 ? 1.5f : 1.0f},
                                    .generates = data[0] & 8,
                                    .allow_measure = data[0] & 16};
    sp_attention attention;
    sp_error error = {0};
    sp_status status = sp_attention_parse((const char *)data + 1, size - 1, &host, &attention, &error);
    if (status != SP_OK) {
        if (status != SP_INVALID || strncmp(error.param, "attention", 9) != 0 || !error.message[0]) abort();
        return 0;
    }
    check_params(&attention);
    check_report(&attention);
    check_plan(&attention, host.n_heads, data[0]);
    return 0;
}
