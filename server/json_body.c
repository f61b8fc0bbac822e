/* Request bodies through cJSON (json_body.h). */
#include "server/json_body.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

/* The noncharacters U+FDD0 .. U+FDEF: EF B7 90 .. EF B7 AF in UTF-8, \uFDD0 .. \uFDEF escaped. */
#define MARKS 32

static int hex_value(const char *four)
{
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = four[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c - 'A' + 10;
        value = value * 16 + digit;
    }
    return value;
}

/* Finds a mark that the text doesn't use, and writes it over every escaped NUL. False when all are in use. */
static bool mark_nuls(sp_body *body, char *text, size_t size)
{
    bool used[MARKS] = {false}, any = false;
    for (size_t i = 0; i + 2 < size; i++) {
        unsigned char *byte = (unsigned char *)&text[i];
        if (byte[0] == 0xEF && byte[1] == 0xB7 && byte[2] >= 0x90 && byte[2] <= 0xAF)
            used[byte[2] - 0x90] = true;
        if (byte[0] != '\\') continue;
        if (byte[1] == 'u') {
            int value = hex_value(&text[i + 2]);
            any = any || value == 0;
            if (value >= 0xFDD0 && value <= 0xFDEF) used[value - 0xFDD0] = true;
        }
        i++;
    }
    body->nul_mark = 0;
    if (!any) return true;
    int mark = 0;
    while (mark < MARKS && used[mark]) mark++;
    if (mark == MARKS) return false;
    body->nul_mark = (char)(0x90 + mark);
    for (size_t i = 0; i + 5 < size; i++) {
        if (text[i] != '\\') continue;
        if (text[i + 1] == 'u' && hex_value(&text[i + 2]) == 0) {
            static const char digits[] = "0123456789abcdef";
            memcpy(&text[i + 2], "fd", 2);
            text[i + 4] = mark < 16 ? 'd' : 'e';
            text[i + 5] = digits[mark % 16];
        }
        i++;
    }
    return true;
}

sp_status sp_body_open(sp_body *body, char *text, size_t size, sp_arena *arena, sp_error *error)
{
    sp_error why;
    memset(body, 0, sizeof *body);
    if (size == 0) return sp_fail(error, SP_INVALID, "the body is empty; send a JSON object");
    sp_status valid = sp_json_validate(text, size, &why);
    if (valid == SP_NO_MEMORY) return sp_fail(error, SP_NO_MEMORY, "no memory for the request");
    if (valid) return sp_fail(error, SP_INVALID, "invalid %s", why.message);
    if (!mark_nuls(body, text, size))
        return sp_fail(error, SP_INVALID, "invalid JSON: too many noncharacters");
    body->text = text;
    body->size = size;
    body->arena = arena;
    body->root = cJSON_ParseWithLengthOpts(text, size + 1, NULL, 1);
    if (!body->root) return sp_fail(error, SP_NO_MEMORY, "no memory to parse the body");
    if (cJSON_IsObject(body->root)) return SP_OK;
    sp_body_close(body);
    return sp_fail(error, SP_INVALID, "the body must be a JSON object");
}

void sp_body_close(sp_body *body)
{
    cJSON_Delete(body->root);
    body->root = NULL;
}

sp_item *sp_item_find(sp_item *object, const char *name)
{
    sp_item *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

sp_item *sp_body_find(const sp_body *body, const char *name)
{
    return sp_item_find(body->root, name);
}

const char *sp_item_name(sp_item *item)
{
    return item->string ? item->string : "";
}

sp_item *sp_item_first(sp_item *container)
{
    return container->child;
}

sp_item *sp_item_next(sp_item *item)
{
    return item->next;
}

size_t sp_item_count(sp_item *container)
{
    size_t n = 0;
    for (sp_item *item = container->child; item; item = item->next) n++;
    return n;
}

bool sp_item_is_object(sp_item *item)
{
    return cJSON_IsObject(item);
}

bool sp_item_is_array(sp_item *item)
{
    return cJSON_IsArray(item);
}

bool sp_item_is_text(sp_item *item)
{
    return cJSON_IsString(item);
}

bool sp_item_is_number(sp_item *item)
{
    return cJSON_IsNumber(item);
}

bool sp_item_is_between(sp_item *item, double min, double max, double *value)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= min && item->valuedouble <= max)) return false;
    *value = item->valuedouble;
    return true;
}

bool sp_item_is_integer(sp_item *item, double min, double max, double *value)
{
    if (!cJSON_IsNumber(item)) return false;
    double number = item->valuedouble;
    if (!(number >= min && number <= max) || floor(number) != number) return false;
    *value = number;
    return true;
}

/* Puts the reader on the value of a member of the outermost object. */
static sp_json_type seek(const sp_body *body, const char *name, sp_json *reader)
{
    sp_json_init(reader, body->text, body->size);
    sp_json_next(reader);
    for (;;) {
        if (sp_json_next(reader) != SP_JSON_KEY) return SP_JSON_END;
        bool found = sp_json_is(reader, name);
        sp_json_type type = sp_json_next(reader);
        if (found) return type;
        sp_json_skip(reader, type);
    }
}

sp_status sp_body_int(const sp_body *body, const char *name, int64_t min, int64_t max, int64_t *out,
                      sp_error *error)
{
    sp_item *item = sp_body_find(body, name);
    int64_t value = 0;
    if (!item) return SP_OK;
    bool good = cJSON_IsNumber(item);
    if (good && fabs(item->valuedouble) < 9007199254740992.0) {
        good = floor(item->valuedouble) == item->valuedouble;
        value = good ? (int64_t)item->valuedouble : 0;
    } else if (good) {
        sp_json reader;
        good = seek(body, name, &reader) == SP_JSON_NUMBER && sp_json_int64(&reader, &value);
    }
    if (!good || value < min || value > max) {
        return sp_fail_param(error, SP_INVALID, name, "%s must be an integer from %lld to %lld", name,
                             (long long)min, (long long)max);
    }
    *out = value;
    return SP_OK;
}

sp_status sp_body_number(const sp_body *body, const char *name, double min, double max, bool above_min,
                         double *out, sp_error *error)
{
    sp_item *item = sp_body_find(body, name);
    if (!item) return SP_OK;
    double value = cJSON_IsNumber(item) ? item->valuedouble : (double)NAN;
    if (!(value >= min && value <= max) || (above_min && value == min)) {
        return sp_fail_param(error, SP_INVALID, name, "%s must be a number %s %g and at most %g", name,
                             above_min ? "above" : "from", min, max);
    }
    *out = value;
    return SP_OK;
}

sp_status sp_body_bool(const sp_body *body, const char *name, bool *out, sp_error *error)
{
    sp_item *item = sp_body_find(body, name);
    if (!item) return SP_OK;
    if (!cJSON_IsBool(item)) return sp_fail_param(error, SP_INVALID, name, "%s must be true or false", name);
    *out = cJSON_IsTrue(item);
    return SP_OK;
}

bool sp_item_is_word(sp_item *item, const char *word)
{
    return item && cJSON_IsString(item) && strcmp(item->valuestring, word) == 0;
}

const char *sp_item_text(const sp_body *body, sp_item *item, size_t *size)
{
    size_t n = strlen(item->valuestring), kept = 0;
    char *copy = sp_arena_copy(body->arena, item->valuestring, n);
    *size = 0;
    if (!copy) return NULL;
    for (size_t i = 0; i < n; kept++) {
        bool mark = body->nul_mark && i + 2 < n && (unsigned char)copy[i] == 0xEF &&
                    (unsigned char)copy[i + 1] == 0xB7 && copy[i + 2] == body->nul_mark;
        copy[kept] = mark ? 0 : copy[i];
        i += mark ? 3 : 1;
    }
    copy[kept] = 0;
    *size = kept;
    return copy;
}

sp_status sp_body_text(const sp_body *body, const char *name, const char **out, size_t *size, sp_error *error)
{
    sp_item *item = sp_body_find(body, name);
    if (!item) return SP_OK;
    if (!cJSON_IsString(item)) return sp_fail_param(error, SP_INVALID, name, "%s must be a string", name);
    *out = sp_item_text(body, item, size);
    return *out ? SP_OK
                : sp_fail_param(error, SP_NO_MEMORY, name, "%s does not fit the memory of a request", name);
}

bool sp_body_raw(const sp_body *body, const char *name, const char **text, size_t *size)
{
    sp_json reader;
    sp_json_type type = seek(body, name, &reader);
    if (type == SP_JSON_END || type == SP_JSON_NULL) return false;
    const char *begin = reader.raw;
    if (type == SP_JSON_OBJECT || type == SP_JSON_ARRAY) begin = body->text + reader.position - 1;
    if (type == SP_JSON_STRING) begin--;
    sp_json_skip(&reader, type);
    *text = begin;
    *size = (size_t)(body->text + reader.position - begin);
    return true;
}
