/* `sparsed sweep`: figures of every attention on a text, as sweep.json, CSV, a page and an SVG.
 *
 * The points of the selection are measured one after another on an engine of its own; all files are written
 * anew, each by a temporary file and rename, after every point, so that a sweep may be stopped at any time
 * and goes on with the points that sweep.json lacks. A sweep.json of another model or text in the folder is
 * refused rather than overwritten. Owner: run_sweep owns everything of its sweep_run. Tests:
 * tests/http/test_sweep.py */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/evaluate/sweep_run.h"
#include "kernels/sha256.h"
#include "server/command.h"

#define TEXT_MAX_BYTES ((size_t)1 << 30)
#define FILE_MAX_BYTES ((size_t)64 << 20)

static atomic_bool interrupted; /* by a signal, which may come to any thread */

static void on_interrupt(int number)
{
    (void)number;
    interrupted = true;
}

typedef struct sweep_run {
    const sp_options *options;
    sp_sweep sweep;
    sp_grid_item *items; /* (n_items) */
    size_t n_items, at, n_skipped;
    const sp_grid *skipped; /* the curve whose refusal was said last */
    sp_sweep_job job;
    sp_tokens tokens;
    int32_t *ids; /* (tokens.count) */
    sp_progress progress;
} sweep_run;

/* --- files --- */

static sp_status write_file(const char *folder, const char *name, const sp_buffer *content, sp_error *error)
{
    char path[1024];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return sp_fail_param(error, SP_USAGE, "out", "--out: the path is too long");
    sp_status status = sp_buffer_check(content, error);
    if (!status && content->failed)
        status = sp_fail(error, SP_INTERNAL, "%s: more than %zu bytes", path, content->max_bytes);
    return status ? status : sp_write_result(path, content, error);
}

static sp_status write_files(sweep_run *run, sp_error *error)
{
    static const struct {
        const char *name;
        void (*write)(const sp_sweep *sweep, sp_buffer *out);
    } files[] = {{"sweep.json", sp_sweep_write_json},
                 {"sweep.csv", sp_sweep_write_csv},
                 {"sweep.html", sp_sweep_write_html},
                 {"sweep.svg", sp_sweep_write_svg}};
    sp_status status = SP_OK;
    sp_sweep_fronts(&run->sweep);
    for (size_t i = 0; i < sizeof files / sizeof *files && !status; i++) {
        sp_buffer content;
        sp_buffer_init(&content, FILE_MAX_BYTES);
        files[i].write(&run->sweep, &content);
        status = write_file(run->options->out, files[i].name, &content, error);
        sp_buffer_fini(&content);
    }
    return status;
}

/* The folder is made after the first look at model and text; that it can be is known before. */
static sp_status check_folder(const char *path, sp_error *error)
{
    struct stat there;
    if (stat(path, &there) != 0) return sp_check_result(path, error);
    if (!S_ISDIR(there.st_mode)) return sp_fail_param(error, SP_USAGE, "out", "--out: %s is no folder", path);
    if (access(path, W_OK | X_OK) == 0) return SP_OK;
    return sp_fail_param(error, SP_NOT_FOUND, "out", "--out: cannot write in the folder %s: %s", path,
                         strerror(errno));
}

/* What an earlier run left, if it was of the same model and text. */
static sp_status read_earlier(sweep_run *run, const sp_sweep *head, sp_error *error)
{
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/sweep.json", run->options->out);
    sp_status status = sp_sweep_read(path, &run->sweep, error);
    if (status == SP_NOT_FOUND) {
        memcpy(run->sweep.model, head->model, sizeof head->model);
        memcpy(run->sweep.model_name, head->model_name, sizeof head->model_name);
        memcpy(run->sweep.text_sha256, head->text_sha256, sizeof head->text_sha256);
        return SP_OK;
    }
    if (status) return status;
    if (strcmp(run->sweep.model, head->model) != 0)
        return sp_fail(error, SP_DATA, "%s is of another model (%.16s...); choose another folder", path,
                       run->sweep.model);
    if (strcmp(run->sweep.text_sha256, head->text_sha256) != 0)
        return sp_fail(error, SP_DATA, "%s is of another text (%.16s...); choose another folder", path,
                       run->sweep.text_sha256);
    return SP_OK;
}

/* --- what is measured --- */

static sp_status read_ids(sweep_run *run, const char *text, size_t size, sp_error *error)
{
    const sp_engine_info *info = sp_engine_get_info(run->job.engine);
    sp_status status = sp_tokenizer_encode(info->tokenizer, text, size, SP_ENCODE_ADD, &run->tokens, error);
    if (status) return status;
    size_t n = run->tokens.count, length = run->job.length;
    run->ids = sp_alloc(n > 0 ? n : 1, sizeof *run->ids);
    if (!run->ids) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu tokens", n);
    for (size_t i = 0; i < n; i++) run->ids[i] = run->tokens.data[i].id;
    size_t held = n > 0 ? (n - 1) / length : 0;
    if (held == 0)
        return sp_fail_param(error, SP_USAGE, "length",
                             "--length: the text has %zu tokens, a window takes %zu and one", n, length);
    size_t wanted = (size_t)run->options->windows;
    run->job.windows = (uint32_t)(wanted > 0 && wanted < held ? wanted : held);
    run->job.ids = run->ids;
    run->job.n_ids = n;
    return SP_OK;
}

static sp_status prepare(sweep_run *run, sp_error *error)
{
    const sp_options *options = run->options;
    const sp_engine_info *info = sp_engine_get_info(run->job.engine);
    sp_sweep head = {0};
    char *text;
    size_t size;
    run->job.adapter = (uint32_t)options->adapters.n;
    run->job.length = options->length ? (uint32_t)options->length : info->context;
    if (run->job.length > info->context)
        return sp_fail_param(error, SP_USAGE, "length", "windows of %u tokens exceed the context of %u",
                             run->job.length, info->context);
    (void)snprintf(head.model, sizeof head.model, "%s", info->fingerprints[run->job.adapter]);
    (void)snprintf(head.model_name, sizeof head.model_name, "%s", info->model_ids[run->job.adapter]);
    sp_status status = sp_read_file(options->text, TEXT_MAX_BYTES, &text, &size, error);
    if (status) return status;
    if (!sp_utf8_valid(text, size)) {
        sp_free(text);
        return sp_fail_param(error, SP_DATA, "text", "--text: %s is not well-formed UTF-8", options->text);
    }
    sp_sha256_state state;
    sp_sha256_begin(&state);
    sp_sha256_add(&state, text, size);
    sp_sha256_end_hex(&state, head.text_sha256);
    status = read_ids(run, text, size, error);
    sp_free(text);
    struct stat there;
    bool made = status || mkdir(options->out, 0777) == 0;
    if (!made && (stat(options->out, &there) != 0 || !S_ISDIR(there.st_mode)))
        status = sp_fail_param(error, SP_USAGE, "out", "--out: %s cannot be made", options->out);
    return status ? status : read_earlier(run, &head, error);
}

/* --- running --- */

static bool watch(void *context, double fraction)
{
    sweep_run *run = context;
    sp_progress_show(&run->progress, ((double)run->at + fraction) / (double)run->n_items);
    return !interrupted;
}

static void say_point(sweep_run *run, const sp_sweep_point *p)
{
    char value[32] = "", writing[48] = "no writing";
    sp_progress_clear(&run->progress);
    if (!isnan(p->value)) (void)snprintf(value, sizeof value, " %.6g", p->value);
    if (!isnan(p->decode_seconds))
        (void)snprintf(writing, sizeof writing, "writing %.2f", p->decode_seconds / p->decode_seconds_dense);
    fprintf(
        stderr,
        "%3zu/%zu %s%s: sparsity %.3f, recall %.3f, mass %.3f, perplexity %.3f (%+.2f %%), reading %.2f of "
        "dense, %s\n",
        run->at + 1, run->n_items, p->grid, value, 1 - p->density, p->recall, p->mass, p->perplexity,
        100 * (p->perplexity / p->perplexity_dense - 1), p->prefill_seconds / p->prefill_seconds_dense,
        writing);
}

/* One line a curve: what its first point was refused for. */
static void say_skipped(sweep_run *run, const sp_grid_item *item, const sp_error *why)
{
    run->n_skipped++;
    if (run->skipped == item->grid) return;
    run->skipped = item->grid;
    sp_progress_clear(&run->progress);
    fprintf(stderr, "%3zu/%zu %s %.6g: skipped: %s\n", run->at + 1, run->n_items, item->grid->name,
            item->value, why->message);
}

static sp_status time_again(sweep_run *run, sp_sweep_point *point, sp_error *error)
{
    sp_status status = sp_sweep_time(&run->job, point, error);
    if (status) return status;
    say_point(run, point);
    return write_files(run, error);
}

static sp_status run_item(sweep_run *run, const sp_grid_item *item, sp_error *error)
{
    const char *device = sp_engine_get_info(run->job.engine)->device;
    sp_sweep_point *known = (sp_sweep_point *)sp_sweep_find(&run->sweep, item->attention, device,
                                                            run->job.length, run->job.windows);
    if (known) {
        if (run->job.perplexity_dense == 0) run->job.perplexity_dense = known->perplexity;
        return run->options->retime ? time_again(run, known, error) : SP_OK;
    }
    if (run->options->retime) return SP_OK;
    sp_sweep_point point;
    sp_status status = sp_sweep_measure(&run->job, item, &point, error);
    if (status == SP_INVALID && run->at > 0) { /* dense, the first one, must run */
        say_skipped(run, item, error);
        return SP_OK;
    }
    if (status) return status;
    if (run->job.perplexity_dense == 0) run->job.perplexity_dense = point.perplexity;
    say_point(run, &point);
    status = sp_sweep_add(&run->sweep, &point, error);
    return status ? status : write_files(run, error);
}

static int run_sweep(sweep_run *run)
{
    sp_error error = {0};
    sp_status status = prepare(run, &error);
    sp_progress_init(&run->progress, "sweeping");
    for (run->at = 0; run->at < run->n_items && !status; run->at++)
        status = run_item(run, &run->items[run->at], &error);
    sp_progress_clear(&run->progress);
    if (!status) status = write_files(run, &error);
    if (!status)
        printf("%s: sweep.json, sweep.csv, sweep.html, sweep.svg with %zu points, %zu skipped\n",
               run->options->out, run->sweep.n_points, run->n_skipped);
    return status ? sp_command_fail(&error) : SP_EXIT_OK;
}

static sp_status open_engine(const sp_options *options, sp_engine **out, sp_error *error)
{
    sp_engine_options wanted;
    sp_status status = sp_alone_options(options, &wanted, error);
    if (status) return status;
    wanted.fingerprint = true;
    return sp_alone_open(&wanted, out, error);
}

int sp_command_sweep(const sp_options *options)
{
    sp_error error = {0};
    sweep_run run = {.options = options};
    sp_sweep_init(&run.sweep);
    run.job.watch = watch;
    run.job.context = &run;
    sp_status status = check_folder(options->out, &error);
    if (!status) status = sp_grid_select(options->backends, options->grid, &run.items, &run.n_items, &error);
    if (!status) status = open_engine(options, &run.job.engine, &error);
    int code;
    if (status) {
        code = sp_command_fail(&error);
    } else {
        struct sigaction action = {.sa_handler = on_interrupt};
        sigemptyset(&action.sa_mask);
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        code = run_sweep(&run);
        sp_engine_close(run.job.engine);
    }
    sp_free(run.items);
    sp_free(run.ids);
    sp_tokens_fini(&run.tokens);
    sp_sweep_fini(&run.sweep);
    return code;
}
