/* One request and its reply, as the API handlers (api_*.c) see it: no sockets, no libmicrohttpd, no cJSON.
 *
 * Life: http.c makes the exchange when the request line arrives, checks it, collects the body and calls the
 * route's handler once, on an HTTP thread. The handler does one of three things:
 *   - fills the reply (sp_exchange_json, sp_exchange_fail): done;
 *   - sp_exchange_wait(poll): the connection is suspended; poll runs on the HTTP thread after every
 * sp_exchange_wake until it fills the reply or begins a stream;
 *   - sp_exchange_stream(pull): headers go out, then pull appends bytes whenever the client can take them. A
 *     poll may do this too.
 * Owned by http.c. What a handler hangs on it (state) is freed by free_state, on any of the server's threads,
 * after which no wake may come: as soon as the reply is made or a stream's last bytes are, so that a slow
 * client holds bytes only; on routes of bytes, where the state counts the answer, when it is sent.
 * sp_exchange_wake is the only function that other threads may call. Tests: tests/http/ */
#ifndef SPARSED_SERVER_EXCHANGE_H
#define SPARSED_SERVER_EXCHANGE_H

#include "server/server.h"

typedef struct sp_exchange sp_exchange;

/* Route flags. */
#define SP_ROUTE_OPENAI 1u   /* unknown query parameters are ignored */
#define SP_ROUTE_PUBLIC 2u   /* reachable without a key */
#define SP_ROUTE_BYTES 4u    /* body is application/octet-stream of at most max_tensor_bytes, else JSON */
#define SP_ROUTE_WORK 8u     /* new work: refused while draining */
#define SP_ROUTE_QUERY 32u   /* the handler checks the query itself: sp_exchange_only */
#define SP_ROUTE_METRICS 16u /* reachable without a key under --public-metrics */
typedef struct sp_route {
    const char *method; /* "GET" (serves HEAD too), "POST" or "DELETE" */
    const char *path;   /* exact, or with one place: "{id}" takes one part, also before a last one; any other
                           name all to the end */
    unsigned flags;
    void (*handle)(sp_exchange *exchange);
    const char *const *query; /* known query parameters, NULL terminated; NULL: none */
} sp_route;

#define SP_REPLY_BYTES ((size_t)32 << 20) /* a JSON or text reply at most; a longer one is 500 */
typedef struct sp_reply {
    unsigned status; /* 0: none yet */
    const char *content_type;
    sp_buffer body;
    char allow[32];                         /* 405 */
    char location[96], etag[40], scale[64]; /* Location, ETag, X-Scale; empty: no header */
    uint32_t retry_after;                   /* seconds; 0: no header */
    bool no_retry;                          /* x-should-retry: false */
    bool close;                             /* Connection: close */
} sp_reply;

typedef enum sp_pull { SP_PULL_MORE, SP_PULL_WAIT, SP_PULL_END } sp_pull;
typedef void (*sp_poll_fn)(sp_exchange *exchange);
/* Appends what there is to out. MORE: call again; WAIT: nothing until the next wake; END: the last bytes are
 * in out. */
typedef sp_pull (*sp_pull_fn)(sp_exchange *exchange, sp_buffer *out);

/* --- what a handler reads --- */
const char *sp_exchange_id(const sp_exchange *exchange);   /* x-request-id */
const char *sp_exchange_hex(const sp_exchange *exchange);  /* 24 hex digits, unique: for "cmpl-" ids */
const char *sp_exchange_rest(const sp_exchange *exchange); /* what "{name}" of the route took, decoded */
const char *sp_exchange_query(sp_exchange *exchange, const char *name); /* decoded value; NULL: not given */
/* False: there is a query parameter that is not in known (NULL terminated), one is there twice, or its value
 * can't be decoded; refused, 400. */
bool sp_exchange_only(sp_exchange *exchange, const char *const *known);
uint64_t sp_exchange_owner(const sp_exchange *exchange);         /* of the API key; 0: none */
const char *sp_exchange_accept(const sp_exchange *exchange);     /* the Accept header, or "" */
const char *sp_exchange_none_match(const sp_exchange *exchange); /* the If-None-Match header, or "" */
sp_buffer *sp_exchange_body(sp_exchange *exchange);              /* data has a NUL behind size */
sp_server *sp_exchange_server(const sp_exchange *exchange);
const sp_options *sp_exchange_options(const sp_exchange *exchange);
sp_engine *sp_exchange_engine(const sp_exchange *exchange); /* NULL while loading */
/* SP_OK, or SP_UNAVAILABLE while loading or, for new work, stopping. */
sp_status sp_exchange_admit(const sp_exchange *exchange, sp_error *error) SP_MUST_CHECK;
/* SP_OK, or what ends what still runs: SP_UNAVAILABLE when the drain timeout cuts it, SP_CANCELLED by DELETE
 * /v1/requests/{id}. Polls and pulls end on it. */
sp_status sp_exchange_cut(const sp_exchange *exchange, sp_error *error) SP_MUST_CHECK;
/* Raised when the client leaves or the request is cancelled: requests to the engine carry it, so that they
 * end at once. The exchange keeps it until after free_state; NULL: no memory, then its polls and pulls must
 * do. */
struct sp_flag *sp_exchange_flag(sp_exchange *exchange);
/* The client has left: whatever is replied goes nowhere. */
bool sp_exchange_left(const sp_exchange *exchange);

/* --- what a handler does --- */
/* From now on /v1/requests lists it, by id (NULL: req- and the hex digits); before its work can end. */
void sp_exchange_track(sp_exchange *exchange, const char *id);
/* How far it is: "waiting", "prefill", "decode" or "running", and the tokens made or read so far. */
void sp_exchange_progress(sp_exchange *exchange, const char *state, uint64_t tokens);
sp_reply *sp_exchange_reply(sp_exchange *exchange);
/* The reply's JSON body is begun: write one value to *writer; the reply has this status. */
void sp_exchange_json(sp_exchange *exchange, unsigned status, sp_json_writer *writer);
/* The error envelope as the reply, with the headers its status asks for. SP_UNAVAILABLE names a limit of
 * ours, no field: param is null then, and there is no retry after request_timeout. */
void sp_exchange_fail(sp_exchange *exchange, const sp_error *error);
/* The same for a refusal that has a status of its own (404, 405, 411, 413, 415). param NULL: null. */
void sp_exchange_refuse(sp_exchange *exchange, unsigned status, const char *param, const char *format, ...)
    SP_PRINTF(4, 5);
void sp_exchange_set_state(sp_exchange *exchange, void *state, void (*free_state)(void *state));
void *sp_exchange_state(const sp_exchange *exchange);
void sp_exchange_wait(sp_exchange *exchange, sp_poll_fn poll);
void sp_exchange_stream(sp_exchange *exchange, const char *content_type, sp_pull_fn pull);
void sp_exchange_wake(sp_exchange *exchange); /* any thread; cheap */
/* So many bytes are kept for making the reply, beside its body and frames, which count by themselves. False
 * when replies in all would take too much. Ends with free_state. */
bool sp_exchange_hold(sp_exchange *exchange, size_t bytes) SP_MUST_CHECK;

#endif
