/* Room to work in that is kept: pieces are handed out one behind the other and all taken back at once. Memory
 * grows by blocks while pieces are out and becomes one block at the next begin, so a steady state allocates
 * nothing. Private to engine/. Tests: tests/unit/engine/test_scratch.c */
#ifndef SPARSED_ENGINE_ATTENTION_SCRATCH_H
#define SPARSED_ENGINE_ATTENTION_SCRATCH_H

#include "kernels/base.h"

#define SP_SCRATCH_BLOCKS 16
typedef struct sp_scratch {
    uint8_t *blocks[SP_SCRATCH_BLOCKS];
    size_t sizes[SP_SCRATCH_BLOCKS];
    size_t n_blocks, used;   /* used: of the last block */
    size_t bytes, max_bytes; /* of all blocks; 0: no limit */
} sp_scratch;

void sp_scratch_init(sp_scratch *scratch, size_t max_bytes);
void sp_scratch_fini(sp_scratch *scratch);
/* Takes all pieces back. */
void sp_scratch_begin(sp_scratch *scratch);
/* count * size bytes aligned to 64, not cleared, until the next begin; never NULL for zero bytes.
 * SP_NO_MEMORY, SP_TOO_LARGE over max_bytes. */
sp_status sp_scratch_take(sp_scratch *scratch, size_t count, size_t size, void *out,
                          sp_error *error) SP_MUST_CHECK;

#endif
