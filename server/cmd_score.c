/* `sparsed score`: perplexity of a text under a model, on an engine of its own.
 *
 * Owner: run_score owns the scorer. Figures go to standard output, progress and speed to standard error; with
 * --json the reply of POST /v1/score, one input. Ctrl-C cancels; nothing is written then. Tests:
 * tests/golden/test_score.py, tests/http/test_command.py */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/evaluate/score.h"
#include "server/command.h"

#define TEXT_MAX_BYTES ((size_t)1 << 30)

static atomic_bool interrupted; /* by a signal, which may come to any thread */

static void on_interrupt(int number)
{
    (void)number;
    interrupted = true;
}

static sp_status write_json(const sp_scorer *scorer, sp_error *error)
{
    sp_buffer out;
    sp_json_writer json;
    sp_buffer_init(&out, SIZE_MAX / 2);
    sp_json_writer_init(&json, &out);
    sp_scorer_write(scorer, &json);
    sp_buffer_text(&out, "\n");
    sp_status status = sp_command_print(&out, error);
    sp_buffer_fini(&out);
    return status;
}

static sp_status write_figures(const sp_scorer *scorer, uint32_t window, sp_error *error)
{
    const sp_score_sum sum = sp_scorer_sum(scorer);
    if (sum.n_scored == 0)
        puts("nothing to score: no token has enough tokens before it");
    else
        printf(
            "perplexity %.4f a token, %.4f bits a byte: %llu tokens of %llu bytes, nll %.4f, windows of %u\n",
            sp_score_perplexity(&sum), sp_score_bits_per_byte(&sum), (unsigned long long)sum.n_scored,
            (unsigned long long)sum.bytes, sum.nll, (unsigned)window);
    if (fflush(stdout) == 0 && !ferror(stdout)) return SP_OK;
    return sp_fail(error, SP_IO, "standard output: cannot write: %s", strerror(errno));
}

static void write_summary(const sp_scorer *scorer, double seconds)
{
    sp_buffer report;
    sp_json_writer json;
    sp_report_summary sum;
    sp_usage usage = sp_scorer_usage(scorer);
    sp_buffer_init(&report, 1 << 20);
    sp_json_writer_init(&json, &report);
    sp_scorer_write_report(scorer, &json);
    sp_report_read(report.data, report.size, &sum);
    fprintf(stderr,
            "sparsed: %u tokens in %.2f s (%.0f tokens/s); attention %s, normalizer %s, %.0f edges, density "
            "%.3f\n",
            usage.prompt_tokens, seconds, seconds > 0 ? usage.prompt_tokens / seconds : 0.0, sum.backend,
            sum.normalizer, sum.edges, sum.pairs > 0 ? sum.edges / sum.pairs : 0.0);
    sp_buffer_fini(&report);
}

static sp_status score_all(sp_scorer *scorer, sp_error *error)
{
    sp_progress progress;
    sp_progress_init(&progress, "scoring");
    sp_status status = SP_OK;
    for (bool done = false; !done && status == SP_OK;) {
        status = sp_scorer_wait(scorer, 0.1, &done, error);
        sp_progress_show(&progress, sp_scorer_fraction(scorer));
        if (interrupted && !done && status == SP_OK) status = sp_fail(error, SP_CANCELLED, "stopped");
    }
    sp_progress_clear(&progress);
    return status;
}

static int run_score(sp_engine *engine, const sp_options *options, const sp_buffer *text)
{
    sp_error error = {0};
    sp_scorer *scorer = NULL;
    uint32_t context = sp_engine_get_info(engine)->context;
    const sp_score_input input = {.text = text->size ? text->data : "", .text_size = text->size};
    const sp_score_options wanted = {.adapter = (uint32_t)options->adapters.n,
                                     .min_context = (uint32_t)options->min_context,
                                     .window = options->length ? (uint32_t)options->length : context};
    double begin = sp_now();
    sp_status status = sp_scorer_open(engine, &input, 1, &wanted, NULL, &scorer, &error);
    if (!status) status = score_all(scorer, &error);
    int code = SP_EXIT_OK;
    if (status) {
        code = sp_command_fail(&error);
    } else {
        write_summary(scorer, sp_now() - begin);
        status = options->json ? write_json(scorer, &error) : write_figures(scorer, wanted.window, &error);
        if (status) code = sp_command_fail(&error);
    }
    sp_scorer_close(scorer);
    return code;
}

int sp_command_score(const sp_options *options)
{
    sp_error error = {0};
    sp_engine *engine = NULL;
    sp_engine_options engine_options;
    if (sp_alone_options(options, &engine_options, &error)) return sp_command_fail(&error);
    sp_buffer text;
    sp_buffer_init(&text, TEXT_MAX_BYTES);
    sp_status status = sp_read_text(options->text, &text, &error);
    if (!status) status = sp_alone_open(&engine_options, &engine, &error);
    int code;
    if (status) {
        code = sp_command_fail(&error);
    } else {
        struct sigaction action = {.sa_handler = on_interrupt};
        sigemptyset(&action.sa_mask);
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        signal(SIGPIPE, SIG_IGN);
        code = run_score(engine, options, &text);
        sp_engine_close(engine);
    }
    sp_buffer_fini(&text);
    return code;
}
