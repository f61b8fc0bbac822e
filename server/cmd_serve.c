/* `sparsed serve`: opens the port first, so that /health can say 503 while the model loads, then loads, says
 * where it listens, and serves until SIGTERM or SIGINT.
 *
 * Owner: this function owns server and engine and closes the server first. The signal handlers only call
 * sp_server_stop, and at SIGHUP sp_server_reload, which are async-signal-safe; before the first request can
 * come and after the last one is answered it ends the process at once. The kernel gives a signal to any
 * thread (libmicrohttpd's and OpenBLAS's too); it is handled in this one, so that no handler can be at work
 * while what it uses is closed. Tests: tests/http/ */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/command.h"
#include "server/graph_call.h"
#include "server/server.h"

static sp_server *signalled_server;
static volatile sig_atomic_t exit_at_once; /* before the first request and after the last */

/* Sends a signal that came to another thread on to the first one; -> whether it did. */
static bool pass_on(int number)
{
    if (gettid() == getpid()) return false;
    int before = errno;
    tgkill(getpid(), getpid(), number);
    errno = before;
    return true;
}

static void on_signal(int number)
{
    if (pass_on(number)) return;
    if (exit_at_once) _exit(SP_EXIT_OK);
    int before = errno;
    sp_server_stop(signalled_server);
    errno = before;
}

static void on_hangup(int number)
{
    if (!pass_on(number)) sp_server_reload(signalled_server);
}

static void catch_signals(void)
{
    exit_at_once = 1;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static sp_status load_engine(const sp_options *options, sp_engine **engine, sp_error *error)
{
    sp_engine_options engine_options;
    sp_engine_options_init(&engine_options);
    sp_status status = sp_options_engine(options, &engine_options, error);
    if (status) return status;
    sp_progress progress;
    sp_progress_init(&progress, "loading");
    engine_options.fingerprint = true; /* captures state it */
    engine_options.progress = sp_progress_show;
    engine_options.progress_context = &progress;
    double begin = sp_now();
    status = sp_engine_open(&engine_options, engine, error);
    sp_progress_clear(&progress);
    if (!status) sp_log(SP_LOG_INFO, "loaded %s in %.2f s", options->model, sp_now() - begin);
    return status;
}

static void log_engine(const sp_options *options, const sp_engine_info *info)
{
    size_t connections = sp_server_memory_bytes(options);
    size_t graphs = sp_graph_memory_bytes(options, info);
    size_t total = sp_server_ceiling_bytes(options, info);
    sp_log(SP_LOG_INFO, "model %s (%s), context %u tokens, %s %s, %zu threads, KV %s", info->model_name,
           info->arch, info->context, info->device, info->level, info->n_threads,
           sp_dtype_name(info->kv_type));
    sp_log(SP_LOG_INFO,
           "memory ceiling: %zu bytes (weights %zu, KV %zu = %zu tokens, scratch %zu, connections %zu, "
           "captures %zu)",
           total, info->weight_bytes, info->kv_bytes, info->kv_pages * info->page_tokens, info->scratch_bytes,
           connections, graphs);
}

int sp_command_serve(const sp_options *options)
{
    sp_error error = {0};
    sp_server *server = NULL;
    sp_engine *engine = NULL;
    sp_log_set_json(strcmp(options->log_format, "json") == 0);
    signal(SIGPIPE, SIG_IGN);
    catch_signals();
    if (sp_server_open(options, &server, &error)) {
        sp_command_fail(&error);
        return error.status == SP_IO ? SP_EXIT_BIND : sp_exit_code(error.status);
    }
    signalled_server = server;
    if (options->api_key_file) {
        struct sigaction action = {.sa_handler = on_hangup, .sa_flags = SA_RESTART};
        sigemptyset(&action.sa_mask);
        sigaction(SIGHUP, &action, NULL);
    }
    const char *bracket = strchr(options->host, ':') ? "[" : "";
    sp_log(SP_LOG_INFO, "listening on http://%s%s%s:%u, loading %s", bracket, options->host,
           *bracket ? "]" : "", (unsigned)sp_server_port(server), options->model);
    if (load_engine(options, &engine, &error)) {
        sp_server_close(server);
        return sp_command_fail(&error);
    }
    const sp_engine_info *info = sp_engine_get_info(engine);
    log_engine(options, info);
    exit_at_once = 0;
    sp_server_ready(server, engine);
    printf("sparsed: serving %s on http://%s%s%s:%u\n", info->model_name, bracket, options->host,
           *bracket ? "]" : "", (unsigned)sp_server_port(server));
    fflush(stdout);
    sp_server_run(server);
    exit_at_once = 1;
    sp_server_close(server);
    sp_engine_close(engine);
    return SP_EXIT_OK;
}
