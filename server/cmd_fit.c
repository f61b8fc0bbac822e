/* `sparsed fit`: trains what Sparsefinder predicts attention graphs with, or measures a fit that there is.
 *
 * Owner: run_fit owns device, model, text and result. Progress goes to standard error: one line a unit; the
 * tables to standard output, or with --json one object. Ctrl-C stops between two steps; the state file stays.
 * Tests: tests/golden/test_fit.py, tests/http/test_command.py */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "engine/sparsefinder/fit_job.h"
#include "models/adapter.h"
#include "server/command.h"

#define DEFAULT_LENGTH 4096u

static atomic_bool interrupted;

static void on_interrupt(int number)
{
    (void)number;
    atomic_store(&interrupted, true);
}

/* --- options --- */

/* Ascending numbers between commas, or none. */
static sp_status read_list(const char *name, const char *text, uint32_t least, uint32_t most,
                           sp_size_list *out, sp_error *error)
{
    out->n = 0;
    if (strcmp(text, "none") == 0) return SP_OK;
    for (const char *at = text; *at;) {
        uint32_t value = 0;
        size_t digits = strspn(at, "0123456789");
        for (size_t i = 0; i < digits && value <= most; i++) value = value * 10 + (uint32_t)(at[i] - '0');
        bool rises = out->n == 0 || value > out->items[out->n - 1];
        if (digits == 0 || value < least || value > most || !rises || out->n == SP_FIT_SIZES)
            return sp_fail_param(error, SP_USAGE, name,
                                 "--%s: %s is no list of at most %d rising numbers from %u to %u, nor none",
                                 name, text, SP_FIT_SIZES, (unsigned)least, (unsigned)most);
        out->items[out->n++] = value;
        at += digits;
        if (*at == ',' && at[1])
            at++;
        else if (*at)
            return sp_fail_param(error, SP_USAGE, name, "--%s: %s: numbers stand between commas", name, text);
    }
    return SP_OK;
}

static sp_status read_options(const sp_options *options, const sp_hparams *hparams, sp_fit_options *out,
                              sp_error *error)
{
    sp_fit_options_init(out);
    out->loss = strcmp(options->loss, "hinge") == 0 ? SP_FIT_HINGE : SP_FIT_BALANCED;
    out->rank = (uint32_t)options->rank;
    if (out->rank == 0) out->rank = hparams->n_kv_heads < hparams->n_heads ? 16 : 8;
    out->steps = (uint32_t)options->steps;
    out->shared = strcmp(options->maps, "shared") == 0;
    out->k_map_a_head = strcmp(options->k_maps, "head") == 0;
    out->runs = (uint32_t)options->runs;
    out->lambda = options->lambda;
    out->gold_mass = options->gold_mass;
    out->seed = options->seed;
    out->sample_bytes = (size_t)options->sample_bytes;
    if (out->rank > hparams->head_dim)
        return sp_fail_param(error, SP_USAGE, "rank", "--rank: %u is more than the %u numbers of a head",
                             (unsigned)out->rank, (unsigned)hparams->head_dim);
    sp_status status = read_list("clusters", options->clusters, 2, 256, &out->clusters, error);
    if (!status) status = read_list("kmeans", options->kmeans, 2, 1024, &out->kmeans, error);
    if (!status) status = read_list("bins", options->bins, 2, 1024, &out->bins, error);
    if (!status) status = read_list("blocks", options->blocks, 2, 256, &out->blocks, error);
    return status;
}

/* --- progress --- */

typedef struct fit_view {
    const char *out; /* --out */
    sp_progress bar;
    double begin;
    bool sampling;
} fit_view;

static void show_sampling(void *context, double share)
{
    fit_view *view = context;
    if (!view->sampling) sp_progress_init(&view->bar, "reading the text");
    view->sampling = true;
    sp_progress_show(&view->bar, share);
}

static void show_trained(void *context, uint32_t layer, uint32_t first, uint32_t n,
                         const sp_head_figures *figures, double share)
{
    fit_view *view = context;
    double recall = 0;
    sp_progress_clear(&view->bar);
    view->sampling = false;
    for (uint32_t h = 0; h < n; h++) {
        const sp_judgement *judged = &figures[h].judgement;
        recall +=
            judged->curves[judged->has[SP_JUDGED_DOT] ? SP_JUDGED_DOT : SP_JUDGED_DISTANCE].recall[2] / n;
    }
    fprintf(stderr, "%3.0f %%  %5.0f s  layer %u head %u", share * 100, sp_now() - view->begin,
            (unsigned)layer, (unsigned)first);
    if (n > 1) fprintf(stderr, " to %u", (unsigned)(first + n - 1));
    if (figures->last_loss > 0)
        fprintf(stderr, ": loss %.3f to %.3f", figures->first_loss, figures->last_loss);
    fprintf(stderr, "%s held-out recall %.3f at sparsity 0.8\n", figures->last_loss > 0 ? "," : ":", recall);
}

static void show_resumed(void *context, uint32_t done, uint32_t all)
{
    const fit_view *view = context;
    fprintf(stderr, "sparsed: goes on from %s.state: %u of %u groups of heads are done\n", view->out,
            (unsigned)done, (unsigned)all);
}

/* --- tables --- */

static const struct {
    sp_judged which;
    const char *name;
} rows[] = {{SP_JUDGED_RANDOM, "random edges"},
            {SP_JUDGED_WINDOW, "window + first"},
            {SP_JUDGED_DISTANCE, "distance"},
            {SP_JUDGED_DOT, "dot"},
            {SP_JUDGED_SCORES, "q.k itself"}};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

/* Means over n heads. */
static sp_judgement mean_of(const sp_head_figures *figures, size_t n)
{
    sp_judgement mean = figures[0].judgement;
    memset(mean.curves, 0, sizeof mean.curves);
    memset(mean.points, 0, sizeof mean.points);
    for (size_t i = 0; i < n; i++) {
        const sp_judgement *one = &figures[i].judgement;
        for (size_t k = 0; k < SP_JUDGED_CURVES * SP_SPARSITIES; k++) {
            mean.curves[k / SP_SPARSITIES].recall[k % SP_SPARSITIES] +=
                one->curves[k / SP_SPARSITIES].recall[k % SP_SPARSITIES] / (double)n;
            mean.curves[k / SP_SPARSITIES].mass[k % SP_SPARSITIES] +=
                one->curves[k / SP_SPARSITIES].mass[k % SP_SPARSITIES] / (double)n;
        }
        for (uint32_t c = 0; c < mean.n_clusters; c++) {
            mean.points[c].sparsity += one->points[c].sparsity / (double)n;
            mean.points[c].recall += one->points[c].recall / (double)n;
            mean.points[c].mass += one->points[c].mass / (double)n;
        }
    }
    return mean;
}

static void write_table(const char *title, const sp_judgement *mean)
{
    printf("%-16s", title);
    for (size_t s = 0; s < SP_SPARSITIES; s++) printf("   S %.1f       ", sp_judged_sparsities[s]);
    printf("\n");
    for (size_t r = 0; r < N_ROWS; r++) {
        const sp_curve *curve = &mean->curves[rows[r].which];
        if (!mean->has[rows[r].which]) continue;
        printf("  %-14s", rows[r].name);
        for (size_t s = 0; s < SP_SPARSITIES; s++) printf("   %.3f / %.3f", curve->recall[s], curve->mass[s]);
        printf("\n");
    }
    for (uint32_t c = 0; c < mean->n_clusters; c++)
        printf("  clusters %-5u   %.3f / %.3f at S %.3f\n", (unsigned)mean->clusters[c],
               mean->points[c].recall, mean->points[c].mass, mean->points[c].sparsity);
}

static bool write_tables(const sp_fit *fit, const sp_head_figures *figures)
{
    char title[32];
    printf("recall / mass by sparsity S, mean of heads; dot and distance hold a window of 33 and the first "
           "token\n");
    for (uint32_t l = 0; l < fit->n_layers; l++) {
        sp_judgement mean = mean_of(figures + (size_t)l * fit->n_heads, fit->n_heads);
        snprintf(title, sizeof title, "layer %u", (unsigned)l);
        write_table(title, &mean);
    }
    sp_judgement mean = mean_of(figures, (size_t)fit->n_layers * fit->n_heads);
    write_table("all layers", &mean);
    return fflush(stdout) == 0 && !ferror(stdout);
}

static void write_curve(const char *name, const sp_curve *curve, sp_json_writer *json)
{
    sp_json_key(json, name);
    sp_json_open(json, '{');
    for (int mass = 0; mass < 2; mass++) {
        sp_json_key(json, mass ? "mass" : "recall");
        sp_json_open(json, '[');
        for (size_t s = 0; s < SP_SPARSITIES; s++)
            sp_json_number(json, mass ? curve->mass[s] : curve->recall[s]);
        sp_json_close(json, ']');
    }
    sp_json_close(json, '}');
}

static void write_judgement(const sp_judgement *judged, sp_json_writer *json)
{
    static const char *const names[] = {[SP_JUDGED_DOT] = "dot",
                                        [SP_JUDGED_DISTANCE] = "distance",
                                        [SP_JUDGED_WINDOW] = "window",
                                        [SP_JUDGED_RANDOM] = "random",
                                        [SP_JUDGED_SCORES] = "scores"};
    sp_json_open(json, '{');
    for (size_t i = 0; i < SP_JUDGED_CURVES; i++)
        if (judged->has[i]) write_curve(names[i], &judged->curves[i], json);
    sp_json_key(json, "clusters");
    sp_json_open(json, '[');
    for (uint32_t c = 0; c < judged->n_clusters; c++) {
        sp_json_open(json, '{');
        sp_json_key(json, "clusters");
        sp_json_uint(json, judged->clusters[c]);
        sp_json_key(json, "sparsity");
        sp_json_number(json, judged->points[c].sparsity);
        sp_json_key(json, "recall");
        sp_json_number(json, judged->points[c].recall);
        sp_json_key(json, "mass");
        sp_json_number(json, judged->points[c].mass);
        sp_json_close(json, '}');
    }
    sp_json_close(json, ']');
    sp_json_close(json, '}');
}

/* Bytes that this process has had resident at once, at most. */
static double peak_memory(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? 1024.0 * (double)usage.ru_maxrss : 0;
}

static sp_status write_json(const sp_fit *fit, const sp_head_figures *figures, sp_error *error)
{
    sp_buffer out;
    sp_json_writer json;
    sp_buffer_init(&out, SIZE_MAX / 2);
    sp_json_writer_init(&json, &out);
    sp_judgement mean = mean_of(figures, (size_t)fit->n_layers * fit->n_heads);
    sp_json_open(&json, '{');
    sp_json_key(&json, "sparsities");
    sp_json_open(&json, '[');
    for (size_t s = 0; s < SP_SPARSITIES; s++) sp_json_number(&json, sp_judged_sparsities[s]);
    sp_json_close(&json, ']');
    sp_json_key(&json, "peak_memory_bytes");
    sp_json_uint(&json, (uint64_t)peak_memory());
    sp_json_key(&json, "mean");
    write_judgement(&mean, &json);
    sp_json_key(&json, "heads");
    sp_json_open(&json, '[');
    for (size_t i = 0; i < (size_t)fit->n_layers * fit->n_heads; i++) {
        sp_json_open(&json, '{');
        sp_json_key(&json, "layer");
        sp_json_uint(&json, i / fit->n_heads);
        sp_json_key(&json, "head");
        sp_json_uint(&json, i % fit->n_heads);
        sp_json_key(&json, "first_loss");
        sp_json_number(&json, figures[i].first_loss);
        sp_json_key(&json, "last_loss");
        sp_json_number(&json, figures[i].last_loss);
        sp_json_key(&json, "held_out");
        write_judgement(&figures[i].judgement, &json);
        sp_json_close(&json, '}');
    }
    sp_json_close(&json, ']');
    sp_json_close(&json, '}');
    sp_buffer_text(&out, "\n");
    sp_status status = sp_command_print(&out, error);
    sp_buffer_fini(&out);
    return status;
}

static sp_status write_result(const sp_options *options, const sp_fit *fit, const sp_head_figures *figures,
                              sp_error *error)
{
    if (options->json) return write_json(fit, figures, error);
    if (write_tables(fit, figures)) return SP_OK;
    return sp_fail(error, SP_IO, "standard output: cannot write: %s", strerror(errno));
}

/* --- the command --- */

static sp_status measure_fit(const sp_options *options, const sp_sample_options *source, fit_view *view,
                             sp_error *error)
{
    const sp_hparams *h = &source->model->hparams;
    sp_head_figures *figures = NULL;
    sp_fit *fit;
    sp_status status = sp_fit_open(options->measured, &fit, error);
    if (status != SP_OK) return status;
    sp_sample_options from = *source;
    from.rope_pre = fit->rope_pre;
    const sp_fit_progress progress = {.sampling = show_sampling, .context = view};
    const char *fingerprint = source->adapter > 0 ? source->model->adapters[source->adapter - 1]->fingerprint
                                                  : source->model->fingerprint;
    status = sp_fit_check(fit, fit->model[0] ? fingerprint : "", h->n_layers, h->n_heads, h->n_kv_heads,
                          h->head_dim, error);
    if (status == SP_OK) status = sp_fit_check_layers(fit, error);
    if (status == SP_OK)
        status = sp_fit_judge(&from, fit, options->gold_mass, (size_t)options->sample_bytes, &progress,
                              &interrupted, &figures, error);
    sp_progress_clear(&view->bar);
    if (status == SP_OK) status = write_result(options, fit, figures, error);
    sp_free(figures);
    sp_fit_close(fit);
    return status;
}

static sp_status train_fit(const sp_options *options, const sp_sample_options *source, fit_view *view,
                           sp_error *error)
{
    sp_fit_options fit_options;
    sp_fit_result result;
    sp_status status = read_options(options, &source->model->hparams, &fit_options, error);
    if (status != SP_OK) return status;
    const sp_fit_progress progress = {
        .sampling = show_sampling, .trained = show_trained, .resumed = show_resumed, .context = view};
    fprintf(stderr, "sparsed: %zu windows of %u tokens, rank %u, seed %lld\n", source->text->n_windows,
            (unsigned)source->text->length, (unsigned)fit_options.rank, (long long)fit_options.seed);
    status = sp_fit_run(source, &fit_options, options->out, &progress, &interrupted, &result, error);
    sp_progress_clear(&view->bar);
    if (status == SP_CANCELLED)
        return sp_fail(error, SP_CANCELLED, "stopped; the same command goes on from %s.state", options->out);
    if (status != SP_OK) return status;
    status = write_result(options, result.fit, result.figures, error);
    fprintf(stderr, "sparsed: %s: trained on %zu windows, measured on %zu, %.0f s, peak memory %.0f MiB\n",
            options->out, result.n_train, result.n_held_out, sp_now() - view->begin,
            peak_memory() / (1 << 20));
    sp_fit_close(result.fit);
    sp_free(result.figures);
    return status;
}

static sp_normalizer normalizer_of(const sp_model *model, uint32_t adapter, const sp_engine_options *options)
{
    const sp_adapter *last = adapter > 0 ? model->adapters[adapter - 1] : NULL;
    if (options->override_normalizer) return options->normalizer;
    return last && last->has_normalizer ? last->normalizer : model->hparams.normalizer;
}

static sp_status run_model(const sp_options *options, const sp_engine_options *engine, sp_model *model,
                           sp_error *error)
{
    sp_fit_text text = {0};
    fit_view view = {.out = options->out, .begin = sp_now()};
    uint32_t context = model->hparams.context, adapter = (uint32_t)options->adapters.n;
    uint32_t length = context < DEFAULT_LENGTH ? context : DEFAULT_LENGTH;
    sp_progress_init(&view.bar, "reading the text");
    if (options->length > (int64_t)context)
        return sp_fail_param(error, SP_USAGE, "length", "--length: the model's context is %u tokens",
                             (unsigned)context);
    if (options->length > 0) length = (uint32_t)options->length;
    sp_status status = sp_fit_text_open(model->tokenizer, options->texts.items, options->texts.n, length,
                                        (size_t)options->tokens, &text, error);
    sp_sample_options source = {.model = model,
                                .text = &text,
                                .adapter = adapter,
                                .normalizer = normalizer_of(model, adapter, engine),
                                .kv = engine->kv_type,
                                .rope_pre = strcmp(options->rope, "pre") == 0};
    if (status == SP_OK)
        status = options->measured ? measure_fit(options, &source, &view, error)
                                   : train_fit(options, &source, &view, error);
    sp_fit_text_close(&text);
    return status;
}

/* The fit is written when all is done: that it can be is known before. */
static sp_status check_out(const char *path, sp_error *error)
{
    struct stat there;
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode))
        return sp_fail_param(error, SP_USAGE, "out", "--out: %s is no file; name the fit file to write",
                             path);
    return sp_check_result(path, error);
}

static sp_status run_fit(const sp_options *options, sp_error *error)
{
    sp_engine_options engine;
    sp_device *device;
    sp_model *model;
    sp_engine_options_init(&engine);
    sp_status status = options->measured ? SP_OK : check_out(options->out, error);
    if (status == SP_OK) status = sp_options_engine(options, &engine, error);
    if (status != SP_OK) return status;
    const sp_device_options on = {.n_threads = engine.n_threads, .openblas = engine.openblas};
    status = sp_device_open("cpu", &on, &device, error);
    if (status != SP_OK) return status;
    const sp_model_options loading = {.weights = engine.weights,
                                      .weights_as = engine.weights_as,
                                      .exact = engine.kv_type == SP_F32,
                                      .fingerprint = true,
                                      .adapters = engine.adapters,
                                      .n_adapters = engine.n_adapters};
    status = sp_model_open(options->model, device, &loading, &model, error);
    if (status == SP_OK) {
        status = run_model(options, &engine, model, error);
        sp_model_close(model);
    }
    sp_device_close(device);
    return status;
}

int sp_command_fit(const sp_options *options)
{
    sp_error error = {0};
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sp_status status = run_fit(options, &error);
    if (status == SP_OK) return SP_EXIT_OK;
    return sp_command_fail(&error);
}
