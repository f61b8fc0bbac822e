/* The model of tokenizer.json, with its vocabulary, merges or scores, and the added tokens.
 *
 * Four families are built: byte-level BPE, BPE over characters (SentencePiece), Unigram, and WordPiece. Each
 * goes with its own pre-tokenizers and decoder; other mixtures are refused, because nobody trained with them.
 * Tests: tests/unit/models/test_tokenizer.c, test_tokenizer_models.c, tests/golden/test_tokenizers.c,
 * tests/fuzz/fuzz_tokenizer.c */
#include <math.h>
#include <string.h>

#include "models/tokenizer_load.h"

/* --- vocabulary --- */

static sp_status add_piece(sp_loader *l, const sp_json *at, int32_t id)
{
    const sp_tokenizer *t = l->tokenizer;
    size_t size;
    sp_error reason = {0};
    char *piece = sp_json_text(at, &l->arena, &size);
    if (!piece) return sp_load_fail_memory(l);
    if (t->spelling == SP_SPELLING_FALLBACK && sp_byte_token_is_bad(piece, size))
        return sp_fail_param(l->error, SP_DATA, "vocab", "%s: vocab: '%s' is no byte", l->name, piece);
    sp_status status = sp_vocab_add(&l->tokenizer->vocab, id, piece, size, t->spelling, &reason);
    return status == SP_OK ? SP_OK : sp_load_fail_within(l, "vocab", status, &reason);
}

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
        sp_status status = add_piece(l, &key, (int32_t)id);
        if (status != SP_OK) return status;
    }
    return SP_OK;
}

/* The same for Unigram's array of [piece, score]; ids are the indices. scores: (vocabulary size) when
 * filling, else NULL. */
static sp_status read_scored(sp_loader *l, const sp_member *vocab, double *scores)
{
    sp_json reader;
    int32_t id = 0;
    if (sp_load_enter(vocab, &reader) != SP_JSON_ARRAY)
        return sp_load_fail_key(l, "vocab", "must be an array of pieces with scores");
    for (sp_json_type type; (type = sp_json_next(&reader)) != SP_JSON_ARRAY_END; id++) {
        if (type != SP_JSON_ARRAY || sp_json_next(&reader) != SP_JSON_STRING)
            return sp_load_fail_key(l, "vocab", "must be an array of pieces with scores");
        sp_json piece = reader;
        if (sp_json_next(&reader) != SP_JSON_NUMBER) return sp_load_fail_key(l, "vocab", "must have scores");
        double score = sp_json_double(&reader);
        if (sp_json_next(&reader) != SP_JSON_ARRAY_END || id == SP_MAX_VOCAB || !(fabs(score) <= 1e9))
            return sp_load_fail_key(l, "vocab", "must have at most 2097152 pieces with scores up to 1e9");
        if (!scores) continue;
        scores[id] = score;
        sp_status status = add_piece(l, &piece, id);
        if (status != SP_OK) return status;
    }
    l->n_vocab = (size_t)id;
    l->largest_id = id - 1;
    return SP_OK;
}

/* --- added tokens --- */

/* Runs the normalizer over an added token's content; the result is the arena's. */
static sp_status normalize_content(sp_loader *l, const char **content, size_t *size)
{
    sp_tokenizer *t = l->tokenizer;
    sp_normalizing scratch = {0};
    sp_view view = {.text = *content, .size = *size}, out;
    size_t begin, end;
    sp_status status = SP_OK;
    if (!sp_normalize(t->steps, t->n_steps, &scratch, &view, 0, *size, &out, &begin, &end) ||
        !(*content = sp_arena_copy(&t->vocab.arena, out.text + begin, end - begin)))
        status = sp_load_fail_memory(l);
    else if (end == begin || end - begin > SP_MAX_ADDED_BYTES)
        status = sp_load_fail_key(l, "added_tokens", "normalizes to nothing or to more than 255 bytes");
    *size = end - begin;
    sp_normalizing_fini(&scratch);
    return status;
}

/* What is to be found of a normalized one is its normalized content, and that is its spelling unless the
 * vocabulary has another. */
static sp_status add_token(sp_loader *l, const char *content, size_t size, bool normalized,
                           sp_added_token token)
{
    sp_tokenizer *t = l->tokenizer;
    sp_vocab *vocab = &t->vocab;
    sp_error reason = {0};
    sp_status status = SP_OK;
    const char *found = content;
    size_t found_size = size;
    if (normalized) status = normalize_content(l, &found, &found_size);
    if (status != SP_OK) return status;
    if (sp_vocab_find(vocab, content, size) != token.id) {
        bool taken = sp_vocab_find(vocab, found, found_size) >= 0;
        sp_spelling spelling = t->spelling == SP_SPELLING_BYTES ? SP_SPELLING_LITERAL : t->spelling;
        status = sp_vocab_add(vocab, token.id, taken ? content : found, taken ? size : found_size, spelling,
                              &reason);
    }
    if (status != SP_OK) return sp_load_fail_within(l, "added_tokens", status, &reason);
    if (vocab->flags[token.id] & SP_TOKEN_ADDED)
        return sp_fail_param(l->error, SP_DATA, "added_tokens", "%s: added_tokens: '%.100s' is listed twice",
                             l->name, content);
    vocab->flags[token.id] = (uint8_t)(SP_TOKEN_ADDED | (token.special ? SP_TOKEN_SPECIAL : 0u));
    if (!normalized) found = vocab->pieces[token.id];
    sp_added_add(&t->added[normalized], found, found_size, token);
    return SP_OK;
}

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
    sp_added_token token = {.id = (int32_t)id,
                            .special = sp_load_is_true(&m[SPECIAL]),
                            .lstrip = sp_load_is_true(&m[LSTRIP]),
                            .rstrip = sp_load_is_true(&m[RSTRIP])};
    return add_token(l, content, size, sp_load_is_true(&m[NORMALIZED]), token);
}

/* Passes over added_tokens: counts them, or (fill) adds them. */
static sp_status read_added_item(sp_loader *l, const sp_member *item, void *fill)
{
    sp_json reader;
    if (sp_load_enter(item, &reader) != SP_JSON_OBJECT)
        return sp_load_fail_key(l, "added_tokens", "must be an array of objects");
    return read_added_token(l, &reader, *(bool *)fill);
}

static sp_status read_added(sp_loader *l, const sp_member *added, bool fill)
{
    sp_json reader;
    if (sp_load_enter(added, &reader) == SP_JSON_NULL) return SP_OK;
    return sp_load_each(l, "added_tokens", added, read_added_item, &fill);
}

/* --- merges --- */

/* The current string: the file's own bytes where nothing is escaped. NULL: out of memory. */
static const char *borrow_text(sp_loader *l, const sp_json *reader, size_t *size)
{
    if (memchr(reader->raw, '\\', reader->raw_size)) return sp_json_text(reader, &l->arena, size);
    *size = reader->raw_size;
    return reader->raw;
}

/* One merge, "left right" or ["left", "right"]; type: of the event just read. */
static sp_status read_merge(sp_loader *l, sp_json *reader, sp_json_type type, size_t rank, sp_merge *out)
{
    const sp_vocab *vocab = &l->tokenizer->vocab;
    const char *left, *right = NULL, *reason = "is no pair";
    size_t n_left, n_right;
    if (type == SP_JSON_STRING) {
        left = borrow_text(l, reader, &n_left);
        if (!left) return sp_load_fail_memory(l);
        reason = sp_bpe_read_merge(vocab, left, n_left, rank, out);
    } else if (type == SP_JSON_ARRAY && sp_json_next(reader) == SP_JSON_STRING) {
        left = borrow_text(l, reader, &n_left);
        if (sp_json_next(reader) == SP_JSON_STRING) right = borrow_text(l, reader, &n_right);
        if (right && left && sp_json_next(reader) == SP_JSON_ARRAY_END)
            reason = sp_bpe_find_merge(vocab, left, n_left, right, n_right, rank, out);
    }
    if (!reason) return SP_OK;
    return sp_fail_param(l->error, SP_DATA, "merges", "%s: merges: entry %zu %s", l->name, rank, reason);
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

static sp_status read_merges(sp_loader *l, const sp_member *list, bool byte_fallback)
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
    status = sp_bpe_init(&l->tokenizer->bpe, &l->tokenizer->vocab, merges, count, byte_fallback, &reason);
    return status == SP_OK ? SP_OK : sp_load_fail_within(l, "model", status, &reason);
}

/* --- the model --- */

typedef enum model_member {
    TYPE,
    VOCAB,
    MERGES,
    DROPOUT,
    PREFIX,
    SUFFIX,
    FALLBACK,
    IGNORE,
    UNKNOWN,
    UNKNOWN_ID,
    FUSE,
    MOST,
    MEMBERS
} model_member;

/* The id of unk_token, -1 when there is none. */
static sp_status read_unknown(sp_loader *l, const sp_member *m, int32_t *id)
{
    sp_json reader;
    size_t size;
    *id = -1;
    if (sp_load_is_empty(m)) return SP_OK;
    if (sp_load_enter(m, &reader) != SP_JSON_STRING)
        return sp_load_fail_key(l, "unk_token", "must be a token");
    const char *text = sp_json_text(&reader, &l->arena, &size);
    if (!text) return sp_load_fail_memory(l);
    *id = sp_vocab_find(&l->tokenizer->vocab, text, size);
    return *id < 0 ? sp_load_refuse(l, "unk_token", m) : SP_OK;
}

static sp_status finish_bpe(sp_loader *l, const sp_member *m)
{
    sp_bpe *bpe = &l->tokenizer->bpe;
    bpe->characters = l->pieces != SP_PIECES_BYTES;
    bpe->ignore_merges = sp_load_is_true(&m[IGNORE]);
    bpe->fuse_unknown = sp_load_is_true(&m[FUSE]);
    sp_status status = bpe->characters ? read_unknown(l, &m[UNKNOWN], &bpe->unknown) : SP_OK;
    return status == SP_OK ? read_merges(l, &m[MERGES], sp_load_is_true(&m[FALLBACK])) : status;
}

static sp_status finish_unigram(sp_loader *l, const sp_member *m, double *scores)
{
    sp_tokenizer *t = l->tokenizer;
    int64_t unknown = -1;
    sp_json reader;
    sp_json_type type = sp_load_enter(&m[UNKNOWN_ID], &reader);
    if (type != SP_JSON_NULL && (type != SP_JSON_NUMBER || !sp_json_int64(&reader, &unknown) || unknown < 0 ||
                                 unknown >= (int64_t)l->n_vocab)) {
        sp_free(scores);
        return sp_load_fail_key(l, "unk_id", "must be the id of a piece");
    }
    return sp_unigram_init(&t->unigram, &t->vocab, scores, (int32_t)l->n_vocab, (int32_t)unknown, l->error);
}

static sp_status finish_wordpiece(sp_loader *l, const sp_member *m)
{
    sp_tokenizer *t = l->tokenizer;
    sp_json reader;
    int64_t most = 100;
    sp_json_type type = sp_load_enter(&m[MOST], &reader);
    if (type != SP_JSON_NULL &&
        (type != SP_JSON_NUMBER || !sp_json_int64(&reader, &most) || most < 1 || most > 10000))
        return sp_load_fail_key(l, "max_input_chars_per_word", "must be a number from 1 to 10000");
    t->wordpiece.most_characters = (size_t)most;
    sp_status status = read_unknown(l, &m[UNKNOWN], &t->wordpiece.unknown);
    if (status == SP_OK && t->wordpiece.unknown < 0)
        status = sp_load_fail_key(l, "unk_token", "must be a token");
    return status == SP_OK ? sp_wordpiece_init(&t->wordpiece, &t->vocab, t->vocab.size, l->error) : status;
}

/* Vocabulary, then the model's own part, then the added tokens. */
static sp_status fill_model(sp_loader *l, const sp_member *m, const sp_member *added)
{
    sp_tokenizer *t = l->tokenizer;
    bool scored = t->type == SP_MODEL_UNIGRAM;
    sp_status status = scored ? read_scored(l, &m[VOCAB], NULL) : read_vocab(l, &m[VOCAB], false);
    if (status == SP_OK) status = read_added(l, added, false);
    if (status != SP_OK) return status;
    size_t n_vocab = l->n_vocab;
    int64_t largest_id = l->largest_id;
    status = sp_vocab_init(&t->vocab, (int32_t)largest_id + 1, n_vocab + l->n_added, l->error);
    for (int set = 0; set < 2 && status == SP_OK; set++)
        status = sp_added_init(&t->added[set], l->n_added, l->error);
    if (status != SP_OK) return status;
    if (scored) {
        double *scores = sp_alloc(n_vocab + 1, sizeof *scores);
        if (!scores) return sp_load_fail_memory(l);
        status = read_scored(l, &m[VOCAB], scores);
        if (status == SP_OK)
            status = finish_unigram(l, m, scores);
        else
            sp_free(scores);
    } else {
        status = read_vocab(l, &m[VOCAB], true);
        if (status == SP_OK && t->type == SP_MODEL_WORDPIECE) status = finish_wordpiece(l, m);
    }
    if (status == SP_OK) status = read_added(l, added, true);
    for (int set = 0; set < 2; set++) sp_prefixes_index(&t->added[set].contents);
    return status == SP_OK && t->type == SP_MODEL_BPE ? finish_bpe(l, m) : status;
}

/* Whether normalizer, pre-tokenizers and decoder are those the model's family is trained with. */
static sp_status check_family(const sp_loader *l)
{
    const sp_tokenizer *t = l->tokenizer;
    bool forms_only = true, marks = false, bert = true;
    for (size_t i = 0; i < t->n_steps; i++) {
        bool form = t->steps[i] == SP_STEP_NFC || t->steps[i] == SP_STEP_NFKC;
        bool space = t->steps[i] >= SP_STEP_JOIN_SPACES;
        forms_only = forms_only && form;
        bert = bert && !form && !space;
        marks = marks || t->steps[i] == SP_STEP_MARK_SPACES;
    }
    bool unmarked = !marks && !(bert && t->n_steps);
    bool fits = false;
    if (t->type == SP_MODEL_WORDPIECE)
        fits = l->pieces == SP_PIECES_WORDS && t->spelling >= SP_SPELLING_WORDS && bert;
    else if (t->type == SP_MODEL_UNIGRAM)
        fits = l->pieces == SP_PIECES_META && t->spelling == SP_SPELLING_META && unmarked;
    else if (l->pieces == SP_PIECES_BYTES)
        fits = t->spelling == SP_SPELLING_BYTES && forms_only;
    else if (l->pieces == SP_PIECES_META)
        fits = t->spelling == SP_SPELLING_FALLBACK && forms_only;
    else if (l->pieces == SP_PIECES_WHOLE)
        fits = t->spelling == SP_SPELLING_FALLBACK && marks && !bert;
    if (fits) return SP_OK;
    return sp_load_fail_key(l, "model", "does not belong to this normalizer, pre_tokenizer and decoder");
}

sp_status sp_load_model(sp_loader *l, const sp_member *model, const sp_member *added)
{
    sp_member m[MEMBERS] = {[TYPE] = {.key = "type"},
                            [VOCAB] = {.key = "vocab"},
                            [MERGES] = {.key = "merges"},
                            [DROPOUT] = {.key = "dropout"},
                            [PREFIX] = {.key = "continuing_subword_prefix"},
                            [SUFFIX] = {.key = "end_of_word_suffix"},
                            [FALLBACK] = {.key = "byte_fallback"},
                            [IGNORE] = {.key = "ignore_merges"},
                            [UNKNOWN] = {.key = "unk_token"},
                            [UNKNOWN_ID] = {.key = "unk_id"},
                            [FUSE] = {.key = "fuse_unk"},
                            [MOST] = {.key = "max_input_chars_per_word"}};
    sp_json reader;
    if (sp_load_enter(model, &reader) != SP_JSON_OBJECT)
        return sp_load_fail_key(l, "model", "must be an object");
    sp_load_members(&reader, m, MEMBERS);
    bool words = sp_load_is_text(&m[TYPE], "WordPiece"), unigram = sp_load_is_text(&m[TYPE], "Unigram");
    if (m[TYPE].present && !words && !unigram && !sp_load_is_text(&m[TYPE], "BPE"))
        return sp_load_refuse(l, "model", &m[TYPE]);
    l->tokenizer->type = words ? SP_MODEL_WORDPIECE : unigram ? SP_MODEL_UNIGRAM : SP_MODEL_BPE;
    if (!(words ? sp_load_is_text(&m[PREFIX], "##") : sp_load_is_empty(&m[PREFIX])))
        return sp_load_refuse(l, "continuing_subword_prefix", &m[PREFIX]);
    if (!sp_load_is_empty(&m[SUFFIX])) return sp_load_refuse(l, "end_of_word_suffix", &m[SUFFIX]);
    if (sp_load_is_true(&m[FALLBACK]) && (unigram || l->pieces == SP_PIECES_BYTES))
        return sp_load_fail_key(l, "byte_fallback", "true is not supported");
    sp_json_type dropout = sp_load_enter(&m[DROPOUT], &reader);
    if (dropout != SP_JSON_NULL && (dropout != SP_JSON_NUMBER || sp_json_double(&reader) != 0))
        return sp_load_fail_key(l, "dropout", "is not supported");
    sp_status status = check_family(l);
    return status == SP_OK ? fill_model(l, m, added) : status;
}
