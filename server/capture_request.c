/* See capture_request.h. */
#include "server/capture_request.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/asked.h"

static sp_status no_memory(sp_error *error)
{
    return sp_fail(error, SP_NO_MEMORY, "the request does not fit its memory");
}

/* --- input --- */

static sp_status read_input(const sp_body *body, uint32_t vocab, sp_request *out, sp_error *error)
{
    sp_item *item = sp_body_find(body, "input");
    if (!item) return sp_fail_param(error, SP_INVALID, "input", "input is missing");
    if (sp_item_is_text(item)) {
        out->prompt = sp_item_text(body, item, &out->prompt_size);
        return out->prompt ? SP_OK : no_memory(error);
    }
    if (!sp_item_is_array(item))
        return sp_fail_param(error, SP_INVALID, "input", "input must be a string or an array of token ids");
    size_t n = sp_item_count(item), i = 0;
    int32_t *ids = sp_arena_alloc(body->arena, n > 0 ? n : 1, sizeof *ids);
    if (n == 0) return sp_fail_param(error, SP_INVALID, "input", "input has no tokens");
    if (!ids) return no_memory(error);
    for (sp_item *one = sp_item_first(item); one; one = sp_item_next(one), i++) {
        double value;
        if (!sp_item_is_integer(one, 0, (double)vocab - 1, &value))
            return sp_fail_param(error, SP_INVALID, "input",
                                 "input must be a string or an array of token ids from 0 to %u", vocab - 1);
        ids[i] = (int32_t)value;
    }
    out->ids = ids;
    out->n_ids = n;
    return SP_OK;
}

/* A list of different numbers below n, made rising. */
static sp_status read_numbers(const sp_body *body, const char *name, uint32_t n, const uint32_t **out,
                              uint32_t *count, sp_error *error)
{
    sp_item *item = sp_body_find(body, name);
    if (!item) return SP_OK;
    uint8_t *chosen = sp_arena_alloc(body->arena, n, 1);
    uint32_t *list = sp_arena_alloc(body->arena, n, sizeof *list);
    if (!chosen || !list) return no_memory(error);
    bool good = sp_item_is_array(item) && sp_item_count(item) > 0;
    for (sp_item *one = good ? sp_item_first(item) : NULL; one && good; one = sp_item_next(one)) {
        double value;
        good = sp_item_is_integer(one, 0, (double)n - 1, &value);
        if (good) chosen[(uint32_t)value] = 1;
    }
    if (!good)
        return sp_fail_param(error, SP_INVALID, name,
                             "%s must be an array of one or more numbers from 0 to %u", name, n - 1);
    *count = 0;
    for (uint32_t i = 0; i < n; i++)
        if (chosen[i]) list[(*count)++] = i;
    *out = list;
    return SP_OK;
}

/* --- gold --- */

static sp_status read_alpha(sp_item *object, sp_normalizer *out, sp_error *error)
{
    sp_item *first = object && sp_item_is_object(object) ? sp_item_first(object) : NULL;
    double alpha;
    if (first && !sp_item_next(first) && strcmp(sp_item_name(first), "alpha") == 0 &&
        sp_item_is_between(first, 1, 2, &alpha) && alpha > 1) {
        float rounded = (float)alpha;
        out->alpha = rounded > 1 ? rounded : nextafterf(1, 2);
        return SP_OK;
    }
    return sp_fail_param(error, SP_INVALID, "gold.normalizer",
                         "gold.normalizer must be model, softmax, entmax15, sparsemax or {\"alpha\": a} with "
                         "1 < a <= 2");
}

static sp_status read_normalizer(sp_item *item, sp_normalizer *out, sp_error *error)
{
    static const struct {
        const char *name;
        float alpha;
    } known[] = {{"softmax", 1.0f}, {"entmax15", 1.5f}, {"sparsemax", 2.0f}, {"model", SP_GOLD_OF_RUN}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!sp_item_is_word(item, known[i].name)) continue;
        out->alpha = known[i].alpha;
        return SP_OK;
    }
    return read_alpha(item, out, error);
}

/* At most one of mass, top_k, min_weight. */
static sp_status read_cut(sp_item *gold, sp_gold *out, sp_error *error)
{
    sp_item *mass = sp_item_find(gold, "mass"), *top_k = sp_item_find(gold, "top_k");
    sp_item *least = sp_item_find(gold, "min_weight");
    double value;
    if (!!mass + !!top_k + !!least > 1)
        return sp_fail_param(error, SP_INVALID, "gold", "gold takes one of mass, top_k and min_weight");
    if (mass) {
        if (!sp_item_is_between(mass, 0, 1, &out->mass) || !(out->mass > 0))
            return sp_fail_param(error, SP_INVALID, "gold.mass", "gold.mass must be above 0, up to 1");
        out->cut = SP_CUT_MASS;
    } else if (top_k) {
        if (!sp_item_is_integer(top_k, 1, 16777216, &value))
            return sp_fail_param(error, SP_INVALID, "gold.top_k", "gold.top_k must be from 1 to 16777216");
        out->top_k = (uint32_t)value;
        out->cut = SP_CUT_TOP_K;
    } else if (least) {
        if (!sp_item_is_between(least, 0, 1, &out->min_weight) || !(out->min_weight > 0))
            return sp_fail_param(error, SP_INVALID, "gold.min_weight",
                                 "gold.min_weight must be above 0, up to 1");
        out->cut = SP_CUT_MIN_WEIGHT;
    }
    return SP_OK;
}

static sp_status read_gold(const sp_body *body, sp_capture_spec *out, sp_error *error)
{
    static const char *const known[] = {"normalizer", "mass", "top_k", "min_weight"};
    sp_item *gold = sp_body_find(body, "gold");
    if (!gold) return SP_OK;
    if (!sp_item_is_object(gold)) return sp_fail_param(error, SP_INVALID, "gold", "gold must be an object");
    for (sp_item *item = sp_item_first(gold); item; item = sp_item_next(item)) {
        size_t i = 0;
        while (i < 4 && strcmp(sp_item_name(item), known[i]) != 0) i++;
        if (i == 4)
            return sp_fail_param(error, SP_INVALID, "gold",
                                 "unknown member \"%.60s\"; gold takes normalizer and one of mass, top_k, "
                                 "min_weight",
                                 sp_item_name(item));
    }
    sp_item *normalizer = sp_item_find(gold, "normalizer");
    out->gold.normalizer.alpha = SP_GOLD_OF_RUN;
    sp_status status = normalizer ? read_normalizer(normalizer, &out->gold.normalizer, error) : SP_OK;
    if (status == SP_OK) status = read_cut(gold, &out->gold, error);
    out->has_gold = normalizer || out->gold.cut != SP_CUT_NONE;
    return status;
}

/* --- labels --- */

static sp_status bad_labels(const char *name, sp_error *error)
{
    char field[96];
    (void)snprintf(field, sizeof field, "labels.%.60s", name);
    return sp_fail_param(error, SP_INVALID, field, "%s must be an array of strings, one a token", field);
}

static sp_status read_set(const sp_body *body, sp_item *item, sp_label_set *out, sp_error *error)
{
    size_t i = 0, size;
    if (!sp_item_is_array(item)) return bad_labels(sp_item_name(item), error);
    const char **labels = sp_arena_alloc(body->arena, sp_item_count(item) + 1, sizeof *labels);
    if (!labels) return no_memory(error);
    for (sp_item *one = sp_item_first(item); one; one = sp_item_next(one), i++) {
        if (!sp_item_is_text(one)) return bad_labels(sp_item_name(item), error);
        labels[i] = sp_item_text(body, one, &size);
        if (!labels[i]) return no_memory(error);
        if (strlen(labels[i]) != size) return bad_labels(sp_item_name(item), error);
    }
    *out = (sp_label_set){.name = sp_item_name(item), .labels = labels, .n = (uint32_t)i};
    return SP_OK;
}

static sp_status read_labels(const sp_body *body, sp_capture_spec *out, sp_error *error)
{
    sp_item *item = sp_body_find(body, "labels");
    if (!item) return SP_OK;
    if (!sp_item_is_object(item) || sp_item_count(item) > SP_MAX_LABEL_SETS)
        return sp_fail_param(error, SP_INVALID, "labels",
                             "labels must be an object of at most %d arrays of strings", SP_MAX_LABEL_SETS);
    sp_label_set *sets = sp_arena_alloc(body->arena, SP_MAX_LABEL_SETS, sizeof *sets);
    if (!sets) return no_memory(error);
    for (sp_item *one = sp_item_first(item); one; one = sp_item_next(one)) {
        sp_status status = read_set(body, one, &sets[out->n_labels], error);
        if (status != SP_OK) return status;
        out->n_labels++;
    }
    out->labels = sets;
    return SP_OK;
}

/* --- all of it --- */

sp_status sp_capture_request_read(const sp_body *body, const sp_engine_info *info, sp_capture_request *out,
                                  sp_error *error)
{
    static const char *const known[] = {"model",     "input",  "pair",  "target", "gold",
                                        "attention", "layers", "heads", "labels", NULL};
    sp_request *request = &out->request;
    sp_request_init(request);
    request->max_tokens = 0;
    sp_status status = sp_asked_only(body, known, error);
    if (!status) status = sp_asked_adapter(body, info, &request->adapter, error);
    if (!status && sp_body_find(body, "pair"))
        status =
            sp_fail_param(error, SP_INVALID, "pair", "pair is for encoders; %s generates text", info->arch);
    if (!status && sp_body_find(body, "target"))
        status = sp_fail_param(error, SP_INVALID, "target", "target is for models with an encoder");
    if (!status) status = read_input(body, info->hparams.vocab, request, error);
    if (!status)
        status = read_numbers(body, "layers", info->hparams.n_layers, &out->spec.layers, &out->spec.n_layers,
                              error);
    if (!status)
        status =
            read_numbers(body, "heads", info->hparams.n_heads, &out->spec.heads, &out->spec.n_heads, error);
    if (!status) status = read_gold(body, &out->spec, error);
    if (!status) status = read_labels(body, &out->spec, error);
    if (!status && sp_body_raw(body, "attention", &request->attention, &request->attention_size)) {
        request->attention = sp_arena_copy(body->arena, request->attention, request->attention_size);
        if (!request->attention) status = no_memory(error);
    }
    return status;
}
