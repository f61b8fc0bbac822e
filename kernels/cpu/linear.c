/* Linear layers: packing of weights and activations, and the cut of rows x outputs into tasks.
 *
 * Weights lie in panels of 32 outputs (ops.h). Activations are copied into lines of 64 bytes, block of rows
 * by block of rows (cpu.h): a kernel then reads both as one ascending stream, and any row length avoids cache
 * conflicts. A task is some consecutive row blocks times some consecutive panels. The panels of a task fit in
 * the second-level cache and are used again by every row block; the lines of a row block fit in the first (or
 * stream from the second). Tasks of the same panels are neighbours. Few rows (decode) make tasks of panels
 * only, dealt in parts: each thread reads one run of memory. Matrices over the same rows are one such run of
 * panels.
 *
 * Which row shares a block with which does not change a bit: a kernel keeps one accumulator an output and
 * row. Scratch: pack grows state->lines, so that linear allocates nothing; more rows than it holds go in
 * several rounds. Tests: tests/kernels/test_linear.c, bench: tests/bench/bench_linear.c */
#include "kernels/cpu/cpu.h"

#include <assert.h>

#define LINE_BYTES 64
/* Lines that a round may use, and the panels of a task: half of a small second-level cache. */
#define SCRATCH_BYTES ((size_t)4 << 20)
#define TASK_BYTES ((size_t)320 << 10)
/* Tasks a thread, so that the last ones end together; and bytes worth a task of their own. */
#define TASKS_A_THREAD 12
#define LEAST_BYTES ((size_t)32 << 10)
/* Most of a task of few rows: the last one keeps the others waiting. */
#define FEW_BYTES ((size_t)256 << 10)
/* Up to so many row blocks the weights come from memory faster than they are used up: a task walks panel by
 * panel, and every row block fetches its part of the next panel. */
#define FEW_BLOCKS 8

void sp_matrix_fini(sp_matrix *matrix)
{
    sp_free(matrix->data);
    *matrix = (sp_matrix){0};
}

/* --- weights --- */

static size_t panel_steps(const sp_matrix *w)
{
    return w->dtype == SP_BF16 ? (w->n_in + 1) / 2 : w->n_in;
}
static size_t panel_bytes(const sp_matrix *w)
{
    return panel_steps(w) * SP_PANEL * 4;
}
static size_t panel_count(const sp_matrix *w)
{
    return (w->n_out + SP_PANEL - 1) / SP_PANEL;
}

/* 32-bit steps of one row's lines: bf16 lines hold two k a step. */
static size_t row_steps(const sp_matrix *w)
{
    if (w->dtype == SP_F32) return w->n_in;
    return w->round_rows ? panel_steps(w) : 2 * panel_steps(w);
}

static size_t row_bytes(const sp_matrix *w)
{
    return (row_steps(w) + SP_LINE - 1) / SP_LINE * LINE_BYTES;
}

typedef struct pack_job {
    const sp_tensor *from;
    const sp_matrix *to;
} pack_job;

/* n numbers from element first on, widened, 32 apart. Rows and pieces of rows are whole blocks. */
static void pack_floats(const sp_tensor *from, size_t first, size_t n, float *out)
{
    size_t block = sp_dtype_block(from->dtype), bytes = sp_dtype_block_bytes(from->dtype);
    const uint8_t *in = (const uint8_t *)from->data + first / block * bytes;
    float values[SP_MAX_BLOCK];
    for (size_t k = 0, piece; k < n; k += piece) {
        piece = n - k < SP_MAX_BLOCK ? n - k : SP_MAX_BLOCK;
        sp_convert_to_f32(from->dtype, in + k / block * bytes, values, piece);
        for (size_t i = 0; i < piece; i++) out[(k + i) * SP_PANEL] = values[i];
    }
}

static void pack_panel(void *context, size_t panel, size_t worker)
{
    const pack_job *job = context;
    const sp_matrix *to = job->to;
    (void)worker;
    size_t n_in = to->n_in, first = panel * SP_PANEL;
    size_t width = to->n_out - first < SP_PANEL ? to->n_out - first : SP_PANEL;
    uint8_t *out = (uint8_t *)to->data + panel * panel_bytes(to);
    if (width < SP_PANEL || (to->dtype == SP_BF16 && n_in % 2)) memset(out, 0, panel_bytes(to));
    for (size_t o = 0; o < width; o++) {
        size_t row = (first + o) * n_in;
        if (to->dtype == SP_BF16) {
            const uint16_t *in = (const uint16_t *)job->from->data + row;
            uint16_t *pairs = (uint16_t *)out + 2 * o;
            for (size_t k = 0; k < n_in; k++) pairs[k / 2 * SP_PANEL * 2 + k % 2] = in[k];
        } else {
            pack_floats(job->from, row, n_in, (float *)out + o);
        }
    }
}

sp_status sp_cpu_reserve_lines(sp_cpu_state *state, size_t bytes, sp_error *error)
{
    if (bytes < SCRATCH_BYTES) bytes = SCRATCH_BYTES;
    if (bytes <= state->line_bytes) return SP_OK;
    void *lines = sp_alloc(bytes, 1);
    if (!lines)
        return sp_fail(error, SP_NO_MEMORY, "no memory for rows of %zu bytes", bytes / SP_MAX_ROW_BLOCK);
    sp_free(state->lines);
    state->lines = lines;
    state->line_bytes = bytes;
    return SP_OK;
}

sp_status sp_cpu_pack(sp_device *device, const sp_tensor *w, bool round_rows, sp_matrix *out, sp_error *error)
{
    *out = (sp_matrix){0};
    if (w->dtype != SP_F32 && w->dtype != SP_F16 && w->dtype != SP_BF16 && !sp_dtype_is_block(w->dtype)) {
        return sp_fail(error, SP_DATA, "weights of type %s are not supported", sp_dtype_name(w->dtype));
    }
    if (w->rank != 2 || w->shape[0] == 0 || w->shape[1] == 0) {
        return sp_fail(error, SP_DATA, "a weight matrix must have two dimensions, none of them 0");
    }
    sp_matrix matrix = {.n_out = w->shape[0], .n_in = w->shape[1]};
    matrix.dtype = w->dtype == SP_BF16 ? SP_BF16 : SP_F32;
    matrix.round_rows = round_rows && matrix.dtype == SP_BF16 && sp_cpu_of(device)->slots->block_dot;
    size_t row, bytes, padded;
    if (matrix.n_in > SIZE_MAX / 1024 || matrix.n_out > SIZE_MAX / 2 ||
        !sp_mul_size(panel_count(&matrix), panel_bytes(&matrix), &padded) ||
        !sp_dtype_bytes(w->dtype, matrix.n_in, &row) || !sp_mul_size(matrix.n_out, row, &bytes) ||
        w->bytes < bytes) {
        return sp_fail(error, SP_DATA, "a weight matrix of %zu x %zu does not fit its data", matrix.n_out,
                       matrix.n_in);
    }
    if (sp_dtype_is_block(w->dtype) && round_rows) return sp_quant_pack(device, w, out, error);
    sp_status status = sp_cpu_reserve_lines(sp_cpu_of(device), row_bytes(&matrix) * SP_MAX_ROW_BLOCK, error);
    if (status != SP_OK) return status;
    matrix.data = sp_alloc(padded, 1);
    matrix.bytes = padded;
    if (!matrix.data) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu bytes of weights", padded);
    pack_job job = {.from = w, .to = &matrix};
    sp_threads_run(device->threads, panel_count(&matrix), pack_panel, &job);
    *out = matrix;
    return SP_OK;
}

/* --- activations --- */

/* One of the matrices that share rows. */
typedef struct target {
    const sp_matrix *w;
    float *y; /* of this round's first row */
    size_t panels;
} target;

typedef struct linear_job {
    const sp_cpu_slots *slots;
    sp_threads *threads;
    target targets[SP_LINEAR_MOST];
    size_t panels; /* of all of them, counted on from one to the next */
    const float *x;
    uint8_t *lines;
    size_t rows, blocks;        /* of this round */
    size_t task_blocks, chunks; /* row blocks a task, tasks side by side over rows */
    size_t task_panels, n_tasks;
} linear_job;

/* First row of a block; blocks differ by one row at most. */
static size_t block_begin(const linear_job *job, size_t block)
{
    size_t each = job->rows / job->blocks, more = job->rows % job->blocks;
    return block * each + (block < more ? block : more);
}

static void pack_lines(const linear_job *job, size_t block)
{
    const sp_matrix *w = job->targets[0].w; /* rows of the others are the same */
    size_t begin = block_begin(job, block), rows = block_begin(job, block + 1) - begin;
    uint8_t *out = job->lines + begin * row_bytes(w);
    for (size_t row = 0; row < rows; row++) {
        const float *x = job->x + (begin + row) * w->n_in;
        uint8_t *line = out + row * LINE_BYTES;
        if (w->round_rows) {
            job->slots->pack_dot(w->n_in, x, line, rows * LINE_BYTES);
            continue;
        }
        size_t k = 0;
        for (; k + SP_LINE <= w->n_in; k += SP_LINE, line += rows * LINE_BYTES)
            memcpy(line, x + k, LINE_BYTES);
        if (k == w->n_in) continue;
        memset(line, 0, LINE_BYTES);
        memcpy(line, x + k, (w->n_in - k) * sizeof *x);
    }
}

static void pack_lines_task(void *context, size_t task, size_t worker)
{
    (void)worker;
    pack_lines(context, task);
}

/* --- products --- */

/* Row blocks first..last - 1 times some panels of one matrix. */
static void multiply(const linear_job *job, size_t first, size_t last, const target *to, size_t panel,
                     size_t panels, size_t ahead_lines)
{
    const sp_matrix *w = to->w;
    size_t width = w->n_out - panel * SP_PANEL, bytes = panel_bytes(w);
    sp_cpu_block block = {.steps = panel_steps(w),
                          .panels = panels,
                          .width = width < panels * SP_PANEL ? width : panels * SP_PANEL,
                          .stride = w->n_out,
                          .weights = (const uint8_t *)w->data + panel * bytes,
                          .ahead_lines = ahead_lines};
    block.ahead = (const uint8_t *)block.weights + panels * bytes;
    if (panel + panels == to->panels) block.ahead_lines = 0;
    for (size_t i = first; i < last; i++) {
        size_t row = block_begin(job, i);
        block.rows = block_begin(job, i + 1) - row;
        block.lines = job->lines + row * row_bytes(w);
        block.y = to->y + row * w->n_out + panel * SP_PANEL;
        if (w->dtype == SP_F32) {
            job->slots->block_f32(&block);
        } else if (w->round_rows) {
            job->slots->block_dot(&block);
        } else {
            job->slots->block_bf16(&block);
        }
        block.ahead += (block.steps + SP_LINE - 1) / SP_LINE * ahead_lines * LINE_BYTES;
    }
}

static void linear_task(void *context, size_t task, size_t worker)
{
    const linear_job *job = context;
    (void)worker;
    size_t panel = task / job->chunks * job->task_panels, first = task % job->chunks * job->task_blocks;
    size_t left = job->panels - panel < job->task_panels ? job->panels - panel : job->task_panels;
    size_t last = job->blocks - first < job->task_blocks ? job->blocks : first + job->task_blocks;
    bool ahead = job->rows >= job->slots->ahead_rows && job->blocks <= FEW_BLOCKS;
    size_t lines = (SP_LINE * SP_PANEL * 4 / LINE_BYTES + last - first - 1) / (last - first);
    const target *to = job->targets;
    for (; panel >= to->panels; to++) panel -= to->panels;
    for (size_t n; left > 0; left -= n) {
        n = to->panels - panel < left ? to->panels - panel : left;
        if (ahead) n = 1;
        multiply(job, first, last, to, panel, n, ahead ? lines : 0);
        panel += n;
        if (panel == to->panels) to++, panel = 0;
    }
}

/* Cuts blocks x panels into tasks. */
static void cut(linear_job *job)
{
    size_t threads = sp_threads_count(job->threads);
    size_t panels = job->panels, bytes = panel_bytes(job->targets[0].w), wanted = threads * TASKS_A_THREAD;
    bool few = job->blocks <= FEW_BLOCKS;
    size_t each = few ? panels / wanted : panels * job->blocks / wanted;
    if (!few && each > TASK_BYTES / bytes) each = TASK_BYTES / bytes;
    if (few && each > FEW_BYTES / bytes) each = FEW_BYTES / bytes;
    if (each < LEAST_BYTES / bytes) each = LEAST_BYTES / bytes;
    if (each < 1) each = 1;
    size_t groups = (panels + each - 1) / each;
    job->task_panels = (panels + groups - 1) / groups;
    groups = (panels + job->task_panels - 1) / job->task_panels;
    size_t chunks = few ? 2 * threads / groups : (wanted + groups - 1) / groups;
    if (chunks < 1) chunks = 1;
    if (chunks > job->blocks) chunks = job->blocks;
    job->task_blocks = (job->blocks + chunks - 1) / chunks;
    job->chunks = (job->blocks + job->task_blocks - 1) / job->task_blocks;
    job->n_tasks = groups * job->chunks;
}

void sp_cpu_widen_row(const sp_matrix *w, size_t row, float *out)
{
    if (sp_dtype_is_block(w->dtype)) {
        sp_quant_widen_row(w, row, out);
        return;
    }
    const uint8_t *panel = (const uint8_t *)w->data + row / SP_PANEL * panel_bytes(w);
    size_t o = row % SP_PANEL;
    for (size_t k = 0; k < w->n_in; k++) {
        if (w->dtype == SP_BF16)
            out[k] = sp_bf16_to_f32(((const uint16_t *)panel)[(k / 2 * SP_PANEL + o) * 2 + k % 2]);
        else
            out[k] = ((const float *)panel)[k * SP_PANEL + o];
    }
}

/* One round: job->rows rows. */
static void run_round(linear_job *job)
{
    job->blocks = (job->rows + job->slots->row_block - 1) / job->slots->row_block;
    cut(job);
    if (job->rows * row_bytes(job->targets[0].w) <= LEAST_BYTES) {
        for (size_t i = 0; i < job->blocks; i++) pack_lines(job, i);
    } else {
        sp_threads_run(job->threads, job->blocks, pack_lines_task, job);
    }
    if (job->blocks <= FEW_BLOCKS)
        sp_threads_run_parts(job->threads, job->n_tasks, linear_task, job);
    else
        sp_threads_run(job->threads, job->n_tasks, linear_task, job);
}

/* Matrices whose rows are packed alike. */
static void linear_alike(sp_device *device, size_t n, const sp_matrix *const *w, size_t rows, const float *x,
                         float *const *y)
{
    sp_cpu_state *state = sp_cpu_of(device);
    size_t most = state->line_bytes / row_bytes(w[0]);
    assert(most >= SP_MAX_ROW_BLOCK);
    linear_job job = {.slots = state->slots, .threads = device->threads, .lines = state->lines};
    for (size_t i = 0; i < n; i++) {
        job.targets[i] = (target){.w = w[i], .panels = panel_count(w[i])};
        job.panels += job.targets[i].panels;
    }
    for (size_t done = 0; done < rows; done += job.rows) {
        job.rows = rows - done < most ? rows - done : most;
        job.x = x + done * w[0]->n_in;
        for (size_t i = 0; i < n; i++) job.targets[i].y = y[i] + done * w[i]->n_out;
        run_round(&job);
    }
}

static bool same_rows(const sp_matrix *a, const sp_matrix *b)
{
    if (sp_dtype_is_block(a->dtype) && sp_dtype_is_block(b->dtype)) return sp_quant_same_rows(a, b);
    return a->dtype == b->dtype && a->round_rows == b->round_rows;
}

void sp_cpu_linear_many(sp_device *device, size_t n, const sp_matrix *const *w, size_t rows, const float *x,
                        float *const *y)
{
    assert(n <= SP_LINEAR_MOST);
    for (size_t first = 0, last; first < n; first = last) {
        for (last = first + 1; last < n && same_rows(w[first], w[last]);) last++;
        if (sp_dtype_is_block(w[first]->dtype))
            sp_quant_linear(device, last - first, w + first, rows, x, y + first);
        else
            linear_alike(device, last - first, w + first, rows, x, y + first);
    }
}

void sp_cpu_linear(sp_device *device, const sp_matrix *w, size_t rows, const float *x, float *y)
{
    sp_cpu_linear_many(device, 1, &w, rows, x, &y);
}
