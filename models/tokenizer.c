/* Encoding, and what a tokenizer knows of its tokens; its parts are in tokenizer_parts.h.
 *
 * Text is cut at added tokens, what lies between is normalized and cut again at those that are found in
 * normalized text, spaces are marked (Metaspace), pre-tokenizers cut pieces, and each piece goes through the
 * model. Models see a view of the text (normalize.h); the ranges of their tokens are brought back to bytes of
 * the original. Without a normalizer every byte ends in exactly one token, so decode(encode(x)) = x for
 * byte-level families where no added token strips white space. Tests: tests/unit/models/test_tokenizer.c,
 * tests/golden/test_tokenizers.c, tests/fuzz/fuzz_tokenize.c */
#include "models/tokenizer.h"

#include "models/tokenizer_parts.h"
#include "models/unicode.h"

#define MAX_TEXT ((size_t)1 << 30)

void sp_tokens_fini(sp_tokens *tokens)
{
    sp_free(tokens->data);
    *tokens = (sp_tokens){0};
}

void sp_tokenizer_close(sp_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    sp_bpe_fini(&tokenizer->bpe);
    sp_unigram_fini(&tokenizer->unigram);
    sp_wordpiece_fini(&tokenizer->wordpiece);
    sp_vocab_fini(&tokenizer->vocab);
    for (int set = 0; set < 2; set++) sp_added_fini(&tokenizer->added[set]);
    sp_free(tokenizer);
}

/* --- encoding --- */

typedef struct encoder {
    const sp_tokenizer *tokenizer;
    bool special;
    const sp_span
        *spans; /* (n_spans) of a template: special tokens are found between them; NULL: no template */
    size_t n_spans;
    sp_normalizing normalizing, marking;
    sp_bpe_scratch bpe;
    sp_unigram_scratch unigram;
    sp_tokens *out;
} encoder;

static bool encode_piece(encoder *e, const char *text, size_t begin, size_t end)
{
    const sp_tokenizer *t = e->tokenizer;
    size_t length;
    switch (t->type) {
    case SP_MODEL_UNIGRAM:
        return sp_unigram_encode(&t->unigram, &e->unigram, text, begin, end, e->out);
    case SP_MODEL_WORDPIECE:
        if (sp_unicode_class(sp_utf8_decode(text + begin, &length)) == SP_CHAR_SPACE) return true;
        return sp_wordpiece_encode(&t->wordpiece, text, begin, end, e->out);
    default:
        return sp_bpe_encode(&t->bpe, &e->bpe, text, begin, end, e->out);
    }
}

/* Cuts text[begin, end) by all pre-tokenizers at once: cuts[k] is the end of the current piece of step k. */
static bool encode_pieces(encoder *e, const char *text, size_t begin, size_t end)
{
    const sp_tokenizer *t = e->tokenizer;
    size_t cuts[SP_MAX_SPLITS + 1] = {end};
    for (size_t place = begin; place < end; place = cuts[t->n_splits]) {
        for (size_t k = 1; k <= t->n_splits; k++)
            if (cuts[k] <= place) cuts[k] = sp_split_next(t->splits[k - 1], text, place, cuts[k - 1]);
        if (!encode_piece(e, text, place, cuts[t->n_splits])) return false;
    }
    return true;
}

/* Bytes [begin, end) of a view, without added tokens: marks spaces, encodes, and brings the tokens' ranges
 * back to the original. */
static bool encode_stretch(encoder *e, const sp_view *view, size_t begin, size_t end)
{
    const sp_tokenizer *t = e->tokenizer;
    sp_view marked = *view;
    size_t first = e->out->count, skip = 0;
    if (begin == end) return true;
    if (t->mark_first_only) {
        uint32_t original_begin, original_end;
        sp_view_range(view, begin, begin + 1, &original_begin, &original_end);
        skip = original_begin != 0;
    }
    if (t->n_marks && !sp_normalize(t->marks + skip, t->n_marks - skip, &e->marking, view, begin, end,
                                    &marked, &begin, &end))
        return false;
    if (!encode_pieces(e, marked.text, begin, end)) return false;
    for (size_t i = first; marked.begin && i < e->out->count; i++) {
        sp_token *token = &e->out->data[i];
        sp_view_range(&marked, token->begin, token->end, &token->begin, &token->end);
    }
    return true;
}

/* Bytes [begin, end) of the original, without the added tokens that are found there. */
static bool encode_normalized(encoder *e, const sp_view *original, size_t begin, size_t end)
{
    const sp_tokenizer *t = e->tokenizer;
    sp_view view;
    sp_added_match match;
    if (begin == end) return true;
    if (!sp_normalize(t->steps, t->n_steps, &e->normalizing, original, begin, end, &view, &begin, &end))
        return false;
    for (; sp_added_find(&t->added[1], view.text, begin, end, e->special, &match); begin = match.end) {
        uint32_t from, to;
        sp_view_range(&view, match.begin, match.end, &from, &to);
        if (!encode_stretch(e, &view, begin, match.begin) ||
            !sp_tokens_push(e->out, match.token->id, from, to))
            return false;
    }
    return encode_stretch(e, &view, begin, end);
}

/* The first special token of either kind that begins in text[begin, limit). */
static bool find_between(const encoder *e, const char *text, size_t begin, size_t limit, size_t size,
                         sp_added_match *match)
{
    sp_added_match one;
    bool found = false;
    for (int set = 0; set < 2; set++) {
        if (!sp_added_find(&e->tokenizer->added[set], text, begin, size, true, &one)) continue;
        if (!one.token->special || one.begin >= limit || (found && one.begin >= match->begin)) continue;
        *match = one;
        found = true;
    }
    return found;
}

/* The next added token from begin on: of a template, special ones only outside the spans. */
static bool find_added(const encoder *e, const char *text, size_t begin, size_t size, sp_added_match *match)
{
    bool found = sp_added_find(&e->tokenizer->added[0], text, begin, size, e->special, match);
    size_t from = begin;
    for (size_t i = 0; e->spans && i <= e->n_spans; i++) {
        size_t limit = i < e->n_spans ? e->spans[i].begin : size;
        sp_added_match one;
        if (from < limit && find_between(e, text, from, limit, size, &one)) {
            if (!found || one.begin <= match->begin) *match = one;
            return true;
        }
        if (i < e->n_spans && e->spans[i].end > from) from = e->spans[i].end;
    }
    return found;
}

static bool encode_text(encoder *e, const char *text, size_t size)
{
    const sp_view original = {.text = text, .size = size};
    sp_added_match match;
    size_t begin = 0;
    for (; find_added(e, text, begin, size, &match); begin = match.end)
        if (!encode_normalized(e, &original, begin, match.begin) ||
            !sp_tokens_push(e->out, match.token->id, match.begin, match.end))
            return false;
    return encode_normalized(e, &original, begin, size);
}

static bool push_all(sp_tokens *out, const int32_t *ids, size_t n, size_t place)
{
    for (size_t i = 0; i < n; i++)
        if (!sp_tokens_push(out, ids[i], place, place)) return false;
    return true;
}

static sp_status encode(const sp_tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                        const sp_span *spans, size_t n_spans, sp_tokens *out, sp_error *error)
{
    out->count = 0;
    if (size > MAX_TEXT)
        return sp_fail(error, SP_TOO_LARGE, "the text has %zu bytes, more than %zu", size, MAX_TEXT);
    if (!sp_utf8_valid(text, size)) return sp_fail(error, SP_INVALID, "the text is not well-formed UTF-8");
    encoder e = {.tokenizer = tokenizer,
                 .special = flags & SP_ENCODE_SPECIAL,
                 .spans = spans,
                 .n_spans = n_spans,
                 .out = out};
    bool add = flags & SP_ENCODE_ADD;
    bool done = (!add || push_all(out, tokenizer->prefix, tokenizer->n_prefix, 0)) &&
                encode_text(&e, text, size) &&
                (!add || push_all(out, tokenizer->suffix, tokenizer->n_suffix, size));
    sp_normalizing_fini(&e.normalizing);
    sp_normalizing_fini(&e.marking);
    sp_bpe_scratch_fini(&e.bpe);
    sp_unigram_scratch_fini(&e.unigram);
    if (!done) return sp_fail(error, SP_NO_MEMORY, "out of memory while splitting the text into tokens");
    for (size_t i = 0; i < out->count; i++)
        if (out->data[i].id < 0)
            return sp_fail(error, SP_INVALID,
                           "the text has a byte 0x%02x at offset %u, for which this model has no token",
                           (unsigned)(uint8_t)text[out->data[i].begin], (unsigned)out->data[i].begin);
    return SP_OK;
}

sp_status sp_tokenizer_encode(const sp_tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                              sp_tokens *out, sp_error *error)
{
    return encode(tokenizer, text, size, flags, NULL, 0, out, error);
}

sp_status sp_tokenizer_encode_template(const sp_tokenizer *tokenizer, const char *text, size_t size,
                                       const sp_span *spans, size_t n_spans, sp_tokens *out, sp_error *error)
{
    static const sp_span nobody = {0, 0};
    return encode(tokenizer, text, size, 0, n_spans > 0 ? spans : &nobody, n_spans, out, error);
}

/* --- facts --- */

int32_t sp_tokenizer_size(const sp_tokenizer *tokenizer)
{
    return tokenizer->vocab.size;
}
int32_t sp_tokenizer_bos(const sp_tokenizer *tokenizer)
{
    return tokenizer->bos;
}
int32_t sp_tokenizer_eos(const sp_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

static bool is_token(const sp_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->vocab.size && tokenizer->vocab.pieces[id];
}

bool sp_tokenizer_is_special(const sp_tokenizer *tokenizer, int32_t id)
{
    return is_token(tokenizer, id) && (tokenizer->vocab.flags[id] & SP_TOKEN_SPECIAL);
}

bool sp_tokenizer_adds_bos(const sp_tokenizer *tokenizer)
{
    for (size_t i = 0; i < tokenizer->n_prefix; i++)
        if (tokenizer->prefix[i] == tokenizer->bos) return true;
    return false;
}

const char *sp_tokenizer_bytes(const sp_tokenizer *tokenizer, int32_t id, size_t *size)
{
    *size = is_token(tokenizer, id) ? tokenizer->vocab.n_bytes[id] : 0;
    return *size ? tokenizer->vocab.bytes[id] : "";
}

const char *sp_tokenizer_piece(const sp_tokenizer *tokenizer, int32_t id)
{
    return is_token(tokenizer, id) ? tokenizer->vocab.pieces[id] : "";
}
