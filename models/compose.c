/* Unicode normal forms NFC, NFKC and NFD (UAX #15) with the range every character comes from.
 *
 * The text is decomposed into a window that ends before each character which can't join anything in front of
 * it; a window's marks are put in canonical order by counting sort over the 256 combining classes, then
 * composed: a character joins the window's last starter unless one between them has no lower class. Every
 * character enters one window, so the whole is linear, also for a text of nothing but marks.
 * Tests: tests/unit/models/test_normalize.c */
#include <string.h>

#include "models/normalize.h"
#include "models/unicode.h"

#define LATIN_END 0x300u /* below, every character is its own NFC */

bool sp_normal_form_holds(sp_step form, const char *text, size_t begin, size_t end)
{
    size_t length;
    uint32_t limit = form == SP_STEP_NFC ? LATIN_END : 0x80u;
    for (size_t place = begin; place < end; place += length) {
        uint32_t code = sp_utf8_decode(text + place, &length);
        if (code >= limit && !sp_unicode_is_inert(code)) return false;
    }
    return true;
}

static bool reserve(sp_normalizing *scratch, size_t used, size_t wanted)
{
    if (wanted <= scratch->n_marks) return true;
    wanted += wanted / 2 + 64;
    sp_mark *marks = sp_alloc(wanted, sizeof *marks), *sorted = sp_alloc(wanted, sizeof *sorted);
    if (!marks || !sorted) {
        sp_free(marks);
        sp_free(sorted);
        return false;
    }
    if (used) memcpy(marks, scratch->marks, used * sizeof *marks);
    sp_free(scratch->marks);
    sp_free(scratch->sorted);
    scratch->marks = marks;
    scratch->sorted = sorted;
    scratch->n_marks = wanted;
    return true;
}

/* Stable, by combining class; sorted is as long as marks. */
static void sort_marks(sp_mark *marks, sp_mark *sorted, size_t n)
{
    size_t place[256] = {0};
    for (size_t i = 0; i < n; i++) place[marks[i].combining]++;
    size_t sum = 0;
    for (size_t class = 0; class < 256; class ++) {
        size_t count = place[class];
        place[class] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++) sorted[place[marks[i].combining]++] = marks[i];
    memcpy(marks, sorted, n * sizeof *marks);
}

/* Canonical order: each run of marks with a class is sorted. */
static void put_in_order(sp_mark *marks, sp_mark *sorted, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        bool ordered = true;
        for (; end < n && marks[end].combining; end++)
            ordered = ordered && (end == i || marks[end - 1].combining <= marks[end].combining);
        if (!ordered) sort_marks(marks + i, sorted, end - i);
        i = end + (end == i);
    }
}

/* Composes in place; returns how many are left. */
static size_t compose(sp_mark *marks, size_t n)
{
    size_t kept = 0, starter = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        sp_mark mark = marks[i];
        uint32_t composed = 0;
        if (starter != SIZE_MAX && (kept == starter + 1 || (marks[kept - 1].combining &&
                                                            marks[kept - 1].combining < mark.combining)))
            composed = sp_unicode_compose(marks[starter].code, mark.code);
        if (composed) {
            marks[starter].code = composed;
            if (mark.end > marks[starter].end) marks[starter].end = mark.end;
            continue;
        }
        if (mark.combining == 0) starter = kept;
        marks[kept++] = mark;
    }
    return kept;
}

static void flush(sp_step form, sp_normalizing *scratch, const sp_view *view, size_t n, sp_normal *out)
{
    if (n > 1) put_in_order(scratch->marks, scratch->sorted, n);
    if (n > 1 && form != SP_STEP_NFD) n = compose(scratch->marks, n);
    for (size_t i = 0; i < n; i++)
        sp_normal_code(out, view, scratch->marks[i].code, scratch->marks[i].begin, scratch->marks[i].end);
}

bool sp_normal_form(sp_step form, sp_normalizing *scratch, const sp_view *view, size_t begin, size_t end,
                    sp_normal *out)
{
    size_t used = 0, length;
    uint32_t codes[SP_MAX_DECOMPOSITION];
    for (size_t place = begin; place < end; place += length) {
        uint32_t code = sp_utf8_decode(view->text + place, &length);
        size_t n = sp_unicode_decompose(code, form == SP_STEP_NFKC, codes);
        if (!reserve(scratch, used, used + n)) return false;
        for (size_t i = 0; i < n; i++) {
            if (used && !sp_unicode_joins(codes[i])) {
                flush(form, scratch, view, used, out);
                used = 0;
            }
            scratch->marks[used++] = (sp_mark){.code = codes[i],
                                               .begin = (uint32_t)place,
                                               .end = (uint32_t)(place + length),
                                               .combining = sp_unicode_combining(codes[i])};
        }
    }
    flush(form, scratch, view, used, out);
    return !out->failed;
}
