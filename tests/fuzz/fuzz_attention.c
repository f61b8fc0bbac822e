/* Attention objects from bytes: the first byte chooses the host, the rest is the JSON text.
 *
 * Oracle: nothing crashes; a refusal is SP_INVALID naming a field under `attention`; what is accepted has
 * parameters in range, a report that is valid JSON, and a plan that is valid for a few rows, causal or not.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <math.h>

#include "engine/attention/codes.h"
#include "tests/support/random_fit.h"

enum { ROWS = 70, KEYS = 150, DIM = 8 };

static void check_params(const sp_attention *attention)
{
    const sp_backend *backend = attention->backend;
    for (size_t i = 0; i < backend->n_params; i++) {
        const sp_param *param = &backend->params[i];
        double value = attention->params[i], max = param->max;
        for (size_t n = 0; param->type == SP_PARAM_NAME && param->values[n]; n++) max = (double)n;
        if (isnan(value) && isnan(param->fallback)) continue;
        if (!(value >= param->min && value <= max)) abort();
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

/* A fit for 2 or for 12 heads, numbers, and a device: made once. */
typedef struct scene {
    sp_fit *fit;
    float q[(KEYS + 256) * 12 * DIM], k[KEYS * 6 * DIM];
} scene;
static sp_device *device;

static scene *scene_of(uint32_t n_heads)
{
    static scene scenes[2];
    scene *s = &scenes[n_heads > 2];
    const sp_device_options options = {.n_threads = 1};
    if (!device && sp_device_open("cpu", &options, &device, NULL) != SP_OK) abort();
    if (s->fit) return s;
    s->fit = test_fit_new(n_heads, n_heads / 2, DIM, false, n_heads);
    test_finder_fill(s->q, sizeof s->q / sizeof *s->q, 1);
    test_finder_fill(s->k, sizeof s->k / sizeof *s->k, 2);
    return s;
}

static void check_plan(const sp_attention *attention, uint32_t n_heads, uint8_t seed)
{
    scene *s = scene_of(n_heads);
    const sp_fit *const fits[] = {s->fit};
    const sp_codes_options options = {.device = device,
                                      .n_heads = n_heads,
                                      .n_kv_heads = n_heads / 2,
                                      .head_dim = DIM,
                                      .dtype = SP_F32,
                                      .max_keys = KEYS,
                                      .fits = fits,
                                      .n_fits = 1,
                                      .own_pages = true};
    sp_codes *codes;
    sp_plan plan;
    sp_plan_init(&plan, (size_t)1 << 24);
    if (sp_codes_open(&options, &codes, NULL) != SP_OK) abort();
    sp_codes_select(codes, attention, s->fit, 0, SP_ATTEND_SELF);
    sp_codes_append(codes, 0, KEYS, s->k);
    sp_plan_request request = {.attention = attention,
                               .layer = attention->backend->caps & SP_CAP_NEEDS_FIT ? 0 : seed % 3,
                               .causal = seed & 4,
                               .position = seed,
                               .rows = ROWS,
                               .n_keys = KEYS,
                               .n_heads = n_heads,
                               .n_kv_heads = n_heads / 2,
                               .device = device,
                               .q = s->q + (size_t)seed * n_heads * DIM,
                               .whole_q = s->q,
                               .whole_rows = seed + ROWS};
    sp_codes_attach(codes, KEYS, &request);
    if (sp_attention_plan(&request, &plan, NULL) != SP_OK || sp_plan_validate(&plan, NULL) != SP_OK) abort();
    sp_plan_fini(&plan);
    sp_codes_close(codes);
}

/* Refusals name a field. */
static bool refused(sp_status status, const sp_error *error)
{
    if (status == SP_OK) return false;
    if (status != SP_INVALID || strncmp(error->param, "attention", 9) != 0 || !error->message[0]) abort();
    return true;
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
    if (refused(status, &error)) return 0;
    check_params(&attention);
    check_report(&attention);
    status = sp_attention_resolve(&attention, scene_of(host.n_heads)->fit, 0, 1, SP_ATTEND_SELF, &error);
    if (refused(status, &error)) return 0;
    check_params(&attention);
    check_report(&attention);
    check_plan(&attention, host.n_heads, data[0]);
    if (!attention.decode_backend) return 0;
    sp_attention decode = sp_attention_decoding(&attention);
    check_params(&decode);
    check_plan(&decode, host.n_heads, data[0]);
    return 0;
}
