/* Private to the reader of the attention object: its state, and what attention.c (keys, and what they mean
 * together) asks of attention_params.c (a backend and its parameters). Tests:
 * tests/unit/engine/test_attention_parse.c */
#ifndef SPARSED_ENGINE_ATTENTION_ATTENTION_PARSER_H
#define SPARSED_ENGINE_ATTENTION_ATTENTION_PARSER_H

#include "engine/attention/attention.h"

typedef struct sp_parser {
    const char *prefix; /* of fields: "attention", or "attention.decode" */
    const sp_attention_host *host;
    sp_attention *out;
    sp_json json;
    sp_error *error;
} sp_parser;

/* Refuses a value: "FIELD must be WANTED". */
sp_status sp_parser_bad_type(const sp_parser *parser, const char *field, const char *wanted) SP_MUST_CHECK;
/* The backend that the string at hand names; field: what a refusal names. */
sp_status sp_parser_backend(sp_parser *parser, const char *field) SP_MUST_CHECK;
/* All parameters as they are where a request says nothing. */
void sp_parser_defaults(sp_attention *attention);
/* The backend's parameters; params stands behind their opening brace. */
sp_status sp_parser_params(sp_parser *parser, const sp_json *params) SP_MUST_CHECK;
/* The value of `decode`: the pattern of generated tokens, checked alone. */
sp_status sp_parser_decode(sp_parser *parser, sp_json_type type) SP_MUST_CHECK;

#endif
