/* Bytes as adapter_config.json: what is accepted is within its ranges, a refusal names file and key.
 * Corpus: tests/support/make_model_corpus.py. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "models/adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_config *config;
    sp_adapter_settings settings;
    sp_error error = {0};
    if (sp_config_parse("adapter_config.json", (const char *)data, size, &config, &error) != SP_OK) return 0;
    sp_status status = sp_adapter_read_settings(config, &settings, &error);
    if (status == SP_OK) {
        assert(settings.rank >= 1 && settings.rank <= SP_MAX_ADAPTER_RANK && isfinite(settings.scale));
        assert(!settings.has_normalizer ||
               (settings.normalizer.alpha >= 1 && settings.normalizer.alpha <= 2));
        assert(settings.n_targets >= 1 &&
               settings.n_targets <= sizeof settings.targets / sizeof *settings.targets);
        for (size_t i = 0; i < settings.n_targets; i++) assert(settings.targets[i]);
    } else {
        assert(status == SP_DATA && strstr(error.message, "adapter_config.json"));
    }
    sp_config_close(config);
    return 0;
}
