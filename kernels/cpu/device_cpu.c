/* The CPU device: its table of ops, its slots a level, open and close. It owns the worker pool and the state,
 * with the scratch for packed activations. Tests: tests/unit/kernels/test_device.c */
#include "kernels/cpu/cpu.h"

#include <pthread.h>

static const sp_ops cpu_ops = {
    .pack = sp_cpu_pack,
    .linear = sp_cpu_linear,
    .linear_many = sp_cpu_linear_many,
    .widen_row = sp_cpu_widen_row,
    .rms_norm = sp_cpu_rms_norm,
    .layer_norm = sp_cpu_layer_norm,
    .rope = sp_cpu_rope,
    .silu_mul = sp_cpu_silu_mul,
    .gelu = sp_cpu_gelu,
    .add = sp_cpu_add,
    .add_bias = sp_cpu_add_bias,
    .to_bf16 = sp_cpu_to_bf16,
    .attend = sp_cpu_attend,
    .attend_many = sp_cpu_attend_many,
    .row_weights = sp_cpu_row_weights,
    .project = sp_cpu_project,
    .store_codes = sp_cpu_store_codes,
    .scan_mask = sp_cpu_scan_mask,
    .scan_top = sp_cpu_scan_top,
    .assign = sp_cpu_assign,
    .match_ids = sp_cpu_match_ids,
    .read_sets = sp_cpu_read_sets,
    .list_set = sp_cpu_list_set,
};

/* The same, linear layers by OpenBLAS. */
static const sp_ops openblas_ops = {
    .pack = sp_openblas_pack,
    .linear = sp_openblas_linear,
    .linear_many = sp_openblas_linear_many,
    .widen_row = sp_openblas_widen_row,
    .rms_norm = sp_cpu_rms_norm,
    .layer_norm = sp_cpu_layer_norm,
    .rope = sp_cpu_rope,
    .silu_mul = sp_cpu_silu_mul,
    .gelu = sp_cpu_gelu,
    .add = sp_cpu_add,
    .add_bias = sp_cpu_add_bias,
    .to_bf16 = sp_cpu_to_bf16,
    .attend = sp_cpu_attend,
    .attend_many = sp_cpu_attend_many,
    .row_weights = sp_cpu_row_weights,
    .project = sp_cpu_project,
    .store_codes = sp_cpu_store_codes,
    .scan_mask = sp_cpu_scan_mask,
    .scan_top = sp_cpu_scan_top,
    .assign = sp_cpu_assign,
    .match_ids = sp_cpu_match_ids,
    .read_sets = sp_cpu_read_sets,
    .list_set = sp_cpu_list_set,
};

static sp_cpu_slots tables[SP_CPU_ISAS];
static pthread_once_t tables_made = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    sp_cpu_slots slots = {0};
    sp_cpu_linear_reference(&slots);
    sp_cpu_quant_reference(&slots);
    sp_cpu_elementwise_reference(&slots);
    sp_cpu_logits_reference(&slots);
    sp_cpu_peak_reference(&slots);
    slots.train = &sp_cpu_train_reference;
    tables[SP_CPU_REFERENCE] = slots;
    sp_cpu_linear_avx2(&slots);
    sp_cpu_quant_avx2(&slots);
    sp_cpu_elementwise_avx2(&slots);
    sp_cpu_logits_avx2(&slots);
    sp_cpu_peak_avx2(&slots);
    slots.train = &sp_cpu_train_avx2;
    tables[SP_CPU_AVX2] = slots;
    sp_cpu_linear_avx512(&slots);
    sp_cpu_elementwise_avx512(&slots);
    sp_cpu_logits_avx512(&slots);
    sp_cpu_peak_avx512(&slots);
    slots.train = &sp_cpu_train_avx512;
    tables[SP_CPU_AVX512] = slots;
    sp_cpu_quant_avx512vnni(&slots);
    sp_cpu_peak_avx512vnni(&slots);
    tables[SP_CPU_AVX512VNNI] = slots;
    sp_cpu_linear_avx512bf16(&slots);
    sp_cpu_peak_avx512bf16(&slots);
    tables[SP_CPU_AVX512BF16] = slots;
}

const sp_cpu_slots *sp_cpu_slots_for(sp_cpu_isa level)
{
    pthread_once(&tables_made, make_tables);
    return &tables[level];
}

static void close_cpu(sp_device *device)
{
    sp_cpu_state *state = sp_cpu_of(device);
    if (state) {
        if (state->attend_free) state->attend_free(state->attend);
        if (state->predict_free) state->predict_free(state->predict);
        sp_free(state->lines);
        sp_free(state);
    }
    sp_threads_close(device->threads);
    sp_free(device);
}

sp_status sp_cpu_open_level(const sp_device_options *options, sp_cpu_isa level, sp_device **out,
                            sp_error *error)
{
    *out = NULL;
    if (level > sp_cpu_level()) {
        return sp_fail(error, SP_UNSUPPORTED, "this CPU offers %s at most",
                       sp_cpu_level_name(sp_cpu_level()));
    }
    sp_device *device = sp_alloc_zero(1, sizeof *device);
    sp_cpu_state *state = sp_alloc_zero(1, sizeof *state);
    if (!device || !state) {
        sp_free(device);
        sp_free(state);
        return sp_fail(error, SP_NO_MEMORY, "no memory for the CPU device");
    }
    *state = (sp_cpu_state){.level = level, .slots = sp_cpu_slots_for(level)};
    *device = (sp_device){
        .kind = &sp_cpu_kind,
        .ops = options->openblas ? &openblas_ops : &cpu_ops,
        .level = sp_cpu_level_name(level),
        .has_bf16 = level >= SP_CPU_AVX512BF16,
        .batch_invariant = !options->openblas,
        .attend_scratch = options->attend_scratch ? options->attend_scratch : (size_t)64 << 20,
        .train = sp_cpu_slots_for(level)->train,
        .state = state,
    };
    sp_status status = sp_threads_open(options->n_threads, &device->threads, error);
    if (status != SP_OK) {
        close_cpu(device);
        return status;
    }
    *out = device;
    return SP_OK;
}

static sp_status open_cpu(const sp_device_options *options, sp_device **out, sp_error *error)
{
    sp_cpu_isa level;
    *out = NULL;
    sp_status status = sp_cpu_level_choose(&level, error);
    return status == SP_OK ? sp_cpu_open_level(options, level, out, error) : status;
}

const sp_device_kind sp_cpu_kind = {.name = "cpu", .open = open_cpu, .close = close_cpu};
