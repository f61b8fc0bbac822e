/* See pool_size.h. */
#include "engine/pool_size.h"

#include <stdio.h>

#include "engine/kv.h"

/* Half of what the system calls available; 1 GiB where it does not say. */
static size_t default_kv_bytes(void)
{
    size_t bytes = (size_t)1 << 30;
    unsigned long long kib;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file) return bytes;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) bytes = (size_t)kib * 1024 / 2;
    fclose(file);
    return bytes;
}

sp_status sp_pool_size(const sp_engine_options *options, const sp_model *model, size_t side_bytes,
                       sp_engine_info *out, sp_error *error)
{
    const sp_hparams *hparams = &model->hparams;
    sp_kv_options kv = {.n_layers = hparams->n_layers,
                        .n_kv_heads = hparams->n_kv_heads,
                        .head_dim = hparams->head_dim,
                        .dtype = options->kv_type,
                        .side_bytes = side_bytes};
    size_t page_bytes, budget = options->kv_bytes > 0 ? options->kv_bytes : default_kv_bytes();
    if (!sp_kv_page_bytes(&kv, &page_bytes) || page_bytes > budget)
        return sp_fail_param(
            error, SP_USAGE, "kv-bytes",
            "the KV budget of %zu bytes does not hold one page of %u tokens; raise --kv-bytes", budget,
            SP_PAGE_TOKENS);
    bool beyond = options->beyond && model->rope;
    if (options->context > hparams->context && !beyond)
        return sp_fail_param(error, SP_USAGE, "ctx", "--ctx %u is beyond the model's context of %u",
                             options->context, hparams->context);

    uint64_t held = budget / page_bytes, context = options->context > 0 ? options->context : hparams->context;
    if (options->context == 0 && options->context_enough > 0 && context > options->context_enough)
        context = options->context_enough;
    if (sp_pages_of(context) > held) {
        if (options->context > 0)
            return sp_fail_param(
                error, SP_USAGE, "ctx",
                "--ctx %u needs %llu KV pages of %zu bytes, the KV budget of %zu bytes holds %llu",
                options->context, (unsigned long long)sp_pages_of(context), page_bytes, budget,
                (unsigned long long)held);
        context = held * SP_PAGE_TOKENS;
    }
    uint64_t wanted = sp_pages_of(context) * options->max_sequences;
    if (options->kv_tokens > 0 && wanted > sp_pages_of(options->kv_tokens))
        wanted = sp_pages_of(options->kv_tokens);
    if (wanted > held) wanted = held;
    out->context = (uint32_t)context;
    out->kv_pages = wanted < UINT32_MAX ? (uint32_t)wanted : UINT32_MAX - 1;
    out->page_tokens = SP_PAGE_TOKENS;
    out->kv_bytes = out->kv_pages * page_bytes;
    return SP_OK;
}
