/* The names and the metadata of a fit file. See fit_read.c. */
#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "engine/sparsefinder/fit_parts.h"

#define MAX_BLOCK (1u << 20)

static const char *const leaf_names[SP_FIT_NO_LEAF] = {
    "q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias", "centroids", "bins", "thresholds"};

/* Digits without a leading zero, 1..max; moves *text behind them. */
static bool read_number(const char **text, uint32_t min, uint32_t max, uint32_t *out)
{
    uint64_t value = 0;
    const char *at = *text;
    for (; *at >= '0' && *at <= '9' && at - *text < 10; at++) value = value * 10 + (uint64_t)(*at - '0');
    if (at == *text || (**text == '0' && at - *text > 1) || value < min || value > max) return false;
    *text = at;
    *out = (uint32_t)value;
    return true;
}

static bool skip(const char **text, const char *what)
{
    size_t n = strlen(what);
    if (strncmp(*text, what, n) != 0) return false;
    *text += n;
    return true;
}

/* False for a name that is no part of a fit. */
bool sp_fit_read_name(const char *name, sp_fit_place *out)
{
    *out = (sp_fit_place){.what = SP_FIT_NO_LEAF};
    if (!skip(&name, "layers.") || !read_number(&name, 0, SP_FIT_MAX_LAYERS - 1, &out->layer)) return false;
    if (skip(&name, ".cross."))
        out->kind = 1;
    else if (!skip(&name, ".self."))
        return false;
    if (skip(&name, "dot."))
        out->type = SP_FIT_DOT;
    else if (skip(&name, "cluster")) {
        out->type = SP_FIT_CLUSTER;
        if (!read_number(&name, 1, SP_FIT_MAX_CENTROIDS, &out->size) || !skip(&name, ".")) return false;
    } else if (skip(&name, "block")) {
        out->type = SP_FIT_BLOCK;
        if (!read_number(&name, 1, MAX_BLOCK, &out->size) || !skip(&name, ".")) return false;
    }
    for (out->what = 0; out->what < SP_FIT_NO_LEAF; out->what++)
        if (skip(&name, leaf_names[out->what])) break;
    if (out->what == SP_FIT_NO_LEAF) return false;
    if (*name == 0) return true;
    uint32_t min = out->what == SP_FIT_BINS ? 2 : 1;
    uint32_t max = out->what == SP_FIT_THRESHOLDS ? 100 : SP_FIT_MAX_CENTROIDS;
    return out->what >= SP_FIT_CENTROIDS && skip(&name, ".") && read_number(&name, min, max, &out->table) &&
           *name == 0;
}

void sp_fit_name_set(char out[96], size_t place, const sp_fit_set *set)
{
    static const char *const parts[] = {"", "dot.", "cluster", "block"};
    char size[16] = "";
    if (set->size) snprintf(size, sizeof size, "%u.", (unsigned)set->size);
    snprintf(out, 96, "layers.%u.%s.%s%s", (unsigned)(place / 2), place % 2 ? "cross" : "self",
             parts[set->type], size);
}

void sp_fit_set_label(const sp_fit_set *set, char out[32])
{
    static const char *const names[] = {"default", "dot", "cluster", "block"};
    char size[16] = "";
    if (set->size) snprintf(size, sizeof size, "%u", (unsigned)set->size);
    snprintf(out, 32, "%s%s", names[set->type], size);
}

/* --- metadata --- */

static const char *said(const sp_fit_reading *r, const char *key)
{
    return sp_weights_metadata(r->weights, key);
}

static sp_status fail_key(const sp_fit_reading *r, const char *key, const char *wanted)
{
    const char *value = said(r, key);
    return sp_fail_param(r->error, SP_DATA, key, "%s: metadata %s is %s%.60s%s, not %s", r->file, key,
                         value ? "'" : "", value ? value : "missing", value ? "'" : "", wanted);
}

/* An unsigned decimal number; absent is allowed where `required` is false and leaves *out alone. */
static sp_status read_uint(const sp_fit_reading *r, const char *key, bool required, uint32_t min,
                           uint32_t max, uint32_t *out)
{
    char wanted[48];
    const char *text = said(r, key);
    snprintf(wanted, sizeof wanted, "a number from %u to %u", (unsigned)min, (unsigned)max);
    if (!text) return required ? fail_key(r, key, wanted) : SP_OK;
    return read_number(&text, min, max, out) && *text == 0 ? SP_OK : fail_key(r, key, wanted);
}

/* A number in (low, high]; absent leaves *out alone. */
static sp_status read_real(const sp_fit_reading *r, const char *key, double low, double high, double *out)
{
    char wanted[64], *end;
    const char *text = said(r, key);
    if (!text) return SP_OK;
    snprintf(wanted, sizeof wanted, "a number above %g and at most %g", low, high);
    errno = 0;
    double value = strtod(text, &end);
    if (text[0] < '0' || text[0] > '9' || *end || errno || !(value > low) || !(value <= high))
        return fail_key(r, key, wanted);
    *out = value;
    return SP_OK;
}

static sp_status read_digest(const sp_fit_reading *r, const char *key, char out[65])
{
    const char *text = said(r, key);
    if (!text || !text[0]) return SP_OK;
    if (strlen(text) != 64 || strspn(text, "0123456789abcdef") != 64)
        return fail_key(r, key, "64 hex digits");
    memcpy(out, text, 65);
    return SP_OK;
}

static sp_status read_seed(const sp_fit_reading *r)
{
    const char *text = said(r, "seed");
    char *end;
    if (!text) return SP_OK;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!text[0] || text[strspn(text, "-0123456789")] || *end || errno)
        return fail_key(r, "seed", "an integer");
    r->fit->seed = value;
    return SP_OK;
}

/* The number of layers where no metadata says it: up to the last one there is. */
static uint32_t count_layers(const sp_fit_reading *r)
{
    uint32_t layers = 0;
    for (size_t i = 0; i < sp_weights_count(r->weights); i++) {
        sp_fit_place where;
        if (sp_fit_read_name(sp_weights_name(r->weights, i), &where) && where.layer >= layers)
            layers = where.layer + 1;
    }
    return layers;
}

sp_status sp_fit_read_metadata(const sp_fit_reading *r)
{
    sp_fit *fit = r->fit;
    const char *format = said(r, "format"), *rope = said(r, "rope");
    if (format ? strcmp(format, "sparsed.sparsefinder.v1") != 0 : !r->one_layer)
        return fail_key(r, "format", "'sparsed.sparsefinder.v1'");
    if (rope && strcmp(rope, "post") != 0 && strcmp(rope, "pre") != 0)
        return fail_key(r, "rope", "'post' or 'pre'");
    fit->rope_pre = rope && strcmp(rope, "pre") == 0;
    if (r->one_layer) {
        fit->n_layers = count_layers(r);
        return SP_OK;
    }
    sp_status status = read_uint(r, "layers", true, 1, SP_FIT_MAX_LAYERS, &fit->n_layers);
    if (status == SP_OK) status = read_uint(r, "heads", true, 1, SP_FIT_MAX_HEADS, &fit->n_heads);
    if (status == SP_OK) status = read_uint(r, "d", true, 1, SP_MAX_HEAD_DIM, &fit->head_dim);
    if (status == SP_OK) status = read_uint(r, "length", false, 1, 1u << 30, &fit->length);
    if (status == SP_OK) status = read_real(r, "alpha", 1.0, 2.0, &fit->alpha);
    if (status == SP_OK) status = read_real(r, "gold_mass", 0.0, 1.0, &fit->gold_mass);
    if (status == SP_OK && !said(r, "alpha") && !said(r, "gold_mass"))
        status = fail_key(r, "alpha", "what the true graph is of: entmax's alpha, or softmax's gold_mass");
    if (status == SP_OK && said(r, "alpha") && said(r, "gold_mass"))
        status = fail_key(r, "gold_mass", "allowed beside alpha: the true graph is entmax's or softmax's");
    uint32_t rank = 0; /* for readers: the shapes of the maps decide */
    if (status == SP_OK) status = read_uint(r, "r", false, 1, SP_FIT_MAX_RANK, &rank);
    if (status == SP_OK) status = read_digest(r, "model", fit->model);
    if (status == SP_OK) status = read_digest(r, "corpus", fit->corpus);
    return status == SP_OK ? read_seed(r) : status;
}
