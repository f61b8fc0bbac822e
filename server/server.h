/* The HTTP daemon: sockets, routes, JSON, streams, drain. It owns the libmicrohttpd daemon; the engine is
 * given.
 *
 * Tests: tests/http/ drive the real binary on a loopback port. */
#ifndef SPARSED_SERVER_SERVER_H
#define SPARSED_SERVER_SERVER_H

#include "server/options.h"

typedef struct sp_server sp_server;

/* Binds and listens while no model is loaded: /health answers 503 "Loading model", /health/live 200. SP_IO:
 * cannot bind (exit 69); SP_NOT_FOUND, SP_DATA: the key file. port 0 picks a free one. options outlive the
 * server. */
sp_status sp_server_open(const sp_options *options, sp_server **out, sp_error *error) SP_MUST_CHECK;
uint16_t sp_server_port(const sp_server *server);
/* From now on requests are served by this engine. */
void sp_server_ready(sp_server *server, sp_engine *engine);
/* Asks for a drain; a second call cuts at once. Async-signal-safe. */
void sp_server_stop(sp_server *server);
/* Asks for the key file to be read again; one that can't be used leaves the keys as they are.
 * Async-signal-safe. */
void sp_server_reload(sp_server *server);
/* Blocks until stopped and drained. Afterwards no stream of the engine is left. */
void sp_server_run(sp_server *server);
void sp_server_close(sp_server *server);
/* Bytes of memory that connections and parsing may take at most, for the printed ceiling. */
size_t sp_server_memory_bytes(const sp_options *options);
/* All of the ceiling: the model, the engine, captures, and the above. */
size_t sp_server_ceiling_bytes(const sp_options *options, const sp_engine_info *info);

#endif
