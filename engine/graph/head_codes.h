/* Private to engine/graph: projected keys for a head whose backend predicts from them
 * (engine/attention/codes.h). They are those that the run kept beside its pages where there are such, else
 * made from the pages' keys, some thousand at a time. Owner: the head's builder; used on the thread that owns
 * the device. */
#ifndef SPARSED_ENGINE_GRAPH_HEAD_CODES_H
#define SPARSED_ENGINE_GRAPH_HEAD_CODES_H

#include "engine/graph/head.h"

typedef struct sp_head_codes sp_head_codes;

/* Of the attention, or of decoding. *out NULL: the backend reads none. SP_NO_MEMORY. */
sp_status sp_head_codes_open(const sp_head_source *source, bool decoding, sp_head_codes **out,
                             sp_error *error) SP_MUST_CHECK;
void sp_head_codes_close(sp_head_codes *codes);
/* A part of the work; true when all keys are there. NULL is fine. */
bool sp_head_codes_step(sp_head_codes *codes);
/* Gives the request what it reads of keys 0 .. n_keys - 1. NULL is fine. */
void sp_head_codes_attach(sp_head_codes *codes, sp_plan_request *request);

#endif
