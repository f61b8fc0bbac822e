/* The pages of a sequence: taken at admission, shared with other requests, published, given back.
 *
 * Full pages whose rows were computed as any prompt's would be are published while the sequence runs, and
 * whoever has the same tokens in the same circumstances takes them: at admission, and again before each of
 * its chunks, since another request may have come further meanwhile. The circumstances are a digest:
 *
 *   adapter, owner (0 with --share-prefixes), cache_salt, pattern and normalizer after resolving, what is
 *   kept of keys beside the pages for generated tokens, sp_rope_variant of the planned length
 *
 * Model, fits and KV type are the engine's and do not change. Generated rows are published where generated
 * tokens have the prompt's pattern: their bits are those that reading them as a prompt gives (DESIGN 7). Not
 * shared: prompts that are run layer by layer (their rows knew later tokens), and attentions whose backends
 * keep more of a sequence than its pages (SP_CAP_PREFIX). Not taken, since they need every row of the prompt:
 * requests that measure, capture, score the prompt or pool its mean.
 *
 * A page that was computed though the index knows one for the same tokens is given back for that one, so a
 * sequence's published pages are the first of its table and each of them follows the one before it in the
 * index. Owner: the engine thread; sp_pages_describe: who opens the sequence. Tests:
 * tests/unit/engine/test_pages.c, tests/golden/test_prefix.c, tests/http/test_prefix.py */
#ifndef SPARSED_ENGINE_PAGES_H
#define SPARSED_ENGINE_PAGES_H

#include "engine/prefix.h"
#include "engine/sequence.h"

/* What the sequence may share, and with whom: once its attention is resolved. */
void sp_pages_describe(sp_sequence *sequence, const sp_request *request);
/* Admission: fills the page table and moves position behind what the index has. False: too few pages are
 * free even without those of idle captures (NULL: no captures). */
bool sp_pages_admit(sp_kv *kv, sp_prefix *prefix, struct sp_captures *captures,
                    sp_sequence *sequence) SP_MUST_CHECK;
/* While it prefills: takes what was published since. */
void sp_pages_share(sp_kv *kv, sp_prefix *prefix, sp_sequence *sequence);
/* Rows were computed without failing: publishes the pages that are full now. */
void sp_pages_publish(sp_kv *kv, sp_prefix *prefix, sp_sequence *sequence);
/* The end. keeps: its capture takes over the pages of its tokens. */
void sp_pages_release(sp_kv *kv, sp_sequence *sequence, bool keeps);

#endif
