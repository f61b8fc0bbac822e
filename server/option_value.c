/* One option's value, from its text to its place in sp_options (option_value.h): integers, sizes, numbers,
 * flags, texts of which all may be known, and lists that grow. Tests: tests/unit/server/test_options.c */
#include "server/option_value.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static sp_status bad_range(const sp_option *option, const char *label, const char *text, sp_error *error)
{
    if (option->type == SP_OPTION_BYTES)
        return sp_fail_param(error, SP_USAGE, option->name,
                             "%s: %s is no size from %.0f to %.0f bytes; suffixes K, M, G are powers of 1024",
                             label, text, option->min, option->max);
    return sp_fail_param(error, SP_USAGE, option->name, "%s: %s is no %s from %.15g to %.15g", label, text,
                         option->type == SP_OPTION_INT ? "integer" : "number", option->min, option->max);
}

static bool parse_int(const char *text, int64_t *out, const char **end)
{
    const char *digits = text + (*text == '-');
    if (*digits < '0' || *digits > '9') return false;
    errno = 0;
    char *stop;
    long long value = strtoll(text, &stop, 10);
    *end = stop;
    *out = value;
    return errno == 0;
}

static bool parse_bytes(const char *text, int64_t *out)
{
    const char *end;
    int64_t value;
    if (!parse_int(text, &value, &end) || value < 0) return false;
    int shift = 0;
    switch (*end) {
    case 'K':
    case 'k':
        shift = 10;
        break;
    case 'M':
    case 'm':
        shift = 20;
        break;
    case 'G':
    case 'g':
        shift = 30;
        break;
    default:
        break;
    }
    if (shift) end++;
    if (*end || value > (INT64_MAX >> shift)) return false;
    *out = value << shift;
    return true;
}

static bool parse_number(const char *text, double *out)
{
    if (!*text || text[strspn(text, "0123456789.eE+-")]) return false; /* no hex, no inf, no nan */
    char *end;
    *out = strtod(text, &end);
    return *end == 0 && end != text && isfinite(*out);
}

/* Is text one of the values in "a|b|c"? */
static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
        if (strcspn(at, "|") == n && strncmp(at, text, n) == 0) return true;
    return false;
}

/* A copy of n bytes of text in the arena of the options. */
static sp_status keep(sp_options *options, const sp_option *option, const char *label, const char *text,
                      size_t n, const char **out, sp_error *error)
{
    *out = sp_arena_copy(&options->arena, text, n);
    if (*out) return SP_OK;
    return options->arena.no_memory
               ? sp_fail_param(error, SP_NO_MEMORY, option->name, "%s: no memory for its value", label)
               : sp_fail_param(error, SP_USAGE, option->name, "%s: value too long", label);
}

static sp_status set_text(sp_options *options, const sp_option *option, const char *label, const char *text,
                          sp_error *error)
{
    const char **field = (const char **)(void *)((char *)options + option->offset);
    bool closed = islower((unsigned char)option->value_name[0]);
    if (closed && !is_choice(option->value_name, text))
        return sp_fail_param(error, SP_USAGE, option->name, "%s: \"%s\" is none of %s", label, text,
                             option->value_name);
    if (!*text && option->offset != offsetof(sp_options, prompt))
        return sp_fail_param(error, SP_USAGE, option->name, "%s: empty value", label);
    return keep(options, option, label, text, strlen(text), field, error);
}

/* NAME=DIR at the end of the list. */
static sp_status add_adapter(sp_options *options, const sp_option *option, const char *label,
                             const char *text, sp_error *error)
{
    sp_adapter_list *list = (sp_adapter_list *)(void *)((char *)options + option->offset);
    size_t n = strcspn(text, "=");
    if (n == 0 || !text[n] || !text[n + 1])
        return sp_fail_param(error, SP_USAGE, option->name, "%s: \"%s\" is no NAME=DIR", label, text);
    if (list->n == SP_MAX_ADAPTERS)
        return sp_fail_param(error, SP_USAGE, option->name, "%s: more than %u adapters", label,
                             SP_MAX_ADAPTERS);
    sp_adapter_option *item = &list->items[list->n];
    sp_status status = keep(options, option, label, text, n, &item->name, error);
    if (!status)
        status = keep(options, option, label, text + n + 1, strlen(text + n + 1), &item->path, error);
    list->n += !status;
    return status;
}

static sp_status add_file(sp_options *options, const sp_option *option, const char *label, const char *text,
                          sp_error *error)
{
    sp_file_list *list = (sp_file_list *)(void *)((char *)options + option->offset);
    size_t most = sizeof list->items / sizeof list->items[0];
    if (!*text) return sp_fail_param(error, SP_USAGE, option->name, "%s: empty value", label);
    if (list->n == most)
        return sp_fail_param(error, SP_USAGE, option->name, "%s: more than %zu files", label, most);
    sp_status status = keep(options, option, label, text, strlen(text), &list->items[list->n], error);
    list->n += !status;
    return status;
}

sp_status sp_option_set(sp_options *options, const sp_option *option, const char *label, const char *text,
                        sp_error *error)
{
    void *field = (char *)options + option->offset;
    const char *end = "";
    int64_t integer = 0;
    double number = 0;
    switch (option->type) {
    case SP_OPTION_TEXT:
        return set_text(options, option, label, text, error);
    case SP_OPTION_ADAPTERS:
        return add_adapter(options, option, label, text, error);
    case SP_OPTION_FILES:
        return add_file(options, option, label, text, error);
    case SP_OPTION_FLAG:
        if (strcmp(text, "true") && strcmp(text, "false"))
            return sp_fail_param(error, SP_USAGE, option->name, "%s: \"%s\" is neither true nor false", label,
                                 text);
        *(bool *)field = text[0] == 't';
        return SP_OK;
    case SP_OPTION_INT:
    case SP_OPTION_BYTES:
        if (option->type == SP_OPTION_INT ? !parse_int(text, &integer, &end) || *end
                                          : !parse_bytes(text, &integer))
            return bad_range(option, label, text, error);
        number = (double)integer;
        if (number < option->min || number > option->max) return bad_range(option, label, text, error);
        *(int64_t *)field = integer;
        return SP_OK;
    case SP_OPTION_NUMBER:
        if (!parse_number(text, &number) || number < option->min || number > option->max)
            return bad_range(option, label, text, error);
        *(double *)field = number;
        return SP_OK;
    }
    return sp_fail(error, SP_INTERNAL, "option %s has no type", option->name);
}
