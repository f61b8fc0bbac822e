/* See scratch.h. */
#include "engine/attention/scratch.h"

#include <string.h>

#define LEAST ((size_t)16 << 10)

void sp_scratch_init(sp_scratch *scratch, size_t max_bytes)
{
    *scratch = (sp_scratch){.max_bytes = max_bytes};
}

static void drop(sp_scratch *scratch)
{
    for (size_t i = 0; i < scratch->n_blocks; i++) sp_free(scratch->blocks[i]);
    scratch->n_blocks = scratch->used = scratch->bytes = 0;
}

void sp_scratch_fini(sp_scratch *scratch)
{
    drop(scratch);
}

static bool add_block(sp_scratch *scratch, size_t size)
{
    uint8_t *block = scratch->n_blocks < SP_SCRATCH_BLOCKS ? sp_alloc(size, 1) : NULL;
    if (!block) return false;
    scratch->blocks[scratch->n_blocks] = block;
    scratch->sizes[scratch->n_blocks++] = size;
    scratch->bytes += size;
    scratch->used = 0;
    return true;
}

/* Several blocks become one of their size: what was needed once fits the next time. */
void sp_scratch_begin(sp_scratch *scratch)
{
    size_t bytes = scratch->bytes;
    scratch->used = 0;
    if (scratch->n_blocks <= 1) return;
    drop(scratch);
    (void)add_block(scratch, bytes);
}

sp_status sp_scratch_take(sp_scratch *scratch, size_t count, size_t size, void *out, sp_error *error)
{
    size_t bytes, whole;
    void **place = out;
    if (!sp_mul_size(count, size, &bytes) || !sp_align_size(bytes ? bytes : 1, SP_ALIGNMENT, &bytes))
        return sp_fail(error, SP_TOO_LARGE, "predicting attention needs more memory than there is");
    size_t last = scratch->n_blocks ? scratch->sizes[scratch->n_blocks - 1] : 0;
    if (bytes > last - scratch->used) {
        size_t limit = scratch->max_bytes ? scratch->max_bytes : SIZE_MAX / 2;
        size_t left = limit > scratch->bytes ? limit - scratch->bytes : 0;
        size_t wanted = scratch->bytes / 2 + LEAST > bytes ? scratch->bytes / 2 + LEAST : bytes;
        if (wanted > left) wanted = bytes;
        if (!sp_add_size(scratch->bytes, wanted, &whole) || wanted > left)
            return sp_fail(error, SP_TOO_LARGE,
                           "predicting attention needs more than its %zu bytes; use a shorter chunk", limit);
        if (!add_block(scratch, wanted))
            return sp_fail(error, SP_NO_MEMORY, "no memory to predict attention: %zu bytes", wanted);
    }
    memcpy(place, &(void *){scratch->blocks[scratch->n_blocks - 1] + scratch->used}, sizeof(void *));
    scratch->used += bytes;
    return SP_OK;
}
