/* Private to models/: changes of the text before it is split (normalizers, and Metaspace's marking of
 * spaces), keeping for every byte where it comes from.
 *
 * A view is a text with the range of original bytes that each of its bytes stands for. The original itself is
 * a view without ranges: byte i stands for [i, i + 1). A step reads a stretch of one view and writes another.
 * Bytes that a step leaves alone keep their own range; what it changes has the range of the characters it was
 * made from; what it inserts has the empty range in front of what follows. Ranges never run backwards.
 * Linear time, no recursion. Tests: tests/unit/models/test_normalize.c, tests/golden/test_tokenizers.c */
#ifndef SPARSED_MODELS_NORMALIZE_H
#define SPARSED_MODELS_NORMALIZE_H

#include "kernels/base.h"

#define SP_META "\xe2\x96\x81" /* U+2581, the visible space of SentencePiece */
#define SP_META_SIZE 3u

typedef enum sp_step {
    SP_STEP_NFC,
    SP_STEP_NFKC,
    SP_STEP_NFD,
    SP_STEP_STRIP_ACCENTS,  /* drops marks without width (Mn) */
    SP_STEP_LOWER,          /* lower case, character by character */
    SP_STEP_CLEAN,          /* Bert's clean_text: drops controls, white space becomes " " */
    SP_STEP_CHINESE,        /* Bert's handle_chinese_chars: spaces around ideographs */
    SP_STEP_JOIN_SPACES,    /* runs of two and more " " become one, the last */
    SP_STEP_PREPEND,        /* a meta symbol in front of every text that is not empty */
    SP_STEP_PREPEND_UNLESS, /* the same unless the text begins with one, or with a space */
    SP_STEP_MARK_SPACES     /* " " becomes the meta symbol */
} sp_step;

typedef struct sp_view {
    const char *text;
    size_t size;
    const uint32_t *begin, *end; /* (size) original bytes; both NULL: the original itself */
} sp_view;
/* Original range of view bytes [begin, end); begin < end <= size. */
void sp_view_range(const sp_view *view, size_t begin, size_t end, uint32_t *original_begin,
                   uint32_t *original_end);

/* A text under construction, its memory reused. */
typedef struct sp_normal {
    char *text;
    uint32_t *begin, *end;
    size_t size, capacity;
    bool failed; /* out of memory, or over SP_MAX_NORMAL; sticky until cleared */
} sp_normal;
#define SP_MAX_NORMAL ((size_t)3 << 30)
void sp_normal_clear(sp_normal *normal);
void sp_normal_fini(sp_normal *normal);
void sp_normal_append(sp_normal *normal, const char *bytes, size_t n, uint32_t begin, uint32_t end);
/* Appends bytes [begin, end) of a view with their ranges. */
void sp_normal_copy(sp_normal *normal, const sp_view *view, size_t begin, size_t end);
/* Appends a code point made from bytes [begin, end) of a view: with their ranges when it spells the same. */
void sp_normal_code(sp_normal *normal, const sp_view *view, uint32_t code, size_t begin, size_t end);

/* A character of a decomposed text: the bytes of the view it was made from. */
typedef struct sp_mark {
    uint32_t code, begin, end;
    uint8_t combining;
} sp_mark;

/* Memory for running steps, reused from stretch to stretch. */
typedef struct sp_normalizing {
    sp_normal texts[2];
    sp_mark *marks, *sorted; /* (n_marks) */
    size_t n_marks;
} sp_normalizing;
void sp_normalizing_fini(sp_normalizing *scratch);

/* Runs steps over bytes [begin, end) of a view. *out: the result, valid until scratch is used again; *view
 * itself when no step changes a byte, then *out_begin and *out_end are begin and end. False: out of memory.
 */
bool sp_normalize(const sp_step *steps, size_t n_steps, sp_normalizing *scratch, const sp_view *view,
                  size_t begin, size_t end, sp_view *out, size_t *out_begin, size_t *out_end) SP_MUST_CHECK;

/* NFC, NFKC or NFD of bytes [begin, end) of a view (compose.c). False: out of memory. */
bool sp_normal_form(sp_step form, sp_normalizing *scratch, const sp_view *view, size_t begin, size_t end,
                    sp_normal *out) SP_MUST_CHECK;
/* Whether the bytes are surely in that form already. */
bool sp_normal_form_holds(sp_step form, const char *text, size_t begin, size_t end);

#endif
