/* WordPiece as BERT uses it (Devlin et al. 2018): from the left the longest token that fits, those behind the
 * first spelled with "##"; a word with a part that no token fits is unknown as a whole.
 * Tests: tests/unit/models/test_tokenizer_models.c, tests/golden/test_tokenizers.c */
#include "models/wordpiece.h"

#include <string.h>

#include "models/unicode.h"

sp_status sp_wordpiece_init(sp_wordpiece *wordpiece, const sp_vocab *vocab, int32_t n, sp_error *error)
{
    sp_status status = sp_prefixes_init(&wordpiece->starts, (size_t)n, error);
    if (status == SP_OK) status = sp_prefixes_init(&wordpiece->rests, (size_t)n, error);
    if (status != SP_OK) return status;
    for (int32_t id = 0; id < n; id++) {
        const char *piece = vocab->pieces[id];
        if (!piece) continue;
        size_t size = strlen(piece);
        sp_prefixes_add(&wordpiece->starts, piece, size, id);
        if (size > 2 && memcmp(piece, "##", 2) == 0)
            sp_prefixes_add(&wordpiece->rests, piece + 2, size - 2, id);
    }
    sp_prefixes_index(&wordpiece->starts);
    sp_prefixes_index(&wordpiece->rests);
    return SP_OK;
}

void sp_wordpiece_fini(sp_wordpiece *wordpiece)
{
    sp_prefixes_fini(&wordpiece->starts);
    sp_prefixes_fini(&wordpiece->rests);
}

static bool is_too_long(const sp_wordpiece *wordpiece, const char *text, size_t begin, size_t end)
{
    size_t characters = 0, length;
    for (size_t place = begin; place < end; place += length) {
        sp_utf8_decode(text + place, &length);
        if (++characters > wordpiece->most_characters) return true;
    }
    return false;
}

bool sp_wordpiece_encode(const sp_wordpiece *wordpiece, const char *text, size_t begin, size_t end,
                         sp_tokens *out)
{
    size_t first = out->count;
    bool known = !is_too_long(wordpiece, text, begin, end);
    for (size_t place = begin; place < end && known;) {
        const sp_prefixes *set = place == begin ? &wordpiece->starts : &wordpiece->rests;
        const sp_prefix *longest = NULL;
        sp_prefix_walk walk;
        sp_prefix_start(set, text, place, end, &walk);
        for (const sp_prefix *p; (p = sp_prefix_next(set, &walk));) longest = p;
        known = longest;
        if (!known) break;
        if (!sp_tokens_push(out, longest->value, place, place + longest->size)) return false;
        place += longest->size;
    }
    if (known) return true;
    out->count = first;
    return sp_tokens_push(out, wordpiece->unknown, begin, end);
}
