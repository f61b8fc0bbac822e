/* attention_report, the list of backends, and normalizers as JSON. The contract is engine/README.md,
 * "attention_report".
 *
 * Edges and pairs are summed over layers and query heads, pairs being the allowed ones; density is their
 * ratio and null where there is no pair. Tests: tests/unit/engine/test_attention_parse.c,
 * tests/golden/test_attend_golden.c */
#include "engine/attention/metrics.h"

#include <math.h>
#include <string.h>
#include <sys/random.h>

void sp_normalizer_write(sp_normalizer normalizer, sp_json_writer *out)
{
    if (sp_is_softmax(normalizer)) {
        sp_json_cstring(out, "softmax");
        return;
    }
    sp_json_open(out, '{');
    sp_json_key(out, "alpha");
    sp_json_float(out, normalizer.alpha);
    sp_json_close(out, '}');
}

/* NaN: a default that depends on the fit, or a parameter that does not apply. */
static void write_value(const sp_param *param, double value, uint64_t seed, sp_json_writer *out)
{
    if (isnan(value))
        sp_json_null(out);
    else if (param->type == SP_PARAM_NAME)
        sp_json_cstring(out, param->values[(size_t)value]);
    else if (strcmp(param->name, "seed") == 0)
        sp_json_uint(out, seed);
    else
        sp_json_number(out, value);
}

void sp_attention_write_params(const sp_attention *attention, sp_json_writer *out)
{
    sp_json_open(out, '{');
    for (size_t i = 0; i < attention->backend->n_params; i++) {
        const sp_param *param = &attention->backend->params[i];
        sp_json_key(out, param->name);
        write_value(param, attention->params[i], attention->seed, out);
    }
    sp_json_close(out, '}');
}

static void write_phase(const char *name, const sp_attention_phase *phase, sp_json_writer *out)
{
    double edges = (double)phase->edges, pairs = (double)phase->pairs;
    sp_json_key(out, name);
    sp_json_open(out, '{');
    sp_json_key(out, "tokens");
    sp_json_uint(out, phase->tokens);
    sp_json_key(out, "edges");
    sp_json_uint(out, phase->edges);
    sp_json_key(out, "pairs");
    sp_json_uint(out, phase->pairs);
    sp_ratio_write("density", edges, pairs, out);
    sp_ratio_write("sparsity", pairs - edges, pairs, out);
    sp_json_key(out, "tiles");
    sp_json_uint(out, phase->tiles);
    sp_json_key(out, "groups");
    sp_json_uint(out, phase->groups);
    sp_json_key(out, "predict_seconds");
    sp_json_number(out, phase->predict_seconds);
    sp_json_key(out, "attend_seconds");
    sp_json_number(out, phase->attend_seconds);
    sp_json_close(out, '}');
}

/* How evenly clusters share a sequence, where there are any. */
static void write_clusters(const sp_head_measure *measure, sp_json_writer *out)
{
    if (measure->sequences == 0) return;
    sp_json_key(out, "clusters");
    sp_json_uint(out, measure->clusters);
    sp_ratio_write("cluster_entropy_q", measure->entropy_q, (double)measure->sequences, out);
    sp_ratio_write("cluster_entropy_k", measure->entropy_k, (double)measure->sequences, out);
    sp_json_key(out, "operations");
    sp_json_uint(out, measure->operations);
    sp_json_key(out, "operations_balanced");
    sp_json_uint(out, measure->operations_balanced);
}

static void write_measures(const sp_attention_report *report, sp_json_writer *out)
{
    sp_json_open(out, '[');
    for (uint32_t layer = 0; layer < report->n_layers; layer++) {
        for (uint32_t head = 0; head < report->n_heads; head++) {
            const sp_head_measure *measure = &report->measures[(size_t)layer * report->n_heads + head];
            sp_json_open(out, '{');
            sp_json_key(out, "layer");
            sp_json_uint(out, layer);
            sp_json_key(out, "head");
            sp_json_uint(out, head);
            sp_measure_write(measure, out);
            sp_ratio_write("exact", (double)measure->rows_exact, (double)measure->rows_valid, out);
            sp_ratio_write("mass", measure->mass, measure->rows, out);
            write_clusters(measure, out);
            if (sp_is_softmax(report->attention.normalizer)) {
                sp_json_key(out, "gold_mass");
                sp_json_number(out, SP_GOLD_MASS);
            }
            sp_json_close(out, '}');
        }
    }
    sp_json_close(out, ']');
}

static void write_heads(const sp_attention_report *report, sp_json_writer *out)
{
    static const char *const names[] = {"merged", "interleaved", "multihead"};
    sp_json_key(out, "heads");
    if (report->measures)
        write_measures(report, out);
    else
        sp_json_cstring(out, names[report->attention.heads]);
}

static void write_fallback(const char *from, const char *to, sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "from");
    sp_json_cstring(out, from);
    sp_json_key(out, "to");
    sp_json_cstring(out, to);
    sp_json_key(out, "why");
    sp_json_cstring(out, "decoding");
    sp_json_close(out, '}');
}

/* A request that was not strict may have got another backend than it asked for, for all or for generated
 * tokens. */
static void write_fallbacks(const sp_attention *attention, sp_json_writer *out)
{
    bool chosen = attention->reason[0] != 0; /* by auto: asked for */
    sp_json_key(out, "fallbacks");
    sp_json_open(out, '[');
    if (!chosen && strcmp(attention->requested, attention->backend->name) != 0)
        write_fallback(attention->requested, attention->backend->name, out);
    if (attention->fallback[0][0]) write_fallback(attention->fallback[0], attention->fallback[1], out);
    sp_json_close(out, ']');
}

/* What generated tokens saw, where that is another pattern. */
static void write_decode(const sp_attention *attention, sp_json_writer *out)
{
    sp_attention decode = sp_attention_decoding(attention);
    if (!attention->decode_backend) return;
    sp_json_key(out, "decode_backend");
    sp_json_cstring(out, decode.backend->name);
    sp_json_key(out, "decode_params");
    sp_attention_write_params(&decode, out);
}

static void write_notes(const char *notes, sp_json_writer *out)
{
    sp_json_key(out, "notes");
    sp_json_open(out, '[');
    while (*notes) {
        size_t n = strcspn(notes, "\n");
        if (n) sp_json_string(out, notes, n);
        notes += n + (notes[n] == '\n');
    }
    sp_json_close(out, ']');
}

void sp_attention_report_write(const sp_attention_report *report, sp_json_writer *out)
{
    const sp_attention *attention = &report->attention;
    sp_json_open(out, '{');
    sp_json_key(out, "requested");
    sp_json_cstring(out, attention->requested);
    sp_json_key(out, "backend");
    sp_json_cstring(out, attention->backend->name);
    sp_json_key(out, "params");
    sp_attention_write_params(attention, out);
    write_decode(attention, out);
    sp_json_key(out, "normalizer");
    sp_normalizer_write(attention->normalizer, out);
    write_heads(report, out);
    sp_json_key(out, "device");
    sp_json_cstring(out, report->device);
    write_phase("prefill", &report->prefill, out);
    write_phase("decode", &report->decode, out);
    sp_json_key(out, "rows_empty");
    sp_json_uint(out, report->rows_empty);
    sp_json_key(out, "trained");
    sp_json_bool(out, report->trained);
    sp_json_key(out, "batch_invariant");
    sp_json_bool(out, report->batch_invariant);
    if (!sp_attention_streams(attention)) {
        sp_json_key(out, "selection_sees_later_tokens");
        sp_json_bool(out, true);
    }
    write_fallbacks(attention, out);
    write_notes(attention->notes, out);
    sp_json_key(out, "reason");
    sp_json_cstring(out, attention->reason[0] ? attention->reason : NULL);
    sp_json_close(out, '}');
}

double sp_seconds_coarsen(double seconds)
{
    uint32_t random = 0;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) random = UINT32_MAX / 2;
    return floor(seconds * 1e3 + ldexp(random, -32)) / 1e3;
}

void sp_attention_phase_coarsen(sp_attention_phase *phase)
{
    phase->predict_seconds = sp_seconds_coarsen(phase->predict_seconds);
    phase->attend_seconds = sp_seconds_coarsen(phase->attend_seconds);
}

void sp_attention_phase_add(sp_attention_phase *sum, const sp_attention_phase *more)
{
    sum->tokens += more->tokens;
    sum->edges += more->edges;
    sum->pairs += more->pairs;
    sum->tiles += more->tiles;
    sum->groups += more->groups;
    sum->predict_seconds += more->predict_seconds;
    sum->attend_seconds += more->attend_seconds;
}

void sp_attention_report_add(sp_attention_report *sum, sp_head_measure *measures,
                             const sp_attention_report *more)
{
    sp_attention_phase_add(&sum->prefill, &more->prefill);
    sp_attention_phase_add(&sum->decode, &more->decode);
    sum->rows_empty += more->rows_empty;
    for (size_t i = 0; more->measures && i < (size_t)sum->n_layers * sum->n_heads; i++)
        sp_measure_add(&measures[i], &more->measures[i]);
}

static void write_caps(unsigned caps, sp_json_writer *out)
{
    static const char *const names[] = {"static",        "needs_qk", "needs_fit", "streaming",
                                        "bidirectional", "cross",    "prefix"};
    sp_json_key(out, "caps");
    sp_json_open(out, '[');
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (caps >> i & 1) sp_json_cstring(out, names[i]);
    }
    sp_json_close(out, ']');
}

/* Range of a number, choices of a name. */
static void write_range(const sp_param *param, sp_json_writer *out)
{
    const uint64_t seed_max = INT64_MAX;
    bool name = param->type == SP_PARAM_NAME;
    const char *const keys[] = {"min", "max"};
    const double values[] = {param->min, param->max};
    for (size_t i = 0; i < 2; i++) {
        sp_json_key(out, keys[i]);
        if (name)
            sp_json_null(out);
        else
            write_value(param, values[i], i ? seed_max : 0, out);
    }
    sp_json_key(out, "values");
    if (!name) {
        sp_json_null(out);
        return;
    }
    sp_json_open(out, '[');
    for (size_t i = 0; param->values[i]; i++) sp_json_cstring(out, param->values[i]);
    sp_json_close(out, ']');
}

static void write_param(const sp_param *param, sp_json_writer *out)
{
    static const char *const types[] = {
        [SP_PARAM_INT] = "integer", [SP_PARAM_NUMBER] = "number", [SP_PARAM_NAME] = "string"};
    sp_json_open(out, '{');
    sp_json_key(out, "name");
    sp_json_cstring(out, param->name);
    sp_json_key(out, "type");
    sp_json_cstring(out, types[param->type]);
    sp_json_key(out, "default");
    write_value(param, param->fallback, 0, out);
    write_range(param, out);
    sp_json_key(out, "summary");
    sp_json_cstring(out, param->summary);
    sp_json_close(out, '}');
}

void sp_backends_write(const char *no_fit, sp_json_writer *out)
{
    sp_json_open(out, '{');
    sp_json_key(out, "object");
    sp_json_cstring(out, "list");
    sp_json_key(out, "data");
    sp_json_open(out, '[');
    for (size_t i = 0; sp_backends[i]; i++) {
        const sp_backend *backend = sp_backends[i];
        sp_json_open(out, '{');
        sp_json_key(out, "name");
        sp_json_cstring(out, backend->name);
        sp_json_key(out, "summary");
        sp_json_cstring(out, backend->summary);
        write_caps(backend->caps, out);
        sp_json_key(out, "params");
        sp_json_open(out, '[');
        for (size_t p = 0; p < backend->n_params; p++) write_param(&backend->params[p], out);
        sp_json_close(out, ']');
        sp_json_key(out, "available");
        const char *why = backend->caps & SP_CAP_NEEDS_FIT ? no_fit : NULL;
        sp_json_bool(out, !why);
        sp_json_key(out, "why");
        sp_json_cstring(out, why);
        sp_json_close(out, '}');
    }
    sp_json_close(out, ']');
    sp_json_close(out, '}');
}
