/* Status codes, errors, log, checked size arithmetic, aligned memory, arenas and bounded buffers.
 *
 * One error convention for the whole program: a function that can fail returns sp_status (0 is success), must
 * be checked, and fills an optional sp_error with one sentence for a person: what is wrong, and what to do
 * next. Asserts are for our own invariants; only server/main.c exits.
 *
 * Memory has three lifetimes: process (sp_alloc), request (sp_arena), step (scratch owned by whoever runs the
 * step). Tests: tests/unit/kernels/test_base.c */
#ifndef SPARSED_KERNELS_BASE_H
#define SPARSED_KERNELS_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_MUST_CHECK __attribute__((warn_unused_result))
#define SP_PRINTF(text_at, args_at) __attribute__((format(printf, text_at, args_at)))

typedef enum sp_status {
    SP_OK = 0,
    SP_USAGE,       /* command line or option: exit 64 */
    SP_INVALID,     /* a request's field: 400, sp_error.param names it */
    SP_DATA,        /* a model or data file: exit 65, names file and tensor or key */
    SP_NOT_FOUND,   /* file or name: exit 66, 404 */
    SP_TOO_LARGE,   /* over a stated limit: 413 */
    SP_TOO_LONG,    /* the prompt alone exceeds the context: 400 exceed_context_size_error */
    SP_BUSY,        /* queue full: 429 with Retry-After */
    SP_UNAVAILABLE, /* loading, draining, timed out: 503 */
    SP_CANCELLED,   /* by the client */
    SP_UNSUPPORTED, /* known, not built: 501 or exit 65 */
    SP_IO,          /* the system refused: bind, read, write */
    SP_NO_MEMORY,
    SP_INTERNAL, /* our mistake: 500, exit 70 */
} sp_status;

typedef struct sp_error {
    sp_status status;
    char param[96];    /* field, option, tensor or key; empty if none */
    char message[416]; /* control bytes escaped, NUL terminated */
} sp_error;

/* Fills *error (may be NULL), escapes control bytes of the formatted text, and returns status. */
sp_status sp_fail(sp_error *error, sp_status status, const char *format, ...) SP_PRINTF(3, 4);
/* The same, naming the field, option, tensor or key at fault. */
sp_status sp_fail_param(sp_error *error, sp_status status, const char *param, const char *format, ...)
    SP_PRINTF(4, 5);
const char *sp_status_name(sp_status status);

typedef enum sp_log_level { SP_LOG_ERROR, SP_LOG_WARN, SP_LOG_INFO, SP_LOG_DEBUG } sp_log_level;
/* One line to standard error, with time; control bytes escaped; safe from any thread. Never log prompts. A
 * line that can't be written (disk full, a pipe whose reader stands still) is lost and counted. */
void sp_log(sp_log_level level, const char *format, ...) SP_PRINTF(2, 3);
void sp_log_set_level(sp_log_level level);
/* From now on every line is a JSON object: time, level, message. */
void sp_log_set_json(bool json);
bool sp_log_is_json(void);
/* Lines lost since the start. */
uint64_t sp_log_lost(void);
/* The same line with other members than message: {"time", "level", MEMBERS}, which are JSON already. */
void sp_log_members(sp_log_level level, const char *members, size_t size);

/* Seconds of a monotonic clock. */
double sp_now(void);
/* Seconds since 1970, to be shown: people and programs set this clock. */
double sp_unix_now(void);

/* --- checked sizes: false on overflow, *out untouched --- */
bool sp_add_size(size_t a, size_t b, size_t *out) SP_MUST_CHECK;
bool sp_mul_size(size_t a, size_t b, size_t *out) SP_MUST_CHECK;
/* Rounds up to a multiple of a power of two. */
bool sp_align_size(size_t value, size_t alignment, size_t *out) SP_MUST_CHECK;

/* --- memory --- */
#define SP_ALIGNMENT 64
/* count * size bytes aligned to 64, not cleared (sp_alloc) or cleared (sp_alloc_zero); NULL when out of
 * memory, on overflow, or for zero bytes. sp_free accepts NULL. */
void *sp_alloc(size_t count, size_t size);
void *sp_alloc_zero(size_t count, size_t size);
void sp_free(void *pointer);
/* Copy of n bytes plus a NUL; NULL when out of memory. */
char *sp_copy_text(const char *text, size_t n);

/* An arena gives memory that lives as long as one request and is freed at once. max_bytes bounds it. */
typedef struct sp_arena {
    struct sp_arena_block *blocks;
    size_t used, max_bytes;
    bool no_memory; /* sticky: a NULL was for want of memory, not for the limit */
} sp_arena;
void sp_arena_init(sp_arena *arena, size_t max_bytes);
void *sp_arena_alloc(sp_arena *arena, size_t count,
                     size_t size); /* aligned to 16, cleared; NULL over the limit */
char *sp_arena_copy(sp_arena *arena, const char *text, size_t n); /* adds a NUL */
void sp_arena_fini(sp_arena *arena);

/* A byte buffer that grows to max_bytes and no further. Bytes are not NUL terminated. */
typedef struct sp_buffer {
    char *data;
    size_t size, capacity, max_bytes;
    bool failed;    /* sticky: an append went over max_bytes or memory; later appends do nothing */
    bool no_memory; /* it was memory */
} sp_buffer;
void sp_buffer_init(sp_buffer *buffer, size_t max_bytes);
/* Over memory of the caller, which it never leaves: nothing to free, and what does not fit is left out. */
void sp_buffer_lend(sp_buffer *buffer, char *room, size_t capacity);
bool sp_buffer_append(sp_buffer *buffer, const void *bytes, size_t n);
bool sp_buffer_text(sp_buffer *buffer, const char *text);
bool sp_buffer_format(sp_buffer *buffer, const char *format, ...) SP_PRINTF(2, 3);
void sp_buffer_break(sp_buffer *buffer); /* marks it failed: there was no memory for what should go into it */
void sp_buffer_pass(const sp_buffer *part, sp_buffer *out); /* out is made from part: fails where part has */
/* Why a path could not be put together: SP_NO_MEMORY, or SP_NOT_FOUND: it is too long. */
sp_status sp_buffer_path_fail(const sp_buffer *buffer, const char *path, sp_error *error);
sp_status sp_buffer_check(const sp_buffer *buffer, sp_error *error); /* SP_NO_MEMORY, or SP_OK: other than by
                                                                         its limit it has not failed */
void sp_buffer_clear(sp_buffer *buffer);                             /* size 0, memory kept */
void sp_buffer_fini(sp_buffer *buffer);

/* Whole regular file into fresh memory (sp_free it), one NUL behind it that size does not count. SP_NOT_FOUND
 * when absent, SP_DATA when not a regular file or larger than max_bytes, naming the path. */
sp_status sp_read_file(const char *path, size_t max_bytes, char **data, size_t *size,
                       sp_error *error) SP_MUST_CHECK;

/* Names a file that could not be created or opened for writing, from errno: SP_NOT_FOUND where its place is
 * not there or must not be written to, else SP_IO. */
sp_status sp_fail_create(const char *path, sp_error *error);

/* FNV-1a, 64 bit. */
uint64_t sp_hash_bytes(const void *bytes, size_t n);

/* Length of the well-formed UTF-8 sequence at text (1..4), or 0 if ill-formed or cut (RFC 3629: no overlong
 * forms, no surrogates, nothing beyond U+10FFFF). */
size_t sp_utf8_length(const char *text, size_t n);
bool sp_utf8_valid(const char *text, size_t n);

#endif
