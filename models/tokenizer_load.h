/* Private to models/: reading tokenizer.json. tokenizer_load.c holds the file as a whole and what all parts
 * use, tokenizer_model.c the model (vocabulary, merges, scores) and added tokens, tokenizer_pipeline.c
 * normalizer, pre-tokenizers and decoder, tokenizer_affixes.c the post-processor and tokenizer_config.json.
 *
 * Functions return SP_OK or have filled loader->error, naming the file and the key. */
#ifndef SPARSED_MODELS_TOKENIZER_LOAD_H
#define SPARSED_MODELS_TOKENIZER_LOAD_H

#include "kernels/json.h"
#include "models/tokenizer_parts.h"

/* What the pre-tokenizers make of the text for the model. */
typedef enum sp_pieces { SP_PIECES_WHOLE, SP_PIECES_BYTES, SP_PIECES_META, SP_PIECES_WORDS } sp_pieces;

typedef struct sp_loader {
    const char *name; /* of the file, for messages */
    sp_tokenizer *tokenizer;
    sp_arena arena; /* texts of this load */
    sp_pieces pieces;
    size_t n_vocab, n_added;
    int64_t largest_id;
    sp_error *error;
} sp_loader;

/* A member of an object: where its value begins. */
typedef struct sp_member {
    const char *key;
    sp_json at;
    bool present;
} sp_member;

/* "FILE: KEY REASON" */
sp_status sp_load_fail_key(const sp_loader *l, const char *key, const char *reason);
sp_status sp_load_fail_memory(const sp_loader *l);
/* "FILE: KEY: MESSAGE", the message made further down. */
sp_status sp_load_fail_within(const sp_loader *l, const char *key, sp_status status, const sp_error *reason);
/* "FILE: KEY 'TEXT' is not supported", TEXT being the string of a member. */
sp_status sp_load_refuse(sp_loader *l, const char *key, const sp_member *m);

/* Notes the members wanted of the object that was just opened; reads it to its end. */
void sp_load_members(sp_json *reader, sp_member *members, size_t n);
/* Goes to a member's value and says its type; SP_JSON_NULL when absent. */
sp_json_type sp_load_enter(const sp_member *m, sp_json *reader);
/* Opens an object member and notes its members; false when it is null or absent. *status: what went wrong. */
bool sp_load_object(sp_loader *l, const char *key, const sp_member *m, sp_member *members, size_t n,
                    sp_status *status);
/* Calls read for every item of an array member, with the item as a member. */
typedef sp_status sp_load_item(sp_loader *l, const sp_member *item, void *context);
sp_status sp_load_each(sp_loader *l, const char *key, const sp_member *list, sp_load_item *read,
                       void *context) SP_MUST_CHECK;
bool sp_load_is_true(const sp_member *m);
bool sp_load_is_text(const sp_member *m, const char *text);
bool sp_load_is_empty(const sp_member *m); /* null, absent or "" */

sp_status sp_load_normalizer(sp_loader *l, const sp_member *m) SP_MUST_CHECK;
sp_status sp_load_pretokenizer(sp_loader *l, const sp_member *m) SP_MUST_CHECK;
sp_status sp_load_decoder(sp_loader *l, const sp_member *m) SP_MUST_CHECK;
/* Reads model and added_tokens; refuses models that don't go with what was read before. */
sp_status sp_load_model(sp_loader *l, const sp_member *model, const sp_member *added) SP_MUST_CHECK;
sp_status sp_load_postprocessor(sp_loader *l, const sp_member *m) SP_MUST_CHECK;
/* The text of tokenizer_config.json: bos_token, eos_token, add_bos_token, add_eos_token. */
sp_status sp_load_config(sp_loader *l, const char *text, size_t size) SP_MUST_CHECK;

#endif
