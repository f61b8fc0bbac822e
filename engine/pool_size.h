/* How long a context may be and how many pages the KV pool gets, before anything is allocated.
 *
 * The budget is --kv-bytes, else half of the memory that is free. The context is --ctx, which the budget must
 * hold, else the model's (not more than context_enough), cut to what the budget holds. The pool has pages for
 * max_sequences whole contexts, or for kv_tokens where that is less, and no more than the budget holds. Pure
 * but for the memory that is free. Tests: tests/unit/engine/test_engine.c */
#ifndef SPARSED_ENGINE_POOL_SIZE_H
#define SPARSED_ENGINE_POOL_SIZE_H

#include "engine/engine.h"

/* Sets context, kv_pages, page_tokens and kv_bytes of *out. side_bytes: of one layer's side of a page.
 * SP_USAGE, naming "ctx" or "kv-bytes". */
sp_status sp_pool_size(const sp_engine_options *options, const sp_model *model, size_t side_bytes,
                       sp_engine_info *out, sp_error *error) SP_MUST_CHECK;

#endif
