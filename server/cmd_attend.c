/* `sparsed attend`: one attention layer on the tensors of a safetensors file, through the same sp_apply that
 * serves POST /v1/attention/apply. The result is written whole or not at all (a new file, renamed). A table
 * of edges or metrics by head goes to standard error. Tests: tests/golden/test_attend.py */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/attention/apply.h"
#include "kernels/json.h"
#include "models/weights.h"
#include "server/command.h"

#define FILE_MAX_BYTES ((size_t)1 << 40)

/* The metrics of one head that the table shows; what is null stays NaN. */
static const char *const columns[] = {"edges_pred", "edges_gold", "edges_both", "recall",
                                      "precision",  "sparsity",   "rows_exact"};
#define N_COLUMNS (sizeof columns / sizeof columns[0])

static void print_row(size_t head, const double *values)
{
    fprintf(stderr, "%6zu", head);
    for (size_t c = 0; c < N_COLUMNS; c++) {
        bool ratio = c >= 3 && c <= 5;
        if (isnan(values[c]))
            fprintf(stderr, " %11s", "-");
        else
            fprintf(stderr, ratio ? " %11.4f" : " %11.0f", values[c]);
    }
    fputs("\n", stderr);
}

static void print_metrics(const char *metrics)
{
    sp_json reader;
    size_t size = strlen(metrics), head = 0;
    if (sp_json_validate(metrics, size, NULL)) return;
    sp_json_init(&reader, metrics, size);
    if (sp_json_next(&reader) != SP_JSON_ARRAY) return;
    fprintf(stderr, "%6s", "head");
    for (size_t c = 0; c < N_COLUMNS; c++) fprintf(stderr, " %11s", columns[c]);
    fputs("\n", stderr);
    while (sp_json_next(&reader) == SP_JSON_OBJECT) {
        double values[N_COLUMNS];
        for (size_t c = 0; c < N_COLUMNS; c++) values[c] = NAN;
        while (sp_json_next(&reader) == SP_JSON_KEY) {
            size_t column = 0;
            while (column < N_COLUMNS && !sp_json_is(&reader, columns[column])) column++;
            if (sp_json_next(&reader) == SP_JSON_NUMBER && column < N_COLUMNS)
                values[column] = sp_json_double(&reader);
        }
        print_row(head++, values);
    }
}

/* Edges of every head: the last entry of its row of indptr (H, n + 1). */
static void print_edges(const sp_weights *result)
{
    const sp_tensor *indptr = sp_weights_find(result, "indptr");
    if (!indptr || indptr->rank != 2 || indptr->dtype != SP_U32 || indptr->shape[1] < 2) return;
    const uint32_t *numbers = indptr->data; /* (H, n + 1) */
    size_t n = indptr->shape[1] - 1;
    fprintf(stderr, "%6s %11s %11s\n", "head", "edges", "a query");
    for (size_t h = 0; h < indptr->shape[0]; h++) {
        uint32_t edges = numbers[h * (n + 1) + n];
        fprintf(stderr, "%6zu %11u %11.1f\n", h, edges, edges / (double)n);
    }
}

static void print_report(const char *report)
{
    sp_report_summary sum;
    sp_report_read(report, strlen(report), &sum);
    fprintf(stderr, "sparsed: %s, normalizer %s, %.0f edges of %.0f pairs (density %.4f), %.4f s\n",
            sum.backend, sum.normalizer, sum.edges, sum.pairs, sum.pairs > 0 ? sum.edges / sum.pairs : 0,
            sum.seconds);
}

static void print_result(const sp_buffer *bytes)
{
    sp_weights *result = NULL;
    if (sp_weights_parse("result", bytes->data, bytes->size, &result, NULL)) return;
    const char *metrics = sp_weights_metadata(result, "metrics");
    const char *report = sp_weights_metadata(result, "report");
    if (metrics)
        print_metrics(metrics);
    else
        print_edges(result);
    if (report) print_report(report);
    sp_weights_close(result);
}

/* A fit of which one layer matters: fingerprint and other layers may be absent. */
static sp_status read_fit(const char *path, sp_fit **out, sp_error *error)
{
    char *bytes = NULL;
    size_t size = 0;
    sp_status status = sp_read_file(path, FILE_MAX_BYTES, &bytes, &size, error);
    if (status) return status;
    status = sp_fit_read(path, bytes, size, true, out, error);
    sp_free(bytes);
    return status;
}

static sp_status attend_file(const sp_options *options, sp_device *device, sp_buffer *out, sp_error *error)
{
    char *bytes = NULL;
    size_t size = 0;
    sp_status status = sp_read_file(options->in, FILE_MAX_BYTES, &bytes, &size, error);
    if (status) return status;
    sp_fit *fit = NULL;
    if (options->fit) status = read_fit(options->fit, &fit, error);
    sp_apply_options apply = {.metrics = options->metrics, .fit = fit};
    if (!status) status = sp_apply(device, options->in, bytes, size, &apply, out, error);
    sp_fit_close(fit);
    sp_free(bytes);
    return status;
}

int sp_command_attend(const sp_options *options)
{
    sp_error error = {0};
    if (strcmp(options->out, "-") == 0 && isatty(STDOUT_FILENO)) {
        sp_fail_param(&error, SP_USAGE, "out",
                      "--out -: standard output is a terminal; send it to a file or a program");
        return sp_command_fail(&error);
    }
    sp_device_options device_options = {.n_threads = (size_t)options->threads,
                                        .attend_scratch = (size_t)options->attn_scratch};
    sp_device *device = NULL;
    if (sp_check_result(options->out, &error)) return sp_command_fail(&error);
    if (sp_device_open(options->device, &device_options, &device, &error)) return sp_command_fail(&error);
    sp_buffer out;
    sp_buffer_init(&out, SIZE_MAX / 2);
    sp_status status = attend_file(options, device, &out, &error);
    if (status == SP_INVALID) error.status = SP_DATA; /* here a wrong field stands in the file */
    if (!status) status = sp_write_result(options->out, &out, &error);
    if (!status) print_result(&out);
    sp_buffer_fini(&out);
    sp_device_close(device);
    return status ? sp_command_fail(&error) : SP_EXIT_OK;
}
