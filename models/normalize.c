/* The steps of normalizers, but for the normal forms (compose.c), and the bookkeeping of ranges.
 *
 * Bert's three steps follow BasicTokenizer (Devlin et al. 2018) as the Hugging Face library runs them.
 * Owner: scratch belongs to one call of encode. Tests: tests/unit/models/test_normalize.c,
 * tests/golden/test_tokenizers.c */
#include "models/normalize.h"

#include <string.h>

#include "models/unicode.h"

void sp_view_range(const sp_view *view, size_t begin, size_t end, uint32_t *original_begin,
                   uint32_t *original_end)
{
    *original_begin = view->begin ? view->begin[begin] : (uint32_t)begin;
    *original_end = view->end ? view->end[end - 1] : (uint32_t)end;
}

void sp_normal_clear(sp_normal *normal)
{
    normal->size = 0;
    normal->failed = false;
}

void sp_normal_fini(sp_normal *normal)
{
    sp_free(normal->text);
    sp_free(normal->begin);
    sp_free(normal->end);
    *normal = (sp_normal){0};
}

static bool grow(void *array, size_t item, size_t used, size_t wanted)
{
    void *old, *bigger = sp_alloc(wanted, item);
    memcpy(&old, array, sizeof old);
    if (!bigger) return false;
    if (used) memcpy(bigger, old, used * item);
    sp_free(old);
    memcpy(array, &bigger, sizeof bigger);
    return true;
}

static bool reserve(sp_normal *normal, size_t more)
{
    if (normal->failed) return false;
    if (normal->capacity - normal->size >= more) return true;
    size_t wanted = normal->size + more + normal->size / 2 + 256;
    normal->failed = wanted > SP_MAX_NORMAL || !grow(&normal->text, 1, normal->size, wanted) ||
                     !grow(&normal->begin, sizeof(uint32_t), normal->size, wanted) ||
                     !grow(&normal->end, sizeof(uint32_t), normal->size, wanted);
    if (!normal->failed) normal->capacity = wanted;
    return !normal->failed;
}

/* Characters that changed places must not turn ranges back. */
static void set_range(sp_normal *normal, size_t place, uint32_t begin, uint32_t end)
{
    if (place && begin < normal->begin[place - 1]) begin = normal->begin[place - 1];
    if (place && end < normal->end[place - 1]) end = normal->end[place - 1];
    normal->begin[place] = begin;
    normal->end[place] = end;
}

void sp_normal_append(sp_normal *normal, const char *bytes, size_t n, uint32_t begin, uint32_t end)
{
    if (!reserve(normal, n)) return;
    memcpy(normal->text + normal->size, bytes, n);
    for (size_t i = 0; i < n; i++) set_range(normal, normal->size++, begin, end);
}

void sp_normal_copy(sp_normal *normal, const sp_view *view, size_t begin, size_t end)
{
    if (begin == end || !reserve(normal, end - begin)) return;
    uint32_t original_begin, original_end;
    memcpy(normal->text + normal->size, view->text + begin, end - begin);
    for (size_t i = begin; i < end; i++) {
        sp_view_range(view, i, i + 1, &original_begin, &original_end);
        set_range(normal, normal->size++, original_begin, original_end);
    }
}

void sp_normal_code(sp_normal *normal, const sp_view *view, uint32_t code, size_t begin, size_t end)
{
    char bytes[4];
    uint32_t original_begin, original_end;
    size_t n = sp_utf8_encode(code, bytes);
    if (n == end - begin && memcmp(view->text + begin, bytes, n) == 0) {
        sp_normal_copy(normal, view, begin, end);
        return;
    }
    sp_view_range(view, begin, end, &original_begin, &original_end);
    sp_normal_append(normal, bytes, n, original_begin, original_end);
}

void sp_normalizing_fini(sp_normalizing *scratch)
{
    sp_normal_fini(&scratch->texts[0]);
    sp_normal_fini(&scratch->texts[1]);
    sp_free(scratch->marks);
    sp_free(scratch->sorted);
    *scratch = (sp_normalizing){0};
}

/* --- steps that look at one character --- */

static bool is_ideograph(uint32_t code)
{
    return (code >= 0x4e00 && code <= 0x9fff) || (code >= 0x3400 && code <= 0x4dbf) ||
           (code >= 0x20000 && code <= 0x2a6df) || (code >= 0x2a700 && code <= 0x2b73f) ||
           (code >= 0x2b740 && code <= 0x2b81f) || (code >= 0x2b920 && code <= 0x2ceaf) ||
           (code >= 0xf900 && code <= 0xfaff) || (code >= 0x2f800 && code <= 0x2fa1f);
}

static void lower(sp_normal *out, const sp_view *view, uint32_t code, size_t begin, size_t end)
{
    uint32_t codes[SP_MAX_LOWER];
    size_t n = sp_unicode_lower(code, codes);
    for (size_t i = 0; i < n; i++) sp_normal_code(out, view, codes[i], begin, end);
}

static void clean(sp_normal *out, const sp_view *view, uint32_t code, size_t begin, size_t end)
{
    if (code == '\t' || code == '\n' || code == '\r') code = ' ';
    if (code == 0 || code == 0xfffd || sp_unicode_kind(code) == SP_KIND_CONTROL) return;
    if (sp_unicode_class(code) == SP_CHAR_SPACE) code = ' ';
    sp_normal_code(out, view, code, begin, end);
}

static void set_apart(sp_normal *out, const sp_view *view, uint32_t code, size_t begin, size_t end)
{
    uint32_t original_begin, original_end;
    sp_view_range(view, begin, end, &original_begin, &original_end);
    if (is_ideograph(code)) sp_normal_append(out, " ", 1, original_begin, original_begin);
    sp_normal_copy(out, view, begin, end);
    if (is_ideograph(code)) sp_normal_append(out, " ", 1, original_end, original_end);
}

static void one_character(sp_step step, sp_normal *out, const sp_view *view, uint32_t code, size_t begin,
                          size_t end)
{
    if (step == SP_STEP_LOWER)
        lower(out, view, code, begin, end);
    else if (step == SP_STEP_CLEAN)
        clean(out, view, code, begin, end);
    else if (step == SP_STEP_CHINESE)
        set_apart(out, view, code, begin, end);
    else if (step == SP_STEP_STRIP_ACCENTS && sp_unicode_kind(code) != SP_KIND_ACCENT)
        sp_normal_copy(out, view, begin, end);
}

static void each_character(sp_step step, sp_normal *out, const sp_view *view, size_t begin, size_t end)
{
    size_t length;
    for (size_t place = begin; place < end && !out->failed; place += length) {
        uint32_t code = sp_utf8_decode(view->text + place, &length);
        one_character(step, out, view, code, place, place + length);
    }
}

/* --- spaces --- */

static void join_spaces(sp_normal *out, const sp_view *view, size_t begin, size_t end)
{
    for (size_t place = begin; place < end; place++)
        if (view->text[place] != ' ' || place + 1 == end || view->text[place + 1] != ' ')
            sp_normal_copy(out, view, place, place + 1);
}

static void mark_spaces(sp_normal *out, const sp_view *view, size_t begin, size_t end)
{
    for (size_t place = begin; place < end;) {
        const char *space = memchr(view->text + place, ' ', end - place);
        size_t stop = space ? (size_t)(space - view->text) : end;
        sp_normal_copy(out, view, place, stop);
        if (space) sp_normal_code(out, view, 0x2581, stop, stop + 1);
        place = stop + 1;
    }
}

static void prepend(sp_normal *out, const sp_view *view, size_t begin, size_t end)
{
    if (begin == end) return;
    uint32_t original_begin, original_end;
    sp_view_range(view, begin, begin + 1, &original_begin, &original_end);
    sp_normal_append(out, SP_META, SP_META_SIZE, original_begin, original_begin);
    sp_normal_copy(out, view, begin, end);
}

/* --- running them --- */

/* Whether a step surely leaves the bytes as they are. */
static bool changes_nothing(sp_step step, const char *text, size_t begin, size_t end)
{
    if (begin == end) return true;
    if (step == SP_STEP_NFC || step == SP_STEP_NFKC || step == SP_STEP_NFD)
        return sp_normal_form_holds(step, text, begin, end);
    if (step == SP_STEP_PREPEND_UNLESS)
        return text[begin] == ' ' ||
               (end - begin >= SP_META_SIZE && memcmp(text + begin, SP_META, SP_META_SIZE) == 0);
    return (step == SP_STEP_MARK_SPACES || step == SP_STEP_JOIN_SPACES) &&
           !memchr(text + begin, ' ', end - begin);
}

static bool run(sp_step step, sp_normalizing *scratch, const sp_view *view, size_t begin, size_t end,
                sp_normal *out)
{
    sp_normal_clear(out);
    switch (step) {
    case SP_STEP_NFC:
    case SP_STEP_NFKC:
    case SP_STEP_NFD:
        return sp_normal_form(step, scratch, view, begin, end, out);
    case SP_STEP_JOIN_SPACES:
        join_spaces(out, view, begin, end);
        break;
    case SP_STEP_PREPEND:
    case SP_STEP_PREPEND_UNLESS:
        prepend(out, view, begin, end);
        break;
    case SP_STEP_MARK_SPACES:
        mark_spaces(out, view, begin, end);
        break;
    default:
        each_character(step, out, view, begin, end);
    }
    return !out->failed;
}

bool sp_normalize(const sp_step *steps, size_t n_steps, sp_normalizing *scratch, const sp_view *view,
                  size_t begin, size_t end, sp_view *out, size_t *out_begin, size_t *out_end)
{
    size_t target = 0;
    *out = *view;
    for (size_t i = 0; i < n_steps; i++) {
        sp_normal *text = &scratch->texts[target];
        if (changes_nothing(steps[i], out->text, begin, end)) continue;
        if (!run(steps[i], scratch, out, begin, end, text)) return false;
        *out = (sp_view){text->text ? text->text : "", text->size, text->begin, text->end};
        begin = 0;
        end = text->size;
        target = 1 - target;
    }
    *out_begin = begin;
    *out_end = end;
    return true;
}
