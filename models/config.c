/* config.json behind typed getters: the one place in models/ that sees cJSON.
 *
 * The strict validator runs first (UTF-8, depth, duplicate keys, numbers beyond a double), so cJSON only
 * meets text that it reads as everybody else does; \u0000 is refused because cJSON would cut the string
 * there. A view of a nested object belongs to the root and is freed with it. Tests:
 * tests/unit/models/test_config.c, tests/fuzz/fuzz_config.c */
#include "models/config.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/json.h"

#define MAX_CONFIG_BYTES ((size_t)1 << 20)

struct sp_config {
    char *name;       /* for messages */
    cJSON *object;    /* owned by the root only */
    sp_config *views; /* of nested objects, a list; root only */
    sp_config *next;
    bool is_view;
};

static bool has_escaped_nul(const char *text, size_t size)
{
    for (size_t i = 0; i + 1 < size; i++)
        if (text[i] == '\\') {
            i++;
            if (text[i] == 'u' && size - i > 4 && memcmp(text + i + 1, "0000", 4) == 0) return true;
        }
    return false;
}

sp_status sp_config_parse(const char *name, const char *text, size_t size, sp_config **out, sp_error *error)
{
    *out = NULL;
    if (size > MAX_CONFIG_BYTES) return sp_fail(error, SP_DATA, "%s: larger than 1 MiB", name);
    sp_error reason = {0};
    sp_status status = sp_json_validate(text, size, &reason);
    if (status != SP_OK) return sp_fail(error, status, "%s: %s", name, reason.message);
    if (has_escaped_nul(text, size)) return sp_fail(error, SP_DATA, "%s: a string holds \\u0000", name);
    sp_config *config = sp_alloc_zero(1, sizeof *config);
    char *copy = sp_copy_text(name, strlen(name));
    cJSON *object = cJSON_ParseWithLength(text, size);
    if (config && copy && cJSON_IsObject(object)) {
        config->name = copy;
        config->object = object;
        *out = config;
        return SP_OK;
    }
    bool wrong = object && !cJSON_IsObject(object);
    sp_free(config);
    sp_free(copy);
    cJSON_Delete(object);
    if (wrong) return sp_fail(error, SP_DATA, "%s: the outermost value must be an object", name);
    return sp_fail(error, SP_NO_MEMORY, "%s: out of memory", name);
}

sp_status sp_config_open(const char *path, sp_config **out, sp_error *error)
{
    char *text;
    size_t size;
    *out = NULL;
    sp_status status = sp_read_file(path, MAX_CONFIG_BYTES, &text, &size, error);
    if (status != SP_OK) return status;
    status = sp_config_parse(path, text, size, out, error);
    sp_free(text);
    return status;
}

void sp_config_close(sp_config *config)
{
    if (!config) return;
    for (sp_config *view = config->views; view;) {
        sp_config *next = view->next;
        sp_free(view->name);
        sp_free(view);
        view = next;
    }
    cJSON_Delete(config->object);
    sp_free(config->name);
    sp_free(config);
}

/* The value of a key; NULL when absent or null. */
static const cJSON *find(const sp_config *config, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config->object, key);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

bool sp_config_has(const sp_config *config, const char *key)
{
    return find(config, key) != NULL;
}

const char *sp_config_text(const sp_config *config, const char *key)
{
    return cJSON_GetStringValue(find(config, key));
}

static sp_status fail_key(const sp_config *config, const char *key, const char *reason, sp_error *error)
{
    return sp_fail_param(error, SP_DATA, key, "%s: %s %s", config->name, key, reason);
}

static bool is_integer(const cJSON *item)
{
    return cJSON_IsNumber(item) && item->valuedouble == floor(item->valuedouble) &&
           fabs(item->valuedouble) <= 9007199254740992.0;
}

sp_status sp_config_int(const sp_config *config, const char *key, const int64_t *fallback, int64_t min,
                        int64_t max, int64_t *out, sp_error *error)
{
    const cJSON *item = find(config, key);
    if (!item && fallback) {
        *out = *fallback;
        return SP_OK;
    }
    if (!item) return fail_key(config, key, "is missing", error);
    if (!is_integer(item)) return fail_key(config, key, "must be an integer", error);
    int64_t value = (int64_t)item->valuedouble;
    if (value < min || value > max)
        return sp_fail_param(error, SP_DATA, key, "%s: %s is %lld, not in %lld..%lld", config->name, key,
                             (long long)value, (long long)min, (long long)max);
    *out = value;
    return SP_OK;
}

sp_status sp_config_double(const sp_config *config, const char *key, const double *fallback, double min,
                           double max, double *out, sp_error *error)
{
    const cJSON *item = find(config, key);
    if (!item && fallback) {
        *out = *fallback;
        return SP_OK;
    }
    if (!item) return fail_key(config, key, "is missing", error);
    if (!cJSON_IsNumber(item)) return fail_key(config, key, "must be a number", error);
    if (!(item->valuedouble >= min && item->valuedouble <= max))
        return sp_fail_param(error, SP_DATA, key, "%s: %s is %g, not in %g..%g", config->name, key,
                             item->valuedouble, min, max);
    *out = item->valuedouble;
    return SP_OK;
}

sp_status sp_config_bool(const sp_config *config, const char *key, bool fallback, bool *out, sp_error *error)
{
    const cJSON *item = find(config, key);
    if (item && !cJSON_IsBool(item)) return fail_key(config, key, "must be true or false", error);
    *out = item ? cJSON_IsTrue(item) : fallback;
    return SP_OK;
}

sp_status sp_config_ids(const sp_config *config, const char *key, int32_t *ids, size_t max, size_t *count,
                        sp_error *error)
{
    const cJSON *item = find(config, key);
    *count = 0;
    if (!item) return SP_OK;
    const cJSON *id = cJSON_IsArray(item) ? item->child : item;
    for (; id; id = id->next) {
        if (!is_integer(id) || id->valuedouble < 0 || id->valuedouble > INT32_MAX)
            return fail_key(config, key, "must be a token id or an array of token ids", error);
        if (*count == max)
            return sp_fail_param(error, SP_DATA, key, "%s: %s lists more than %zu ids", config->name, key,
                                 max);
        ids[(*count)++] = (int32_t)id->valuedouble;
        if (!cJSON_IsArray(item)) break;
    }
    return SP_OK;
}

sp_status sp_config_numbers(const sp_config *config, const char *key, size_t n, double min, double max,
                            double *out, sp_error *error)
{
    const cJSON *array = find(config, key);
    if (!array) return fail_key(config, key, "is missing", error);
    if (!cJSON_IsArray(array)) return fail_key(config, key, "must be an array of numbers", error);
    size_t count = 0;
    for (const cJSON *item = array->child; item; item = item->next, count++) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= min && item->valuedouble <= max))
            return sp_fail_param(error, SP_DATA, key, "%s: element %zu of %s is no number in %g..%g",
                                 config->name, count, key, min, max);
        if (count < n) out[count] = item->valuedouble;
    }
    if (count != n)
        return sp_fail_param(error, SP_DATA, key, "%s: %s has %zu elements, not %zu", config->name, key,
                             count, n);
    return SP_OK;
}

sp_status sp_config_texts(const sp_config *config, const char *key, size_t max, const char **texts,
                          size_t *count, sp_error *error)
{
    const cJSON *array = find(config, key);
    *count = 0;
    if (!array) return fail_key(config, key, "is missing", error);
    if (!cJSON_IsArray(array) || !array->child) return fail_key(config, key, "must list texts", error);
    for (const cJSON *item = array->child; item; item = item->next) {
        if (!cJSON_IsString(item)) return fail_key(config, key, "must list texts", error);
        if (*count == max)
            return sp_fail_param(error, SP_DATA, key, "%s: %s lists more than %zu texts", config->name, key,
                                 max);
        texts[(*count)++] = item->valuestring;
    }
    return SP_OK;
}

static bool says_nothing(const cJSON *item)
{
    bool container = cJSON_IsArray(item) || cJSON_IsObject(item);
    return cJSON_IsNull(item) || cJSON_IsFalse(item) || (container && !item->child);
}

bool sp_config_is_off(const sp_config *config, const char *key)
{
    const cJSON *item = find(config, key);
    return !item || says_nothing(item);
}

sp_status sp_config_check_keys(const sp_config *config, const char *const *known, sp_error *error)
{
    for (const cJSON *item = config->object->child; item; item = item->next) {
        const char *const *name = known;
        while (*name && strcmp(*name, item->string) != 0) name++;
        if (!*name && !says_nothing(item))
            return sp_fail_param(error, SP_DATA, item->string, "%s: %.80s is not supported", config->name,
                                 item->string);
    }
    return SP_OK;
}

bool sp_config_repeats(const sp_config *config, const char *key, const char *text)
{
    const cJSON *array = find(config, key);
    if (!cJSON_IsArray(array)) return false;
    for (const cJSON *item = array->child; item; item = item->next)
        if (!cJSON_IsString(item) || strcmp(item->valuestring, text) != 0) return false;
    return true;
}

sp_status sp_config_normalizer(const sp_config *config, const char *key, bool *present, sp_normalizer *out,
                               sp_error *error)
{
    static const char *const rule =
        "must be \"softmax\", \"entmax15\", \"sparsemax\" or {\"alpha\": a} with 1 < a <= 2";
    static const struct {
        const char *name;
        float alpha;
    } names[] = {{"softmax", 1.0f}, {"entmax15", 1.5f}, {"sparsemax", 2.0f}};
    const cJSON *item = find(config, key);
    *present = item != NULL;
    if (!item) return SP_OK;
    const char *text = cJSON_GetStringValue(item);
    for (size_t i = 0; text && i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i].name) == 0) {
            out->alpha = names[i].alpha;
            return SP_OK;
        }
    const cJSON *alpha = cJSON_IsObject(item) ? item->child : NULL;
    if (!alpha || alpha->next || strcmp(alpha->string, "alpha") != 0 || !cJSON_IsNumber(alpha))
        return fail_key(config, key, rule, error);
    float value = (float)alpha->valuedouble;
    if (!(alpha->valuedouble > 1.0 && alpha->valuedouble <= 2.0 && value > 1.0f))
        return fail_key(config, key, rule, error);
    out->alpha = value;
    return SP_OK;
}

char *sp_config_json(const sp_config *config, const char *key)
{
    const cJSON *item = find(config, key);
    char *printed = item ? cJSON_PrintUnformatted(item) : NULL;
    char *copy = printed ? sp_copy_text(printed, strlen(printed)) : NULL;
    free(printed);
    return copy;
}

const sp_config *sp_config_object(sp_config *config, const char *key)
{
    const cJSON *item = find(config, key);
    if (!cJSON_IsObject(item)) return NULL;
    sp_config *view = sp_alloc_zero(1, sizeof *view);
    sp_buffer name;
    sp_buffer_init(&name, 4096);
    sp_buffer_format(&name, "%s: %s", config->name, key);
    if (view) view->name = sp_copy_text(name.data ? name.data : "", name.data ? name.size : 0);
    sp_buffer_fini(&name);
    if (!view || !view->name) {
        sp_free(view);
        return NULL;
    }
    view->object = (cJSON *)(uintptr_t)item;
    view->next = config->views;
    config->views = view;
    return view;
}
