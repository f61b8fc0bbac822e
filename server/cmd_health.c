/* `sparsed health`: asks a server whether it takes requests, for containers without a shell. One GET /health
 * over a plain socket; 0 when the answer is 200, else 69 with the reason. The Host header says localhost,
 * which every server answers. Tests: tests/http/test_command.py */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "server/command.h"

#define SECONDS 3

static int unhealthy(const sp_options *options, const char *why)
{
    fprintf(stderr, "sparsed: %s:%lld: %s\n", options->host, (long long)options->port, why);
    return SP_EXIT_BIND;
}

/* A connected socket, or -1. */
static int reach(const sp_options *options)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found;
    struct timeval limit = {.tv_sec = SECONDS};
    char port[16];
    int fd = -1;
    snprintf(port, sizeof port, "%d", (int)options->port);
    errno = EHOSTUNREACH;
    if (getaddrinfo(options->host, port, &hints, &found)) return -1;
    for (struct addrinfo *one = found; one && fd < 0; one = one->ai_next) {
        fd = socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol);
        if (fd < 0) continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (connect(fd, one->ai_addr, one->ai_addrlen) == 0) break;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

int sp_command_health(const sp_options *options)
{
    static const char request[] = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    char reply[64] = "";
    size_t size = 0;
    ssize_t got = 1;
    int fd = reach(options);
    if (fd < 0) return unhealthy(options, strerror(errno));
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != (ssize_t)sizeof request - 1) got = 0;
    while (got > 0 && size < sizeof reply - 1) {
        got = recv(fd, reply + size, sizeof reply - 1 - size, 0);
        if (got > 0) size += (size_t)got;
    }
    close(fd);
    reply[size] = 0;
    reply[strcspn(reply, "\r\n")] = 0;
    if (strncmp(reply, "HTTP/1.1 200 ", 13) != 0) return unhealthy(options, reply[0] ? reply : "no answer");
    puts("ok");
    return SP_EXIT_OK;
}
