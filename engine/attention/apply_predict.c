/* See apply_predict.h. The whole case is one sequence: all its queries are there before the first plan, so
 * that backends that do not stream are served as well. Tests: tests/golden/test_attend_golden.c,
 * tests/unit/engine/test_apply.c */
#include "engine/attention/apply_predict.h"

#include <string.h>

/* Whether the input brings tensors of a fit. */
static bool has_fit(const sp_apply_case *input)
{
    for (size_t i = 0; i < sp_weights_count(input->weights); i++)
        if (strncmp(sp_weights_name(input->weights, i), "layers.", 7) == 0) return true;
    return false;
}

/* Whether the fit takes vectors before the rotary embedding and the input has them. */
static bool takes_pre(const sp_fit *fit, const sp_apply_case *input)
{
    return fit->rope_pre && input->q_pre.data && input->k_pre.data;
}

sp_status sp_apply_predictor_open(sp_apply_predictor *self, sp_apply_case *input, const sp_fit *served,
                                  sp_error *error)
{
    sp_status status = SP_OK;
    if (!(input->attention.backend->caps & SP_CAP_NEEDS_FIT)) return SP_OK;
    self->fit = served;
    if (has_fit(input)) {
        status = sp_fit_from("the input", input->weights, true, &self->own, error);
        self->fit = self->own;
    }
    if (status == SP_OK && self->fit)
        status = sp_fit_check(self->fit, "", self->fit->n_layers, input->n_heads, input->n_kv_heads,
                              input->head_dim, error);
    if (status == SP_OK)
        status = sp_attention_resolve(&input->attention, self->fit, input->layer, input->layer + 1,
                                      input->kind, error);
    if (status == SP_OK && self->fit->rope_pre && !takes_pre(self->fit, input))
        sp_attention_note(&input->attention,
                          "the fit takes vectors before the rotary embedding; without tensors q_pre and "
                          "k_pre, q and k were taken for them");
    return status;
}

/* Takes a * b bytes off *left; false when they are more or overflow. */
static bool spend(size_t *left, size_t a, size_t b)
{
    size_t bytes;
    if (!sp_mul_size(a, b, &bytes) || bytes > *left) return false;
    *left -= bytes;
    return true;
}

static sp_status open_codes(sp_apply_predictor *self, const sp_codes_options *options,
                            const sp_apply_case *input, size_t limit, sp_error *error)
{
    size_t tiles = ((size_t)input->m + SP_TILE - 1) / SP_TILE, left = limit;
    size_t row = (size_t)input->n_heads * input->head_dim * sizeof(float);
    if (!spend(&left, tiles, sp_codes_page_bytes(options->fits, 1, input->n_heads, SP_F32)) ||
        !spend(&left, (size_t)input->valid_q + 1, row) ||
        !spend(&left, SP_TILE * sizeof(float), (size_t)input->n_kv_heads * input->head_dim) ||
        !spend(&left, 1, sp_codes_scratch_bytes(options)))
        return sp_fail(error, SP_TOO_LARGE, "predicting needs more than %zu bytes; shorten the input", limit);
    self->q = sp_alloc((size_t)input->valid_q + 1, row);
    if (!self->q) return sp_fail(error, SP_NO_MEMORY, "out of memory for %u queries", input->valid_q);
    return sp_codes_open(options, &self->codes, error);
}

/* k: room for 64 keys of all heads. Nothing is turned here: what the fit takes is given. */
static void fill(sp_apply_predictor *self, const sp_apply_case *input, float *k)
{
    size_t kv_heads = input->n_kv_heads, heads = input->n_heads, dim = input->head_dim;
    bool pre = takes_pre(self->fit, input);
    const sp_tensor *from_q = pre ? &input->q_pre : &input->q, *from_k = pre ? &input->k_pre : &input->k;
    sp_codes_select(self->codes, &input->attention, self->fit, input->layer, input->kind);
    for (uint32_t at = 0; at < input->valid; at += SP_TILE) {
        uint32_t n = input->valid - at < SP_TILE ? input->valid - at : SP_TILE;
        for (size_t i = 0; i < n * kv_heads; i++)
            sp_apply_convert(from_k, i % kv_heads * input->m + at + i / kv_heads, k + i * dim);
        sp_codes_append(self->codes, at, n, k);
    }
    for (size_t i = 0; i < input->valid_q * heads; i++)
        sp_apply_convert(from_q, i % heads * input->n + i / heads, self->q + i * dim);
}

sp_status sp_apply_predictor_prepare(sp_apply_predictor *self, sp_device *device, const sp_apply_case *input,
                                     size_t limit, sp_error *error)
{
    self->ready = true;
    if (!self->fit) return SP_OK;
    sp_scratch_init(&self->scratch, limit);
    const sp_codes_options options = {.device = device,
                                      .n_heads = input->n_heads,
                                      .n_kv_heads = input->n_kv_heads,
                                      .head_dim = input->head_dim,
                                      .dtype = SP_F32,
                                      .max_keys = input->m,
                                      .fits = &self->fit,
                                      .n_fits = 1,
                                      .own_pages = true};
    sp_status status = open_codes(self, &options, input, limit, error);
    if (status != SP_OK) return status;
    float *k = sp_alloc(SP_TILE * (size_t)input->n_kv_heads, input->head_dim * sizeof *k);
    if (!k) return sp_fail(error, SP_NO_MEMORY, "out of memory for keys");
    fill(self, input, k);
    sp_free(k);
    return SP_OK;
}

void sp_apply_predictor_attach(sp_apply_predictor *self, const sp_apply_case *input, uint32_t row,
                               sp_plan_request *request)
{
    if (!self->fit) return;
    sp_codes_attach(self->codes, input->valid, request);
    request->scratch = &self->scratch;
    request->q = self->q + (size_t)row * input->n_heads * input->head_dim;
    request->whole_q = self->q;
    request->whole_position = input->offset;
    request->whole_rows = input->valid_q;
}

void sp_apply_predictor_fini(sp_apply_predictor *self)
{
    sp_codes_close(self->codes);
    sp_fit_close(self->own);
    sp_scratch_fini(&self->scratch);
    sp_free(self->q);
}
