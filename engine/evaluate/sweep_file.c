/* See sweep.h: sweep.json, read and written. Members that other programs add are passed over. */
#include "engine/evaluate/sweep.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char format_name[] = "sparsed.sweep.v1";

/* --- members of a point --- */

typedef enum member_type { MEMBER_NUMBER, MEMBER_COUNT, MEMBER_TEXT, MEMBER_BOOL, MEMBER_RAW } member_type;
typedef struct member {
    const char *name;
    member_type type;
    bool required; /* else null and absent are NaN, "", false */
    size_t offset;
    double min, max;
} member;

#define AT(field) offsetof(sp_sweep_point, field)
static const member members[] = {
    {"attention", MEMBER_RAW, true, AT(attention), 0, 0},
    {"grid", MEMBER_TEXT, false, AT(grid), 0, 0},
    {"value", MEMBER_NUMBER, false, AT(value), -1e300, 1e300},
    {"device", MEMBER_TEXT, true, AT(device), 0, 0},
    {"length", MEMBER_COUNT, true, AT(length), 1, 16777216},
    {"windows", MEMBER_COUNT, false, AT(windows), 0, 4294967295.0},
    {"density", MEMBER_NUMBER, true, AT(density), 0, 1},
    {"recall", MEMBER_NUMBER, false, AT(recall), 0, 1},
    {"mass", MEMBER_NUMBER, false, AT(mass), 0, 1.001},
    {"perplexity", MEMBER_NUMBER, true, AT(perplexity), 0, 1e300},
    {"perplexity_dense", MEMBER_NUMBER, true, AT(perplexity_dense), 0, 1e300},
    {"prefill_seconds", MEMBER_NUMBER, true, AT(prefill_seconds), 0, 1e9},
    {"prefill_seconds_dense", MEMBER_NUMBER, true, AT(prefill_seconds_dense), 0, 1e9},
    {"decode_seconds", MEMBER_NUMBER, false, AT(decode_seconds), 0, 1e9},
    {"decode_seconds_dense", MEMBER_NUMBER, false, AT(decode_seconds_dense), 0, 1e9},
    {"selection_sees_later_tokens", MEMBER_BOOL, false, AT(sees_later), 0, 0},
};
#define N_MEMBERS (sizeof members / sizeof *members)

typedef struct reader {
    const char *name; /* of the file */
    sp_json json;
    sp_sweep *sweep;
    sp_error *error;
} reader;

static sp_status bad_member(const reader *r, const char *key, const char *wanted)
{
    return sp_fail_param(r->error, SP_DATA, key, "%s: point %zu: %s must be %s", r->name, r->sweep->n_points,
                         key, wanted);
}

static sp_status read_text(reader *r, const member *m, sp_json_type type, sp_sweep_point *point)
{
    size_t size;
    if (type != SP_JSON_STRING) return bad_member(r, m->name, "a string");
    const char *text = sp_json_text(&r->json, &r->sweep->arena, &size);
    if (!text) return sp_fail(r->error, SP_NO_MEMORY, "%s: no memory for its texts", r->name);
    *(const char **)(void *)((char *)point + m->offset) = text;
    return SP_OK;
}

/* The value's own text: an attention object or a backend's name. */
static sp_status read_raw(reader *r, const member *m, sp_json_type type, size_t begin, sp_sweep_point *point)
{
    if (type != SP_JSON_OBJECT && type != SP_JSON_STRING)
        return bad_member(r, m->name, "an attention object");
    sp_json_skip(&r->json, type);
    const char *text = r->json.text;
    while (text[begin] != '{' && text[begin] != '"') begin++;
    const char *copy = sp_arena_copy(&r->sweep->arena, text + begin, r->json.position - begin);
    if (!copy) return sp_fail(r->error, SP_NO_MEMORY, "%s: no memory for its texts", r->name);
    *(const char **)(void *)((char *)point + m->offset) = copy;
    return SP_OK;
}

static sp_status read_number(reader *r, const member *m, sp_json_type type, sp_sweep_point *point)
{
    char wanted[64];
    double value = type == SP_JSON_NUMBER ? sp_json_double(&r->json) : (double)NAN;
    (void)snprintf(wanted, sizeof wanted, "a number from %.15g to %.15g", m->min, m->max);
    bool counts = m->type == MEMBER_COUNT;
    if (!(value >= m->min && value <= m->max) || (counts && value != floor(value)))
        return bad_member(r, m->name, wanted);
    void *field = (char *)point + m->offset;
    if (counts)
        *(uint32_t *)field = (uint32_t)value;
    else
        *(double *)field = value;
    return SP_OK;
}

static sp_status read_member(reader *r, const member *m, sp_sweep_point *point)
{
    size_t begin = r->json.position;
    sp_json_type type = sp_json_next(&r->json);
    if (type == SP_JSON_NULL && !m->required) return SP_OK;
    sp_status status = SP_OK;
    switch (m->type) {
    case MEMBER_RAW:
        return read_raw(r, m, type, begin, point);
    case MEMBER_TEXT:
        status = read_text(r, m, type, point);
        break;
    case MEMBER_BOOL:
        if (type != SP_JSON_TRUE && type != SP_JSON_FALSE) return bad_member(r, m->name, "true or false");
        *(bool *)(void *)((char *)point + m->offset) = type == SP_JSON_TRUE;
        break;
    case MEMBER_NUMBER:
    case MEMBER_COUNT:
        status = read_number(r, m, type, point);
        break;
    }
    return status;
}

static sp_status read_point(reader *r)
{
    sp_sweep_point point = {.grid = "",
                            .value = (double)NAN,
                            .recall = (double)NAN,
                            .mass = (double)NAN,
                            .decode_seconds = (double)NAN,
                            .decode_seconds_dense = (double)NAN};
    bool seen[N_MEMBERS] = {false};
    while (sp_json_next(&r->json) == SP_JSON_KEY) {
        size_t i = 0;
        while (i < N_MEMBERS && !sp_json_is(&r->json, members[i].name)) i++;
        if (i == N_MEMBERS) {
            sp_json_skip(&r->json, sp_json_next(&r->json));
            continue;
        }
        seen[i] = true;
        sp_status status = read_member(r, &members[i], &point);
        if (status) return status;
    }
    for (size_t i = 0; i < N_MEMBERS; i++)
        if (members[i].required && !seen[i]) return bad_member(r, members[i].name, "there");
    return sp_sweep_add(r->sweep, &point, r->error);
}

/* --- the whole --- */

static sp_status read_points(reader *r, sp_json_type type)
{
    if (type != SP_JSON_ARRAY)
        return sp_fail_param(r->error, SP_DATA, "points", "%s: points must be an array", r->name);
    while ((type = sp_json_next(&r->json)) != SP_JSON_ARRAY_END) {
        if (type != SP_JSON_OBJECT)
            return sp_fail_param(r->error, SP_DATA, "points", "%s: point %zu is no object", r->name,
                                 r->sweep->n_points);
        sp_status status = read_point(r);
        if (status) return status;
    }
    return SP_OK;
}

/* A string of the head, which must fit. */
static sp_status read_head(reader *r, sp_json_type type, const char *key, char *out, size_t room)
{
    size_t size = 0;
    const char *text = type == SP_JSON_STRING ? sp_json_text(&r->json, &r->sweep->arena, &size) : NULL;
    if (!text || size >= room || strlen(text) != size)
        return sp_fail_param(r->error, SP_DATA, key, "%s: %s must be a string of at most %zu bytes", r->name,
                             key, room - 1);
    memcpy(out, text, size + 1);
    return SP_OK;
}

static sp_status read_all(reader *r)
{
    char format[32] = "";
    sp_sweep *sweep = r->sweep;
    const struct {
        const char *key;
        char *out;
        size_t room;
    } heads[] = {{"format", format, sizeof format},
                 {"model", sweep->model, sizeof sweep->model},
                 {"model_name", sweep->model_name, sizeof sweep->model_name},
                 {"text_sha256", sweep->text_sha256, sizeof sweep->text_sha256}};
    if (sp_json_next(&r->json) != SP_JSON_OBJECT)
        return sp_fail(r->error, SP_DATA, "%s: must hold one JSON object", r->name);
    while (sp_json_next(&r->json) == SP_JSON_KEY) {
        size_t i = 0;
        while (i < 4 && !sp_json_is(&r->json, heads[i].key)) i++;
        bool points = sp_json_is(&r->json, "points");
        sp_json_type type = sp_json_next(&r->json);
        sp_status status = SP_OK;
        if (i < 4)
            status = read_head(r, type, heads[i].key, heads[i].out, heads[i].room);
        else if (points)
            status = read_points(r, type);
        else
            sp_json_skip(&r->json, type);
        if (status) return status;
    }
    if (strcmp(format, format_name) != 0)
        return sp_fail_param(r->error, SP_DATA, "format", "%s: format is \"%s\", not \"%s\"", r->name, format,
                             format_name);
    return SP_OK;
}

sp_status sp_sweep_parse(const char *name, const char *text, size_t size, sp_sweep *out, sp_error *error)
{
    sp_error inner = {0};
    reader r = {.name = name, .sweep = out, .error = error};
    if (size > SP_SWEEP_MAX_BYTES)
        return sp_fail(error, SP_DATA, "%s: more than %zu bytes", name, SP_SWEEP_MAX_BYTES);
    sp_status valid = sp_json_validate(text, size, &inner);
    if (valid)
        return sp_fail(error, valid == SP_NO_MEMORY ? SP_NO_MEMORY : SP_DATA, "%s: %s", name, inner.message);
    sp_json_init(&r.json, text, size);
    sp_status status = read_all(&r);
    if (!status) sp_sweep_fronts(out);
    return status;
}

sp_status sp_sweep_read(const char *path, sp_sweep *out, sp_error *error)
{
    char *text;
    size_t size;
    sp_status status = sp_read_file(path, SP_SWEEP_MAX_BYTES, &text, &size, error);
    if (status) return status;
    status = sp_sweep_parse(path, text, size, out, error);
    sp_free(text);
    return status;
}

static void write_member(const member *m, const sp_sweep_point *point, sp_json_writer *out)
{
    const void *field = (const char *)point + m->offset;
    sp_json_key(out, m->name);
    switch (m->type) {
    case MEMBER_RAW:
        sp_json_raw(out, *(const char *const *)field, strlen(*(const char *const *)field));
        return;
    case MEMBER_TEXT:
        sp_json_cstring(out, *(const char *const *)field);
        return;
    case MEMBER_NUMBER:
        sp_json_number(out, *(const double *)field);
        return;
    case MEMBER_COUNT:
        sp_json_uint(out, *(const uint32_t *)field);
        return;
    case MEMBER_BOOL:
        sp_json_bool(out, *(const bool *)field);
        return;
    }
}

void sp_sweep_write_json(const sp_sweep *sweep, sp_buffer *out)
{
    sp_json_writer json;
    sp_json_writer_init(&json, out);
    sp_json_open(&json, '{');
    const char *const heads[][2] = {{"format", format_name},
                                    {"model", sweep->model},
                                    {"model_name", sweep->model_name},
                                    {"text_sha256", sweep->text_sha256}};
    for (size_t i = 0; i < 4; i++) {
        sp_json_key(&json, heads[i][0]);
        sp_json_cstring(&json, heads[i][1]);
    }
    sp_json_key(&json, "points");
    sp_json_open(&json, '[');
    for (size_t i = 0; i < sweep->n_points; i++) {
        sp_buffer_text(out, i > 0 ? "" : "\n");
        sp_json_open(&json, '{');
        for (size_t k = 0; k < N_MEMBERS; k++) write_member(&members[k], &sweep->points[i], &json);
        sp_json_close(&json, '}');
        sp_buffer_text(out, "\n");
    }
    sp_json_close(&json, ']');
    sp_json_close(&json, '}');
    sp_buffer_text(out, "\n");
}
