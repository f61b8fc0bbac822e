/* What the files of server/ share: the server, its connections, the inside of an exchange.
 *
 * Threads: a few HTTP threads (libmicrohttpd's, http.c) read, call handlers and write; one watch thread
 * (connection.c) accepts, keeps deadlines, notices clients that left, and drives the drain; engine and helper
 * threads only call sp_exchange_wake. server->lock guards everything marked (L); libmicrohttpd's own locks
 * are taken inside it, never around it. An exchange's other fields belong to the HTTP thread that serves its
 * connection.
 *
 * A connection waits suspended: `woken` remembers a wake that comes while its thread still looks, so none is
 * lost. */
#ifndef SPARSED_SERVER_STATE_H
#define SPARSED_SERVER_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/flag.h"
#include "server/exchange.h"
#include "server/gate.h"

#define SP_HTTP_THREADS 4        /* so at most 4 bodies are parsed at once */
#define SP_HTTP_POOL_BYTES 32768 /* libmicrohttpd's memory a connection: headers and one write buffer */
/* Above --max-connections, to say 503; as many again while idle ones close. */
#define SP_SPARE_CONNECTIONS 64
#define SP_SMALL_BODY 65536  /* of every body this much is always taken; only the rest is budgeted */
#define SP_JSON_BODIES 32    /* JSON bodies held at once count at most this many times max_body_bytes */
#define SP_SMALL_REPLY 16384 /* the same of every reply */
#define SP_REPLIES 3         /* large replies held at once count at most this many times SP_REPLY_BYTES */
#define SP_LARGE_REPLY ((size_t)1 << 20)   /* from here on a reply is large */
#define SP_REPLY_SHARE ((size_t)256 << 10) /* and for every request this much is left to small ones */
#define SP_TENSOR_BODIES 2 /* and tensor bodies, and answers, this many times max_tensor_bytes */
#define SP_MAX_PATH 2048

typedef enum sp_phase { SP_SERVING, SP_DELAYING, SP_DRAINING, SP_CUTTING, SP_STOPPED } sp_phase;

typedef enum sp_conn_state {
    SP_CONN_HEADERS, /* no request head yet, or part of one */
    SP_CONN_BODY,    /* the head is read; the body may still come */
    SP_CONN_WORK,    /* its handler works or waits */
    SP_CONN_REPLY,   /* bytes go out */
    SP_CONN_IDLE,    /* kept alive between requests */
    SP_CONN_DEAD,    /* shut down by us; libmicrohttpd will close it */
} sp_conn_state;

typedef struct sp_conn {
    int fd;
    uint32_t serial; /* tells events of a closed connection from those of its successor on the same fd */
    uint64_t origin; /* whom it counts for: its address, or the network of an IPv6 one */
    char client[46]; /* address */
    bool refused;    /* above a limit: answered 503; set with the lock held */
    bool linger;     /* answered early: what the client still sends is read and dropped after the close (L) */
    sp_conn_state state; /* (L) */
    double since;        /* when it entered the state (L) */
    uint64_t received;   /* bytes read when its answer began: more are of the next request (L) */
    uint64_t acked;      /* bytes the client has acknowledged, and when that last rose (L) */
    double moved;
    double looked;                   /* when the kernel was last asked about it (L) */
    bool ended;                      /* the client had closed its side then, with nothing left to read (L) */
    uint32_t overdue;                /* looks since its deadline that found nothing had moved (L) */
    uint32_t empty;                  /* looks of the drain that found nothing to read (L) */
    sp_exchange *exchange;           /* (L) */
    struct sp_conn *previous, *next; /* (L) */
} sp_conn;

/* What replies say of the page's origin: nothing, that they depend on it, its name, "*". */
typedef enum sp_cors { SP_CORS_NONE, SP_CORS_OTHER, SP_CORS_LISTED, SP_CORS_ANY } sp_cors;

struct MHD_Connection;
struct sp_exchange {
    sp_server *server;
    sp_conn *conn;
    struct MHD_Connection *mhd;
    const sp_route *route;
    sp_gate gate;
    char method[16], id[65], hex[25];
    char *uri;         /* as sent */
    const char *query; /* inside uri, behind '?'; NULL: none */
    char *path;        /* decoded */
    char *values;      /* room for decoded values, each where it stands in query */
    const char *rest;
    sp_arena arena;
    double started;
    bool begun, handled, finished, discard, preflight;
    sp_cors cors;
    uint8_t owner[SP_SHA256_BYTES]; /* digest of the key; zero: none */
    size_t limit, taken;            /* of the body: at most, and bytes that came */
    size_t reserved;                /* of the budget for bodies (L) */
    size_t kept;                    /* what its handler keeps for the reply */
    size_t held;                    /* of the budget for replies (L) */
    sp_buffer body;
    sp_reply reply;
    uint64_t bytes_out;
    sp_poll_fn poll;
    sp_pull_fn pull;
    sp_buffer out; /* a stream's bytes that are not yet handed over */
    size_t out_at;
    bool ended;
    void *state;
    void (*free_state)(void *state);
    bool watched;                              /* its socket is watched for the client leaving (L) */
    bool active, suspended, woken, left, ping; /* (L) */
    char public_id[48];                        /* under which /v1/requests lists it; empty: not listed (L) */
    const char *progress;                      /* "waiting", "running", "prefill", "decode" (L) */
    uint64_t tokens;                           /* made so far (L) */
    bool cancelled;                            /* (L) */
    bool late;                                 /* the watch thread has answered 408 (L) */
    sp_flag *abandoned;                        /* raised when nobody wants the answer; or NULL (L) */
    double spoke;                              /* when bytes last went out (L) */
};

#define SP_MAX_ROUTES 64
#define SP_STATUS_CLASSES 6 /* 0: the client left first; 1xx .. 5xx */
#define SP_DURATION_BOUNDS 16
#define SP_N_BOUNDS 5
typedef struct sp_durations { /* a histogram (metrics.c) */
    uint64_t counts[SP_DURATION_BOUNDS + 1], total;
    double sum;
} sp_durations;

struct sp_server {
    const sp_options *options;
    _Atomic(sp_engine *) engine; /* NULL while loading */
    struct MHD_Daemon *daemon;
    int listener, events, stop; /* stop: eventfd */
    uint16_t port;
    pthread_t watcher;
    bool watching;

    pthread_mutex_t lock;
    pthread_cond_t changed;            /* phase became SP_STOPPED */
    sp_conn **conns;                   /* (max_fds) by fd (L) */
    sp_conn *all;                      /* (L) */
    size_t max_fds, n_conns, n_active; /* (L) */
    size_t top_fd;                     /* 1 + the largest descriptor that conns ever held (L) */
    size_t n_refused;                  /* of n_conns: above a limit (L) */
    struct sp_origin {
        uint64_t key;
        uint32_t count; /* 0: empty */
    } * origins;        /* (n_origins) connections below the limits by origin: a hash table (L) */
    size_t n_origins;   /* a power of two */
    uint32_t serial;
    size_t json_bytes, tensor_bytes, reply_bytes; /* reserved (L) */
    sp_phase phase;                               /* (L) */
    unsigned stops;
    double phase_until, phase_since;
    double ask_again;                          /* when the kernel may next be asked who has left (L) */
    size_t n_cut;                              /* while cutting, the fewest requests that were left (L) */
    unsigned cut_looks;                        /* since they became fewer (L) */
    sp_durations durations[SP_MAX_ROUTES + 1]; /* as http_requests (L) */
    uint64_t params_n[SP_N_BOUNDS + 1], params_n_sum;             /* (L) */
    uint64_t http_requests[SP_MAX_ROUTES + 1][SP_STATUS_CLASSES]; /* by route; last: no route (L) */
    pthread_mutex_t keys_lock;                                    /* guards keys; taken inside no other */
    sp_keys *keys;                                                /* NULL: everybody may ask */
    atomic_bool reload;
    atomic_bool asked_to_stop;    /* from here on not ready, whenever the watch thread comes to it */
    struct sp_graph_pool *graphs; /* threads that make graphs */
    struct sp_jobs *jobs;         /* helper thread of /v1/attention/apply */
    struct sp_linger {
        int fd;
        double until;
        size_t bytes;
    } lingering[64]; /* watch thread and (L) */
};

/* Requests that the engine may hold at once: waiting, admitted, and one more of each of these. */
size_t sp_server_max_requests(const sp_options *options);
double sp_server_retry_seconds(sp_server *server); /* for Retry-After, >= 1 */

/* --- http.c --- */
sp_status sp_http_start(sp_server *server, sp_error *error) SP_MUST_CHECK;
void sp_http_stop(sp_server *server); /* no connection may be suspended */
/* Hands over a socket whose sp_conn is in the table; it is closed by libmicrohttpd, also on failure. */
bool sp_http_add(sp_server *server, int fd, const void *address, size_t address_size);
void sp_http_wake(sp_exchange *exchange); /* with the lock held */

/* --- exchange.c --- */
/* Everything that is decided from the request head: fills the reply where it is refused. */
void sp_exchange_check(sp_exchange *exchange, bool http_1_1);
/* Calls add for every header of the reply but Content-Length and Connection. */
void sp_exchange_headers(const sp_exchange *exchange,
                         void (*add)(void *context, const char *name, const char *value), void *context);
/* The reply as bytes for a plain socket: status line, headers, body. */
void sp_exchange_raw(sp_exchange *exchange, sp_buffer *out);
/* The body has or gets this size: false when the budget for bodies doesn't allow it. */
bool sp_exchange_reserve(sp_exchange *exchange, size_t bytes);
void sp_exchange_unreserve(sp_exchange *exchange); /* the body is gone; lock held */
/* The client has left, or the request was cancelled: what computes for it ends at once, even where the reader
 * can't be woken because its client takes nothing. With the lock held. */
void sp_exchange_abandon(sp_exchange *exchange);
void sp_exchange_log(sp_exchange *exchange); /* access log line and counters */
void sp_exchange_free(sp_exchange *exchange);

/* --- listen.c --- */
sp_status sp_connection_listen(sp_server *server, sp_error *error) SP_MUST_CHECK;
void sp_connection_uncount(sp_server *server,
                           uint64_t origin); /* one of its connections is gone; lock held */
/* Whether the connection has a place: one above a limit takes one that has become free. With the lock held.
 */
bool sp_connection_seat(sp_server *server, sp_conn *conn);
void sp_connection_accept(sp_server *server, bool all); /* what the backlog has: some, or all; watch thread */
void sp_connection_unlisten(sp_server *server);         /* the end of accepting; watch thread */

/* --- connection.c --- */
#define SP_MAX_LOOK_SECONDS 1.0 /* how late it may notice that a client takes nothing */
#define SP_PLAIN_BYTES 512
/* An error without its request, for a plain socket: the bytes written to out. header: more lines, or "". */
size_t sp_connection_plain(char *out, size_t capacity, unsigned status, const char *header,
                           const char *message);
sp_status sp_connection_watch(sp_server *server, sp_error *error) SP_MUST_CHECK;
/* With the lock held. */
void sp_connection_set(sp_conn *conn, sp_conn_state state);
/* Whether it is idle still, asked before it is shut: where bytes have come, a request is being read. */
bool sp_connection_rests(sp_conn *conn);
/* Whether it is over but for its end inside the library: shut, or its client has closed it, with all of its
 * answer there or none to come. The library learns of that later than who connects next. */
bool sp_connection_leaves(const sp_server *server, const sp_conn *conn);
/* While the server stops: whether one that has brought no request may still do so, asked at each look. */
bool sp_connection_expects(sp_conn *conn, double now);
void sp_connection_observe(sp_exchange *exchange); /* from now on the client leaving wakes the exchange */
void sp_connection_release(sp_exchange *exchange); /* its exchange is over */
void sp_connection_shut(sp_conn *conn); /* nothing comes or goes any more; libmicrohttpd will close it */
void sp_connection_closed(sp_server *server, sp_conn *conn); /* frees it */
void sp_connection_drop(sp_server *server, sp_conn *conn);   /* takes it from the table and frees it */
/* Takes the socket over: what its client still sends is read and dropped for a while, then it is closed. */
void sp_connection_linger(sp_server *server, int fd);
/* Sends bytes past libmicrohttpd, which must not write any more, and marks the connection dead. */
void sp_connection_answer(sp_conn *conn, const char *bytes, size_t size);

/* --- server.c --- */
void sp_server_reload_keys(sp_server *server);       /* where a reload was asked for; without the lock */
void sp_server_drain(sp_server *server, double now); /* one look at the phase; watch thread, lock held */

#endif
