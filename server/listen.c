/* Listening and accepting: socket options, the limits on connections, and what is said to those above them.
 *
 * A connection above --max-connections or --max-connections-per-ip closes the oldest idle one of those it
 * competes with, or takes the place of one whose client has left. Where there is neither it is read all the
 * same, in one of a few spare places, and its request is answered 503; when these are taken too, the answer
 * goes out unasked. libmicrohttpd's own limit is higher and never reached. All but sp_connection_seat runs on
 * the watch thread (connection.c). Tests: tests/http/test_limits.py, tests/checks/check_slow.py */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/state.h"

#define SOCKET_BUFFER (256 * 1024)
#define ACCEPTS_A_TURN 64 /* so that a flood of them delays no deadline */
#define ASK_SECONDS 1e-5  /* until the kernel is asked again, for each connection it was asked about */

static void set_option(int fd, int level, int name, int value)
{
    if (setsockopt(fd, level, name, &value, sizeof value) != 0) {
        sp_log(SP_LOG_DEBUG, "setsockopt %d: %s", name, strerror(errno));
    }
}

static void prepare(const sp_options *options, int fd)
{
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    /* Ends a client that vanished while it waits for its answer, after four probes; later than we cut one
     * that is there and takes nothing, because the kernel would not tell it. */
    double silence = options->write_timeout + SP_MAX_LOOK_SECONDS + 0.5;
    int probe = (int)ceil(silence / 4.0);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, probe);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, probe);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)(silence * 1000.0));
}

/* --- accepting --- */
static void address_text(const struct sockaddr_storage *address, char *text, size_t capacity)
{
    const void *bytes = &((const struct sockaddr_in *)address)->sin_addr;
    if (address->ss_family == AF_INET6) bytes = &((const struct sockaddr_in6 *)address)->sin6_addr;
    if (!inet_ntop(address->ss_family, bytes, text, (socklen_t)capacity)) snprintf(text, capacity, "?");
}

/* Whom a connection counts for: an IPv4 address, or the upper half of an IPv6 one, whose lower half a client
 * may choose as it likes. */
static uint64_t origin_of(const struct sockaddr_storage *address)
{
    const struct in6_addr *six = &((const struct sockaddr_in6 *)address)->sin6_addr;
    uint64_t upper;
    uint32_t four;
    if (address->ss_family == AF_INET) return ((const struct sockaddr_in *)address)->sin_addr.s_addr;
    memcpy(&upper, six->s6_addr, sizeof upper);
    memcpy(&four, six->s6_addr + 12, sizeof four);
    return IN6_IS_ADDR_V4MAPPED(six) ? four : upper;
}

/* Where an origin is in the table, or where it belongs: open addressing, never more than half full. */
static struct sp_origin *find_origin(sp_server *server, uint64_t key)
{
    size_t mask = server->n_origins - 1, at = (size_t)((key * 0x9E3779B97F4A7C15u) >> 32) & mask;
    while (server->origins[at].count && server->origins[at].key != key) at = (at + 1) & mask;
    return &server->origins[at];
}

static void count_origin(sp_server *server, uint64_t key)
{
    struct sp_origin *origin = find_origin(server, key);
    origin->key = key;
    origin->count++;
}

void sp_connection_uncount(sp_server *server, uint64_t key)
{
    struct sp_origin *origin = find_origin(server, key);
    size_t mask = server->n_origins - 1, at = (size_t)(origin - server->origins);
    if (--origin->count) return;
    /* what was placed behind it because it was there is placed again */
    for (at = (at + 1) & mask; server->origins[at].count; at = (at + 1) & mask) {
        struct sp_origin moved = server->origins[at];
        server->origins[at].count = 0;
        *find_origin(server, moved.key) = moved;
    }
}

/* Whether a connection counts among those of one origin (NULL: of any): refused ones have spare places. */
static bool counts(const sp_conn *conn, const uint64_t *origin)
{
    return !conn->refused && (!origin || conn->origin == *origin);
}

/* The longest idle connection of one origin (NULL: of any), or NULL. */
static sp_conn *oldest_idle(sp_server *server, const uint64_t *origin)
{
    sp_conn *oldest = NULL;
    for (sp_conn *conn = server->all; conn; conn = conn->next) {
        if (!counts(conn, origin)) continue;
        if (conn->state == SP_CONN_IDLE && (!oldest || conn->since < oldest->since)) oldest = conn;
    }
    return oldest;
}

/* Shuts that one down; false when none is idle. */
static bool close_oldest_idle(sp_server *server, const uint64_t *origin)
{
    sp_conn *oldest = oldest_idle(server, origin);
    while (oldest && !sp_connection_rests(oldest)) oldest = oldest_idle(server, origin);
    if (oldest) sp_connection_shut(oldest);
    return oldest != NULL;
}

/* How many of those that count are shut and only await their end. */
static size_t ending(const sp_server *server, const uint64_t *origin)
{
    size_t n = 0;
    for (const sp_conn *conn = server->all; conn; conn = conn->next)
        n += conn->state == SP_CONN_DEAD && counts(conn, origin);
    return n;
}

/* Whether n of them are at least the limit without those that their clients have left. The kernel is asked
 * about one after the other; a flood of clients has it asked no more often than it can bear. */
static bool stay(sp_server *server, const uint64_t *origin, size_t n, size_t limit)
{
    double now = sp_now();
    size_t asked = 0;
    if (now < server->ask_again) return true;
    for (const sp_conn *conn = server->all; conn && n >= limit; conn = conn->next) {
        if (!counts(conn, origin)) continue;
        n -= sp_connection_leaves(server, conn);
        asked++;
    }
    server->ask_again = now + ASK_SECONDS * (double)asked;
    return n >= limit;
}

/* Whether there is no place among those of one origin (NULL: of any), and no idle one that could make it. */
static bool is_over(sp_server *server, const uint64_t *origin, size_t n, int64_t most)
{
    size_t limit = (size_t)most;
    if (n < limit || n - ending(server, origin) < limit) return false;
    return !close_oldest_idle(server, origin) && stay(server, origin, n, limit);
}

/* Whether a connection of this origin is above a limit. */
static bool is_above(sp_server *server, uint64_t origin)
{
    const sp_options *options = server->options;
    size_t same = find_origin(server, origin)->count;
    return is_over(server, &origin, same, options->max_connections_per_ip) ||
           is_over(server, NULL, server->n_conns - server->n_refused, options->max_connections);
}

bool sp_connection_seat(sp_server *server, sp_conn *conn)
{
    if (!conn->refused) return true;
    if (is_above(server, conn->origin)) return false;
    conn->refused = false;
    server->n_refused--;
    count_origin(server, conn->origin);
    return true;
}

/* Enters an accepted socket into the table. Those above a limit get one of the spare places, to read their
 * request and refuse it; they count for no limit but that of the spare places. NULL: these are taken too. */
static sp_conn *enter(sp_server *server, int fd, const struct sockaddr_storage *address)
{
    size_t limit = (size_t)server->options->max_connections;
    uint64_t origin = origin_of(address);
    bool over = is_above(server, origin);
    if (over && server->n_refused >= SP_SPARE_CONNECTIONS) return NULL;
    if ((size_t)fd >= server->max_fds || server->n_conns >= limit + 2 * SP_SPARE_CONNECTIONS) return NULL;
    if (server->conns[fd])
        sp_connection_drop(server, server->conns[fd]); /* its socket failed inside the library */
    sp_conn *conn = sp_alloc_zero(1, sizeof *conn);
    if (!conn) return NULL;
    conn->fd = fd;
    conn->serial = ++server->serial;
    conn->refused = over;
    conn->origin = origin;
    address_text(address, conn->client, sizeof conn->client);
    sp_connection_set(conn, SP_CONN_HEADERS);
    conn->next = server->all;
    if (conn->next) conn->next->previous = conn;
    server->all = server->conns[fd] = conn;
    server->n_conns++;
    server->n_refused += over;
    if (!over) count_origin(server, origin);
    if ((size_t)fd >= server->top_fd) server->top_fd = (size_t)fd + 1;
    return conn;
}

/* There is no place left for this one: an answer; what it has sent or still sends is read and dropped for a
 * while. */
static void turn_away(sp_server *server, int fd)
{
    char busy[SP_PLAIN_BYTES];
    size_t size =
        sp_connection_plain(busy, sizeof busy, 503, "Retry-After: 1\r\n", "too many connections; try again");
    if (send(fd, busy, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) sp_log(SP_LOG_DEBUG, "refused");
    pthread_mutex_lock(&server->lock);
    sp_connection_linger(server, fd);
    pthread_mutex_unlock(&server->lock);
}

void sp_connection_accept(sp_server *server, bool all)
{
    for (size_t i = 0; all || i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        int fd = accept4(server->listener, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            bool full = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
            if (full) usleep(10000); /* the listener stays readable: don't spin */
            return;
        }
        prepare(server->options, fd);
        pthread_mutex_lock(&server->lock);
        sp_conn *conn = enter(server, fd, &address);
        pthread_mutex_unlock(&server->lock);
        if (!conn) {
            turn_away(server, fd);
        } else if (!sp_http_add(server, fd, &address, size)) {
            pthread_mutex_lock(&server->lock);
            if (server->conns[fd] == conn) sp_connection_drop(server, conn);
            pthread_mutex_unlock(&server->lock);
        }
    }
}

/* A filter that drops every packet lets no connection through between the last accept and the close, which
 * would reset it: who comes then is refused when its kernel asks again, a second later. */
void sp_connection_unlisten(sp_server *server)
{
    struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {.len = 1, .filter = &nothing};
    if (setsockopt(server->listener, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
        sp_log(SP_LOG_DEBUG, "setsockopt SO_ATTACH_FILTER: %s", strerror(errno));
    sp_connection_accept(server, true); /* what the kernel has accepted gets an answer */
    close(server->listener);
    server->listener = -1;
}

/* --- start --- */
static int bind_one(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

sp_status sp_connection_listen(sp_server *server, sp_error *error)
{
    const sp_options *options = server->options;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM},
                    *list = NULL;
    char port[16], host[256];
    const char *name = options->host ? options->host : "127.0.0.1";
    snprintf(host, sizeof host, "%s", name[0] == '[' ? name + 1 : name);
    host[strcspn(host, "]")] = 0;
    snprintf(port, sizeof port, "%lld", (long long)options->port);
    int code = getaddrinfo(host, port, &hints, &list);
    if (code) return sp_fail_param(error, SP_IO, "host", "cannot resolve %s: %s", host, gai_strerror(code));
    for (struct addrinfo *item = list; item && server->listener < 0; item = item->ai_next) {
        server->listener = bind_one(item);
    }
    int reason = errno;
    freeaddrinfo(list);
    if (server->listener < 0) {
        return sp_fail_param(error, SP_IO, "port", "cannot listen on %s port %s: %s; choose another --port",
                             host, port, strerror(reason));
    }
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    if (getsockname(server->listener, (struct sockaddr *)&bound, &size) == 0) {
        server->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                         : ((struct sockaddr_in *)&bound)->sin_port);
    }
    return SP_OK;
}
