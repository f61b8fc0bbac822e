/* Reads tokenizer.json (Hugging Face tokenizers) and tokenizer_config.json.
 *
 * The file is validated once; the first pass only notes where each member stands, so the order of keys does
 * not matter and nothing is copied before its number is known. Whatever would change the text or the pieces
 * and is not built is refused by name: a pipeline read half would split text otherwise than the model was
 * trained with. Tests: tests/unit/models/test_tokenizer.c, test_tokenizer_models.c,
 * tests/golden/test_tokenizers.c, tests/fuzz/fuzz_tokenizer.c */
#include "models/tokenizer_load.h"

#define MAX_TOKENIZER_BYTES ((size_t)64 << 20)
#define MAX_CONFIG_BYTES ((size_t)1 << 20)

/* --- what all parts use --- */

sp_status sp_load_fail_key(const sp_loader *l, const char *key, const char *reason)
{
    return sp_fail_param(l->error, SP_DATA, key, "%s: %s %s", l->name, key, reason);
}

sp_status sp_load_fail_memory(const sp_loader *l)
{
    return sp_fail(l->error, SP_NO_MEMORY, "%s: out of memory", l->name);
}

sp_status sp_load_fail_within(const sp_loader *l, const char *key, sp_status status, const sp_error *reason)
{
    return sp_fail_param(l->error, status, key, "%s: %s: %s", l->name, key, reason->message);
}

void sp_load_members(sp_json *reader, sp_member *members, size_t n)
{
    while (sp_json_next(reader) == SP_JSON_KEY) {
        sp_member *found = NULL;
        for (size_t i = 0; i < n && !found; i++)
            if (sp_json_is(reader, members[i].key)) found = &members[i];
        if (found) {
            found->at = *reader;
            found->present = true;
        }
        sp_json_skip(reader, sp_json_next(reader));
    }
}

sp_json_type sp_load_enter(const sp_member *m, sp_json *reader)
{
    if (!m->present) return SP_JSON_NULL;
    *reader = m->at;
    return sp_json_next(reader);
}

bool sp_load_is_true(const sp_member *m)
{
    sp_json reader;
    return sp_load_enter(m, &reader) == SP_JSON_TRUE;
}

bool sp_load_is_text(const sp_member *m, const char *text)
{
    sp_json reader;
    return sp_load_enter(m, &reader) == SP_JSON_STRING && sp_json_is(&reader, text);
}

bool sp_load_is_empty(const sp_member *m)
{
    sp_json reader;
    sp_json_type type = sp_load_enter(m, &reader);
    return type == SP_JSON_NULL || (type == SP_JSON_STRING && sp_json_is(&reader, ""));
}

sp_status sp_load_refuse(sp_loader *l, const char *key, const sp_member *m)
{
    sp_json reader;
    if (sp_load_enter(m, &reader) != SP_JSON_STRING) return sp_load_fail_key(l, key, "has no type");
    const char *text = sp_json_text(&reader, &l->arena, NULL);
    if (!text) return sp_load_fail_memory(l);
    return sp_fail_param(l->error, SP_DATA, key, "%s: %s '%.160s' is not supported", l->name, key, text);
}

bool sp_load_object(sp_loader *l, const char *key, const sp_member *m, sp_member *members, size_t n,
                    sp_status *status)
{
    sp_json reader;
    sp_json_type type = sp_load_enter(m, &reader);
    *status = SP_OK;
    if (type == SP_JSON_NULL) return false;
    if (type != SP_JSON_OBJECT) {
        *status = sp_load_fail_key(l, key, "must be an object or null");
        return false;
    }
    sp_load_members(&reader, members, n);
    return true;
}

sp_status sp_load_each(sp_loader *l, const char *key, const sp_member *list, sp_load_item *read,
                       void *context)
{
    sp_json reader;
    if (sp_load_enter(list, &reader) != SP_JSON_ARRAY)
        return sp_fail_param(l->error, SP_DATA, key, "%s: %s: %s must be an array", l->name, key, list->key);
    for (;;) {
        sp_member item = {.at = reader, .present = true};
        sp_json_type type = sp_json_next(&reader);
        if (type == SP_JSON_ARRAY_END) return SP_OK;
        sp_status status = read(l, &item, context);
        if (status != SP_OK) return status;
        sp_json_skip(&reader, type);
    }
}

/* --- the whole file --- */

static sp_status read_file(sp_loader *l, const char *json, size_t size)
{
    enum { ADDED, NORMALIZER, PRETOKENIZER, POSTPROCESSOR, DECODER, MODEL, MEMBERS };
    sp_member m[MEMBERS] = {{.key = "added_tokens"},   {.key = "normalizer"}, {.key = "pre_tokenizer"},
                            {.key = "post_processor"}, {.key = "decoder"},    {.key = "model"}};
    sp_error reason = {0};
    sp_json reader;
    if (size > MAX_TOKENIZER_BYTES) return sp_fail(l->error, SP_DATA, "%s: larger than 64 MiB", l->name);
    sp_status status = sp_json_validate(json, size, &reason);
    if (status != SP_OK) return sp_fail(l->error, status, "%s: %s", l->name, reason.message);
    sp_json_init(&reader, json, size);
    if (sp_json_next(&reader) != SP_JSON_OBJECT)
        return sp_fail(l->error, SP_DATA, "%s: the outermost value must be an object", l->name);
    sp_load_members(&reader, m, MEMBERS);
    status = sp_load_normalizer(l, &m[NORMALIZER]);
    if (status == SP_OK) status = sp_load_pretokenizer(l, &m[PRETOKENIZER]);
    if (status == SP_OK) status = sp_load_decoder(l, &m[DECODER]);
    if (status == SP_OK) status = sp_load_model(l, &m[MODEL], &m[ADDED]);
    if (status == SP_OK) status = sp_load_postprocessor(l, &m[POSTPROCESSOR]);
    return status;
}

static sp_status parse(const char *name, const char *json, size_t size, const char *config_name,
                       const char *config, size_t config_size, sp_tokenizer **out, sp_error *error)
{
    sp_loader l = {.name = name, .error = error, .largest_id = -1};
    *out = NULL;
    l.tokenizer = sp_alloc_zero(1, sizeof *l.tokenizer);
    if (!l.tokenizer) return sp_load_fail_memory(&l);
    l.tokenizer->bos = l.tokenizer->eos = -1;
    sp_arena_init(&l.arena, (size_t)512 << 20);
    sp_status status = read_file(&l, json, size);
    l.name = config_name;
    if (status == SP_OK && config) status = sp_load_config(&l, config, config_size);
    sp_arena_fini(&l.arena);
    if (status == SP_OK)
        *out = l.tokenizer;
    else
        sp_tokenizer_close(l.tokenizer);
    return status;
}

sp_status sp_tokenizer_parse(const char *name, const char *json, size_t size, const char *config,
                             size_t config_size, sp_tokenizer **out, sp_error *error)
{
    return parse(name, json, size, "tokenizer_config.json", config, config_size, out, error);
}

/* FOLDER/FILE; false when too long. */
static bool join_path(sp_buffer *path, const char *folder, const char *file)
{
    sp_buffer_init(path, 8192);
    sp_buffer_format(path, "%s/%s", folder, file);
    return sp_buffer_append(path, "", 1);
}

sp_status sp_tokenizer_open(const char *folder, sp_tokenizer **out, sp_error *error)
{
    sp_buffer json_path, config_path;
    char *json = NULL, *config = NULL;
    size_t json_size = 0, config_size = 0;
    sp_error absent;
    *out = NULL;
    bool fits = join_path(&json_path, folder, "tokenizer.json");
    fits = join_path(&config_path, folder, "tokenizer_config.json") && fits;
    sp_status status = fits
                           ? sp_read_file(json_path.data, MAX_TOKENIZER_BYTES, &json, &json_size, error)
                           : sp_buffer_path_fail(json_path.failed ? &json_path : &config_path, folder, error);
    if (status == SP_OK) {
        status = sp_read_file(config_path.data, MAX_CONFIG_BYTES, &config, &config_size, &absent);
        if (status == SP_NOT_FOUND)
            status = SP_OK;
        else if (status != SP_OK && error)
            *error = absent;
    }
    if (status == SP_OK)
        status = parse(json_path.data, json, json_size, config_path.data, config, config_size, out, error);
    sp_free(json);
    sp_free(config);
    sp_buffer_fini(&json_path);
    sp_buffer_fini(&config_path);
    return status;
}
