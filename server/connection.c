/* Sockets below libmicrohttpd: deadlines, clients that leave, lingering closes. One watch thread.
 *
 * Why beside the library: its timeout only measures silence, a suspended connection notices nothing, and at
 * its connection limit clients hang. So this thread accepts and hands sockets over, and every tenth of a
 * second looks at all connections: request heads and bodies have absolute deadlines (408 where nothing was
 * sent), idle ones are closed, and a reply whose bytes nobody acknowledges (TCP_INFO) is cut, its end too,
 * while libmicrohttpd already waits for the next request. While a request waits, epoll on the same socket
 * tells when the client shuts its side down (EPOLLRDHUP). A descriptor is only touched while its sp_conn is
 * in the table, under the lock that the CLOSED notification takes too: it cannot have been reused.
 *
 * An early answer (413 before the body is read) would be lost to a TCP reset if the socket closed with unread
 * bytes; so it is duplicated before libmicrohttpd closes it, and read empty for up to two seconds. Tests:
 * tests/http/test_leave.py, test_gate.py, test_drain.py */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/errors.h"
#include "server/state.h"

#define TICK_SECONDS 0.1
#define PING_SECONDS 10.0
#define LINGER_SECONDS 2.0
#define LINGER_BYTES (64u << 20)
#define CHECKS_A_HOLD 32
#define REFUSED_SECONDS 2.0 /* header deadline of connections above a limit */
#define BEHIND_SECONDS 10.0 /* how long after a deadline bytes that came are waited for to be read */
#define OVERDUE_LOOKS 3     /* after a deadline that find nothing has moved: then the client is too slow */
#define ENTRY_SECONDS 1.0   /* a connection that was just accepted may still bring a request */
#define ENTRY_LOOKS 5       /* and as long as fewer than these found nothing of it */
#define EVENT_LISTENER UINT64_MAX
#define EVENT_STOP (UINT64_MAX - 1)

/* --- what the kernel knows of a socket --- */
enum { CLOSED = 7, CLOSE_WAIT = 8, LAST_ACK = 9, CLOSING = 11 }; /* its states, which <linux/tcp.h> lacks */

typedef struct traffic {
    uint64_t received, acked;
    uint64_t read;      /* of those received */
    int unacknowledged; /* bytes written and not acknowledged */
    bool ended;         /* the client sends nothing more, and all it sent is read */
    bool closed;        /* both sides have ended, or the client has reset it */
} traffic;

static traffic look(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    traffic found = {0};
    int unread = 0;
    memset(&info, 0, sizeof info);
    if (ioctl(fd, SIOCINQ, &unread) != 0) unread = 0; /* before: what comes meanwhile is taken for read */
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0) {
        int state = info.tcpi_state;
        /* the kernel counts a FIN as a byte */
        found.received =
            info.tcpi_bytes_received - (state == CLOSE_WAIT || state == LAST_ACK || state == CLOSING);
        found.read = found.received - (uint64_t)unread;
        found.closed = state == CLOSED;
        found.acked = info.tcpi_bytes_acked;
    }
    if (ioctl(fd, SIOCOUTQ, &found.unacknowledged) != 0) found.unacknowledged = 0;
    found.ended = info.tcpi_state == CLOSE_WAIT && ioctl(fd, SIOCINQ, &unread) == 0 && unread == 0;
    return found;
}

/* --- the table --- */
/* Whether a client that has closed its side still waits for its answer. */
static bool keeps_half_closed(const sp_server *server)
{
    return server->options->half_close && strcmp(server->options->half_close, "keep") == 0;
}

void sp_connection_set(sp_conn *conn, sp_conn_state state)
{
    if (conn->state == SP_CONN_DEAD) return;
    conn->state = state;
    conn->since = conn->moved = sp_now();
    conn->ended = false;
    conn->overdue = conn->empty = 0;
    if (state != SP_CONN_IDLE && state != SP_CONN_REPLY) return;
    const traffic t = look(conn->fd);
    conn->acked = t.acked;
    if (state == SP_CONN_REPLY) conn->received = t.read;
}

bool sp_connection_rests(sp_conn *conn)
{
    if (conn->state != SP_CONN_IDLE) return false;
    const traffic t = look(conn->fd);
    if (t.closed || t.received == conn->received) return true;
    sp_connection_set(conn, SP_CONN_HEADERS);
    return false;
}

bool sp_connection_leaves(const sp_server *server, const sp_conn *conn)
{
    if (conn->state == SP_CONN_DEAD) return true;
    const traffic t = look(conn->fd);
    if (t.closed || !t.ended) return t.closed;
    bool awaited = keeps_half_closed(server) && conn->exchange && conn->exchange->public_id[0];
    switch (conn->state) {
    case SP_CONN_WORK:
        return !keeps_half_closed(server);
    case SP_CONN_REPLY:
        return !awaited && t.unacknowledged == 0;
    default:
        return true;
    }
}

bool sp_connection_expects(sp_conn *conn, double now)
{
    int unread = 0;
    if (conn->state != SP_CONN_HEADERS) return false;
    bool came = ioctl(conn->fd, SIOCINQ, &unread) == 0 && unread > 0;
    conn->empty = came ? 0 : conn->empty + 1;
    return now - conn->since < ENTRY_SECONDS || conn->empty < ENTRY_LOOKS;
}

void sp_connection_shut(sp_conn *conn)
{
    sp_connection_set(conn, SP_CONN_DEAD);
    shutdown(conn->fd, SHUT_RDWR);
}

static uint64_t event_key(const sp_conn *conn)
{
    return (uint64_t)conn->serial << 32 | (uint32_t)conn->fd;
}

void sp_connection_observe(sp_exchange *exchange)
{
    sp_server *server = exchange->server;
    struct epoll_event event = {.events = EPOLLONESHOT | (keeps_half_closed(server) ? 0u : EPOLLRDHUP)};
    if (exchange->watched) return;
    event.data.u64 = event_key(exchange->conn);
    exchange->watched = epoll_ctl(server->events, EPOLL_CTL_ADD, exchange->conn->fd, &event) == 0;
}

void sp_connection_release(sp_exchange *exchange)
{
    sp_server *server = exchange->server;
    if (exchange->watched) epoll_ctl(server->events, EPOLL_CTL_DEL, exchange->conn->fd, NULL);
    sp_exchange_unreserve(exchange);
    server->reply_bytes -= exchange->held;
    exchange->held = 0;
    if (exchange->active) server->n_active--;
    exchange->active = exchange->watched = false;
    exchange->conn->exchange = NULL;
    sp_connection_set(exchange->conn, SP_CONN_IDLE);
}

void sp_connection_drop(sp_server *server, sp_conn *conn)
{
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        server->all = conn->next;
    if (conn->next) conn->next->previous = conn->previous;
    server->conns[conn->fd] = NULL;
    server->n_conns--;
    server->n_refused -= conn->refused;
    if (!conn->refused) sp_connection_uncount(server, conn->origin);
    sp_free(conn);
}

void sp_connection_linger(sp_server *server, int fd)
{
    if (fd < 0) return;
    shutdown(fd, SHUT_WR);
    for (size_t i = 0; i < sizeof server->lingering / sizeof *server->lingering; i++) {
        if (server->lingering[i].fd >= 0) continue;
        server->lingering[i] = (struct sp_linger){.fd = fd, .until = sp_now() + LINGER_SECONDS};
        return;
    }
    close(fd);
}

void sp_connection_closed(sp_server *server, sp_conn *conn)
{
    if (conn->linger) sp_connection_linger(server, fcntl(conn->fd, F_DUPFD_CLOEXEC, 3));
    sp_connection_drop(server, conn);
}

void sp_connection_answer(sp_conn *conn, const char *bytes, size_t size)
{
    if (send(conn->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        sp_log(SP_LOG_DEBUG, "early answer to %s: %s", conn->client, strerror(errno));
    }
    sp_connection_set(conn, SP_CONN_DEAD);
    conn->linger = true;
}

/* --- deadlines --- */
size_t sp_connection_plain(char *out, size_t capacity, unsigned status, const char *header,
                           const char *message)
{
    char body[256];
    int size = snprintf(body, sizeof body,
                        "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":%u}}",
                        message, sp_error_type(status), status);
    int all = snprintf(out, capacity,
                       "HTTP/1.1 %u %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: "
                       "%d\r\n%sConnection: close\r\n\r\n%s",
                       status, sp_http_reason(status), size, header, body);
    return all > 0 && (size_t)all < capacity ? (size_t)all : 0;
}

static void expire(sp_conn *conn)
{
    char late[SP_PLAIN_BYTES];
    size_t size = sp_connection_plain(late, sizeof late, 408, "", "the request came too slowly");
    if (conn->exchange) conn->exchange->late = true;
    sp_connection_answer(conn, late, size);
    conn->linger = false;
    shutdown(conn->fd, SHUT_RDWR);
}

/* Whether a request comes too slowly: not while bytes of it lie unread, for then the HTTP threads are behind,
 * on a machine with too much to do, and not the client. Bytes that were just read become a request a moment
 * later: so nothing must lie there in several looks, a tick apart. */
static bool too_slow(sp_conn *conn, double age, double limit)
{
    int unread = 0;
    if (age <= limit) return false;
    if (age > limit + BEHIND_SECONDS || ioctl(conn->fd, SIOCINQ, &unread) != 0) return true;
    conn->overdue = unread ? 0 : conn->overdue + 1;
    return conn->overdue >= OVERDUE_LOOKS;
}

static void cut(sp_conn *conn)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    sp_connection_shut(conn);
    if (!conn->exchange) return;
    conn->exchange->left = true;
    sp_exchange_abandon(conn->exchange);
}

/* Whether it is time to ask the kernel about a connection's traffic: often enough for the timeout, not so
 * often that thousands of connections keep this thread busy; each time once it is overdue. */
static bool may_look(sp_conn *conn, double timeout, double now)
{
    double pause = timeout / 10.0 < SP_MAX_LOOK_SECONDS ? timeout / 10.0 : SP_MAX_LOOK_SECONDS;
    if (!conn->overdue && now - conn->looked < pause) return false;
    conn->looked = now;
    return true;
}

/* False: it was cut. After its time is up nothing must move in several looks: where this machine stood still,
 * the client could not take anything either. */
static bool check_stall(const sp_options *options, sp_conn *conn, const traffic *t, double now)
{
    if (t->acked != conn->acked || t->unacknowledged == 0) {
        conn->acked = t->acked;
        conn->moved = now;
        conn->overdue = 0;
    } else if (now - conn->moved > options->write_timeout && ++conn->overdue >= OVERDUE_LOOKS) {
        sp_log(SP_LOG_INFO, "client %s takes nothing for %g s: cut", conn->client, options->write_timeout);
        cut(conn);
        return false;
    }
    return true;
}

static void check_reply(const sp_options *options, sp_conn *conn, double now)
{
    sp_exchange *exchange = conn->exchange;
    if (may_look(conn, options->write_timeout, now)) {
        const traffic t = look(conn->fd);
        if (!check_stall(options, conn, &t, now)) return;
    }
    if (!exchange || !exchange->suspended || now - exchange->spoke < PING_SECONDS) return;
    exchange->ping = true;
    sp_http_wake(exchange);
}

/* Whether a connection from which a request, or its rest, should come gets none because its client has closed
 * its side: libmicrohttpd does not notice where that came together with the last bytes. Seen twice, so that
 * what was just read has become a request. */
static bool has_ended(sp_conn *conn, const traffic *t)
{
    bool before = conn->ended;
    conn->ended = t->ended;
    return before && t->ended;
}

/* Of a connection that waits for a request or its rest. An idle one may still have to take the end of its
 * last answer: libmicrohttpd is done with that when the kernel has it. False: it was shut, or its state is
 * another. */
static bool check_incoming(const sp_options *options, sp_conn *conn, double now)
{
    bool idle = conn->state == SP_CONN_IDLE;
    double pace = options->header_timeout;
    if (idle && options->write_timeout < pace) pace = options->write_timeout;
    if (!may_look(conn, pace, now)) return true;
    const traffic t = look(conn->fd);
    if (has_ended(conn, &t)) {
        sp_connection_shut(conn);
        return false;
    }
    if (!idle) return true;
    if (!check_stall(options, conn, &t, now)) return false;
    if (!t.closed && t.received != conn->received) sp_connection_set(conn, SP_CONN_HEADERS);
    return conn->state == SP_CONN_IDLE;
}

static void check_deadline(sp_server *server, sp_conn *conn, double now)
{
    const sp_options *options = server->options;
    double age = now - conn->since;
    bool incoming =
        conn->state == SP_CONN_HEADERS || conn->state == SP_CONN_BODY || conn->state == SP_CONN_IDLE;
    if (incoming && !check_incoming(options, conn, now)) return;
    switch (conn->state) {
    case SP_CONN_HEADERS:
        if (too_slow(conn, age, conn->refused ? REFUSED_SECONDS : options->header_timeout)) expire(conn);
        return;
    case SP_CONN_BODY:
        if (too_slow(conn, age, options->body_timeout)) expire(conn);
        return;
    case SP_CONN_REPLY:
        check_reply(options, conn, now);
        return;
    case SP_CONN_IDLE:
        if (age <= options->idle_timeout && server->phase < SP_DRAINING) return;
        if (sp_connection_rests(conn)) sp_connection_shut(conn);
        return;
    case SP_CONN_DEAD:
        if (age > LINGER_SECONDS) cut(conn);
        return;
    case SP_CONN_WORK:
        return;
    }
}

/* Looks at all connections, at few with the lock held: thousands may run out at once. */
static void check_deadlines(sp_server *server, double now)
{
    size_t end = 1;
    for (size_t fd = 0; fd < end;) {
        pthread_mutex_lock(&server->lock);
        end = server->top_fd;
        for (size_t i = 0; i < CHECKS_A_HOLD && fd < end; i++, fd++) {
            if (server->conns[fd]) check_deadline(server, server->conns[fd], now);
        }
        pthread_mutex_unlock(&server->lock);
    }
}

static void drop_lingering(sp_server *server, double now)
{
    char scrap[16384];
    for (size_t i = 0; i < sizeof server->lingering / sizeof *server->lingering; i++) {
        struct sp_linger *item = &server->lingering[i];
        if (item->fd < 0) continue;
        ssize_t n;
        while ((n = recv(item->fd, scrap, sizeof scrap, MSG_DONTWAIT)) > 0 && item->bytes < LINGER_BYTES) {
            item->bytes += (size_t)n;
        }
        bool waiting = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        if (waiting && now < item->until) continue;
        close(item->fd);
        item->fd = -1;
    }
}

/* --- the watch thread --- */
static void notice_leaving(sp_server *server, uint64_t key)
{
    uint32_t fd = (uint32_t)key;
    pthread_mutex_lock(&server->lock);
    sp_conn *conn = fd < server->max_fds ? server->conns[fd] : NULL;
    if (conn && event_key(conn) == key && conn->exchange) {
        conn->exchange->left = true;
        sp_exchange_abandon(conn->exchange);
    }
    pthread_mutex_unlock(&server->lock);
}

static void tick(sp_server *server)
{
    double now = sp_now();
    sp_server_reload_keys(server);
    check_deadlines(server, now);
    pthread_mutex_lock(&server->lock);
    drop_lingering(server, now);
    sp_phase before = server->phase;
    sp_server_drain(server, now);
    bool unlisten = before < SP_DRAINING && server->phase >= SP_DRAINING;
    pthread_mutex_unlock(&server->lock);
    if (unlisten) sp_connection_unlisten(server);
}

static void *watch(void *context)
{
    sp_server *server = context;
    double next = sp_now();
    for (;;) {
        struct epoll_event events[64];
        double wait = next - sp_now();
        int n = epoll_wait(server->events, events, 64, wait > 0 ? (int)(wait * 1000.0) + 1 : 0);
        bool due = sp_now() >= next;
        for (int i = 0; i < n; i++) {
            uint64_t key = events[i].data.u64, count;
            if (key == EVENT_LISTENER) {
                sp_connection_accept(server, false);
            } else if (key != EVENT_STOP) {
                notice_leaving(server, key);
            } else if (read(server->stop, &count, sizeof count) == (ssize_t)sizeof count) {
                server->stops += (unsigned)count;
                due = true;
            }
        }
        if (!due) continue;
        tick(server);
        next = sp_now() + TICK_SECONDS;
        pthread_mutex_lock(&server->lock);
        bool stopped = server->phase == SP_STOPPED;
        pthread_mutex_unlock(&server->lock);
        if (stopped) return NULL;
    }
}

/* --- start --- */
static bool add_event(int events, int fd, uint64_t key)
{
    struct epoll_event event = {.events = EPOLLIN};
    event.data.u64 = key;
    return epoll_ctl(events, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* Room for every connection's descriptor, and the table. */
static bool make_table(sp_server *server)
{
    struct rlimit limit;
    size_t need = (size_t)server->options->max_connections + 2 * SP_SPARE_CONNECTIONS + 256;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
    if (limit.rlim_cur < need) {
        limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || limit.rlim_max > need ? need : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < need) {
            sp_log(SP_LOG_WARN, "only %llu file descriptors are allowed; max-connections needs %zu",
                   (unsigned long long)limit.rlim_cur, need);
        }
    }
    server->max_fds = limit.rlim_cur < (1u << 20) ? (size_t)limit.rlim_cur : 1u << 20;
    server->conns = sp_alloc_zero(server->max_fds, sizeof *server->conns);
    for (server->n_origins = 64; server->n_origins < 2 * need; server->n_origins *= 2) {
    }
    server->origins = sp_alloc_zero(server->n_origins, sizeof *server->origins);
    return server->conns && server->origins;
}

sp_status sp_connection_watch(sp_server *server, sp_error *error)
{
    for (size_t i = 0; i < sizeof server->lingering / sizeof *server->lingering; i++)
        server->lingering[i].fd = -1;
    if (!make_table(server)) return sp_fail(error, SP_NO_MEMORY, "no memory for the table of connections");
    server->events = epoll_create1(EPOLL_CLOEXEC);
    server->stop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (server->events < 0 || server->stop < 0 ||
        !add_event(server->events, server->listener, EVENT_LISTENER) ||
        !add_event(server->events, server->stop, EVENT_STOP)) {
        return sp_fail(error, SP_IO, "epoll or eventfd: %s", strerror(errno));
    }
    if (pthread_create(&server->watcher, NULL, watch, server))
        return sp_fail(error, SP_IO, "cannot start a thread");
    server->watching = true;
    return SP_OK;
}
