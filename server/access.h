/* Who may ask, decided from a request's head: Host, keys, and which pages of other origins (CORS).
 *
 * Host protects a server without keys from pages whose name resolves to it; with keys any Host will do unless
 * --allowed-host says otherwise. Keys: everything but routes marked SP_ROUTE_PUBLIC wants one, unknown paths
 * and methods too. CORS: without --cors-origin no header and no OPTIONS; with it OPTIONS is answered without
 * a key, and replies name the page's origin if it is listed. Credentials are never allowed to "*". Tests:
 * tests/http/test_keys.py, test_gate.py */
#ifndef SPARSED_SERVER_ACCESS_H
#define SPARSED_SERVER_ACCESS_H

#include "server/exchange.h"

/* False: refused with 403. */
bool sp_access_host(sp_exchange *exchange);
/* Notes the origin that replies name. True: an OPTIONS request was answered by it. */
bool sp_access_cors(sp_exchange *exchange);
/* False: refused with 401. route: what the request would get, NULL for nothing. */
bool sp_access_key(sp_exchange *exchange, const sp_route *route);
/* An entry of --cors-origin: "*" or scheme://host[:port]. */
bool sp_access_is_origin(const char *text, size_t size);

#endif
