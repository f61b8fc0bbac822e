/* Finds added tokens in text: leftmost, longest first, with the white space around them that lstrip and
 * rstrip take. A token has at most 255 bytes, so the work a place is bounded. Tests:
 * tests/unit/models/test_tokenizer.c, tests/golden/test_tokenizers.c */
#include "models/tokenizer_parts.h"
#include "models/unicode.h"

sp_status sp_added_init(sp_added_set *set, size_t n, sp_error *error)
{
    set->tokens = sp_alloc(n + 1, sizeof *set->tokens);
    if (!set->tokens) return sp_fail(error, SP_NO_MEMORY, "out of memory for the added tokens");
    return sp_prefixes_init(&set->contents, n, error);
}

void sp_added_fini(sp_added_set *set)
{
    sp_prefixes_fini(&set->contents);
    sp_free(set->tokens);
    *set = (sp_added_set){0};
}

void sp_added_add(sp_added_set *set, const char *content, size_t size, sp_added_token token)
{
    size_t index = set->contents.count;
    set->tokens[index] = token;
    sp_prefixes_add(&set->contents, content, size, (int32_t)index);
}

static bool is_space(const char *text)
{
    size_t length;
    return sp_unicode_class(sp_utf8_decode(text, &length)) == SP_CHAR_SPACE;
}

/* Start of the white space that ends at place, not before begin. */
static size_t strip_left(const char *text, size_t begin, size_t place)
{
    while (place > begin) {
        size_t before = place - 1;
        while (before > begin && ((uint8_t)text[before] & 0xc0u) == 0x80u) before--;
        if (!is_space(text + before)) break;
        place = before;
    }
    return place;
}

static size_t strip_right(const char *text, size_t place, size_t end)
{
    size_t length;
    while (place < end && sp_unicode_class(sp_utf8_decode(text + place, &length)) == SP_CHAR_SPACE)
        place += length;
    return place;
}

/* The longest token that begins at place, its size in *size; NULL for none. */
static const sp_added_token *longest_at(const sp_added_set *set, const char *text, size_t place, size_t end,
                                        bool special, size_t *size)
{
    const sp_added_token *best = NULL;
    sp_prefix_walk walk;
    sp_prefix_start(&set->contents, text, place, end, &walk);
    for (const sp_prefix *p; (p = sp_prefix_next(&set->contents, &walk));) {
        const sp_added_token *token = &set->tokens[p->value];
        if (token->special && !special) continue;
        best = token;
        *size = p->size;
    }
    return best;
}

bool sp_added_find(const sp_added_set *set, const char *text, size_t begin, size_t end, bool special,
                   sp_added_match *match)
{
    if (set->contents.count == 0) return false;
    for (size_t place = begin; place < end; place++) {
        size_t size = 0;
        const sp_added_token *token = longest_at(set, text, place, end, special, &size);
        if (!token) continue;
        *match = (sp_added_match){token, place, place + size};
        if (token->lstrip) match->begin = strip_left(text, begin, place);
        if (token->rstrip) match->end = strip_right(text, place + size, end);
        return true;
    }
    return false;
}
