/* Private to models/: the splits that come before BPE. A step cuts a stretch of text into pieces; the next
 * step cuts each piece further and sees nothing beyond it. Tests: tests/unit/models/test_tokenizer.c */
#ifndef SPARSED_MODELS_PRETOKENIZE_H
#define SPARSED_MODELS_PRETOKENIZE_H

#include "kernels/base.h"

typedef enum sp_split { SP_SPLIT_GPT2, SP_SPLIT_LLAMA3, SP_SPLIT_DIGITS, SP_SPLITS } sp_split;

/* The regular expression a split stands for, as tokenizer.json spells it; NULL for SP_SPLIT_DIGITS. */
const char *sp_split_pattern(sp_split split);
/* End of the first piece of text[begin, end); begin < end, text is UTF-8. */
size_t sp_split_next(sp_split split, const char *text, size_t begin, size_t end);

#endif
