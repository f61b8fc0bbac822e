/* Checked sizes, aligned memory, arenas and bounded buffers (declared in kernels/base.h).
 *
 * No size is computed without a check and no allocation passes its stated limit: request and model files
 * decide many of these sizes. An arena is a list of blocks, each used from its start; a block is never given
 * back before the end. Tests: tests/unit/kernels/test_base.c */
#include "kernels/base.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_FROM ((size_t)16 << 20)

enum { ARENA_ALIGNMENT = 16, ARENA_FIRST = 4096, ARENA_LARGEST = 1 << 20, BUFFER_FIRST = 256 };

bool sp_add_size(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

bool sp_mul_size(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

bool sp_align_size(size_t value, size_t alignment, size_t *out)
{
    assert(alignment > 0 && (alignment & (alignment - 1)) == 0);
    size_t sum;
    if (!sp_add_size(value, alignment - 1, &sum)) return false;
    *out = sum & ~(alignment - 1);
    return true;
}

void *sp_alloc(size_t count, size_t size)
{
    size_t bytes, padded;
    if (!sp_mul_size(count, size, &bytes) || bytes == 0 || !sp_align_size(bytes, SP_ALIGNMENT, &padded))
        return NULL;
    if (padded > PTRDIFF_MAX) return NULL;
    if (padded < HUGE_FROM) return aligned_alloc(SP_ALIGNMENT, padded);
    /* Weights and KV pages: large pages save the address translation that bounds reading them once. */
    if (!sp_align_size(padded, HUGE_PAGE, &padded)) return NULL;
    void *memory = aligned_alloc(HUGE_PAGE, padded);
    if (memory)
        (void)madvise(memory, padded, MADV_HUGEPAGE); /* advice: nothing is lost where it is refused */
    return memory;
}

void *sp_alloc_zero(size_t count, size_t size)
{
    void *memory = sp_alloc(count, size);
    if (memory) memset(memory, 0, count * size); /* sp_alloc checked the product */
    return memory;
}

void sp_free(void *pointer)
{
    free(pointer);
}

char *sp_copy_text(const char *text, size_t n)
{
    size_t with_nul;
    char *copy = sp_add_size(n, 1, &with_nul) ? sp_alloc(with_nul, 1) : NULL;
    if (!copy) return NULL;
    if (n > 0) memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

/* --- arena --- */

typedef struct sp_arena_block {
    struct sp_arena_block *next;
    size_t used, capacity; /* of the bytes that follow this head */
    size_t padding;        /* keeps the head a multiple of ARENA_ALIGNMENT */
} sp_arena_block;

_Static_assert(sizeof(sp_arena_block) % ARENA_ALIGNMENT == 0,
               "memory behind a block's head must stay aligned");

void sp_arena_init(sp_arena *arena, size_t max_bytes)
{
    *arena = (sp_arena){.max_bytes = max_bytes};
}

/* A block with room for at least bytes, put in front of the list; each is twice the last, within the limits.
 */
static sp_arena_block *arena_grow(sp_arena *arena, size_t bytes)
{
    size_t capacity = arena->blocks ? 2 * arena->blocks->capacity : ARENA_FIRST;
    if (capacity > ARENA_LARGEST) capacity = ARENA_LARGEST;
    if (capacity > arena->max_bytes - arena->used) capacity = arena->max_bytes - arena->used;
    if (capacity < bytes) capacity = bytes;
    size_t total;
    sp_arena_block *block = sp_add_size(sizeof *block, capacity, &total) ? sp_alloc(total, 1) : NULL;
    if (!block) {
        arena->no_memory = true;
        return NULL;
    }
    *block = (sp_arena_block){.next = arena->blocks, .capacity = capacity};
    arena->blocks = block;
    return block;
}

void *sp_arena_alloc(sp_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (!sp_mul_size(count, size, &bytes)) return NULL;
    if (bytes == 0) bytes = 1; /* a pointer of its own, so that NULL always means failure */
    if (!sp_align_size(bytes, ARENA_ALIGNMENT, &bytes) || bytes > arena->max_bytes - arena->used) return NULL;
    sp_arena_block *block = arena->blocks;
    if (!block || bytes > block->capacity - block->used) block = arena_grow(arena, bytes);
    if (!block) return NULL;
    char *memory = (char *)(block + 1) + block->used;
    block->used += bytes;
    arena->used += bytes;
    return memset(memory, 0, bytes);
}

char *sp_arena_copy(sp_arena *arena, const char *text, size_t n)
{
    size_t with_nul;
    char *copy = sp_add_size(n, 1, &with_nul) ? sp_arena_alloc(arena, with_nul, 1) : NULL;
    if (copy && n > 0) memcpy(copy, text, n);
    return copy;
}

void sp_arena_fini(sp_arena *arena)
{
    for (sp_arena_block *block = arena->blocks; block;) {
        sp_arena_block *next = block->next;
        sp_free(block);
        block = next;
    }
    *arena = (sp_arena){.max_bytes = arena->max_bytes};
}

/* --- buffer --- */

void sp_buffer_init(sp_buffer *buffer, size_t max_bytes)
{
    *buffer = (sp_buffer){.max_bytes = max_bytes};
}

void sp_buffer_lend(sp_buffer *buffer, char *room, size_t capacity)
{
    *buffer = (sp_buffer){.data = room, .capacity = capacity, .max_bytes = capacity};
}

/* Makes room for n more bytes; marks the buffer as failed when it may not or cannot. */
static bool buffer_reserve(sp_buffer *buffer, size_t n)
{
    if (buffer->failed) return false;
    if (n <= buffer->capacity - buffer->size) return true;
    buffer->failed = true;
    if (n > buffer->max_bytes - buffer->size) return false;
    size_t need = buffer->size + n, capacity = buffer->capacity;
    if (capacity < BUFFER_FIRST) capacity = BUFFER_FIRST;
    if (capacity < need && !sp_mul_size(capacity, 2, &capacity)) return false;
    if (capacity < need) capacity = need;
    if (capacity > buffer->max_bytes) capacity = buffer->max_bytes;
    char *data = realloc(buffer->data, capacity);
    buffer->no_memory = !data;
    if (!data) return false;
    buffer->data = data;
    buffer->capacity = capacity;
    buffer->failed = false;
    return true;
}

bool sp_buffer_append(sp_buffer *buffer, const void *bytes, size_t n)
{
    if (!buffer_reserve(buffer, n)) return false;
    if (n > 0) memcpy(buffer->data + buffer->size, bytes, n);
    buffer->size += n;
    return true;
}

bool sp_buffer_text(sp_buffer *buffer, const char *text)
{
    return sp_buffer_append(buffer, text, strlen(text));
}

bool sp_buffer_format(sp_buffer *buffer, const char *format, ...)
{
    char small[512];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    bool done = false;
    if (n < 0) {
        buffer->failed = true;
    } else if ((size_t)n < sizeof small) {
        done = sp_buffer_append(buffer, small, (size_t)n);
    } else if (buffer_reserve(buffer, (size_t)n)) {
        char *large =
            sp_alloc((size_t)n + 1, 1); /* vsnprintf adds a NUL, for which the buffer may have no room */
        if (large && vsnprintf(large, (size_t)n + 1, format, again) == n)
            done = sp_buffer_append(buffer, large, (size_t)n);
        buffer->failed = !done;
        buffer->no_memory = buffer->no_memory || !large;
        sp_free(large);
    }
    va_end(again);
    return done;
}

void sp_buffer_clear(sp_buffer *buffer)
{
    buffer->size = 0;
    buffer->failed = buffer->no_memory = false;
}

void sp_buffer_break(sp_buffer *buffer)
{
    buffer->failed = buffer->no_memory = true;
}

void sp_buffer_pass(const sp_buffer *part, sp_buffer *out)
{
    out->failed = out->failed || part->failed;
    out->no_memory = out->no_memory || part->no_memory;
}

sp_status sp_buffer_path_fail(const sp_buffer *buffer, const char *path, sp_error *error)
{
    if (buffer->no_memory) return sp_fail(error, SP_NO_MEMORY, "%.200s: out of memory", path);
    return sp_fail(error, SP_NOT_FOUND, "%.200s: the path is too long", path);
}

sp_status sp_buffer_check(const sp_buffer *buffer, sp_error *error)
{
    return buffer->no_memory ? sp_fail(error, SP_NO_MEMORY, "out of memory") : SP_OK;
}

void sp_buffer_fini(sp_buffer *buffer)
{
    free(buffer->data);
    *buffer = (sp_buffer){.max_bytes = buffer->max_bytes};
}
