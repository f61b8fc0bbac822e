/* sp_apply: one attention layer on given tensors.
 *
 * Keys and values are copied into pages of 64 positions, as the engine holds them, queries are run in chunks
 * of at most 1,024 rows, and each chunk is planned and attended like any other. A first pass only plans and
 * counts: the number of edges is known, and refused where too large, before anything is computed. The edge
 * list and the gold graph come from the same plan, row by row, by the device's row_weights; heads are dealt
 * to the workers, each writing its own range. A step is one chunk, sized by its work, of either pass.
 *
 * Owner: everything is held by one sp_apply_job and freed at its end. Tests:
 * tests/golden/test_attend_golden.c, tests/unit/engine/test_apply.c, tests/http/test_apply.py */
#include "engine/attention/apply.h"

#include <string.h>

#include "engine/attention/apply_case.h"
#include "engine/attention/apply_predict.h"
#include "engine/attention/metrics.h"

enum { CHUNK = 1024 };
#define MAX_EDGES ((uint64_t)1 << 28)
/* Of one step: multiplications and additions, and positions of tiles that a plan may hold. */
#define STEP_WORK 2e9
#define STEP_PAIRS 8e9
#define FIRST_SHARE 0.125 /* of it, until it is known how long that takes */
#define LIST_COST 40.0    /* of a multiplication in row_weights, against one in attend */
#define POWER_COST 1e4    /* of a key in the solve of an alpha whose powers are no products */

struct sp_apply_job {
    sp_device *device;
    sp_apply_options options;
    sp_apply_case input;
    sp_plan plan;
    bool measures; /* the gold graph is computed */
    /* pages */
    uint8_t *page_bytes;
    const uint8_t **pages;
    sp_kv_view kv;
    /* predicting */
    sp_apply_predictor predictor;
    /* answer */
    float *out;          /* (n_heads, n, value_dim) */
    uint32_t *indptr;    /* (n_heads, n + 1) */
    uint32_t *edge_base; /* (n_heads) */
    uint32_t *indices;   /* (n_edges) */
    float *weights;      /* (n_edges) */
    uint64_t n_edges;
    sp_head_measure *measured; /* (n_heads) */
    sp_attention_report report;
    /* progress */
    enum { SP_APPLY_COUNTS, SP_APPLY_RUNS } pass;
    double share[2]; /* by pass: of STEP_WORK and STEP_PAIRS, what fits into a step's time */
    uint32_t next_row;
    uint64_t *totals; /* (n_heads): edges of a head */
    /* the chunk */
    uint32_t row, rows;
    float *q, *attended; /* (rows, n_heads, head_dim), (rows, n_heads, value_dim) */
    /* one a worker, each of m elements */
    uint32_t *keys;
    float *gold;
    uint64_t *order;
};

/* --- sizes and memory --- */

/* Takes a * b * size bytes off *left; false when they are more or overflow. */
static bool spend(size_t *left, size_t a, size_t b, size_t size)
{
    size_t bytes;
    if (!sp_mul_size(a, b, &bytes) || !sp_mul_size(bytes, size, &bytes) || bytes > *left) return false;
    *left -= bytes;
    return true;
}

static size_t answer_limit(const sp_apply_options *options)
{
    size_t most = SIZE_MAX / 4;
    return options->max_bytes && options->max_bytes < most ? options->max_bytes : most;
}

/* The answer fits max_bytes; copies of keys, values and a chunk fit three times that. */
static sp_status check_sizes(const sp_apply_job *run, sp_error *error)
{
    const sp_apply_case *input = &run->input;
    size_t limit = answer_limit(&run->options), answer = limit, held = 3 * limit;
    size_t edges = input->wants_edges ? (size_t)run->n_edges : 0,
           wide = (size_t)input->head_dim + input->value_dim;
    size_t rows = (size_t)input->n_kv_heads * (((size_t)input->m + SP_TILE - 1) / SP_TILE * SP_TILE);
    bool fits =
        spend(&answer, (size_t)input->n_heads * input->n, input->value_dim, sizeof(float)) &&
        spend(&answer, edges, 1, sizeof(uint32_t) + sizeof(float)) &&
        spend(&answer, input->wants_edges ? input->n_heads : 0, (size_t)input->n + 1, sizeof(uint32_t)) &&
        spend(&held, rows, wide, sizeof(float)) &&
        spend(&held, (size_t)CHUNK * input->n_heads, wide, sizeof(float)) &&
        spend(&held, sp_threads_count(run->device->threads), input->m, 16);
    if (fits) return SP_OK;
    return sp_fail(error, SP_TOO_LARGE, "the answer is over the limit of %zu bytes; shorten the input%s",
                   limit, edges ? " or set metadata 'edges' to none" : "");
}

static sp_status allocate(sp_apply_job *run, sp_error *error)
{
    const sp_apply_case *input = &run->input;
    size_t heads = input->n_heads, n = input->n, workers = sp_threads_count(run->device->threads);
    size_t rows = n < CHUNK ? n : CHUNK;
    run->out = sp_alloc_zero(heads * n, input->value_dim * sizeof *run->out);
    run->q = sp_alloc(rows * heads, input->head_dim * sizeof *run->q);
    run->attended = sp_alloc(rows * heads, input->value_dim * sizeof *run->attended);
    run->keys = sp_alloc(workers * input->m, sizeof *run->keys);
    run->gold = sp_alloc(workers * input->m, sizeof *run->gold);
    run->order = sp_alloc(workers * input->m, sizeof *run->order);
    run->measured = sp_alloc_zero(heads, sizeof *run->measured);
    run->edge_base = sp_alloc_zero(heads, sizeof *run->edge_base);
    bool complete = run->out && run->q && run->attended && run->keys && run->gold && run->order &&
                    run->measured && run->edge_base;
    if (input->wants_edges) {
        run->indptr = sp_alloc_zero(heads * (n + 1), sizeof *run->indptr);
        run->indices = sp_alloc(run->n_edges + 1, sizeof *run->indices);
        run->weights = sp_alloc(run->n_edges + 1, sizeof *run->weights);
        complete = complete && run->indptr && run->indices && run->weights;
    }
    return complete ? SP_OK
                    : sp_fail(error, SP_NO_MEMORY, "out of memory for %zu heads of %zu queries", heads, n);
}

void sp_apply_close(sp_apply_job *run)
{
    if (!run) return;
    sp_apply_predictor_fini(&run->predictor);
    sp_apply_case_close(&run->input);
    sp_plan_fini(&run->plan);
    void *const held[] = {run->page_bytes, run->pages,   run->out,      run->indptr, run->edge_base,
                          run->indices,    run->weights, run->measured, run->q,      run->attended,
                          run->keys,       run->gold,    run->order,    run->totals, run};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) sp_free(held[i]);
}

/* --- keys and values into pages --- */

static sp_status fill_pages(sp_apply_job *run, sp_error *error)
{
    const sp_apply_case *input = &run->input;
    size_t n_pages = ((size_t)input->m + SP_TILE - 1) / SP_TILE;
    size_t wide = (size_t)input->head_dim + input->value_dim, head_floats = SP_TILE * wide;
    float *floats = sp_alloc_zero(n_pages * input->n_kv_heads, head_floats * sizeof *floats);
    run->page_bytes = (uint8_t *)floats;
    run->pages = sp_alloc(n_pages, sizeof *run->pages);
    if (!floats || !run->pages) return sp_fail(error, SP_NO_MEMORY, "out of memory for %u keys", input->m);
    for (size_t page = 0; page < n_pages; page++) {
        float *start = floats + page * input->n_kv_heads * head_floats;
        run->pages[page] = (const uint8_t *)start;
        for (size_t i = page * SP_TILE; i < input->m && i < (page + 1) * SP_TILE; i++) {
            for (size_t h = 0; h < input->n_kv_heads; h++) {
                float *k = start + h * head_floats, *v = k + SP_TILE * input->head_dim;
                sp_apply_convert(&input->k, h * input->m + i, k + i % SP_TILE * input->head_dim);
                sp_apply_convert(&input->v, h * input->m + i, v + i % SP_TILE * input->value_dim);
            }
        }
    }
    run->kv = (sp_kv_view){.dtype = SP_F32,
                           .n_keys = input->valid,
                           .head_dim = input->head_dim,
                           .value_dim = input->value_dim,
                           .head_bytes = head_floats * sizeof *floats,
                           .pages = run->pages};
    return SP_OK;
}

/* --- planning --- */

/* Rows of the next step: as many as its work allows, knowing (pass 2) or bounding (pass 1) the edges of a
 * row. */
static uint32_t step_rows(const sp_apply_job *run)
{
    const sp_apply_case *input = &run->input;
    double heads = input->n_heads, left = input->valid_q - run->next_row;
    double share = run->share[run->pass], rows = share * STEP_PAIRS / (heads * input->valid + 1);
    if (run->pass == SP_APPLY_RUNS) {
        double wide = (double)input->head_dim + input->value_dim,
               edges = (double)run->n_edges / input->valid_q;
        float alpha = input->attention.normalizer.alpha;
        double solve = alpha == 1 || alpha == 1.5f || alpha == 2 ? 0 : POWER_COST;
        double list = LIST_COST * input->head_dim + solve;
        double work = edges * (wide + solve + (run->indptr ? list : 0));
        if (run->measures) work += list * heads * input->valid;
        if (rows * work > share * STEP_WORK) rows = share * STEP_WORK / work;
    }
    if (rows > CHUNK) rows = CHUNK;
    if (rows > left) rows = left;
    return rows < 1 ? 1 : (uint32_t)rows;
}

static sp_status plan_rows(sp_apply_job *run, sp_error *error)
{
    const sp_apply_case *input = &run->input;
    run->row = run->next_row;
    run->rows = step_rows(run);
    run->next_row += run->rows;
    sp_plan_request request = {.attention = &input->attention,
                               .layer = input->layer,
                               .kind = input->kind,
                               .causal = input->causal,
                               .position = input->offset + run->row,
                               .rows = run->rows,
                               .n_keys = input->valid,
                               .n_heads = input->n_heads,
                               .n_kv_heads = input->n_kv_heads,
                               .device = run->device,
                               .kv = &run->kv};
    sp_apply_predictor_attach(&run->predictor, input, run->row, &request);
    return sp_attention_plan(&request, &run->plan, error);
}

static sp_status count_rows(sp_apply_job *run, sp_error *error)
{
    sp_status status = plan_rows(run, error);
    if (status) return status;
    for (uint32_t h = 0; h < run->input.n_heads; h++) {
        uint64_t edges = sp_plan_count_head(&run->plan, h);
        run->totals[h] += edges;
        run->n_edges += edges;
    }
    if (!run->input.wants_edges || run->n_edges <= MAX_EDGES) return SP_OK;
    return sp_fail_param(error, SP_TOO_LARGE, "edges",
                         "more than 2^28 edges; set metadata 'edges' to none for the output alone");
}

/* Between the passes: the sizes are known. */
static sp_status prepare(sp_apply_job *run, sp_error *error)
{
    sp_status status = check_sizes(run, error);
    if (!status) status = allocate(run, error);
    for (uint32_t h = 1; h < run->input.n_heads && !status && run->indptr; h++) {
        run->edge_base[h] = run->edge_base[h - 1] + (uint32_t)run->totals[h - 1];
    }
    run->pass = SP_APPLY_RUNS;
    run->next_row = 0;
    return status ? status : fill_pages(run, error);
}

/* --- running --- */

static void load_queries(sp_apply_job *run)
{
    const sp_apply_case *input = &run->input;
    for (size_t r = 0; r < run->rows; r++) {
        for (size_t h = 0; h < input->n_heads; h++) {
            sp_apply_convert(&input->q, h * input->n + run->row + r,
                             run->q + (r * input->n_heads + h) * input->head_dim);
        }
    }
}

static sp_status attend_chunk(sp_apply_job *run, sp_attend_stats *stats, sp_error *error)
{
    const sp_apply_case *input = &run->input;
    const sp_attend_args args = {.plan = &run->plan,
                                 .normalizer = input->attention.normalizer,
                                 .scale = input->scale,
                                 .n_kv_heads = input->n_kv_heads,
                                 .q = run->q,
                                 .kv = run->kv,
                                 .out = run->attended};
    sp_status status = run->device->ops->attend(run->device, &args, stats, error);
    size_t heads = input->n_heads, width = input->value_dim;
    for (size_t r = 0; r < run->rows && status == SP_OK; r++) {
        for (size_t h = 0; h < heads; h++) {
            memcpy(run->out + (h * input->n + run->row + r) * width, run->attended + (r * heads + h) * width,
                   width * sizeof(float));
        }
    }
    return status;
}

/* Gold against plan for one row: dense weights over what the row may see. */
static void measure_row(sp_apply_job *run, uint32_t head, uint32_t row, const float *q, const uint32_t *keys,
                        size_t n, size_t worker)
{
    const sp_apply_case *input = &run->input;
    float *gold = run->gold + worker * input->m;
    uint32_t allowed = sp_apply_allowed(input, row), kv_head = head / (input->n_heads / input->n_kv_heads);
    if (allowed) {
        run->device->ops->row_weights(run->device, &run->kv, kv_head, q, input->scale,
                                      input->attention.normalizer, NULL, allowed, gold);
    }
    sp_measure_row(&run->measured[head], input->attention.normalizer, gold, allowed, keys, n,
                   run->order + worker * input->m);
}

/* One head of the chunk: its edges and weights behind those it has, and its measures. */
static void list_head(void *context, size_t head, size_t worker)
{
    sp_apply_job *run = context;
    const sp_apply_case *input = &run->input;
    uint32_t *indptr = run->indptr ? run->indptr + head * ((size_t)input->n + 1) + run->row : NULL;
    uint32_t kv_head = (uint32_t)head / (input->n_heads / input->n_kv_heads);
    for (uint32_t r = 0; r < run->rows; r++) {
        const float *q = run->q + ((size_t)r * input->n_heads + head) * input->head_dim;
        size_t at = indptr ? run->edge_base[head] + indptr[r] : 0;
        uint32_t *keys = indptr ? run->indices + at : run->keys + worker * input->m;
        size_t n = sp_plan_row(&run->plan, (uint32_t)head, input->offset + run->row + r, keys);
        if (indptr && n) {
            run->device->ops->row_weights(run->device, &run->kv, kv_head, q, input->scale,
                                          input->attention.normalizer, keys, n, run->weights + at);
        }
        if (indptr) indptr[r + 1] = indptr[r] + (uint32_t)n;
        if (run->measures) measure_row(run, (uint32_t)head, run->row + r, q, keys, n, worker);
    }
}

/* Rows of padding behind the valid ones have no edges. */
static void close_indptr(sp_apply_job *run)
{
    size_t n = run->input.n;
    for (size_t h = 0; h < run->input.n_heads && run->indptr; h++) {
        uint32_t *indptr = run->indptr + h * (n + 1);
        for (size_t i = run->input.valid_q; i < n; i++) indptr[i + 1] = indptr[i];
    }
}

static void add_counts(sp_apply_job *run)
{
    sp_attention_phase *phase = &run->report.prefill;
    sp_plan_counts counts;
    sp_plan_count(&run->plan, &counts);
    phase->edges += counts.edges, phase->pairs += counts.pairs;
    phase->tiles += counts.tiles, phase->groups += counts.groups;
    run->report.rows_empty += counts.rows_empty;
}

static sp_status run_rows(sp_apply_job *run, sp_error *error)
{
    sp_attention_phase *phase = &run->report.prefill;
    sp_attend_stats stats = {0};
    double start = sp_now();
    sp_status status = plan_rows(run, error);
    if (status) return status;
    phase->predict_seconds += sp_now() - start;
    add_counts(run);
    load_queries(run);
    start = sp_now();
    status = attend_chunk(run, &stats, error);
    if (status) return status;
    phase->attend_seconds += sp_now() - start;
    phase->tokens += run->rows;
    if (run->indptr || run->measures) {
        sp_threads_run(run->device->threads, run->input.n_heads, list_head, run);
    }
    return SP_OK;
}

/* A step of this pass took so long: the next ones do less or more. */
static void set_share(sp_apply_job *run, double seconds)
{
    double *share = &run->share[run->pass], wanted = run->options.step_seconds;
    if (!(wanted > 0)) return;
    double change = wanted / (seconds > 1e-6 ? seconds : 1e-6);
    *share *= change < 0.5 ? 0.5 : change > 2 ? 2 : change;
    if (*share > 1) *share = 1;
    if (*share < 1e-6) *share = 1e-6;
}

sp_status sp_apply_step(sp_apply_job *run, bool *done, sp_error *error)
{
    *done = false;
    if (run->options.stop && run->options.stop(run->options.stop_context)) {
        return sp_fail(error, SP_CANCELLED, "the job was stopped");
    }
    sp_status status = SP_OK;
    if (!run->predictor.ready) {
        status = sp_apply_predictor_prepare(&run->predictor, run->device, &run->input,
                                            answer_limit(&run->options), error);
    } else if (run->next_row < run->input.valid_q) {
        double start = sp_now();
        status = run->pass == SP_APPLY_COUNTS ? count_rows(run, error) : run_rows(run, error);
        set_share(run, sp_now() - start);
    } else if (run->pass == SP_APPLY_COUNTS) {
        status = prepare(run, error);
    } else {
        close_indptr(run);
        *done = true;
    }
    return status;
}

/* --- the answer --- */

static void write_report(sp_apply_job *run, sp_buffer *out)
{
    sp_attention_report *report = &run->report;
    report->attention = run->input.attention;
    report->batch_invariant = run->device->batch_invariant;
    report->device = run->device->kind->name;
    report->measures = run->input.attention.measure ? run->measured : NULL;
    report->n_layers = 1;
    report->n_heads = run->input.n_heads;
    if (run->options.coarse_times) sp_attention_phase_coarsen(&report->prefill);
    sp_json_writer writer;
    sp_json_writer_init(&writer, out);
    sp_attention_report_write(report, &writer);
}

static void write_metrics(const sp_apply_job *run, sp_buffer *out)
{
    sp_json_writer writer;
    sp_json_writer_init(&writer, out);
    sp_json_open(&writer, '[');
    for (uint32_t h = 0; h < run->input.n_heads; h++) {
        sp_json_open(&writer, '{');
        sp_measure_write(&run->measured[h], &writer);
        sp_json_close(&writer, '}');
    }
    sp_json_close(&writer, ']');
}

static sp_tensor_entry entry(const char *name, sp_dtype dtype, const void *data, uint32_t rank, size_t a,
                             size_t b, size_t c)
{
    sp_tensor tensor = {.dtype = dtype, .rank = rank, .shape = {a, b, c}, .data = data};
    tensor.bytes = sp_tensor_count(&tensor) * sp_dtype_size(dtype);
    return (sp_tensor_entry){.name = name, .tensor = tensor};
}

sp_status sp_apply_finish(sp_apply_job *run, sp_buffer *out, sp_error *error)
{
    const sp_apply_case *input = &run->input;
    size_t heads = input->n_heads, n = input->n;
    const sp_tensor_entry entries[] = {entry("out", SP_F32, run->out, 3, heads, n, input->value_dim),
                                       entry("indptr", SP_U32, run->indptr, 2, heads, n + 1, 0),
                                       entry("edge_base", SP_U32, run->edge_base, 1, heads, 0, 0),
                                       entry("indices", SP_U32, run->indices, 1, (size_t)run->n_edges, 0, 0),
                                       entry("weights", SP_F32, run->weights, 1, (size_t)run->n_edges, 0, 0)};
    sp_buffer report, metrics;
    sp_buffer_init(&report, (size_t)64 << 20);
    sp_buffer_init(&metrics, (size_t)64 << 20);
    write_report(run, &report);
    if (run->options.metrics) write_metrics(run, &metrics);
    sp_status status = SP_OK;
    if (report.failed || metrics.failed) {
        status = sp_fail(error, SP_NO_MEMORY, "out of memory for the report of %zu heads", heads);
    } else {
        const sp_metadata_entry metadata[] = {
            {.key = "report", .value = report.data, .size = report.size},
            {.key = "metrics", .value = metrics.data, .size = metrics.size}};
        status = sp_safetensors_write(entries, input->wants_edges ? 5 : 1, metadata,
                                      run->options.metrics ? 2 : 1, out, error);
    }
    sp_buffer_fini(&report);
    sp_buffer_fini(&metrics);
    return status;
}

/* --- opening --- */

sp_status sp_apply_open(sp_device *device, const char *name, const void *in, size_t in_size,
                        const sp_apply_options *options, sp_apply_job **out, sp_error *error)
{
    sp_apply_job *run = sp_alloc_zero(1, sizeof *run);
    *out = NULL;
    if (!run) return sp_fail(error, SP_NO_MEMORY, "out of memory");
    run->device = device;
    run->options = *options;
    run->share[0] = run->share[1] = options->step_seconds > 0 ? FIRST_SHARE : 1;
    sp_plan_init(&run->plan, answer_limit(options) + SP_APPLY_PLAN_BYTES);
    sp_status status = sp_apply_case_open(name, in, in_size, &run->input, error);
    if (!status && options->metrics && sp_is_softmax(run->input.attention.normalizer)) {
        status =
            sp_fail_param(error, SP_DATA, "metrics",
                          "metrics need zeros: softmax gives every key weight; use an entmax normalizer");
    }
    if (!status) status = sp_apply_predictor_open(&run->predictor, &run->input, options->fit, error);
    run->measures = options->metrics || run->input.attention.measure;
    run->totals = status ? NULL : sp_alloc_zero(run->input.n_heads, sizeof *run->totals);
    if (!status && !run->totals) status = sp_fail(error, SP_NO_MEMORY, "out of memory");
    if (status)
        sp_apply_close(run);
    else
        *out = run;
    return status;
}

sp_status sp_apply(sp_device *device, const char *name, const void *in, size_t in_size,
                   const sp_apply_options *options, sp_buffer *out, sp_error *error)
{
    sp_apply_job *job;
    bool done = false;
    sp_status status = sp_apply_open(device, name, in, in_size, options, &job, error);
    while (!status && !done) status = sp_apply_step(job, &done, error);
    if (!status) status = sp_apply_finish(job, out, error);
    sp_apply_close(job);
    return status;
}
