/* Reads the input of `sparsed attend`: shapes that fit each other, metadata with their defaults.
 *
 * Metadata values are strings; numbers are plain decimal. Defaults depend on each other in this order:
 * causal, offset (m - n when causal, else 0), valid (m), valid_q (self and encoder: the queries before
 * `valid`; cross: all). Tests: tests/golden/test_attend_golden.c, tests/unit/engine/test_apply.c */
#include "engine/attention/apply_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADS = 65536, MAX_DIM = 256 };
#define MAX_LENGTH ((uint64_t)1 << 30)

static sp_status take(const sp_weights *weights, const char *name, sp_tensor *out, sp_error *error)
{
    const sp_tensor *found = sp_weights_find(weights, name);
    if (!found)
        return sp_fail_param(error, SP_DATA, name, "tensor '%s' is missing; attend reads q, k and v", name);
    if (found->rank != 3) {
        return sp_fail_param(error, SP_DATA, name,
                             "tensor '%s' has %u dimensions, not 3: [heads, length, size]", name,
                             found->rank);
    }
    if (found->shape[0] < 1 || found->shape[0] > MAX_HEADS || found->shape[1] < 1 ||
        found->shape[1] > MAX_LENGTH || found->shape[2] < 1 || found->shape[2] > MAX_DIM) {
        return sp_fail_param(
            error, SP_DATA, name,
            "tensor '%s' has shape [%zu, %zu, %zu]; heads go from 1 to %d, the length from 1 to 2^30, "
            "the size of a head from 1 to %d",
            name, found->shape[0], found->shape[1], found->shape[2], MAX_HEADS, MAX_DIM);
    }
    return sp_weights_take(weights, name, 3, found->shape, out, error);
}

/* The other form of a tensor, of the same shape; may be absent. */
static sp_status take_pre(const sp_weights *weights, const char *name, const sp_tensor *like, sp_tensor *out,
                          sp_error *error)
{
    if (!sp_weights_find(weights, name)) return SP_OK;
    return sp_weights_take(weights, name, 3, like->shape, out, error);
}

static sp_status take_tensors(sp_apply_case *self, sp_error *error)
{
    sp_status status = take(self->weights, "q", &self->q, error);
    if (status == SP_OK) status = take(self->weights, "k", &self->k, error);
    if (status == SP_OK) status = take(self->weights, "v", &self->v, error);
    if (status) return status;
    const size_t *q = self->q.shape, *k = self->k.shape, *v = self->v.shape;
    if (k[2] != q[2] || q[0] % k[0] != 0) {
        return sp_fail_param(
            error, SP_DATA, "k",
            "tensor 'k' is [%zu, %zu, %zu] beside q [%zu, %zu, %zu]: sizes of heads must be equal and "
            "the heads of q a multiple of those of k",
            k[0], k[1], k[2], q[0], q[1], q[2]);
    }
    if (v[0] != k[0] || v[1] != k[1]) {
        return sp_fail_param(
            error, SP_DATA, "v",
            "tensor 'v' is [%zu, %zu, %zu] beside k [%zu, %zu, %zu]: heads and lengths must be equal", v[0],
            v[1], v[2], k[0], k[1], k[2]);
    }
    self->n_heads = (uint32_t)q[0], self->n = (uint32_t)q[1], self->head_dim = (uint32_t)q[2];
    self->n_kv_heads = (uint32_t)k[0], self->m = (uint32_t)k[1], self->value_dim = (uint32_t)v[2];
    status = take_pre(self->weights, "q_pre", &self->q, &self->q_pre, error);
    return status ? status : take_pre(self->weights, "k_pre", &self->k, &self->k_pre, error);
}

/* A decimal integer from 0 to max; *out keeps its value where the key is absent. */
static sp_status read_integer(const sp_weights *weights, const char *key, uint64_t max, uint32_t *out,
                              sp_error *error)
{
    const char *text = sp_weights_metadata(weights, key);
    if (!text) return SP_OK;
    uint64_t value = 0;
    size_t n = strlen(text);
    bool fits = n >= 1 && n <= 10 && strspn(text, "0123456789") == n;
    for (size_t i = 0; fits && i < n; i++) value = 10 * value + (uint64_t)(text[i] - '0');
    if (!fits || value > max) {
        return sp_fail_param(error, SP_INVALID, key, "metadata '%s' must be an integer from 0 to %llu", key,
                             (unsigned long long)max);
    }
    *out = (uint32_t)value;
    return SP_OK;
}

/* The index of the value in a NULL-terminated list; *out keeps its value where the key is absent. */
static sp_status read_choice(const sp_weights *weights, const char *key, const char *const *values,
                             const char *shown, uint32_t *out, sp_error *error)
{
    const char *text = sp_weights_metadata(weights, key);
    if (!text) return SP_OK;
    for (uint32_t i = 0; values[i]; i++) {
        if (strcmp(values[i], text) != 0) continue;
        *out = i;
        return SP_OK;
    }
    return sp_fail_param(error, SP_INVALID, key, "metadata '%s' must be %s", key, shown);
}

static sp_status read_choices(sp_apply_case *self, sp_error *error)
{
    static const char *const booleans[] = {"false", "true", NULL}, *const edges[] = {"csr", "none", NULL};
    static const char *const kinds[] = {"self", "cross", "encoder", NULL};
    uint32_t causal = 0, kind = 0, none = 0;
    sp_status status = read_choice(self->weights, "causal", booleans, "true or false", &causal, error);
    if (!status) status = read_choice(self->weights, "kind", kinds, "self, cross or encoder", &kind, error);
    if (!status) status = read_choice(self->weights, "edges", edges, "csr or none", &none, error);
    self->causal = causal == 1;
    self->kind = (sp_attend_kind)kind;
    self->wants_edges = none == 0;
    return status;
}

static sp_status read_lengths(sp_apply_case *self, sp_error *error)
{
    bool has_offset = sp_weights_metadata(self->weights, "offset") != NULL;
    if (self->causal && !has_offset && self->m < self->n) {
        return sp_fail_param(
            error, SP_INVALID, "offset",
            "causal with %u keys for %u queries needs metadata 'offset', the position of query 0", self->m,
            self->n);
    }
    self->offset = self->causal && !has_offset ? self->m - self->n : 0;
    self->valid = self->m;
    sp_status status = read_integer(self->weights, "layer", 65535, &self->layer, error);
    if (!status) status = read_integer(self->weights, "offset", MAX_LENGTH, &self->offset, error);
    if (!status) status = read_integer(self->weights, "valid", self->m, &self->valid, error);
    uint32_t before = self->valid > self->offset ? self->valid - self->offset : 0;
    self->valid_q = self->kind == SP_ATTEND_CROSS || before > self->n ? self->n : before;
    if (!status) status = read_integer(self->weights, "valid_q", self->n, &self->valid_q, error);
    return status;
}

static sp_status read_scale(sp_apply_case *self, sp_error *error)
{
    const char *text = sp_weights_metadata(self->weights, "scale");
    double scale = 1 / sqrt((double)self->head_dim);
    if (text) {
        char *end;
        scale = strtod(text, &end);
        if (end == text || *end != 0 || !isfinite((float)scale)) {
            return sp_fail_param(error, SP_INVALID, "scale", "metadata 'scale' must be a finite number");
        }
    }
    self->scale = (float)scale;
    return SP_OK;
}

static sp_status read_attention(sp_apply_case *self, sp_error *error)
{
    const sp_attention_host host = {
        .n_heads = self->n_heads, .model_normalizer = {.alpha = 1.0f}, .allow_measure = true};
    const char *text = sp_weights_metadata(self->weights, "attention");
    return sp_attention_parse(text, text ? strlen(text) : 0, &host, &self->attention, error);
}

sp_status sp_apply_case_open(const char *name, const void *bytes, size_t size, sp_apply_case *out,
                             sp_error *error)
{
    *out = (sp_apply_case){0};
    sp_status status = sp_weights_parse(name, bytes, size, &out->weights, error);
    if (status) return status;
    status = take_tensors(out, error);
    if (!status) status = read_choices(out, error);
    if (!status) status = read_lengths(out, error);
    if (!status) status = read_scale(out, error);
    if (!status) status = read_attention(out, error);
    if (status) sp_apply_case_close(out);
    return status;
}

void sp_apply_case_close(sp_apply_case *self)
{
    sp_weights_close(self->weights);
    self->weights = NULL;
}

void sp_apply_convert(const sp_tensor *tensor, size_t row, float *to)
{
    size_t width = tensor->shape[2];
    const uint8_t *from = (const uint8_t *)tensor->data + row * width * sp_dtype_size(tensor->dtype);
    (void)sp_convert_to_f32(tensor->dtype, from, to, width);
}
