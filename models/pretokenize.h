/* Private to models/: the splits that come before BPE. A step cuts a stretch of text into pieces; the next
 * step cuts each piece further and sees nothing beyond it. Tests: tests/unit/models/test_tokenizer.c */
#ifndef SPARSED_MODELS_PRETOKENIZE_H
#define SPARSED_MODELS_PRETOKENIZE_H

#include "kernels/base.h"

typedef enum sp_split {
    SP_SPLIT_GPT2,
    SP_SPLIT_LLAMA3,
    SP_SPLIT_QWEN2,
    SP_SPLIT_LINES,                      /* DeepSeek Coder: each line break alone */
    SP_SPLIT_WORDS,                      /* and runs of letters with one white space in front */
    SP_SPLIT_PUNCTUATION,                /* and runs of punctuation likewise */
    SP_SPLIT_CJK,                        /* and runs of ideographs, kana, Hangul and what lies between */
    SP_SPLIT_NUMBERS3,                   /* DeepSeek V3: numbers by three */
    SP_SPLIT_KANA,                       /* and runs of ideographs and kana */
    SP_SPLIT_DEEPSEEK3,                  /* and the rest */
    SP_SPLIT_PATTERNS,                   /* those above are known by their regular expression */
    SP_SPLIT_DIGITS = SP_SPLIT_PATTERNS, /* every number alone */
    SP_SPLIT_META,                       /* in front of each meta symbol */
    SP_SPLIT_BERT                        /* white space and each punctuation mark apart */
} sp_split;

/* The regular expression that a split below SP_SPLIT_PATTERNS stands for, as tokenizer.json spells it. */
const char *sp_split_pattern(sp_split split);
/* End of the first piece of text[begin, end); begin < end, text is UTF-8. Pieces of SP_SPLIT_BERT that are
 * white space are to be dropped. */
size_t sp_split_next(sp_split split, const char *text, size_t begin, size_t end);

#endif
