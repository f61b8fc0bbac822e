/* The tokenizer in a GGUF file's metadata.
 *
 *   tokenizer.ggml.model   "gpt2": byte-level BPE with merges; "llama": SentencePiece BPE with scores
 *   tokenizer.ggml.pre     for gpt2, a name for what cuts the text before the merges
 *   tokenizer.ggml.tokens, token_type, merges, scores: arrays
 *
 * Token types: 1 normal; 2 unknown; 3 control, special when written in a text; 4 user defined, found in every
 * text; 5 unused, a row of the embedding without a token; 6 a byte. GGUF has no word for lstrip, rstrip or
 * normalizers; NFC comes with the name qwen2. SentencePiece joins the neighbours whose union has the highest
 * score, so the merges are all cuts of each piece into two pieces, ranked by its score; equal scores share a
 * rank. BOS and EOS are added where add_bos_token and add_eos_token say so. Tests:
 * tests/unit/models/test_tokenizer_gguf.c, tests/golden/test_tokenizers.c, tests/fuzz/fuzz_gguf.c */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/gguf.h"
#include "models/tokenizer_parts.h"
#include "models/unicode.h"

#define MAX_SCORED_PIECE 512u /* bytes: all its cuts are looked up */

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

#define KEY_MODEL "tokenizer.ggml.model"
#define KEY_PRE "tokenizer.ggml.pre"
#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES "tokenizer.ggml.token_type"
#define KEY_MERGES "tokenizer.ggml.merges"
#define KEY_SCORES "tokenizer.ggml.scores"

/* What tokenizer.ggml.pre names. */
static const struct {
    const char *names[4];
    sp_split splits[5];
    size_t n_splits;
    bool composes, ignore_merges;
} families[] = {
    {.names = {"gpt-2", "phi-2"}, .splits = {SP_SPLIT_GPT2}, .n_splits = 1},
    {.names = {"llama-bpe", "llama3", "llama-v3"},
     .splits = {SP_SPLIT_LLAMA3},
     .n_splits = 1,
     .ignore_merges = true},
    {.names = {"qwen2"}, .splits = {SP_SPLIT_QWEN2}, .n_splits = 1, .composes = true},
    {.names = {"starcoder", "smollm"}, .splits = {SP_SPLIT_DIGITS, SP_SPLIT_GPT2}, .n_splits = 2},
    {.names = {"deepseek-coder"},
     .splits = {SP_SPLIT_LINES, SP_SPLIT_WORDS, SP_SPLIT_PUNCTUATION, SP_SPLIT_CJK, SP_SPLIT_DIGITS},
     .n_splits = 5},
    {.names = {"deepseek-v3"},
     .splits = {SP_SPLIT_NUMBERS3, SP_SPLIT_KANA, SP_SPLIT_DEEPSEEK3},
     .n_splits = 3},
};

typedef struct reader {
    const sp_gguf *gguf;
    sp_tokenizer *tokenizer;
    uint8_t *types; /* (tokens) */
    sp_error *error;
} reader;

static sp_status fail_entry(const reader *r, const char *key, size_t entry, const char *reason)
{
    return sp_fail_param(r->error, SP_DATA, key, "%s: key '%s' entry %zu: %s", sp_gguf_name(r->gguf), key,
                         entry, reason);
}

static sp_status fail_memory(const reader *r)
{
    return sp_fail(r->error, SP_NO_MEMORY, "%s: out of memory", sp_gguf_name(r->gguf));
}

static sp_status refuse(const reader *r, const char *key, const char *value)
{
    return sp_fail_param(r->error, SP_DATA, key, "%s: key '%s' '%.60s' is not supported",
                         sp_gguf_name(r->gguf), key, value);
}

/* An array of one element a token. */
static sp_status open_array(const reader *r, const char *key, sp_gguf_kind kind, bool *present,
                            sp_gguf_array *array)
{
    sp_status status = sp_gguf_array_open(r->gguf, key, kind, present, array, r->error);
    if (status == SP_OK && *present && array->count != (size_t)r->tokenizer->vocab.size)
        status = sp_gguf_fail_key(r->gguf, key, "has another number of elements than the tokens", r->error);
    return status;
}

/* --- what comes before the model --- */

static sp_status choose_bytes(reader *r)
{
    sp_tokenizer *t = r->tokenizer;
    const char *pre;
    size_t size, n_families = sizeof families / sizeof *families, f = 0;
    bool prepends;
    sp_status status = sp_gguf_text(r->gguf, KEY_PRE, &pre, &size, r->error);
    if (status == SP_OK)
        status = sp_gguf_bool(r->gguf, "tokenizer.ggml.add_space_prefix", false, &prepends, r->error);
    if (status != SP_OK) return status;
    if (prepends) return refuse(r, "tokenizer.ggml.add_space_prefix", "true");
    if (!pre) return sp_gguf_fail_key(r->gguf, KEY_PRE, "is missing", r->error);
    for (bool found = false; f < n_families; f++) {
        for (size_t i = 0; i < 4 && families[f].names[i]; i++)
            found = found || strcmp(families[f].names[i], pre) == 0;
        if (found) break;
    }
    if (f == n_families) return refuse(r, KEY_PRE, pre);
    t->n_splits = families[f].n_splits;
    memcpy(t->splits, families[f].splits, t->n_splits * sizeof *t->splits);
    if (families[f].composes) t->steps[t->n_steps++] = SP_STEP_NFC;
    t->bpe.ignore_merges = families[f].ignore_merges;
    t->spelling = SP_SPELLING_BYTES;
    return SP_OK;
}

static sp_status choose_characters(reader *r)
{
    static const char *const map = "tokenizer.ggml.precompiled_charsmap";
    static const char *const squeeze = "tokenizer.ggml.remove_extra_whitespaces";
    sp_tokenizer *t = r->tokenizer;
    const char *pre;
    size_t size;
    bool prepends, squeezes;
    sp_status status = sp_gguf_text(r->gguf, KEY_PRE, &pre, &size, r->error);
    if (status == SP_OK)
        status = sp_gguf_bool(r->gguf, "tokenizer.ggml.add_space_prefix", true, &prepends, r->error);
    if (status == SP_OK) status = sp_gguf_bool(r->gguf, squeeze, false, &squeezes, r->error);
    if (status != SP_OK) return status;
    if (squeezes) return refuse(r, squeeze, "true");
    if (sp_gguf_has(r->gguf, map)) return sp_gguf_fail_key(r->gguf, map, "is not supported", r->error);
    if (pre && strcmp(pre, "default") != 0) return refuse(r, KEY_PRE, pre);
    if (prepends) t->steps[t->n_steps++] = SP_STEP_PREPEND;
    t->steps[t->n_steps++] = SP_STEP_MARK_SPACES;
    t->spelling = SP_SPELLING_FALLBACK;
    t->strips_space = prepends;
    t->bpe.characters = t->bpe.fuse_unknown = true;
    t->bpe.unknown = -1;
    return SP_OK;
}

static sp_status choose_model(reader *r)
{
    const char *model;
    size_t size;
    sp_status status = sp_gguf_text(r->gguf, KEY_MODEL, &model, &size, r->error);
    if (status != SP_OK) return status;
    if (!model) return sp_gguf_fail_key(r->gguf, KEY_MODEL, "is missing", r->error);
    if (strcmp(model, "gpt2") == 0) return choose_bytes(r);
    return strcmp(model, "llama") == 0 ? choose_characters(r) : refuse(r, KEY_MODEL, model);
}

/* --- tokens --- */

/* Sizes the vocabulary, reads the types (absent: all normal). */
static sp_status read_types(reader *r, sp_gguf_array *tokens)
{
    bool present;
    sp_gguf_array types;
    int64_t type = NORMAL;
    sp_vocab *vocab = &r->tokenizer->vocab;
    sp_status status = sp_gguf_array_open(r->gguf, KEY_TOKENS, SP_GGUF_TEXTS, &present, tokens, r->error);
    if (status != SP_OK) return status;
    if (tokens->count == 0) return sp_gguf_fail_key(r->gguf, KEY_TOKENS, "is missing or empty", r->error);
    if (tokens->count > (size_t)SP_MAX_VOCAB)
        return sp_gguf_fail_key(r->gguf, KEY_TOKENS, "has more than 2097152 elements", r->error);
    status = sp_vocab_init(vocab, (int32_t)tokens->count, tokens->count, r->error);
    if (status == SP_OK) status = open_array(r, KEY_TYPES, SP_GGUF_INTEGERS, &present, &types);
    if (status != SP_OK) return status;
    r->types = sp_alloc(tokens->count, 1);
    if (!r->types) return fail_memory(r);
    for (size_t id = 0; id < tokens->count; id++) {
        if (present) (void)sp_gguf_next_int(&types, &type);
        if (type < NORMAL || type > BYTE) return fail_entry(r, KEY_TYPES, id, "is no type from 1 to 6");
        r->types[id] = (uint8_t)type;
    }
    return SP_OK;
}

static bool is_added(uint8_t type)
{
    return type == CONTROL || type == USER_DEFINED || type == UNKNOWN;
}

static sp_status add_token(reader *r, size_t id, const char *text, size_t size)
{
    sp_tokenizer *t = r->tokenizer;
    uint8_t type = r->types[id];
    sp_error reason = {0};
    if (type == UNUSED) return SP_OK;
    if (!sp_utf8_valid(text, size)) return fail_entry(r, KEY_TOKENS, id, "is not UTF-8");
    if (t->bpe.characters &&
        (type == BYTE ? sp_byte_token(text, size) < 0 : sp_byte_token_is_bad(text, size)))
        return fail_entry(r, KEY_TOKENS, id, "is no byte of the form <0xHH>");
    if (is_added(type) && size > SP_MAX_ADDED_BYTES)
        return fail_entry(r, KEY_TOKENS, id, "is an added token of more than 255 bytes");
    bool literal = is_added(type) && t->spelling == SP_SPELLING_BYTES;
    sp_status status = sp_vocab_add(&t->vocab, (int32_t)id, text, size,
                                    literal ? SP_SPELLING_LITERAL : t->spelling, &reason);
    if (status == SP_NO_MEMORY) return sp_fail(r->error, status, "%s", reason.message);
    if (status != SP_OK) return fail_entry(r, KEY_TOKENS, id, reason.message);
    if (type == UNKNOWN && t->bpe.unknown < 0) t->bpe.unknown = (int32_t)id;
    if (!is_added(type)) return SP_OK;
    sp_added_token token = {.id = (int32_t)id, .special = type != USER_DEFINED};
    t->vocab.flags[id] = (uint8_t)(SP_TOKEN_ADDED | (token.special ? SP_TOKEN_SPECIAL : 0u));
    sp_added_add(&t->added[0], t->vocab.pieces[id], size, token);
    return SP_OK;
}

static sp_status read_tokens(reader *r)
{
    sp_gguf_array tokens;
    const char *text;
    size_t size, n_added = 0;
    sp_status status = read_types(r, &tokens);
    for (size_t id = 0; status == SP_OK && id < tokens.count; id++) n_added += is_added(r->types[id]);
    if (status == SP_OK) status = sp_added_init(&r->tokenizer->added[0], n_added, r->error);
    for (size_t id = 0; status == SP_OK && sp_gguf_next_text(&tokens, &text, &size); id++)
        status = add_token(r, id, text, size);
    if (status == SP_OK) sp_prefixes_index(&r->tokenizer->added[0].contents);
    return status;
}

/* --- merges --- */

typedef struct merge_list {
    sp_merge *data;
    size_t count, capacity;
} merge_list;

static bool push(merge_list *list, sp_merge merge)
{
    if (list->count == list->capacity) {
        size_t wanted = list->capacity ? 2 * list->capacity : 1024;
        sp_merge *bigger = sp_alloc(wanted, sizeof *bigger);
        if (!bigger) return false;
        if (list->count) memcpy(bigger, list->data, list->count * sizeof *bigger);
        sp_free(list->data);
        list->data = bigger;
        list->capacity = wanted;
    }
    list->data[list->count++] = merge;
    return true;
}

static sp_status read_merges(const reader *r, merge_list *list)
{
    sp_gguf_array merges;
    const char *text;
    size_t size;
    bool present;
    sp_status status = sp_gguf_array_open(r->gguf, KEY_MERGES, SP_GGUF_TEXTS, &present, &merges, r->error);
    if (status != SP_OK) return status;
    if (!present) return sp_gguf_fail_key(r->gguf, KEY_MERGES, "is missing", r->error);
    while (sp_gguf_next_text(&merges, &text, &size)) {
        sp_merge merge;
        const char *reason = sp_bpe_read_merge(&r->tokenizer->vocab, text, size, list->count, &merge);
        if (reason) return fail_entry(r, KEY_MERGES, list->count, reason);
        if (!push(list, merge)) return fail_memory(r);
    }
    return SP_OK;
}

typedef struct scored {
    double score;
    int32_t id;
} scored;

static int by_score(const void *left, const void *right)
{
    const scored *a = left, *b = right;
    return (a->score < b->score) - (a->score > b->score);
}

/* All cuts of a piece into two normal tokens. */
static sp_status cut_piece(const reader *r, int32_t id, uint32_t rank, merge_list *list)
{
    const sp_vocab *vocab = &r->tokenizer->vocab;
    const char *piece = vocab->pieces[id];
    size_t size = strlen(piece), length;
    if (size > MAX_SCORED_PIECE) return fail_entry(r, KEY_TOKENS, (size_t)id, "has more than 512 bytes");
    sp_utf8_decode(piece, &length);
    for (size_t cut = length; cut < size; cut += length) {
        sp_utf8_decode(piece + cut, &length);
        int32_t left = sp_vocab_find(vocab, piece, cut);
        int32_t right = left < 0 ? -1 : sp_vocab_find(vocab, piece + cut, size - cut);
        if (right < 0 || r->types[left] != NORMAL || r->types[right] != NORMAL) continue;
        if (!push(list, (sp_merge){.left = left, .right = right, .rank = rank, .result = id}))
            return fail_memory(r);
    }
    return SP_OK;
}

static sp_status rank_scores(const reader *r, scored *order, sp_gguf_array *scores, merge_list *list)
{
    size_t n = 0;
    uint32_t rank = 0;
    for (size_t id = 0; id < scores->count; id++) {
        scored s = {.id = (int32_t)id};
        (void)sp_gguf_next_double(scores, &s.score);
        if (isnan(s.score)) return fail_entry(r, KEY_SCORES, id, "is no number");
        if (r->types[id] == NORMAL) order[n++] = s;
    }
    qsort(order, n, sizeof *order, by_score);
    for (size_t i = 0; i < n; i++) {
        rank += i && order[i].score != order[i - 1].score;
        sp_status status = cut_piece(r, order[i].id, rank, list);
        if (status != SP_OK) return status;
    }
    return SP_OK;
}

static sp_status derive_merges(const reader *r, merge_list *list)
{
    bool present;
    sp_gguf_array scores;
    sp_status status = open_array(r, KEY_SCORES, SP_GGUF_NUMBERS, &present, &scores);
    if (status != SP_OK) return status;
    if (!present) return sp_gguf_fail_key(r->gguf, KEY_SCORES, "is missing", r->error);
    scored *order = sp_alloc(scores.count, sizeof *order);
    if (!order) return fail_memory(r);
    status = rank_scores(r, order, &scores, list);
    sp_free(order);
    return status;
}

static sp_status finish_bpe(const reader *r)
{
    sp_bpe *bpe = &r->tokenizer->bpe;
    merge_list list = {0};
    sp_error reason = {0};
    sp_status status = bpe->characters ? derive_merges(r, &list) : read_merges(r, &list);
    if (status != SP_OK) {
        sp_free(list.data);
        return status;
    }
    status = sp_bpe_init(bpe, &r->tokenizer->vocab, list.data, list.count, bpe->characters, &reason);
    if (status == SP_OK) return SP_OK;
    return sp_fail_param(r->error, status, KEY_MERGES, "%s: key '%s': %s", sp_gguf_name(r->gguf), KEY_MERGES,
                         reason.message);
}

/* --- BOS and EOS --- */

/* The token a key names, -1 when it is absent. */
static sp_status read_id(const reader *r, const char *key, int32_t *id)
{
    const sp_vocab *vocab = &r->tokenizer->vocab;
    int64_t value, none = -1;
    *id = -1;
    if (!sp_gguf_has(r->gguf, key)) return SP_OK;
    sp_status status = sp_gguf_int(r->gguf, key, &none, 0, vocab->size - 1, &value, r->error);
    if (status != SP_OK) return status;
    if (!vocab->pieces[value]) return sp_gguf_fail_key(r->gguf, key, "names an unused token", r->error);
    *id = (int32_t)value;
    return SP_OK;
}

/* The same, and whether the token is added to every text. */
static sp_status read_end(const reader *r, const char *key, const char *add_key, int32_t *id, int32_t *affix,
                          size_t *n_affix)
{
    bool adds = false;
    sp_status status = read_id(r, key, id);
    if (status == SP_OK) status = sp_gguf_bool(r->gguf, add_key, false, &adds, r->error);
    if (status != SP_OK || !adds) return status;
    if (*id < 0) return sp_gguf_fail_key(r->gguf, add_key, "is true but the token's id is missing", r->error);
    affix[(*n_affix)++] = *id;
    return SP_OK;
}

static sp_status read_all(reader *r)
{
    sp_tokenizer *t = r->tokenizer;
    sp_status status = choose_model(r);
    if (status == SP_OK) status = read_tokens(r);
    if (status == SP_OK) status = finish_bpe(r);
    if (status == SP_OK)
        status = read_end(r, "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token", &t->bos,
                          t->prefix, &t->n_prefix);
    if (status == SP_OK)
        status = read_end(r, "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token", &t->eos,
                          t->suffix, &t->n_suffix);
    return status;
}

sp_status sp_tokenizer_from_gguf(const sp_gguf *gguf, sp_tokenizer **out, sp_error *error)
{
    reader r = {.gguf = gguf, .error = error};
    *out = NULL;
    r.tokenizer = sp_alloc_zero(1, sizeof *r.tokenizer);
    if (!r.tokenizer) return fail_memory(&r);
    r.tokenizer->bos = r.tokenizer->eos = -1;
    sp_status status = read_all(&r);
    sp_free(r.types);
    if (status == SP_OK)
        *out = r.tokenizer;
    else
        sp_tokenizer_close(r.tokenizer);
    return status;
}
