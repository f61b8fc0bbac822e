/* Sockets below libmicrohttpd: listening, limits, deadlines, clients that leave, lingering closes. One watch
 * thread.
 *
 * Why beside the library: its timeout only measures silence, a suspended connection notices nothing, and at
 * its connection limit clients hang. So this thread accepts and hands sockets over, and every tenth of a
 * second looks at all connections: request heads and bodies have absolute deadlines (408 where nothing was
 * sent), idle ones are closed, and a reply whose bytes nobody acknowledges (TCP_INFO) is cut. While a request
 * waits, epoll on the same socket tells when the client shuts its side down (EPOLLRDHUP). A descriptor is
 * only touched while its sp_conn is in the table, under the lock that the CLOSED notification takes too: it
 * cannot have been reused.
 *
 * An early answer (413 before the body is read) would be lost to a TCP reset if the socket closed with unread
 * bytes; so it is duplicated before libmicrohttpd closes it, and read empty for up to two seconds. Tests:
 * tests/http/test_leave.py, test_gate.py, test_drain.py */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/state.h"

#define TICK_SECONDS 0.1
#define PING_SECONDS 10.0
#define LINGER_SECONDS 2.0
#define LINGER_BYTES (64u << 20)
#define REFUSED_SECONDS 2.0 /* header deadline of connections above a limit */
#define EVENT_LISTENER UINT64_MAX
#define EVENT_STOP (UINT64_MAX - 1)
#define SOCKET_BUFFER (256 * 1024)

/* --- what the kernel knows of a socket --- */
typedef struct traffic {
    uint64_t received, acked;
    int unacknowledged; /* bytes written and not acknowledged */
} traffic;

static traffic look(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    traffic found = {0};
    memset(&info, 0, sizeof info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0) {
        found.received = info.tcpi_bytes_received;
        found.acked = info.tcpi_bytes_acked;
    }
    if (ioctl(fd, SIOCOUTQ, &found.unacknowledged) != 0) found.unacknowledged = 0;
    return found;
}

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
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)options->write_timeout + 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)options->write_timeout / 3 + 1);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)(options->write_timeout * 1000.0));
}

/* --- the table --- */
void sp_connection_set(sp_conn *conn, sp_conn_state state)
{
    if (conn->state == SP_CONN_DEAD) return;
    conn->state = state;
    conn->since = conn->moved = sp_now();
    if (state == SP_CONN_IDLE) conn->received = look(conn->fd).received;
    if (state == SP_CONN_REPLY) conn->acked = look(conn->fd).acked;
}

static uint64_t event_key(const sp_conn *conn)
{
    return (uint64_t)conn->serial << 32 | (uint32_t)conn->fd;
}

void sp_connection_observe(sp_exchange *exchange)
{
    sp_server *server = exchange->server;
    bool keep = server->options->half_close && strcmp(server->options->half_close, "keep") == 0;
    struct epoll_event event = {.events = EPOLLONESHOT | (keep ? 0u : EPOLLRDHUP)};
    if (exchange->watched) return;
    event.data.u64 = event_key(exchange->conn);
    exchange->watched = epoll_ctl(server->events, EPOLL_CTL_ADD, exchange->conn->fd, &event) == 0;
}

void sp_connection_release(sp_exchange *exchange)
{
    sp_server *server = exchange->server;
    if (exchange->watched) epoll_ctl(server->events, EPOLL_CTL_DEL, exchange->conn->fd, NULL);
    size_t *budget = exchange->route && (exchange->route->flags & SP_ROUTE_BYTES) ? &server->tensor_bytes
                                                                                  : &server->json_bytes;
    *budget -= exchange->reserved;
    server->reply_bytes -= exchange->held;
    exchange->reserved = exchange->held = 0;
    if (exchange->active) server->n_active--;
    exchange->active = exchange->watched = false;
    exchange->conn->exchange = NULL;
    sp_connection_set(exchange->conn, SP_CONN_IDLE);
}

static void unlink_conn(sp_server *server, sp_conn *conn)
{
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        server->all = conn->next;
    if (conn->next) conn->next->previous = conn->previous;
    server->conns[conn->fd] = NULL;
    server->n_conns--;
    sp_free(conn);
}

static void linger(sp_server *server, int fd)
{
    for (size_t i = 0; i < sizeof server->lingering / sizeof *server->lingering; i++) {
        if (server->lingering[i].fd >= 0) continue;
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (copy >= 0) shutdown(copy, SHUT_WR);
        server->lingering[i].fd = copy;
        server->lingering[i].until = sp_now() + LINGER_SECONDS;
        server->lingering[i].bytes = 0;
        return;
    }
}

void sp_connection_closed(sp_server *server, sp_conn *conn)
{
    if (conn->linger) linger(server, conn->fd);
    unlink_conn(server, conn);
}

void sp_connection_answer(sp_conn *conn, const char *bytes, size_t size)
{
    if (send(conn->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        sp_log(SP_LOG_DEBUG, "early answer to %s: %s", conn->client, strerror(errno));
    }
    sp_connection_set(conn, SP_CONN_DEAD);
    conn->linger = true;
}

/* --- accepting --- */
static void address_text(const struct sockaddr_storage *address, char *text, size_t capacity)
{
    const void *bytes = &((const struct sockaddr_in *)address)->sin_addr;
    if (address->ss_family == AF_INET6) bytes = &((const struct sockaddr_in6 *)address)->sin6_addr;
    if (!inet_ntop(address->ss_family, bytes, text, (socklen_t)capacity)) snprintf(text, capacity, "?");
}

/* Shuts the longest idle connection of one client (NULL: of any) down; false when none is idle. */
static bool close_oldest_idle(sp_server *server, const char *client)
{
    sp_conn *oldest = NULL;
    for (sp_conn *conn = server->all; conn; conn = conn->next) {
        if (client && strcmp(conn->client, client) != 0) continue;
        if (conn->state == SP_CONN_IDLE && (!oldest || conn->since < oldest->since)) oldest = conn;
    }
    if (!oldest) return false;
    sp_connection_set(oldest, SP_CONN_DEAD);
    shutdown(oldest->fd, SHUT_RDWR);
    return true;
}

/* Enters an accepted socket into the table. NULL: beyond even the spare places. */
static sp_conn *enter(sp_server *server, int fd, const struct sockaddr_storage *address)
{
    const sp_options *options = server->options;
    char client[46];
    size_t same = 0, limit = (size_t)options->max_connections;
    address_text(address, client, sizeof client);
    for (sp_conn *conn = server->all; conn; conn = conn->next) same += strcmp(conn->client, client) == 0;
    bool over = same >= (size_t)options->max_connections_per_ip && !close_oldest_idle(server, client);
    if (!over && server->n_conns >= limit) over = !close_oldest_idle(server, NULL);
    if ((size_t)fd >= server->max_fds || server->n_conns >= limit + SP_SPARE_CONNECTIONS) return NULL;
    if (server->conns[fd]) unlink_conn(server, server->conns[fd]); /* its socket failed inside the library */
    sp_conn *conn = sp_alloc_zero(1, sizeof *conn);
    if (!conn) return NULL;
    conn->fd = fd;
    conn->serial = ++server->serial;
    conn->refused = over;
    snprintf(conn->client, sizeof conn->client, "%s", client);
    sp_connection_set(conn, SP_CONN_HEADERS);
    conn->next = server->all;
    if (conn->next) conn->next->previous = conn;
    server->all = server->conns[fd] = conn;
    server->n_conns++;
    return conn;
}

static void accept_all(sp_server *server)
{
    static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
                               "Connection: close\r\n\r\n";
    for (;;) {
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
            if (send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                sp_log(SP_LOG_DEBUG, "refused");
            close(fd);
        } else if (!sp_http_add(server, fd, &address, size)) {
            pthread_mutex_lock(&server->lock);
            if (server->conns[fd] == conn) unlink_conn(server, conn);
            pthread_mutex_unlock(&server->lock);
        }
    }
}

/* --- deadlines --- */
static void expire(sp_conn *conn)
{
    static const char late[] =
        "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: "
        "106\r\n"
        "Connection: close\r\n\r\n{\"error\":{\"message\":\"the request came too slowly\",\"type\":"
        "\"invalid_request_error\",\"param\":null,\"code\":408}}";
    if (conn->exchange) conn->exchange->reply.status = 408;
    sp_connection_answer(conn, late, sizeof late - 1);
    conn->linger = false;
    shutdown(conn->fd, SHUT_RDWR);
}

static void cut(sp_conn *conn)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    sp_connection_set(conn, SP_CONN_DEAD);
    shutdown(conn->fd, SHUT_RDWR);
    if (!conn->exchange) return;
    conn->exchange->left = true;
    sp_http_wake(conn->exchange);
}

static void check_reply(const sp_options *options, sp_conn *conn, double now)
{
    traffic t = look(conn->fd);
    if (t.acked != conn->acked || t.unacknowledged == 0) {
        conn->acked = t.acked;
        conn->moved = now;
    } else if (now - conn->moved > options->write_timeout) {
        sp_log(SP_LOG_INFO, "client %s takes nothing for %g s: cut", conn->client, options->write_timeout);
        cut(conn);
        return;
    }
    sp_exchange *exchange = conn->exchange;
    if (!exchange || !exchange->suspended || now - exchange->spoke < PING_SECONDS) return;
    exchange->ping = true;
    sp_http_wake(exchange);
}

static void check_deadline(sp_server *server, sp_conn *conn, double now)
{
    const sp_options *options = server->options;
    double age = now - conn->since;
    switch (conn->state) {
    case SP_CONN_HEADERS:
        if (age > (conn->refused ? REFUSED_SECONDS : options->header_timeout)) expire(conn);
        return;
    case SP_CONN_BODY:
        if (age > options->body_timeout) expire(conn);
        return;
    case SP_CONN_REPLY:
        check_reply(options, conn, now);
        return;
    case SP_CONN_IDLE:
        if (look(conn->fd).received != conn->received) {
            sp_connection_set(conn, SP_CONN_HEADERS);
        } else if (age > options->idle_timeout || server->phase >= SP_DRAINING) {
            sp_connection_set(conn, SP_CONN_DEAD);
            shutdown(conn->fd, SHUT_RDWR);
        }
        return;
    case SP_CONN_DEAD:
        if (age > LINGER_SECONDS) cut(conn);
        return;
    case SP_CONN_WORK:
        return;
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
        sp_http_wake(conn->exchange);
    }
    pthread_mutex_unlock(&server->lock);
}

static void tick(sp_server *server)
{
    double now = sp_now();
    sp_server_reload_keys(server);
    pthread_mutex_lock(&server->lock);
    for (sp_conn *conn = server->all, *next; conn; conn = next) {
        next = conn->next;
        check_deadline(server, conn, now);
    }
    drop_lingering(server, now);
    sp_phase before = server->phase;
    sp_server_drain(server, now);
    bool unlisten = before < SP_DRAINING && server->phase >= SP_DRAINING;
    pthread_mutex_unlock(&server->lock);
    if (!unlisten) return;
    accept_all(server); /* what the kernel has accepted gets an answer */
    close(server->listener);
    server->listener = -1;
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
                accept_all(server);
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
    size_t need = (size_t)server->options->max_connections + SP_SPARE_CONNECTIONS + 256;
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
    return server->conns != NULL;
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
