/* Reads tokenizer.json (Hugging Face tokenizers) and tokenizer_config.json.
 *
 * The file is validated once; the first pass only notes where each member stands, so the order of keys does
 * not matter and nothing is copied before its number is known. Whatever would change the text or the pieces
 * and is not built is refused by name: normalizers, other pre-tokenizers, decoders and models. Tests:
 * tests/unit/models/test_tokenizer.c, tests/golden/test_tokenizers.c, tests/fuzz/fuzz_tokenizer.c */
#include <string.h>

#include "models/config.h"
#include "models/tokenizer_load.h"

#define MAX_TOKENIZER_BYTES ((size_t)64 << 20)
#define MAX_CONFIG_BYTES ((size_t)1 << 20)

/* --- vocabulary --- */

/* Passes over the vocabulary: counts and finds the largest id, or (fill) adds the tokens. */
static sp_status read_vocab(sp_loader *l, const sp_member *vocab, bool fill)
{
    sp_json reader;
    if (sp_load_enter(vocab, &reader) != SP_JSON_OBJECT)
        return sp_load_fail_key(l, "vocab", "must be an object of ids");
    while (sp_json_next(&reader) == SP_JSON_KEY) {
        sp_json key = reader;
        int64_t id;
        if (sp_json_next(&reader) != SP_JSON_NUMBER || !sp_json_int64(&reader, &id) || id < 0 ||
            id >= SP_MAX_VOCAB)
            return sp_load_fail_key(l, "vocab", "must map tokens to ids from 0 to 2097151");
        if (!fill) {
            l->n_vocab++;
            if (id > l->largest_id) l->largest_id = id;
            continue;
        }
        size_t size;
        sp_error reason = {0};
        char *piece = sp_json_text(&key, &l->arena, &size);
        if (!piece) return sp_load_fail_memory(l);
        sp_status status = sp_vocab_add(&l->tokenizer->vocab, (int32_t)id, piece, size, false, &reason);
        if (status != SP_OK) return sp_load_fail_within(l, "vocab", status, &reason);
    }
    return SP_OK;
}

/* --- added tokens --- */

static sp_status read_added_token(sp_loader *l, sp_json *reader, bool fill)
{
    enum { ID, CONTENT, SPECIAL, LSTRIP, RSTRIP, NORMALIZED, SINGLE_WORD, MEMBERS };
    sp_member m[MEMBERS] = {{.key = "id"},         {.key = "content"}, {.key = "special"},
                            {.key = "lstrip"},     {.key = "rstrip"},  {.key = "normalized"},
                            {.key = "single_word"}};
    sp_load_members(reader, m, MEMBERS);
    sp_json value;
    int64_t id;
    if (sp_load_enter(&m[ID], &value) != SP_JSON_NUMBER || !sp_json_int64(&value, &id) || id < 0 ||
        id >= SP_MAX_VOCAB)
        return sp_load_fail_key(l, "added_tokens", "must have ids from 0 to 2097151");
    l->n_added += !fill;
    if (id > l->largest_id) l->largest_id = id;
    if (!fill) return SP_OK;
    size_t size;
    if (sp_load_enter(&m[CONTENT], &value) != SP_JSON_STRING)
        return sp_load_fail_key(l, "added_tokens", "must have content");
    char *content = sp_json_text(&value, &l->arena, &size);
    if (!content) return sp_load_fail_memory(l);
    if (size == 0 || size > SP_MAX_ADDED_BYTES || strlen(content) != size)
        return sp_load_fail_key(l, "added_tokens", "must have content of 1 to 255 bytes without NUL");
    if (sp_load_is_true(&m[SINGLE_WORD]))
        return sp_fail_param(l->error, SP_DATA, "added_tokens",
                             "%s: added_tokens: '%.100s' has single_word, which is "
                             "not supported",
                             l->name, content);
    sp_vocab *vocab = &l->tokenizer->vocab;
    sp_error reason = {0};
    sp_status status = SP_OK;
    if (sp_vocab_find(vocab, content, size) != (int32_t)id)
        status = sp_vocab_add(vocab, (int32_t)id, content, size, true, &reason);
    if (status != SP_OK) return sp_load_fail_within(l, "added_tokens", status, &reason);
    if (vocab->flags[id] & SP_TOKEN_ADDED)
        return sp_fail_param(l->error, SP_DATA, "added_tokens", "%s: added_tokens: '%.100s' is listed twice",
                             l->name, content);
    vocab->flags[id] = (uint8_t)(SP_TOKEN_ADDED | (sp_load_is_true(&m[SPECIAL]) ? SP_TOKEN_SPECIAL : 0u));
    sp_added_set *set = &l->tokenizer->added[sp_load_is_true(&m[NORMALIZED])];
    set->tokens[set->count++] = (sp_added_token){.content = vocab->pieces[id],
                                                 .size = (uint32_t)size,
                                                 .id = (int32_t)id,
                                                 .special = sp_load_is_true(&m[SPECIAL]),
                                                 .lstrip = sp_load_is_true(&m[LSTRIP]),
                                                 .rstrip = sp_load_is_true(&m[RSTRIP])};
    return SP_OK;
}

/* Passes over added_tokens: counts them, or (fill) adds them. */
static sp_status read_added(sp_loader *l, const sp_member *added, bool fill)
{
    sp_json reader;
    sp_json_type type = sp_load_enter(added, &reader);
    if (type == SP_JSON_NULL) return SP_OK;
    if (type != SP_JSON_ARRAY) return sp_load_fail_key(l, "added_tokens", "must be an array");
    while ((type = sp_json_next(&reader)) != SP_JSON_ARRAY_END) {
        if (type != SP_JSON_OBJECT) return sp_load_fail_key(l, "added_tokens", "must be an array of objects");
        sp_status status = read_added_token(l, &reader, fill);
        if (status != SP_OK) return status;
    }
    return SP_OK;
}

/* --- merges --- */

/* The current string: the file's own bytes where nothing is escaped. NULL: out of memory. */
static const char *borrow_text(sp_loader *l, const sp_json *reader, size_t *size)
{
    if (memchr(reader->raw, '\\', reader->raw_size)) return sp_json_text(reader, &l->arena, size);
    *size = reader->raw_size;
    return reader->raw;
}

static sp_status fail_merge(const sp_loader *l, size_t rank, const char *reason)
{
    return sp_fail_param(l->error, SP_DATA, "merges", "%s: merges: entry %zu %s", l->name, rank, reason);
}

/* Resolves the two halves of a merge to ids. */
static sp_status resolve_merge(sp_loader *l, size_t rank, const char *left, size_t n_left, const char *right,
                               size_t n_right, sp_merge *out)
{
    char joined[2 * SP_MAX_PIECE];
    const sp_vocab *vocab = &l->tokenizer->vocab;
    if (n_left == 0 || n_right == 0 || n_left > SP_MAX_PIECE || n_right > SP_MAX_PIECE)
        return fail_merge(l, rank, "has an empty or overlong half");
    memcpy(joined, left, n_left);
    memcpy(joined + n_left, right, n_right);
    *out = (sp_merge){.left = sp_vocab_find(vocab, left, n_left),
                      .right = sp_vocab_find(vocab, right, n_right),
                      .rank = (uint32_t)rank,
                      .result = sp_vocab_find(vocab, joined, n_left + n_right)};
    if (out->left < 0 || out->right < 0) return fail_merge(l, rank, "joins what is no token");
    if (out->result < 0) return fail_merge(l, rank, "makes what is no token");
    return SP_OK;
}

/* One merge, "left right" or ["left", "right"]; type: of the event just read. */
static sp_status read_merge(sp_loader *l, sp_json *reader, sp_json_type type, size_t rank, sp_merge *out)
{
    size_t n_left, n_right;
    const char *left, *right;
    if (type == SP_JSON_STRING) {
        left = borrow_text(l, reader, &n_left);
        if (!left) return sp_load_fail_memory(l);
        const char *space = memchr(left, ' ', n_left);
        if (!space) return fail_merge(l, rank, "has no space between its halves");
        right = space + 1;
        n_right = n_left - (size_t)(right - left);
        n_left = (size_t)(space - left);
        return resolve_merge(l, rank, left, n_left, right, n_right, out);
    }
    if (type != SP_JSON_ARRAY || sp_json_next(reader) != SP_JSON_STRING)
        return fail_merge(l, rank, "is no pair");
    left = borrow_text(l, reader, &n_left);
    if (sp_json_next(reader) != SP_JSON_STRING) return fail_merge(l, rank, "is no pair");
    right = borrow_text(l, reader, &n_right);
    if (sp_json_next(reader) != SP_JSON_ARRAY_END) return fail_merge(l, rank, "is no pair");
    return left && right ? resolve_merge(l, rank, left, n_left, right, n_right, out) : sp_load_fail_memory(l);
}

static sp_status count_items(sp_loader *l, const sp_member *list, size_t *count)
{
    sp_json reader;
    if (sp_load_enter(list, &reader) != SP_JSON_ARRAY)
        return sp_load_fail_key(l, "merges", "must be an array");
    *count = 0;
    for (sp_json_type type; (type = sp_json_next(&reader)) != SP_JSON_ARRAY_END; ++*count)
        sp_json_skip(&reader, type);
    if (*count > 2 * (size_t)SP_MAX_VOCAB) return sp_load_fail_key(l, "merges", "has too many entries");
    return SP_OK;
}

static sp_status read_merges(sp_loader *l, const sp_member *list)
{
    size_t count = 0;
    sp_json reader;
    sp_status status = count_items(l, list, &count);
    if (status != SP_OK) return status;
    sp_merge *merges = count ? sp_alloc(count, sizeof *merges) : NULL;
    if (count && !merges) return sp_load_fail_memory(l);
    sp_load_enter(list, &reader);
    for (size_t rank = 0; rank < count && status == SP_OK; rank++) {
        sp_json_type type = sp_json_next(&reader);
        status = read_merge(l, &reader, type, rank, &merges[rank]);
    }
    if (status != SP_OK) {
        sp_free(merges);
        return status;
    }
    sp_error reason = {0};
    status = sp_bpe_init(&l->tokenizer->bpe, &l->tokenizer->vocab, merges, count, &reason);
    return status == SP_OK ? SP_OK : sp_load_fail_within(l, "model", status, &reason);
}

/* --- the whole file --- */

static sp_status read_model(sp_loader *l, const sp_member *model, const sp_member *added)
{
    enum { TYPE, VOCAB, MERGES, DROPOUT, PREFIX, SUFFIX, FALLBACK, IGNORE, MEMBERS };
    sp_member m[MEMBERS] = {{.key = "type"},
                            {.key = "vocab"},
                            {.key = "merges"},
                            {.key = "dropout"},
                            {.key = "continuing_subword_prefix"},
                            {.key = "end_of_word_suffix"},
                            {.key = "byte_fallback"},
                            {.key = "ignore_merges"}};
    sp_json reader;
    if (sp_load_enter(model, &reader) != SP_JSON_OBJECT)
        return sp_load_fail_key(l, "model", "must be an object");
    sp_load_members(&reader, m, MEMBERS);
    if (m[TYPE].present && !sp_load_is_text(&m[TYPE], "BPE")) return sp_load_refuse(l, "model", &m[TYPE]);
    if (!sp_load_is_empty(&m[PREFIX])) return sp_load_refuse(l, "continuing_subword_prefix", &m[PREFIX]);
    if (!sp_load_is_empty(&m[SUFFIX])) return sp_load_refuse(l, "end_of_word_suffix", &m[SUFFIX]);
    if (sp_load_is_true(&m[FALLBACK])) return sp_load_fail_key(l, "byte_fallback", "true is not supported");
    sp_json_type dropout = sp_load_enter(&m[DROPOUT], &reader);
    if (dropout != SP_JSON_NULL && (dropout != SP_JSON_NUMBER || sp_json_double(&reader) != 0))
        return sp_load_fail_key(l, "dropout", "is not supported");
    sp_status status = read_vocab(l, &m[VOCAB], false);
    if (status == SP_OK) status = read_added(l, added, false);
    if (status != SP_OK) return status;
    sp_tokenizer *t = l->tokenizer;
    t->bpe.ignore_merges = sp_load_is_true(&m[IGNORE]);
    status = sp_vocab_init(&t->vocab, (int32_t)l->largest_id + 1, l->n_vocab + l->n_added, l->error);
    for (int set = 0; set < 2 && status == SP_OK; set++) {
        t->added[set].tokens = sp_alloc(l->n_added + 1, sizeof *t->added[set].tokens);
        if (!t->added[set].tokens) status = sp_load_fail_memory(l);
    }
    if (status == SP_OK) status = read_vocab(l, &m[VOCAB], true);
    if (status == SP_OK) status = read_added(l, added, true);
    if (status != SP_OK) return status;
    for (int set = 0; set < 2; set++) sp_added_index(&t->added[set]);
    return read_merges(l, &m[MERGES]);
}

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
    if (status == SP_OK) status = read_model(l, &m[MODEL], &m[ADDED]);
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
    sp_status status = fits ? sp_read_file(json_path.data, MAX_TOKENIZER_BYTES, &json, &json_size, error)
                            : sp_fail(error, SP_NOT_FOUND, "%s: the path is too long", folder);
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
