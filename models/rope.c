/* See rope.h. */
#include "models/rope.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_CONTEXT ((int64_t)1 << 30)

static const double pi = 3.14159265358979323846;

typedef struct reading {
    sp_config *config;
    const sp_config *rope; /* rope_scaling or rope_parameters; NULL */
    const char *key;       /* its name */
    int64_t positions;     /* max_position_embeddings */
    int64_t original;
    bool has_original;
    sp_error *error;
} reading;

static sp_status read_number(const reading *r, const char *key, const double *fallback, double min,
                             double max, double *out)
{
    return sp_config_double(r->rope, key, fallback, min, max, out, r->error);
}

static uint32_t whole_context(double positions)
{
    return positions < (double)MAX_CONTEXT ? (uint32_t)positions : (uint32_t)MAX_CONTEXT;
}

/* --- one function a scaling --- */

static sp_status set_linear(const reading *r, sp_rope *rope)
{
    sp_status status = read_number(r, "factor", NULL, 1.0, 1e6, &rope->factor);
    if (status != SP_OK) return status;
    for (uint32_t i = 0; i < rope->head_dim / 2; i++) rope->frequencies[i] /= rope->factor;
    rope->context = whole_context((double)r->positions * rope->factor);
    return SP_OK;
}

static sp_status set_dynamic(const reading *r, sp_rope *rope)
{
    sp_status status = read_number(r, "factor", NULL, 1.0, 1e6, &rope->factor);
    if (status != SP_OK) return status;
    if (rope->head_dim < 4)
        return sp_fail_param(r->error, SP_DATA, r->key,
                             "config.json: %s of type 'dynamic' needs a head_dim of at least 4", r->key);
    rope->kind = SP_ROPE_DYNAMIC;
    rope->original = whole_context((double)r->positions);
    rope->context = whole_context((double)r->positions * rope->factor);
    return SP_OK;
}

static sp_status set_llama3(const reading *r, sp_rope *rope)
{
    double low = 0, high = 0, original = (double)r->original;
    sp_status status = read_number(r, "factor", NULL, 1.0, 1e6, &rope->factor);
    if (status == SP_OK) status = read_number(r, "low_freq_factor", NULL, 1e-6, 1e6, &low);
    if (status == SP_OK) status = read_number(r, "high_freq_factor", NULL, 1e-6, 1e6, &high);
    if (status != SP_OK) return status;
    if (!(high > low))
        return sp_fail_param(r->error, SP_DATA, "high_freq_factor",
                             "config.json: %s: high_freq_factor must be above low_freq_factor", r->key);
    for (uint32_t i = 0; i < rope->head_dim / 2; i++) {
        double turns = original * rope->frequencies[i] / (2 * pi);
        double share = (turns - low) / (high - low); /* of the unscaled frequency */
        share = share < 0 ? 0 : share > 1 ? 1 : share;
        rope->frequencies[i] *= share + (1 - share) / rope->factor;
    }
    return SP_OK;
}

static double yarn_scale(double factor, double weight)
{
    return factor <= 1 ? 1 : 0.1 * weight * log(factor) + 1;
}

/* The pair that makes so many turns over the original context, as a real number. */
static double yarn_pair(const reading *r, const sp_rope *rope, double turns)
{
    return rope->head_dim * log((double)r->original / (turns * 2 * pi)) / (2 * log(rope->theta));
}

static sp_status set_yarn(const reading *r, sp_rope *rope)
{
    static const double usual_fast = 32, usual_slow = 1, none = 0;
    double fast = 0, slow = 0, weight = 0, weight_all = 0, scale;
    bool truncate = true;
    sp_status status = read_number(r, "factor", NULL, 1.0, 1e6, &rope->factor);
    if (status == SP_OK) status = read_number(r, "beta_fast", &usual_fast, 1e-6, 1e6, &fast);
    if (status == SP_OK) status = read_number(r, "beta_slow", &usual_slow, 1e-6, 1e6, &slow);
    if (status == SP_OK) status = read_number(r, "mscale", &none, 0, 100, &weight);
    if (status == SP_OK) status = read_number(r, "mscale_all_dim", &none, 0, 100, &weight_all);
    if (status == SP_OK) status = sp_config_bool(r->rope, "truncate", true, &truncate, r->error);
    if (status != SP_OK) return status;
    if (!(rope->theta > 1))
        return sp_fail_param(r->error, SP_DATA, "rope_theta",
                             "config.json: %s of type 'yarn' needs a rope_theta above 1", r->key);
    scale = weight > 0 && weight_all > 0
                ? yarn_scale(rope->factor, weight) / yarn_scale(rope->factor, weight_all)
                : yarn_scale(rope->factor, 1);
    status = read_number(r, "attention_factor", &scale, 1e-6, 1e6, &rope->scale);
    double low = yarn_pair(r, rope, fast), high = yarn_pair(r, rope, slow), last = rope->head_dim - 1.0;
    if (truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low < 0 ? 0 : low;
    high = high > last ? last : high;
    if (low == high) high += 0.001;
    for (uint32_t i = 0; i < rope->head_dim / 2; i++) {
        double scaled = (i - low) / (high - low); /* share of the scaled frequency */
        scaled = scaled < 0 ? 0 : scaled > 1 ? 1 : scaled;
        rope->frequencies[i] *= scaled / rope->factor + (1 - scaled);
    }
    rope->context = whole_context((double)r->original * rope->factor);
    return status;
}

static sp_status set_longrope(const reading *r, sp_rope *rope)
{
    static const double one = 1;
    size_t half = rope->head_dim / 2;
    double divisors[SP_MAX_HEAD_DIM / 2], stretch = (double)r->positions / (double)r->original, scale;
    rope->long_frequencies = sp_alloc(half, sizeof *rope->long_frequencies);
    if (!rope->long_frequencies) return sp_fail(r->error, SP_NO_MEMORY, "out of memory for rotary angles");
    sp_status status = sp_config_numbers(r->rope, "long_factor", half, 1e-6, 1e9, divisors, r->error);
    if (status != SP_OK) return status;
    for (size_t i = 0; i < half; i++) rope->long_frequencies[i] = rope->frequencies[i] / divisors[i];
    status = sp_config_numbers(r->rope, "short_factor", half, 1e-6, 1e9, divisors, r->error);
    if (status != SP_OK) return status;
    for (size_t i = 0; i < half; i++) rope->frequencies[i] /= divisors[i];
    if (!r->has_original) status = read_number(r, "factor", &one, 1e-6, 1e6, &stretch);
    if (status != SP_OK) return status;
    scale = stretch > 1 && r->original > 1 ? sqrt(1 + log(stretch) / log((double)r->original)) : 1;
    status = read_number(r, "attention_factor", &scale, 1e-6, 1e6, &rope->scale);
    bool same = memcmp(rope->frequencies, rope->long_frequencies, half * sizeof(double)) == 0;
    rope->kind = same ? SP_ROPE_FIXED : SP_ROPE_LONG;
    rope->original = whole_context((double)r->original);
    return status;
}

/* --- config.json --- */

/* Keys inside the object that would change the result in ways that are not built. */
static sp_status refuse_inside(const reading *r)
{
    static const char *const keys[] = {"short_mscale", "long_mscale", "mrope_section", "full_attention",
                                       "sliding_attention"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (sp_config_has(r->rope, keys[i]))
            return sp_fail_param(r->error, SP_DATA, keys[i], "config.json: %s of %s is not supported",
                                 keys[i], r->key);
    return SP_OK;
}

/* Finds the object, theta and the original context. */
static sp_status read_common(reading *r, sp_rope *rope)
{
    static const double plain_theta = 10000.0, one = 1.0;
    double factor;
    sp_status status =
        sp_config_double(r->config, "rope_theta", &plain_theta, 1.0, 1e15, &rope->theta, r->error);
    if (status == SP_OK)
        status = sp_config_double(r->config, "partial_rotary_factor", &one, 1.0, 1.0, &factor, r->error);
    if (status == SP_OK)
        status =
            sp_config_int(r->config, "max_position_embeddings", NULL, 1, INT64_MAX, &r->positions, r->error);
    if (status != SP_OK) return status;
    bool old = sp_config_has(r->config, "rope_scaling"), new = sp_config_has(r->config, "rope_parameters");
    if (old && new)
        return sp_fail_param(r->error, SP_DATA, "rope_scaling",
                             "config.json: rope_scaling and rope_parameters are both given");
    r->key = new ? "rope_parameters" : "rope_scaling";
    r->rope = old || new ? sp_config_object(r->config, r->key) : NULL;
    if ((old || new) && !r->rope)
        return sp_fail_param(r->error, SP_DATA, r->key, "config.json: %s must be an object", r->key);
    r->original = r->positions;
    const sp_config *places[] = {r->rope, r->config}; /* the outer one wins */
    for (size_t i = 0; i < 2 && status == SP_OK; i++) {
        if (!places[i] || !sp_config_has(places[i], "original_max_position_embeddings")) continue;
        r->has_original = true;
        status = sp_config_int(places[i], "original_max_position_embeddings", NULL, 1, INT64_MAX,
                               &r->original, r->error);
    }
    if (status != SP_OK || !r->rope) return status;
    double outer = rope->theta;
    status = sp_config_double(r->rope, "rope_theta", &outer, 1.0, 1e15, &rope->theta, r->error);
    if (status == SP_OK)
        status = sp_config_double(r->rope, "partial_rotary_factor", &one, 1.0, 1.0, &factor, r->error);
    return status == SP_OK ? refuse_inside(r) : status;
}

static sp_status set_scaling(const reading *r, sp_rope *rope)
{
    static const struct {
        const char *name;
        sp_status (*set)(const reading *r, sp_rope *rope);
    } types[] = {{"linear", set_linear}, {"dynamic", set_dynamic},   {"llama3", set_llama3},
                 {"yarn", set_yarn},     {"longrope", set_longrope}, {"su", set_longrope}};
    if (!r->rope) return SP_OK;
    const char *type = sp_config_text(r->rope, "rope_type");
    if (!type) type = sp_config_text(r->rope, "type");
    if (!type && (sp_config_has(r->rope, "factor") || sp_config_has(r->rope, "long_factor"))) type = "(none)";
    if (!type || strcmp(type, "default") == 0) return SP_OK;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i].name) == 0) return types[i].set(r, rope);
    return sp_fail_param(r->error, SP_DATA, r->key, "config.json: %s of type '%.60s' is not supported",
                         r->key, type);
}

sp_status sp_rope_open(sp_config *config, uint32_t head_dim, sp_rope **out, sp_error *error)
{
    reading r = {.config = config, .error = error};
    sp_rope *rope = *out = sp_alloc_zero(1, sizeof *rope);
    if (rope) rope->frequencies = sp_alloc(head_dim / 2, sizeof *rope->frequencies);
    sp_status status = rope && rope->frequencies
                           ? read_common(&r, rope)
                           : sp_fail(error, SP_NO_MEMORY, "out of memory for rotary angles");
    if (status == SP_OK) {
        rope->head_dim = head_dim;
        rope->scale = 1;
        rope->context = whole_context((double)r.positions);
        for (uint32_t i = 0; i < head_dim / 2; i++)
            rope->frequencies[i] = pow(rope->theta, -2.0 * i / head_dim);
        status = set_scaling(&r, rope);
    }
    if (status != SP_OK) {
        sp_rope_close(rope);
        *out = NULL;
    }
    return status;
}

void sp_rope_close(sp_rope *rope)
{
    if (!rope) return;
    sp_free(rope->frequencies);
    sp_free(rope->long_frequencies);
    sp_free(rope);
}

/* --- use --- */

uint32_t sp_rope_variant(const sp_rope *rope, uint32_t length)
{
    if (!rope || rope->kind == SP_ROPE_FIXED || length <= rope->original) return 0;
    return rope->kind == SP_ROPE_DYNAMIC ? length : 1;
}

static double dynamic_theta(const sp_rope *rope, uint32_t length)
{
    double stretch = rope->factor * length / rope->original - (rope->factor - 1), d = rope->head_dim;
    return rope->theta * pow(stretch, d / (d - 2));
}

void sp_rope_note(const sp_rope *rope, uint32_t length, char *text, size_t size)
{
    text[0] = '\0';
    if (!rope || rope->kind == SP_ROPE_FIXED) return;
    bool beyond = length > rope->original;
    if (rope->kind == SP_ROPE_LONG)
        snprintf(text, size, "rotary factors: %s, chosen for %u tokens (longrope, original context %u)",
                 beyond ? "long" : "short", (unsigned)length, (unsigned)rope->original);
    else
        snprintf(text, size, "rotary base: %.6g, chosen for %u tokens (dynamic scaling beyond %u)",
                 beyond ? dynamic_theta(rope, length) : rope->theta, (unsigned)length,
                 (unsigned)rope->original);
}

/* Frequencies of a variant: the rope's own, or made in room (head_dim / 2). */
static const double *frequencies_of(const sp_rope *rope, uint32_t variant, double *room)
{
    if (variant == 0) return rope->frequencies;
    if (rope->kind == SP_ROPE_LONG) return rope->long_frequencies;
    double theta = dynamic_theta(rope, variant);
    for (uint32_t i = 0; i < rope->head_dim / 2; i++) room[i] = pow(theta, -2.0 * i / rope->head_dim);
    return room;
}

void sp_rope_fill(const sp_rope *rope, size_t rows, const uint32_t *positions, const uint32_t *lengths,
                  float *cosines, float *sines)
{
    double room[SP_MAX_HEAD_DIM / 2];
    const double *frequencies = rope->frequencies;
    uint32_t half = rope->head_dim / 2, current = 0;
    for (size_t row = 0; row < rows; row++) {
        uint32_t variant = lengths ? sp_rope_variant(rope, lengths[row]) : 0;
        if (variant != current) frequencies = frequencies_of(rope, variant, room);
        current = variant;
        for (uint32_t i = 0; i < half; i++) {
            double angle = positions[row] * frequencies[i];
            *cosines++ = (float)(cos(angle) * rope->scale);
            *sines++ = (float)(sin(angle) * rope->scale);
        }
    }
}
