/* Private to models/: what a tokenizer is made of. tokenizer_load.c and its neighbours fill it from
 * tokenizer.json, tokenizer_gguf.c from GGUF metadata; tokenizer.c encodes with it, decode.c decodes. */
#ifndef SPARSED_MODELS_TOKENIZER_PARTS_H
#define SPARSED_MODELS_TOKENIZER_PARTS_H

#include "models/bpe.h"
#include "models/normalize.h"
#include "models/prefixes.h"
#include "models/pretokenize.h"
#include "models/unigram.h"
#include "models/wordpiece.h"

#define SP_MAX_ADDED_BYTES 255u
#define SP_MAX_SPLITS 8u
#define SP_MAX_STEPS 8u
#define SP_MAX_AFFIX 16u /* ids that the post-processor adds on one side */

typedef struct sp_added_token {
    int32_t id;
    bool special, lstrip, rstrip;
} sp_added_token;

/* Added tokens by what is to be found in the text; the values of contents index tokens. */
typedef struct sp_added_set {
    sp_prefixes contents;
    sp_added_token *tokens; /* (contents.count), owned */
} sp_added_set;

/* Memory for n tokens. */
sp_status sp_added_init(sp_added_set *set, size_t n, sp_error *error) SP_MUST_CHECK;
void sp_added_fini(sp_added_set *set);
/* content: 1..SP_MAX_ADDED_BYTES bytes that live as long as the set. sp_prefixes_index(&set->contents) when
 * all are added. */
void sp_added_add(sp_added_set *set, const char *content, size_t size, sp_added_token token);

/* The next added token of text[begin, end): leftmost, longest first; special ones only when wanted. */
typedef struct sp_added_match {
    const sp_added_token *token;
    size_t begin, end; /* with the white space that it swallows */
} sp_added_match;
bool sp_added_find(const sp_added_set *set, const char *text, size_t begin, size_t end, bool special,
                   sp_added_match *match);

typedef enum sp_model_type { SP_MODEL_BPE, SP_MODEL_UNIGRAM, SP_MODEL_WORDPIECE } sp_model_type;

struct sp_tokenizer {
    sp_vocab vocab;
    sp_model_type type; /* which of the next three is filled */
    sp_bpe bpe;
    sp_unigram unigram;
    sp_wordpiece wordpiece;
    sp_added_set added[2]; /* [0] found in the text; [1]: marked normalized, found in what is left of it */
    sp_step steps[SP_MAX_STEPS]; /* the normalizer */
    size_t n_steps;
    sp_step marks[2]; /* Metaspace, after added tokens are cut out */
    size_t n_marks;
    bool mark_first_only; /* its meta symbol only in front of the text */
    sp_split splits[SP_MAX_SPLITS];
    size_t n_splits;
    sp_spelling spelling; /* of the decoder */
    bool strips_space;    /* the decoder drops one space at the start of a text */
    int32_t prefix[SP_MAX_AFFIX], suffix[SP_MAX_AFFIX];
    size_t n_prefix, n_suffix;
    int32_t bos, eos; /* -1: none */
};

#endif
