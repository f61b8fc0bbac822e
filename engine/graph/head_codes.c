/* See head_codes.h. */
#include "engine/graph/head_codes.h"

#include "engine/attention/codes.h"

#define KEYS_A_STEP 2048u

struct sp_head_codes {
    const sp_head_source *source;
    sp_codes *codes;
    uint32_t n_keys, done; /* keys that are wanted, and those that are there */
    float *k;              /* (KEYS_A_STEP, n_kv_heads, head_dim); NULL: the run's own are read */
};

sp_status sp_head_codes_open(const sp_head_source *source, bool decoding, sp_head_codes **out,
                             sp_error *error)
{
    const sp_attention *attention = decoding ? source->decoding : source->attention;
    uint8_t *const *sides = decoding ? source->decoding_sides : source->sides;
    bool chosen_whole = source->decoding && !decoding;
    *out = NULL;
    if (!source->fit || !attention->backend->codes) return SP_OK;
    sp_head_codes *codes = sp_alloc_zero(1, sizeof *codes);
    if (!codes) return sp_fail(error, SP_NO_MEMORY, "no memory for projected keys");
    codes->source = source;
    codes->n_keys = chosen_whole ? source->n_prompt : source->kv.n_keys;
    const sp_codes_options options = {.device = source->device,
                                      .n_heads = source->n_heads,
                                      .n_kv_heads = source->n_kv_heads,
                                      .head_dim = source->kv.head_dim,
                                      .dtype = source->kv.dtype,
                                      .max_keys = codes->n_keys,
                                      .fits = &source->fit,
                                      .n_fits = 1,
                                      .own_pages = !sides};
    sp_status status = sp_codes_open(&options, &codes->codes, error);
    if (status == SP_OK && !sides) {
        codes->k = sp_alloc((size_t)KEYS_A_STEP * source->n_kv_heads, source->kv.head_dim * sizeof(float));
        if (!codes->k) status = sp_fail(error, SP_NO_MEMORY, "no memory for projected keys");
    }
    if (status != SP_OK ||
        !sp_codes_select(codes->codes, attention, source->fit, source->layer, source->kind)) {
        sp_head_codes_close(codes);
        return status;
    }
    for (uint32_t t = 0; sides && t * SP_TILE < codes->n_keys; t++) sp_codes_place(codes->codes, t, sides[t]);
    *out = codes;
    return SP_OK;
}

void sp_head_codes_close(sp_head_codes *codes)
{
    if (!codes) return;
    sp_codes_close(codes->codes);
    sp_free(codes->k);
    sp_free(codes);
}

bool sp_head_codes_step(sp_head_codes *codes)
{
    if (!codes || !codes->k) return true;
    const sp_kv_view *kv = &codes->source->kv;
    uint32_t n = codes->n_keys - codes->done < KEYS_A_STEP ? codes->n_keys - codes->done : KEYS_A_STEP;
    size_t row = kv->head_dim * sp_dtype_size(kv->dtype);
    const float *k = codes->source->fit_k;
    for (uint32_t i = 0; i < n && !k; i++) {
        uint32_t at = codes->done + i;
        for (uint32_t h = 0; h < codes->source->n_kv_heads; h++)
            (void)sp_convert_to_f32(
                kv->dtype, kv->pages[at / SP_TILE] + h * kv->head_bytes + at % SP_TILE * row,
                codes->k + ((size_t)i * codes->source->n_kv_heads + h) * kv->head_dim, kv->head_dim);
    }
    k = k ? k + (size_t)codes->done * codes->source->n_kv_heads * kv->head_dim : codes->k;
    if (n > 0) sp_codes_append(codes->codes, codes->done, n, k);
    codes->done += n;
    return codes->done == codes->n_keys;
}

void sp_head_codes_attach(sp_head_codes *codes, sp_plan_request *request)
{
    if (codes) sp_codes_attach(codes->codes, request->n_keys, request);
}
