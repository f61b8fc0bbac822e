/* Request bodies: the server's only door to cJSON.
 *
 * A body is validated strictly first (kernels/json: UTF-8, depth 32, duplicate keys, lone surrogates, numbers
 * beyond a double), then parsed by cJSON, then read through typed, range-checked getters that name the field
 * at fault. cJSON ends strings at \u0000 and keeps numbers as doubles; both are repaired here: an escaped NUL
 * travels through cJSON as a noncharacter that the body doesn't use, and integers beyond 2^53 are read from
 * the text.
 *
 * null counts as absent; 1.0 is the integer 1; booleans are never numbers. A getter leaves *out alone when
 * the field is absent, so that it keeps its default. Texts live as long as the arena. Memory: cJSON takes
 * about 42 bytes a byte of body; at most one body an HTTP thread is parsed at a time. Tests:
 * tests/unit/server/test_json_body.c, tests/http/test_json.py */
#ifndef SPARSED_SERVER_JSON_BODY_H
#define SPARSED_SERVER_JSON_BODY_H

#include "kernels/json.h"

struct cJSON;
typedef struct sp_body {
    struct cJSON *root;
    const char *text; /* the caller's */
    size_t size;
    char nul_mark; /* third byte of the noncharacter that stands for NUL; 0: none */
    sp_arena *arena;
} sp_body;
typedef const struct cJSON sp_item; /* NULL: absent */

/* text: (size) bytes and a NUL; changed in place where it holds \u0000; stays the caller's until
 * sp_body_close. The outermost value must be an object. SP_INVALID. */
sp_status sp_body_open(sp_body *body, char *text, size_t size, sp_arena *arena,
                       sp_error *error) SP_MUST_CHECK;
void sp_body_close(sp_body *body);

sp_item *sp_body_find(const sp_body *body,
                      const char *name); /* member of the outermost object; NULL also for null */
sp_item *sp_item_find(sp_item *object, const char *name);
const char *sp_item_name(sp_item *item); /* key of a member */
sp_item *sp_item_first(sp_item *container);
sp_item *sp_item_next(sp_item *item);
size_t sp_item_count(sp_item *container);
bool sp_item_is_object(sp_item *item);
bool sp_item_is_array(sp_item *item);
bool sp_item_is_text(sp_item *item);
bool sp_item_is_word(sp_item *item, const char *word); /* the string `word`; NULL is none */
bool sp_item_is_number(sp_item *item);
/* A number in [min, max]. */
bool sp_item_is_between(sp_item *item, double min, double max, double *value);
bool sp_item_is_integer(sp_item *item, double min, double max, double *value);

/* Members of the outermost object. */
sp_status sp_body_int(const sp_body *body, const char *name, int64_t min, int64_t max, int64_t *out,
                      sp_error *error) SP_MUST_CHECK;
/* [min, max], or (min, max] when above_min. */
sp_status sp_body_number(const sp_body *body, const char *name, double min, double max, bool above_min,
                         double *out, sp_error *error) SP_MUST_CHECK;
sp_status sp_body_bool(const sp_body *body, const char *name, bool *out, sp_error *error) SP_MUST_CHECK;
sp_status sp_body_text(const sp_body *body, const char *name, const char **out, size_t *size,
                       sp_error *error) SP_MUST_CHECK;
/* Text of a string item: arena copy with its NULs; NULL out of memory. */
const char *sp_item_text(const sp_body *body, sp_item *item, size_t *size);
/* The member's value as it stands in the body; false when absent or null. */
bool sp_body_raw(const sp_body *body, const char *name, const char **text, size_t *size);

#endif
