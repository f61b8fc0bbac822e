/* Linear layers of block types: packing of weights, and the cut of rows x panels into tasks. Forms, formulas
 * and layouts: quant.h.
 *
 * A task is some row blocks times some panels. It takes a panel apart chunk by chunk of at most 1,024 k, a
 * byte a number and a float a scale in the caches, and every row block of the task uses a chunk before the
 * next is made; sums wait in y meanwhile, as float32 as in a register. So one product serves all types, and
 * memory is read once, ascending; rows that use a chunk fetch the next. Up to a few row blocks (decoding)
 * skip the copy where the level can take numbers apart in registers; threads then have parts of their own, of
 * all matrices over the same rows, and fetch what comes next in theirs. Scratch as in linear.c. Tests:
 * tests/kernels/test_linear_quant.c, bench: tests/bench/bench_linear.c */
#include "kernels/cpu/cpu.h"

#include <assert.h>

#define TASKS_A_THREAD 12
#define LEAST_BYTES ((size_t)32 << 10) /* of packed rows, worth the other threads */
#define FEW_BYTES ((size_t)64 << 10)   /* of weights, most of a task of few rows: what others wait for last */
#define ROW_BYTES ((size_t)256 << 10)  /* of packed rows, most of a task */
#define FEW_BLOCKS 8
/* Up to so many row blocks take numbers apart each for itself, in registers. */
#define PACKED_BLOCKS 4

#define FORM(bits_, block_, group_, mins_, small_, offset_, bytes_)                                          \
    {                                                                                                        \
        .bits = bits_, .block = block_, .group = group_, .mins = mins_, .small = small_, .offset = offset_,  \
        .bytes = bytes_                                                                                      \
    }
static const sp_quant_form forms[SP_DTYPES - SP_Q8_0] = {
    [SP_Q8_0 - SP_Q8_0] = FORM(8, 32, 32, false, false, 128, 1024 + 64),
    [SP_Q4_0 - SP_Q8_0] = FORM(4, 32, 32, false, false, 8, 512 + 64),
    [SP_Q4_1 - SP_Q8_0] = FORM(4, 32, 32, true, false, 0, 512 + 128),
    [SP_Q5_0 - SP_Q8_0] = FORM(5, 32, 32, false, false, 16, 640 + 64),
    [SP_Q5_1 - SP_Q8_0] = FORM(5, 32, 32, true, false, 0, 640 + 128),
    [SP_Q4_K - SP_Q8_0] = FORM(4, 256, 32, true, true, 0, 8 * 512 + 128 + 512),
    [SP_Q5_K - SP_Q8_0] = FORM(5, 256, 32, true, true, 0, 8 * 640 + 128 + 512),
    [SP_Q6_K - SP_Q8_0] = FORM(6, 256, 16, false, true, 32, 8 * 768 + 64 + 512),
};

const sp_quant_form *sp_quant_form_of(sp_dtype dtype)
{
    assert(sp_dtype_is_block(dtype));
    return &forms[dtype - SP_Q8_0];
}

static size_t panel_bytes(const sp_matrix *w)
{
    const sp_quant_form *form = sp_quant_form_of(w->dtype);
    return w->n_in / form->block * form->bytes;
}

static size_t panel_count(const sp_matrix *w)
{
    return (w->n_out + SP_PANEL - 1) / SP_PANEL;
}

static size_t row_bytes(const sp_matrix *w)
{
    const sp_quant_form *form = sp_quant_form_of(w->dtype);
    return w->n_in + w->n_in / SP_QUANT_BLOCK * sizeof(float) + w->n_in / form->group * sizeof(float);
}

/* --- weights --- */

typedef struct pack_job {
    const sp_tensor *from;
    const sp_matrix *to;
} pack_job;

/* 32 numbers of output o into the vectors of quant.h. */
static void pack_numbers(const sp_quant_form *form, const int8_t *q, size_t o, uint8_t *out)
{
    for (size_t k = 0; k < SP_QUANT_BLOCK; k++) {
        size_t j = k / 4 * 2 + o / 16, i = o % 16 * 4 + k % 4;
        uint32_t u = (uint32_t)(q[k] + form->offset);
        if (form->bits == 8) {
            out[j * 64 + i] = (uint8_t)u;
            continue;
        }
        out[j / 2 * 64 + i] |= (uint8_t)((u & 15) << 4 * (j % 2));
        if (form->bits == 5) out[512 + j / 8 * 64 + i] |= (uint8_t)(u >> 4 << j % 8);
        if (form->bits == 6) out[512 + j / 4 * 64 + i] |= (uint8_t)(u >> 4 << 2 * (j % 4));
    }
}

static void put_half(uint8_t *to, size_t index, uint16_t half)
{
    memcpy(to + index * sizeof half, &half, sizeof half);
}

static void pack_block(const sp_quant_form *form, const sp_block *from, size_t o, uint8_t *out)
{
    for (size_t step = 0; step < form->block / SP_QUANT_BLOCK; step++)
        pack_numbers(form, from->q + step * SP_QUANT_BLOCK, o, out + step * sp_quant_step_bytes(form));
    put_half(out + sp_quant_scales_at(form), o, from->scale);
    if (form->mins) put_half(out + sp_quant_scales_at(form) + 64, o, from->min);
    if (!form->small) return;
    uint8_t *small = out + sp_quant_small_at(form);
    for (size_t g = 0; g < form->block / form->group; g++) small[g * SP_PANEL + o] = (uint8_t)from->scales[g];
    small += form->block / form->group * SP_PANEL;
    for (size_t g = 0; form->mins && g < form->block / 32; g++)
        small[g * SP_PANEL + o] = (uint8_t)from->mins[g];
}

static void pack_panel(void *context, size_t panel, size_t worker)
{
    const pack_job *job = context;
    const sp_matrix *to = job->to;
    const sp_quant_form *form = sp_quant_form_of(to->dtype);
    (void)worker;
    size_t first = panel * SP_PANEL, blocks = to->n_in / form->block, bytes = sp_dtype_block_bytes(to->dtype);
    size_t width = to->n_out - first < SP_PANEL ? to->n_out - first : SP_PANEL;
    uint8_t *out = (uint8_t *)to->data + panel * panel_bytes(to);
    memset(out, 0, panel_bytes(to));
    for (size_t b = 0; b < blocks; b++) {
        for (size_t o = 0; o < width; o++) {
            sp_block block;
            const uint8_t *in = (const uint8_t *)job->from->data + ((first + o) * blocks + b) * bytes;
            sp_block_unpack(to->dtype, in, &block);
            pack_block(form, &block, o, out + b * form->bytes);
        }
    }
}

sp_status sp_quant_pack(sp_device *device, const sp_tensor *w, sp_matrix *out, sp_error *error)
{
    sp_matrix matrix = {.n_out = w->shape[0], .n_in = w->shape[1], .dtype = w->dtype, .round_rows = true};
    if (!sp_mul_size(panel_count(&matrix), panel_bytes(&matrix), &matrix.bytes))
        return sp_fail(error, SP_NO_MEMORY, "no memory for %zu x %zu weights", matrix.n_out, matrix.n_in);
    sp_status status = sp_cpu_reserve_lines(sp_cpu_of(device), row_bytes(&matrix) * SP_MAX_ROW_BLOCK, error);
    if (status != SP_OK) return status;
    matrix.data = sp_alloc(matrix.bytes, 1);
    if (!matrix.data) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu bytes of weights", matrix.bytes);
    pack_job job = {.from = w, .to = &matrix};
    sp_threads_run(device->threads, panel_count(&matrix), pack_panel, &job);
    *out = matrix;
    return SP_OK;
}

static float half_at(const uint8_t *from, size_t index)
{
    uint16_t half;
    memcpy(&half, from + index * sizeof half, sizeof half);
    return sp_f16_to_f32(half);
}

/* Number k % 32 of an output, out of the vectors of its 32 k. */
static int32_t number_at(const sp_quant_form *form, const uint8_t *step, size_t k, size_t o)
{
    size_t j = k / 4 * 2 + o / 16, i = o % 16 * 4 + k % 4;
    if (form->bits == 8) return step[j * 64 + i];
    int32_t u = step[j / 2 * 64 + i] >> 4 * (j % 2) & 15;
    if (form->bits == 5) u |= (step[512 + j / 8 * 64 + i] >> j % 8 & 1) << 4;
    if (form->bits == 6) u |= (step[512 + j / 4 * 64 + i] >> 2 * (j % 4) & 3) << 4;
    return u;
}

void sp_quant_widen_row(const sp_matrix *w, size_t row, float *out)
{
    const sp_quant_form *form = sp_quant_form_of(w->dtype);
    const uint8_t *panel = (const uint8_t *)w->data + row / SP_PANEL * panel_bytes(w);
    size_t o = row % SP_PANEL, groups = form->block / form->group;
    for (size_t k = 0; k < w->n_in; k++) {
        const uint8_t *block = panel + k / form->block * form->bytes,
                      *scales = block + sp_quant_scales_at(form);
        const uint8_t *small = block + sp_quant_small_at(form);
        size_t within = k % form->block;
        const uint8_t *step = block + within / SP_QUANT_BLOCK * sp_quant_step_bytes(form);
        float scale = half_at(scales, o), min = form->mins ? half_at(scales + 64, o) : 0;
        if (form->small) scale *= (float)(int8_t)small[within / form->group * SP_PANEL + o];
        if (form->small && form->mins) min *= (float)small[(groups + within / 32) * SP_PANEL + o];
        out[k] = scale * (float)(number_at(form, step, k % SP_QUANT_BLOCK, o) - form->offset) - min;
    }
}

/* --- activations --- */

/* One of the matrices that share rows. */
typedef struct target {
    const sp_matrix *w;
    const sp_quant_form *form;
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
    size_t task_panels, groups; /* panels a task, tasks over panels */
} linear_job;

/* First row of a block; blocks differ by one row at most. */
static size_t block_begin(const linear_job *job, size_t block)
{
    size_t each = job->rows / job->blocks, more = job->rows % job->blocks;
    return block * each + (block < more ? block : more);
}

/* Lines of the row block that begins at row begin, from k on. */
static sp_quant_lines lines_of(const linear_job *job, size_t begin, size_t rows, size_t k)
{
    const target *to = &job->targets[0]; /* rows of the others are the same */
    size_t n_in = to->w->n_in;
    uint8_t *lines = job->lines + begin * row_bytes(to->w);
    float *scales = (float *)(lines + rows * n_in), *last = scales + rows * (n_in / SP_QUANT_BLOCK);
    return (sp_quant_lines){.q = (int8_t *)lines + k * rows,
                            .scales = scales + k / SP_QUANT_BLOCK * rows,
                            .starts = (int32_t *)last + k / to->form->group * rows,
                            .sums = last + k / SP_QUANT_BLOCK * rows};
}

static void pack_lines(void *context, size_t block, size_t worker)
{
    const linear_job *job = context;
    (void)worker;
    size_t begin = block_begin(job, block), rows = block_begin(job, block + 1) - begin;
    size_t n_in = job->targets[0].w->n_in;
    sp_quant_lines to = lines_of(job, begin, rows, 0);
    for (size_t row = 0; row < rows; row++) {
        job->slots->quant_row(job->targets[0].form, rows, n_in, job->x + (begin + row) * n_in, to);
        to.q += SP_QUANT_BLOCK;
        to.scales++, to.starts++, to.sums++;
    }
}

/* --- products --- */

/* Row blocks first..last - 1 times one panel. */
static void multiply(const linear_job *job, size_t first, size_t last, const target *to, size_t panel)
{
    const sp_quant_form *form = to->form;
    const uint8_t *from = (const uint8_t *)to->w->data + panel * panel_bytes(to->w);
    size_t blocks = to->w->n_in / form->block;
    size_t most = SP_QUANT_CHUNK / form->block;
    size_t parts = (blocks + most - 1) / most, width = to->w->n_out - panel * SP_PANEL, done = 0;
    sp_quant_weights weights;
    sp_quant_product product = {
        .form = form, .width = width < SP_PANEL ? width : SP_PANEL, .stride = to->w->n_out, .w = &weights};
    for (size_t part = 0; part < parts; part++) {
        size_t next = blocks * (part + 1) / parts, bytes = (next - done) * form->bytes;
        product.steps = (next - done) * (form->block / SP_QUANT_BLOCK);
        product.first = part == 0;
        product.ahead = from + bytes;
        size_t share = product.steps * (last - first), fetched = 0;
        product.ahead_lines = (bytes / 64 + share - 1) / share;
        job->slots->quant_expand(form, from, product.steps, &weights);
        for (size_t i = first; i < last; i++) {
            size_t row = block_begin(job, i);
            product.rows = block_begin(job, i + 1) - row;
            product.x = lines_of(job, row, product.rows, done * form->block);
            product.y = to->y + row * to->w->n_out + panel * SP_PANEL;
            job->slots->quant_product(&product);
            fetched += product.steps * product.ahead_lines * 64;
            product.ahead = from + bytes + fetched;
            if (fetched >= bytes) product.ahead_lines = 0;
        }
        from += bytes;
        done = next;
    }
}

/* The same for a few row blocks; ahead is the panel that is wanted next, or NULL. */
static void multiply_few(const linear_job *job, size_t first, size_t last, const target *to, size_t panel,
                         const uint8_t *ahead)
{
    size_t bytes = panel_bytes(to->w), width = to->w->n_out - panel * SP_PANEL;
    size_t steps = to->w->n_in / SP_QUANT_BLOCK, share = steps * (last - first);
    sp_quant_few few = {.form = to->form,
                        .blocks = to->w->n_in / to->form->block,
                        .width = width < SP_PANEL ? width : SP_PANEL,
                        .stride = to->w->n_out,
                        .from = (const uint8_t *)to->w->data + panel * bytes,
                        .ahead = ahead,
                        .ahead_lines = ahead ? (bytes / 64 + share - 1) / share : 0};
    for (size_t i = first; i < last; i++) {
        size_t row = block_begin(job, i);
        few.rows = block_begin(job, i + 1) - row;
        few.x = lines_of(job, row, few.rows, 0);
        few.y = to->y + row * to->w->n_out + panel * SP_PANEL;
        job->slots->quant_few(&few);
        if (ahead) few.ahead += steps * few.ahead_lines * 64;
    }
}

static void linear_task(void *context, size_t task, size_t worker)
{
    const linear_job *job = context;
    (void)worker;
    size_t panel = task % job->groups * job->task_panels, first = task / job->groups * job->task_blocks;
    size_t left = job->panels - panel < job->task_panels ? job->panels - panel : job->task_panels;
    size_t last = job->blocks - first < job->task_blocks ? job->blocks : first + job->task_blocks;
    bool few = job->slots->quant_few && last - first <= PACKED_BLOCKS;
    bool ends = sp_threads_ends_part(job->threads, job->groups * job->chunks, task);
    const target *to = job->targets, *end = to + SP_LINEAR_MOST;
    for (; panel >= to->panels; to++) panel -= to->panels;
    for (; left > 0; left--) {
        const target *now = to;
        size_t at = panel++;
        if (panel == to->panels) to++, panel = 0;
        const uint8_t *ahead = NULL;
        if (to < end && to->w && (left > 1 || !ends))
            ahead = (const uint8_t *)to->w->data + panel * panel_bytes(to->w);
        if (few)
            multiply_few(job, first, last, now, at, ahead);
        else
            multiply(job, first, last, now, at);
    }
}

/* Cuts blocks x panels into tasks; returns their number. */
static size_t cut(linear_job *job)
{
    size_t panels = job->panels, wanted = sp_threads_count(job->threads) * TASKS_A_THREAD;
    size_t bytes = panel_bytes(job->targets[0].w), row = row_bytes(job->targets[0].w);
    bool few = job->blocks <= FEW_BLOCKS;
    job->task_blocks = ROW_BYTES / (row * job->slots->quant_rows);
    if (job->task_blocks < 1) job->task_blocks = 1;
    if (few) job->task_blocks = job->blocks;
    size_t chunks = (job->blocks + job->task_blocks - 1) / job->task_blocks;
    size_t each = panels * chunks / wanted;
    if (few && each > FEW_BYTES / bytes) each = FEW_BYTES / bytes;
    if (each < 1) each = 1;
    if (each > panels) each = panels;
    if (!few && panels * chunks < wanted) chunks = (wanted + panels - 1) / panels;
    if (chunks > job->blocks) chunks = job->blocks;
    job->task_blocks = (job->blocks + chunks - 1) / chunks;
    job->chunks = (job->blocks + job->task_blocks - 1) / job->task_blocks;
    job->groups = (panels + each - 1) / each;
    job->task_panels = (panels + job->groups - 1) / job->groups;
    job->groups = (panels + job->task_panels - 1) / job->task_panels;
    return job->groups * job->chunks;
}

bool sp_quant_same_rows(const sp_matrix *a, const sp_matrix *b)
{
    const sp_quant_form *first = sp_quant_form_of(a->dtype), *second = sp_quant_form_of(b->dtype);
    return first->mins == second->mins && first->group == second->group && first->offset == second->offset;
}

/* One round: job->rows rows. */
static void run_round(linear_job *job)
{
    job->blocks = (job->rows + job->slots->quant_rows - 1) / job->slots->quant_rows;
    size_t n_tasks = cut(job);
    if (job->rows * row_bytes(job->targets[0].w) <= LEAST_BYTES) {
        for (size_t i = 0; i < job->blocks; i++) pack_lines(job, i, 0);
    } else {
        sp_threads_run(job->threads, job->blocks, pack_lines, job);
    }
    if (job->blocks <= FEW_BLOCKS)
        sp_threads_run_parts(job->threads, n_tasks, linear_task, job);
    else
        sp_threads_run(job->threads, n_tasks, linear_task, job);
}

void sp_quant_linear(sp_device *device, size_t n, const sp_matrix *const *w, size_t rows, const float *x,
                     float *const *y)
{
    sp_cpu_state *state = sp_cpu_of(device);
    size_t most = state->line_bytes / row_bytes(w[0]);
    assert(most >= SP_MAX_ROW_BLOCK);
    linear_job job = {.slots = state->slots, .threads = device->threads, .lines = state->lines};
    for (size_t i = 0; i < n; i++) {
        size_t panels = panel_count(w[i]);
        job.targets[i] = (target){.w = w[i], .form = sp_quant_form_of(w[i]->dtype), .panels = panels};
        job.panels += panels;
    }
    for (size_t done = 0; done < rows; done += job.rows) {
        job.rows = rows - done < most ? rows - done : most;
        job.x = x + done * w[0]->n_in;
        for (size_t i = 0; i < n; i++) job.targets[i].y = y[i] + done * w[i]->n_out;
        run_round(&job);
    }
}
