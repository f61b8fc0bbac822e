/* Private to engine/graph: the inside of captures and of their table (capture.h), shared by store.c (table,
 * budget), capture_open.c and capture.c (one capture) and capture_heads.c (its heads). Fields marked (L) are
 * guarded by the store's lock; the others are constant once a capture is open, or belong to the engine thread
 * until it is ready. */
#ifndef SPARSED_ENGINE_GRAPH_CAPTURE_PARTS_H
#define SPARSED_ENGINE_GRAPH_CAPTURE_PARTS_H

#include <pthread.h>

#include "engine/graph/capture.h"

#define SP_CAPTURE_ARENA_BYTES ((size_t)64 << 20) /* lists, labels and texts of one capture; counted */

/* One head of a capture. */
typedef struct sp_capture_slot {
    sp_head *head; /* NULL: not begun (L); its inside belongs to the maker until it is done */
    bool building; /* somebody makes it (L) */
    bool done;     /* (L), as what follows: as of the last step */
    double progress, seconds;
    size_t bytes;
    unsigned users;   /* readers (L) */
    double last_used; /* (L) */
    bool has_record;  /* (L) */
    sp_head_record record;
    uint8_t *thumbnails[SP_N_GRAPHS]; /* (64, 64) or NULL (L) */
} sp_capture_slot;

struct sp_capture {
    sp_captures *store;
    sp_capture *next; /* in the table, or among those to be tidied (L) */
    char id[SP_CAPTURE_ID];
    uint64_t owner;
    sp_capture_info info;
    sp_attention attention;
    sp_attention decoding; /* of generated positions; the same without a pattern of their own */
    uint32_t n_prompt;
    sp_graph_source source;
    sp_arena arena;     /* lists, labels, texts */
    uint32_t *slot_of;  /* (model layers) index among the kept layers, or SP_NO_HEAD */
    uint8_t *head_kept; /* (model heads) */
    size_t head_dim;
    float scale;
    const sp_fit *fit; /* the engine's */
    float **q;         /* (kept layers) each (capacity, model heads, head_dim) */
    /* Where the fit takes queries and keys as before the rotary embedding: those, (kept layers) each
     * (capacity, model heads, head_dim), then (capacity, KV heads, head_dim); NULL: it takes q and the pages'
     * keys */
    float **plain;
    /* (kept layers) each (key tiles of the prompt, side_bytes): what its attention read of keys, where the
     * pages' sides keep something else for generated positions; NULL: the sides have it */
    uint8_t **prompt_sides;
    int32_t *tokens;        /* (capacity) */
    uint32_t *pages;        /* (ceil(capacity / 64)) */
    size_t fixed_bytes;     /* queries, pages, tokens, labels */
    sp_capture_slot *slots; /* (kept layers, model heads) */

    sp_capture_state state; /* (L) */
    sp_error error;         /* (L) */
    uint32_t n_tokens;      /* (L) */
    uint32_t n_pages;       /* pages it owns (L) */
    size_t bytes;           /* counted in the budget (L) */
    double last_used;       /* (L) */
    unsigned holds;         /* (L) */
    bool listed;            /* in the table (L) */
    sp_graph_token *views;  /* (n_tokens) or NULL (L) */
    sp_arena *view_texts;
    bool alone;
    double started;
    struct sp_stream *stream; /* of its own request, or NULL (L) */
};

/* An id that is gone, for an hour. */
typedef struct sp_tombstone {
    char id[SP_CAPTURE_ID];
    uint64_t owner;
    double since;
} sp_tombstone;
#define SP_TOMBSTONES 4096u
#define SP_TOMBSTONE_SECONDS 3600.0

struct sp_captures {
    sp_captures_options options;
    pthread_mutex_t lock;
    pthread_cond_t changed;   /* a head is done or left, a capture is ready */
    sp_capture *all;          /* (L) */
    sp_capture *dead;         /* to be tidied (L) */
    size_t used;              /* bytes (L) */
    sp_tombstone *tombstones; /* (SP_TOMBSTONES) ring (L) */
    uint32_t n_tombstones, next_tombstone;
};

/* --- with the lock held --- */
/* Makes room for so many bytes and counts them. keep: is not evicted. False: everything else is in use. */
bool sp_store_reserve(sp_captures *store, size_t bytes, sp_capture *keep);
void sp_store_return(sp_captures *store, sp_capture *capture, size_t bytes);
/* Frees the head of a slot that nobody uses. */
void sp_slot_drop(sp_capture *capture, sp_capture_slot *slot);
/* Out of the table; evicted: its id is remembered. */
void sp_store_unlist(sp_captures *store, sp_capture *capture, bool evicted);
double sp_store_now(const sp_captures *store);

/* --- heads --- */
/* Tables of a head's source, (ceil(n / 64)) each; they must outlive it. */
typedef struct sp_head_tables {
    const uint8_t **pages;
    uint8_t **sides, **prompt_sides;
} sp_head_tables;
sp_status sp_head_tables_open(uint32_t n_tokens, sp_head_tables *tables, sp_error *error) SP_MUST_CHECK;
void sp_head_tables_close(sp_head_tables *tables);
/* What a head of a ready capture is made from. */
void sp_head_source_fill(sp_capture *capture, const sp_graph_runner *runner, uint32_t layer, uint32_t head,
                         sp_head_tables *tables, sp_head_source *out);

/* Frees what a capture holds, not its pages. */
void sp_capture_free_parts(sp_capture *capture);

#endif
