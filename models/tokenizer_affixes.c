/* What is added around a text: the post-processor of tokenizer.json, and bos_token, eos_token, add_bos_token
 * and add_eos_token of tokenizer_config.json. Of a post-processor only what it adds to a single text counts.
 * Tests: tests/unit/models/test_tokenizer.c, tests/golden/test_tokenizers.c, tests/fuzz/fuzz_tokenizer.c */
#include <string.h>

#include "models/config.h"
#include "models/tokenizer_load.h"

/* --- post-processor --- */

/* Appends the ids of a special token, found in the template's table, to the prefix or suffix. */
static sp_status add_affix(sp_loader *l, const sp_member *table, const char *name, bool behind)
{
    sp_tokenizer *t = l->tokenizer;
    sp_member token = {.key = name}, ids = {.key = "ids"};
    sp_status status;
    if (!sp_load_object(l, "post_processor", table, &token, 1, &status) ||
        !sp_load_object(l, "post_processor", &token, &ids, 1, &status))
        return status == SP_OK
                   ? sp_load_fail_key(l, "post_processor", "names a token that special_tokens lacks")
                   : status;
    sp_json reader;
    if (sp_load_enter(&ids, &reader) != SP_JSON_ARRAY)
        return sp_load_fail_key(l, "post_processor", "special_tokens must have ids");
    for (sp_json_type type; (type = sp_json_next(&reader)) != SP_JSON_ARRAY_END;) {
        int64_t id;
        if (type != SP_JSON_NUMBER || !sp_json_int64(&reader, &id) || id < 0 || id >= t->vocab.size ||
            !t->vocab.pieces[id])
            return sp_load_fail_key(l, "post_processor", "adds an id that is no token");
        if ((behind ? t->n_suffix : t->n_prefix) == SP_MAX_AFFIX)
            return sp_load_fail_key(l, "post_processor", "adds more than 16 tokens");
        if (behind)
            t->suffix[t->n_suffix++] = (int32_t)id;
        else
            t->prefix[t->n_prefix++] = (int32_t)id;
    }
    return SP_OK;
}

/* One item of a template: {"SpecialToken": {"id": NAME}} or {"Sequence": {...}}. */
static sp_status read_template_item(sp_loader *l, const sp_member *item, const sp_member *table,
                                    bool *seen_text)
{
    sp_member m[2] = {{.key = "SpecialToken"}, {.key = "Sequence"}}, id = {.key = "id"};
    sp_status status;
    sp_json reader;
    if (!sp_load_object(l, "post_processor", item, m, 2, &status))
        return status == SP_OK ? sp_load_fail_key(l, "post_processor", "has a template item that is null")
                               : status;
    if (m[1].present) {
        if (*seen_text) return sp_load_fail_key(l, "post_processor", "repeats the text");
        *seen_text = true;
        return SP_OK;
    }
    if (!sp_load_object(l, "post_processor", &m[0], &id, 1, &status) ||
        sp_load_enter(&id, &reader) != SP_JSON_STRING)
        return sp_load_fail_key(l, "post_processor", "has a template item that is neither text nor token");
    const char *name = sp_json_text(&reader, &l->arena, NULL);
    return name ? add_affix(l, table, name, *seen_text) : sp_load_fail_memory(l);
}

static sp_status read_template(sp_loader *l, const sp_member *single, const sp_member *table)
{
    sp_json reader;
    bool seen_text = false;
    if (sp_load_enter(single, &reader) != SP_JSON_ARRAY)
        return sp_load_fail_key(l, "post_processor", "TemplateProcessing must have an array single");
    for (;;) {
        sp_member item = {.at = reader, .present = true};
        sp_json_type type = sp_json_next(&reader);
        if (type == SP_JSON_ARRAY_END) break;
        sp_status status = read_template_item(l, &item, table, &seen_text);
        if (status != SP_OK) return status;
        sp_json_skip(&reader, type);
    }
    return seen_text ? SP_OK : sp_load_fail_key(l, "post_processor", "leaves out the text");
}

static sp_status read_processor(sp_loader *l, const sp_member *m)
{
    sp_member s[3] = {{.key = "type"}, {.key = "single"}, {.key = "special_tokens"}};
    sp_status status;
    if (!sp_load_object(l, "post_processor", m, s, 3, &status)) return status;
    if (sp_load_is_text(&s[0], "ByteLevel")) return SP_OK; /* only trims offsets, which we never do */
    if (sp_load_is_text(&s[0], "TemplateProcessing")) return read_template(l, &s[1], &s[2]);
    return sp_load_refuse(l, "post_processor", &s[0]);
}

sp_status sp_load_postprocessor(sp_loader *l, const sp_member *m)
{
    sp_member s[2] = {{.key = "type"}, {.key = "processors"}};
    sp_status status;
    sp_json reader;
    if (!sp_load_object(l, "post_processor", m, s, 2, &status)) return status;
    if (!sp_load_is_text(&s[0], "Sequence")) return read_processor(l, m);
    if (sp_load_enter(&s[1], &reader) != SP_JSON_ARRAY)
        return sp_load_fail_key(l, "post_processor", "Sequence must list processors");
    for (;;) {
        sp_member item = {.at = reader, .present = true};
        sp_json_type type = sp_json_next(&reader);
        if (type == SP_JSON_ARRAY_END || status != SP_OK) return status;
        status = read_processor(l, &item);
        sp_json_skip(&reader, type);
    }
}

/* --- tokenizer_config.json --- */

/* A token given as text or as {"content": text}; *id -1 when absent. */
static sp_status read_named_token(sp_loader *l, sp_config *config, const char *key, int32_t *id)
{
    const sp_config *object = sp_config_object(config, key);
    const char *text = object ? sp_config_text(object, "content") : sp_config_text(config, key);
    *id = -1;
    if (!sp_config_has(config, key)) return SP_OK;
    if (!text) return sp_load_fail_key(l, key, "must be a token");
    *id = sp_vocab_find(&l->tokenizer->vocab, text, strlen(text));
    if (*id >= 0) return SP_OK;
    return sp_fail_param(l->error, SP_DATA, key, "%s: %s '%.100s' is no token of tokenizer.json", l->name,
                         key, text);
}

sp_status sp_load_config(sp_loader *l, const char *text, size_t size)
{
    sp_tokenizer *t = l->tokenizer;
    sp_config *config;
    bool add_bos = false;
    sp_status status = sp_config_parse(l->name, text, size, &config, l->error);
    if (status != SP_OK) return status;
    status = read_named_token(l, config, "bos_token", &t->bos);
    if (status == SP_OK) status = read_named_token(l, config, "eos_token", &t->eos);
    if (status == SP_OK) status = sp_config_bool(config, "add_bos_token", false, &add_bos, l->error);
    if (status == SP_OK && add_bos && t->bos < 0)
        status = sp_load_fail_key(l, "add_bos_token", "is true but there is no bos_token");
    if (status == SP_OK && add_bos && !sp_tokenizer_adds_bos(t)) {
        memmove(t->prefix + 1, t->prefix, (SP_MAX_AFFIX - 1) * sizeof *t->prefix);
        t->prefix[0] = t->bos;
        if (t->n_prefix < SP_MAX_AFFIX) t->n_prefix++;
    }
    sp_config_close(config);
    return status;
}
